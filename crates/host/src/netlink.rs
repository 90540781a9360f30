//! Links, addresses and routes of the namespace that the caller is in.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use ipnet::IpNet;
use netlink_sys::AsyncSocket;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags};
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteScope};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, RouteMessageBuilder, new_connection};

use crate::ask::{NetlinkError, beside, collect, done};
use crate::sysctl::{PROC_SYS, set_if_there};
use crate::{Namespace, PathMtu, SettingError, Veth, offload};

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

/// The links, addresses and routes of one namespace. A thread of its own asks the kernel: the system call itself waits for
/// the lock of all links, and then nothing else waits for it.
#[derive(Clone)]
pub struct Network {
    handle: Handle,
    /// Whose lists the kernel filters as it is asked to (NETLINK_GET_STRICT_CHK).
    filtered: Handle,
}

impl Network {
    /// That of the caller's namespace; calls need a tokio runtime with time.
    pub fn open() -> Result<Network, NetlinkError> {
        let (opened, handle) = mpsc::sync_channel(1);
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build();
            let opening = runtime.and_then(|runtime| {
                let connected = {
                    let _entered = runtime.enter();
                    let mut filtered = new_connection()?;
                    let socket = filtered.0.socket_mut().socket_mut();
                    // A kernel without it lists all.
                    let _ = socket.set_netlink_get_strict_chk(true);
                    (new_connection()?, filtered)
                };
                Ok((runtime, connected))
            });
            match opening {
                Ok((runtime, ((one, handle, _), (other, filtered, _)))) => {
                    let _ = opened.send(Ok(Network { handle, filtered }));
                    // They end with the last handle.
                    runtime.block_on(async { tokio::join!(one, other) });
                }
                Err(error) => drop(opened.send(Err(error))),
            }
        };
        thread::Builder::new()
            .name("netlink".to_owned())
            .spawn(serve)?;
        let ended = |_| io::Error::other("its thread ended");
        Ok(handle.recv().map_err(ended)??)
    }

    /// What the job returns, run inside the namespace.
    pub fn of<T: Send, E: From<NetlinkError> + Send>(
        namespace: &Namespace,
        job: impl AsyncFnOnce(Self) -> Result<T, E> + Send,
    ) -> Result<T, E> {
        let inside = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(NetlinkError::Socket)?;
            runtime.block_on(job(Network::open()?))
        };
        namespace.inside(inside).map_err(NetlinkError::Namespace)?
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The routes of the main table out of a device, and on old kernels others.
    pub(crate) async fn routes_out_of(
        &self,
        index: u32,
    ) -> Result<Vec<RouteMessage>, NetlinkError> {
        let mut all = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            question.header.table = RouteHeader::RT_TABLE_MAIN;
            question.attributes.push(RouteAttribute::Oif(index));
            let dump = self.filtered.route().get(question).execute();
            match collect("list routes", dump).await {
                Ok(routes) => all.extend(routes),
                // There is no such table before its first route, and none of a family that is switched off.
                Err(NetlinkError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// The index of the link of that name.
    pub fn index(&self, name: &str) -> Result<u32, NetlinkError> {
        nix::net::if_::if_nametoindex(name).map_err(|_| NetlinkError::NoLink(name.to_owned()))
    }

    /// Creates a pair of links.
    pub async fn add_veth(&self, veth: &Veth<'_>) -> Result<(), NetlinkError> {
        let doing = format!("create {} and {}", veth.near.name, veth.far.name);
        done(&doing, self.handle.link().add(veth.message()).execute()).await
    }

    /// Creates a bridge, which is up. Snooping is off: it would drop neighbour solicitations until it saw the others' reports.
    pub async fn add_bridge(&self, name: &str) -> Result<(), NetlinkError> {
        let bridge = LinkBridge::new(name).mcast_snooping(false).up().build();
        let doing = format!("create bridge {name}");
        done(&doing, self.handle.link().add(bridge).execute()).await
    }

    /// Makes a link a port of a bridge, and sets it up.
    pub async fn join_bridge(&self, index: u32, bridge: u32) -> Result<(), NetlinkError> {
        let port = LinkUnspec::new_with_index(index).controller(bridge).up();
        self.set_link(port.build()).await
    }

    /// Gives a link an alias.
    pub async fn set_alias(&self, index: u32, alias: String) -> Result<(), NetlinkError> {
        let link = LinkUnspec::new_with_index(index).alias(alias);
        self.set_link(link.build()).await
    }

    /// Gives a link to another namespace, where it is down and has that name and alias.
    pub async fn hand_over(
        &self,
        index: u32,
        to: &Namespace,
        name: &str,
        alias: String,
    ) -> Result<(), NetlinkError> {
        let link = LinkUnspec::new_with_index(index)
            .down()
            .setns_by_fd(to.as_raw_fd())
            .name(name)
            .alias(alias);
        self.set_link(link.build()).await
    }

    /// Sets a link's MTU, in bytes.
    pub async fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        let link = LinkUnspec::new_with_index(index).mtu(mtu);
        self.set_link(link.build()).await
    }

    /// Sets a link up.
    pub async fn set_up(&self, index: u32) -> Result<(), NetlinkError> {
        self.set_link(LinkUnspec::new_with_index(index).up().build())
            .await
    }

    async fn set_link(&self, link: LinkMessage) -> Result<(), NetlinkError> {
        let doing = format!("change interface {}", link.header.index);
        done(&doing, self.handle.link().set(link).execute()).await
    }

    /// Deletes a link.
    pub async fn delete_link(&self, index: u32) -> Result<(), NetlinkError> {
        let doing = format!("delete interface {index}");
        done(&doing, self.handle.link().del(index).execute()).await
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
        done(&format!("add address {address}"), request.execute()).await
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
            let metrics = RouteAttribute::Metrics(mtu.metrics());
            builder.get_mut().attributes.push(metrics);
        }
        let request = self.handle.route().add(builder.build()).execute();
        done(&format!("add route {destination}"), request).await
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
        done(&format!("set neighbour {address}"), request.execute()).await
    }

    /// Makes the stack compute the checksums of what it sends through a link: XDP at the other end of a veth pair
    /// cannot see that one is only partial (D4).
    pub async fn checksum_in_software(&self, index: u32) -> Result<(), NetlinkError> {
        self.keep_checksum_in_software(index).await.map(drop)
    }

    /// The same; true if it was otherwise.
    pub async fn keep_checksum_in_software(&self, index: u32) -> Result<bool, NetlinkError> {
        let switched = beside(move || offload::checksum_in_software(index)).await;
        switched.map_err(NetlinkError::Offload)
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
                let key = format!("net/ipv6/conf/{family}/{key}");
                set_if_there(Path::new(PROC_SYS), &key, value)?;
            }
        }
        self.set_up(self.index("lo")?).await
    }

    /// Keeps the machine's packet filters, and the reassembly that they bring, away from what bridges here forward.
    pub fn pass_filters_by(&self) -> Result<(), SettingError> {
        ["arptables", "iptables", "ip6tables"]
            .iter()
            .try_for_each(|filter| {
                let key = format!("net/bridge/bridge-nf-call-{filter}");
                set_if_there(Path::new(PROC_SYS), &key, "0")
            })
    }
}
