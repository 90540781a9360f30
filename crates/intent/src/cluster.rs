//! The current facts about a cluster and this node, without their history.

use std::borrow::Cow;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use podway_tables::SharedMap;
use podway_wire::Mac;

use crate::{
    Attachment, Change, ClusterNetworkPolicy, EndpointSlice, HostRoute, Key, Labels, LinkAddress,
    Name, Namespace, NetworkPolicy, Node, NodeSetup, Pod, Resolved, RouteKey, Service, ServiceCidr,
};

/// The label that every namespace has, whatever its source says.
const METADATA_NAME: &str = "kubernetes.io/metadata.name";

/// What is known of a cluster; a clone shares all objects and is cheap.
///
/// The order in which changes of different objects arrive does not matter, and neither does it that an object
/// refers to one that is not there: both are settled when the facts are compiled.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    pub(crate) nodes: SharedMap<Arc<str>, Arc<Node>>,
    pub(crate) namespaces: SharedMap<Arc<str>, Arc<Namespace>>,
    pub(crate) pods: SharedMap<Name, Arc<Pod>>,
    pub(crate) services: SharedMap<Name, Arc<Service>>,
    pub(crate) slices: SharedMap<Name, Arc<EndpointSlice>>,
    pub(crate) policies: SharedMap<Name, Arc<NetworkPolicy>>,
    pub(crate) cluster_policies: SharedMap<Arc<str>, Arc<ClusterNetworkPolicy>>,
    pub(crate) service_cidrs: SharedMap<Arc<str>, Arc<ServiceCidr>>,
    pub(crate) attachments: SharedMap<Name, Arc<Attachment>>,
    pub(crate) neighbours: SharedMap<IpAddr, Mac>,
    pub(crate) routes: SharedMap<RouteKey, HostRoute>,
    pub(crate) link_neighbours: SharedMap<LinkAddress, Resolved>,
    pub(crate) own_addresses: SharedMap<IpAddr, ()>,
    pub(crate) setup: Option<Arc<NodeSetup>>,
}

