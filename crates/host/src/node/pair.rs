//! The veth pair between the host's stack and the dataplane.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use podway_intent::Tunnel;
use podway_wire::Mac;
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage,
};
use rtnetlink::{Handle, LinkUnspec, LinkVeth};

use super::{
    DATAPLANE_INTERFACE, Device, NodeError, Settings, device, done, is_up, link, read_device,
};

/// VXLAN over IPv4: outer Ethernet is not part of the MTU, but the inner one is (RFC 7348, 5).
const TUNNEL_OVERHEAD: u32 = 50;

/// Makes the pair, or adopts the one that is there if it fits; both ends are up afterwards.
pub(super) async fn make(
    handle: &Handle,
    settings: &Settings,
    uplink_mtu: u32,
) -> Result<(Device, Device), NodeError> {
    let host = settings.host_interface.as_str();
    let mtu = mtu(settings, uplink_mtu);
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
        create(handle, settings).await?;
    }
    settle(host, &settings.proc_sys)?;

    let mut ends = Vec::new();
    for name in [host, DATAPLANE_INTERFACE] {
        let missing = || NodeError::NoDevice(name.to_owned());
        let now = link(handle, name).await?.ok_or_else(missing)?;
        let mut end = read_device(&now);
        if end.mtu != mtu || !is_up(&now) {
            let change = LinkUnspec::new_with_index(end.ifindex).mtu(mtu).up();
            let request = handle.link().change(change.build()).execute();
            done(&format!("set {name} up with an MTU of {mtu}"), request).await?;
            end.mtu = mtu;
        }
        ends.push(end);
    }
    let [host_end, dataplane_end] = ends.try_into().expect("two ends");
    crate::checksum_in_software(host_end.ifindex).map_err(|error| NodeError::Refused {
        what: format!("switch TX checksum offload of {host} off"),
        problem: error.to_string(),
    })?;
    Ok((host_end, dataplane_end))
}

/// The pair's MTU: that of large pods; else what fits into the tunnel, or the wire if some nodes are sent to without it;
/// and at least what IPv6 asks for (RFC 8200, 5).
pub(super) fn mtu(settings: &Settings, uplink_mtu: u32) -> u32 {
    if settings.pod_mtu > uplink_mtu {
        return settings.pod_mtu;
    }
    let overhead = match settings.tunnel {
        Tunnel::Vxlan => TUNNEL_OVERHEAD,
        Tunnel::Direct | Tunnel::Auto => 0,
    };
    uplink_mtu.saturating_sub(overhead).max(1280)
}

async fn create(handle: &Handle, settings: &Settings) -> Result<(), NodeError> {
    let queues = settings.queues;
    let peer = LinkUnspec::new_with_name(DATAPLANE_INTERFACE)
        .address(address(&settings.node, 0x70).0.to_vec())
        .append_extra_attribute(LinkAttribute::NumTxQueues(queues))
        .append_extra_attribute(LinkAttribute::NumRxQueues(queues))
        .build();
    let host = settings.host_interface.as_str();
    let pair = LinkVeth::new(host, DATAPLANE_INTERFACE)
        .address(address(&settings.node, 0x71).0.to_vec())
        .append_extra_attribute(LinkAttribute::NumTxQueues(queues))
        .append_extra_attribute(LinkAttribute::NumRxQueues(queues))
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
    let what = format!("create {host} and {DATAPLANE_INTERFACE}");
    done(&what, handle.link().add(pair).execute()).await
}

/// A locally administered address that follows from the node's name (FNV-1a), so that neighbours may remember it.
fn address(node: &str, role: u8) -> Mac {
    let hash = node.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    let [a, b, c, d] = hash.to_be_bytes();
    Mac([0x02, role, a, b, c, d])
}

fn settle(host: &str, proc_sys: &Path) -> Result<(), NodeError> {
    let v4 = format!("net/ipv4/conf/{host}");
    let v6 = format!("net/ipv6/conf/{host}");
    let dataplane = format!("net/ipv6/conf/{DATAPLANE_INTERFACE}");
    let is_v6 = |part: &OsStr| part == "ipv6";
    for (key, value) in [
        (format!("{v4}/rp_filter"), "2"),
        // A node process may reach a hostNetwork pod of its own node through a service.
        (format!("{v4}/accept_local"), "1"),
        (format!("{v6}/accept_dad"), "0"),
        (format!("{v6}/dad_transmits"), "0"),
        (format!("{v6}/accept_ra"), "0"),
        (format!("{v6}/addr_gen_mode"), "1"),
        // The kernel is not to speak for the dataplane.
        (format!("{dataplane}/disable_ipv6"), "1"),
    ] {
        let path = proc_sys.join(key);
        match fs::write(&path, value) {
            // A kernel without IPv6 has nothing to switch off.
            Err(error) if error.kind() == ErrorKind::NotFound && path.iter().any(is_v6) => (),
            Err(problem) => {
                let path = path.display().to_string();
                return Err(NodeError::Setting { path, problem });
            }
            Ok(()) => (),
        }
    }
    Ok(())
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
    fn addresses_are_local_unicast_stable_and_differ() {
        let dataplane = address("node1", 0x70);
        assert_eq!(dataplane, address("node1", 0x70));
        assert_ne!(dataplane, address("node2", 0x70));
        assert_ne!(dataplane, address("node1", 0x71));
        assert_eq!(dataplane.0[0] & 3, 2);
    }
}
