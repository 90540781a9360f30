//! How large packets may be on which way, in bytes of the IP packet.

use std::net::IpAddr;

use podway_wire::{Addr, Family, vxlan};
use rtnetlink::packet_route::route::RouteMetric;

/// The bit of RTAX_MTU in RTAX_LOCK.
const LOCK_MTU: u32 = 1 << 2;

/// The largest IP packet on a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathMtu {
    /// Less if a router says so.
    Learning(u32),
    /// Whatever routers say; the stack lets them cut what its programs don't forbid to (`mtu lock`).
    Locked(u32),
}

impl PathMtu {
    /// The size, whether it is locked or not.
    pub fn bytes(self) -> u32 {
        match self {
            PathMtu::Learning(mtu) | PathMtu::Locked(mtu) => mtu,
        }
    }

    pub(crate) fn metrics(self) -> Vec<RouteMetric> {
        match self {
            PathMtu::Learning(mtu) => vec![RouteMetric::Mtu(mtu)],
            PathMtu::Locked(mtu) => vec![RouteMetric::Lock(LOCK_MTU), RouteMetric::Mtu(mtu)],
        }
    }

    /// What a route's metrics say; `None` if they leave it to the link.
    pub(crate) fn of_metrics(metrics: &[RouteMetric]) -> Option<PathMtu> {
        let mtu = metrics.iter().find_map(|metric| {
            let RouteMetric::Mtu(mtu) = metric else {
                return None;
            };
            Some(*mtu)
        })?;
        let is_locked = metrics
            .iter()
            .any(|metric| matches!(metric, RouteMetric::Lock(locked) if locked & LOCK_MTU != 0));
        Some(match is_locked {
            true => PathMtu::Locked(mtu),
            false => PathMtu::Learning(mtu),
        })
    }
}

/// What fits into a tunnel to a VTEP: VXLAN takes 50 bytes of the uplink's MTU for outer IPv4, UDP, VXLAN and the inner
/// Ethernet header, and 70 with outer IPv6 (RFC 7348, 5).
pub fn tunnel_mtu(uplink_mtu: u32, vtep: IpAddr) -> u32 {
    uplink_mtu.saturating_sub(vxlan::overhead(Addr::from(vtep).family()) as u32)
}

/// The MTU of a pod's way to all but its node's other pods: its device's, if that is larger than the wire's, since the
/// dataplane cuts what is too long; else what fits into the tunnel.
pub fn far_mtu(pod_mtu: u32, tunnel_mtu: u32) -> u32 {
    // What the longest tunnel headers take off the wire's MTU.
    let headers = vxlan::overhead(Family::V6) as u32;
    match pod_mtu > tunnel_mtu.saturating_add(headers) {
        true => pod_mtu,
        false => tunnel_mtu,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnels_cost_what_their_headers_need() {
        let mtu = |vtep: &str| tunnel_mtu(1_500, vtep.parse().expect("an address"));
        assert_eq!((mtu("192.168.50.1"), mtu("fd50::1")), (1_450, 1_430));
    }

    #[test]
    fn large_packets_go_everywhere_or_nowhere() {
        assert_eq!(far_mtu(61_000, 1_450), 61_000);
        assert_eq!(far_mtu(1_500, 1_450), 1_450);
        assert_eq!(far_mtu(9_000, 8_930), 8_930);
    }

    #[test]
    fn metrics_say_what_was_written_into_them() {
        for mtu in [PathMtu::Learning(1_400), PathMtu::Locked(61_000)] {
            assert_eq!(PathMtu::of_metrics(&mtu.metrics()), Some(mtu));
        }
        assert_eq!(PathMtu::of_metrics(&[RouteMetric::Lock(LOCK_MTU)]), None);
    }
}
