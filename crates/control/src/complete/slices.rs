//! EndpointSlices as the cluster's controllers make them from services' selectors and from hand-written Endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use podway_intent::{NamedPort, PodPhase};

use crate::Place;
use crate::complete::{Cluster, mirror};
use crate::convert::{HEADLESS, SERVICE_NAME, is_headless, pod_into};
use crate::fields::{Family, family, protocol, protocol_name};
use crate::problem::Findings;

/// The label of a node that says which zone it is in.
const ZONE: &str = "topology.kubernetes.io/zone";

/// The annotations that ask for hints by the capacity of zones, which then decide instead of `trafficDistribution`.
const CAPACITY_HINTS: [&str; 2] = [
    "service.kubernetes.io/topology-aware-hints",
    "service.kubernetes.io/topology-mode",
];

/// Makes the slices of every service that no given slice belongs to: by its selector, or of Endpoints of its name.
pub(super) fn complete(cluster: &mut Cluster) {
    let service_of = |slice: &EndpointSlice| {
        let labels = slice.metadata.labels.as_ref()?;
        Some((
            slice.metadata.namespace.clone(),
            labels.get(SERVICE_NAME)?.clone(),
        ))
    };
    let given: BTreeSet<_> = cluster
        .slices
        .iter()
        .filter_map(|(slice, _)| service_of(slice))
        .collect();
    for (service, place) in &cluster.services {
        let spec = service.spec.clone().unwrap_or_default();
        let has_selector = spec.selector.is_some_and(|selector| !selector.is_empty());
        let name = service.metadata.name.clone().unwrap_or_default();
        let is_given = given.contains(&(service.metadata.namespace.clone(), name));
        if is_given || spec.type_.as_deref() == Some("ExternalName") {
            continue;
        }
        if !has_selector {
            let metadata = &service.metadata;
            let of_service = cluster.endpoints.iter().filter(|(endpoints, _)| {
                endpoints.metadata.namespace == metadata.namespace
                    && endpoints.metadata.name == metadata.name
            });
            for (endpoints, place) in of_service {
                if mirror::is_mirrored(endpoints, service) {
                    let slices = mirror::slices(endpoints).into_iter();
                    cluster
                        .slices
                        .extend(slices.map(|slice| (slice, place.clone())));
                }
            }
            continue;
        }
        let families = spec.ip_families.iter().flatten();
        for family in families.filter_map(|name| family(name).ok()) {
            let slices = slices(service, family, &cluster.pods, &cluster.nodes);
            cluster
                .slices
                .extend(slices.into_iter().map(|slice| (slice, place.clone())));
        }
    }
}

/// A service's port as one pod has it: name, protocol and number.
type Resolved = (Option<String>, &'static str, i32);

/// One slice for every set of numbers that the service's port names stand for.
fn slices(
    service: &Service,
    family: Family,
    pods: &[(Pod, Place)],
    nodes: &[(Node, Place)],
) -> Vec<EndpointSlice> {
    let spec = service.spec.clone().unwrap_or_default();
    let publish = spec.publish_not_ready_addresses == Some(true);
    let distribution = distribution(service);
    let ports = spec.ports.unwrap_or_default();
    let selector = spec.selector.unwrap_or_default();
    let mut groups: BTreeMap<Vec<Resolved>, Vec<Endpoint>> = BTreeMap::new();
    for (pod, place) in pods {
        let labels = pod.metadata.labels.as_ref();
        let label = |key: &String| labels.and_then(|labels| labels.get(key));
        let is_selected = pod.metadata.namespace == service.metadata.namespace
            && selector
                .iter()
                .all(|(key, value)| label(key) == Some(value));
        if !is_selected {
            continue;
        }
        let converted = pod_into(pod, &mut Findings::new(String::new(), place));
        let mut addresses = converted.addresses.iter();
        let address = addresses.find(|address| Family::of(**address) == family);
        let (PodPhase::Alive | PodPhase::Leaving, Some(address)) = (converted.phase, address)
        else {
            continue;
        };
        let resolved: Vec<Resolved> = ports
            .iter()
            .filter_map(|port| resolve(port, &converted.ports))
            .collect();
        // A pod that has none of the ports is no endpoint of a service with ports.
        if resolved.is_empty() && !ports.is_empty() {
            continue;
        }
        let endpoint = endpoint(pod, *address, publish, nodes);
        let endpoint = hinted(endpoint, &distribution);
        groups.entry(resolved).or_default().push(endpoint);
    }
    let groups = groups.into_iter().enumerate();
    groups
        .map(|(index, (ports, endpoints))| slice(service, family, index, ports, endpoints))
        .collect()
}

/// What hints a service's endpoints get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Distribution {
    Everywhere,
    SameZone,
    SameNode,
}

