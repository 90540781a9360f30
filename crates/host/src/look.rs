//! What the kernel has of a link: read, and waited for.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "netlink's enums are not ours, and grow with the kernel"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage, State};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage};
use rtnetlink::{MulticastGroup, RouteMessageBuilder};

use crate::ask::collect;
use crate::{Heard, KernelEvents, NetlinkError, Network, PathMtu, Route};

/// A link as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Its Ethernet address.
    pub mac: Option<[u8; 6]>,
    /// Its addresses, without their prefixes.
    pub addresses: Vec<IpAddr>,
    /// Those of the main table that lead out of it.
    pub routes: Vec<Route>,
    /// Those of other tables.
    pub elsewhere: Vec<Route>,
    /// Those that stay as they are.
    pub neighbours: Vec<(IpAddr, [u8; 6])>,
}

impl Network {
    /// What the kernel has of a link.
    pub async fn seen(&self, index: u32) -> Result<Seen, NetlinkError> {
        let mac = mac_of(&self.link(index).await?);
        let of_link = self.handle().address().get();
        let addresses = of_link.set_link_index_filter(index).execute();
        let addresses = collect("list addresses", addresses).await?;
        let (mut routes, mut elsewhere) = (Vec::new(), Vec::new());
        for family in [
            RouteMessageBuilder::<Ipv4Addr>::new().build(),
            RouteMessageBuilder::<Ipv6Addr>::new().build(),
        ] {
            let found = self.handle().route().get(family).execute();
            let found = collect("list routes", found).await?;
            for message in &found {
                let table = match message.header.table {
                    RouteHeader::RT_TABLE_MAIN => &mut routes,
                    _ => &mut elsewhere,
                };
                table.extend(route(message, index));
            }
        }
        let neighbours = self.handle().neighbours().get().execute();
        let neighbours = collect("list neighbours", neighbours).await?;
        Ok(Seen {
            mac,
            addresses: addresses
                .iter()
                .flat_map(|it| &it.attributes)
                .filter_map(|attribute| match attribute {
                    AddressAttribute::Address(address) => Some(*address),
                    _ => None,
                })
                .collect(),
            routes,
            elsewhere,
            neighbours: neighbours
                .iter()
                .filter_map(|it| neighbour(it, index))
                .collect(),
        })
    }

    /// Waits until the kernel has started a link whose ends are both up: it does so some time after the second one was
    /// set up, and a busy one late; what is sent before is lost.
    pub async fn started(&self, name: &str, within: Duration) -> Result<(), NetlinkError> {
        let events = KernelEvents::open(&[MulticastGroup::Link]).map_err(NetlinkError::Socket)?;
        let index = self.index(name)?;
        let started = async {
            if is_started(&self.link(index).await?) {
                return Ok(());
            }
            loop {
                let is_started = match events.next().await.map_err(NetlinkError::Socket)? {
                    Heard::TooMuch => is_started(&self.link(index).await?),
                    Heard::Events(events) => starts(&events, index)
                        .ok_or_else(|| NetlinkError::NoLink(name.to_owned()))?,
                };
                if is_started {
                    return Ok(());
                }
            }
        };
        let late = |_| NetlinkError::NotStarted {
            link: name.to_owned(),
            within,
        };
        tokio::time::timeout(within, started).await.map_err(late)?
    }

    /// Whether a link was set up.
    pub async fn is_up(&self, index: u32) -> Result<bool, NetlinkError> {
        let link = self.link(index).await?;
        Ok(link.header.flags.contains(LinkFlags::Up))
    }

    async fn link(&self, index: u32) -> Result<LinkMessage, NetlinkError> {
        let asked = self.handle().link().get().match_index(index).execute();
        let links = collect("look an interface up", asked).await?;
        let gone = || NetlinkError::NoLink(index.to_string());
        links.into_iter().next().ok_or_else(gone)
    }
}

fn is_started(link: &LinkMessage) -> bool {
    link.attributes
        .contains(&LinkAttribute::OperState(State::Up))
}

/// Whether these events end with a link that is started; `None` if it is gone.
fn starts(events: &[RouteNetlinkMessage], index: u32) -> Option<bool> {
    let mut last = Some(false);
    for event in events {
        match event {
            RouteNetlinkMessage::NewLink(link) if link.header.index == index => {
                last = Some(is_started(link));
            }
            RouteNetlinkMessage::DelLink(link) if link.header.index == index => last = None,
            _ => (),
        }
    }
    last
}

fn mac_of(link: &LinkMessage) -> Option<[u8; 6]> {
    let mut attributes = link.attributes.iter();
    attributes.find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => bytes.as_slice().try_into().ok(),
        _ => None,
    })
}

fn route(message: &RouteMessage, index: u32) -> Option<Route> {
    let everything = match message.header.address_family {
        rtnetlink::packet_route::AddressFamily::Inet => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let (mut target, mut gateway, mut device, mut mtu) = (everything, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => target = ip(address)?,
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Oif(oif) => device = Some(*oif),
            RouteAttribute::Metrics(metrics) => mtu = PathMtu::of_metrics(metrics),
            _ => (),
        }
    }
    let length = message.header.destination_prefix_length;
    (device == Some(index)).then_some(Route {
        destination: IpNet::new(target, length).ok()?,
        gateway,
        mtu,
    })
}

fn neighbour(message: &NeighbourMessage, index: u32) -> Option<(IpAddr, [u8; 6])> {
    let is_fixed = message.header.state == NeighbourState::Permanent;
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                address = Some(IpAddr::V4(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                address = Some(IpAddr::V6(*v6));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => (),
        }
    }
    (is_fixed && message.header.ifindex == index).then_some((address?, mac?))
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}
