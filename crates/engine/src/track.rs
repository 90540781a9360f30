//! The life of a flow: TCP's states as far as a translator needs them, and how long an idle flow is kept.

use podway_state::Direction;
use podway_wire::{Parsed, Protocol, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};

/// How long a flow may be idle, in milliseconds, by what is known of it (BEHAVIOURS, flow state).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP before both sides were heard.
    pub syn_ms: u32,
    /// TCP between the handshake and the first FIN.
    pub established_ms: u32,
    /// TCP after one side's FIN (RFC 9293, 3.6): the other may go on sending.
    pub half_closed_ms: u32,
    /// TCP after both sides' FINs.
    pub closed_ms: u32,
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
            // F17: Linux sends its first keepalive after 7 200 s, and nine more, 75 s apart.
            established_ms: 8_100_000,
            half_closed_ms: 3_600_000,
            closed_ms: 30_000,
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

impl Heading {
    /// The way of packets with this one of a flow's keys.
    #[inline]
    pub(crate) fn of(direction: Direction) -> Heading {
        match direction {
            Direction::Original => Heading::Forward,
            Direction::Reply => Heading::Backward,
        }
    }

    /// The other way.
    pub fn reverse(self) -> Heading {
        match self {
            Heading::Forward => Heading::Backward,
            Heading::Backward => Heading::Forward,
        }
    }
}

/// What is known of a flow, in one word.
///
/// Of TCP: the top bit, what was seen (5 bits), and the longest segments that go each way (13 bits each). Of others:
/// the kind in the top four bits, what was seen, and of a client's affinity its timeout (24 bits).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Track(pub u32);

const ANSWERED: u32 = 1;
const FIN_FORWARD: u32 = 1 << 1;
const FIN_BACKWARD: u32 = 1 << 2;
const RESET: u32 = 1 << 3;
/// The flow's SYN was not seen.
const MIDSTREAM: u32 = 1 << 4;
/// Where the sizes of segments are, by [`Heading`]; 0 is unknown.
const SIZES: [u32; 2] = [5, 18];
const SIZE: u32 = (1 << 13) - 1;
/// Sizes are exact below this, and in steps of 16 from there on.
const EXACT: u32 = 1 << 12;
const TCP: u32 = 1 << 31;
const UDP: u32 = 1 << 28;
const ICMP: u32 = 2 << 28;
const AFFINITY: u32 = 3 << 28;
const KIND: u32 = 0xf << 28;

impl Track {
    /// A flow of which one packet was seen.
    pub fn new(protocol: Protocol) -> Track {
        Track(match protocol {
            Protocol::TCP => TCP,
            Protocol::UDP => UDP,
            Protocol::ICMP | Protocol::ICMPV6 => ICMP,
            _ => 0,
        })
    }

    /// A client's affinity, kept for so many seconds after its last use (24 bits).
    pub(crate) fn of_affinity(timeout_s: u32) -> Track {
        Track(AFFINITY | timeout_s.min((1 << 24) - 1))
    }

    /// The same flow, whose SYN was not seen.
    pub(crate) fn begun_before(self) -> Track {
        Track(self.0 | MIDSTREAM)
    }

    /// True if the flow's SYN was not seen, so that segment sizes are what segments showed.
    #[inline]
    pub(crate) fn is_midstream(self) -> bool {
        self.0 & (TCP | MIDSTREAM) == TCP | MIDSTREAM
    }

    /// The longest segment that may go this way (RFC 9293's MSS), if anything but the path's MTU bounds it.
    pub(crate) fn segment_size(self, way: Heading) -> Option<u16> {
        let code = self.0 >> SIZES[way as usize] & SIZE;
        let size = if code < EXACT {
            code
        } else {
            (code - EXACT) * 16
        };
        (self.0 & TCP != 0 && size > 0).then_some(size as u16)
    }

    /// What is known once segments of this size may go this way.
    pub(crate) fn with_segment_size(self, way: Heading, size: u16) -> Track {
        let size = u32::from(size);
        let code = if size < EXACT {
            size
        } else {
            EXACT + size / 16
        };
        let at = SIZES[way as usize];
        Track(self.0 & !(SIZE << at) | code << at)
    }

    /// True of a connection that is over: both sides have sent their FINs, or one a reset that nothing has followed.
    #[inline]
    pub(crate) fn is_over(self) -> bool {
        const BOTH: u32 = FIN_FORWARD | FIN_BACKWARD;
        self.0 & TCP != 0 && (self.0 & RESET != 0 || self.0 & BOTH == BOTH)
    }

    /// True if the end whose packets go this way has sent its FIN.
    pub(crate) fn has_fin(self, way: Heading) -> bool {
        let fin = match way {
            Heading::Forward => FIN_FORWARD,
            Heading::Backward => FIN_BACKWARD,
        };
        self.0 & TCP != 0 && self.0 & fin != 0
    }

    /// True once a packet has come back.
    #[inline]
    pub fn is_answered(self) -> bool {
        self.0 & ANSWERED != 0
    }

    /// What is known after one more packet.
    ///
    /// An RST shortens the wait, and an ordinary packet after it takes that back, so that a spurious one is survived
    /// (F13). A SYN after the end is never told to this flow: it begins another one (F15).
    #[inline]
    pub fn next(self, way: Heading, tcp_flags: u8) -> Track {
        let mut bits = self.0;
        if way == Heading::Backward {
            bits |= ANSWERED;
        }
        if self.0 & TCP != 0 {
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
        }
        Track(bits)
    }

