//! What was read of the kernel, as far as routing pods' packets needs it.

use std::net::IpAddr;

use ipnet::IpNet;
use podway_intent::LinkAddress;
use podway_tables::NoWay;
use podway_wire::{Family, Mac};

use super::Interface;

/// All that was read at one time.
#[derive(Clone, Debug, Default)]
pub(super) struct Read {
    pub(super) rules: Vec<Rule>,
    pub(super) routes: Vec<Route>,
    pub(super) links: Vec<Link>,
    pub(super) addresses: Vec<Address>,
}

/// A rule of the routing policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) family: Family,
    pub(super) preference: u32,
    pub(super) asks: Asks,
}

/// What a rule has asked, and of which packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    /// A table, of all packets.
    Table(u32),
    /// Something of packets that only the host itself sends.
    OwnPackets,
    /// Something of packets from addresses in this range.
    From(IpNet),
    /// Anything else.
    Other,
}

/// A route, and each of its ways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) table: u32,
    pub(super) range: IpNet,
    pub(super) metric: u32,
    /// Of two routes of one metric the kernel takes that of the lower number (RFC 4191).
    pub(super) preference: u8,
    pub(super) kind: Kind,
    pub(super) source: Option<IpAddr>,
    pub(super) mtu: Option<u32>,
}

/// What a route does with packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It sends them by the first of these ways that can be used.
    Ways(Vec<Way>),
    /// It hands them to the node itself, at an address of this device's.
    Local(Option<u32>),
    /// It sends them to everybody on a wire.
    Broadcast,
    /// It leaves them to the next table.
    Throw,
    /// It does not let them pass.
    Refused(NoWay),
    /// It puts something around them, which is not followed.
    Encapsulated,
}

/// By which device a route leads, and to which gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) device: u32,
    pub(super) gateway: Option<IpAddr>,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) interface: Interface,
    /// Its alias, empty if it has none.
    pub(super) alias: String,
    pub(super) medium: Medium,
}

/// What a device is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Medium {
    /// Ethernet with neighbours that can be resolved, and the carrier is there.
    Ethernet,
    /// The same without a carrier.
    Unplugged,
    /// Something without Ethernet addresses: a tunnel, a dummy, the loopback.
    Other,
}

/// An address of a device's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) device: u32,
    pub(super) network: IpNet,
    pub(super) use_as_source: UseAsSource,
}

/// Whether packets may be sent from an address if nobody asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UseAsSource {
    Yes,
    /// A secondary, deprecated or temporary one, or one that is not for the world.
    No,
}

/// A neighbour that is resolved, or that the kernel was asked to resolve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Neighbour {
    pub(super) at: LinkAddress,
    pub(super) mac: Option<Mac>,
    pub(super) is_kept: bool,
}
