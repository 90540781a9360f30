//! The 5-tuple that names a flow.

use std::fmt;

use crate::Addr;

/// An IP protocol number (IANA); the ones that have ports or echo identifiers are named.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP (RFC 792).
    pub const ICMP: Protocol = Protocol(1);
    /// TCP (RFC 9293).
    pub const TCP: Protocol = Protocol(6);
    /// UDP (RFC 768).
    pub const UDP: Protocol = Protocol(17);
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: Protocol = Protocol(58);
    /// SCTP (RFC 9260).
    pub const SCTP: Protocol = Protocol(132);

    /// True of TCP, UDP and SCTP.
    #[inline]
    pub fn has_ports(self) -> bool {
        matches!(self, Protocol::TCP | Protocol::UDP | Protocol::SCTP)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Protocol::ICMP => f.write_str("icmp"),
            Protocol::TCP => f.write_str("tcp"),
            Protocol::UDP => f.write_str("udp"),
            Protocol::ICMPV6 => f.write_str("icmpv6"),
            Protocol::SCTP => f.write_str("sctp"),
            Protocol(other) => write!(f, "protocol {other}"),
        }
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Who talks to whom: addresses, ports and protocol as the packet carries them.
///
/// ICMP echo has its identifier in `source_port` of a request and in `target_port` of a reply, the other
/// one is 0, so that a reply's key is the reverse of its request's. Protocols without ports have 0 in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The sender's address.
    pub source: Addr,
    /// The receiver's address.
    pub target: Addr,
    /// The sender's port, in host order.
    pub source_port: u16,
    /// The receiver's port, in host order.
    pub target_port: u16,
    /// The IP protocol.
    pub protocol: Protocol,
}

impl FlowKey {
    /// The key of packets that go the other way.
    #[inline]
    pub fn reverse(&self) -> FlowKey {
        FlowKey {
            source: self.target,
            target: self.source,
            source_port: self.target_port,
            target_port: self.source_port,
            protocol: self.protocol,
        }
    }

    /// A number that differs between flows and is the same everywhere: it chooses backends and tunnel source ports.
    #[inline]
    pub fn entropy(&self) -> u64 {
        // Multiply and fold, as in wyhash; nothing secret depends on it.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for word in self.words() {
            let product = u128::from(state ^ word) * 0xd6e8_feb8_6659_fd93_u128;
            state = (product as u64) ^ (product >> 64) as u64;
        }
        state
    }

    /// The key packed into five words, equal for equal keys only.
    #[inline]
    pub fn words(&self) -> [u64; 5] {
        let [a, b] = self.source.words();
        let [c, d] = self.target.words();
        let ports = (self.source_port as u64) << 16 | self.target_port as u64;
        [a, b, c, d, ports << 8 | self.protocol.0 as u64]
    }

    /// The key of words that [`FlowKey::words`] gave.
    #[inline]
    pub fn of_words(words: [u64; 5]) -> FlowKey {
        FlowKey {
            source: Addr::of_words([words[0], words[1]]),
            target: Addr::of_words([words[2], words[3]]),
            source_port: (words[4] >> 24) as u16,
            target_port: (words[4] >> 8) as u16,
            protocol: Protocol(words[4] as u8),
        }
    }
}

impl fmt::Display for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FlowKey {
            source,
            target,
            source_port,
            target_port,
            protocol,
        } = self;
        write!(
            f,
            "{protocol} {source} {source_port} > {target} {target_port}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip_and_reverse_is_its_own_inverse() {
        let key = FlowKey {
            source: Addr::v4([10, 0, 0, 1]),
            target: Addr::v6([0xfd; 16]),
            source_port: 0xfffe,
            target_port: 53,
            protocol: Protocol::UDP,
        };
        assert_eq!(FlowKey::of_words(key.words()), key);
        assert_eq!(key.reverse().reverse(), key);
        assert_ne!(key.reverse().words(), key.words());
    }
}
