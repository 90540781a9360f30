//! What an API server checks beyond types, so that a manifest that is accepted here means something.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Endpoints, Pod, PodSpec, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::convert::{
    cluster_policy_into, is_headless, node_into, pod_into, policy_into, service_cidr_into,
    service_into, slice_into,
};
use crate::fields::{
    Family, address, dns_label, dns_subdomain, family, label_key, label_value, port, port_name,
    protocol, selector,
};
use crate::object::is_stored;
use crate::problem::Findings;
use crate::workload::Count;
use crate::{Located, Object, Problem, Workload};

/// Node ports that are chosen from, as an API server does by default; given ones may be any.
pub(crate) const NODE_PORTS: std::ops::RangeInclusive<i32> = 30_000..=32_767;

/// Pods that one workload may ask for.
const MAX_REPLICAS: i32 = 1_000;

/// Adds everything that is wrong with the object; what it is used without, though it is right, is named in the log.
pub(crate) fn validate(located: &Located, problems: &mut Vec<Problem>) {
    let Located { object, place } = located;
    let mut findings = Findings::new(object.title(), place);
    metadata(object, &mut findings);
    match object {
        Object::Namespace(_) => {}
        Object::Node(node) => drop(node_into(node, &mut findings)),
        Object::Pod(pod) => validate_pod(pod, &mut findings),
        Object::Service(service) => validate_service(service, &mut findings),
        Object::EndpointSlice(slice) => validate_slice(slice, &mut findings),
        Object::NetworkPolicy(policy) => drop(policy_into(policy, &mut findings)),
        Object::ClusterNetworkPolicy(policy) => drop(cluster_policy_into(policy, &mut findings)),
        Object::ServiceCidr(it) => drop(service_cidr_into(it, &mut findings)),
        Object::Endpoints(endpoints) => validate_endpoints(endpoints, &mut findings),
        Object::Workload(workload) => {
            validate_workload(workload, &mut findings);
            let place = place.inside(workload.template_field());
            let mut findings = Findings::new(object.title(), &place);
            validate_pod(&workload.pod(), &mut findings);
            take(object, findings, problems);
        }
    }
    take(object, findings, problems);
}

fn take(object: &Object, findings: Findings<'_>, problems: &mut Vec<Problem>) {
    let Findings {
        problems: mut wrong,
        mut notes,
        mut remarks,
        ..
    } = findings;
    wrong.append(&mut notes);
    // An API server took what it gave out, whatever one would say of it now.
    match is_stored(object.metadata()) {
        true => remarks.append(&mut wrong),
        false => problems.append(&mut wrong),
    }
    for remark in remarks {
        tracing::warn!("{remark}: it counts as nothing");
    }
}

fn metadata(object: &Object, findings: &mut Findings<'_>) {
    let metadata = object.metadata();
    match metadata.name.as_deref() {
        None | Some("") => findings.problem("metadata.name", "is missing: give the object a name"),
        Some(name) => {
            let checked = match object {
                Object::Namespace(_) | Object::Service(_) => dns_label(name),
                Object::Node(_)
                | Object::Pod(_)
                | Object::Workload(_)
                | Object::Endpoints(_)
                | Object::EndpointSlice(_)
                | Object::NetworkPolicy(_)
                | Object::ClusterNetworkPolicy(_)
                | Object::ServiceCidr(_) => dns_subdomain(name),
            };
            findings.take("metadata.name", checked);
        }
    }
    if let Some(namespace) = &metadata.namespace {
        findings.take("metadata.namespace", dns_label(namespace));
    }
    labels(metadata, findings);
}

fn labels(metadata: &ObjectMeta, findings: &mut Findings<'_>) {
    for (key, value) in metadata.labels.iter().flatten() {
        let field = format!("metadata.labels.{key}");
        findings.take(&field, label_key(key));
        findings.take(&field, label_value(value));
    }
}

fn validate_workload(workload: &Workload, findings: &mut Findings<'_>) {
    let count = match workload.count() {
        Count::Any(count) | Count::From(_, count) => count,
        Count::EachNode => 0,
    };
    if !(0..=MAX_REPLICAS).contains(&count) {
        let message = format!("expected 0-{MAX_REPLICAS}, found {count}");
        findings.problem(workload.count_field(), message);
    }
    let template = workload.pod().metadata;
    labels(&template, findings);
    let Some(given) = workload.selector() else {
        return;
    };
    let Some(selector) = selector(&given, "spec.selector", findings) else {
        return;
    };
    let labels = crate::fields::labels(template.labels.as_ref());
    let field = workload.template_field();
    if selector.requirements.is_empty() {
        let message = format!("is empty: give it the labels of {field}.metadata.labels");
        findings.problem("spec.selector", message);
    } else if !selector.matches(&labels) && !matches!(workload, Workload::Job(_)) {
        let message = format!("doesn't match {field}.metadata.labels: give both the same labels");
        findings.problem("spec.selector", message);
    }
}

