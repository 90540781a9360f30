//! Devices of the machine that a lab is lent as its nodes' uplinks, and gives back when it is taken down.

use ipnet::IpNet;
use podway_host::{Namespace, NetlinkError, Network};

use crate::underlay::UPLINK;

/// How the alias of a lent device starts; its name on the machine follows.
const ALIAS: &str = "podway-lab-lent:";

/// Makes a device of the caller's namespace a node's uplink; its alias keeps what it was called.
pub(crate) fn lend(
    device: &str,
    node: &Namespace,
    mtu: u32,
    addresses: &[IpNet],
) -> Result<(), NetlinkError> {
    Network::of(node, async |network: Network| network.prepare().await)?;
    Network::of(&Namespace::own()?, async |network: Network| {
        let index = network.index(device)?;
        let alias = format!("{ALIAS}{device}");
        network.hand_over(index, node, UPLINK, alias).await
    })?;
    Network::of(node, async |network: Network| {
        let uplink = network.index(UPLINK)?;
        network.set_mtu(uplink, mtu).await?;
        network.set_up(uplink).await?;
        for &address in addresses {
            network.add_address(uplink, address).await?;
        }
        Ok(())
    })
}

/// Gives all devices back that a namespace was lent, under their own names.
pub(crate) fn give_back(node: &Namespace) -> Result<(), NetlinkError> {
    let machine = Namespace::own()?;
    Network::of(node, async |network: Network| {
        for (index, alias) in network.aliases().await? {
            let Some(name) = alias.strip_prefix(ALIAS) else {
                continue;
            };
            let none = String::new();
            network.hand_over(index, &machine, name, none).await?;
        }
        Ok(())
    })
}
