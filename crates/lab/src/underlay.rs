//! The network that joins a lab's nodes: a bridge in a namespace of its own, and a wire from it to each node, and to
//! the world; or nothing but a wire between two nodes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::path::Path;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use podway_host::{Namespace, NetlinkError, Network, Route, Veth, VethEnd, sysctl};

use crate::Error;
use crate::cluster::Node;

/// How the network between nodes is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Underlay {
    /// One network that all nodes' addresses are in: /24 and /64, or wider if they must.
    #[default]
    One,
    /// A network for each /24 and /64 that nodes have addresses in, and the world as the router between them.
    Routed,
    /// A wire between two nodes, without a switch and a world outside: what passes it costs the least.
    Wire,
}

const BRIDGE: &str = "pwbridge";

/// The nodes' end of their wires.
pub(crate) const UPLINK: &str = "eth0";

/// Makes the switch.
pub(crate) fn make_switch(switch: &Namespace) -> Result<(), NetlinkError> {
    Network::of(switch, async |network: Network| {
        network.prepare().await?;
        network.pass_filters_by()?;
        network.add_bridge(BRIDGE).await
    })
}

/// A node's or the world's wire to the switch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wire {
    /// The switch's port.
    pub(crate) number: usize,
    /// Queues of each end: one for each worker of the agent.
    pub(crate) queues: NonZeroU16,
    /// MTU in bytes.
    pub(crate) mtu: u32,
}

/// Wires a node to the switch and gives it its addresses.
pub(crate) fn join(
    switch: &Namespace,
    node: &Namespace,
    wire: Wire,
    addresses: &[IpNet],
) -> Result<(), NetlinkError> {
    Network::of(node, async |network: Network| network.prepare().await)?;
    let port = format!("pwport{}", wire.number);
    Network::of(switch, async |network: Network| {
        network.add_veth(&wire.pair(&port, node)).await?;
        let (port, bridge) = (network.index(&port)?, network.index(BRIDGE)?);
        network.join_bridge(port, bridge).await
    })?;
    begin(node, addresses)
}

/// Wires two nodes to each other and gives them their addresses.
pub(crate) fn join_two(nodes: [(&Namespace, &[IpNet]); 2], wire: Wire) -> Result<(), NetlinkError> {
    let [(one, _), (other, _)] = nodes;
    for (node, _) in nodes {
        Network::of(node, async |network: Network| network.prepare().await)?;
    }
    Network::of(one, async |network: Network| {
        network.add_veth(&wire.pair(UPLINK, other)).await
    })?;
    nodes
        .into_iter()
        .try_for_each(|(node, addresses)| begin(node, addresses))
}

impl Wire {
    /// A veth pair whose other end is a node's uplink.
    fn pair<'a>(self, device: &'a str, node: &'a Namespace) -> Veth<'a> {
        let end = |name| VethEnd { name, mac: None };
        Veth {
            near: end(device),
            far: end(UPLINK),
            into: Some(node),
            queues: self.queues.get().into(),
            mtu: Some(self.mtu),
        }
    }
}

/// Sets a node's uplink up.
fn begin(node: &Namespace, addresses: &[IpNet]) -> Result<(), NetlinkError> {
    Network::of(node, async |network: Network| {
        let uplink = network.index(UPLINK)?;
        network.set_up(uplink).await?;
        // No device completes checksums on the way, as a NIC does.
        network.checksum_in_software(uplink).await?;
        for &address in addresses {
            network.add_address(uplink, address).await?;
        }
        Ok(())
    })
}

impl Underlay {
    /// A node's addresses with the length of the network that they are in.
    pub(crate) fn with_prefixes(self, node: &Node, all: &[Node]) -> Vec<IpNet> {
        let others = self.neighbours(all);
        let addresses = node.addresses.iter();
        addresses.map(|&ip| with_prefix(ip, &others)).collect()
    }

    /// The addresses of the machine outside of the cluster: one in each network, the last that is free in the /24 of
    /// its first node (`192.168.50.254`), or `::254` and below.
    pub(crate) fn of_world(self, nodes: &[Node]) -> Vec<IpNet> {
        let taken: Vec<IpAddr> = addresses(nodes).collect();
        let others = self.neighbours(nodes);
        let mut all: Vec<IpNet> = Vec::new();
        for v4 in [true, false] {
            for &ip in taken.iter().filter(|ip| ip.is_ipv4() == v4) {
                let is_joined = all.iter().any(|network| network.contains(&ip));
                let free = free_beside(ip, &taken).filter(|_| !is_joined);
                all.extend(free.map(|free| with_prefix(free, &others)));
            }
        }
        all
    }

    /// The addresses that have to be in a network together.
    fn neighbours(self, nodes: &[Node]) -> Vec<IpAddr> {
        match self {
            Underlay::One | Underlay::Wire => addresses(nodes).collect(),
            Underlay::Routed => Vec::new(),
        }
    }
}

fn addresses(nodes: &[Node]) -> impl Iterator<Item = IpAddr> {
    nodes.iter().flat_map(|node| &node.addresses).copied()
}

