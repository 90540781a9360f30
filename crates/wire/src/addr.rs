//! Addresses of both families in one type.

use std::cmp::Ordering;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv4 or IPv6 address in 16 bytes; IPv4 is held as `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2).
///
/// An IPv6 packet that carries a mapped address on the wire is malformed to us, so the two never meet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Addr {
    /// The bytes in memory order, as words: what compares, hashes and sums them works on words.
    words: [u64; 2],
}

/// The two families of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

const MAPPED: u64 = u64::from_ne_bytes([0, 0, 0xff, 0xff, 0, 0, 0, 0]);
const MAPPED_MASK: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);

impl Addr {
    /// `::`, which also stands for "no address".
    pub const UNSPECIFIED: Addr = Addr { words: [0; 2] };

    /// The address of four bytes in network order.
    #[inline]
    pub fn v4(bytes: [u8; 4]) -> Addr {
        let [a, b, c, d] = bytes;
        Addr {
            words: [0, MAPPED | u64::from_ne_bytes([0, 0, 0, 0, a, b, c, d])],
        }
    }

    /// The address of sixteen bytes in network order.
    #[inline]
    pub const fn v6(bytes: [u8; 16]) -> Addr {
        let bits = u128::from_be_bytes(bytes);
        Addr {
            words: [((bits >> 64) as u64).to_be(), (bits as u64).to_be()],
        }
    }

    /// The family.
    #[inline]
    pub fn family(&self) -> Family {
        match self.words[0] == 0 && self.words[1] & MAPPED_MASK == MAPPED {
            true => Family::V4,
            false => Family::V6,
        }
    }

    /// All sixteen bytes, an IPv4 address in its mapped form.
    #[inline]
    pub const fn octets(&self) -> [u8; 16] {
        self.bits().to_be_bytes()
    }

    /// The last four bytes: the whole address if it is IPv4.
    #[inline]
    pub fn low_bytes(&self) -> [u8; 4] {
        (self.words[1].to_be() as u32).to_be_bytes()
    }

    /// As a 128-bit number, the first byte highest.
    #[inline]
    pub const fn bits(&self) -> u128 {
        (self.words[0].to_be() as u128) << 64 | self.words[1].to_be() as u128
    }

    /// The two 64-bit words in memory order, for packed keys.
    #[inline]
    pub fn words(&self) -> [u64; 2] {
        self.words
    }

    /// The address of two words that [`Addr::words`] gave.
    #[inline]
    pub fn of_words(words: [u64; 2]) -> Addr {
        Addr { words }
    }

    /// The standard library's form.
    pub fn ip(&self) -> IpAddr {
        match self.family() {
            Family::V4 => IpAddr::V4(Ipv4Addr::from(self.low_bytes())),
            Family::V6 => IpAddr::V6(Ipv6Addr::from(self.octets())),
        }
    }

    /// True of 224.0.0.0/4, 255.255.255.255 and ff00::/8.
    #[inline]
    pub fn is_multicast(&self) -> bool {
        match self.family() {
            Family::V4 => self.low_bytes()[0] >= 224,
            Family::V6 => self.octets()[0] == 0xff,
        }
    }

    /// True of 127.0.0.0/8 and ::1.
    #[inline]
    pub fn is_loopback(&self) -> bool {
        const FIRST: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0]);
        const V4: u64 = u64::from_ne_bytes([0, 0, 0xff, 0xff, 127, 0, 0, 0]);
        const V6: u64 = u64::from_ne_bytes([0, 0, 0, 0, 0, 0, 0, 1]);
        let [high, low] = self.words;
        // What is rare first.
        (low & FIRST == V4 || low == V6) && high == 0
    }

    /// True of 169.254.0.0/16 and fe80::/10.
    #[inline]
    pub fn is_link_local(&self) -> bool {
        match self.family() {
            Family::V4 => self.low_bytes()[..2] == [169, 254],
            Family::V6 => self.octets()[0] == 0xfe && self.octets()[1] & 0xc0 == 0x80,
        }
    }
}

impl Ord for Addr {
    fn cmp(&self, other: &Addr) -> Ordering {
        self.bits().cmp(&other.bits())
    }
}

impl PartialOrd for Addr {
    fn partial_cmp(&self, other: &Addr) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Addr {
        match ip {
            IpAddr::V4(v4) => Addr::v4(v4.octets()),
            IpAddr::V6(v6) => Addr::v6(v6.octets()),
        }
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(ip: Ipv4Addr) -> Addr {
        Addr::v4(ip.octets())
    }
}

impl From<Ipv6Addr> for Addr {
    fn from(ip: Ipv6Addr) -> Addr {
        Addr::v6(ip.octets())
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip().fmt(f)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    /// True of group addresses, broadcast among them.
    #[inline]
    pub fn is_group(&self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_told_apart_and_words_round_trip() {
        let v4 = Addr::from(Ipv4Addr::new(10, 244, 1, 7));
        let v6: Addr = "fd00::7".parse::<Ipv6Addr>().expect("address").into();
        assert_eq!((v4.family(), v6.family()), (Family::V4, Family::V6));
        assert_eq!(v4.to_string(), "10.244.1.7");
        for addr in [v4, v6] {
            assert_eq!(Addr::of_words(addr.words()), addr);
            assert_eq!(Addr::from(addr.ip()), addr);
        }
    }
}
