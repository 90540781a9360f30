//! Pods become addresses: each has one owner, which is an endpoint here or behind a peer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use podway_tables::{Endpoint, EndpointId, Hop, PeerId, Slots, Snapshot};
use podway_wire::{Addr, Mac};

use crate::address::{Fitness, fitness};
use crate::ids::{Assigned, Ids};
use crate::round::Round;
use crate::sets::Sets;
use crate::topology::{Outcome, Topology};
use crate::{Cluster, Key, Name, Pod, PodNetwork, PodPhase, Problem};

/// What is remembered of pods from one compilation to the next.
#[derive(Debug, Default)]
pub(crate) struct PodTable {
    claims: Sets<Addr, Claim>,
    /// Addresses that more than one pod, or a node and a pod, have.
    contested: BTreeSet<Addr>,
    refused: BTreeMap<Name, Vec<Addr>>,
    /// The uid and id of each endpoint.
    endpoints: BTreeMap<Name, (Arc<str>, EndpointId)>,
    ids: Ids<Name>,
}

/// That a pod wants an address; the first in order gets it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    evidence: Evidence,
    future: Future,
    pod: Name,
}

/// Whether a pod that claims an address will go on to need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Future {
    Stays,
    Leaves,
}

/// What speaks for a claim, the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Evidence {
    /// Its device is here.
    Attached,
    /// The cluster says so.
    Told,
    /// Its device is here, but the cluster says that it is over: anybody else goes first.
    Ending,
}

impl PodTable {
    /// Brings endpoints and addresses up to date; gives the addresses whose owner or whose owner's labels may differ.
    pub(crate) fn update(
        &mut self,
        round: &Round<'_>,
        topology: &Topology,
        moved: Outcome,
        snapshot: &mut Snapshot,
        names: &mut Slots<Name>,
    ) -> BTreeSet<Addr> {
        let mut pods: BTreeSet<Name> = round.touched.pods.iter().cloned().collect();
        pods.extend(round.touched.attachments.iter().cloned());
        let mut addresses = BTreeSet::new();
        for name in &pods {
            self.claim(round, name, &mut addresses);
        }
        if let Outcome::Moved(before) = &moved {
            addresses.extend(before);
            addresses.extend(topology.addresses());
        }
        for addr in &addresses {
            let claims = self.claims.of(addr);
            let claims: Vec<Name> = claims.map(|claim| claim.pod.clone()).collect();
            let wanted = claims.len() + usize::from(topology.hop(addr).is_some());
            match claims.is_empty() || wanted == 1 {
                true => self.contested.remove(addr),
                false => self.contested.insert(*addr),
            };
            pods.extend(claims);
        }
        for name in &pods {
            self.settle_endpoint(round, topology, name, snapshot, names);
        }
        let routed: Vec<Addr> = match moved {
            Outcome::Same => addresses.iter().copied().collect(),
            Outcome::Moved(_) => addresses
                .iter()
                .chain(self.claims.keys())
                .copied()
                .collect(),
        };
        for addr in routed {
            let hop = self.hop(round, topology, &addr, snapshot);
            let was_known = snapshot.policies.identity(&addr).is_some();
            let before = snapshot.routes.set_address(addr, hop);
            if was_known && self.owner(topology, &addr).is_none() {
                // F18: that a pod goes is a change of the peer that it was behind.
                touch_peer(snapshot, snapshot.routes.hop(&addr), round.sequence);
            }
            if before != hop {
                for hop in before.iter().chain(&hop) {
                    touch_peer(snapshot, *hop, round.sequence);
                }
            }
        }
        addresses
    }

    /// The pod whose address this is; `None` if it is nobody's, or a node's.
    pub(crate) fn owner(&self, topology: &Topology, addr: &Addr) -> Option<&Name> {
        if topology.hop(addr).is_some() {
            return None;
        }
        Some(&self.claims.first(addr)?.pod)
    }

