//! The network that joins a lab's nodes: a bridge in a namespace of its own, and a wire from it to each node.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::os::fd::AsRawFd;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use podway_cni::{Namespace, NetlinkError, Network};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth};

use crate::cluster::Node;

const BRIDGE: &str = "pwbridge";

/// The nodes' end of their wires.
pub(crate) const UPLINK: &str = "eth0";

/// Makes the switch.
pub(crate) fn make_switch(switch: &Namespace) -> Result<(), NetlinkError> {
    Network::of(switch, async |network: Network| {
        network.prepare().await?;
        // Snooping would drop neighbour solicitations until it saw the nodes' reports.
        let bridge = LinkBridge::new(BRIDGE).mcast_snooping(false).build();
        network.add_link(bridge).await?;
        network.set_up(network.index(BRIDGE)?).await
    })
}

/// A node's wire to the switch.
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
    let queues = u32::from(wire.queues.get());
    Network::of(switch, async |network: Network| {
        let end = LinkMessageBuilder::<LinkUnspec>::new()
            .name(UPLINK)
            .mtu(wire.mtu)
            .append_extra_attribute(LinkAttribute::NumTxQueues(queues))
            .append_extra_attribute(LinkAttribute::NumRxQueues(queues))
            .setns_by_fd(node.as_raw_fd())
            .build();
        let pair = LinkVeth::new(&port, UPLINK)
            .mtu(wire.mtu)
            .append_extra_attribute(LinkAttribute::NumTxQueues(queues))
            .append_extra_attribute(LinkAttribute::NumRxQueues(queues))
            .set_info_data(InfoData::Veth(InfoVeth::Peer(end)))
            .build();
        network.add_link(pair).await?;
        let bridge = network.index(BRIDGE)?;
        let port = LinkUnspec::new_with_index(network.index(&port)?)
            .controller(bridge)
            .up();
        network.set_link(port.build()).await
    })?;
    Network::of(node, async |network: Network| {
        let uplink = network.index(UPLINK)?;
        network.set_up(uplink).await?;
        for &address in addresses {
            network.add_address(uplink, address).await?;
        }
        Ok(())
    })
}

/// A node's addresses with the length of the network that all nodes share: /24 and /64, or wider if they must.
pub(crate) fn with_prefixes(node: &Node, all: &[Node]) -> Vec<IpNet> {
    let others: Vec<_> = all
        .iter()
        .flat_map(|node| &node.addresses)
        .copied()
        .collect();
    node.addresses
        .iter()
        .map(|&address| with_prefix(address, &others))
        .collect()
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
