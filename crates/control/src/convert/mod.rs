//! Kubernetes objects in `intent`'s words, one at a time and without looking at any other.
//!
//! Objects may come from manifests or from an API server, whose objects can be partial or older than its own
//! rules: leading zeros are read over and an address that is none is left out, as kube-proxy does, with a note
//! in the log. What would change a policy's meaning is an error: nothing unknown turns into something permissive.

mod cluster_policy;
mod node;
mod policy;
mod service;
mod service_cidr;
mod slice;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{NetworkPolicy, ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use podway_intent::Name;

use crate::object::title;
use crate::problem::Findings;
use crate::{ClusterNetworkPolicy, Place, Problems};

pub(crate) use cluster_policy::cluster_policy_into;
pub(crate) use node::{namespace_into, node_into, pod_into};
pub(crate) use policy::policy_into;
pub(crate) use service::{is_headless, service_into};
pub(crate) use service_cidr::service_cidr_into;
pub(crate) use slice::slice_into;

/// The label that joins a slice with its service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that makes a service somebody else's, and its slices with it.
pub(crate) const SERVICE_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// The label of a headless service's slices.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";
/// The label that every namespace has.
pub(crate) const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// A node; the problems if an address or a range is not one.
pub fn node(node: &Node) -> Result<podway_intent::Node, Problems> {
    finish(title("Node", &node.metadata), |findings| {
        node_into(node, findings)
    })
}

/// A namespace; it always converts.
pub fn namespace(namespace: &Namespace) -> Result<podway_intent::Namespace, Problems> {
    finish(title("Namespace", &namespace.metadata), |_| {
        Some(namespace_into(namespace))
    })
}

/// A pod; the problems if a port or the phase is not one.
pub fn pod(pod: &Pod) -> Result<podway_intent::Pod, Problems> {
    finish(title("Pod", &pod.metadata), |findings| {
        pod_into(pod, findings)
    })
}

/// A service; `None` if it isn't ours to proxy: headless, ExternalName, or a foreign proxy's (S17).
pub fn service(service: &Service) -> Result<Option<podway_intent::Service>, Problems> {
    if !service::is_ours(service) {
        return Ok(None);
    }
    finish(title("Service", &service.metadata), |findings| {
        service_into(service, findings)
    })
    .map(Some)
}

/// An EndpointSlice; `None` if it has host names (S16), no service, or one that isn't ours to proxy (S17).
pub fn endpoint_slice(
    slice: &EndpointSlice,
) -> Result<Option<podway_intent::EndpointSlice>, Problems> {
    if !slice::is_ours(slice) {
        return Ok(None);
    }
    let object = title("EndpointSlice", &slice.metadata);
    finish(object, |findings| slice_into(slice, findings)).map(Some)
}

/// A ServiceCIDR; the problems if one of its ranges is none.
pub fn service_cidr(object: &ServiceCIDR) -> Result<podway_intent::ServiceCidr, Problems> {
    finish(title("ServiceCIDR", &object.metadata), |findings| {
        Some(service_cidr_into(object, findings))
    })
}

/// A NetworkPolicy; the problems if anything in it is not understood, for then nobody knows whom it keeps out.
pub fn network_policy(policy: &NetworkPolicy) -> Result<podway_intent::NetworkPolicy, Problems> {
    let object = title("NetworkPolicy", &policy.metadata);
    finish(object, |findings| policy_into(policy, findings))
}

/// A ClusterNetworkPolicy; a rule that is not understood fails closed (A4), and anything else is a problem.
pub fn cluster_network_policy(
    policy: &ClusterNetworkPolicy,
) -> Result<podway_intent::ClusterNetworkPolicy, Problems> {
    let object = title("ClusterNetworkPolicy", &policy.metadata);
    finish(object, |findings| cluster_policy_into(policy, findings))
}

fn finish<T>(
    object: String,
    convert: impl FnOnce(&mut Findings<'_>) -> Option<T>,
) -> Result<T, Problems> {
    let place = Place::default();
    let mut findings = Findings::new(object, &place);
    let converted = convert(&mut findings);
    for note in &findings.notes {
        tracing::warn!(
            object = note.object,
            field = note.field,
            "left out: {}",
            note.message
        );
    }
    match converted {
        Some(value) if findings.problems.is_empty() => Ok(value),
        Some(_) | None => Err(Problems(findings.problems)),
    }
}

/// The place of a namespaced object.
pub(crate) fn name(metadata: &ObjectMeta) -> Name {
    Name {
        namespace: shared(metadata.namespace.as_ref().or(Some(&"default".to_owned()))),
        name: shared(metadata.name.as_ref()),
    }
}

/// The text, shared; empty if absent.
fn shared(text: Option<&String>) -> Arc<str> {
    text.map(|text| Arc::from(&**text)).unwrap_or_default()
}

fn has_label(metadata: &ObjectMeta, label: &str) -> bool {
    metadata
        .labels
        .as_ref()
        .is_some_and(|labels| labels.contains_key(label))
}
