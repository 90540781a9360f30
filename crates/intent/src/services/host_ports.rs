//! Host ports of this node's pods: each one is a service port of its own, with one backend and without a cluster address.

use std::net::{IpAddr, Ipv4Addr};

use podway_tables::{Backend, FrontendKind, Reach, Refusal, Service as Compiled, ServiceKey};
use podway_wire::Addr;

use super::claims::{Claim, Site};
use super::{Home, backends};
use crate::pods::owns_addresses;
use crate::{HostPort, Name, Pod, PodPhase};

/// Where the node's own processes alone reach host ports; that of IPv6 is bound to `lo` by every kernel.
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// After every service: whoever asks for a node port by an object of its own comes first (S24).
const LAST: i64 = i64::MAX;

/// What a pod of this node wants to answer at, and where it does.
pub(super) fn host_ports(pod: &Pod, site: &Site) -> Vec<(ServiceKey, Backend)> {
    let all = asked(pod, site).flat_map(|port| {
        let backends = pod.addresses.iter().copied();
        backends
            .flat_map(move |own| places(port, site, own.is_ipv4()).map(move |ip| (port, own, ip)))
    });
    all.map(|(port, own, ip)| {
        let key = ServiceKey {
            addr: Addr::from(ip),
            port: port.port,
            protocol: port.protocol,
        };
        let backend = Backend {
            addr: Addr::from(own),
            port: port.target,
        };
        (key, backend)
    })
    .collect()
}

/// The addresses and ports that a pod of this node asks for, though they are not this node's.
pub(super) fn strange(pod: &Pod, site: &Site) -> Vec<(IpAddr, u16)> {
    let known = asked(pod, site).filter(|_| !site.addresses.is_empty());
    known
        .filter_map(|port| Some((port.ip?, port.port)))
        .filter(|(ip, _)| *ip != LOOPBACK && !site.addresses.contains(ip))
        .collect()
}

/// The host ports of a pod, if it is this node's and has a network of its own.
fn asked<'a>(pod: &'a Pod, site: &Site) -> impl Iterator<Item = &'a HostPort> {
    let here = pod.node.as_ref() == Some(&site.node)
        && owns_addresses(pod)
        && pod.phase != PodPhase::Ending;
    pod.host_ports.iter().filter(move |_| here)
}

/// The node's addresses of a family that a host port is at, the loopback's among them (S26).
fn places(port: &HostPort, site: &Site, v4: bool) -> impl Iterator<Item = IpAddr> {
    let asked = port.ip;
    let all = site.addresses.iter().copied().chain([LOOPBACK]);
    all.filter(move |ip| ip.is_ipv4() == v4 && asked.is_none_or(|asked| asked == *ip))
}

/// That a pod wants a key.
pub(super) fn claim(pod: &Name, key: ServiceKey) -> Claim {
    Claim {
        created_s: LAST,
        service: pod.clone(),
        kind: FrontendKind::NodePort,
        port: 0,
        home: key,
    }
}

/// The service port that a host port is; what comes to it keeps its source, since its backend is here.
pub(super) fn compiled(key: ServiceKey, backend: Backend, before: Option<&Compiled>) -> Compiled {
    let one = backends(vec![backend], before.map(|before| &before.cluster));
    Compiled {
        key,
        cluster: one.clone(),
        local: one,
        spared: Vec::new().into(),
        refusal: Refusal::Reject,
        internal: Reach::Cluster,
        external: Reach::Local,
        sources: None,
        affinity_timeout_s: None,
        generation: before.map_or(0, |before| before.generation),
    }
}

/// A host port's name for people.
pub(super) fn name(home: &Home) -> String {
    format!("pod:{}:{}", home.0, home.1.port)
}
