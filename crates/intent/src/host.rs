//! What this node's kernel says of the world around it: routes, neighbours, addresses (R1, R2).

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use podway_tables::{NoWay, PortId, Upkeep};
use podway_wire::Mac;

use crate::Change;

/// A device of the node's that leads out of the cluster, and that the dataplane sends and receives by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Its port.
    pub port: PortId,
    /// The kernel's number of it.
    pub device: u32,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its MTU in bytes.
    pub mtu: u32,
}

/// Which route of the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteKey {
    /// The place of its table in the order in which they are asked, from 0.
    pub table: u8,
    /// The addresses that it is for, without host bits.
    pub range: IpNet,
}

/// What a route says; of several for one range that which the kernel would take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostRoute {
    /// Where it leads.
    pub leads: RouteLeads,
    /// The address of ours that it prefers.
    pub source: Option<IpAddr>,
    /// The largest IP packet on its way, in bytes, if it says so.
    pub mtu: Option<u32>,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteLeads {
    /// To a gateway by a device.
    Gateway {
        /// The device.
        device: u32,
        /// The gateway.
        address: IpAddr,
    },
    /// To the target itself by a device.
    Link {
        /// The device.
        device: u32,
    },
    /// To the next table.
    Onwards,
    /// Nowhere.
    Refused(NoWay),
}

/// A neighbour on the wire of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkAddress {
    /// The device.
    pub device: u32,
    /// The neighbour's address.
    pub address: IpAddr,
}

/// What is known of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Its Ethernet address.
    pub mac: Mac,
    /// Whether the kernel keeps it so.
    pub upkeep: Upkeep,
}

/// What a kernel would say whose only ways out of the cluster are by one device, to one gateway that is resolved: for
/// tables that are made without a kernel.
pub fn one_way_out(device: u32, gateway: Mac) -> impl Iterator<Item = Change> {
    let families: [(IpNet, IpAddr); 2] = [
        (Ipv4Net::default().into(), [169, 254, 0, 1].into()),
        (
            Ipv6Net::default().into(),
            [0xfe80, 0, 0, 0, 0, 0, 0, 1].into(),
        ),
    ];
    families.into_iter().flat_map(move |(range, address)| {
        let route = HostRoute {
            leads: RouteLeads::Gateway { device, address },
            source: None,
            mtu: None,
        };
        let resolved = Resolved {
            mac: gateway,
            upkeep: Upkeep::Kept,
        };
        [
            Change::Route(RouteKey { table: 0, range }, route),
            Change::LinkNeighbour(LinkAddress { device, address }, resolved),
        ]
    })
}
