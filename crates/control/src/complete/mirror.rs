//! Hand-written Endpoints as the slices that the cluster's mirroring controller makes of them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::convert::SERVICE_NAME;
use crate::fields::{Family, address};

/// The label, and its value, of Endpoints that are not to be mirrored.
const SKIP: (&str, &str) = ("endpointslice.kubernetes.io/skip-mirror", "true");
/// The annotation of Endpoints that are a lock.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Addresses of a subset that are mirrored at most.
const MAX_ADDRESSES: usize = 1_000;

/// True if the controller makes slices of these Endpoints of a service.
pub(super) fn is_mirrored(endpoints: &Endpoints, service: &Service) -> bool {
    let label = endpoints.metadata.labels.as_ref();
    let label = label.and_then(|labels| labels.get(SKIP.0));
    let annotations = endpoints.metadata.annotations.as_ref();
    let spec = service.spec.as_ref();
    let selector = spec.and_then(|spec| spec.selector.as_ref());
    label.is_none_or(|value| value != SKIP.1)
        && annotations.is_none_or(|annotations| !annotations.contains_key(LEADER))
        && selector.is_none_or(BTreeMap::is_empty)
}

/// A slice for each subset and family.
pub(super) fn slices(endpoints: &Endpoints) -> Vec<EndpointSlice> {
    let mut slices = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        for family in [Family::V4, Family::V6] {
            let members = members(subset, family);
            if !members.is_empty() {
                slices.push(slice(endpoints, subset, family, slices.len(), members));
            }
        }
    }
    slices
}

fn members(subset: &EndpointSubset, family: Family) -> Vec<Endpoint> {
    let ready = subset.addresses.iter().flatten();
    let unready = subset.not_ready_addresses.iter().flatten();
    let all = ready
        .map(|address| (address, true))
        .chain(unready.map(|address| (address, false)));
    let parsed = all.filter_map(|(entry, ready)| Some((entry, address(&entry.ip).ok()?, ready)));
    parsed
        .take(MAX_ADDRESSES)
        .filter(|(_, ip, _)| Family::of(*ip) == family)
        .map(|(entry, ip, ready)| member(entry, ip, ready))
        .collect()
}

fn member(entry: &EndpointAddress, ip: IpAddr, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        hostname: entry.hostname.clone(),
        node_name: entry.node_name.clone(),
        target_ref: entry.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn slice(
    endpoints: &Endpoints,
    subset: &EndpointSubset,
    family: Family,
    index: usize,
    members: Vec<Endpoint>,
) -> EndpointSlice {
    let name = endpoints.metadata.name.clone().unwrap_or_default();
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), name.clone());
    let ports = subset.ports.iter().flatten().map(|port| EndpointPort {
        app_protocol: port.app_protocol.clone(),
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: port.protocol.clone(),
    });
    EndpointSlice {
        address_type: family.name().to_owned(),
        metadata: ObjectMeta {
            name: Some(format!("{name}-mirrored-{index}")),
            namespace: endpoints.metadata.namespace.clone(),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        ports: Some(ports.collect()),
        endpoints: Some(members),
    }
}
