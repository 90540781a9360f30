//! Nodes become peers, ranges, and the facts about this node.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use podway_tables::{Hop, Peer, PeerId, PortId, PrefixMap, Slots, Snapshot, Via, World};
use podway_wire::{Addr, Mac};

use crate::address::gateway;
use crate::ids::Ids;
use crate::round::{Round, Underlay};
use crate::tunnel::{mtu, via};
use crate::{Key, Node, Problem};

/// What is remembered of nodes from one compilation to the next.
#[derive(Debug, Default)]
pub(crate) struct Topology {
    peers: Ids<Arc<str>>,
    /// The node that each peer was made of.
    nodes: HashMap<PeerId, Arc<Node>>,
    /// Addresses that are a node's or a gateway's.
    addresses: BTreeMap<Addr, Hop>,
    /// The pod ranges of nodes that send directly, in order.
    direct: Vec<IpNet>,
    /// Addresses that are this node's own, in order.
    own: Vec<IpAddr>,
    /// Of the ways to nodes, and of their ranges and addresses.
    peer_problems: Vec<Problem>,
    problems: Vec<Problem>,
}

impl Topology {
    /// Brings peers, ranges and node facts up to date.
    pub(crate) fn update(
        &mut self,
        round: &Round<'_>,
        snapshot: &mut Snapshot,
        names: &mut Slots<Arc<str>>,
    ) -> Outcome {
        let touched = &round.touched;
        let same_world = touched.routes.is_empty() && touched.link_neighbours.is_empty();
        let same_nodes = touched.nodes.is_empty() && touched.own_addresses.is_empty();
        if same_nodes && same_world && touched.underlay == Underlay::Same {
            return Outcome::Same;
        }
        self.peer_problems.clear();
        self.set_peers(round, snapshot, names);
        self.set_direct(snapshot);
        if same_nodes && touched.underlay == Underlay::Same {
            return Outcome::Same;
        }
        self.problems.clear();
        set_node(round, snapshot);
        let ranges = self.ranges(round);
        snapshot.routes.set_ranges(ranges);
        let addresses = self.node_addresses(round);
        let before = std::mem::replace(&mut self.addresses, addresses);
        match same_nodes {
            true => Outcome::Same,
            false => Outcome::Moved(before.into_keys().collect()),
        }
    }

    /// Where an address is that belongs to a node or gateway.
    pub(crate) fn hop(&self, addr: &Addr) -> Option<Hop> {
        self.addresses.get(addr).copied()
    }

