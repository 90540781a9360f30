//! Compares what clients see with what the manifests say.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use podway_host::Namespace;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::cluster::{Cluster, Network, Pod, Protocol};
use crate::expect::{Connection, End, Endpoints};
use crate::probe::dial;
use crate::process::{Listener, listeners};
use crate::state::State;
use crate::{Cell, Error, Outcome, Place, Report};

/// How often at once a service is dialled some of whose endpoints are closed: to miss the others each time is unlikely.
const MIXED: usize = 16;

/// How often what should be open is dialled: a server may take one client at a time.
const PATIENT: usize = 3;

/// How long a busy server is left alone.
const PAUSE: Duration = Duration::from_millis(200);

/// A server's address that every client dials.
struct Target<'a> {
    name: String,
    address: IpAddr,
    port: u16,
    protocol: Protocol,
    kind: Kind<'a>,
}

enum Kind<'a> {
    Pod(&'a Pod),
    Service(&'a Service, &'a ServicePort),
}

/// A client and where it is.
struct Source<'a> {
    name: String,
    end: End<'a>,
    namespace: Namespace,
}

pub(crate) fn check(place: &Place) -> Result<Report, Error> {
    let state = State::load(place)?;
    let cluster = Cluster::load(&state.source)?;
    let survey = Survey::new(&cluster, &state)?;
    let targets = survey.targets();
    let sources = sources(&cluster, &state)?;

    let seen = thread::scope(|scope| {
        let dialled = |source| {
            let (survey, targets) = (&survey, &targets);
            scope.spawn(move || survey.dial_all(source, targets))
        };
        let threads: Vec<_> = sources.iter().map(dialled).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("dialling does not panic"))
            .collect()
    });
    let rows: Result<Vec<Vec<Cell>>, Error> = seen;
    let cells: Vec<_> = rows?.into_iter().flatten().collect();
    let wrong = cells
        .iter()
        .filter(|cell| cell.seen != cell.expected)
        .count();
    Ok(Report { cells, wrong })
}

/// All pods with a network of their own, and the nodes.
fn sources<'a>(cluster: &'a Cluster, state: &State) -> Result<Vec<Source<'a>>, Error> {
    let pods = cluster
        .pods
        .iter()
        .filter(|pod| pod.network == Network::Own);
    let pods = pods.filter_map(|pod| {
        let namespace = &state.pods.get(&pod.title())?.namespace;
        Some((pod.title(), End::Pod(pod), namespace))
    });
    let nodes = cluster.nodes.iter().filter_map(|node| {
        let namespace = &state.nodes.get(&node.name)?.namespace;
        Some((format!("node:{}", node.name), End::Node(node), namespace))
    });
    pods.chain(nodes)
        .map(|(name, end, namespace)| {
            Ok(Source {
                name,
                end,
                namespace: Namespace::named(namespace)?,
            })
        })
        .collect()
}

/// The cluster, and what its pods really listen on.
struct Survey<'a> {
    cluster: &'a Cluster,
    listeners: Vec<(&'a Pod, Vec<Listener>)>,
}

impl<'a> Survey<'a> {
    /// Pods that the manifests got after the lab was made are not there.
    fn new(cluster: &'a Cluster, state: &State) -> Result<Self, Error> {
        let mut all = Vec::new();
        for pod in &cluster.pods {
            if let Some(pod_state) = state.pods.get(&pod.title()) {
                all.push((pod, listeners(&Namespace::named(&pod_state.namespace)?)?));
            }
        }
        Ok(Self {
            cluster,
            listeners: all,
        })
    }

