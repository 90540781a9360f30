//! Services: cluster addresses and node ports.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::networking::v1::ServiceCIDR;

use crate::Place;
use crate::complete::{Cluster, choose};
use crate::convert::{is_headless, service_into};
use crate::fields::{Family, family, protocol};
use crate::object::title;
use crate::problem::Findings;
use crate::validate::NODE_PORTS;

/// Where cluster addresses come from unless a manifest gives them, or a ServiceCIDR says otherwise.
const RANGES: [(Family, &str); 2] = [(Family::V4, "10.96.0.0/16"), (Family::V6, "fd96::/112")];

/// Gives every service an address of each of its families, and node ports if its type has them.
pub(super) fn complete(cluster: &mut Cluster) {
    let mut services = std::mem::take(&mut cluster.services);
    let ranges = ranges(&cluster.service_cidrs);
    let mut node_ports = NodePorts::default();
    // Given values first: nothing chosen may be one of them.
    for (service, place) in &services {
        let title = title("Service", &service.metadata);
        let mut findings = Findings::new(title.clone(), place);
        let converted = service_into(service, &mut findings);
        for address in converted.cluster_ips {
            if let Err(message) = cluster.claims.take_given(address, &title, place) {
                cluster
                    .problems
                    .push(place.problem(&title, "spec.clusterIP", message));
            }
        }
        for (field, port) in given_node_ports(service) {
            if let Some(owner) = node_ports.0.get(&port) {
                let message = format!("{} is in use twice, by {owner} too: change one", port.1);
                cluster
                    .problems
                    .push(place.problem(&title, &field, message));
                continue;
            }
            node_ports.0.insert(port, format!("{title} ({place})"));
        }
    }
    for (service, place) in &mut services {
        let title = title("Service", &service.metadata);
        let filled = fill_addresses(service, &title, &ranges, cluster)
            .and_then(|()| node_ports.fill(service, &title));
        if let Err(message) = filled {
            cluster
                .problems
                .push(place.problem(&title, "spec", message));
        }
    }
    cluster.services = services;
}

/// The range of each family: the first that a ServiceCIDR names, in the order of their names (R7).
fn ranges(objects: &[(ServiceCIDR, Place)]) -> [(Family, String); 2] {
    let said = objects.iter().flat_map(|(it, _)| it.spec.iter());
    let said: Vec<String> = said.flat_map(|it| it.cidrs.clone()).flatten().collect();
    RANGES.map(|(family, default)| {
        let is_of_family = |text: &&String| {
            let range: Result<IpNet, _> = text.parse();
            range.is_ok_and(|range| Family::of(range.addr()) == family)
        };
        let named = said.iter().find(is_of_family).cloned();
        (family, named.unwrap_or_else(|| default.to_owned()))
    })
}

fn fill_addresses(
    service: &mut Service,
    title: &str,
    ranges: &[(Family, String); 2],
    cluster: &mut Cluster,
) -> Result<(), String> {
    let is_headless = is_headless(service);
    let spec = service.spec.get_or_insert_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        return Ok(());
    }
    spec.type_.get_or_insert_with(|| "ClusterIP".to_owned());
    let mut addresses = given_addresses(spec);
    let families = families(spec, &addresses);
    spec.ip_families = Some(
        families
            .iter()
            .map(|family| family.name().to_owned())
            .collect(),
    );
    let policy = if families.len() > 1 {
        "PreferDualStack"
    } else {
        "SingleStack"
    };
    spec.ip_family_policy
        .get_or_insert_with(|| policy.to_owned());
    if is_headless {
        return Ok(());
    }
    for family in families.iter().skip(addresses.len()) {
        let [v4, v6] = ranges;
        let (_, range) = if *family == v4.0 { v4 } else { v6 };
        let range: IpNet = range
            .parse()
            .map_err(|_| format!("{range} is not a range"))?;
        let is_free = |address: IpAddr| cluster.claims.is_free(address);
        let address = choose::address(title, &range, is_free)
            .ok_or_else(|| format!("no address of {range} is left: remove a service"))?;
        cluster.claims.take(address, title);
        addresses.push(address);
    }
    spec.cluster_ip = addresses.first().map(IpAddr::to_string);
    spec.cluster_ips = Some(addresses.iter().map(IpAddr::to_string).collect());
    Ok(())
}