    /// All addresses that belong to a node or gateway.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &Addr> {
        self.addresses.keys()
    }

    /// The peer that a node is.
    pub(crate) fn peer(&self, node: &Arc<str>) -> Option<PeerId> {
        let id = self.peers.of(node)?;
        u16::try_from(id).ok().map(PeerId)
    }

    /// The pod ranges of nodes that send directly, in order.
    pub(crate) fn direct(&self) -> &[IpNet] {
        &self.direct
    }

    /// The addresses that are this node's own, in order.
    pub(crate) fn own(&self) -> &[IpAddr] {
        &self.own
    }

    /// What is wrong with nodes.
    pub(crate) fn problems(&self) -> impl Iterator<Item = Problem> {
        self.peer_problems.iter().chain(&self.problems).cloned()
    }

    fn set_peers(
        &mut self,
        round: &Round<'_>,
        snapshot: &mut Snapshot,
        names: &mut Slots<Arc<str>>,
    ) {
        let mut wanted = BTreeMap::new();
        for node in others(round) {
            let peer = peer(round, node, &snapshot.world);
            let problem = match peer.as_ref().map(|peer| (peer.via, peer.vtep)) {
                Some((Via::Vxlan | Via::Direct, _)) => None,
                Some((Via::Nothing, vtep)) => Some(far(round, &vtep)),
                None => Some("no tunnel leads there: it and this node need InternalIP addresses of one family".into()),
            };
            self.peer_problems.extend(problem.map(|text| Problem {
                object: Key::Node(node.name.clone()),
                text,
            }));
            if let Some(peer) = peer {
                wanted.insert(node.name.clone(), (node, peer));
            }
        }
        let all = self.peers.iter();
        let gone: Vec<Arc<str>> = all
            .filter(|(name, _)| !wanted.contains_key(*name))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            if let Some(id) = self.peers.release(&name) {
                names.set(id, None);
                self.nodes.remove(&PeerId(id as u16));
                if let Some(slot) = snapshot.peers.get_mut(id as usize) {
                    *slot = None;
                }
            }
        }
        for (name, (node, peer)) in wanted {
            let (id, _) = self.peers.assign(&name);
            let Ok(place) = u16::try_from(id) else {
                self.peers.release(&name);
                self.peer_problems.push(Problem {
                    object: Key::Node(name),
                    text: "no tunnel leads there: more than 65 536 nodes".into(),
                });
                continue;
            };
            if snapshot.peers.len() <= id as usize {
                snapshot.peers.resize(id as usize + 1, None);
            }
            let slot = &mut snapshot.peers[id as usize];
            let before = self.nodes.insert(PeerId(place), node.clone());
            let same_node = before.is_some_and(|before| {
                before.addresses == node.addresses && before.pod_ranges == node.pod_ranges
            });
            let same_peer = slot.as_ref().is_some_and(|slot| {
                let generation = slot.generation;
                *slot
                    == Peer {
                        generation,
                        ..peer.clone()
                    }
            });
            if !(same_node && same_peer) {
                *slot = Some(Peer {
                    generation: round.sequence,
                    ..peer
                });
            }
            names.set(id, Some(name));
        }
    }

    fn set_direct(&mut self, snapshot: &Snapshot) {
        let is_direct = |id: PeerId| {
            let peer = snapshot.peer(id);
            peer.is_some_and(|peer| peer.via == Via::Direct)
        };
        let nodes = self.nodes.iter().filter(|(id, _)| is_direct(**id));
        let ranges = nodes.flat_map(|(_, node)| node.pod_ranges.iter().map(IpNet::trunc));
        self.direct = ranges.collect();
        self.direct.sort_unstable();
        self.direct.dedup();
    }

    /// The addresses of nodes and of our gateways; ours go first, then those of nodes in the order of names.
    fn node_addresses(&mut self, round: &Round<'_>) -> BTreeMap<Addr, Hop> {
        let mut hops = BTreeMap::new();
        let kernels = &round.now.own_addresses;
        if let Some(own) = round.now.nodes.get(round.node) {
            let told = own.addresses.iter();
            let there = told.filter(|ip| kernels.is_empty() || kernels.get(*ip).is_some());
            hops.extend(there.map(|ip| (Addr::from(*ip), Hop::Host)));
            for range in &own.pod_ranges {
                hops.entry(gateway(range).into()).or_insert(Hop::Gateway);
            }
        }
        // R2: whatever Nodes say, an address that a device here has is this node's.
        for (ip, ()) in kernels.iter() {
            hops.entry(Addr::from(*ip)).or_insert(Hop::Host);
        }
        let own = hops.iter().filter(|(_, hop)| **hop == Hop::Host);
        self.own = own.map(|(addr, _)| addr.ip()).collect();
        for node in others(round) {
            let hop = self.peer(&node.name).map_or(Hop::WORLD, Hop::Peer);
            for ip in &node.addresses {
                let taken = hops.get(&Addr::from(*ip));
                if taken.is_some_and(|taken| *taken != hop) && kernels.get(ip).is_none() {
                    self.problems.push(Problem {
                        object: Key::Node(node.name.clone()),
                        text: format!("address {ip} is another node's too; correct one of them"),
                    });
                }
                hops.entry(Addr::from(*ip)).or_insert(hop);
            }
        }
        hops.retain(|_, hop| *hop != Hop::WORLD);
        hops
    }

    /// The pod ranges of all nodes; of equal ones that of the first name counts, on every node the same.
    fn ranges(&mut self, round: &Round<'_>) -> Vec<(IpNet, Hop)> {
        let mut all: Vec<(IpNet, &Arc<Node>)> = Vec::new();
        for (_, node) in round.now.nodes.iter() {
            all.extend(node.pod_ranges.iter().map(|range| (range.trunc(), node)));
        }
        all.sort_unstable_by_key(|(range, node)| (range.prefix_len(), *range, &node.name));
        let mut seen: PrefixMap<&Arc<Node>> = PrefixMap::default();
        let mut routes = Vec::new();
        for (range, node) in all {
            let first = Addr::from(range.network());
            let covering = seen.longest(&first).copied();
            if let Some(other) = covering.filter(|other| other.name != node.name) {
                self.problems.push(Problem {
                    object: Key::Node(node.name.clone()),
                    text: format!(
                        "pod range {range} overlaps one of node {}; give each node its own",
                        other.name
                    ),
                });
            }
            if routes.last().is_some_and(|(last, _)| *last == range) {
                continue;
            }
            seen.insert(range, node);
            // A range of a node without a tunnel is closed rather than left to the world.
            let hop = match self.peer(&node.name) {
                Some(peer) => Hop::Peer(peer),
                None => Hop::Unallocated,
            };
            routes.push((range, hop));
        }
        routes
    }
}