    /// The endpoints and the pods that they are, in the order of names.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = (&Name, EndpointId)> {
        self.endpoints.iter().map(|(name, (_, id))| (name, *id))
    }

    /// The endpoint that a pod is.
    pub(crate) fn endpoint(&self, name: &Name) -> Option<EndpointId> {
        self.endpoints.get(name).map(|(_, id)| *id)
    }

    /// What is wrong with pods.
    pub(crate) fn problems(&self, topology: &Topology) -> impl Iterator<Item = Problem> {
        let contested = self.contested.iter().flat_map(move |addr| {
            let owner = match self.owner(topology, addr) {
                Some(pod) => format!("pod {pod}'s"),
                None => "a node's or gateway's".into(),
            };
            let winners = usize::from(self.owner(topology, addr).is_some());
            let claims = self.claims.of(addr).skip(winners);
            // One that is on its way out may have been followed already.
            let claims = claims.filter(|claim| claim.future == Future::Stays);
            claims.map(move |claim| Problem {
                object: Key::Pod(claim.pod.clone()),
                text: format!("address {addr} is already {owner}; delete one of the two"),
            })
        });
        let refused = self.refused.iter().flat_map(|(pod, addresses)| {
            addresses.iter().map(|addr| Problem {
                object: Key::Pod(pod.clone()),
                text: format!("address {addr} is loopback, link-local, multicast or unspecified and gets no traffic; recreate the pod"),
            })
        });
        contested.chain(refused)
    }

    /// Renews what a pod claims, and notes all addresses that it did or does claim.
    fn claim(&mut self, round: &Round<'_>, name: &Name, addresses: &mut BTreeSet<Addr>) {
        for (addr, claim) in claims(round.before, round.node, name) {
            addresses.insert(addr);
            self.claims.remove(&addr, &claim);
        }
        self.refused.remove(name);
        for (addr, claim) in claims(round.now, round.node, name) {
            if fitness(&addr.ip()) == Fitness::Never {
                self.refused.entry(name.clone()).or_default().push(addr);
                continue;
            }
            addresses.insert(addr);
            self.claims.insert(addr, claim);
        }
    }

    /// Makes, renews or frees the endpoint of a pod.
    fn settle_endpoint(
        &mut self,
        round: &Round<'_>,
        topology: &Topology,
        name: &Name,
        snapshot: &mut Snapshot,
        names: &mut Slots<Name>,
    ) {
        let pod = round.now.pods.get(name);
        let local = pod.filter(|pod| owns_addresses(pod) && pod.node.as_ref() == Some(round.node));
        let addresses: Vec<Addr> = local
            .iter()
            .flat_map(|pod| addresses(round.now, round.node, pod))
            .map(|ip| Addr::from(*ip))
            .filter(|addr| self.owner(topology, addr) == Some(name) || is_ending(local))
            .collect();
        let uid = local.filter(|_| !addresses.is_empty()).map(|pod| &pod.uid);
        if let Some((before, id)) = self.endpoints.get(name).cloned()
            && uid != Some(&before)
        {
            snapshot.endpoints[id.0 as usize] = None;
            names.set(id.0, None);
            self.endpoints.remove(name);
            self.ids.release(name);
        }
        let Some(uid) = uid else {
            return;
        };
        let (id, assigned) = self.ids.assign(name);
        self.endpoints
            .insert(name.clone(), (uid.clone(), EndpointId(id)));
        if names.get(id) != Some(name) {
            names.set(id, Some(name.clone()));
        }
        let attachment = round.now.attachments.get(name);
        let endpoint = Endpoint {
            port: attachment.map(|attachment| attachment.port),
            mac: attachment.map_or(Mac::default(), |attachment| attachment.mac),
            addresses,
            mtu: attachment.map_or(0, |attachment| attachment.mtu),
            generation: round.sequence,
            since: match assigned {
                Assigned::Now => round.sequence,
                Assigned::Before => since(snapshot, EndpointId(id)).unwrap_or(round.sequence),
            },
        };
        if snapshot.endpoints.len() <= id as usize {
            snapshot.endpoints.resize(id as usize + 1, None);
        }
        let slot = &mut snapshot.endpoints[id as usize];
        let same = slot.as_ref().is_some_and(|slot| {
            let generation = slot.generation;
            *slot
                == Endpoint {
                    generation,
                    ..endpoint.clone()
                }
        });
        if !same {
            *slot = Some(endpoint);
        }
    }

    /// Where one address is, unless the ranges say so already.
    fn hop(
        &self,
        round: &Round<'_>,
        topology: &Topology,
        addr: &Addr,
        snapshot: &Snapshot,
    ) -> Option<Hop> {
        if let Some(hop) = topology.hop(addr) {
            return Some(hop);
        }
        let owner = self.owner(topology, addr)?;
        if let Some(id) = self.endpoint(owner) {
            return Some(Hop::Endpoint(id));
        }
        let node = round.now.pods.get(owner)?.node.as_ref()?;
        // What is a pod's is closed rather than left to the world when nothing leads to its node.
        let hop = topology.peer(node).map_or(Hop::Unallocated, Hop::Peer);
        (snapshot.routes.range_hop(addr) != hop).then_some(hop)
    }
}

