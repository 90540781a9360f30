//! The node as its kernel has it: the uplink, the veth pair to the host's stack, routes and next hops.
//!
//! The kernel stays the authority. [`Node::reconcile`] makes it what is wanted by difference and says what it
//! found; nothing here depends on having seen an event, which only says that it is time to look again.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "netlink's enums are not ours, and grow with the kernel"
)]

mod keep;
mod mend;
mod neighbours;
mod pair;
mod routes;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use self::neighbours::{ip_of, is_kept, is_managed, keep, mac_of};
pub(crate) use self::routes::ip_of_route;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use crate::ask::{collect, is_absent, refused, within};
use crate::{Heard, KernelEvents, NetlinkError, Network, pod_of_alias};
use futures_util::StreamExt;
use ipnet::IpNet;
use podway_intent::Tunnel;
use podway_wire::Mac;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage, LinkXdp};
use rtnetlink::{Handle, MulticastGroup};

pub use self::mend::{Mend, Ours};

/// The dataplane's end of the pair that leads to the host's stack.
pub const DATAPLANE_INTERFACE: &str = "podway-dp";
/// What the node is to be made of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The device that leads to the other nodes; without it, the one of the default route, or the only one.
    pub uplink: Option<String>,
    /// The host's end of the pair.
    pub host_interface: String,
    /// Queues of both ends of the pair: one for each worker.
    pub queues: u32,
    /// Which nodes' packets go through the tunnel: the pair's MTU follows from it.
    pub tunnel: Tunnel,
    /// What pods' devices take, in bytes; the pair takes as much if that is more than the wire does.
    pub pod_mtu: u32,
    /// Decides the pair's Ethernet addresses, so that they outlive the pair.
    pub node: String,
    /// Where the kernel's settings are.
    pub proc_sys: PathBuf,
}

/// A device as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address.
    pub mac: Mac,
    /// The largest IP packet that it takes, in bytes.
    pub mtu: u32,
    /// Its alias, empty if it has none.
    pub alias: String,
    /// The kernel's id of its XDP program; 0 without one.
    pub program: u32,
    /// The index of the device that it is a part of (a bond, a team, a bridge, a VRF); 0 without one.
    pub master: u32,
    /// The index of the device that it is made on (a VLAN's, a macvlan's); 0 without one in this namespace.
    pub below: u32,
    /// Whether somebody set it up.
    pub is_up: bool,
}

/// What the cluster wants of the node's kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Pod and service ranges: what the node's processes reach through the dataplane.
    pub ranges: BTreeSet<IpNet>,
    /// The node's own addresses; the first of a family is the source of packets to `ranges`.
    pub addresses: Vec<IpAddr>,
    /// Where other nodes are reached.
    pub vteps: BTreeSet<IpAddr>,
    /// Those of `vteps` that are sent to by their own Ethernet address, whatever routes say.
    pub direct: BTreeSet<IpAddr>,
}

/// What a look at the kernel showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The uplink.
    pub uplink: Device,
    /// The host's end of the pair.
    pub host: Device,
    /// The dataplane's end of the pair; its Ethernet address is the gateway's.
    pub dataplane: Device,
    /// The ranges whose addresses the uplink reaches without a gateway, in order.
    pub subnets: Vec<IpNet>,
    /// The next hop's Ethernet address for each tunnel end that is resolved.
    pub next_hops: BTreeMap<IpAddr, Mac>,
    /// What others had changed of ours, and is as it was.
    pub mended: Vec<Mend>,
    /// What is not as it should be, in words.
    pub problems: Vec<String>,
}

/// Why the node can't be made what it should be.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The kernel did not do or say what was asked.
    #[error(transparent)]
    Kernel(#[from] NetlinkError),
    /// A device is not there.
    #[error("there is no device {0}: set `uplink` to the device that leads to the other nodes")]
    NoDevice(String),
    /// No device is named, and none follows.
    #[error(
        "there is no default route, and not just one device that leads anywhere: set `uplink` to the device that leads to the other nodes"
    )]
    NoDefaultRoute,
    /// A device that we would make is somebody else's.
    #[error("{0} exists and is no veth device: rename it, or set `host_interface` to another name")]
    Foreign(String),
}

/// The node's kernel, by netlink.
pub struct Node {
    network: Network,
    events: KernelEvents,
    settings: Settings,
    uplink: Device,
    host: Device,
    dataplane: Device,
    managed: BTreeSet<IpAddr>,
    /// Where other nodes are reached.
    vteps: BTreeSet<IpAddr>,
    /// The routes that we had put there last.
    routes: routes::Routes,
}

