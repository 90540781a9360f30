//! A whole cluster from manifests.

use std::path::Path;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use podway_intent::Change;

use crate::convert::Converted;
use crate::{PolicyObject, Problems, complete, convert, read};

/// The objects of a cluster, completed and each kind in the order of namespaces and names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifests {
    /// Nodes, with InternalIP and pod ranges.
    pub nodes: Vec<Node>,
    /// Namespaces, all that objects are in.
    pub namespaces: Vec<Namespace>,
    /// Pods, those of Deployments too, with nodes and addresses.
    pub pods: Vec<Pod>,
    /// Services, with cluster addresses and node ports.
    pub services: Vec<Service>,
    /// EndpointSlices, given or made from selectors.
    pub endpoint_slices: Vec<EndpointSlice>,
    /// NetworkPolicies.
    pub network_policies: Vec<PolicyObject>,
    /// ClusterNetworkPolicies.
    pub cluster_network_policies: Vec<PolicyObject>,
    /// ServiceCIDRs.
    pub service_cidrs: Vec<ServiceCIDR>,
}

impl Manifests {
    /// The cluster that a file or a directory describes; the error is all that is wrong with it.
    pub fn read(path: &Path) -> Result<Manifests, Problems> {
        complete(read(path)?)
    }

    /// Everything that leads from nothing to this cluster.
    pub fn changes(&self) -> Result<Vec<Change>, Problems> {
        Ok(self.facts()?.into_iter().map(Converted::value).collect())
    }

    /// What each object means.
    pub(crate) fn facts(&self) -> Result<Vec<Converted<Change>>, Problems> {
        let mut facts = Vec::new();
        for node in &self.nodes {
            facts.push(convert::node(node).map(Change::Node));
        }
        for it in &self.service_cidrs {
            facts.push(convert::service_cidr(it).map(Change::ServiceCidr));
        }
        for namespace in &self.namespaces {
            facts.push(convert::namespace(namespace).map(Change::Namespace));
        }
        for pod in &self.pods {
            facts.push(convert::pod(pod).map(Change::Pod));
        }
        for service in &self.services {
            facts.extend(convert::service(service).map(|it| it.map(Change::Service)));
        }
        for slice in &self.endpoint_slices {
            facts.extend(convert::endpoint_slice(slice)?.map(|it| it.map(Change::EndpointSlice)));
        }
        for policy in &self.network_policies {
            facts.push(convert::network_policy(policy).map(Change::NetworkPolicy));
        }
        for policy in &self.cluster_network_policies {
            facts.push(convert::cluster_network_policy(policy).map(Change::ClusterNetworkPolicy));
        }
        Ok(facts)
    }
}

/// Everything that a file or a directory of manifests says of the cluster; the error is all that is wrong with it.
pub fn load(path: &Path) -> Result<Vec<Change>, Problems> {
    Manifests::read(path)?.changes()
}
