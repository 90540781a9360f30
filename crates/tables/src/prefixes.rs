//! Longest-prefix match by one hash table per prefix length that occurs.

use std::collections::HashMap;

use foldhash::fast::FixedState;
use ipnet::IpNet;
use podway_wire::{Addr, Family};

/// A map from address ranges to values; a lookup costs one probe per prefix length that occurs in its family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixMap<V> {
    v4: Vec<Length<V>>,
    v6: Vec<Length<V>>,
}

/// All ranges of one length, by the address bits that they fix.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Length<V> {
    mask: u128,
    ranges: HashMap<u128, V, FixedState>,
}

impl<V> Default for PrefixMap<V> {
    fn default() -> Self {
        PrefixMap {
            v4: Vec::new(),
            v6: Vec::new(),
        }
    }
}

impl<V> PrefixMap<V> {
    /// Puts `value` at `range` and gives what was there; host bits of the range are ignored.
    pub fn insert(&mut self, range: IpNet, value: V) -> Option<V> {
        let (mask, bits) = mask_and_bits(&range);
        self.length_mut(&range, mask).insert(bits, value)
    }

    /// The value at exactly this range, made first if there is none.
    pub fn or_default(&mut self, range: IpNet) -> &mut V
    where
        V: Default,
    {
        let (mask, bits) = mask_and_bits(&range);
        self.length_mut(&range, mask).entry(bits).or_default()
    }

    /// Takes what is at exactly this range.
    pub fn remove(&mut self, range: &IpNet) -> Option<V> {
        let (mask, bits) = mask_and_bits(range);
        let lengths = self.family_mut(range);
        let index = lengths.iter().position(|length| length.mask == mask)?;
        let value = lengths[index].ranges.remove(&bits);
        if lengths[index].ranges.is_empty() {
            lengths.remove(index);
        }
        value
    }

    /// The value of the longest range that covers `addr`.
    #[inline]
    pub fn longest(&self, addr: &Addr) -> Option<&V> {
        self.covering(addr).next()
    }

    /// The values of all ranges that cover `addr`, the longest first.
    #[inline]
    pub fn covering(&self, addr: &Addr) -> impl Iterator<Item = &V> {
        let lengths = match addr.family() {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        };
        let bits = addr.bits();
        lengths
            .iter()
            .filter_map(move |length| length.ranges.get(&(bits & length.mask)))
    }

    /// Every value, in no order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        let lengths = self.v4.iter().chain(&self.v6);
        lengths.flat_map(|length| length.ranges.values())
    }

    /// Every value.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        let lengths = self.v4.iter_mut().chain(&mut self.v6);
        lengths.flat_map(|length| length.ranges.values_mut())
    }

    /// True if there is no range.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    fn family_mut(&mut self, range: &IpNet) -> &mut Vec<Length<V>> {
        match range {
            IpNet::V4(_) => &mut self.v4,
            IpNet::V6(_) => &mut self.v6,
        }
    }

    /// The table of a length, made in its place if there is none: longer masks are larger numbers.
    fn length_mut(&mut self, range: &IpNet, mask: u128) -> &mut HashMap<u128, V, FixedState> {
        let lengths = self.family_mut(range);
        let index = lengths.partition_point(|length| length.mask > mask);
        if lengths.get(index).is_none_or(|length| length.mask != mask) {
            let ranges = HashMap::default();
            lengths.insert(index, Length { mask, ranges });
        }
        &mut lengths[index].ranges
    }
}

/// The mask of a range over the 128 bits of an [`Addr`], and the bits that it fixes.
pub(crate) fn mask_and_bits(range: &IpNet) -> (u128, u128) {
    let host_bits = u32::from(range.max_prefix_len() - range.prefix_len());
    let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
    (mask, Addr::from(range.addr()).bits() & mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    /// Few distinct addresses, so that ranges nest, meet and repeat.
    fn address() -> impl Strategy<Value = IpAddr> {
        let v4 = (0u32..64).prop_map(|bits| IpAddr::V4(Ipv4Addr::from(bits * 0x0410_0401)));
        let v6 = (0u128..64).prop_map(|bits| IpAddr::V6(Ipv6Addr::from(bits << 120 | bits)));
        prop_oneof![v4, v6]
    }

    fn range() -> impl Strategy<Value = IpNet> {
        (address(), 0u8..=128).prop_map(|(addr, length)| {
            let most = if addr.is_ipv4() { 32 } else { 128 };
            IpNet::new(addr, length.min(most)).expect("length fits")
        })
    }

    proptest! {
        #[test]
        fn the_longest_range_wins_as_in_a_scan(
            ranges in prop::collection::vec((range(), 0u32..1000), 0..40),
            gone in prop::collection::vec(0usize..40, 0..10),
            probes in prop::collection::vec(address(), 1..40),
        ) {
            let mut map = PrefixMap::default();
            let mut list: Vec<(IpNet, u32)> = Vec::new();
            for (range, value) in &ranges {
                map.insert(*range, *value);
                list.retain(|(other, _)| other.trunc() != range.trunc());
                list.push((*range, *value));
            }
            for range in gone.iter().filter_map(|index| ranges.get(*index)) {
                map.remove(&range.0);
                list.retain(|(other, _)| other.trunc() != range.0.trunc());
            }
            list.sort_by_key(|(range, _)| std::cmp::Reverse(range.prefix_len()));
            for probe in probes {
                let naive: Vec<u32> = list
                    .iter()
                    .filter(|(range, _)| range.contains(&probe))
                    .map(|(_, value)| *value)
                    .collect();
                let found: Vec<u32> = map.covering(&probe.into()).copied().collect();
                prop_assert_eq!(found, naive);
            }
            prop_assert_eq!(map.is_empty(), list.is_empty());
        }
    }
}
