//! What this node's kernel says of the world around it: routes, neighbours, addresses (R1, R2).

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use podway_tables::{NoWay, PortId, Upkeep};
use podway_wire::Mac;

use crate::{Change, Cluster, NodeSetup};

/// The number of no device: the kernel counts from 1.
const UNNUMBERED: u32 = 0;

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

/// The ways out of a node of which no routes are known: by its uplink to its default gateways.
pub(crate) fn with_default_ways(cluster: &Cluster) -> Cluster {
    let mut cluster = cluster.clone();
    let Some(setup) = cluster
        .setup()
        .filter(|_| cluster.routes.is_empty())
        .cloned()
    else {
        return cluster;
    };
    let Some((port, mac, mtu)) = setup.uplink else {
        return cluster;
    };
    let world = setup.world;
    let families: [(IpNet, IpAddr, Option<Mac>); 2] = [
        (Ipv4Net::default().into(), [169, 254, 0, 1].into(), world.v4),
        (
            Ipv6Net::default().into(),
            [0xfe80, 0, 0, 0, 0, 0, 0, 1].into(),
            world.v6,
        ),
    ];
    let device = UNNUMBERED;
    for (range, address, gateway) in families {
        let key = RouteKey { table: 0, range };
        let route = HostRoute {
            leads: RouteLeads::Gateway { device, address },
            source: None,
            mtu: None,
        };
        cluster.apply(Change::Route(key, route));
        if let Some(mac) = gateway {
            let upkeep = Upkeep::Kept;
            let neighbour = LinkAddress { device, address };
            cluster.apply(Change::LinkNeighbour(neighbour, Resolved { mac, upkeep }));
        }
    }
    let mut uplinks = setup.uplinks.clone();
    uplinks.push(Uplink {
        port,
        device,
        mac,
        mtu,
    });
    cluster.apply(Change::Setup(NodeSetup { uplinks, ..setup }));
    cluster
}
