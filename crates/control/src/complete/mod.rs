//! What the cluster's controllers would add, so that a directory of manifests is a whole cluster.
//!
//! Every agent and the lab do this by themselves over the same directory and must agree: the result depends on
//! the objects only, not on the order of files, and one more object moves as few others as a hash allows.

mod choose;
mod daemon;
mod mirror;
mod nodes;
mod pods;
mod services;
mod slices;
mod workloads;

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Endpoints, Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::convert::NAMESPACE_NAME;
use crate::{Located, Manifests, Object, Place, PolicyObject, Problem, Problems, Workload};

/// The cluster that these objects describe, with what its controllers would add; given values are kept.
///
/// The error is everything that contradicts itself, such as one address given twice.
pub fn complete(mut objects: Vec<Located>) -> Result<Manifests, Problems> {
    objects.sort_by_cached_key(|located| located.object.title());
    let mut cluster = Cluster::default();
    for Located { object, place } in objects {
        match object {
            Object::Node(node) => cluster.nodes.push((*node, place)),
            Object::Namespace(namespace) => cluster.namespaces.push((*namespace, place)),
            Object::Pod(pod) => cluster.pods.push((*pod, place)),
            Object::Workload(workload) => cluster.workloads.push((*workload, place)),
            Object::Service(service) => cluster.services.push((*service, place)),
            Object::EndpointSlice(slice) => cluster.slices.push((*slice, place)),
            Object::Endpoints(endpoints) => cluster.endpoints.push((*endpoints, place)),
            Object::NetworkPolicy(policy) => cluster.policies.push((*policy, place)),
            Object::ClusterNetworkPolicy(policy) => {
                cluster.cluster_policies.push((*policy, place));
            }
            Object::ServiceCidr(it) => cluster.service_cidrs.push((*it, place)),
        }
    }
    nodes::complete(&mut cluster);
    workloads::expand(&mut cluster);
    create_namespaces(&mut cluster);
    pods::complete(&mut cluster);
    services::complete(&mut cluster);
    slices::complete(&mut cluster);

    let problems = std::mem::take(&mut cluster.problems);
    Problems::none_or(problems, cluster.manifests())
}

/// A cluster on its way to completeness, its objects in the order of their names.
#[derive(Default)]
struct Cluster {
    nodes: Vec<(Node, Place)>,
    namespaces: Vec<(Namespace, Place)>,
    pods: Vec<(Pod, Place)>,
    workloads: Vec<(Workload, Place)>,
    services: Vec<(Service, Place)>,
    slices: Vec<(EndpointSlice, Place)>,
    endpoints: Vec<(Endpoints, Place)>,
    policies: Vec<(PolicyObject, Place)>,
    cluster_policies: Vec<(PolicyObject, Place)>,
    service_cidrs: Vec<(ServiceCIDR, Place)>,
    claims: Claims,
    problems: Vec<Problem>,
}

impl Cluster {
    fn manifests(self) -> Manifests {
        fn values<T>(mut located: Vec<(T, Place)>, metadata: fn(&T) -> &ObjectMeta) -> Vec<T> {
            located.sort_by_cached_key(|(value, _)| {
                let metadata = metadata(value);
                (metadata.namespace.clone(), metadata.name.clone())
            });
            located.into_iter().map(|(value, _)| value).collect()
        }
        Manifests {
            nodes: values(self.nodes, |node| &node.metadata),
            namespaces: values(self.namespaces, |namespace| &namespace.metadata),
            pods: values(self.pods, |pod| &pod.metadata),
            services: values(self.services, |service| &service.metadata),
            endpoint_slices: values(self.slices, |slice| &slice.metadata),
            network_policies: values(self.policies, |policy| &policy.metadata),
            cluster_network_policies: values(self.cluster_policies, |policy| &policy.metadata),
            service_cidrs: values(self.service_cidrs, |it| &it.metadata),
        }
    }
}

/// Who has which address.
#[derive(Default)]
struct Claims(HashMap<IpAddr, String>);

impl Claims {
    fn is_free(&self, address: IpAddr) -> bool {
        !self.0.contains_key(&address)
    }

    /// Takes an address that was free.
    fn take(&mut self, address: IpAddr, title: &str) {
        self.0.insert(address, title.to_owned());
    }

    /// Takes an address that a manifest gives, or says who has it already.
    fn take_given(&mut self, address: IpAddr, title: &str, place: &Place) -> Result<(), String> {
        if let Some(owner) = self.0.get(&address) {
            return Err(format!(
                "{address} is in use twice, by {owner} too: change one"
            ));
        }
        self.0.insert(address, format!("{title} ({place})"));
        Ok(())
    }
}

/// The namespaces that objects are in, all with the label of their name.
fn create_namespaces(cluster: &mut Cluster) {
    let name = |metadata: &ObjectMeta| metadata.namespace.clone();
    let mut named: BTreeSet<String> = BTreeSet::new();
    named.extend(
        cluster
            .pods
            .iter()
            .filter_map(|(pod, _)| name(&pod.metadata)),
    );
    named.extend(
        cluster
            .workloads
            .iter()
            .filter_map(|(one, _)| name(one.metadata())),
    );
    named.extend(
        cluster
            .services
            .iter()
            .filter_map(|(service, _)| name(&service.metadata)),
    );
    named.extend(
        cluster
            .slices
            .iter()
            .filter_map(|(slice, _)| name(&slice.metadata)),
    );
    named.extend(
        cluster
            .policies
            .iter()
            .filter_map(|(policy, _)| name(&policy.metadata)),
    );
    for (namespace, _) in &cluster.namespaces {
        named.remove(namespace.metadata.name.as_deref().unwrap_or_default());
    }
    for name in named {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(name);
        cluster.namespaces.push((namespace, Place::default()));
    }
    for (namespace, _) in &mut cluster.namespaces {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        let labels = namespace.metadata.labels.get_or_insert_default();
        labels.insert(NAMESPACE_NAME.to_owned(), name);
    }
}

#[cfg(test)]
mod tests;
