//! The veth pair between the host's stack and the dataplane.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use podway_intent::Tunnel;
use podway_wire::Mac;
use rtnetlink::LinkUnspec;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};

use super::{
    DATAPLANE_INTERFACE, Device, NodeError, Settings, device, is_up, keep, link, read_device,
};
use crate::ask::{beside, done};
use crate::fnv::fnv32;
use crate::{NetlinkError, Network, SettingError, Veth, VethEnd, sysctl, tunnel_mtu};

/// Makes the pair, or adopts the one that is there if it fits; both ends are up afterwards.
pub(super) async fn make(
    network: &Network,
    settings: &Settings,
    mtu: u32,
) -> Result<(Device, Device), NodeError> {
    let handle = network.handle();
    let host = settings.host_interface.as_str();
    let there = link(handle, host).await?;
    let other_end = link(handle, DATAPLANE_INTERFACE).await?;
    for link in there.iter().chain(&other_end) {
        if !is_veth(link) {
            return Err(NodeError::Foreign(read_device(link).name));
        }
    }
    let fits = match (&there, &other_end) {
        (Some(a), Some(b)) => has_queues(a, settings.queues) && has_queues(b, settings.queues),
        (Some(_), None) | (None, Some(_)) | (None, None) => false,
    };
    if !fits {
        // An end takes the other with it, but the two need not be one pair.
        for name in [host, DATAPLANE_INTERFACE] {
            if let Some(old) = device(handle, name).await? {
                let removal = handle.link().del(old.ifindex).execute();
                done(&format!("remove {name}, which has other queues"), removal).await?;
            }
        }
        create(network, settings).await?;
    }
    let (name, proc_sys) = (host.to_owned(), settings.proc_sys.clone());
    let settled = beside(move || settle(&name, &proc_sys)).await;
    settled.map_err(NetlinkError::Setting)?;

    let mut ends = Vec::new();
    for name in [host, DATAPLANE_INTERFACE] {
        let missing = || NodeError::NoDevice(name.to_owned());
        let now = link(handle, name).await?.ok_or_else(missing)?;
        let mut end = read_device(&now);
        if end.mtu != mtu || !is_up(&now) {
            let change = LinkUnspec::new_with_index(end.ifindex).mtu(mtu).up();
            let request = handle.link().change(change.build()).execute();
            done(&format!("set {name} up with an MTU of {mtu}"), request).await?;
            (end.mtu, end.is_up) = (mtu, true);
        }
        ends.push(end);
    }
    let [host_end, dataplane_end] = ends.try_into().expect("two ends");
    network.checksum_in_software(host_end.ifindex).await?;
    keep::address(network, host_end.ifindex).await?;
    Ok((host_end, dataplane_end))
}

/// The pair's MTU: that of large pods; else what fits into the tunnel, or the wire if some nodes are sent to without it;
/// and at least what IPv6 asks for (RFC 8200, 5).
pub(super) fn mtu(settings: &Settings, uplink_mtu: u32, vteps: &BTreeSet<IpAddr>) -> u32 {
    if settings.pod_mtu > uplink_mtu {
        return settings.pod_mtu;
    }
    let through_tunnels = vteps.iter().map(|vtep| tunnel_mtu(uplink_mtu, *vtep));
    let mtu = match settings.tunnel {
        // As long as there is no other node, it is as if there were one of IPv4.
        Tunnel::Vxlan => through_tunnels
            .min()
            .unwrap_or_else(|| tunnel_mtu(uplink_mtu, Ipv4Addr::UNSPECIFIED.into())),
        Tunnel::Direct | Tunnel::Auto => uplink_mtu,
    };
    mtu.max(1280)
}

async fn create(network: &Network, settings: &Settings) -> Result<(), NodeError> {
    let mac = |role| Some(address(&settings.node, role).0);
    let veth = Veth {
        near: VethEnd {
            name: &settings.host_interface,
            mac: mac(0x71),
        },
        far: VethEnd {
            name: DATAPLANE_INTERFACE,
            mac: mac(0x70),
        },
        into: None,
        queues: settings.queues,
        mtu: None,
    };
    Ok(network.add_veth(&veth).await?)
}

