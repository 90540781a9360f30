//! EndpointSlices.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use podway_intent::{Name, Serving, SlicePort};

use crate::convert::{HEADLESS, SERVICE_NAME, SERVICE_PROXY_NAME, has_label, name};
use crate::fields::{Family, address, family, port, protocol};
use crate::problem::Findings;

pub(super) fn is_ours(slice: &EndpointSlice) -> bool {
    slice.address_type != "FQDN"
        && has_label(&slice.metadata, SERVICE_NAME)
        && !has_label(&slice.metadata, HEADLESS)
        && !has_label(&slice.metadata, SERVICE_PROXY_NAME)
}

pub(crate) fn slice_into(
    slice: &EndpointSlice,
    findings: &mut Findings<'_>,
) -> Option<podway_intent::EndpointSlice> {
    let family = findings.take("addressType", family(&slice.address_type))?;
    let labels = slice.metadata.labels.as_ref();
    let service = labels.and_then(|labels| labels.get(SERVICE_NAME));
    let name = name(&slice.metadata);
    let mut endpoints = Vec::new();
    for (index, entry) in slice.endpoints.iter().flatten().enumerate() {
        let address = first_address(entry, family, &format!("endpoints[{index}]"), findings);
        endpoints.extend(address.map(|address| endpoint(entry, address, &name)));
    }
    endpoints.shrink_to_fit();
    Some(podway_intent::EndpointSlice {
        service: Name {
            namespace: name.namespace.clone(),
            name: service.map_or_else(|| "".into(), |service| (**service).into()),
        },
        name,
        ports: ports(slice, findings),
        endpoints,
    })
}

fn ports(slice: &EndpointSlice, findings: &mut Findings<'_>) -> Vec<SlicePort> {
    let mut ports = Vec::new();
    for (index, entry) in slice.ports.iter().flatten().enumerate() {
        let at = |name: &str| format!("ports[{index}].{name}");
        let protocol = findings.take(&at("protocol"), protocol(entry.protocol.as_deref()));
        // S15: a port without a number stands for none.
        let Some(number) = entry.port else { continue };
        let number = findings.take(&at("port"), port(number));
        if let (Some(port), Some(protocol)) = (number, protocol) {
            let name = entry.name.as_deref().unwrap_or_default().into();
            ports.push(SlicePort {
                name,
                protocol,
                port,
            });
        }
    }
    ports
}

/// The first address of an endpoint that is one; all are looked at.
fn first_address(
    endpoint: &Endpoint,
    family: Family,
    at: &str,
    findings: &mut Findings<'_>,
) -> Option<IpAddr> {
    let mut first = None;
    for (index, text) in endpoint.addresses.iter().enumerate() {
        let parse = |text: &str| match address(text)? {
            address if Family::of(address) == family => Ok(address),
            _ => Err(format!(
                "expected an {} address, found {text}",
                family.name()
            )),
        };
        let field = format!("{at}.addresses[{index}]");
        first = first.or(findings.take_noted(&field, parse(text)));
    }
    first
}

fn endpoint(entry: &Endpoint, address: IpAddr, slice: &Name) -> podway_intent::Endpoint {
    let conditions = entry.conditions.clone().unwrap_or_default();
    // S16: an absent `ready` means ready, and so does an absent `serving`; an absent `terminating` means not. One that
    // says that it doesn't serve has not left `ready` out to say the opposite.
    let serving = conditions.serving.unwrap_or(true);
    let ready = conditions.ready.unwrap_or(serving);
    let terminating = conditions.terminating.unwrap_or(false);
    let serving = match (ready, serving, terminating) {
        (true, _, _) => Serving::Ready,
        (false, true, true) => Serving::Terminating,
        (false, true, false) => Serving::Unready,
        (false, false, _) => Serving::No,
    };
    let pod = entry
        .target_ref
        .as_ref()
        .filter(|target| target.kind.as_deref() == Some("Pod"));
    let hints = entry.hints.clone().unwrap_or_default();
    let node = entry.node_name.as_deref().filter(|name| !name.is_empty());
    podway_intent::Endpoint {
        address,
        serving,
        node: node.map(Arc::from),
        pod: pod.and_then(|target| {
            let namespace = target.namespace.as_deref().map(Arc::from);
            Some(Name {
                namespace: namespace.unwrap_or_else(|| slice.namespace.clone()),
                name: target.name.as_deref()?.into(),
            })
        }),
        zone_hints: hints
            .for_zones
            .iter()
            .flatten()
            .map(|zone| Arc::from(&*zone.name))
            .collect(),
        node_hints: hints
            .for_nodes
            .iter()
            .flatten()
            .map(|node| Arc::from(&*node.name))
            .collect(),
    }
}