fn given_addresses(spec: &ServiceSpec) -> Vec<IpAddr> {
    let texts = match spec.cluster_ips.as_deref() {
        Some(texts @ [_, ..]) => texts,
        Some([]) | None => spec.cluster_ip.as_slice(),
    };
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// The families of a service (KEP-563): those it names, the one of its address first, IPv4 unless it says so.
fn families(spec: &ServiceSpec, given: &[IpAddr]) -> Vec<Family> {
    let named = spec.ip_families.iter().flatten();
    let mut families: Vec<Family> = given.iter().copied().map(Family::of).collect();
    for family in named.filter_map(|name| family(name).ok()) {
        if !families.contains(&family) {
            families.push(family);
        }
    }
    let is_dual = matches!(
        spec.ip_family_policy.as_deref(),
        Some("PreferDualStack" | "RequireDualStack")
    );
    for (family, _) in RANGES {
        if !families.contains(&family) && (is_dual || families.is_empty()) {
            families.push(family);
        }
    }
    families
}

/// Who has which node port, by protocol and number.
#[derive(Default)]
struct NodePorts(BTreeMap<(u8, i32), String>);

/// The protocol that health checks are of.
const TCP: u8 = podway_wire::Protocol::TCP.0;

fn given_node_ports(service: &Service) -> Vec<(String, (u8, i32))> {
    let spec = service.spec.clone().unwrap_or_default();
    let mut given = Vec::new();
    for (index, entry) in spec.ports.iter().flatten().enumerate() {
        let protocol = protocol(entry.protocol.as_deref());
        let number = entry.node_port.filter(|number| *number != 0);
        if let (Ok(protocol), Some(number)) = (protocol, number) {
            given.push((
                format!("spec.ports[{index}].nodePort"),
                (protocol.0, number),
            ));
        }
    }
    let health_check = spec.health_check_node_port.filter(|number| *number != 0);
    given.extend(health_check.map(|number| ("spec.healthCheckNodePort".to_owned(), (TCP, number))));
    given
}

impl NodePorts {
    fn fill(&mut self, service: &mut Service, title: &str) -> Result<(), String> {
        let spec = service.spec.get_or_insert_default();
        let type_ = spec.type_.as_deref();
        let allocates = match type_ {
            Some("NodePort") => true,
            Some("LoadBalancer") => spec.allocate_load_balancer_node_ports != Some(false),
            _ => false,
        };
        for entry in spec.ports.iter_mut().flatten().filter(|_| allocates) {
            let missing = entry.node_port.is_none_or(|number| number == 0);
            let Ok(protocol) = protocol(entry.protocol.as_deref()) else {
                continue;
            };
            if missing {
                let name = format!("{title} {} {protocol}", entry.port);
                entry.node_port = Some(self.choose(&name, protocol.0, title)?);
            }
        }
        let is_local = spec.external_traffic_policy.as_deref() == Some("Local");
        let missing = spec.health_check_node_port.is_none_or(|number| number == 0);
        if type_ == Some("LoadBalancer") && is_local && missing {
            let name = format!("{title} health check");
            spec.health_check_node_port = Some(self.choose(&name, TCP, title)?);
        }
        Ok(())
    }

    fn choose(&mut self, name: &str, protocol: u8, title: &str) -> Result<i32, String> {
        let (first, last) = (*NODE_PORTS.start(), *NODE_PORTS.end());
        let number = |slot: u64| first + slot as i32;
        let slots = (last - first + 1) as u64;
        let is_free = |slot| !self.0.contains_key(&(protocol, number(slot)));
        let slot = choose::slot(name, slots, is_free)
            .ok_or_else(|| format!("no node port of {first}-{last} is left: remove one"))?;
        self.0.insert((protocol, number(slot)), title.to_owned());
        Ok(number(slot))
    }
}