impl Node {
    /// Finds the uplink and makes or adopts the pair to the host; needs a tokio runtime.
    pub async fn open(settings: Settings) -> Result<Node, NodeError> {
        let events = KernelEvents::open(&[
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ])
        .map_err(NetlinkError::Socket)?;
        let network = Network::open()?;
        let handle = network.handle();
        let uplink = match &settings.uplink {
            Some(name) => device(handle, name)
                .await?
                .ok_or_else(|| NodeError::NoDevice(name.clone()))?,
            None => default_device(handle, &settings.host_interface).await?,
        };
        let (host, dataplane) = pair::make(
            &network,
            &settings,
            pair::mtu(&settings, uplink.mtu, &BTreeSet::new()),
        )
        .await?;
        Ok(Node {
            network,
            events,
            uplink,
            settings,
            host,
            dataplane,
            managed: BTreeSet::new(),
            vteps: BTreeSet::new(),
            routes: routes::Routes::new(),
        })
    }

    /// The device that leads to the other nodes, as it was last seen.
    pub fn uplink(&self) -> &Device {
        &self.uplink
    }

    /// The host's end of the pair.
    pub fn host(&self) -> &Device {
        &self.host
    }

    /// The dataplane's end of the pair; its Ethernet address is the gateway's.
    pub fn dataplane(&self) -> &Device {
        &self.dataplane
    }

    /// The network that it is on.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// All devices.
    pub async fn devices(&self) -> Result<Vec<Device>, NodeError> {
        let links = collect("list devices", self.network.handle().link().get().execute()).await?;
        Ok(links.iter().map(read_device).collect())
    }

    /// All devices whose alias says that they are a pod's.
    pub async fn pods(&self) -> Result<Vec<Device>, NodeError> {
        let mut devices = self.devices().await?;
        devices.retain(|device| pod_of_alias(&device.alias).is_some());
        Ok(devices)
    }

    /// Sets a device up.
    pub async fn raise(&self, ifindex: u32) -> Result<(), NodeError> {
        Ok(self.network.set_up(ifindex).await?)
    }

    /// Makes the kernel what is wanted, by difference, and says what it is like now.
    pub async fn reconcile(&mut self, wanted: &Wanted) -> Result<Seen, NodeError> {
        let (mut problems, mut mended) = (Vec::new(), Vec::new());
        self.vteps.clone_from(&wanted.vteps);
        let uplink = self.find_uplink().await?;
        let mtu = uplink.as_ref().unwrap_or(&self.uplink).mtu;
        self.keep_pair(pair::mtu(&self.settings, mtu, &wanted.vteps), &mut mended)
            .await?;
        routes::reconcile(
            &self.network,
            (&self.host, mtu),
            self.dataplane.mac,
            (wanted, &mut self.routes),
            (&mut mended, &mut problems),
        )
        .await?;
        // The rest is kept while the uplink is away.
        let Some(uplink) = uplink else {
            problems.push(NodeError::NoDevice(self.uplink.name.clone()).to_string());
            return Ok(Seen {
                uplink: self.uplink.clone(),
                host: self.host.clone(),
                dataplane: self.dataplane.clone(),
                subnets: Vec::new(),
                next_hops: BTreeMap::new(),
                mended,
                problems,
            });
        };
        self.uplink.clone_from(&uplink);
        let subnets = routes::subnets(&self.network, uplink.ifindex).await?;
        let next_hops = neighbours::reconcile(
            self.network.handle(),
            &uplink,
            wanted,
            &mut self.managed,
            &mut problems,
        )
        .await?;
        Ok(Seen {
            uplink,
            host: self.host.clone(),
            dataplane: self.dataplane.clone(),
            subnets,
            next_hops,
            mended,
            problems,
        })
    }

    /// The uplink, whatever it is called now; one that was replaced by its name, or as the device of the default route.
    async fn find_uplink(&self) -> Result<Option<Device>, NodeError> {
        if let Some(link) = keep::link_at(&self.network, self.uplink.ifindex).await? {
            return Ok(Some(read_device(&link)));
        }
        let name = self.settings.uplink.as_ref().unwrap_or(&self.uplink.name);
        let named = device(self.network.handle(), name).await?;
        match (&self.settings.uplink, named) {
            (_, Some(named)) => Ok(Some(named)),
            (Some(_), None) => Ok(None),
            (None, None) => {
                let host = &self.settings.host_interface;
                Ok(default_device(self.network.handle(), host).await.ok())
            }
        }
    }

    /// Has both ends of the pair as they are to be.
    async fn keep_pair(&mut self, mtu: u32, mended: &mut Vec<Mend>) -> Result<(), NodeError> {
        let ends = (&self.host, &self.dataplane);
        let kept = keep::keep(&self.network, &self.settings, ends, mtu, mended).await?;
        (self.host, self.dataplane) = match kept {
            Some(ends) => ends,
            None => {
                mended.push(Mend::new(Ours::Device, "the pair to the host was gone"));
                pair::make(&self.network, &self.settings, mtu).await?
            }
        };
        Ok(())
    }

    /// Gives a device an alias.
    pub async fn set_alias(&self, ifindex: u32, alias: String) -> Result<(), NodeError> {
        Ok(self.network.set_alias(ifindex, alias).await?)
    }

