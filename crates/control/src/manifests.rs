//! A whole cluster from manifests.

use std::path::Path;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{NetworkPolicy, ServiceCIDR};
use podway_intent::Change;

use crate::{ClusterNetworkPolicy, Problems, complete, convert, read};

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
    pub network_policies: Vec<NetworkPolicy>,
    /// ClusterNetworkPolicies.
    pub cluster_network_policies: Vec<ClusterNetworkPolicy>,
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
        let mut changes = Vec::new();
        for node in &self.nodes {
            changes.push(Change::Node(convert::node(node)?));
        }
        for it in &self.service_cidrs {
            changes.push(Change::ServiceCidr(convert::service_cidr(it)?));
        }
        for namespace in &self.namespaces {
            changes.push(Change::Namespace(convert::namespace(namespace)?));
        }
        for pod in &self.pods {
            changes.push(Change::Pod(convert::pod(pod)?));
        }
        for service in &self.services {
            changes.extend(convert::service(service)?.map(Change::Service));
        }
        for slice in &self.endpoint_slices {
            changes.extend(convert::endpoint_slice(slice)?.map(Change::EndpointSlice));
        }
        for policy in &self.network_policies {
            changes.push(Change::NetworkPolicy(convert::network_policy(policy)?));
        }
        for policy in &self.cluster_network_policies {
            let policy = convert::cluster_network_policy(policy)?;
            changes.push(Change::ClusterNetworkPolicy(policy));
        }
        Ok(changes)
    }
}

/// Everything that a file or a directory of manifests says of the cluster; the error is all that is wrong with it.
pub fn load(path: &Path) -> Result<Vec<Change>, Problems> {
    Manifests::read(path)?.changes()
}
