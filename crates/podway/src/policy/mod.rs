//! `podway policy`: what policies let through, and policies from what was let through.
//!
//! Everything is asked of the compiled tables, as a node would have them that had every pod.

mod check;
mod flows;
mod stable;
mod suggest;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use podway_control::{Problems, load};
use podway_intent::{
    Change, Cluster, ClusterPort, Compiled, Name, Pod, PodNetwork, PodPhase, Ports, compile,
};
use podway_tables::{Direction, EndpointId, Judgement};
use podway_wire::Protocol;

pub use self::check::{Cell, Change as CellChange, Place, cells, changes, check};
pub use self::flows::{Flow, parse};
pub use self::suggest::{Subjects, policies, suggest};

/// The node that has every pod.
const EVERYWHERE: &str = "everywhere";

/// Why policies can't be checked or suggested.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The manifests.
    #[error("{}", first(.0))]
    Manifests(Problems),
    /// The flows can't be read.
    #[error("--flows: {path}: {problem}: give what `podway show flows -o json` printed")]
    Flows {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
}

fn first(problems: &Problems) -> String {
    problems.0.first().map_or_else(
        || "the manifests have no objects".to_owned(),
        |first| match problems.0.len() {
            1 => first.to_string(),
            count => format!("{first} (and {} more)", count - 1),
        },
    )
}

/// Who reaches whom in a cluster.
pub struct Reach {
    cluster: Cluster,
    compiled: Compiled,
    ends: Vec<End>,
}

/// A pod as one end of a connection.
#[derive(Clone, Debug)]
pub struct End {
    /// The pod.
    pub name: Name,
    /// Its addresses; on its node's network, the node's.
    pub addresses: Vec<IpAddr>,
    node: Option<Arc<str>>,
    /// `None` on its node's network, where policies don't select it (N14).
    endpoint: Option<EndpointId>,
}

/// What both ends' policies say of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Whether both let it through.
    pub verdict: Verdict,
    /// The rules and isolations that decided, as people read them.
    pub by: Vec<String>,
}

/// Whether a connection goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It does.
    Allow,
    /// It does not.
    Deny,
}

impl Reach {
    /// The cluster that manifests describe.
    pub fn of_manifests(path: &Path) -> Result<Reach, PolicyError> {
        let mut cluster = Cluster::default();
        for change in load(path).map_err(PolicyError::Manifests)? {
            cluster.apply(change);
        }
        Ok(Reach::of_cluster(cluster))
    }

    /// A cluster.
    pub fn of_cluster(cluster: Cluster) -> Reach {
        let mut gathered = cluster.clone();
        for pod in cluster.pods() {
            gathered.apply(Change::Pod(Pod {
                node: Some(EVERYWHERE.into()),
                ..pod.clone()
            }));
        }
        let compiled = compile(&gathered, EVERYWHERE);
        let alive = cluster
            .pods()
            .into_iter()
            .filter(|pod| pod.phase == PodPhase::Alive);
        let ends = alive.map(|pod| End {
            name: pod.name.clone(),
            addresses: pod.addresses.clone(),
            node: pod.node.clone(),
            endpoint: match pod.network {
                PodNetwork::Own => compiled.names.endpoint_of(&pod.name),
                PodNetwork::Host => None,
            },
        });
        Reach {
            ends: ends.collect(),
            compiled,
            cluster,
        }
    }

    /// The living pods, by name.
    pub fn ends(&self) -> &[End] {
        &self.ends
    }

    /// What is said of a connection to a port of `to`, 0 without ports; the addresses are of one family.
    pub fn say(
        &self,
        (from, source): (&End, IpAddr),
        (to, target): (&End, IpAddr),
        protocol: Protocol,
        port: u16,
    ) -> Said {
        let mut said = Said {
            verdict: Verdict::Allow,
            by: Vec::new(),
        };
        // A pod reaches itself, and its node reaches it (N13).
        if from.name == to.name {
            return said;
        }
        let own_node = from.endpoint.is_none() && from.node.is_some() && from.node == to.node;
        let ingress = to.endpoint.filter(|_| !own_node);
        for (end, subject, direction, peer) in [
            (from, from.endpoint, Direction::Egress, target),
            (to, ingress, Direction::Ingress, source),
        ] {
            let Some(id) = subject else {
                continue;
            };
            let policies = &self.compiled.snapshot.policies;
            let rule = |id| self.compiled.names.rule(id).map(ToString::to_string);
            match policies.judge(id, direction, &peer.into(), protocol, port) {
                Judgement::None => {}
                Judgement::Allow(id) => said.by.extend(rule(id)),
                Judgement::Deny(id) => {
                    let isolation = || format!("{} {} isolation", end.name, name_of(direction));
                    let denied = id.and_then(rule).unwrap_or_else(isolation);
                    if said.verdict == Verdict::Allow {
                        said.by.clear();
                    }
                    said.verdict = Verdict::Deny;
                    said.by.push(denied);
                }
            }
        }
        said
    }
}

fn name_of(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

/// Where, by protocol, ports begin that some policy of these clusters may tell from the port before them.
///
/// Between two of them all ports are treated alike, so that one of them speaks for all 65 535.
fn borders(clusters: &[&Cluster]) -> BTreeMap<Protocol, BTreeSet<u16>> {
    let protocols = [Protocol::TCP, Protocol::UDP, Protocol::SCTP];
    let mut borders: BTreeMap<_, _> = protocols.map(|it| (it, BTreeSet::from([1]))).into();
    let mut note = |protocol, first: u16, last: u16| {
        let starts = borders.entry(protocol).or_default();
        starts.insert(first.max(1));
        starts.extend(last.checked_add(1));
    };
    for cluster in clusters {
        for pod in cluster.pods() {
            for port in pod.ports.iter() {
                note(port.protocol, port.port, port.port);
            }
        }
        for policy in cluster.policies() {
            let rules = policy.ingress.iter().chain(&policy.egress).flatten();
            for port in rules.flat_map(|rule| rule.ports.iter().flatten()) {
                if let Ports::Range(first, last) = port.ports {
                    note(port.protocol, first, last);
                }
            }
        }
        for policy in cluster.cluster_policies() {
            let rules = policy.ingress.iter().chain(&policy.egress);
            for port in rules.flat_map(|rule| rule.ports.iter().flatten()) {
                if let ClusterPort::Range(protocol, first, last) = port {
                    note(*protocol, *first, *last);
                }
            }
        }
    }
    borders
}
