//! Links, addresses and routes of the namespace that the caller is in.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags};
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMetric, RouteScope};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder, new_connection};

use crate::{Namespace, NamespaceError, offload};

/// Why the kernel did not take a link, an address or a route.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The namespace can't be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// No netlink socket or no runtime for it.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The kernel refused.
    #[error("cannot {doing}: {source}; run as root (CAP_NET_ADMIN) and see `dmesg`")]
    Refused {
        /// What was asked.
        doing: String,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
    /// There is no such link.
    #[error("there is no interface {0}; is the pod or lab gone?")]
    NoLink(String),
    /// The kernel has not started a link.
    #[error(
        "interface {link} carries no packets after {} s: the kernel is busy with others, or its other end is down; try again", within.as_secs_f32()
    )]
    NotStarted {
        /// The link.
        link: String,
        /// How long it was waited for.
        within: Duration,
    },
    /// The stack would send partial checksums.
    #[error(
        "cannot switch checksum offload off: {0}; does the kernel have CONFIG_ETHTOOL_NETLINK?"
    )]
    Offload(#[source] io::Error),
    /// A setting under /proc/sys can't be written.
    #[error("cannot set {path}: {source}; run as root with /proc/sys writable")]
    Setting {
        /// The file.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The bit of RTAX_MTU in RTAX_LOCK.
pub(crate) const LOCK_MTU: u32 = 1 << 2;

/// A route by way of one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// The next hop, which is on the link whatever its address; `None`: the destination itself is.
    pub gateway: Option<IpAddr>,
    /// How large packets may be on this way; `None`: as the link's.
    pub mtu: Option<PathMtu>,
}

/// The largest IP packet on a way, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathMtu {
    /// Less if a router says so.
    Learning(u32),
    /// Whatever routers say; the stack lets them cut what its programs don't forbid to (`mtu lock`).
    Locked(u32),
}

/// The links, addresses and routes of one namespace.
pub struct Network {
    handle: Handle,
}

impl Network {
    /// What the job returns, run inside the namespace.
    pub fn of<T: Send, E: From<NetlinkError> + Send>(
        namespace: &Namespace,
        job: impl AsyncFnOnce(Self) -> Result<T, E> + Send,
    ) -> Result<T, E> {
        let inside = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.map_err(NetlinkError::Socket)?.block_on(async {
                let (connection, handle, _) = new_connection().map_err(NetlinkError::Socket)?;
                tokio::spawn(connection);
                job(Self { handle }).await
            })
        };
        namespace.inside(inside).map_err(NetlinkError::Namespace)?
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The index of the link of that name.
    pub fn index(&self, name: &str) -> Result<u32, NetlinkError> {
        nix::net::if_::if_nametoindex(name).map_err(|_| NetlinkError::NoLink(name.to_owned()))
    }

    /// Creates a link.
    pub async fn add_link(&self, link: LinkMessage) -> Result<(), NetlinkError> {
        let asked = self.handle.link().add(link).execute().await;
        asked.map_err(refused(|| "create an interface".to_owned()))
    }

    /// Changes a link.
    pub async fn set_link(&self, link: LinkMessage) -> Result<(), NetlinkError> {
        let asked = self.handle.link().set(link).execute().await;
        asked.map_err(refused(|| "change an interface".to_owned()))
    }

    /// Sets a link up.
    pub async fn set_up(&self, index: u32) -> Result<(), NetlinkError> {
        self.set_link(LinkUnspec::new_with_index(index).up().build())
            .await
    }

    /// Deletes a link.
    pub async fn delete_link(&self, index: u32) -> Result<(), NetlinkError> {
        let asked = self.handle.link().del(index).execute().await;
        asked.map_err(refused(|| format!("delete interface {index}")))
    }

