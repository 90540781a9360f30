//! What addresses may be used for.

use std::net::IpAddr;

use ipnet::IpNet;
use podway_wire::Addr;

/// Whether packets may be sent to an address on a cluster's behalf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fitness {
    /// An ordinary unicast address.
    Fit,
    /// Loopback, link-local, multicast or unspecified (S25).
    Never,
}

pub(crate) fn fitness(ip: &IpAddr) -> Fitness {
    let ip = ip.to_canonical();
    let addr = Addr::from(ip);
    let special = ip.is_loopback() || ip.is_unspecified();
    match special || addr.is_link_local() || addr.is_multicast() {
        true => Fitness::Never,
        false => Fitness::Fit,
    }
}

/// The gateway of a pod range: the address after the network's own, or that one in a range of one address.
pub fn gateway(range: &IpNet) -> IpAddr {
    let second = match range.network() {
        IpAddr::V4(first) => IpAddr::V4(u32::from(first).wrapping_add(1).into()),
        IpAddr::V6(first) => IpAddr::V6(u128::from(first).wrapping_add(1).into()),
    };
    match range.contains(&second) {
        true => second,
        false => range.network(),
    }
}

/// The range of one address.
pub(crate) fn single(addr: &Addr) -> IpNet {
    IpNet::from(addr.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s25_special_addresses_are_never_fit() {
        let special = "127.0.0.1 169.254.1.1 224.0.0.1 255.255.255.255 0.0.0.0 ::1 fe80::1 ff02::1 :: ::ffff:127.0.0.1";
        for text in special.split(' ') {
            assert_eq!(
                fitness(&text.parse().expect("address")),
                Fitness::Never,
                "{text}"
            );
        }
        for text in ["10.0.0.1", "192.0.2.1", "fd00::1", "2001:db8::1"] {
            assert_eq!(
                fitness(&text.parse().expect("address")),
                Fitness::Fit,
                "{text}"
            );
        }
    }

    #[test]
    fn the_gateway_follows_the_network_address() {
        for (range, expected) in [
            ("10.244.1.0/24", "10.244.1.1"),
            ("10.244.1.9/24", "10.244.1.1"),
            ("fd00:1::/64", "fd00:1::1"),
            ("10.0.0.7/32", "10.0.0.7"),
        ] {
            let range: IpNet = range.parse().expect("range");
            assert_eq!(gateway(&range).to_string(), expected);
        }
    }
}
