//! The objects of a cluster as far as a dataplane needs them; each value is legal by construction of its source.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use podway_wire::{Mac, Protocol};

/// An object's place: `namespace/name`; cluster-wide objects have an empty namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// The namespace, empty for cluster-wide objects.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return f.write_str(&self.name);
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Labels of an object.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// A machine of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// Its labels (zone and region among them).
    pub labels: Labels,
    /// The keys of its taints.
    pub taints: Vec<Arc<str>>,
    /// Its InternalIP addresses in the order of the Node object: the first of a family is the primary one.
    pub addresses: Vec<IpAddr>,
    /// Its pod ranges, one of a family at most.
    pub pod_ranges: Vec<IpNet>,
}

/// Whether a namespace is on its way out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NamespacePhase {
    /// It stays.
    #[default]
    Active,
    /// It is being deleted with all that is in it.
    Terminating,
}

/// A namespace; policies select by its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: Arc<str>,
    /// Its labels; `kubernetes.io/metadata.name` is among them whatever the source said.
    pub labels: Labels,
    /// Whether it is on its way out.
    pub phase: NamespacePhase,
}

/// Whether a pod is on its node's network or has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PodNetwork {
    /// A network namespace of its own.
    Own,
    /// `hostNetwork: true`: it counts as its node.
    Host,
}

/// How far a pod is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PodPhase {
    /// Its addresses are its own.
    Alive,
    /// It is being deleted: its addresses are its own until another pod has them.
    Leaving,
    /// The cluster says that it is over or gone, but its device is still here (F18): only the compiler knows of these.
    Ending,
    /// Succeeded or Failed: its addresses may belong to somebody else already.
    Ended,
}

/// A pod on any node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub name: Name,
    /// The object's uid, empty if the source has none.
    pub uid: Arc<str>,
    /// The node it is bound to; `None` until it is scheduled.
    pub node: Option<Arc<str>>,
    /// Its labels, which many pods share.
    pub labels: Arc<Labels>,
    /// Its addresses, at most one of a family.
    pub addresses: Vec<IpAddr>,
    /// Named container ports, which many pods share.
    pub ports: Arc<[NamedPort]>,
    /// Ports of its node that lead to it.
    pub host_ports: Vec<HostPort>,
    /// On whose network it is.
    pub network: PodNetwork,
    /// Whether it still owns its addresses.
    pub phase: PodPhase,
}

/// A container port with a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamedPort {
    /// The name.
    pub name: Arc<str>,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The number.
    pub port: u16,
}

/// A port of a pod's node that leads to one of the pod's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// At this address of the node only; `None`: at all of them.
    pub ip: Option<IpAddr>,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The node's port.
    pub port: u16,
    /// The pod's port.
    pub target: u16,
}

/// Ranges that cluster addresses are given from (networking.k8s.io/v1 ServiceCIDR).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCidr {
    /// Its name.
    pub name: Arc<str>,
    /// The ranges, one of a family at most.
    pub ranges: Vec<IpNet>,
}

/// Which endpoints a service may use, by where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum TrafficPolicy {
    /// Any of the cluster.
    #[default]
    Cluster,
    /// Those on the node that decides.
    Local,
}

/// Whether a client stays with its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Affinity {
    /// No.
    None,
    /// By the client's address, for so many seconds after its last use.
    ClientIp {
        /// Seconds.
        timeout_s: u32,
    },
}

/// How a load balancer's address behaves (KEP-1860).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpMode {
    /// The address is answered on the node.
    Vip,
    /// Traffic to it is left alone.
    Proxy,
}

/// A service that this dataplane proxies: headless ones, ExternalName and foreign proxies never get here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub name: Name,
    /// Creation time in seconds of the epoch, 0 if unknown: the older wins a clash (S24).
    pub created_s: i64,
    /// Its cluster addresses, at most one of a family.
    pub cluster_ips: Vec<IpAddr>,
    /// `externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// Load-balancer addresses of its status.
    pub load_balancer_ips: Vec<(IpAddr, IpMode)>,
    /// `loadBalancerSourceRanges`; empty: all.
    pub source_ranges: Vec<IpNet>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// `internalTrafficPolicy`.
    pub internal: TrafficPolicy,
    /// `externalTrafficPolicy`.
    pub external: TrafficPolicy,
    /// `sessionAffinity`.
    pub affinity: Affinity,
    /// `healthCheckNodePort`.
    pub health_check_port: Option<u16>,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// The name that joins it with EndpointSlice ports; empty if unnamed.
    pub name: Arc<str>,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The number that clients dial.
    pub port: u16,
    /// The node port.
    pub node_port: Option<u16>,
}

/// An EndpointSlice of a proxied service; FQDN slices and those of headless services never get here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace and name of the slice.
    pub name: Name,
    /// The service it belongs to (label `kubernetes.io/service-name`, same namespace).
    pub service: Name,
    /// Its ports; those without a number were left out.
    pub ports: Vec<SlicePort>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// A port of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// The name that joins it with a service's port; empty if unnamed.
    pub name: Arc<str>,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Where the endpoints listen.
    pub port: u16,
}

/// Whether an endpoint takes new flows (KEP-1669).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Serving {
    /// Ready (absent counts as ready).
    Ready,
    /// Terminating, but still serving: used when nobody is ready.
    Terminating,
    /// Not ready, but serving: it keeps the flows that it has (F1).
    Unready,
    /// Not serving.
    No,
}

