//! Services.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use podway_intent::{Affinity, IpMode, ServicePort, TrafficPolicy};

use crate::convert::{SERVICE_PROXY_NAME, has_label, name};
use crate::fields::{address, port, protocol, range};
use crate::problem::Findings;

/// Seconds that an affinity lasts unless the service says otherwise.
const AFFINITY_TIMEOUT_S: i32 = 10_800;

/// True of services without cluster addresses: headless ones and ExternalName.
pub(crate) fn is_headless(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    let first = spec.and_then(|spec| spec.cluster_ips.as_ref()?.first());
    let cluster_ip = spec.and_then(|spec| spec.cluster_ip.as_ref());
    let none = |address: Option<&String>| address.is_some_and(|address| address == "None");
    none(first) || none(cluster_ip) || is_external_name(service)
}

pub(crate) fn is_external_name(service: &Service) -> bool {
    let type_ = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
    type_ == Some("ExternalName")
}

pub(super) fn is_ours(service: &Service) -> bool {
    !is_headless(service) && !has_label(&service.metadata, SERVICE_PROXY_NAME)
}

pub(crate) fn service_into(
    service: &Service,
    findings: &mut Findings<'_>,
) -> podway_intent::Service {
    let spec = service.spec.clone().unwrap_or_default();
    let type_ = spec.type_.as_deref();
    let outside = match type_ {
        None | Some("" | "ClusterIP" | "ExternalName") => false,
        Some("NodePort" | "LoadBalancer") => true,
        Some(other) => {
            let expected = "expected ClusterIP, NodePort, LoadBalancer or ExternalName";
            findings.problem("spec.type", format!("{expected}, found \"{other}\""));
            false
        }
    };
    let mut policy = |field: &str, text: &Option<String>| {
        findings
            .take(field, traffic_policy(text.as_deref()))
            .unwrap_or_default()
    };
    let internal = policy("spec.internalTrafficPolicy", &spec.internal_traffic_policy);
    let external = policy("spec.externalTrafficPolicy", &spec.external_traffic_policy);
    let affinity = affinity(&spec, findings);
    let ports = ports(&spec, outside, findings);
    let health_check = spec.health_check_node_port.filter(|number| *number != 0);
    let health_check_port =
        health_check.and_then(|number| findings.take("spec.healthCheckNodePort", port(number)));
    let created = service.metadata.creation_timestamp.as_ref();
    podway_intent::Service {
        name: name(&service.metadata),
        created_s: created.map_or(0, |time| time.0.as_second()),
        cluster_ips: cluster_ips(&spec, findings),
        external_ips: addresses("spec.externalIPs", spec.external_ips.as_deref(), findings),
        load_balancer_ips: match type_ {
            Some("LoadBalancer") => load_balancer_ips(service, findings),
            _ => Vec::new(),
        },
        source_ranges: source_ranges(&spec, findings),
        ports,
        internal,
        external,
        affinity,
        health_check_port,
    }
}

fn traffic_policy(text: Option<&str>) -> Result<TrafficPolicy, String> {
    match text {
        None | Some("" | "Cluster") => Ok(TrafficPolicy::Cluster),
        Some("Local") => Ok(TrafficPolicy::Local),
        Some(other) => Err(format!("expected Cluster or Local, found \"{other}\"")),
    }
}

fn affinity(spec: &ServiceSpec, findings: &mut Findings<'_>) -> Affinity {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => Affinity::None,
        Some("ClientIP") => {
            let config = spec.session_affinity_config.as_ref();
            let client_ip = config.and_then(|config| config.client_ip.as_ref());
            let given = client_ip.and_then(|client_ip| client_ip.timeout_seconds);
            let mut seconds = given.unwrap_or(AFFINITY_TIMEOUT_S);
            if !(1..=86_400).contains(&seconds) {
                let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
                findings.problem(field, format!("expected 1-86400 seconds, found {seconds}"));
                seconds = AFFINITY_TIMEOUT_S;
            }
            Affinity::ClientIp {
                timeout_s: seconds as u32,
            }
        }
        Some(other) => {
            let message = format!("expected None or ClientIP, found \"{other}\"");
            findings.problem("spec.sessionAffinity", message);
            Affinity::None
        }
    }
}