/// When the pod that has an id took it over.
fn since(snapshot: &Snapshot, id: EndpointId) -> Option<u32> {
    snapshot.endpoint(id).map(|endpoint| endpoint.since)
}

/// What a pod claims.
fn claims(cluster: &Cluster, node: &Arc<str>, name: &Name) -> Vec<(Addr, Claim)> {
    let Some(pod) = cluster.pods.get(name).filter(|pod| owns_addresses(pod)) else {
        return Vec::new();
    };
    let here = pod.node.as_ref() == Some(node) && cluster.attachments.get(name).is_some();
    let evidence = match (here, pod.phase) {
        (_, PodPhase::Ending) => Evidence::Ending,
        (true, _) => Evidence::Attached,
        (false, _) => Evidence::Told,
    };
    let future = match pod.phase {
        PodPhase::Alive => Future::Stays,
        PodPhase::Leaving | PodPhase::Ending | PodPhase::Ended => Future::Leaves,
    };
    let claim = |ip| {
        let claim = Claim {
            evidence,
            future,
            pod: name.clone(),
        };
        (Addr::from(ip), claim)
    };
    addresses(cluster, node, pod)
        .iter()
        .copied()
        .map(claim)
        .collect()
}

/// A pod's addresses: what its device here was given is true before, and more lately than, what its object says.
fn addresses<'a>(cluster: &'a Cluster, node: &Arc<str>, pod: &'a Pod) -> &'a [IpAddr] {
    let here = pod.node.as_ref() == Some(node);
    let attachment = cluster.attachments.get(&pod.name).filter(|_| here);
    match attachment {
        Some(attachment) if !attachment.addresses.is_empty() => &attachment.addresses,
        Some(_) | None => &pod.addresses,
    }
}

/// True of pods that have addresses of their own and still live.
pub(crate) fn owns_addresses(pod: &Pod) -> bool {
    match (pod.network, pod.phase) {
        (PodNetwork::Own, PodPhase::Alive | PodPhase::Leaving | PodPhase::Ending) => true,
        (PodNetwork::Host, _) | (_, PodPhase::Ended) => false,
    }
}

/// True of a pod that sends with its address whoever has that now.
fn is_ending(pod: Option<&Arc<Pod>>) -> bool {
    pod.is_some_and(|pod| pod.phase == PodPhase::Ending)
}

/// An address that comes to a peer or leaves it is a change of that peer.
fn touch_peer(snapshot: &mut Snapshot, hop: Hop, sequence: u32) {
    let Hop::Peer(PeerId(id)) = hop else {
        return;
    };
    if let Some(Some(peer)) = snapshot.peers.get_mut(usize::from(id)) {
        peer.generation = sequence;
    }
}
