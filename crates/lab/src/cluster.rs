//! The cluster that a lab is made from: what the manifests say, after the cluster's controllers had their turn.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use k8s_openapi::api::core::v1;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use podway_control::cluster_policy::{ClusterNetworkPolicySpec, Rule, Subject};
use podway_control::{ClusterNetworkPolicy, Manifests, PolicyObject};
use serde::Serialize;

use crate::Error;
use crate::environment::{expand, variables};

pub(crate) type Labels = BTreeMap<String, String>;

#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) pods: Vec<Pod>,
    /// Labels of each namespace.
    pub(crate) namespaces: BTreeMap<String, Labels>,
    pub(crate) services: Vec<v1::Service>,
    pub(crate) slices: Vec<EndpointSlice>,
    pub(crate) policies: Vec<NetworkPolicy>,
    pub(crate) cluster_policies: Vec<ClusterNetworkPolicy>,
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) pod_ranges: Vec<IpNet>,
}

#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) labels: Labels,
    pub(crate) network: Network,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) containers: Vec<Container>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    Own,
    Host,
}

#[derive(Clone, Debug)]
pub(crate) struct Container {
    pub(crate) name: String,
    /// The command line; empty: the image's own, which a lab doesn't have.
    pub(crate) command: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) directory: Option<String>,
    pub(crate) ports: Vec<Port>,
}

#[derive(Clone, Debug)]
pub(crate) struct Port {
    pub(crate) name: Option<String>,
    pub(crate) protocol: Protocol,
    pub(crate) number: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// A protocol as manifests spell it; absent is TCP.
    pub(crate) fn of(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }
}

impl Pod {
    /// `NAMESPACE/NAME`.
    pub(crate) fn title(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    pub(crate) fn ports(&self) -> impl Iterator<Item = &Port> {
        self.containers
            .iter()
            .flat_map(|container| &container.ports)
    }
}

impl Cluster {
    /// The cluster of a directory of manifests, complete.
    pub(crate) fn load(directory: &Path) -> Result<Self, Error> {
        let manifests = Manifests::read(directory);
        manifests
            .map(Self::from)
            .map_err(|problems| Error::Manifests(problems.to_string()))
    }

    pub(crate) fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }
}

impl From<Manifests> for Cluster {
    fn from(manifests: Manifests) -> Self {
        Self {
            nodes: manifests.nodes.into_iter().map(Node::from).collect(),
            pods: manifests.pods.into_iter().filter_map(pod_of).collect(),
            namespaces: manifests.namespaces.into_iter().map(labels_of).collect(),
            services: manifests.services,
            slices: manifests.endpoint_slices,
            policies: manifests.network_policies.iter().map(policy).collect(),
            cluster_policies: manifests
                .cluster_network_policies
                .iter()
                .map(cluster_policy)
                .collect(),
        }
    }
}

/// The policy as its API has it; one that isn't as it should be closes its namespace.
fn policy(written: &PolicyObject) -> NetworkPolicy {
    let both = ["Ingress", "Egress"].map(str::to_owned);
    written.typed().unwrap_or_else(|| NetworkPolicy {
        metadata: written.metadata.clone(),
        spec: Some(NetworkPolicySpec {
            policy_types: Some(both.into()),
            ..NetworkPolicySpec::default()
        }),
    })
}

/// The policy as its API has it; one that isn't as it should be denies everything to everybody.
fn cluster_policy(written: &PolicyObject) -> ClusterNetworkPolicy {
    let deny = || {
        let rule = Rule {
            action: Some("Deny".to_owned()),
            ..Rule::default()
        };
        Some(vec![rule])
    };
    written.typed().unwrap_or_else(|| ClusterNetworkPolicy {
        metadata: written.metadata.clone(),
        spec: ClusterNetworkPolicySpec {
            tier: Some("Admin".to_owned()),
            priority: Some(0),
            subject: Subject {
                namespaces: Some(LabelSelector::default()),
                ..Subject::default()
            },
            ingress: deny(),
            egress: deny(),
        },
        ..ClusterNetworkPolicy::default()
    })
}

fn labels_of(namespace: v1::Namespace) -> (String, Labels) {
    let name = namespace.metadata.name.unwrap_or_default();
    let mut labels = namespace.metadata.labels.unwrap_or_default();
    labels.insert("kubernetes.io/metadata.name".to_owned(), name.clone());
    (name, labels)
}

impl From<v1::Node> for Node {
    fn from(node: v1::Node) -> Self {
        let addresses = node
            .status
            .and_then(|status| status.addresses)
            .unwrap_or_default();
        let internal = addresses
            .iter()
            .filter(|address| address.type_ == "InternalIP");
        let spec = node.spec.unwrap_or_default();
        let ranges = spec
            .pod_cidrs
            .unwrap_or_else(|| spec.pod_cidr.into_iter().collect());
        Self {
            name: node.metadata.name.unwrap_or_default(),
            labels: node.metadata.labels.unwrap_or_default(),
            addresses: internal
                .filter_map(|address| address.address.parse().ok())
                .collect(),
            pod_ranges: ranges
                .iter()
                .filter_map(|range| range.parse().ok())
                .collect(),
        }
    }
}

/// A pod that is alive and on a node.
fn pod_of(pod: v1::Pod) -> Option<Pod> {
    let containers = containers(&pod);
    let spec = pod.spec?;
    let status = pod.status.unwrap_or_default();
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let ips = status.pod_ips.unwrap_or_default();
    let ips: Vec<_> = match ips.is_empty() {
        true => status.pod_ip.into_iter().collect(),
        false => ips.into_iter().map(|ip| ip.ip).collect(),
    };
    Some(Pod {
        namespace: pod
            .metadata
            .namespace
            .unwrap_or_else(|| "default".to_owned()),
        name: pod.metadata.name.unwrap_or_default(),
        node: spec.node_name?,
        labels: pod.metadata.labels.unwrap_or_default(),
        network: match spec.host_network {
            Some(true) => Network::Host,
            Some(false) | None => Network::Own,
        },
        addresses: ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
        containers,
    })
}

/// What runs for as long as the pod does: its containers, and sidecars before them.
fn containers(pod: &v1::Pod) -> Vec<Container> {
    let spec = pod.spec.iter();
    let initial = spec
        .clone()
        .flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecars =
        initial.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let all = sidecars.chain(spec.flat_map(|spec| &spec.containers));
    all.map(|container| container_of(pod, container)).collect()
}

fn container_of(pod: &v1::Pod, container: &v1::Container) -> Container {
    let environment = variables(pod, container);
    let mut command = container.command.clone().unwrap_or_default();
    // Arguments alone belong to the image's command.
    if !command.is_empty() {
        command.extend(container.args.iter().flatten().cloned());
    }
    let ports = container.ports.iter().flatten().cloned();
    Container {
        name: container.name.clone(),
        command: command
            .iter()
            .map(|word| expand(word, &environment))
            .collect(),
        environment,
        directory: container.working_dir.clone(),
        ports: ports.filter_map(port_of).collect(),
    }
}

fn port_of(port: v1::ContainerPort) -> Option<Port> {
    Some(Port {
        name: port.name,
        protocol: Protocol::of(port.protocol.as_deref())?,
        number: u16::try_from(port.container_port).ok()?,
    })
}
