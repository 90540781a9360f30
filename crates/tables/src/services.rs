//! All service ports, and the addresses at which they answer.

use std::sync::Arc;

use ipnet::IpNet;
use podway_wire::Addr;

use crate::{
    Backend, Frontend, FrontendKind, PrefixMap, Service, ServiceId, ServiceKey, SharedMap, Slots,
};

/// What stands at the target of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A service port.
    Frontend(Frontend),
    /// A cluster address of ours, but no service at this port and protocol: refused (KEP-3866).
    WrongPort,
    /// Inside the service ranges, but nobody's: dropped (KEP-3866).
    Unallocated,
    /// No service: left alone (S10).
    Nothing,
}

/// Service ports by id, and the addresses that lead to them.
#[derive(Clone, Debug, Default)]
pub struct Services {
    by_id: Slots<Arc<Service>>,
    frontends: SharedMap<ServiceKey, Frontend>,
    /// Cluster addresses with the number of ports that each has.
    cluster_ips: SharedMap<Addr, u32>,
    ranges: Arc<PrefixMap<()>>,
}

impl Services {
    /// What stands at `key`.
    #[inline]
    pub fn find(&self, key: &ServiceKey) -> Found {
        match self.frontends.get(key) {
            Some(frontend) => Found::Frontend(*frontend),
            None => self.find_addr(&key.addr),
        }
    }

    /// What stands at `addr` for a packet without ports: `WrongPort` for a cluster address of ours.
    #[inline]
    pub fn find_addr(&self, addr: &Addr) -> Found {
        if self.cluster_ips.get(addr).is_some() {
            Found::WrongPort
        } else if self.ranges.longest(addr).is_some() {
            Found::Unallocated
        } else {
            Found::Nothing
        }
    }

    /// The service port with this id.
    #[inline]
    pub fn service(&self, id: ServiceId) -> Option<&Service> {
        self.by_id.get(id.0).map(Arc::as_ref)
    }

    /// True if what was dialled still leads to this service port, and the backend still serves (F1, F2).
    pub fn serves(&self, id: ServiceId, dialled: &ServiceKey, backend: &Backend) -> bool {
        let frontend = self.frontends.get(dialled);
        frontend.is_some_and(|frontend| frontend.service == id)
            && self.service(id).is_some_and(|it| it.serves(backend))
    }

    /// All service ports with their ids, in the order of ids.
    pub fn iter(&self) -> impl Iterator<Item = (ServiceId, &Service)> {
        let all = self.by_id.iter();
        all.map(|(id, service)| (ServiceId(id), service.as_ref()))
    }

    /// Every address and port at which a service answers, in no order.
    pub fn frontends(&self) -> impl Iterator<Item = (&ServiceKey, &Frontend)> {
        self.frontends.iter()
    }

    /// Puts a service port in the place of `id`, or with `None` takes it away; its frontends are set apart.
    pub fn set(&mut self, id: ServiceId, service: Option<Service>) {
        self.by_id.set(id.0, service.map(Arc::new));
    }

    /// Says what stands at `key`, or with `None` that nothing does; gives what stood there.
    pub fn set_frontend(
        &mut self,
        key: ServiceKey,
        frontend: Option<Frontend>,
    ) -> Option<Frontend> {
        let before = match frontend {
            Some(frontend) => self.frontends.insert(key, frontend),
            None => self.frontends.remove(&key),
        };
        let is_cluster_ip =
            |it: &Option<Frontend>| it.is_some_and(|it| it.kind == FrontendKind::ClusterIp);
        let ports = self.cluster_ips.get(&key.addr).copied().unwrap_or(0);
        match (is_cluster_ip(&before), is_cluster_ip(&frontend)) {
            (false, true) => drop(self.cluster_ips.insert(key.addr, ports + 1)),
            (true, false) if ports > 1 => drop(self.cluster_ips.insert(key.addr, ports - 1)),
            (true, false) => drop(self.cluster_ips.remove(&key.addr)),
            (true, true) | (false, false) => {}
        }
        before
    }

