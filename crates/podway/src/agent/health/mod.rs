//! How the agent does, and which services have endpoints here, for load balancers and kubelets (S6, S7; KEP-3836).

mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use podway_control::Standing;
use podway_intent::{Cluster, Name, Serving};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub(super) use self::server::{Health, Probe, Probed};
use self::server::{Questions, listen, serve};
use super::Agent;

/// Questions that wait for control at most.
const PROBES: usize = 64;
/// How long a worker may take for a turn.
const TURN: Duration = Duration::from_millis(500);
/// The taint of a node that a cluster autoscaler is about to delete.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// Why nobody can ask how the agent does.
#[derive(Debug, thiserror::Error)]
#[error(
    "health_address: {address}: {problem}: set `health_address` to an address of this node and a free port"
)]
pub struct HealthError {
    address: SocketAddr,
    problem: std::io::Error,
}

/// The ports at which services' health is answered, and the agent's own.
pub(super) struct HealthPorts {
    probes: mpsc::Sender<Probed>,
    services: BTreeMap<u16, (Name, Server)>,
    _agent: Server,
}

/// A listening task, which ends with this value.
struct Server(JoinHandle<()>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl HealthPorts {
    /// Takes the agent's own port, and gives the questions that come to all.
    pub(super) async fn open(
        address: SocketAddr,
    ) -> Result<(HealthPorts, mpsc::Receiver<Probed>), HealthError> {
        let refused = |problem| HealthError { address, problem };
        let listener = listen(address).await.map_err(refused)?;
        let (probes, probed) = mpsc::channel(PROBES);
        let agent = Server(tokio::spawn(serve(
            listener,
            Questions::Agent,
            probes.clone(),
        )));
        let ports = HealthPorts {
            probes,
            services: BTreeMap::new(),
            _agent: agent,
        };
        Ok((ports, probed))
    }

    /// True if [`HealthPorts::follow`] would change nothing.
    pub(super) fn are_of(&self, cluster: &Cluster) -> bool {
        let now = self.services.iter().map(|(port, (name, _))| (port, name));
        now.eq(&wanted(cluster))
    }

    /// Listens at the `healthCheckNodePort` of every service, and says where that is not possible.
    pub(super) async fn follow(&mut self, cluster: &Cluster) -> Vec<String> {
        let wanted = wanted(cluster);
        self.services
            .retain(|port, (service, _)| wanted.get(port) == Some(service));
        let mut problems = Vec::new();
        for (port, service) in wanted {
            if self.services.contains_key(&port) {
                continue;
            }
            match listen((Ipv6Addr::UNSPECIFIED, port).into()).await {
                Ok(listener) => {
                    let questions = Questions::Service(service.clone());
                    let server = Server(tokio::spawn(serve(
                        listener,
                        questions,
                        self.probes.clone(),
                    )));
                    self.services.insert(port, (service, server));
                }
                Err(error) => problems.push(format!(
                    "the health of service {service} is not answered at port {port}: {error}: give it another healthCheckNodePort, or free the port"
                )),
            }
        }
        problems
    }
}

/// The services by their health ports; of two with one port the older one counts.
fn wanted(cluster: &Cluster) -> BTreeMap<u16, Name> {
    let mut services = cluster.services();
    services.sort_by_key(|service| service.created_s);
    let mut wanted = BTreeMap::new();
    for service in services {
        if let Some(port) = service.health_check_port {
            wanted.entry(port).or_insert_with(|| service.name.clone());
        }
    }
    wanted
}

/// The ready endpoints of a service on a node: pods once, whatever their families and ports (S6).
fn ready_endpoints(cluster: &Cluster, service: &Name, node: &str) -> usize {
    let slices = cluster.slices();
    let of_service = slices.iter().filter(|slice| slice.service == *service);
    let local = of_service
        .flat_map(|slice| &slice.endpoints)
        .filter(|it| it.node.as_deref() == Some(node) && it.serving == Serving::Ready);
    let known_by = |it: &podway_intent::Endpoint| match &it.pod {
        Some(pod) => pod.to_string(),
        None => it.address.to_string(),
    };
    local.map(known_by).collect::<BTreeSet<_>>().len()
}

fn is_being_deleted(cluster: &Cluster, node: &str) -> bool {
    let node = cluster.node(node);
    node.is_some_and(|node| node.taints.iter().any(|key| &**key == TO_BE_DELETED))
}

impl Agent {
    /// What is answered to a question about health.
    pub(super) async fn health(&self, probe: Probe) -> Health {
        let mut problems = self.unwell().await;
        match probe {
            Probe::Alive if self.programming.standing() == Standing::Partial => {
                // A new process would know no more: only its workers can be at fault.
                problems.retain(|problem| Some(problem) != self.not_in_force.as_ref());
                health(problems.is_empty(), json!({"problems": problems}))
            }
            Probe::Alive => health(problems.is_empty(), json!({"problems": problems})),
            Probe::Healthy => {
                let stays = !is_being_deleted(&self.cluster, &self.config.node);
                let body = json!({"nodeEligible": stays, "problems": problems});
                health(stays && problems.is_empty(), body)
            }
            Probe::Service(name) => {
                let endpoints = ready_endpoints(&self.cluster, &name, &self.config.node);
                let body = json!({
                    "service": {"namespace": &*name.namespace, "name": &*name.name},
                    "localEndpoints": endpoints,
                    "serviceProxyHealthy": problems.is_empty(),
                });
                health(endpoints > 0 && problems.is_empty(), body)
            }
        }
    }

    /// What keeps the agent from its work: tables that are not in force, workers that don't turn.
    async fn unwell(&self) -> Vec<String> {
        let mut problems = Vec::from_iter(self.not_in_force.clone());
        for (index, worker) in self.workers.iter().enumerate() {
            let turned = tokio::time::timeout(TURN, worker.report()).await;
            if !matches!(turned, Ok(Ok(_))) {
                problems.push(format!("worker {index} does not turn"));
            }
        }
        problems
    }
}

fn health(is_well: bool, body: Value) -> Health {
    match is_well {
        true => Health::Well(body),
        false => Health::Unwell(body),
    }
}

#[cfg(test)]
mod tests {
    use podway_intent::{Change, Endpoint, EndpointSlice, Node};

    use super::*;

    fn name(name: &str) -> Name {
        Name {
            namespace: "shop".into(),
            name: name.into(),
        }
    }

    fn endpoint(address: &str, node: &str, serving: Serving, pod: &str) -> Endpoint {
        Endpoint {
            address: address.parse().expect("address"),
            serving,
            node: Some(node.into()),
            pod: Some(name(pod)),
            zone_hints: Vec::new(),
            node_hints: Vec::new(),
        }
    }

    fn slice(of: &str, place: &str, endpoints: Vec<Endpoint>) -> Change {
        Change::EndpointSlice(EndpointSlice {
            name: name(place),
            service: name(of),
            ports: Vec::new(),
            endpoints,
        })
    }

    #[test]
    fn s6_local_ready_pods_count_once_and_terminating_ones_not() {
        let mut cluster = Cluster::default();
        let ready = Serving::Ready;
        cluster.apply(slice(
            "web",
            "web-4",
            vec![
                endpoint("10.0.1.1", "n1", ready, "a"),
                endpoint("10.0.1.2", "n1", Serving::Terminating, "b"),
                endpoint("10.0.2.1", "n2", ready, "c"),
            ],
        ));
        cluster.apply(slice(
            "web",
            "web-6",
            vec![endpoint("fd00::1", "n1", ready, "a")],
        ));
        cluster.apply(slice(
            "api",
            "api-4",
            vec![endpoint("10.0.1.3", "n1", ready, "d")],
        ));
        let of = |node| ready_endpoints(&cluster, &name("web"), node);
        assert_eq!((of("n1"), of("n2"), of("n3")), (1, 1, 0));
    }

    #[test]
    fn s7_a_node_with_the_autoscalers_taint_is_being_deleted() {
        let mut cluster = Cluster::default();
        let node = |taints: &[&str]| {
            Change::Node(Node {
                name: "n1".into(),
                labels: Default::default(),
                taints: taints.iter().map(|key| (*key).into()).collect(),
                addresses: Vec::new(),
                pod_ranges: Vec::new(),
            })
        };
        cluster.apply(node(&["node.kubernetes.io/unschedulable"]));
        assert!(!is_being_deleted(&cluster, "n1"));
        cluster.apply(node(&[TO_BE_DELETED]));
        assert!(is_being_deleted(&cluster, "n1"));
        assert!(!is_being_deleted(&cluster, "n2"));
    }
}
