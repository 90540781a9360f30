//! The wire of a pod: a veth pair from its namespace to its node's.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::os::fd::AsRawFd;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use podway_host::{Namespace, NetlinkError, Network, PathMtu, Route};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

/// The largest IP packet in bytes that fits into a tunnel to a VTEP: VXLAN takes 50 bytes of the uplink's MTU for
/// outer IPv4, UDP, VXLAN and the inner Ethernet header, and 70 with outer IPv6 (RFC 7348).
pub fn tunnel_mtu(uplink_mtu: u32, vtep: IpAddr) -> u32 {
    match vtep {
        IpAddr::V4(_) => uplink_mtu.saturating_sub(50),
        IpAddr::V6(_) => uplink_mtu.saturating_sub(70),
    }
}

/// IFALIASZ of if.h without the final zero; the names of namespaces and pods are ASCII, and longer ones are cut.
const ALIAS_LIMIT: usize = 255;

/// The MTU of a pod's way to all but its node's other pods: its device's, if that is larger than the wire's, since the
/// dataplane cuts what is too long; else what fits into the tunnel.
pub(crate) fn far_mtu(pod_mtu: u32, tunnel_mtu: u32) -> u32 {
    /// What the longest tunnel headers take off the wire's MTU.
    const HEADERS: u32 = 70;
    match pod_mtu > tunnel_mtu.saturating_add(HEADERS) {
        true => pod_mtu,
        false => tunnel_mtu,
    }
}

/// What a pod's wire is made of.
#[derive(Clone, Debug)]
pub struct PodWiring<'a> {
    /// The pod as `NAMESPACE/NAME`.
    pub pod: &'a str,
    /// The host end's name.
    pub interface: &'a str,
    /// The pod end's name.
    pub device: &'a str,
    /// Where the host end goes.
    pub node_namespace: &'a Namespace,
    /// Where the pod's end goes.
    pub pod_namespace: &'a Namespace,
    /// The pod's Ethernet address.
    pub mac: [u8; 6],
    /// The pod's addresses, at most one of a family.
    pub addresses: &'a [IpAddr],
    /// The node's pod ranges: the first address of a family's range is the pod's gateway.
    pub pod_ranges: &'a [IpNet],
    /// The gateway's Ethernet address; `None`: the pod asks for it (D6).
    pub gateway_mac: Option<[u8; 6]>,
    /// Receive and transmit queues of each end: one for each worker of the agent.
    pub queues: NonZeroU16,
    /// MTU in bytes of the wire, and of the way to the node's other pods.
    pub pod_mtu: u32,
    /// What fits into the tunnel, in bytes: the MTU of all other ways of pods whose own is no larger than the wire's.
    pub tunnel_mtu: u32,
}

/// Why a pod has no wire.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The kernel refused, or a namespace is gone.
    #[error("pod {pod}: {source}")]
    Netlink {
        /// The pod.
        pod: String,
        /// What went wrong.
        source: NetlinkError,
    },
    /// There is no gateway for an address.
    #[error(
        "pod {pod}: its node has no pod range of the family of {address}; give the node one in spec.podCIDRs"
    )]
    NoRange {
        /// The pod.
        pod: String,
        /// The address.
        address: IpAddr,
    },
}

/// The name of a pod's host end: short, and the same for the same `NAMESPACE/NAME`.
pub fn host_interface(pod: &str) -> String {
    format!("pw{:012x}", hash(pod) >> 16)
}

/// A locally administered Ethernet address for a pod, the same for the same `NAMESPACE/NAME`.
pub fn pod_mac(pod: &str) -> [u8; 6] {
    let [_, _, _, a, b, c, d, e] = hash(pod).to_be_bytes();
    [0x02, a, b, c, d, e]
}

/// Makes a pod's wire, whose host end is down until the agent attaches it. Nothing is left behind if that fails.
pub fn wire(wiring: &PodWiring<'_>) -> Result<(), WireError> {
    let routes = routes(wiring)?;
    let failed = |source| WireError::Netlink {
        pod: wiring.pod.to_owned(),
        source,
    };

    Network::of(wiring.pod_namespace, async |pod: Network| {
        pod.prepare().await
    })
    .map_err(failed)?;
    Network::of(wiring.node_namespace, async |node: Network| {
        node.add_link(pair(wiring)).await
    })
    .map_err(failed)?;

    let finished = finish(wiring, &routes);
    if finished.is_err() {
        let _ = unwire(wiring.node_namespace, wiring.interface);
    }
    finished
}

/// Takes a wire away by its host end's name; one that is not there is fine.
pub fn unwire(node_namespace: &Namespace, interface: &str) -> Result<(), NetlinkError> {
    Network::of(node_namespace, async |node: Network| {
        let Ok(index) = node.index(interface) else {
            return Ok(());
        };
        match node.delete_link(index).await {
            // Somebody else took it away in the meantime, or its other end went with its namespace.
            Err(_) if node.index(interface).is_err() => Ok(()),
            deleted => deleted,
        }
    })
}

