//! Virtual addresses and who stands behind them.

use std::sync::Arc;

use ipnet::IpNet;
use podway_wire::{Addr, Protocol};

use crate::{Backend, Backends, PrefixMap, ServiceId, SharedMap, Slots};

/// What a packet to a service carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The virtual address.
    pub addr: Addr,
    /// The service port, in host order.
    pub port: u16,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
}

/// What stands at the target of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A service port.
    Service(ServiceId),
    /// A virtual address of ours, but no service at this port and protocol: refused (KEP-3866).
    WrongPort,
    /// Inside the service ranges, but nobody's: dropped (KEP-3866).
    Unallocated,
    /// Not a virtual address.
    Nothing,
}

/// What a service does with a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Send it there.
    Backend(Backend),
    /// Nobody serves anywhere: refuse.
    Reject,
    /// Nobody may serve this packet: drop in silence.
    Drop,
}

/// What a service without a usable backend does with a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody serves anywhere: tell the client.
    #[default]
    Reject,
    /// Somebody serves, but not for this node (traffic policy Local): say nothing.
    Drop,
}

/// A service port, as one packet's choice needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Where it answers.
    pub key: ServiceKey,
    /// The usable endpoints.
    pub backends: Arc<Backends>,
    /// What becomes of flows while `backends` is empty.
    pub refusal: Refusal,
    /// When anything about it last changed.
    pub generation: u32,
}

impl Service {
    /// What becomes of a new flow with this hash; each backend is as likely as any other.
    #[inline]
    pub fn choose(&self, hash: u64) -> Choice {
        match (self.backends.pick(hash), self.refusal) {
            (Some(backend), _) => Choice::Backend(backend),
            (None, Refusal::Reject) => Choice::Reject,
            (None, Refusal::Drop) => Choice::Drop,
        }
    }
}

/// All service ports.
#[derive(Clone, Debug, Default)]
pub struct Services {
    by_id: Slots<Arc<Service>>,
    by_key: SharedMap<ServiceKey, ServiceId>,
    /// Virtual addresses with the number of service ports that each has.
    addresses: SharedMap<Addr, u32>,
    ranges: Arc<PrefixMap<()>>,
}

impl Services {
    /// What stands at `key`.
    #[inline]
    pub fn find(&self, key: &ServiceKey) -> Found {
        match self.by_key.get(key) {
            Some(id) => Found::Service(*id),
            None => self.find_addr(&key.addr),
        }
    }

    /// What stands at `addr` for a packet without ports: `WrongPort` for a virtual address of ours.
    #[inline]
    pub fn find_addr(&self, addr: &Addr) -> Found {
        if self.addresses.get(addr).is_some() {
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

    /// All service ports with their ids, in the order of ids.
    pub fn iter(&self) -> impl Iterator<Item = (ServiceId, &Service)> {
        let all = self.by_id.iter();
        all.map(|(id, service)| (ServiceId(id), service.as_ref()))
    }

    /// Puts a service port in the place of `id`, whatever was there; a key that was another's becomes its own.
    pub fn insert(&mut self, id: ServiceId, service: Service) {
        self.remove(id);
        if let Some(ServiceId(old)) = self.by_key.get(&service.key).copied() {
            self.remove(ServiceId(old));
        }
        let addr = service.key.addr;
        let ports = self.addresses.get(&addr).map_or(0, |ports| *ports);
        self.addresses.insert(addr, ports + 1);
        self.by_key.insert(service.key, id);
        self.by_id.set(id.0, Some(Arc::new(service)));
    }

    /// Takes the service port with this id away, and its address with its last port.
    pub fn remove(&mut self, id: ServiceId) {
        let Some(service) = self.by_id.get(id.0).cloned() else {
            return;
        };
        self.by_id.set(id.0, None);
        self.by_key.remove(&service.key);
        let addr = service.key.addr;
        match self.addresses.get(&addr).map_or(0, |ports| *ports) {
            0 | 1 => self.addresses.remove(&addr),
            ports => self.addresses.insert(addr, ports - 1),
        };
    }

    /// Sets the ranges that virtual addresses come from.
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
    use super::*;

    fn service(last: u8, port: u16, protocol: Protocol, backends: &[Backend]) -> Service {
        Service {
            key: ServiceKey {
                addr: Addr::v4([10, 96, 0, last]),
                port,
                protocol,
            },
            backends: Arc::new(Backends::new(backends.to_vec())),
            refusal: Refusal::Reject,
            generation: 1,
        }
    }

    #[test]
    fn s11_s18_a_key_is_exact_and_the_rest_of_a_vip_and_of_the_range_are_told_apart() {
        let mut services = Services::default();
        services.set_ranges(&["10.96.0.0/16".parse().expect("range")]);
        let dns = service(10, 53, Protocol::UDP, &[]);
        let dns_tcp = service(10, 53, Protocol::TCP, &[]);
        services.insert(ServiceId(0), dns.clone());
        services.insert(ServiceId(1), dns_tcp.clone());
        assert_eq!(services.find(&dns.key), Found::Service(ServiceId(0)));
        assert_eq!(services.find(&dns_tcp.key), Found::Service(ServiceId(1)));
        let sctp = service(10, 53, Protocol::SCTP, &[]).key;
        assert_eq!(services.find(&sctp), Found::WrongPort);
        assert_eq!(services.find_addr(&dns.key.addr), Found::WrongPort);
        services.remove(ServiceId(0));
        assert_eq!(services.find(&dns.key), Found::WrongPort);
        services.remove(ServiceId(1));
        assert_eq!(services.find(&dns.key), Found::Unallocated);
        assert_eq!(
            services.find_addr(&Addr::v4([10, 97, 0, 1])),
            Found::Nothing
        );
        assert_eq!(services.iter().count(), 0);
    }

    #[test]
    fn an_id_or_a_key_that_is_taken_changes_hands_and_counts_once() {
        let mut services = Services::default();
        let (web, other) = (
            service(1, 80, Protocol::TCP, &[]),
            service(2, 80, Protocol::TCP, &[]),
        );
        services.insert(ServiceId(5), web.clone());
        services.insert(ServiceId(5), other.clone());
        assert_eq!(services.find(&web.key), Found::Nothing);
        services.insert(ServiceId(6), other.clone());
        assert_eq!(services.find(&other.key), Found::Service(ServiceId(6)));
        assert_eq!(services.service(ServiceId(5)), None);
        services.remove(ServiceId(6));
        assert_eq!(services.find_addr(&other.key.addr), Found::Nothing);
    }

    #[test]
    fn s1_s3_without_backends_a_service_refuses_or_is_silent() {
        let mut empty = service(1, 80, Protocol::TCP, &[]);
        assert_eq!(empty.choose(9), Choice::Reject);
        empty.refusal = Refusal::Drop;
        assert_eq!(empty.choose(9), Choice::Drop);
        let backend = Backend {
            addr: Addr::v4([10, 244, 0, 2]),
            port: 8080,
        };
        let one = service(1, 80, Protocol::TCP, &[backend]);
        assert_eq!(one.choose(9), Choice::Backend(backend));
    }
}
