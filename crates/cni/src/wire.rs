//! The wire of a pod: a veth pair from its namespace to its node's.

use std::net::IpAddr;
use std::num::NonZeroU16;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use podway_host::{
    Namespace, NetlinkError, Network, PathMtu, Route, Veth, VethEnd, far_mtu, fnv64, pod_alias,
};

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
    format!("pw{:012x}", fnv64(pod) >> 16)
}

/// A locally administered Ethernet address for a pod, the same for the same `NAMESPACE/NAME`.
pub fn pod_mac(pod: &str) -> [u8; 6] {
    let [_, _, _, a, b, c, d, e] = fnv64(pod).to_be_bytes();
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
        node.add_veth(&pair(wiring)).await
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

fn pair<'a>(wiring: &PodWiring<'a>) -> Veth<'a> {
    Veth {
        near: VethEnd {
            name: wiring.interface,
            mac: None,
        },
        far: VethEnd {
            name: wiring.device,
            mac: Some(wiring.mac),
        },
        into: Some(wiring.pod_namespace),
        queues: wiring.queues.get().into(),
        mtu: Some(wiring.pod_mtu),
    }
}

fn finish(wiring: &PodWiring<'_>, routes: &[Route]) -> Result<(), WireError> {
    let failed = |source| WireError::Netlink {
        pod: wiring.pod.to_owned(),
        source,
    };
    Network::of(wiring.node_namespace, async |node: Network| {
        let index = node.index(wiring.interface)?;
        node.set_alias(index, pod_alias(wiring.pod)).await
    })
    .map_err(failed)?;

    Network::of(wiring.pod_namespace, async |pod: Network| {
        let index = pod.index(wiring.device)?;
        pod.checksum_in_software(index).await?;
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
            // Never locked: what the dataplane and routers say of smaller paths is for the pod's stack to keep (R6).
            mtu: Some(PathMtu::Learning(far)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_interface_has_a_legal_length() {
        assert_eq!(host_interface("a").len(), 14);
        assert_ne!(host_interface("shop/web-0"), host_interface("shop/web-1"));
        assert_eq!(pod_mac("a"), [0x02, 0x4c, 0x86, 0x01, 0xec, 0x8c]);
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