fn distribution(service: &Service) -> Distribution {
    let annotations = service.metadata.annotations.as_ref();
    let mut asked = CAPACITY_HINTS
        .iter()
        .filter_map(|key| annotations?.get(*key));
    if asked
        .next()
        .is_some_and(|value| value == "Auto" || value == "auto")
    {
        return Distribution::Everywhere;
    }
    let spec = service.spec.as_ref();
    match spec.and_then(|spec| spec.traffic_distribution.as_deref()) {
        Some("PreferClose" | "PreferSameZone") => Distribution::SameZone,
        Some("PreferSameNode") => Distribution::SameNode,
        Some(_) | None => Distribution::Everywhere,
    }
}

/// The endpoint with the hints of a ready one: its own zone, and its own node (KEP-4444, KEP-3015).
fn hinted(mut endpoint: Endpoint, distribution: &Distribution) -> Endpoint {
    let conditions = endpoint.conditions.as_ref();
    let is_ready = conditions.and_then(|conditions| conditions.ready) == Some(true);
    let name = endpoint.zone.clone().filter(|_| is_ready);
    let zones = name.map(|name| vec![ForZone { name }]);
    let name = endpoint.node_name.clone().filter(|_| is_ready);
    let nodes = name.map(|name| vec![ForNode { name }]);
    let hints = match distribution {
        Distribution::Everywhere => (None, None),
        Distribution::SameZone => (zones, None),
        Distribution::SameNode => (zones, nodes),
    };
    endpoint.hints = (hints != (None, None)).then_some(EndpointHints {
        for_zones: hints.0,
        for_nodes: hints.1,
    });
    endpoint
}

fn resolve(port: &ServicePort, named: &[NamedPort]) -> Option<Resolved> {
    let protocol = protocol(port.protocol.as_deref()).ok()?;
    let number = match &port.target_port {
        None | Some(IntOrString::Int(0)) => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => {
            let fits = |named: &&NamedPort| *named.name == **name && named.protocol == protocol;
            i32::from(named.iter().find(fits)?.port)
        }
    };
    Some((port.name.clone(), protocol_name(protocol), number))
}

fn slice(
    service: &Service,
    family: Family,
    index: usize,
    ports: Vec<Resolved>,
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let name = service.metadata.name.clone().unwrap_or_default();
    let end = match index {
        0 => String::new(),
        _ => format!("-{index}"),
    };
    let mut labels = BTreeMap::from([(SERVICE_NAME.to_owned(), name.clone())]);
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    // As the controller does, so that a foreign proxy's name reaches the slices too.
    for (key, value) in service.metadata.labels.iter().flatten() {
        labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    let ports = ports
        .into_iter()
        .map(|(name, protocol, port)| EndpointPort {
            app_protocol: None,
            name: Some(name.unwrap_or_default()),
            port: Some(port),
            protocol: Some(protocol.to_owned()),
        });
    EndpointSlice {
        address_type: family.name().to_owned(),
        metadata: ObjectMeta {
            name: Some(format!("{name}-{}{end}", family.name().to_lowercase())),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        ports: Some(ports.collect()),
        endpoints: Some(endpoints),
    }
}

fn endpoint(pod: &Pod, address: IpAddr, publish: bool, nodes: &[(Node, Place)]) -> Endpoint {
    let mut conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let unready = conditions.any(|one| one.type_ == "Ready" && one.status != "True");
    let serving = publish || !unready;
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let node_name = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let node = nodes
        .iter()
        .find(|(node, _)| node.metadata.name == node_name);
    let labels = node.and_then(|(node, _)| node.metadata.labels.as_ref());
    Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(serving && (publish || !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        node_name,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            ..ObjectReference::default()
        }),
        zone: labels.and_then(|labels| labels.get(ZONE)).cloned(),
        ..Endpoint::default()
    }
}
