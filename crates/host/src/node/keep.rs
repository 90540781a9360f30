//! Keeps the pair to the host's stack as it was made, whatever others do to it (R4).

use std::net::Ipv4Addr;

use futures_util::StreamExt;
use rtnetlink::LinkUnspec;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::LinkMessage;

use super::mend::{Mend, Ours};
use super::{DATAPLANE_INTERFACE, Device, NodeError, Settings, is_up, pair, read_device};
use crate::ask::{beside, collect, done, is_absent, refused, within};
use crate::{NetlinkError, Network};

/// The host end's own: with none, the kernel takes a loose look at reverse paths (rp_filter=2) for a strict one.
const HOST_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 112, 2);

/// The two ends as they are to be, the host's first.
pub(super) type Ends = (Device, Device);

/// Makes both ends what they were; `None` if one is gone, and the pair has to be made anew.
pub(super) async fn keep(
    network: &Network,
    settings: &Settings,
    (host, dataplane): (&Device, &Device),
    mtu: u32,
    mended: &mut Vec<Mend>,
) -> Result<Option<Ends>, NodeError> {
    let host_name = settings.host_interface.as_str();
    let Some(host) = end(network, host, (host_name, mtu), mended).await? else {
        return Ok(None);
    };
    let name = DATAPLANE_INTERFACE;
    let Some(dataplane) = end(network, dataplane, (name, mtu), mended).await? else {
        return Ok(None);
    };
    let (name, proc_sys) = (host_name.to_owned(), settings.proc_sys.clone());
    let settled = beside(move || pair::settle(&name, &proc_sys)).await;
    let settled = settled.map_err(NetlinkError::Setting)?;
    mended.extend(settled.into_iter().map(|key| Mend::new(Ours::Setting, key)));
    if address(network, host.ifindex).await? == Put::Now {
        mended.push(Mend::new(Ours::Address, HOST_ADDRESS.to_string()));
    }
    if network.keep_checksum_in_software(host.ifindex).await? {
        let detail = format!("TX checksums of {host_name}");
        mended.push(Mend::new(Ours::Offload, detail));
    }
    Ok(Some((host, dataplane)))
}

/// Whether something had to be put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// It was there.
    Before,
    /// It was not.
    Now,
}

/// Gives the host's end its address.
pub(super) async fn address(network: &Network, ifindex: u32) -> Result<Put, NodeError> {
    let handle = network.handle();
    let of_link = handle.address().get().set_link_index_filter(ifindex);
    let present = collect("list addresses", of_link.execute()).await?;
    if present.iter().any(is_hosts) {
        return Ok(Put::Before);
    }
    let mut request = handle.address().add(ifindex, HOST_ADDRESS.into(), 32);
    // For nothing but this link: the kernel must not send to others from it.
    request.message_mut().header.scope = AddressScope::Link;
    done(&format!("add address {HOST_ADDRESS}"), request.execute()).await?;
    Ok(Put::Now)
}

fn is_hosts(address: &AddressMessage) -> bool {
    address
        .attributes
        .contains(&AddressAttribute::Local(HOST_ADDRESS.into()))
}

/// Makes an end what it was; `None` if it is gone.
async fn end(
    network: &Network,
    known: &Device,
    (name, mtu): (&str, u32),
    mended: &mut Vec<Mend>,
) -> Result<Option<Device>, NodeError> {
    let Some(link) = link_at(network, known.ifindex).await? else {
        return Ok(None);
    };
    let seen = read_device(&link);
    let differences = differences(known, &seen, name);
    let is_down = !is_up(&link);
    let wanted = Device {
        name: name.to_owned(),
        mtu,
        mac: known.mac,
        ..seen.clone()
    };
    if wanted == seen && !is_down {
        return Ok(Some(seen));
    }
    let change = |link: LinkMessage| network.handle().link().change(link).execute();
    if seen.name != name {
        // Older kernels rename no device that is up.
        let down = LinkUnspec::new_with_index(known.ifindex).down().build();
        done(&format!("set {} down", seen.name), change(down)).await?;
    }
    let link = LinkUnspec::new_with_index(known.ifindex)
        .name(name.to_owned())
        .mtu(mtu)
        .address(known.mac.0.to_vec())
        .up();
    done(&format!("mend {name}"), change(link.build())).await?;
    let down = is_down.then(|| format!("{name} was down"));
    let details = differences.into_iter().chain(down);
    mended.extend(details.map(|detail| Mend::new(Ours::Device, detail)));
    Ok(Some(wanted))
}

/// What others changed of a device since it was known to be so; its MTU follows the uplink's by our own doing.
fn differences(known: &Device, seen: &Device, name: &str) -> Vec<String> {
    let mut all = Vec::new();
    if seen.name != name {
        all.push(format!("{name} was called {}", seen.name));
    }
    if seen.mtu != known.mtu {
        all.push(format!("{name} had an MTU of {}", seen.mtu));
    }
    if seen.mac != known.mac {
        all.push(format!("{name} had the Ethernet address {}", seen.mac));
    }
    all
}

/// The device with this index, whatever it is called now.
pub(super) async fn link_at(
    network: &Network,
    ifindex: u32,
) -> Result<Option<LinkMessage>, NodeError> {
    let what = format!("look device {ifindex} up");
    let request = network.handle().link().get().match_index(ifindex).execute();
    let mut request = std::pin::pin!(request);
    match within(&what, request.next()).await? {
        Some(Ok(link)) => Ok(Some(link)),
        Some(Err(error)) if is_absent(&error) => Ok(None),
        Some(Err(error)) => Err(refused(&what, error).into()),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use podway_wire::Mac;

    use super::*;

    #[test]
    fn r4_what_others_changed_of_an_end_is_told() {
        let known = Device {
            ifindex: 7,
            name: "podway-host".to_owned(),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            mtu: 61_000,
            alias: String::new(),
            program: 0,
            master: 0,
            below: 0,
            is_up: true,
        };
        assert!(differences(&known, &known, "podway-host").is_empty());
        let seen = Device {
            name: "x".to_owned(),
            mtu: 1_280,
            mac: Mac([2, 0, 0, 0, 0, 2]),
            ..known.clone()
        };
        assert_eq!(
            differences(&known, &seen, "podway-host"),
            [
                "podway-host was called x",
                "podway-host had an MTU of 1280",
                "podway-host had the Ethernet address 02:00:00:00:00:02"
            ]
        );
    }
}
