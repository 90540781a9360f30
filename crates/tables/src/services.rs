//! Virtual addresses and who stands behind them.

use std::sync::Arc;

use podway_wire::{Addr, Protocol};

use crate::ServiceId;

/// What a packet to a service carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServiceKey {
    /// The virtual address.
    pub addr: Addr,
    /// The service port, in host order.
    pub port: u16,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
}

/// One that serves: a pod's address and the port of its EndpointSlice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    /// The address.
    pub addr: Addr,
    /// The port, in host order.
    pub port: u16,
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

/// A service port, as one packet's choice needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Where it answers.
    pub key: ServiceKey,
    /// The usable endpoints.
    pub backends: Arc<Backends>,
    /// When anything about it last changed.
    pub generation: u32,
}

/// A set of backends and the Maglev table over it (Eisenbud et al., NSDI 2016, 3.4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backends {
    #[allow(dead_code)]
    placeholder: Vec<Backend>,
}

impl Backends {
    /// Every backend, in order.
    pub fn all(&self) -> &[Backend] {
        &self.placeholder
    }

    /// The backend for a flow's hash; `None` if there are none.
    #[inline]
    pub fn pick(&self, hash: u64) -> Option<Backend> {
        let _ = hash;
        None
    }

    /// True if it is one of them.
    pub fn contains(&self, backend: &Backend) -> bool {
        self.placeholder.contains(backend)
    }
}

/// All service ports.
#[derive(Clone, Debug, Default)]
pub struct Services {
    #[allow(dead_code)]
    placeholder: Vec<Option<Arc<Service>>>,
}

impl Services {
    /// What stands at `key`.
    #[inline]
    pub fn find(&self, key: &ServiceKey) -> Found {
        let _ = key;
        Found::Nothing
    }

    /// What stands at `addr` for a packet without ports: `WrongPort` for a virtual address of ours.
    #[inline]
    pub fn find_addr(&self, addr: &Addr) -> Found {
        let _ = addr;
        Found::Nothing
    }

    /// The service port with this id.
    #[inline]
    pub fn service(&self, id: ServiceId) -> Option<&Service> {
        self.placeholder.get(id.0 as usize)?.as_deref()
    }
}
