//! One fact that is now otherwise.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use podway_wire::Mac;

use crate::{
    Attachment, ClusterNetworkPolicy, EndpointSlice, HostRoute, LinkAddress, Name, Namespace,
    NetworkPolicy, Node, NodeSetup, Pod, Resolved, RouteKey, Service, ServiceCidr,
};

/// What an object is, and which: the key under which a [`crate::Cluster`] keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// A node by name.
    Node(Arc<str>),
    /// A namespace by name.
    Namespace(Arc<str>),
    /// A pod.
    Pod(Name),
    /// A service.
    Service(Name),
    /// An EndpointSlice.
    EndpointSlice(Name),
    /// A NetworkPolicy.
    NetworkPolicy(Name),
    /// A ClusterNetworkPolicy by name.
    ClusterNetworkPolicy(Arc<str>),
    /// A ServiceCIDR by name.
    ServiceCidr(Arc<str>),
    /// A local device by its pod.
    Attachment(Name),
    /// A next hop by the address it leads to.
    Neighbour(IpAddr),
    /// A route of the host's.
    Route(RouteKey),
    /// A neighbour on a device's wire.
    LinkNeighbour(LinkAddress),
    /// An address of this node's.
    OwnAddress(IpAddr),
    /// The node's set-up.
    Setup,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Node(name) => write!(f, "node {name}"),
            Key::Namespace(name) => write!(f, "namespace {name}"),
            Key::Pod(name) => write!(f, "pod {name}"),
            Key::Service(name) => write!(f, "service {name}"),
            Key::EndpointSlice(name) => write!(f, "endpointslice {name}"),
            Key::NetworkPolicy(name) => write!(f, "networkpolicy {name}"),
            Key::ClusterNetworkPolicy(name) => write!(f, "clusternetworkpolicy {name}"),
            Key::ServiceCidr(name) => write!(f, "servicecidr {name}"),
            Key::Attachment(pod) => write!(f, "attachment of pod {pod}"),
            Key::Neighbour(addr) => write!(f, "neighbour {addr}"),
            Key::Route(key) => write!(f, "route {}", key.range),
            Key::LinkNeighbour(key) => write!(f, "neighbour {}", key.address),
            Key::OwnAddress(addr) => write!(f, "address {addr}"),
            Key::Setup => f.write_str("node set-up"),
        }
    }
}

/// A change of the cluster or of this node: the object as it is now, or that it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A node is so.
    Node(Node),
    /// A namespace is so.
    Namespace(Namespace),
    /// A pod is so.
    Pod(Pod),
    /// A service is so.
    Service(Service),
    /// An EndpointSlice is so.
    EndpointSlice(EndpointSlice),
    /// A NetworkPolicy is so.
    NetworkPolicy(NetworkPolicy),
    /// A ClusterNetworkPolicy is so.
    ClusterNetworkPolicy(ClusterNetworkPolicy),
    /// A ServiceCIDR is so.
    ServiceCidr(ServiceCidr),
    /// A pod's device is attached.
    Attachment(Attachment),
    /// The kernel resolved the next hop towards an address of a peer.
    Neighbour(IpAddr, Mac),
    /// The host has this route.
    Route(RouteKey, HostRoute),
    /// The kernel knows a neighbour on a device's wire.
    LinkNeighbour(LinkAddress, Resolved),
    /// A device of the node's has this address.
    OwnAddress(IpAddr),
    /// The node is made of this.
    Setup(NodeSetup),
    /// This is gone.
    Gone(Key),
}

impl Change {
    /// The object that is otherwise.
    pub fn key(&self) -> Key {
        match self {
            Change::Node(node) => Key::Node(node.name.clone()),
            Change::Namespace(namespace) => Key::Namespace(namespace.name.clone()),
            Change::Pod(pod) => Key::Pod(pod.name.clone()),
            Change::Service(service) => Key::Service(service.name.clone()),
            Change::EndpointSlice(slice) => Key::EndpointSlice(slice.name.clone()),
            Change::NetworkPolicy(policy) => Key::NetworkPolicy(policy.name.clone()),
            Change::ClusterNetworkPolicy(policy) => Key::ClusterNetworkPolicy(policy.name.clone()),
            Change::ServiceCidr(it) => Key::ServiceCidr(it.name.clone()),
            Change::Attachment(attachment) => Key::Attachment(attachment.pod.clone()),
            Change::Neighbour(address, _) => Key::Neighbour(*address),
            Change::Route(key, _) => Key::Route(*key),
            Change::LinkNeighbour(key, _) => Key::LinkNeighbour(*key),
            Change::OwnAddress(address) => Key::OwnAddress(*address),
            Change::Setup(_) => Key::Setup,
            Change::Gone(key) => key.clone(),
        }
    }
}