/// The last address in the same /24 or /64 that nobody has.
fn free_beside(address: IpAddr, taken: &[IpAddr]) -> Option<IpAddr> {
    let last: u16 = match address {
        IpAddr::V4(_) => 254,
        IpAddr::V6(_) => 0x254,
    };
    let mut candidates = (1..=last).rev().map(|last| match address {
        IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & !0xff | u32::from(last))),
        IpAddr::V6(v6) => {
            let network = v6.to_bits() >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from_bits(network | u128::from(last)))
        }
    });
    candidates.find(|ip| !taken.contains(ip))
}

/// Makes the world a router, one that does not tell its neighbours of shorter ways.
pub(crate) fn forward(world: &Namespace) -> Result<(), Error> {
    let settings = [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/conf/all/send_redirects", "0"),
        ("net/ipv4/conf/eth0/send_redirects", "0"),
        ("net/ipv6/conf/all/forwarding", "1"),
    ];
    let written = world.inside(|| {
        let root = Path::new(sysctl::PROC_SYS);
        settings
            .iter()
            .try_for_each(|(key, value)| sysctl::set(root, key, value))
    });
    let written = written.map_err(Error::Namespace)?;
    written.map_err(|error| Error::Netlink(error.into()))
}

/// Sends what a node has no other route for to the world.
pub(crate) fn lead_out(node: &Namespace, world: &[IpNet]) -> Result<(), NetlinkError> {
    Network::of(node, async |network: Network| {
        let uplink = network.index(UPLINK)?;
        for gateway in world {
            let everything: IpNet = match gateway {
                IpNet::V4(_) => Ipv4Net::default().into(),
                IpNet::V6(_) => Ipv6Net::default().into(),
            };
            let route = Route {
                destination: everything,
                gateway: Some(gateway.addr()),
                mtu: None,
            };
            network.add_route(uplink, route).await?;
        }
        Ok(())
    })
}

fn with_prefix(address: IpAddr, others: &[IpAddr]) -> IpNet {
    match address {
        IpAddr::V4(address) => {
            let others = others.iter().filter_map(|other| match other {
                IpAddr::V4(other) => Some(other.to_bits()),
                IpAddr::V6(_) => None,
            });
            let common = |other: u32| (other ^ address.to_bits()).leading_zeros() as u8;
            let length = others.map(common).fold(24, u8::min);
            IpNet::V4(Ipv4Net::new_assert(address, length))
        }
        IpAddr::V6(address) => {
            let others = others.iter().filter_map(|other| match other {
                IpAddr::V6(other) => Some(other.to_bits()),
                IpAddr::V4(_) => None,
            });
            let common = |other: u128| (other ^ address.to_bits()).leading_zeros() as u8;
            let length = others.map(common).fold(64, u8::min);
            IpNet::V6(Ipv6Net::new_assert(address, length))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(address: &str, others: &[&str]) -> String {
        let others: Vec<_> = others.iter().map(|other| other.parse().unwrap()).collect();
        with_prefix(address.parse().unwrap(), &others).to_string()
    }

    #[test]
    fn the_world_is_in_the_nodes_network_at_a_free_address() {
        let node = |addresses: &[&str]| Node {
            labels: Default::default(),
            name: "node".to_owned(),
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            pod_ranges: Vec::new(),
        };
        let world = |nodes: &[Node]| -> Vec<String> {
            let world = Underlay::One.of_world(nodes);
            world.iter().map(IpNet::to_string).collect()
        };
        let two = [
            node(&["192.168.50.1", "fd50::1"]),
            node(&["192.168.50.254"]),
        ];
        assert_eq!(world(&two[..1]), ["192.168.50.254/24", "fd50::254/64"]);
        assert_eq!(world(&two), ["192.168.50.253/24", "fd50::254/64"]);
        assert_eq!(world(&[node(&["fd50::9"])]), ["fd50::254/64"]);
        assert_eq!(world(&[]), Vec::<String>::new());

        let apart = [node(&["192.168.50.1", "fd50::1"]), node(&["192.168.51.2"])];
        assert_eq!(world(&apart), ["192.168.50.254/23", "fd50::254/64"]);
        let routed = Underlay::Routed.of_world(&apart);
        let routed: Vec<String> = routed.iter().map(IpNet::to_string).collect();
        assert_eq!(
            routed,
            ["192.168.50.254/24", "192.168.51.254/24", "fd50::254/64"]
        );
        let of = |underlay: Underlay| underlay.with_prefixes(&apart[1], &apart)[0].to_string();
        assert_eq!(of(Underlay::One), "192.168.51.2/23");
        assert_eq!(of(Underlay::Routed), "192.168.51.2/24");
    }

    #[test]
    fn nodes_share_a_network() {
        assert_eq!(
            prefix("192.168.50.1", &["192.168.50.1", "fd50::2"]),
            "192.168.50.1/24"
        );
        assert_eq!(prefix("192.168.50.1", &["192.168.51.2"]), "192.168.50.1/23");
        assert_eq!(prefix("fd50::1", &["fd50::2", "10.0.0.1"]), "fd50::1/64");
        assert_eq!(prefix("fd50::1", &["fd50:0:0:1::2"]), "fd50::1/63");
    }
}
