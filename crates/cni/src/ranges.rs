//! Which address of a range is the next to be given away.

use std::net::IpAddr;

use ipnet::IpNet;

/// The next free address after the last one that was given, round the range, so that a freed address rests for as
/// long as can be. Never the network's own address, its gateway (the first), nor an IPv4 range's broadcast address.
pub(crate) fn next_address(
    range: IpNet,
    last: Option<IpAddr>,
    is_taken: impl Fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    let (first, end) = usable(range)?;
    let inside =
        |address: &IpAddr| range.contains(address) && (first..=end).contains(&bits(*address));
    let start = match last.filter(inside).map(bits) {
        Some(last) if last < end => last + 1,
        Some(_) | None => first,
    };
    let mut round = (start..=end).chain(first..start);
    round
        .by_ref()
        .map(|bits| address(range, bits))
        .find(|address| !is_taken(*address))
}

fn usable(range: IpNet) -> Option<(u128, u128)> {
    let first = bits(range.network()).checked_add(2)?;
    let end = match range {
        IpNet::V4(range) => u128::from(range.broadcast().to_bits()).checked_sub(1)?,
        IpNet::V6(range) => range.broadcast().to_bits(),
    };
    (first <= end).then_some((first, end))
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn address(range: IpNet, bits: u128) -> IpAddr {
    match range {
        IpNet::V4(_) => IpAddr::V4(((bits & u128::from(u32::MAX)) as u32).into()),
        IpNet::V6(_) => IpAddr::V6(bits.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn next(range: &str, last: Option<&str>, taken: &[&str]) -> Option<String> {
        let taken: Vec<IpAddr> = taken.iter().map(|it| it.parse().unwrap()).collect();
        let last = last.map(|it| it.parse().unwrap());
        next_address(range.parse().unwrap(), last, |it| taken.contains(&it))
            .map(|it| it.to_string())
    }

    #[test]
    fn addresses_go_round_the_range() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(next("10.0.0.0/29", None, &[]), some("10.0.0.2"));
        assert_eq!(next("10.0.0.0/29", Some("10.0.0.2"), &[]), some("10.0.0.3"));
        assert_eq!(
            next("10.0.0.0/29", Some("10.0.0.6"), &["10.0.0.2"]),
            some("10.0.0.3")
        );
        assert_eq!(next("10.0.0.0/29", Some("10.9.9.9"), &[]), some("10.0.0.2"));
        assert_eq!(next("fd44::/64", None, &["fd44::2"]), some("fd44::3"));
        assert_eq!(
            next("fd44::/64", Some("fd44::ffff:ffff:ffff:ffff"), &[]),
            some("fd44::2")
        );
    }

    #[test]
    fn a_range_without_room_has_no_next_address() {
        for range in [
            "10.0.0.0/30",
            "10.0.0.0/31",
            "10.0.0.0/32",
            "fd44::/127",
            "fd44::/128",
            "255.255.255.255/32",
        ] {
            let taken: &[&str] = if range == "10.0.0.0/30" {
                &["10.0.0.2"]
            } else {
                &[]
            };
            assert_eq!(next(range, None, taken), None, "{range}");
        }
        assert_eq!(
            next("0.0.0.0/0", Some("255.255.255.254"), &[]).as_deref(),
            Some("0.0.0.2")
        );
        assert_eq!(next("::/0", None, &[]).as_deref(), Some("::2"));
    }

    proptest! {
        #[test]
        fn every_address_is_given_once_before_any_is_given_again(length in 24_u8..=30, start: u32) {
            let range: IpNet = ipnet::Ipv4Net::new(start.into(), length).unwrap().trunc().into();
            let mut given = BTreeSet::new();
            let mut last = None;
            let room = (1_usize << (32 - length)) - 3;
            for _ in 0..room {
                let address = next_address(range, last, |_| false).unwrap();
                prop_assert!(range.contains(&address) && given.insert(address));
                last = Some(address);
            }
            prop_assert_eq!(next_address(range, last, |it| given.contains(&it)), None);
            prop_assert_eq!(next_address(range, last, |_| false), given.first().copied());
        }
    }
}