    /// Sets the ranges that cluster addresses come from.
    pub fn set_ranges(&mut self, ranges: &[IpNet]) {
        let mut map = PrefixMap::default();
        for range in ranges {
            map.insert(*range, ());
        }
        self.ranges = Arc::new(map);
    }
}

#[cfg(test)]
mod tests {
    use podway_wire::Protocol;

    use super::*;

    fn key(addr: [u8; 4], port: u16, protocol: Protocol) -> ServiceKey {
        ServiceKey {
            addr: Addr::v4(addr),
            port,
            protocol,
        }
    }

    fn frontend(id: u32, kind: FrontendKind) -> Frontend {
        Frontend {
            service: ServiceId(id),
            kind,
        }
    }

    const VIP: [u8; 4] = [10, 96, 0, 10];
    const BALANCER: [u8; 4] = [192, 0, 2, 80];

    #[test]
    fn s11_s18_a_key_is_exact_and_the_rest_of_a_vip_and_of_the_range_are_told_apart() {
        let mut services = Services::default();
        services.set_ranges(&["10.96.0.0/16".parse().expect("range")]);
        let udp = frontend(0, FrontendKind::ClusterIp);
        let tcp = frontend(1, FrontendKind::ClusterIp);
        services.set_frontend(key(VIP, 53, Protocol::UDP), Some(udp));
        services.set_frontend(key(VIP, 53, Protocol::TCP), Some(tcp));
        let find = |services: &Services, protocol| services.find(&key(VIP, 53, protocol));
        assert_eq!(find(&services, Protocol::UDP), Found::Frontend(udp));
        assert_eq!(find(&services, Protocol::TCP), Found::Frontend(tcp));
        assert_eq!(find(&services, Protocol::SCTP), Found::WrongPort);
        assert_eq!(services.find_addr(&Addr::v4(VIP)), Found::WrongPort);
        assert_eq!(
            services.set_frontend(key(VIP, 53, Protocol::UDP), None),
            Some(udp)
        );
        assert_eq!(find(&services, Protocol::UDP), Found::WrongPort);
        services.set_frontend(key(VIP, 53, Protocol::TCP), None);
        assert_eq!(find(&services, Protocol::UDP), Found::Unallocated);
        let outside = Addr::v4([10, 97, 0, 1]);
        assert_eq!(services.find_addr(&outside), Found::Nothing);
        assert_eq!(services.frontends().count(), 0);
    }

    #[test]
    fn s10_the_other_ports_of_external_addresses_are_left_alone() {
        let mut services = Services::default();
        for kind in [
            FrontendKind::LoadBalancer,
            FrontendKind::ExternalIp,
            FrontendKind::NodePort,
        ] {
            services.set_frontend(key(BALANCER, 80, Protocol::TCP), Some(frontend(3, kind)));
            let other = key(BALANCER, 81, Protocol::TCP);
            assert_eq!(services.find(&other), Found::Nothing);
            assert_eq!(services.find_addr(&other.addr), Found::Nothing);
        }
    }

    #[test]
    fn an_address_that_changes_kind_is_counted_right() {
        let mut services = Services::default();
        let at = |port| key(VIP, port, Protocol::TCP);
        let cluster = frontend(1, FrontendKind::ClusterIp);
        services.set_frontend(at(80), Some(cluster));
        services.set_frontend(at(80), Some(frontend(2, FrontendKind::ClusterIp)));
        services.set_frontend(at(81), Some(cluster));
        services.set_frontend(at(81), Some(frontend(2, FrontendKind::ExternalIp)));
        assert_eq!(services.find(&at(82)), Found::WrongPort);
        services.set_frontend(at(80), None);
        assert_eq!(services.find(&at(82)), Found::Nothing);
        services.set_frontend(at(80), None);
        assert_eq!(services.find(&at(82)), Found::Nothing);
    }
}
