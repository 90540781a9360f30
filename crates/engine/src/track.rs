//! The life of a flow: TCP's states as far as a translator needs them, and how long an idle flow is kept.

use podway_wire::{Protocol, TCP_FIN, TCP_RST, TCP_SYN};

/// How long a flow may be idle, in milliseconds, by what is known of it (BEHAVIOURS, flow state).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP before both sides were heard.
    pub syn_ms: u32,
    /// TCP between the handshake and the first FIN.
    pub established_ms: u32,
    /// TCP after a FIN.
    pub fin_ms: u32,
    /// TCP after an RST.
    pub rst_ms: u32,
    /// UDP that was not answered.
    pub udp_one_way_ms: u32,
    /// UDP that was.
    pub udp_ms: u32,
    /// Echo.
    pub icmp_ms: u32,
    /// Everything else.
    pub other_ms: u32,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            syn_ms: 20_000,
            established_ms: 3_600_000,
            fin_ms: 30_000,
            rst_ms: 10_000,
            udp_one_way_ms: 30_000,
            udp_ms: 120_000,
            icmp_ms: 5_000,
            other_ms: 600_000,
        }
    }
}

/// Which way a packet of a flow goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heading {
    /// As the first packet did.
    Forward,
    /// Back.
    Backward,
}

/// What is known of a flow, in one word: bits of what was seen, and the protocol in the top byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Track(pub u32);

const ANSWERED: u32 = 1;
const FIN_FORWARD: u32 = 1 << 1;
const FIN_BACKWARD: u32 = 1 << 2;
const RESET: u32 = 1 << 3;

impl Track {
    /// A flow of which one packet was seen.
    pub fn new(protocol: Protocol) -> Track {
        Track(u32::from(protocol.0) << 24)
    }

    /// A client's affinity, kept for so many seconds after its last use (24 bits).
    pub(crate) fn of_affinity(timeout_s: u32) -> Track {
        Track(u32::from(crate::affinity::PROTOCOL.0) << 24 | timeout_s.min((1 << 24) - 1))
    }

    /// True once a packet has come back.
    #[inline]
    pub fn is_answered(self) -> bool {
        self.0 & ANSWERED != 0
    }

    /// What is known after one more packet.
    ///
    /// An RST shortens the wait, and an ordinary packet after it takes that back, so that a spurious one is survived
    /// (F13). A SYN after the end is a new life of the same addresses.
    #[inline]
    pub fn next(self, way: Heading, tcp_flags: u8) -> Track {
        let mut bits = self.0;
        if way == Heading::Backward {
            bits |= ANSWERED;
        }
        if self.protocol() == Protocol::TCP {
            if tcp_flags & TCP_RST != 0 {
                bits |= RESET;
            } else {
                bits &= !RESET;
            }
            if tcp_flags & TCP_FIN != 0 {
                bits |= if way == Heading::Forward {
                    FIN_FORWARD
                } else {
                    FIN_BACKWARD
                };
            }
            if tcp_flags & TCP_SYN != 0 {
                bits &= !(FIN_FORWARD | FIN_BACKWARD | RESET);
            }
        }
        Track(bits)
    }

    /// How long a flow of which this is known may be idle.
    #[inline]
    pub fn timeout_ms(self, timeouts: &Timeouts) -> u32 {
        let answered = self.is_answered();
        match self.protocol() {
            // Half of the wrapping clock at most: 24 days; Kubernetes allows one.
            crate::affinity::PROTOCOL => (self.0 & 0x00ff_ffff).min(2_000_000) * 1_000,
            Protocol::TCP if self.0 & RESET != 0 => timeouts.rst_ms,
            Protocol::TCP if self.0 & (FIN_FORWARD | FIN_BACKWARD) != 0 => timeouts.fin_ms,
            Protocol::TCP if answered => timeouts.established_ms,
            Protocol::TCP => timeouts.syn_ms,
            Protocol::UDP if answered => timeouts.udp_ms,
            Protocol::UDP => timeouts.udp_one_way_ms,
            Protocol::ICMP | Protocol::ICMPV6 => timeouts.icmp_ms,
            _ => timeouts.other_ms,
        }
    }

    /// The state's name, for people.
    pub fn name(self) -> &'static str {
        match self.protocol() {
            Protocol::TCP if self.0 & RESET != 0 => "reset",
            Protocol::TCP if self.0 & (FIN_FORWARD | FIN_BACKWARD) != 0 => "closing",
            _ if self.is_answered() => "established",
            _ => "unanswered",
        }
    }

    fn protocol(self) -> Protocol {
        Protocol((self.0 >> 24) as u8)
    }
}

#[cfg(test)]
mod tests {
    use podway_wire::TCP_ACK;

    use super::*;

    #[test]
    fn f13_an_rst_shortens_and_a_later_packet_takes_it_back() {
        let timeouts = Timeouts::default();
        let open = Track::new(Protocol::TCP).next(Heading::Backward, TCP_SYN | TCP_ACK);
        assert_eq!(open.timeout_ms(&timeouts), 3_600_000);
        let reset = open.next(Heading::Forward, TCP_RST);
        assert_eq!(reset.timeout_ms(&timeouts), 10_000);
        assert_eq!(reset.next(Heading::Backward, TCP_ACK), open);
    }

    #[test]
    fn timeouts_are_those_of_the_table() {
        let timeouts = Timeouts::default();
        let tcp = Track::new(Protocol::TCP);
        assert_eq!(tcp.timeout_ms(&timeouts), 20_000);
        let closing = tcp
            .next(Heading::Backward, TCP_ACK)
            .next(Heading::Forward, TCP_FIN | TCP_ACK);
        assert_eq!(closing.timeout_ms(&timeouts), 30_000);
        assert_eq!(
            closing
                .next(Heading::Forward, TCP_SYN)
                .timeout_ms(&timeouts),
            3_600_000
        );
        let udp = Track::new(Protocol::UDP);
        assert_eq!(udp.timeout_ms(&timeouts), 30_000);
        assert_eq!(
            udp.next(Heading::Backward, 0).timeout_ms(&timeouts),
            120_000
        );
        assert_eq!(Track::new(Protocol::ICMPV6).timeout_ms(&timeouts), 5_000);
        assert_eq!(Track::new(Protocol::SCTP).timeout_ms(&timeouts), 600_000);
    }
}