    /// Returns when the kernel reported something that [`Node::reconcile`] should look at.
    pub async fn changed(&self) {
        loop {
            match self.events.next().await {
                Ok(Heard::TooMuch) => return,
                Ok(Heard::Events(events)) => {
                    if events.iter().any(|event| self.concerns_us(event)) {
                        return;
                    }
                }
                // The periodic look remains.
                Err(_) => std::future::pending().await,
            }
        }
    }

    fn concerns_us(&self, event: &RouteNetlinkMessage) -> bool {
        match event {
            RouteNetlinkMessage::NewNeighbour(it) | RouteNetlinkMessage::DelNeighbour(it) => {
                [self.uplink.ifindex, self.host.ifindex].contains(&it.header.ifindex)
            }
            RouteNetlinkMessage::NewLink(it) => {
                let ours = [&self.uplink, &self.host, &self.dataplane];
                ours.iter().any(|device| device.ifindex == it.header.index)
            }
            // A device that went may have been a pod's.
            RouteNetlinkMessage::DelLink(_) => true,
            RouteNetlinkMessage::NewRoute(it) | RouteNetlinkMessage::DelRoute(it) => {
                let (uplink, host) = (self.uplink.ifindex, self.host.ifindex);
                routes::concerns(it, uplink, host, &self.vteps)
            }
            _ => false,
        }
    }
}

impl Network {
    /// The device of this name, if there is one.
    pub async fn device(&self, name: &str) -> Result<Option<Device>, NodeError> {
        device(self.handle(), name).await
    }

    /// The devices that have an alias, and what it is.
    pub async fn aliases(&self) -> Result<Vec<(u32, String)>, NetlinkError> {
        let links = collect("list devices", self.handle().link().get().execute()).await?;
        let devices = links.iter().map(read_device);
        let named = devices.filter(|it| !it.alias.is_empty());
        Ok(named.map(|it| (it.ifindex, it.alias)).collect())
    }
}

async fn device(handle: &Handle, name: &str) -> Result<Option<Device>, NodeError> {
    Ok(link(handle, name).await?.as_ref().map(read_device))
}

/// The device of the default route: of IPv4's if there is one, else of IPv6's; without one the only device that leads
/// anywhere.
async fn default_device(handle: &Handle, host_interface: &str) -> Result<Device, NodeError> {
    let links = collect("list devices", handle.link().get().execute()).await?;
    let mut devices: Vec<Device> = links.iter().map(read_device).collect();
    match routes::default_device(handle).await? {
        Some(index) => devices.retain(|it| it.ifindex == index),
        None => {
            let connected = routes::connected(handle).await?;
            let is_ours = |it: &Device| {
                it.name == host_interface
                    || it.name == DATAPLANE_INTERFACE
                    || pod_of_alias(&it.alias).is_some()
            };
            devices.retain(|it| connected.contains(&it.ifindex) && !is_ours(it));
        }
    }
    match devices.len() {
        1 => Ok(devices.remove(0)),
        _ => Err(NodeError::NoDefaultRoute),
    }
}

async fn link(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, NodeError> {
    let request = handle.link().get().match_name(name).execute();
    let mut request = std::pin::pin!(request);
    match within(&format!("look {name} up"), request.next()).await? {
        Some(Ok(link)) => Ok(Some(link)),
        Some(Err(error)) if is_absent(&error) => Ok(None),
        Some(Err(error)) => Err(refused(&format!("look {name} up"), error).into()),
        None => Ok(None),
    }
}

fn read_device(link: &LinkMessage) -> Device {
    let mut device = Device {
        ifindex: link.header.index,
        name: String::new(),
        mac: Mac::default(),
        mtu: 0,
        alias: String::new(),
        program: 0,
        master: 0,
        below: 0,
        is_up: is_up(link),
    };
    let mut is_elsewhere = false;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => device.name.clone_from(name),
            LinkAttribute::IfAlias(alias) => device.alias.clone_from(alias),
            LinkAttribute::Mtu(mtu) => device.mtu = *mtu,
            LinkAttribute::Controller(index) => device.master = *index,
            LinkAttribute::Link(index) => device.below = *index,
            LinkAttribute::Xdp(programs) => device.program = program_of(programs),
            LinkAttribute::Address(bytes) => {
                device.mac = bytes.as_slice().try_into().map_or(device.mac, Mac);
            }
            LinkAttribute::LinkNetNsId(_) => is_elsewhere = true,
            _ => (),
        }
    }
    if is_elsewhere {
        device.below = 0;
    }
    device
}

/// The one program of a device, in its driver or in the stack; 0 if there is none.
fn program_of(programs: &[LinkXdp]) -> u32 {
    let ids = programs.iter().filter_map(|it| match it {
        LinkXdp::ProgId(id) => Some(*id),
        _ => None,
    });
    ids.max().unwrap_or(0)
}

fn is_up(link: &LinkMessage) -> bool {
    link.header.flags.contains(LinkFlags::Up)
}