/// A locally administered address that follows from the node's name, so that neighbours may remember it.
fn address(node: &str, role: u8) -> Mac {
    let [a, b, c, d] = fnv32(node).to_be_bytes();
    Mac([0x02, role, a, b, c, d])
}

/// Makes the settings of both ends what they are to be; gives those that were something else.
pub(super) fn settle(host: &str, proc_sys: &Path) -> Result<Vec<String>, SettingError> {
    let mut changed = Vec::new();
    for (device, key, value) in [
        // Loose, whatever all devices have: the larger one counts, and the host's end has an address.
        (host, "rp_filter", "2"),
        // A node process may reach a hostNetwork pod of its own node through a service, and a service at its own address.
        (host, "accept_local", "1"),
        // And a host port at 127.0.0.1 (S26): nobody but the dataplane sends to this device.
        (host, "route_localnet", "1"),
        // What the dataplane would not take goes no further.
        (DATAPLANE_INTERFACE, "forwarding", "0"),
    ] {
        let key = format!("net/ipv4/conf/{device}/{key}");
        changed.extend(sysctl::make(proc_sys, &key, value)?);
    }
    // A kernel without IPv6 has nothing to switch off.
    for (device, key, value) in [
        (host, "accept_dad", "0"),
        (host, "dad_transmits", "0"),
        (host, "accept_ra", "0"),
        (host, "addr_gen_mode", "1"),
        (host, "disable_ipv6", "0"),
        // The kernel is not to speak for the dataplane.
        (DATAPLANE_INTERFACE, "disable_ipv6", "1"),
    ] {
        let key = format!("net/ipv6/conf/{device}/{key}");
        changed.extend(sysctl::make_if_there(proc_sys, &key, value)?);
    }
    Ok(changed)
}

fn is_veth(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| {
        matches!(attribute, LinkAttribute::LinkInfo(infos)
            if infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth))))
    })
}

fn has_queues(link: &LinkMessage, queues: u32) -> bool {
    let both = link
        .attributes
        .iter()
        .filter(|attribute| {
            matches!(attribute, LinkAttribute::NumTxQueues(n) | LinkAttribute::NumRxQueues(n) if *n == queues)
        })
        .count();
    both == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pair_takes_what_fits_into_all_tunnels() {
        let settings = |tunnel, pod_mtu| Settings {
            uplink: None,
            host_interface: String::new(),
            queues: 1,
            tunnel,
            pod_mtu,
            node: String::new(),
            proc_sys: Default::default(),
        };
        let of = |tunnel, pod_mtu, vteps: &[&str]| {
            let vteps = vteps.iter().map(|vtep| vtep.parse().expect("an address"));
            mtu(&settings(tunnel, pod_mtu), 1_500, &vteps.collect())
        };
        assert_eq!(of(Tunnel::Vxlan, 1_500, &[]), 1_450);
        assert_eq!(of(Tunnel::Vxlan, 1_500, &["10.0.0.2"]), 1_450);
        assert_eq!(of(Tunnel::Vxlan, 1_500, &["fd50::2"]), 1_430);
        assert_eq!(of(Tunnel::Vxlan, 1_500, &["10.0.0.2", "fd50::2"]), 1_430);
        assert_eq!(of(Tunnel::Auto, 1_500, &["fd50::2"]), 1_500);
        assert_eq!(of(Tunnel::Vxlan, 61_000, &["fd50::2"]), 61_000);
    }

    #[test]
    fn addresses_are_local_unicast_stable_and_differ() {
        let dataplane = address("node1", 0x70);
        assert_eq!(dataplane, address("node1", 0x70));
        assert_ne!(dataplane, address("node2", 0x70));
        assert_ne!(dataplane, address("node1", 0x71));
        assert_eq!(dataplane.0[0] & 3, 2);
    }
}