fn ports(spec: &ServiceSpec, outside: bool, findings: &mut Findings<'_>) -> Vec<ServicePort> {
    let mut ports = Vec::new();
    for (index, entry) in spec.ports.iter().flatten().enumerate() {
        let at = |name: &str| format!("spec.ports[{index}].{name}");
        let number = findings.take(&at("port"), port(entry.port));
        let protocol = findings.take(&at("protocol"), protocol(entry.protocol.as_deref()));
        let node_port = entry.node_port.filter(|number| *number != 0);
        let node_port = node_port.and_then(|number| findings.take(&at("nodePort"), port(number)));
        if let (Some(port), Some(protocol)) = (number, protocol) {
            ports.push(ServicePort {
                name: entry.name.as_deref().unwrap_or_default().into(),
                protocol,
                port,
                node_port: node_port.filter(|_| outside),
            });
        }
    }
    ports
}

fn cluster_ips(spec: &ServiceSpec, findings: &mut Findings<'_>) -> Vec<IpAddr> {
    match spec.cluster_ips.as_deref() {
        Some(texts @ [_, ..]) => addresses("spec.clusterIPs", Some(texts), findings),
        Some([]) | None => match spec.cluster_ip.as_deref() {
            None | Some("" | "None") => Vec::new(),
            Some(text) => {
                let parsed = findings.take_noted("spec.clusterIP", address(text));
                parsed.into_iter().collect()
            }
        },
    }
}

fn addresses(field: &str, texts: Option<&[String]>, findings: &mut Findings<'_>) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for (index, text) in texts.unwrap_or_default().iter().enumerate() {
        if text == "None" && field == "spec.clusterIPs" {
            continue;
        }
        addresses.extend(findings.take_noted(&format!("{field}[{index}]"), address(text)));
    }
    addresses
}

fn load_balancer_ips(service: &Service, findings: &mut Findings<'_>) -> Vec<(IpAddr, IpMode)> {
    let status = service.status.as_ref();
    let status = status.and_then(|status| status.load_balancer.as_ref());
    let entries = status.and_then(|status| status.ingress.as_deref());
    let mut addresses = Vec::new();
    for (index, entry) in entries.unwrap_or_default().iter().enumerate() {
        let at = |name: &str| format!("status.loadBalancer.ingress[{index}].{name}");
        let Some(ip) = entry.ip.as_deref().filter(|ip| !ip.is_empty()) else {
            continue;
        };
        let mode = match entry.ip_mode.as_deref() {
            None | Some("" | "VIP") => IpMode::Vip,
            Some("Proxy") => IpMode::Proxy,
            Some(other) => {
                let message = format!("expected VIP or Proxy, found \"{other}\"");
                findings.problem(&at("ipMode"), message);
                continue;
            }
        };
        let parsed = findings.take_noted(&at("ip"), address(ip));
        addresses.extend(parsed.map(|address| (address, mode)));
    }
    addresses
}

/// The ranges; without any, all addresses.
///
/// S13, N19: one that is not understood is a range that nobody is in, for none at all would let everybody in.
fn source_ranges(spec: &ServiceSpec, findings: &mut Findings<'_>) -> Vec<IpNet> {
    let texts = spec.load_balancer_source_ranges.iter().flatten();
    let mut ranges = Vec::new();
    for (index, text) in texts.enumerate() {
        let field = format!("spec.loadBalancerSourceRanges[{index}]");
        match findings.take_noted(&field, range(text)) {
            Some(range) => ranges.push(range),
            None => ranges.extend(NOBODY.map(IpNet::from)),
        }
    }
    ranges
}

/// The source of no packet (RFC 1122, 3.2.1.3; RFC 4291, 2.5.2), in both families.
const NOBODY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
];
