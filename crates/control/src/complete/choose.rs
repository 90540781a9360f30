//! Choices that only depend on names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Addresses of a range that are chosen from, at most: beyond, host numbers get long.
const MAX_SLOTS: u64 = 1 << 16;

/// A name's number: FNV-1a, and a mixing step for its high bits; the same on every node and in every release.
pub(super) fn hash(name: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
    hash ^ (hash >> 32)
}

/// The first free one of so many slots, looked for from where the name's hash points.
pub(super) fn slot(name: &str, slots: u64, mut is_free: impl FnMut(u64) -> bool) -> Option<u64> {
    let start = hash(name).checked_rem(slots)?;
    (0..slots)
        .map(|step| (start + step) % slots)
        .find(|slot| is_free(*slot))
}

/// A free address of a range, never its first two (network and gateway) nor its last (broadcast).
pub(super) fn address(
    name: &str,
    range: &IpNet,
    is_free: impl Fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    let bits = u32::from(range.max_prefix_len() - range.prefix_len());
    let all = 1u64.checked_shl(bits.min(63))?.min(MAX_SLOTS);
    let slots = all.checked_sub(3)?;
    let slot = slot(name, slots, |slot| is_free(nth(range, slot + 2)))?;
    Some(nth(range, slot + 2))
}

/// The range's address with this host number.
pub(super) fn nth(range: &IpNet, number: u64) -> IpAddr {
    match range.network() {
        IpAddr::V4(first) => {
            Ipv4Addr::from_bits(first.to_bits().wrapping_add(number as u32)).into()
        }
        IpAddr::V6(first) => {
            Ipv6Addr::from_bits(first.to_bits().wrapping_add(u128::from(number))).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_for_ever() {
        assert_eq!(hash("shop/web-0"), 10_247_619_716_720_617_689);
    }

    #[test]
    fn small_ranges_keep_network_gateway_and_broadcast_free() {
        let range: IpNet = "10.0.0.0/29".parse().unwrap();
        let mut taken = Vec::new();
        while let Some(address) = address("a", &range, |address| !taken.contains(&address)) {
            taken.push(address);
        }
        taken.sort();
        let expected: Vec<IpAddr> = (2..7).map(|host| IpAddr::from([10, 0, 0, host])).collect();
        assert_eq!(taken, expected);
        for empty in ["10.0.0.0/31", "10.0.0.1/32", "fd00::1/128"] {
            assert_eq!(
                address("a", &empty.parse().unwrap(), |_| true),
                None,
                "{empty}"
            );
        }
        assert!(address("a", &"::/0".parse().unwrap(), |_| true).is_some());
    }
}