    /// How long a flow of which this is known may be idle.
    #[inline]
    pub fn timeout_ms(self, timeouts: &Timeouts) -> u32 {
        let answered = self.is_answered();
        if self.0 & TCP != 0 {
            return match self.0 {
                bits if bits & RESET != 0 => timeouts.rst_ms,
                _ if self.is_over() => timeouts.closed_ms,
                _ if !answered => timeouts.syn_ms,
                bits if bits & (FIN_FORWARD | FIN_BACKWARD) != 0 => timeouts.half_closed_ms,
                _ => timeouts.established_ms,
            };
        }
        match self.0 & KIND {
            // Half of the wrapping clock at most: 24 days; Kubernetes allows one.
            AFFINITY => (self.0 & 0x00ff_ffff).min(2_000_000) * 1_000,
            UDP if answered => timeouts.udp_ms,
            UDP => timeouts.udp_one_way_ms,
            ICMP => timeouts.icmp_ms,
            _ => timeouts.other_ms,
        }
    }

    /// The state's name, for people.
    pub fn name(self) -> &'static str {
        match self.0 {
            bits if bits & TCP != 0 && bits & RESET != 0 => "reset",
            _ if self.is_over() => "closed",
            _ if !self.is_answered() => "unanswered",
            bits if bits & TCP != 0 && bits & (FIN_FORWARD | FIN_BACKWARD) != 0 => "half-closed",
            _ => "established",
        }
    }
}

/// True of a segment that begins a connection: a SYN, and nothing that answers one.
#[inline]
pub(crate) fn begins(parsed: &Parsed) -> bool {
    parsed.tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN) == TCP_SYN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f13_an_rst_shortens_and_a_later_packet_takes_it_back() {
        let timeouts = Timeouts::default();
        let open = Track::new(Protocol::TCP).next(Heading::Backward, TCP_SYN | TCP_ACK);
        assert_eq!(open.timeout_ms(&timeouts), 8_100_000);
        let reset = open.next(Heading::Forward, TCP_RST);
        assert_eq!(reset.timeout_ms(&timeouts), 10_000);
        assert_eq!(reset.next(Heading::Backward, TCP_ACK), open);
    }

    #[test]
    fn sizes_of_segments_are_kept_apart_from_all_else() {
        let open = Track::new(Protocol::TCP).next(Heading::Backward, TCP_SYN | TCP_ACK);
        for (size, kept) in [
            (1, 1),
            (536, 536),
            (4095, 4095),
            (8_960, 8_960),
            (65_535, 65_520),
        ] {
            for way in [Heading::Forward, Heading::Backward] {
                let known = open.with_segment_size(way, size);
                assert_eq!(known.segment_size(way), Some(kept));
                assert_eq!(known.segment_size(way.reverse()), None);
                assert_eq!(known.with_segment_size(way, 0), open);
                assert_eq!(known.name(), "established");
                let both = known.with_segment_size(way.reverse(), size);
                let closing = both.next(Heading::Forward, TCP_FIN | TCP_ACK);
                assert_eq!(closing.segment_size(way), Some(kept));
            }
        }
        assert_eq!(Track(u32::MAX >> 1).segment_size(Heading::Forward), None);
    }

    #[test]
    fn f17_timeouts_are_those_of_the_table() {
        let timeouts = Timeouts::default();
        let tcp = Track::new(Protocol::TCP);
        assert_eq!(tcp.timeout_ms(&timeouts), 20_000);
        let open = tcp.next(Heading::Backward, TCP_SYN | TCP_ACK);
        assert_eq!(
            open.timeout_ms(&timeouts),
            8_100_000,
            "F17: 7 200 and 9 times 75 s"
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

    #[test]
    fn f16_one_fin_is_a_state_and_two_are_the_end() {
        let timeouts = Timeouts::default();
        let open = Track::new(Protocol::TCP).next(Heading::Backward, TCP_SYN | TCP_ACK);
        for way in [Heading::Forward, Heading::Backward] {
            let half = open.next(way, TCP_FIN | TCP_ACK);
            assert_eq!((half.name(), half.is_over()), ("half-closed", false));
            assert_eq!(half.timeout_ms(&timeouts), 3_600_000);
            assert!(half.has_fin(way) && !half.has_fin(way.reverse()));
            let data = half
                .next(way.reverse(), TCP_ACK)
                .next(way, TCP_FIN | TCP_ACK);
            assert_eq!(data, half, "data and the FIN again change nothing");
            let closed = half.next(way.reverse(), TCP_FIN | TCP_ACK);
            assert_eq!((closed.name(), closed.is_over()), ("closed", true));
            assert_eq!(closed.timeout_ms(&timeouts), 30_000);
            assert_eq!(closed.next(way, TCP_ACK), closed, "the last ACK");
        }
        // F14: what nobody answered has the embryonic quota, and its timeout.
        let alone = Track::new(Protocol::TCP).next(Heading::Forward, TCP_FIN | TCP_ACK);
        assert_eq!(
            (alone.name(), alone.timeout_ms(&timeouts)),
            ("unanswered", 20_000)
        );
    }
}
