//! The kinds of objects that are watched.

use std::fmt;

use podway_intent::Key;

/// A kind of object that an API server is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// v1 Node.
    Node,
    /// v1 Namespace.
    Namespace,
    /// v1 Pod.
    Pod,
    /// networking.k8s.io/v1 ServiceCIDR, of Kubernetes 1.33 and newer.
    ServiceCidr,
    /// v1 Service.
    Service,
    /// discovery.k8s.io/v1 EndpointSlice.
    EndpointSlice,
    /// networking.k8s.io/v1 NetworkPolicy.
    NetworkPolicy,
    /// policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy.
    ClusterNetworkPolicy,
}

/// Whether every API server has a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// It is built in.
    Always,
    /// It is a custom resource, which may come and go.
    Perhaps,
    /// Built into newer servers only, and what it says follows from other objects, too.
    Newer,
}

impl Kind {
    /// All kinds that are watched.
    pub const ALL: [Kind; 8] = [
        Kind::Node,
        Kind::Namespace,
        Kind::Pod,
        Kind::ServiceCidr,
        Kind::Service,
        Kind::EndpointSlice,
        Kind::NetworkPolicy,
        Kind::ClusterNetworkPolicy,
    ];

    /// What the watch does with a kind, as RBAC calls it.
    pub const VERBS: [&str; 2] = ["list", "watch"];

    /// The kind of an object; `None` of what no API server tells of.
    pub(crate) fn of(key: &Key) -> Option<Kind> {
        match key {
            Key::Node(_) => Some(Kind::Node),
            Key::Namespace(_) => Some(Kind::Namespace),
            Key::Pod(_) => Some(Kind::Pod),
            Key::Service(_) => Some(Kind::Service),
            Key::EndpointSlice(_) => Some(Kind::EndpointSlice),
            Key::NetworkPolicy(_) => Some(Kind::NetworkPolicy),
            Key::ClusterNetworkPolicy(_) => Some(Kind::ClusterNetworkPolicy),
            Key::ServiceCidr(_) => Some(Kind::ServiceCidr),
            Key::Attachment(_)
            | Key::Neighbour(_)
            | Key::Route(_)
            | Key::LinkNeighbour(_)
            | Key::OwnAddress(_)
            | Key::Setup => None,
        }
    }

    /// The kind as manifests spell it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Node => "Node",
            Kind::Namespace => "Namespace",
            Kind::Pod => "Pod",
            Kind::Service => "Service",
            Kind::EndpointSlice => "EndpointSlice",
            Kind::NetworkPolicy => "NetworkPolicy",
            Kind::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Kind::ServiceCidr => "ServiceCIDR",
        }
    }

    /// The API group; empty for the core.
    pub fn group(self) -> &'static str {
        match self {
            Kind::Node | Kind::Namespace | Kind::Pod | Kind::Service => "",
            Kind::EndpointSlice => "discovery.k8s.io",
            Kind::NetworkPolicy | Kind::ServiceCidr => "networking.k8s.io",
            Kind::ClusterNetworkPolicy => "policy.networking.k8s.io",
        }
    }

    /// The version of the group.
    pub fn version(self) -> &'static str {
        match self {
            Kind::ClusterNetworkPolicy => "v1alpha2",
            Kind::Node
            | Kind::Namespace
            | Kind::Pod
            | Kind::Service
            | Kind::EndpointSlice
            | Kind::NetworkPolicy
            | Kind::ServiceCidr => "v1",
        }
    }

    /// The kind in paths and in RBAC.
    pub fn plural(self) -> &'static str {
        match self {
            Kind::Node => "nodes",
            Kind::Namespace => "namespaces",
            Kind::Pod => "pods",
            Kind::Service => "services",
            Kind::EndpointSlice => "endpointslices",
            Kind::NetworkPolicy => "networkpolicies",
            Kind::ClusterNetworkPolicy => "clusternetworkpolicies",
            Kind::ServiceCidr => "servicecidrs",
        }
    }

    /// The path under which all objects of the kind are listed.
    pub fn path(self) -> String {
        let (version, plural) = (self.version(), self.plural());
        match self.group() {
            "" => format!("/api/{version}/{plural}"),
            group => format!("/apis/{group}/{version}/{plural}"),
        }
    }

    pub(super) fn presence(self) -> Presence {
        match self {
            Kind::ClusterNetworkPolicy => Presence::Perhaps,
            Kind::ServiceCidr => Presence::Newer,
            Kind::Node
            | Kind::Namespace
            | Kind::Pod
            | Kind::Service
            | Kind::EndpointSlice
            | Kind::NetworkPolicy => Presence::Always,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
