//! Kubernetes objects in `intent`'s words, one at a time and without looking at any other.
//!
//! Objects may come from manifests or from an API server, whose objects can be partial or older than its own rules.
//! What of one is not understood is named, and it is used without; a policy allows less for it, never more (N19).

mod cluster_policy;
mod node;
mod part;
mod policy;
mod service;
mod service_cidr;
mod slice;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use podway_intent::Name;

use crate::object::title;
use crate::problem::Findings;
use crate::{Place, PolicyObject, Problem, Problems};

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

/// What an object means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading<T> {
    /// What holds of it.
    pub value: T,
    /// Whether that is about whom it says.
    pub trust: Trust,
}

/// Whether it is known what an object is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It is, and what of the rest is not understood makes it narrower.
    Understood,
    /// Nobody knows, so the value closes all that it may be about: a good version of before is to be preferred.
    Closed,
}

impl Trust {
    fn of(is_understood: bool) -> Trust {
        match is_understood {
            true => Trust::Understood,
            false => Trust::Closed,
        }
    }
}

impl Trust {
    /// What happens to an object of which something is not understood; it may have been understood before.
    pub(crate) fn consequence(self, before: Before) -> &'static str {
        match (self, before) {
            (Trust::Understood, _) => "it counts as nothing",
            (Trust::Closed, Before::Understood) => "its last good version stays in force",
            (Trust::Closed, Before::Never) => {
                "until it is corrected, all pods that it may be about are closed"
            }
        }
    }
}

/// Whether an object was understood at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    Understood,
    Never,
}

impl Before {
    pub(crate) fn of(is_understood: bool) -> Before {
        match is_understood {
            true => Before::Understood,
            false => Before::Never,
        }
    }
}

/// An object in our words, and what is not as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted<T> {
    /// What it means.
    pub reading: Reading<T>,
    /// What of it is not understood; without that, it is used.
    pub problems: Vec<Problem>,
}

impl<T> Converted<T> {
    /// What holds of the object.
    pub fn value(self) -> T {
        self.reading.value
    }

    pub(crate) fn map<U>(self, into: impl FnOnce(T) -> U) -> Converted<U> {
        Converted {
            reading: Reading {
                value: into(self.reading.value),
                trust: self.reading.trust,
            },
            problems: self.problems,
        }
    }
}

/// A node, without addresses and ranges that are none.
pub fn node(node: &Node) -> Converted<podway_intent::Node> {
    finish(title("Node", &node.metadata), |findings| {
        understood(node_into(node, findings))
    })
}

/// A namespace.
pub fn namespace(namespace: &Namespace) -> Converted<podway_intent::Namespace> {
    finish(title("Namespace", &namespace.metadata), |_| {
        understood(namespace_into(namespace))
    })
}

/// A pod, without addresses and ports that are none.
pub fn pod(pod: &Pod) -> Converted<podway_intent::Pod> {
    finish(title("Pod", &pod.metadata), |findings| {
        understood(pod_into(pod, findings))
    })
}

/// A service, without addresses and ports that are none; `None` if it isn't ours to proxy: headless, ExternalName, or a
/// foreign proxy's (S17).
pub fn service(service: &Service) -> Option<Converted<podway_intent::Service>> {
    let title = || title("Service", &service.metadata);
    service::is_ours(service).then(|| {
        finish(title(), |findings| {
            understood(service_into(service, findings))
        })
    })
}

/// An EndpointSlice; `None` if it has host names (S16), no service, or one that isn't ours to proxy (S17).
///
/// The problems are of one whose addresses are of no family.
pub fn endpoint_slice(
    slice: &EndpointSlice,
) -> Result<Option<Converted<podway_intent::EndpointSlice>>, Problems> {
    if !slice::is_ours(slice) {
        return Ok(None);
    }
    let place = Place::default();
    let object = title("EndpointSlice", &slice.metadata);
    let mut findings = Findings::new(object, &place);
    match slice_into(slice, &mut findings) {
        Some(value) => Ok(Some(Converted {
            reading: understood(value),
            problems: findings.all(),
        })),
        None => Err(Problems(findings.all())),
    }
}

/// A ServiceCIDR, without ranges that are none.
pub fn service_cidr(object: &ServiceCIDR) -> Converted<podway_intent::ServiceCidr> {
    finish(title("ServiceCIDR", &object.metadata), |findings| {
        understood(service_cidr_into(object, findings))
    })
}

/// A NetworkPolicy (N19).
pub fn network_policy(policy: &PolicyObject) -> Converted<podway_intent::NetworkPolicy> {
    let object = title("NetworkPolicy", &policy.metadata);
    finish(object, |findings| policy_into(policy, findings))
}

/// A ClusterNetworkPolicy (N19, A4).
pub fn cluster_network_policy(
    policy: &PolicyObject,
) -> Converted<podway_intent::ClusterNetworkPolicy> {
    let object = title("ClusterNetworkPolicy", &policy.metadata);
    finish(object, |findings| cluster_policy_into(policy, findings))
}

fn understood<T>(value: T) -> Reading<T> {
    Reading {
        value,
        trust: Trust::Understood,
    }
}

fn finish<T>(
    object: String,
    convert: impl FnOnce(&mut Findings<'_>) -> Reading<T>,
) -> Converted<T> {
    let place = Place::default();
    let mut findings = Findings::new(object, &place);
    Converted {
        reading: convert(&mut findings),
        problems: findings.all(),
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