    /// Gives a link an address, usable at once: no duplicate address detection.
    pub async fn add_address(&self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        let mut request = self
            .handle
            .address()
            .add(index, address.addr(), address.prefix_len());
        if address.addr().is_ipv6() {
            let message = request.message_mut();
            message.header.flags |= AddressHeaderFlags::Nodad;
            message
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request
            .execute()
            .await
            .map_err(refused(|| format!("add address {address}")))
    }

    /// Adds a route by way of a link, which is up.
    pub async fn add_route(&self, index: u32, route: Route) -> Result<(), NetlinkError> {
        let Route {
            destination,
            gateway,
            mtu,
        } = route;
        let mut builder = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(destination.network(), destination.prefix_len())
            .expect("a range is legal")
            .output_interface(index);
        builder = match gateway {
            Some(gateway) => builder.gateway(gateway).expect("one family").onlink(),
            None => builder.scope(RouteScope::Link),
        };
        if let Some(mtu) = mtu {
            let metrics = match mtu {
                PathMtu::Learning(mtu) => vec![RouteMetric::Mtu(mtu)],
                PathMtu::Locked(mtu) => vec![RouteMetric::Lock(LOCK_MTU), RouteMetric::Mtu(mtu)],
            };
            let metrics = RouteAttribute::Metrics(metrics);
            builder.get_mut().attributes.push(metrics);
        }
        let asked = self.handle.route().add(builder.build()).execute().await;
        asked.map_err(refused(|| format!("add route {destination}")))
    }

    /// Fixes the Ethernet address of a neighbour.
    pub async fn set_neighbour(
        &self,
        index: u32,
        address: IpAddr,
        mac: [u8; 6],
    ) -> Result<(), NetlinkError> {
        let request = self.handle.neighbours().add(index, address);
        let request = request
            .link_layer_address(&mac)
            .state(NeighbourState::Permanent)
            .replace();
        let asked = request.execute().await;
        asked.map_err(refused(|| format!("set neighbour {address}")))
    }

    /// Makes the stack compute the checksums of what it sends through a link: XDP at the other end of a veth pair
    /// cannot see that one is only partial (D4).
    pub fn checksum_in_software(&self, index: u32) -> Result<(), NetlinkError> {
        offload::checksum_in_software(index).map_err(NetlinkError::Offload)
    }

    /// Makes this namespace ready for links: loopback up, IPv6 on, without duplicate address detection, router
    /// solicitations, and addresses or routes from router advertisements.
    pub async fn prepare(&self) -> Result<(), NetlinkError> {
        for family in ["all", "default"] {
            let settings = [
                ("disable_ipv6", "0"),
                ("accept_dad", "0"),
                ("dad_transmits", "0"),
                ("accept_ra", "0"),
                ("autoconf", "0"),
                ("router_solicitations", "0"),
            ];
            for (key, value) in settings {
                set_sysctl(&format!("net/ipv6/conf/{family}/{key}"), value)?;
            }
        }
        self.set_up(self.index("lo")?).await
    }

    /// Keeps the machine's packet filters, and the reassembly that they bring, away from what bridges here forward.
    pub fn pass_filters_by(&self) -> Result<(), NetlinkError> {
        ["arptables", "iptables", "ip6tables"]
            .iter()
            .try_for_each(|filter| set_sysctl(&format!("net/bridge/bridge-nf-call-{filter}"), "0"))
    }
}

/// Writes a setting of this thread's network namespace; a kernel without IPv6 or filters lacks some, and needs none of them.
fn set_sysctl(key: &str, value: &str) -> Result<(), NetlinkError> {
    let path = Path::new("/proc/sys").join(key);
    match std::fs::write(&path, value) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(NetlinkError::Setting {
            path: path.display().to_string(),
            source,
        }),
        _ => Ok(()),
    }
}

pub(crate) fn refused(
    doing: impl FnOnce() -> String,
) -> impl FnOnce(rtnetlink::Error) -> NetlinkError {
    |source| NetlinkError::Refused {
        doing: doing(),
        source,
    }
}