/// One member of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address: of several, all fungible, the first one.
    pub address: IpAddr,
    /// Whether it takes new flows.
    pub serving: Serving,
    /// The node it is on.
    pub node: Option<Arc<str>>,
    /// The pod it is, if the slice says so.
    pub pod: Option<Name>,
    /// Zones it is meant for (`hints.forZones`).
    pub zone_hints: Vec<Arc<str>>,
    /// Nodes it is meant for (`hints.forNodes`).
    pub node_hints: Vec<Arc<str>>,
}

/// A NetworkPolicy (networking.k8s.io/v1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Namespace and name.
    pub name: Name,
    /// The pods of its namespace that it isolates.
    pub subject: Selector,
    /// Ingress rules; `None` if it doesn't isolate ingress.
    pub ingress: Option<Vec<PolicyRule>>,
    /// Egress rules; `None` if it doesn't isolate egress.
    pub egress: Option<Vec<PolicyRule>>,
    /// Whether it is in force.
    pub mode: PolicyMode,
}

/// Whether a policy is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PolicyMode {
    /// It is.
    #[default]
    Enforce,
    /// It is judged, and what it would deny is told, but nothing is denied (`podway.dev/mode: observe`).
    Observe,
}

/// A rule of a NetworkPolicy: any of the peers at any of the ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// `None` (absent or empty): everyone. An empty selector inside is something else.
    pub peers: Option<Vec<PolicyPeer>>,
    /// `None` (absent or empty): everything.
    pub ports: Option<Vec<PolicyPort>>,
}

/// Who a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyPeer {
    /// Pods that both selectors match; without a namespace selector, those of the policy's namespace.
    Pods {
        /// `namespaceSelector`; `None`: the policy's own namespace.
        namespaces: Option<Selector>,
        /// `podSelector`; absent is all pods of the namespaces.
        pods: Selector,
    },
    /// Addresses in a range and in none of its exceptions.
    Block {
        /// `cidr`.
        range: IpNet,
        /// `except`.
        except: Vec<IpNet>,
    },
}

/// Which ports a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyPort {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The numbers.
    pub ports: Ports,
}

/// Port numbers, or the name that each target pod resolves for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// All ports of the protocol.
    All,
    /// From the first to the last, both included.
    Range(u16, u16),
    /// A named container port of the target pod.
    Named(Arc<str>),
}

/// A label selector: all requirements must hold; none: everything matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Selector {
    /// The requirements.
    pub requirements: Vec<Requirement>,
}

/// One requirement of a selector.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Requirement {
    /// The label has one of these values (`matchLabels` is the case of one).
    In(Arc<str>, Vec<Arc<str>>),
    /// The label is absent or has none of these values.
    NotIn(Arc<str>, Vec<Arc<str>>),
    /// The label is there.
    Exists(Arc<str>),
    /// The label is not there.
    Absent(Arc<str>),
}

/// A pod's device on this node, as the agent attached it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The pod.
    pub pod: Name,
    /// The device's port.
    pub port: podway_tables::PortId,
    /// The pod's Ethernet address.
    pub mac: Mac,
    /// The largest IP packet that the device takes, in bytes.
    pub mtu: u32,
    /// The addresses that the pod's device was given; none: those of the Pod object, which learns of them later.
    pub addresses: Vec<IpAddr>,
}

/// What this node is made of, as the agent found it: the one fact that no cluster object gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSetup {
    /// The port, Ethernet address and MTU in bytes of the uplink that leads to the other nodes.
    pub uplink: Option<(podway_tables::PortId, Mac, u32)>,
    /// The host port, the Ethernet address of the host's end, and the MTU in bytes.
    pub host: Option<(podway_tables::PortId, Mac, u32)>,
    /// The gateway's Ethernet address towards pods and host.
    pub gateway_mac: Mac,
    /// Which nodes' packets go through the tunnel.
    pub tunnel: crate::Tunnel,
    /// The ranges whose addresses the uplink reaches without a gateway.
    pub subnets: Vec<IpNet>,
    /// VXLAN network identifier.
    pub vni: u32,
    /// The tunnel's UDP port.
    pub tunnel_port: u16,
    /// Ranges that cluster IPs come from, where the cluster has no object that says so.
    pub service_ranges: Vec<IpNet>,
    /// Ranges of the node's addresses that answer node ports; none: its first address of each family (KEP-3866).
    pub node_port_addresses: Vec<IpNet>,
    /// Whether 127.0.0.1 answers node ports, too.
    pub localhost_node_ports: LocalhostNodePorts,
    /// Ranges that external IPs of services may be in; none: there are no external IPs (CVE-2020-8554).
    pub allowed_external_ips: Vec<IpNet>,
    /// Whose packets to cluster addresses get the node's address as their source.
    pub cluster_ip_masquerade: podway_tables::ClusterIpMasquerade,
    /// Ranges outside of the cluster to which pods send with their own addresses.
    pub masquerade_exempt: Vec<IpNet>,
    /// The devices that the host's routes may lead to, the uplink that leads to the other nodes among them.
    pub uplinks: Vec<crate::Uplink>,
    /// The first and last source port of what leaves under this node's address; `None`: nothing does.
    pub snat_ports: Option<(u16, u16)>,
    /// Those of them that are the host's: it has sockets there, or picks from them (R3).
    pub host_ports: Arc<BTreeSet<(Protocol, u16)>>,
}

/// Whether node ports are open on 127.0.0.1, as kube-proxy's iptables mode has them for old times' sake (KEP-3866).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LocalhostNodePorts {
    /// They are not.
    #[default]
    Closed,
    /// They are, as far as packets from 127.0.0.1 are shown to us: a kernel keeps them to itself.
    Open,
}