/// What an update of nodes means for addresses.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Every address is where it was.
    Same,
    /// Any address may have moved; these were nodes' or gateways'.
    Moved(Vec<Addr>),
}

/// The other nodes in the order of names.
fn others<'a>(round: &Round<'a>) -> Vec<&'a Arc<Node>> {
    let all = round.now.nodes.iter();
    let mut others: Vec<_> = all.map(|(_, node)| node).collect();
    others.retain(|node| node.name != *round.node);
    others.sort_unstable_by_key(|node| &node.name);
    others
}

/// The way to a node: in the family of our first address if it has that, else in the other.
fn peer(round: &Round<'_>, node: &Node, world: &World) -> Option<Peer> {
    let own = round.now.nodes.get(round.node)?;
    let (source, vtep) = own.addresses.iter().find_map(|source| {
        let mut theirs = node.addresses.iter();
        let vtep = theirs.find(|ip| ip.is_ipv4() == source.is_ipv4())?;
        Some((source, vtep))
    })?;
    let setup = round.now.setup();
    let via = setup.map_or_else(Via::default, |setup| via(setup, vtep));
    let way = Way::to(round, *vtep, world);
    Some(Peer {
        vtep: (*vtep).into(),
        via,
        mtu: mtu(way.mtu, via, vtep),
        addresses: node.addresses.iter().copied().map(Addr::from).collect(),
        source: (*source).into(),
        port: way.port,
        source_mac: way.source_mac,
        next_hop: way.next_hop,
        generation: 0,
    })
}

/// How packets get onto the wire to another node.
#[derive(Clone, Copy, Debug, Default)]
struct Way {
    port: Option<PortId>,
    source_mac: Mac,
    next_hop: Option<Mac>,
    mtu: u32,
}

impl Way {
    /// By the route that the host has to it, or else by the uplink.
    fn to(round: &Round<'_>, vtep: IpAddr, world: &World) -> Way {
        let resolved = round.now.neighbour(&vtep);
        let uplink = round.now.setup().and_then(|setup| setup.uplink);
        if let Some(next) = world.to(world.next_hop(&vtep.into())) {
            // On the uplink the kernel was asked about this very node.
            let asked = resolved.filter(|_| uplink.is_some_and(|(port, _, _)| port == next.port));
            return Way {
                port: Some(next.port),
                source_mac: next.source_mac,
                next_hop: asked.or(next.mac),
                mtu: next.mtu,
            };
        }
        uplink.map_or_else(Way::default, |(port, source_mac, mtu)| Way {
            port: Some(port),
            source_mac,
            next_hop: resolved,
            mtu,
        })
    }
}

/// What is wrong with a node that nothing leads to.
fn far(round: &Round<'_>, vtep: &Addr) -> String {
    let subnets = round.now.setup().map_or(&[][..], |setup| &setup.subnets);
    let subnets: Vec<String> = subnets.iter().map(IpNet::to_string).collect();
    format!(
        "nothing leads there: {vtep} is in none of the uplink's subnets ({}); set `tunnel` to \"auto\" or \"vxlan\"",
        subnets.join(", ")
    )
}

fn set_node(round: &Round<'_>, snapshot: &mut Snapshot) {
    let own = round.now.nodes.get(round.node);
    let addrs = |ips: Vec<IpAddr>| ips.into_iter().map(Addr::from).collect::<Vec<_>>();
    let node = &mut snapshot.node;
    node.addresses = addrs(own.map_or(Vec::new(), |own| own.addresses.clone()));
    let ranges = own.map_or(&[][..], |own| &own.pod_ranges);
    node.gateways = addrs(ranges.iter().map(gateway).collect());
    let Some(setup) = round.now.setup() else {
        return;
    };
    node.gateway_mac = setup.gateway_mac;
    node.vni = setup.vni;
    node.tunnel_port = setup.tunnel_port;
    node.uplink = setup.uplink.map(|(port, _, _)| port);
    node.uplink_mac = setup
        .uplink
        .map_or_else(Default::default, |(_, mac, _)| mac);
    node.host = setup.host.map(|(port, _, _)| port);
    node.host_mac = setup.host.map_or_else(Default::default, |(_, mac, _)| mac);
    node.host_mtu = setup.host.map_or(0, |(_, _, mtu)| mtu);
    node.cluster_ip_masquerade = setup.cluster_ip_masquerade;
    node.masquerade_exempt.clone_from(&setup.masquerade_exempt);
    node.snat_ports = setup.snat_ports;
    node.host_ports = setup.host_ports.clone();
    node.uplink_mtu = setup.uplink.map_or(0, |(_, _, mtu)| mtu);
}