    fn targets(&self) -> Vec<Target<'a>> {
        let mut targets = Vec::new();
        for &(pod, _) in &self.listeners {
            for port in pod.ports().filter(|port| is_dialled(pod, port.protocol)) {
                let addresses = pod.addresses.iter();
                targets.extend(addresses.map(|&address| Target {
                    name: pod.title(),
                    address,
                    port: port.number,
                    protocol: port.protocol,
                    kind: Kind::Pod(pod),
                }));
            }
        }
        for service in &self.cluster.services {
            targets.extend(service_targets(service));
        }
        targets
    }

    /// What one client sees of all servers, dialled at once.
    fn dial_all(&self, source: &Source<'_>, targets: &[Target<'_>]) -> Result<Vec<Cell>, Error> {
        let mut cells = Vec::new();
        let mut dials = Vec::new();
        for target in targets {
            let Some((expected, at_once)) = self.expected(source.end, target) else {
                continue;
            };
            dials.push(Dial {
                address: SocketAddr::new(target.address, target.port),
                protocol: target.protocol,
                expected,
                at_once,
            });
            cells.push(Cell {
                from: source.name.clone(),
                to: target.name.clone(),
                address: target.address,
                port: target.port,
                protocol: match target.protocol {
                    Protocol::Tcp => "tcp",
                    Protocol::Udp => "udp",
                    Protocol::Sctp => "sctp",
                },
                expected,
                seen: Outcome::Closed,
            });
        }
        let dial_here = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let runtime = runtime.expect("a runtime needs an epoll and an eventfd");
            runtime.block_on(async {
                let mut dialling = JoinSet::new();
                for (index, dial) in dials.into_iter().enumerate() {
                    dialling.spawn(async move { (index, dial.seen().await) });
                }
                dialling.join_all().await
            })
        };
        for (index, seen) in source.namespace.inside(dial_here)? {
            cells[index].seen = seen;
        }
        Ok(cells)
    }

    /// What the manifests say of a client and a server, and how often to dial at once to see it; `None` if they say nothing.
    fn expected(&self, source: End<'_>, target: &Target<'_>) -> Option<(Outcome, usize)> {
        let (service, port) = match target.kind {
            Kind::Pod(pod) => {
                return Some((
                    self.of_pod(source, pod, target.address, target.protocol, target.port),
                    1,
                ));
            }
            Kind::Service(service, port) => (service, port),
        };
        // Who has no address of the family has no way to ask, and none to be refused.
        if source.address(target.address).is_none() {
            return Some((Outcome::Closed, 1));
        }
        let at = match self
            .cluster
            .endpoints(service, port, target.address, source.node_name())
        {
            Endpoints::At(at) => at,
            Endpoints::Elsewhere => return Some((Outcome::Closed, 1)),
            Endpoints::Nowhere => return Some((Outcome::Refused, 1)),
        };
        let mut outcomes = Vec::new();
        for (address, number) in at {
            // An endpoint outside the lab may answer or not.
            let (pod, _) = self
                .listeners
                .iter()
                .find(|(pod, _)| pod.addresses.contains(&address))?;
            if !is_dialled(pod, target.protocol) {
                return None;
            }
            outcomes.push(self.of_pod(source, pod, address, target.protocol, number));
        }
        let first = *outcomes.first()?;
        match outcomes.iter().all(|&outcome| outcome == first) {
            true => Some((first, 1)),
            false if outcomes.contains(&Outcome::Open) => Some((Outcome::Open, MIXED)),
            false => None,
        }
    }

    fn of_pod(
        &self,
        source: End<'_>,
        target: &Pod,
        address: IpAddr,
        protocol: Protocol,
        port: u16,
    ) -> Outcome {
        let here = |(pod, _): &&(&Pod, Vec<Listener>)| pod.title() == target.title();
        let listeners = self
            .listeners
            .iter()
            .find(here)
            .map(|(_, listeners)| listeners);
        let mut listeners = listeners.into_iter().flatten();
        if !self.cluster.allows(Connection {
            source,
            target,
            address,
            protocol,
            port,
        }) {
            return Outcome::Closed;
        }
        match listeners.any(|listener| listener.takes(protocol, address, port)) {
            true => Outcome::Open,
            false => Outcome::Refused,
        }
    }
}

/// A service's cluster addresses and ports; headless and foreign ones have none that we answer (S17).
fn service_targets(service: &Service) -> Vec<Target<'_>> {
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let namespace = service.metadata.namespace.as_deref().unwrap_or("default");
    let labels = service.metadata.labels.as_ref();
    let foreign =
        labels.is_some_and(|l| l.contains_key("service.kubernetes.io/service-proxy-name"));
    let Some(spec) = service.spec.as_ref().filter(|_| !foreign) else {
        return Vec::new();
    };
    let ips: Vec<_> = match &spec.cluster_ips {
        Some(ips) if !ips.is_empty() => ips.iter().collect(),
        Some(_) | None => spec.cluster_ip.iter().collect(),
    };
    let addresses = ips.into_iter().filter_map(|ip| ip.parse::<IpAddr>().ok());
    let target = |address, port: &'_ ServicePort| {
        let number = u16::try_from(port.port).ok()?;
        let protocol = Protocol::of(port.protocol.as_deref()).filter(|p| *p != Protocol::Sctp)?;
        Some((
            format!("service:{namespace}/{name}"),
            address,
            number,
            protocol,
        ))
    };
    let mut targets = Vec::new();
    for address in addresses {
        for port in spec.ports.iter().flatten() {
            if let Some((name, address, number, protocol)) = target(address, port) {
                let kind = Kind::Service(service, port);
                targets.push(Target {
                    name,
                    address,
                    port: number,
                    protocol,
                    kind,
                });
            }
        }
    }
    targets
}

/// True if a client can tell from outside whether this pod serves: over UDP, only if it echoes.
fn is_dialled(pod: &Pod, protocol: Protocol) -> bool {
    let words = || {
        pod.containers
            .iter()
            .flat_map(|container| &container.command)
    };
    match protocol {
        Protocol::Tcp => true,
        Protocol::Udp => words().any(|word| word == "udp-echo"),
        Protocol::Sctp => false,
    }
}

/// How a client finds out what it sees of a server.
#[derive(Clone, Copy, Debug)]
struct Dial {
    address: SocketAddr,
    protocol: Protocol,
    expected: Outcome,
    at_once: usize,
}

impl Dial {
    async fn seen(self) -> Outcome {
        let mut seen = self.seen_once().await;
        for _ in 1..PATIENT {
            if seen == Outcome::Open || self.expected != Outcome::Open {
                break;
            }
            sleep(PAUSE).await;
            seen = self.seen_once().await;
        }
        seen
    }

    /// Open if one of the attempts is, else what the last one saw.
    async fn seen_once(self) -> Outcome {
        let mut attempts = JoinSet::new();
        for _ in 0..self.at_once {
            attempts.spawn(dial(self.address, self.protocol));
        }
        let mut seen = Outcome::Closed;
        while let Some(outcome) = attempts.join_next().await {
            seen = outcome.expect("dialling does not panic");
            if seen == Outcome::Open {
                break;
            }
        }
        seen
    }
}
