//! Next hops towards other nodes, which the kernel resolves and keeps for us.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use futures_util::StreamExt;
use podway_wire::Mac;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteVia};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::{Device, NodeError, Wanted};
use crate::NetlinkError;
use crate::ask::{collect, done, within};

/// Has the kernel resolve the next hop to each wanted node; gives those it knows.
///
/// `managed` are the next hops that we asked for; those that no node needs any more are given back.
pub(super) async fn reconcile(
    handle: &Handle,
    uplink: &Device,
    wanted: &Wanted,
    managed: &mut BTreeSet<IpAddr>,
    problems: &mut Vec<String>,
) -> Result<BTreeMap<IpAddr, Mac>, NodeError> {
    let Wanted { vteps, direct, .. } = wanted;
    if vteps.is_empty() && managed.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut hops = BTreeMap::new();
    hops.extend(direct.iter().map(|vtep| (*vtep, *vtep)));
    for vtep in vteps.difference(direct) {
        match next_hop(handle, uplink, *vtep).await? {
            Ok(hop) => hops.extend(hop.map(|hop| (*vtep, hop))),
            Err(problem) => problems.push(problem),
        }
    }
    let known: BTreeMap<IpAddr, NeighbourMessage> =
        collect("list neighbours", handle.neighbours().get().execute())
            .await?
            .into_iter()
            .filter(|neighbour| neighbour.header.ifindex == uplink.ifindex)
            .filter_map(|neighbour| Some((ip_of(&neighbour)?, neighbour)))
            .collect();

    let needed: BTreeSet<IpAddr> = hops.values().copied().collect();
    for hop in &needed {
        if !known.get(hop).is_some_and(is_kept) {
            keep(handle, uplink.ifindex, *hop).await?;
        }
    }
    for hop in managed.difference(&needed) {
        if let Some(neighbour) = known.get(hop).filter(|it| is_managed(it)) {
            let request = handle.neighbours().del(neighbour.clone()).execute();
            if let Err(error) = done(&format!("give the neighbour {hop} back"), request).await {
                problems.push(error.to_string());
            }
        }
    }
    *managed = needed;
    let mac = |hop: &IpAddr| mac_of(known.get(hop)?);
    let resolved = hops.iter();
    let resolved = resolved.filter_map(|(vtep, hop)| Some((*vtep, mac(hop)?)));
    Ok(resolved.collect())
}

/// The address that the kernel's routes send packets for `target` to: a gateway's, or its own; `None` if they lead by another
/// device, whose neighbours the router knows.
async fn next_hop(
    handle: &Handle,
    uplink: &Device,
    target: IpAddr,
) -> Result<Result<Option<IpAddr>, String>, NodeError> {
    let length = if target.is_ipv4() { 32 } else { 128 };
    let question = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(target, length)
        .expect("the whole address")
        .build();
    let answer = handle.route().get(question).execute();
    let mut answer = std::pin::pin!(answer);
    let route = match within(&format!("find the route to {target}"), answer.next()).await? {
        Some(Ok(route)) => route,
        Some(Err(_)) | None => {
            return Ok(Err(format!(
                "no route to the node at {target}: add one through {}",
                uplink.name
            )));
        }
    };
    let mut hop = target;
    let mut device = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(v4)) => hop = IpAddr::V4(*v4),
            RouteAttribute::Gateway(RouteAddress::Inet6(v6))
            | RouteAttribute::Via(RouteVia::Inet6(v6)) => hop = IpAddr::V6(*v6),
            RouteAttribute::Oif(index) => device = Some(*index),
            _ => (),
        }
    }
    Ok(Ok((device == Some(uplink.ifindex)).then_some(hop)))
}

/// Has the kernel resolve the neighbour, and probe it again whenever it becomes stale (NTF_EXT_MANAGED, Linux 5.16).
pub(crate) async fn keep(handle: &Handle, ifindex: u32, hop: IpAddr) -> Result<(), NetlinkError> {
    let mut request = handle
        .neighbours()
        .add(ifindex, hop)
        .state(NeighbourState::None)
        .replace();
    request
        .message_mut()
        .attributes
        .push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
    done(&format!("resolve the neighbour {hop}"), request.execute()).await
}

pub(crate) fn is_managed(neighbour: &NeighbourMessage) -> bool {
    neighbour.attributes.iter().any(|attribute| {
        matches!(attribute, NeighbourAttribute::ExtFlags(flags) if flags.contains(NeighbourExtFlags::Managed))
    })
}

/// True if the kernel keeps it resolved without our doing.
pub(crate) fn is_kept(neighbour: &NeighbourMessage) -> bool {
    is_managed(neighbour) || neighbour.header.state == NeighbourState::Permanent
}

pub(crate) fn mac_of(neighbour: &NeighbourMessage) -> Option<Mac> {
    match neighbour.header.state {
        NeighbourState::Reachable
        | NeighbourState::Stale
        | NeighbourState::Delay
        | NeighbourState::Probe
        | NeighbourState::Permanent => (),
        _ => return None,
    }
    neighbour
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                bytes.as_slice().try_into().ok().map(Mac)
            }
            _ => None,
        })
}

pub(crate) fn ip_of(neighbour: &NeighbourMessage) -> Option<IpAddr> {
    neighbour
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
            _ => None,
        })
}
