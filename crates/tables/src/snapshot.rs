//! All that a worker needs to know about the cluster, as of one moment.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;
use podway_wire::{Addr, Family, Mac, Protocol};

use crate::{EndpointId, Hop, PeerId, Policies, PortId, Routes, Services, World};

/// The compiled state that workers read; immutable once published.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts publications from 1 up; generations below are values of it.
    pub sequence: u32,
    /// This node.
    pub node: Node,
    /// The devices, by [`PortId`]; `None` where an index is free.
    pub ports: Vec<Option<Port>>,
    /// The pods on this node, by [`EndpointId`]; `None` where an id is free.
    pub endpoints: Vec<Option<Endpoint>>,
    /// The other nodes, by [`PeerId`]; `None` where an id is free.
    pub peers: Vec<Option<Peer>>,
    /// Where addresses are.
    pub routes: Routes,
    /// Where addresses outside of the cluster are.
    pub world: World,
    /// Virtual addresses and who stands behind them.
    pub services: Services,
    /// Who may talk to whom.
    pub policies: Policies,
}

/// Facts about this node that packets meet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Our Ethernet address towards pods and towards the host: the gateway's.
    pub gateway_mac: Mac,
    /// The gateway's addresses (the first of each pod range): answered for ARP, ND and ping.
    pub gateways: Vec<Addr>,
    /// This node's own addresses (InternalIP), the tunnel's source among them.
    pub addresses: Vec<Addr>,
    /// The port of the wire; `None` on a node without other nodes.
    pub uplink: Option<PortId>,
    /// The port to the host's own stack.
    pub host: Option<PortId>,
    /// The host's Ethernet address on its side of the host port.
    pub host_mac: Mac,
    /// The uplink's own Ethernet address.
    pub uplink_mac: Mac,
    /// VXLAN network identifier (RFC 7348), 24 bits.
    pub vni: u32,
    /// The UDP port that tunnels arrive at.
    pub tunnel_port: u16,
    /// The largest IP packet on the wire, in bytes.
    pub uplink_mtu: u32,
    /// The largest IP packet on the host port, in bytes.
    pub host_mtu: u32,
    /// The first and last source port of what leaves under this node's address; the XDP program claims them.
    pub snat_ports: Option<(u16, u16)>,
    /// Those of them at which the host has sockets of its own: nothing leaves by them (R3).
    pub host_ports: Arc<BTreeSet<(Protocol, u16)>>,
    /// Whose packets to cluster addresses get our address as their source.
    pub cluster_ip_masquerade: ClusterIpMasquerade,
    /// Where pods' packets go with the pods' own addresses, outside of the cluster.
    pub masquerade_exempt: Vec<IpNet>,
}

/// Whose packets to cluster addresses get the node's address as their source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClusterIpMasquerade {
    /// Those that are not from pods.
    #[default]
    Foreign,
    /// All (kube-proxy's `masqueradeAll`).
    All,
    /// None (kube-proxy when it can't tell pods from others).
    None,
}

impl Node {
    /// Our own address of a family, as others reach us.
    #[inline]
    pub fn address(&self, family: Family) -> Option<Addr> {
        first_of(&self.addresses, family)
    }

    /// The gateway's address of a family.
    #[inline]
    pub fn gateway(&self, family: Family) -> Option<Addr> {
        first_of(&self.gateways, family)
    }
}

fn first_of(all: &[Addr], family: Family) -> Option<Addr> {
    all.iter().find(|addr| addr.family() == family).copied()
}

/// What a device is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// The wire to other nodes.
    Uplink,
    /// The veth pair to this node's own stack.
    Host,
    /// A pod's veth; the endpoint is absent until the cluster has told us about the pod.
    Pod(Option<EndpointId>),
}

/// A device of the dataplane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// What it is.
    pub kind: PortKind,
}

/// A pod on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its device; `None` until the pod is attached.
    pub port: Option<PortId>,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its addresses, one or two.
    pub addresses: Vec<Addr>,
    /// The largest IP packet that its device takes, in bytes.
    pub mtu: u32,
    /// When something that policy says about it, its device or its addresses last changed.
    pub generation: u32,
    /// When this pod took over the id.
    pub since: u32,
}

/// How packets get to a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Via {
    /// Through the tunnel.
    #[default]
    Vxlan,
    /// As they are, under its Ethernet address.
    Direct,
    /// Not at all: they were to go directly, but it is in none of the uplink's subnets.
    Nothing,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where its tunnel ends (its InternalIP of the underlay's family).
    pub vtep: Addr,
    /// How packets get there.
    pub via: Via,
    /// The largest IP packet that gets there in one piece, in bytes.
    pub mtu: u32,
    /// All addresses of the node itself, the tunnel's end among them.
    pub addresses: Vec<Addr>,
    /// The local address that our tunnel packets carry.
    pub source: Addr,
    /// The uplink that leads there.
    pub port: Option<PortId>,
    /// That uplink's own Ethernet address.
    pub source_mac: Mac,
    /// The next hop's Ethernet address as the kernel's neighbour table has it; `None` until it is resolved.
    pub next_hop: Option<Mac>,
    /// When anything about it last changed.
    pub generation: u32,
}

impl Snapshot {
    /// Where `addr` is, and the way there if that is outside of the cluster.
    pub fn hop(&self, addr: &Addr) -> Hop {
        match self.routes.hop(addr) {
            Hop::World(_) => Hop::World(self.world.next_hop(addr)),
            hop @ (Hop::Endpoint(_)
            | Hop::Peer(_)
            | Hop::Host
            | Hop::Gateway
            | Hop::Unallocated) => hop,
        }
    }

    /// The port, if there is one with this id.
    #[inline]
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(id.0 as usize)?.as_ref()
    }

    /// The pod, if there is one with this id.
    #[inline]
    pub fn endpoint(&self, id: EndpointId) -> Option<&Endpoint> {
        self.endpoints.get(id.0 as usize)?.as_ref()
    }

    /// The peer, if there is one with this id.
    #[inline]
    pub fn peer(&self, id: PeerId) -> Option<&Peer> {
        self.peers.get(id.0 as usize)?.as_ref()
    }
}
