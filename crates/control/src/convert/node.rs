//! Nodes, namespaces and pods.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Container, Namespace, Node, Pod};
use podway_intent::{HostPort, NamedPort, NamespacePhase, PodNetwork, PodPhase};

use crate::convert::{NAMESPACE_NAME, name, shared};
use crate::fields::{Family, address, labels, port, protocol, range};
use crate::problem::Findings;

pub(crate) fn node_into(node: &Node, findings: &mut Findings<'_>) -> podway_intent::Node {
    let mut addresses: Vec<IpAddr> = Vec::new();
    let entries = node
        .status
        .iter()
        .flat_map(|status| status.addresses.iter().flatten());
    for (index, entry) in entries.enumerate() {
        if entry.type_ != "InternalIP" {
            continue;
        }
        let field = format!("status.addresses[{index}].address");
        let parsed = findings.take_noted(&field, address(&entry.address));
        addresses.extend(parsed.filter(|address| !addresses.contains(address)));
    }
    let spec = node.spec.clone().unwrap_or_default();
    let taints = spec.taints.unwrap_or_default();
    let (field, ranges) = match (spec.pod_cidrs, spec.pod_cidr) {
        (Some(ranges), _) if !ranges.is_empty() => ("spec.podCIDRs", ranges),
        (_, Some(range)) if !range.is_empty() => ("spec.podCIDR", vec![range]),
        _ => ("spec.podCIDRs", Vec::new()),
    };
    let mut pod_ranges: Vec<IpNet> = Vec::new();
    for (index, text) in ranges.iter().enumerate() {
        let field = match field {
            "spec.podCIDR" => field.to_owned(),
            _ => format!("{field}[{index}]"),
        };
        let Some(range) = findings.take_noted(&field, range(text)) else {
            continue;
        };
        let family = Family::of(range.addr());
        if pod_ranges
            .iter()
            .any(|other| Family::of(other.addr()) == family)
        {
            findings.problem(
                &field,
                format!("a second {} range: keep one", family.name()),
            );
            continue;
        }
        pod_ranges.push(range);
    }
    podway_intent::Node {
        name: shared(node.metadata.name.as_ref()),
        labels: labels(node.metadata.labels.as_ref()),
        taints: taints
            .iter()
            .map(|taint| taint.key.as_str().into())
            .collect(),
        addresses,
        pod_ranges,
    }
}

pub(crate) fn namespace_into(namespace: &Namespace) -> podway_intent::Namespace {
    let name = shared(namespace.metadata.name.as_ref());
    let mut labels = labels(namespace.metadata.labels.as_ref());
    labels.insert(NAMESPACE_NAME.into(), name.clone());
    let status = namespace.status.as_ref();
    let says_so = status.and_then(|it| it.phase.as_deref()) == Some("Terminating");
    let phase = match says_so || namespace.metadata.deletion_timestamp.is_some() {
        true => NamespacePhase::Terminating,
        false => NamespacePhase::Active,
    };
    podway_intent::Namespace {
        name,
        labels,
        phase,
    }
}

pub(crate) fn pod_into(pod: &Pod, findings: &mut Findings<'_>) -> podway_intent::Pod {
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    let phase = match status.and_then(|status| status.phase.as_deref()) {
        None | Some("" | "Pending" | "Running" | "Unknown") => {
            match pod.metadata.deletion_timestamp {
                Some(_) => PodPhase::Leaving,
                None => PodPhase::Alive,
            }
        }
        Some("Succeeded" | "Failed") => PodPhase::Ended,
        Some(other) => {
            let expected = "expected Pending, Running, Succeeded, Failed or Unknown";
            findings.problem("status.phase", format!("{expected}, found \"{other}\""));
            PodPhase::Alive
        }
    };
    let network = match spec.and_then(|spec| spec.host_network) {
        Some(true) => PodNetwork::Host,
        Some(false) | None => PodNetwork::Own,
    };
    podway_intent::Pod {
        name: name(&pod.metadata),
        uid: shared(pod.metadata.uid.as_ref()),
        node: spec
            .and_then(|spec| spec.node_name.as_deref())
            .filter(|name| !name.is_empty())
            .map(Arc::from),
        labels: labels(pod.metadata.labels.as_ref()).into(),
        addresses: pod_addresses(pod, findings),
        ports: named_ports(pod, findings).into(),
        host_ports: host_ports(pod, findings),
        network,
        phase,
    }
}