/// Both ends as one message, so that the pod's is never seen in the node's namespace.
fn pair(wiring: &PodWiring<'_>) -> LinkMessage {
    let queues = u32::from(wiring.queues.get());
    let inside = LinkMessageBuilder::<LinkUnspec>::new()
        .name(wiring.device)
        .address(wiring.mac.to_vec())
        .mtu(wiring.pod_mtu)
        .append_extra_attribute(LinkAttribute::NumTxQueues(queues))
        .append_extra_attribute(LinkAttribute::NumRxQueues(queues))
        .setns_by_fd(wiring.pod_namespace.as_raw_fd())
        .build();
    LinkVeth::new(wiring.interface, wiring.device)
        .mtu(wiring.pod_mtu)
        .append_extra_attribute(LinkAttribute::NumTxQueues(queues))
        .append_extra_attribute(LinkAttribute::NumRxQueues(queues))
        .set_info_data(InfoData::Veth(InfoVeth::Peer(inside)))
        .build()
}

fn finish(wiring: &PodWiring<'_>, routes: &[Route]) -> Result<(), WireError> {
    let failed = |source| WireError::Netlink {
        pod: wiring.pod.to_owned(),
        source,
    };
    let mut alias = format!("podway:{}", wiring.pod);
    alias.truncate(ALIAS_LIMIT);
    Network::of(wiring.node_namespace, async |node: Network| {
        let index = node.index(wiring.interface)?;
        node.set_link(LinkUnspec::new_with_index(index).alias(alias).build())
            .await
    })
    .map_err(failed)?;

    Network::of(wiring.pod_namespace, async |pod: Network| {
        let index = pod.index(wiring.device)?;
        pod.checksum_in_software(index)?;
        pod.set_up(index).await?;
        for &address in wiring.addresses {
            pod.add_address(index, IpNet::from(address)).await?;
        }
        for &route in routes {
            pod.add_route(index, route).await?;
            if let (None, Some(mac)) = (route.gateway, wiring.gateway_mac) {
                pod.set_neighbour(index, route.destination.addr(), mac)
                    .await?;
            }
        }
        Ok(())
    })
    .map_err(failed)
}

/// A pod's routes: to the gateway, and all others by it.
fn routes(wiring: &PodWiring<'_>) -> Result<Vec<Route>, WireError> {
    let mut routes = Vec::new();
    for &address in wiring.addresses {
        let range = wiring
            .pod_ranges
            .iter()
            .find(|range| range.addr().is_ipv4() == address.is_ipv4());
        let no_range = || WireError::NoRange {
            pod: wiring.pod.to_owned(),
            address,
        };
        let range = range.ok_or_else(no_range)?.trunc();
        let gateway = gateway(range);
        // Before those that lead by it; plugins that add routes of their own look for it, and not for ours.
        routes.push(Route {
            destination: gateway.into(),
            gateway: None,
            mtu: None,
        });
        let everything = match address {
            IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
            IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
        };
        let far = far_mtu(wiring.pod_mtu, wiring.tunnel_mtu);
        routes.push(Route {
            destination: range,
            gateway: Some(gateway),
            mtu: Some(PathMtu::Learning(wiring.pod_mtu)),
        });
        routes.push(Route {
            destination: everything,
            gateway: Some(gateway),
            mtu: Some(match (address, far > wiring.tunnel_mtu) {
                // What is not TCP is cut by the dataplane, as the stack would have done; IPv6 has no such way.
                (IpAddr::V4(_), true) => PathMtu::Locked(far),
                (IpAddr::V4(_), false) | (IpAddr::V6(_), _) => PathMtu::Learning(far),
            }),
        });
    }
    Ok(routes)
}

/// The first address of a range: the network's own address plus one.
pub(crate) fn gateway(range: IpNet) -> IpAddr {
    match range {
        IpNet::V4(range) => IpAddr::from((range.network().to_bits() | 1).to_be_bytes()),
        IpNet::V6(range) => IpAddr::from((range.network().to_bits() | 1).to_be_bytes()),
    }
}

/// FNV-1a: the same in every release, unlike the standard library's hashes.
fn hash(text: &str) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    text.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fnv_1a() {
        assert_eq!(hash(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash("a"), 0xaf63_dc4c_8601_ec8c);
    }

    #[test]
    fn a_host_interface_has_a_legal_length() {
        assert_eq!(host_interface("a").len(), 14);
        assert_ne!(host_interface("shop/web-0"), host_interface("shop/web-1"));
        assert_eq!(pod_mac("a"), [0x02, 0x4c, 0x86, 0x01, 0xec, 0x8c]);
    }

    #[test]
    fn tunnels_cost_what_their_headers_need() {
        assert_eq!(tunnel_mtu(1_500, "192.168.50.1".parse().unwrap()), 1_450);
        assert_eq!(tunnel_mtu(1_500, "fd50::1".parse().unwrap()), 1_430);
    }

    #[test]
    fn large_packets_go_everywhere_or_nowhere() {
        assert_eq!(far_mtu(61_000, 1_450), 61_000);
        assert_eq!(far_mtu(1_500, 1_450), 1_450);
        assert_eq!(far_mtu(9_000, 8_930), 8_930);
    }

    #[test]
    fn a_gateway_is_the_first_address() {
        assert_eq!(
            gateway("10.244.1.0/24".parse().unwrap()).to_string(),
            "10.244.1.1"
        );
        assert_eq!(
            gateway("fd44:0:0:1::/64".parse().unwrap()).to_string(),
            "fd44:0:0:1::1"
        );
    }
}
