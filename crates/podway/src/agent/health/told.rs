//! What control says of itself and of the cluster, and what is answered from it while control works or waits.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use podway_intent::{Cluster, Name, Serving};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

use super::server::{Health, Probe};
use crate::agent::worker::Turns;

/// How long a worker may take for a turn, and how often it is looked at meanwhile.
const TURN: Duration = Duration::from_millis(500);
const AGAIN: Duration = Duration::from_millis(10);
/// How long control may be at one thing before its agent counts as hung. A call to a kernel that is busy with others' links
/// is given 20 s, and one thing may take several; traffic flows meanwhile, and a restart would have to make the same calls
/// again. Kubelet asks three times, 10 s apart, before it acts.
const ROUND: Duration = Duration::from_secs(90);
/// The taint of a node that a cluster autoscaler is about to delete.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// Whether tables are in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::agent) enum Readiness {
    /// They are.
    Ready,
    /// Not yet, and what they wait for: a new process would come no further.
    NotYet(&'static str),
    /// Not the last ones, and why.
    Failed(String),
}

/// The last that control said.
#[derive(Clone, Debug)]
pub(in crate::agent) struct Told {
    /// Whether tables are in force.
    pub(in crate::agent) readiness: Readiness,
    /// The facts that they are made of.
    pub(in crate::agent) cluster: Cluster,
    /// The workers, once they run.
    pub(in crate::agent) workers: Vec<Turns>,
    /// When control began what it is at.
    pub(in crate::agent) began: Instant,
    /// The same of the hand that reaches into the kernel; `None` while it rests.
    pub(in crate::agent) kernel_began: Option<Instant>,
}

/// Answers questions, without a word to control.
#[derive(Clone)]
pub(super) struct Answers {
    pub(super) told: watch::Receiver<Told>,
    /// This node's name.
    pub(super) node: String,
    pub(super) clock: fn() -> Instant,
}

impl Readiness {
    /// Why they are not.
    pub(in crate::agent) fn problem(&self) -> Option<&str> {
        match self {
            Readiness::Ready => None,
            Readiness::NotYet(reason) => Some(reason),
            Readiness::Failed(reason) => Some(reason),
        }
    }
}

impl Answers {
    /// The answer to a question.
    pub(super) async fn to(&self, probe: Probe) -> Health {
        let workers = self.told.borrow().workers.clone();
        let still = still(&workers).await;
        let told = self.told.borrow().clone();
        let mut problems = Vec::new();
        match (&told.readiness, &probe) {
            (Readiness::NotYet(_), Probe::Alive) | (Readiness::Ready, _) => {}
            (Readiness::NotYet(_), Probe::Healthy | Probe::Service(_))
            | (Readiness::Failed(_), _) => {
                problems.extend(told.readiness.problem().map(str::to_owned));
            }
        }
        let began = told
            .kernel_began
            .map_or(told.began, |it| it.min(told.began));
        problems.extend(hung((self.clock)().saturating_duration_since(began)));
        problems.extend(still.iter().map(|it| format!("worker {it} does not turn")));
        self.health(probe, &told.cluster, &problems)
    }

    fn health(&self, probe: Probe, cluster: &Cluster, problems: &[String]) -> Health {
        match probe {
            Probe::Alive => health(problems.is_empty(), json!({"problems": problems})),
            Probe::Healthy => {
                let stays = !is_being_deleted(cluster, &self.node);
                let body = json!({"nodeEligible": stays, "problems": problems});
                health(stays && problems.is_empty(), body)
            }
            Probe::Service(name) => {
                let endpoints = ready_endpoints(cluster, &name, &self.node);
                let body = json!({
                    "service": {"namespace": &*name.namespace, "name": &*name.name},
                    "localEndpoints": endpoints,
                    "serviceProxyHealthy": problems.is_empty(),
                });
                health(endpoints > 0 && problems.is_empty(), body)
            }
        }
    }
}

/// The workers that take longer than [`TURN`] for a turn.
async fn still(workers: &[Turns]) -> Vec<usize> {
    let marks = workers.iter().map(|worker| (worker, worker.mark()));
    let mut still: Vec<_> = marks.enumerate().collect();
    for _ in 0..TURN.as_millis() / AGAIN.as_millis() {
        if still.is_empty() {
            break;
        }
        sleep(AGAIN).await;
        still.retain(|(_, (worker, mark))| worker.mark() == *mark);
    }
    still.into_iter().map(|(index, _)| index).collect()
}

/// What is wrong with a control that has been at one thing for so long.
fn hung(round: Duration) -> Option<String> {
    let seconds = round.as_secs();
    (round > ROUND).then(|| format!("control has been at one thing for {seconds} s"))
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

fn health(is_well: bool, body: Value) -> Health {
    match is_well {
        true => Health::Well(body),
        false => Health::Unwell(body),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::LazyLock;

    use podway_intent::{Change, Endpoint, EndpointSlice, Node};

    use super::*;

    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

    /// A service with one ready endpoint on n1.
    pub(in crate::agent::health) fn web() -> Name {
        name("web")
    }

    /// What n1 answers when control said this, and has been at one thing for 0, 90 or 91 seconds since.
    pub(in crate::agent::health) fn answers(readiness: Readiness, seconds: u64) -> Answers {
        let mut cluster = Cluster::default();
        let ready = vec![endpoint("10.0.1.1", "n1", Serving::Ready, "a")];
        cluster.apply(slice("web", "web-4", ready));
        let (_, told) = watch::channel(Told {
            readiness,
            cluster,
            workers: Vec::new(),
            began: *BEGAN,
            kernel_began: None,
        });
        let clock: fn() -> Instant = match seconds {
            0 => || *BEGAN,
            90 => || *BEGAN + Duration::from_secs(90),
            91 => || *BEGAN + Duration::from_secs(91),
            other => panic!("no clock for {other} s"),
        };
        let node = "n1".to_owned();
        Answers { told, node, clock }
    }

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

    fn is_well(health: &Health) -> bool {
        match health {
            Health::Well(_) => true,
            Health::Unwell(_) => false,
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_waits_for_facts_is_alive_and_whose_tables_are_refused_is_not() {
        let all = [Probe::Alive, Probe::Healthy, Probe::Service(web())];
        for (readiness, expected) in [
            (Readiness::Ready, [true, true, true]),
            (Readiness::NotYet("wait"), [true, false, false]),
            (Readiness::Failed("no".to_owned()), [false, false, false]),
        ] {
            let answers = answers(readiness.clone(), 0);
            for (probe, expected) in all.iter().zip(expected) {
                let said = answers.to(probe.clone()).await;
                assert_eq!(is_well(&said), expected, "{readiness:?}: {said:?}");
            }
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_worker_that_does_not_turn_is_named() {
        let mut answers = answers(Readiness::Ready, 0);
        let (tell, told) = watch::channel(answers.told.borrow().clone());
        answers.told = told;
        tell.send_modify(|told| told.workers = vec![Turns::default()]);
        let expected = json!({"problems": ["worker 0 does not turn"]});
        assert_eq!(answers.to(Probe::Alive).await, Health::Unwell(expected));
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