fn pod_addresses(pod: &Pod, findings: &mut Findings<'_>) -> Vec<IpAddr> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let mut texts = Vec::new();
    for (index, entry) in status.pod_ips.iter().flatten().enumerate() {
        texts.push((format!("status.podIPs[{index}].ip"), &entry.ip));
    }
    if let (true, Some(ip)) = (texts.is_empty(), &status.pod_ip) {
        texts.push(("status.podIP".to_owned(), ip));
    }
    let mut addresses: Vec<IpAddr> = Vec::new();
    for (field, text) in texts {
        if text.is_empty() {
            continue;
        }
        let Some(address) = findings.take_noted(&field, address(text)) else {
            continue;
        };
        let family = Family::of(address);
        if addresses.iter().any(|other| Family::of(*other) == family) {
            findings.problem(
                &field,
                format!("a second {} address: keep one", family.name()),
            );
            continue;
        }
        addresses.push(address);
    }
    addresses.shrink_to_fit();
    addresses
}

/// The containers that listen while a pod lives, with their paths: ordinary ones first, then sidecars (KEP-753).
fn containers(pod: &Pod) -> impl Iterator<Item = (String, &Container)> {
    let spec = pod.spec.iter();
    let ordinary = spec
        .clone()
        .flat_map(|spec| spec.containers.iter().enumerate())
        .map(|(index, container)| (format!("spec.containers[{index}]"), container));
    let initial = spec
        .flat_map(|spec| spec.init_containers.iter().flatten().enumerate())
        .filter(|(_, container)| container.restart_policy.as_deref() == Some("Always"))
        .map(|(index, container)| (format!("spec.initContainers[{index}]"), container));
    ordinary.chain(initial)
}

/// The named ports; of those of one name and protocol the first, as Services and policies resolve names.
fn named_ports(pod: &Pod, findings: &mut Findings<'_>) -> Vec<NamedPort> {
    let mut ports: Vec<NamedPort> = Vec::new();
    for (at, container) in containers(pod) {
        for (index, declared) in container.ports.iter().flatten().enumerate() {
            let at = |name: &str| format!("{at}.ports[{index}].{name}");
            let number = findings.take(&at("containerPort"), port(declared.container_port));
            let protocol = findings.take(&at("protocol"), protocol(declared.protocol.as_deref()));
            let name = declared.name.as_deref().filter(|name| !name.is_empty());
            if let (Some(port), Some(protocol), Some(name)) = (number, protocol, name) {
                let is_taken = |it: &NamedPort| *it.name == *name && it.protocol == protocol;
                if !ports.iter().any(is_taken) {
                    let name = name.into();
                    ports.push(NamedPort {
                        name,
                        protocol,
                        port,
                    });
                }
            }
        }
    }
    ports
}

/// The ports of its node that a pod wants; 0 is none, as is every one of a pod on its node's network.
fn host_ports(pod: &Pod, findings: &mut Findings<'_>) -> Vec<HostPort> {
    let mut ports = Vec::new();
    for (at, container) in containers(pod) {
        for (index, declared) in container.ports.iter().flatten().enumerate() {
            let Some(number) = declared.host_port.filter(|number| *number != 0) else {
                continue;
            };
            let at = |name: &str| format!("{at}.ports[{index}].{name}");
            let number = findings.take(&at("hostPort"), port(number));
            let target = port(declared.container_port).ok();
            let protocol = protocol(declared.protocol.as_deref()).ok();
            let asked = declared.host_ip.as_deref().filter(|ip| !ip.is_empty());
            let ip = asked.and_then(|ip| findings.take_noted(&at("hostIP"), address(ip)));
            if let (Some(port), Some(target), Some(protocol)) = (number, target, protocol) {
                let ip = ip.filter(|ip| !ip.is_unspecified());
                ports.push(HostPort {
                    ip,
                    protocol,
                    port,
                    target,
                });
            }
        }
    }
    ports
}
