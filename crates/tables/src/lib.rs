//! Answers lookups from immutable compiled state: services, policies, routes, and the snapshot of them all.
//!
//! Names stop above this crate: everything here is an address or a dense id. Everything that decides about a
//! flow carries the generation (the snapshot's sequence number) at which it last changed, so that a remembered
//! decision is known to be current without having to be looked at again.

mod backends;
mod policies;
mod port_map;
mod prefixes;
mod routes;
mod service;
mod services;
mod shared_map;
mod slots;
mod snapshot;
mod verdicts;
mod world;

pub use backends::{Backend, Backends};
pub use policies::{
    Direction, Identity, IdentityId, Judged, Judgement, Policies, PortNameId, RuleId, SelectorId,
};
pub use prefixes::PrefixMap;
pub use routes::{Hop, Routes};
pub use service::{Choice, Client, Frontend, FrontendKind, Reach, Refusal, Service, ServiceKey};
pub use services::{Found, Services};
pub use shared_map::SharedMap;
pub use slots::Slots;
pub use snapshot::{ClusterIpMasquerade, Endpoint, Node, Peer, Port, PortKind, Snapshot, Via};
pub use verdicts::{Effect, Peers, PortMatch, Rank, Rule, Tier, Verdicts};
pub use world::{Exit, Leads, NextHop, NextHopId, NoWay, Upkeep, Uplink, World};

/// A device that the dataplane receives from and sends to; its index in the XDP program's maps too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u16);

/// A pod on this node, by its place in [`Snapshot::endpoints`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(pub u32);

/// Another node, by its place in [`Snapshot::peers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u16);

/// A service's port, by its place in [`Services`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub u32);