impl Cluster {
    /// Takes a change in: afterwards the object is so, or gone.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Node(it) => set(&mut self.nodes, it.name.clone(), it),
            Change::Namespace(it) => set(&mut self.namespaces, it.name.clone(), it),
            Change::Pod(it) => set(&mut self.pods, it.name.clone(), it),
            Change::Service(it) => set(&mut self.services, it.name.clone(), it),
            Change::EndpointSlice(it) => set(&mut self.slices, it.name.clone(), it),
            Change::NetworkPolicy(it) => set(&mut self.policies, it.name.clone(), it),
            Change::ClusterNetworkPolicy(it) => {
                set(&mut self.cluster_policies, it.name.clone(), it);
            }
            Change::ServiceCidr(it) => set(&mut self.service_cidrs, it.name.clone(), it),
            Change::Attachment(it) => set(&mut self.attachments, it.pod.clone(), it),
            Change::Neighbour(addr, mac) => {
                self.neighbours.insert(addr, mac);
            }
            Change::Route(key, route) => drop(self.routes.insert(key, route)),
            Change::LinkNeighbour(key, resolved) => {
                self.link_neighbours.insert(key, resolved);
            }
            Change::OwnAddress(addr) => drop(self.own_addresses.insert(addr, ())),
            Change::Setup(it) => self.setup = Some(Arc::new(it)),
            Change::Gone(key) => self.forget(&key),
        }
    }

    /// The nodes, by name.
    pub fn nodes(&self) -> Vec<&Node> {
        sorted(&self.nodes)
    }

    /// The node with this name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name).map(Arc::as_ref)
    }

    /// The namespaces, by name.
    pub fn namespaces(&self) -> Vec<&Namespace> {
        sorted(&self.namespaces)
    }

    /// The pods of all nodes, by name.
    pub fn pods(&self) -> Vec<&Pod> {
        sorted(&self.pods)
    }

    /// The pod with this name.
    pub fn pod(&self, name: &Name) -> Option<&Pod> {
        self.pods.get(name).map(Arc::as_ref)
    }

    /// The services, by name.
    pub fn services(&self) -> Vec<&Service> {
        sorted(&self.services)
    }

    /// The EndpointSlices, by name.
    pub fn slices(&self) -> Vec<&EndpointSlice> {
        sorted(&self.slices)
    }

    /// The NetworkPolicies, by name.
    pub fn policies(&self) -> Vec<&NetworkPolicy> {
        sorted(&self.policies)
    }

    /// The ClusterNetworkPolicies, by name.
    pub fn cluster_policies(&self) -> Vec<&ClusterNetworkPolicy> {
        sorted(&self.cluster_policies)
    }

    /// The ClusterNetworkPolicy with this name.
    pub fn cluster_policy(&self, name: &Arc<str>) -> Option<&ClusterNetworkPolicy> {
        self.cluster_policies.get(name).map(Arc::as_ref)
    }

    /// The labels of a namespace, its name among them even if nobody told us about it (N16).
    pub fn namespace_labels(&self, name: &Arc<str>) -> Cow<'_, Labels> {
        let known = self.namespaces.get(name).map(|it| &it.labels);
        if let Some(labels) = known.filter(|labels| labels.get(METADATA_NAME) == Some(name)) {
            return Cow::Borrowed(labels);
        }
        let mut labels = known.cloned().unwrap_or_default();
        labels.insert(METADATA_NAME.into(), name.clone());
        Cow::Owned(labels)
    }

    /// The ServiceCIDRs, by name.
    pub fn service_cidrs(&self) -> Vec<&ServiceCidr> {
        sorted(&self.service_cidrs)
    }

    /// The ranges that cluster addresses are given from, in order: those of the ServiceCIDRs where there are any, else the set-up's (R7).
    pub fn service_ranges(&self) -> Vec<IpNet> {
        let said = self.service_cidrs();
        let set = self.setup().map_or(&[][..], |setup| &setup.service_ranges);
        let mut ranges: Vec<IpNet> = match said.is_empty() {
            true => set.iter().map(IpNet::trunc).collect(),
            false => {
                let all = said.iter().flat_map(|it| &it.ranges);
                all.map(IpNet::trunc).collect()
            }
        };
        ranges.sort_unstable();
        ranges.dedup();
        ranges
    }

    /// The devices of pods on this node, by pod.
    pub fn attachments(&self) -> Vec<&Attachment> {
        sorted(&self.attachments)
    }

    /// The next hop towards an address.
    pub fn neighbour(&self, addr: &IpAddr) -> Option<Mac> {
        self.neighbours.get(addr).copied()
    }

    /// What the node's kernel says of the world, as the changes that make it so.
    pub fn host_facts(&self) -> Vec<Change> {
        let routes = self.routes.iter();
        let neighbours = self.link_neighbours.iter();
        let own = self.own_addresses.iter();
        routes
            .map(|(key, route)| Change::Route(*key, *route))
            .chain(neighbours.map(|(key, it)| Change::LinkNeighbour(*key, *it)))
            .chain(own.map(|(ip, ())| Change::OwnAddress(*ip)))
            .collect()
    }

    /// What this node is made of; `None` until the agent has said so.
    pub fn setup(&self) -> Option<&NodeSetup> {
        self.setup.as_deref()
    }

    fn forget(&mut self, key: &Key) {
        match key {
            Key::Node(name) => drop(self.nodes.remove(name)),
            Key::Namespace(name) => drop(self.namespaces.remove(name)),
            Key::Pod(name) => drop(self.pods.remove(name)),
            Key::Service(name) => drop(self.services.remove(name)),
            Key::EndpointSlice(name) => drop(self.slices.remove(name)),
            Key::NetworkPolicy(name) => drop(self.policies.remove(name)),
            Key::ClusterNetworkPolicy(name) => drop(self.cluster_policies.remove(name)),
            Key::ServiceCidr(name) => drop(self.service_cidrs.remove(name)),
            Key::Attachment(pod) => drop(self.attachments.remove(pod)),
            Key::Neighbour(addr) => drop(self.neighbours.remove(addr)),
            Key::Route(key) => drop(self.routes.remove(key)),
            Key::LinkNeighbour(key) => drop(self.link_neighbours.remove(key)),
            Key::OwnAddress(addr) => drop(self.own_addresses.remove(addr)),
            Key::Setup => self.setup = None,
        }
    }
}

/// An object that is what it was stays the same one, so that a repetition counts as no change.
fn set<K: Hash + Eq + Clone, V: Eq>(map: &mut SharedMap<K, Arc<V>>, key: K, value: V) {
    if map.get(&key).is_none_or(|old| **old != value) {
        map.insert(key, Arc::new(value));
    }
}

fn sorted<K: Hash + Ord + Clone, V>(map: &SharedMap<K, Arc<V>>) -> Vec<&V> {
    let mut all: Vec<(&K, &Arc<V>)> = map.iter().collect();
    all.sort_unstable_by_key(|(key, _)| *key);
    all.into_iter().map(|(_, value)| value.as_ref()).collect()
}
