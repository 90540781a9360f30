//! Which addresses and ports a service wants to answer at on this node.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use podway_tables::{FrontendKind, ServiceKey};
use podway_wire::Addr;

use crate::round::Round;
use crate::{IpMode, LocalhostNodePorts, Name, Service, ServicePort};

/// The label that names a node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// What services ask of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Site {
    /// Its name.
    pub(super) node: Arc<str>,
    /// Its zone; an empty label is none.
    pub(super) zone: Option<Arc<str>>,
    /// Its first address of each family.
    pub(super) primary: Vec<IpAddr>,
    /// All of its addresses.
    pub(super) addresses: Vec<IpAddr>,
    /// The addresses that answer node ports (S12).
    node_ports: Vec<IpAddr>,
    /// Where external IPs may be (S23).
    external_ips: Vec<IpNet>,
}

/// That a service wants a key; the first in order gets it (S24).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    pub(super) created_s: i64,
    pub(super) service: Name,
    pub(super) kind: FrontendKind,
    /// Its place among the service's ports.
    pub(super) port: usize,
    /// The cluster address and port, by which a service port is known.
    pub(super) home: ServiceKey,
}

impl Site {
    pub(super) fn of(round: &Round<'_>) -> Site {
        let own = round.now.nodes.get(round.node);
        let addresses = own.map_or(&[][..], |own| &own.addresses);
        let first = |v4: bool| addresses.iter().find(|ip| ip.is_ipv4() == v4).copied();
        let primary: Vec<IpAddr> = [first(true), first(false)].into_iter().flatten().collect();
        let zone = own.and_then(|own| own.labels.get(ZONE));
        let setup = round.now.setup();
        let mut node_ports = match setup.map_or(&[][..], |setup| &setup.node_port_addresses) {
            [] => primary.clone(),
            // KEP-3866: of all addresses that the node has, whether or not its object names them.
            ranges => chosen(&with_kernels(addresses, round), ranges),
        };
        match setup.map(|setup| setup.localhost_node_ports) {
            None | Some(LocalhostNodePorts::Closed) => {}
            Some(LocalhostNodePorts::Open) => node_ports.push([127, 0, 0, 1].into()),
        }
        Site {
            node: round.node.clone(),
            zone: zone.filter(|zone| !zone.is_empty()).cloned(),
            primary,
            addresses: addresses.to_vec(),
            node_ports,
            external_ips: setup.map_or_else(Vec::new, |setup| setup.allowed_external_ips.clone()),
        }
    }

    /// The external IPs of a service that nobody allowed.
    pub(super) fn refused(&self, service: &Service) -> Vec<IpAddr> {
        let all = service.external_ips.iter().copied();
        all.filter(|ip| !self.allows(ip)).collect()
    }

    fn allows(&self, ip: &IpAddr) -> bool {
        self.external_ips.iter().any(|range| range.contains(ip))
    }
}

/// The addresses that the Node object names, and then the others that the kernel has, in order.
fn with_kernels(told: &[IpAddr], round: &Round<'_>) -> Vec<IpAddr> {
    let kernels = round.now.own_addresses.iter().map(|(ip, ())| *ip);
    let mut others: Vec<IpAddr> = kernels.filter(|ip| !told.contains(ip)).collect();
    others.sort_unstable();
    [told, &others].concat()
}

fn chosen(addresses: &[IpAddr], ranges: &[IpNet]) -> Vec<IpAddr> {
    let inside = |ip: &&IpAddr| ranges.iter().any(|range| range.contains(*ip));
    let fit = addresses.iter().filter(|ip| !ip.is_loopback());
    fit.filter(inside).copied().collect()
}

/// The keys that a service wants, each family for itself: without a cluster address there is no service in it (S16).
pub(super) fn claims(service: &Service, site: &Site) -> Vec<(ServiceKey, Claim)> {
    let mut all = Vec::new();
    for (place, port) in service.ports.iter().enumerate() {
        for cluster_ip in &service.cluster_ips {
            let home = key(cluster_ip, port.port, port);
            let mut claim = |kind, key| {
                let claim = Claim {
                    created_s: service.created_s,
                    service: service.name.clone(),
                    kind,
                    port: place,
                    home,
                };
                all.push((key, claim));
            };
            claim(FrontendKind::ClusterIp, home);
            let same_family = |ip: &&IpAddr| ip.is_ipv4() == cluster_ip.is_ipv4();
            for (ip, mode) in &service.load_balancer_ips {
                match mode {
                    IpMode::Vip if same_family(&ip) => {
                        claim(FrontendKind::LoadBalancer, key(ip, port.port, port));
                    }
                    // S9: an address that is a proxy's is not ours to capture.
                    IpMode::Vip | IpMode::Proxy => {}
                }
            }
            let external = service.external_ips.iter().filter(same_family);
            for ip in external.filter(|ip| site.allows(ip)) {
                claim(FrontendKind::ExternalIp, key(ip, port.port, port));
            }
            if let Some(node_port) = port.node_port {
                for ip in site.node_ports.iter().filter(same_family) {
                    claim(FrontendKind::NodePort, key(ip, node_port, port));
                }
            }
        }
    }
    all
}

fn key(ip: &IpAddr, port: u16, of: &ServicePort) -> ServiceKey {
    ServiceKey {
        addr: Addr::from(*ip),
        port,
        protocol: of.protocol,
    }
}
