//! Answers lookups from immutable compiled state: services, policies, routes, and the snapshot of them all.
//!
//! Names stop above this crate: everything here is an address or a dense id. Everything that decides about a
//! flow carries the generation (the snapshot's sequence number) at which it last changed, so that a remembered
//! decision is known to be current without having to be looked at again.

mod policies;
mod routes;
mod services;
mod snapshot;

pub use policies::{Direction, Judgement, Policies, RuleId};
pub use routes::{Hop, Routes};
pub use services::{Backend, Backends, Choice, Found, Service, ServiceKey, Services};
pub use snapshot::{Endpoint, Node, Peer, Port, PortKind, Snapshot};

/// A device that the dataplane receives from and sends to; its index in the XDP program's maps too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u16);

/// A pod on this node, by its place in [`Snapshot::endpoints`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(pub u32);

/// A node that we have a tunnel to, by its place in [`Snapshot::peers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u16);

/// A service's port, by its place in [`Services`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub u32);
