//! The Kubernetes objects that a dataplane is interested in.

use k8s_openapi::api::core::v1::{Endpoints, Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{Place, PolicyObject, Workload};

/// A Kubernetes object of a kind that matters here.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// v1 Node.
    Node(Box<Node>),
    /// v1 Namespace.
    Namespace(Box<Namespace>),
    /// v1 Pod.
    Pod(Box<Pod>),
    /// What makes pods of a template.
    Workload(Box<Workload>),
    /// v1 Service.
    Service(Box<Service>),
    /// discovery.k8s.io/v1 EndpointSlice.
    EndpointSlice(Box<EndpointSlice>),
    /// v1 Endpoints, which a controller mirrors as slices.
    Endpoints(Box<Endpoints>),
    /// networking.k8s.io/v1 NetworkPolicy.
    NetworkPolicy(Box<PolicyObject>),
    /// policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy.
    ClusterNetworkPolicy(Box<PolicyObject>),
    /// networking.k8s.io/v1 ServiceCIDR.
    ServiceCidr(Box<ServiceCIDR>),
}

/// An object and where it was read from.
#[derive(Clone, Debug, PartialEq)]
pub struct Located {
    /// The object.
    pub object: Object,
    /// Its file and lines.
    pub place: Place,
}

impl Object {
    /// The kind as manifests spell it.
    pub fn kind(&self) -> &'static str {
        match self {
            Object::Node(_) => "Node",
            Object::Namespace(_) => "Namespace",
            Object::Pod(_) => "Pod",
            Object::Workload(workload) => workload.kind(),
            Object::Service(_) => "Service",
            Object::EndpointSlice(_) => "EndpointSlice",
            Object::Endpoints(_) => "Endpoints",
            Object::NetworkPolicy(_) => "NetworkPolicy",
            Object::ClusterNetworkPolicy(_) => "ClusterNetworkPolicy",
            Object::ServiceCidr(_) => "ServiceCIDR",
        }
    }

    /// Name, namespace, labels.
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Object::Node(node) => &node.metadata,
            Object::Namespace(namespace) => &namespace.metadata,
            Object::Pod(pod) => &pod.metadata,
            Object::Workload(workload) => workload.metadata(),
            Object::Service(service) => &service.metadata,
            Object::EndpointSlice(slice) => &slice.metadata,
            Object::Endpoints(endpoints) => &endpoints.metadata,
            Object::NetworkPolicy(policy) => &policy.metadata,
            Object::ClusterNetworkPolicy(policy) => &policy.metadata,
            Object::ServiceCidr(it) => &it.metadata,
        }
    }

    pub(crate) fn metadata_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Object::Node(node) => &mut node.metadata,
            Object::Namespace(namespace) => &mut namespace.metadata,
            Object::Pod(pod) => &mut pod.metadata,
            Object::Workload(workload) => workload.metadata_mut(),
            Object::Service(service) => &mut service.metadata,
            Object::EndpointSlice(slice) => &mut slice.metadata,
            Object::Endpoints(endpoints) => &mut endpoints.metadata,
            Object::NetworkPolicy(policy) => &mut policy.metadata,
            Object::ClusterNetworkPolicy(policy) => &mut policy.metadata,
            Object::ServiceCidr(it) => &mut it.metadata,
        }
    }

    /// Kind, namespace and name, such as `Service shop/web`: unique in a cluster.
    pub fn title(&self) -> String {
        title(self.kind(), self.metadata())
    }

    /// True of kinds that have no namespace.
    pub(crate) fn is_cluster_wide(&self) -> bool {
        matches!(
            self,
            Object::Node(_)
                | Object::Namespace(_)
                | Object::ClusterNetworkPolicy(_)
                | Object::ServiceCidr(_)
        )
    }
}

/// Kind, namespace and name of an object, such as `Service shop/web` or `Node node1`.
pub(crate) fn title(kind: &str, metadata: &ObjectMeta) -> String {
    let name = metadata.name.as_deref().unwrap_or_default();
    match metadata.namespace.as_deref() {
        None | Some("") => format!("{kind} {name}"),
        Some(namespace) => format!("{kind} {namespace}/{name}"),
    }
}

/// True of objects that an API server gave out: nobody else gives uids.
pub(crate) fn is_stored(metadata: &ObjectMeta) -> bool {
    metadata.uid.as_deref().is_some_and(|uid| !uid.is_empty())
}