fn validate_pod(pod: &Pod, findings: &mut Findings<'_>) {
    pod_into(pod, findings);
    let spec = pod.spec.clone().unwrap_or_default();
    if spec.containers.is_empty() {
        findings.problem(
            "spec.containers",
            "is empty: a pod has at least one container",
        );
    }
    if let Some(node) = &spec.node_name {
        findings.take("spec.nodeName", dns_subdomain(node));
    }
    let mut names = BTreeSet::new();
    for (index, container) in spec.containers.iter().enumerate() {
        let at = format!("spec.containers[{index}]");
        findings.take(&format!("{at}.name"), dns_label(&container.name));
        if !names.insert(&container.name) {
            let message = format!("\"{}\" is there twice: rename one", container.name);
            findings.problem(&format!("{at}.name"), message);
        }
        validate_container(container, &at, findings);
    }
    host_ports(&spec, findings);
}

fn validate_container(container: &Container, at: &str, findings: &mut Findings<'_>) {
    // Of one container only: of several that name a port alike, the first one's counts.
    let mut port_names = BTreeSet::new();
    for (index, declared) in container.ports.iter().flatten().enumerate() {
        let Some(name) = &declared.name else { continue };
        let field = format!("{at}.ports[{index}].name");
        findings.take(&field, port_name(name));
        if !port_names.insert(name) {
            findings.problem(&field, format!("\"{name}\" is there twice: rename one"));
        }
    }
    for (index, entry) in container.env.iter().flatten().enumerate() {
        if entry.name.is_empty() || entry.name.contains('=') {
            let message = format!("expected a variable's name, found \"{}\"", entry.name);
            findings.problem(&format!("{at}.env[{index}].name"), message);
        }
    }
}

fn host_ports(spec: &PodSpec, findings: &mut Findings<'_>) {
    for (outer, container) in spec.containers.iter().enumerate() {
        for (inner, declared) in container.ports.iter().flatten().enumerate() {
            let Some(number) = declared.host_port.filter(|number| *number != 0) else {
                continue;
            };
            let field = format!("spec.containers[{outer}].ports[{inner}].hostPort");
            findings.take(&field, port(number));
        }
    }
}

fn validate_service(service: &Service, findings: &mut Findings<'_>) {
    service_into(service, findings);
    let spec = service.spec.clone().unwrap_or_default();
    for (key, value) in spec.selector.iter().flatten() {
        let field = format!("spec.selector.{key}");
        findings.take(&field, label_key(key));
        findings.take(&field, label_value(value));
    }
    match spec.type_.as_deref() {
        Some("ExternalName") => {
            if spec.external_name.as_deref().is_none_or(str::is_empty) {
                findings.problem("spec.externalName", "is missing: name a host");
            }
            return;
        }
        Some("NodePort" | "LoadBalancer") if is_headless(service) => {
            let message = "None needs type ClusterIP: change one of both";
            findings.problem("spec.clusterIP", message);
        }
        _ => {}
    }
    service_ports(&spec, is_headless(service), findings);
    families(&spec, findings);
}

fn service_ports(spec: &ServiceSpec, is_headless: bool, findings: &mut Findings<'_>) {
    let ports = spec.ports.as_deref().unwrap_or_default();
    if ports.is_empty() && !is_headless {
        findings.problem("spec.ports", "is empty: a service has at least one port");
    }
    let is_outside = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    for (index, entry) in ports.iter().enumerate() {
        let at = |name: &str| format!("spec.ports[{index}].{name}");
        let name = entry.name.as_deref().unwrap_or_default();
        if !name.is_empty() {
            findings.take(&at("name"), dns_label(name));
        } else if ports.len() > 1 {
            findings.problem(
                &at("name"),
                "is missing: with several ports, each has a name",
            );
        }
        if !names.insert(name) && !name.is_empty() {
            findings.problem(
                &at("name"),
                format!("\"{name}\" is there twice: rename one"),
            );
        }
        let parsed = protocol(entry.protocol.as_deref());
        if parsed.is_ok_and(|protocol| !numbers.insert((entry.port, protocol))) {
            let message = format!(
                "{} is there twice with this protocol: change one",
                entry.port
            );
            findings.problem(&at("port"), message);
        }
        match &entry.target_port {
            Some(IntOrString::Int(number)) => drop(findings.take(&at("targetPort"), port(*number))),
            Some(IntOrString::String(name)) => {
                findings.take(&at("targetPort"), port_name(name));
            }
            None => {}
        }
        if !is_outside && entry.node_port.is_some_and(|number| number != 0) {
            let message = "needs spec.type NodePort or LoadBalancer";
            findings.problem(&at("nodePort"), message);
        }
    }
}

fn families(spec: &ServiceSpec, findings: &mut Findings<'_>) {
    let policy = spec.ip_family_policy.as_deref();
    if !matches!(
        policy,
        None | Some("SingleStack" | "PreferDualStack" | "RequireDualStack")
    ) {
        let expected = "expected SingleStack, PreferDualStack or RequireDualStack";
        let found = policy.unwrap_or_default();
        findings.problem(
            "spec.ipFamilyPolicy",
            format!("{expected}, found \"{found}\""),
        );
    }
    let mut wanted = Vec::new();
    for (index, name) in spec.ip_families.iter().flatten().enumerate() {
        let field = format!("spec.ipFamilies[{index}]");
        if let Some(family) = findings.take(&field, family(name)) {
            if wanted.contains(&family) {
                findings.problem(&field, format!("{name} is there twice: remove one"));
            }
            wanted.push(family);
        }
    }
    if wanted.len() > 1 && matches!(policy, None | Some("SingleStack")) {
        let message = "expected PreferDualStack or RequireDualStack for two ipFamilies";
        findings.problem("spec.ipFamilyPolicy", message);
    }
    let given = spec.cluster_ips.as_deref().unwrap_or_default();
    if let (Some(cluster_ip), Some(first)) = (&spec.cluster_ip, given.first())
        && cluster_ip != first
    {
        let message = format!("expected {cluster_ip} as in spec.clusterIP, found {first}");
        findings.problem("spec.clusterIPs[0]", message);
    }
    let mut seen: Vec<Family> = Vec::new();
    for (index, text) in given.iter().enumerate() {
        let Ok(address) = address(text) else { continue };
        let family = Family::of(address);
        let field = format!("spec.clusterIPs[{index}]");
        if seen.contains(&family) {
            findings.problem(
                &field,
                format!("a second {} address: keep one", family.name()),
            );
        } else if wanted.get(index).is_some_and(|wanted| *wanted != family) {
            let message = format!("{text} is not of the family that spec.ipFamilies has here");
            findings.problem(&field, message);
        }
        seen.push(family);
    }
}

fn validate_slice(slice: &EndpointSlice, findings: &mut Findings<'_>) {
    if slice.address_type == "FQDN" {
        return;
    }
    slice_into(slice, findings);
    for (index, endpoint) in slice.endpoints.iter().flatten().enumerate() {
        if endpoint.addresses.is_empty() {
            let field = format!("endpoints[{index}].addresses");
            findings.problem(&field, "is empty: an endpoint has at least one address");
        }
        for (inner, text) in endpoint.addresses.iter().enumerate() {
            // S25 (CVE-2021-25737).
            if address(text).is_ok_and(is_special) {
                let field = format!("endpoints[{index}].addresses[{inner}]");
                let message = format!(
                    "{text} is loopback, link-local, multicast or unspecified: no endpoint can be there"
                );
                findings.problem(&field, message);
            }
        }
    }
}

fn validate_endpoints(endpoints: &Endpoints, findings: &mut Findings<'_>) {
    for (outer, subset) in endpoints.subsets.iter().flatten().enumerate() {
        let lists = [
            ("addresses", &subset.addresses),
            ("notReadyAddresses", &subset.not_ready_addresses),
        ];
        for (list, entries) in lists {
            for (inner, entry) in entries.iter().flatten().enumerate() {
                let field = format!("subsets[{outer}].{list}[{inner}].ip");
                let parsed = findings.take(&field, address(&entry.ip));
                if parsed.is_some_and(is_special) {
                    let ip = &entry.ip;
                    let message = format!(
                        "{ip} is loopback, link-local, multicast or unspecified: no endpoint can be there"
                    );
                    findings.problem(&field, message);
                }
            }
        }
        for (inner, entry) in subset.ports.iter().flatten().enumerate() {
            let at = |name: &str| format!("subsets[{outer}].ports[{inner}].{name}");
            findings.take(&at("port"), port(entry.port));
            findings.take(&at("protocol"), protocol(entry.protocol.as_deref()));
        }
    }
}

fn is_special(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    link_local || address.is_loopback() || address.is_multicast() || address.is_unspecified()
}
