//! One look at a packet's headers: offsets, the flow key, and the few fields that decisions need.

use crate::bytes::u16_at;
use crate::{Addr, Family, FlowKey, Frame, Mac, Protocol};

/// Length of an Ethernet header without tags, in bytes.
pub const ETHERNET: usize = 14;
const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// IEEE 802.1Q and 802.1ad.
const ETHERTYPES_VLAN: [u16; 2] = [0x8100, 0x88a8];
/// How many IPv6 extension headers we follow.
const EXTENSIONS_MAX: usize = 8;

/// Why a packet can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// It ends before its headers do.
    Truncated,
    /// A header contradicts itself or its RFC.
    Malformed,
    /// It is neither IPv4, IPv6 nor ARP.
    NotIp,
    /// It is behind a VLAN tag.
    VlanTag,
    /// The chain of IPv6 extension headers is longer than we follow, or has one that we don't know.
    ExtensionHeaders,
}

/// What an Ethernet frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// An IPv4 or IPv6 packet.
    Ip(Parsed),
    /// An ARP packet (RFC 826), not yet looked at.
    Arp,
}

/// What [`Parsed::read`] found in an Ethernet frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// An IPv4 or IPv6 packet, whose headers were read.
    Ip,
    /// An ARP packet (RFC 826), not yet looked at.
    Arp,
}

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// All of it.
    Whole,
    /// The first part, with the transport header.
    First,
    /// Any later part: the key has no ports.
    Later,
}

/// What an ICMP or ICMPv6 packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icmp {
    /// Not ICMP.
    No,
    /// An echo request.
    EchoRequest,
    /// An echo reply.
    EchoReply,
    /// An error that embeds the packet it is about.
    Error,
    /// Neighbour discovery and its kin, link-local by nature (RFC 4861, RFC 2710, RFC 3810).
    Neighbour,
    /// Anything else.
    Other,
}

/// What the headers of an IP packet say; offsets are from the start of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Who talks to whom.
    pub key: FlowKey,
    /// Where the IP header starts.
    pub l3: u16,
    /// Where the transport header starts.
    pub l4: u16,
    /// The IP packet's length in bytes, as its header says.
    pub length: u32,
    /// The family of both addresses.
    pub family: Family,
    /// The DSCP and ECN bits.
    pub traffic_class: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TCP flags, 0 for others.
    pub tcp_flags: u8,
    /// Which part of a datagram it is.
    pub fragment: Fragment,
    /// What kind of ICMP it is.
    pub icmp: Icmp,
}

/// TCP's FIN flag.
pub const TCP_FIN: u8 = 0x01;
/// TCP's SYN flag.
pub const TCP_SYN: u8 = 0x02;
/// TCP's RST flag.
pub const TCP_RST: u8 = 0x04;
/// TCP's PSH flag.
pub const TCP_PSH: u8 = 0x08;
/// TCP's ACK flag.
pub const TCP_ACK: u8 = 0x10;
/// TCP's URG flag.
pub const TCP_URG: u8 = 0x20;

/// The target and source Ethernet addresses of a frame.
#[inline]
pub fn macs(bytes: &[u8]) -> Option<(Mac, Mac)> {
    let target = bytes.get(0..6)?.try_into().ok()?;
    let source = bytes.get(6..12)?.try_into().ok()?;
    Some((Mac(target), Mac(source)))
}

impl Parsed {
    /// Of no packet: what [`Parsed::read`] writes to.
    pub const BLANK: Parsed = Parsed {
        key: FlowKey {
            source: Addr::UNSPECIFIED,
            target: Addr::UNSPECIFIED,
            source_port: 0,
            target_port: 0,
            protocol: Protocol(0),
        },
        l3: 0,
        l4: 0,
        length: 0,
        family: Family::V4,
        traffic_class: 0,
        ttl: 0,
        tcp_flags: 0,
        fragment: Fragment::Whole,
        icmp: Icmp::No,
    };

    /// Reads an Ethernet frame's headers.
    pub fn frame(frame: &Frame<'_>) -> Result<Content, ParseError> {
        let mut parsed = Parsed::BLANK;
        Ok(match parsed.read(frame)? {
            Carries::Ip => Content::Ip(parsed),
            Carries::Arp => Content::Arp,
        })
    }

    /// Reads an Ethernet frame's headers to where they are used: copies of them would cost a quarter of the engine's
    /// time. Stands for nothing unless IP was found.
    #[inline(always)]
    pub fn read(&mut self, frame: &Frame<'_>) -> Result<Carries, ParseError> {
        let bytes = frame.bytes();
        let ethertype = u16_at(bytes, 12).ok_or(ParseError::Truncated)?;
        match ethertype {
            ETHERTYPE_IPV4 => self.ipv4(bytes, ETHERNET, frame.len())?,
            ETHERTYPE_IPV6 => self.ipv6(bytes, ETHERNET, frame.len())?,
            ETHERTYPE_ARP => return Ok(Carries::Arp),
            tag if ETHERTYPES_VLAN.contains(&tag) => return Err(ParseError::VlanTag),
            _ => return Err(ParseError::NotIp),
        }
        Ok(Carries::Ip)
    }

    /// Where the IP packet ends in the frame; what follows is Ethernet padding.
    #[inline]
    pub fn end(&self) -> usize {
        self.l3 as usize + self.length as usize
    }

    /// True if the sender forbids fragments: DF, or IPv6.
    #[inline]
    pub fn forbids_fragments(&self, bytes: &[u8]) -> bool {
        match self.family {
            Family::V6 => true,
            Family::V4 => bytes[self.l3 as usize + 6] & 0x40 != 0,
        }
    }

    #[inline(always)]
    fn ipv4(&mut self, bytes: &[u8], l3: usize, total: usize) -> Result<(), ParseError> {
        let header: &[u8; 20] = bytes[l3..].first_chunk().ok_or(ParseError::Truncated)?;
        let header_length = (header[0] & 0x0f) as usize * 4;
        let length = u16::from_be_bytes([header[2], header[3]]) as usize;
        if header[0] >> 4 != 4 || header_length < 20 || length < header_length {
            return Err(ParseError::Malformed);
        }
        let l4 = l3 + header_length;
        if l3 + length > total || l4 > bytes.len() {
            return Err(ParseError::Truncated);
        }
        self.key.source = Addr::v4([header[12], header[13], header[14], header[15]]);
        self.key.target = Addr::v4([header[16], header[17], header[18], header[19]]);
        if header[12] >= 224 {
            return Err(ParseError::Malformed);
        }
        let fragment_bits = u16::from_be_bytes([header[6], header[7]]);
        self.fragment = match (fragment_bits & 0x1fff, fragment_bits & 0x2000 != 0) {
            (0, false) => Fragment::Whole,
            (0, true) => Fragment::First,
            (_, _) => Fragment::Later,
        };
        self.key.protocol = Protocol(header[9]);
        self.l3 = l3 as u16;
        self.l4 = l4 as u16;
        self.length = length as u32;
        self.family = Family::V4;
        self.traffic_class = header[1];
        self.ttl = header[8];
        self.transport(bytes)
    }

    #[inline]
    fn ipv6(&mut self, bytes: &[u8], l3: usize, total: usize) -> Result<(), ParseError> {
        let header: &[u8; 40] = bytes[l3..].first_chunk().ok_or(ParseError::Truncated)?;
        if header[0] >> 4 != 6 {
            return Err(ParseError::Malformed);
        }
        let length = 40 + u16::from_be_bytes([header[4], header[5]]) as usize;
        if l3 + length > total {
            return Err(ParseError::Truncated);
        }
        let source = Addr::v6(header[8..24].try_into().expect("16 bytes"));
        let target = Addr::v6(header[24..40].try_into().expect("16 bytes"));
        // RFC 4291: a mapped address never is on the wire; neither is multicast or loopback as a source.
        if source.family() == Family::V4
            || target.family() == Family::V4
            || source.is_multicast()
            || source.bits() == 1
            || target.bits() <= 1
        {
            return Err(ParseError::Malformed);
        }
        let end = bytes.len().min(l3 + length);
        let chain = extensions(&bytes[..end], l3 + 40, header[6])?;
        self.key.source = source;
        self.key.target = target;
        self.key.protocol = chain.protocol;
        self.l3 = l3 as u16;
        self.l4 = chain.l4 as u16;
        self.length = length as u32;
        self.family = Family::V6;
        self.traffic_class = header[0] << 4 | header[1] >> 4;
        self.ttl = header[7];
        self.fragment = chain.fragment;
        self.transport(bytes)
    }

    /// Reads ports, TCP's flags and what kind of ICMP it is.
    #[inline(always)]
    fn transport(&mut self, bytes: &[u8]) -> Result<(), ParseError> {
        self.tcp_flags = 0;
        self.icmp = Icmp::No;
        (self.key.source_port, self.key.target_port) = (0, 0);
        if self.fragment == Fragment::Later {
            return Ok(());
        }
        // How much of the IP payload there is, by the IP header; and how much of it lies in this chunk.
        let payload = self.end() - self.l4 as usize;
        let here = &bytes[self.l4 as usize..bytes.len().min(self.end())];
        let protocol = self.key.protocol;
        let ports = match (protocol, self.family) {
            (Protocol::TCP, _) => {
                let header: &[u8; 20] = here.first_chunk().ok_or(ParseError::Truncated)?;
                let header_length = (header[12] >> 4) as usize * 4;
                if header_length < 20 || header_length > payload {
                    return Err(ParseError::Malformed);
                }
                self.tcp_flags = header[13];
                ports_of(header)
            }
            (Protocol::UDP, _) => {
                let header: &[u8; 8] = here.first_chunk().ok_or(ParseError::Truncated)?;
                let udp_length = u16::from_be_bytes([header[4], header[5]]) as usize;
                let whole = self.fragment == Fragment::Whole;
                if udp_length < 8 || (whole && udp_length > payload) {
                    return Err(ParseError::Malformed);
                }
                ports_of(header)
            }
            (Protocol::SCTP, _) => ports_of(here.get(..12).ok_or(ParseError::Truncated)?),
            (Protocol::ICMP, Family::V4) => {
                let header = here.get(..8).ok_or(ParseError::Truncated)?;
                let (icmp, ports) = icmp_v4(header);
                self.icmp = icmp;
                ports
            }
            (Protocol::ICMPV6, Family::V6) => {
                let header = here.get(..8).ok_or(ParseError::Truncated)?;
                let (icmp, ports) = icmp_v6(header);
                self.icmp = icmp;
                ports
            }
            // ICMP of the other family is a contradiction.
            (Protocol::ICMP | Protocol::ICMPV6, _) => return Err(ParseError::Malformed),
            (_, _) => return Ok(()),
        };
        let needs_ports = matches!(protocol, Protocol::TCP | Protocol::SCTP);
        if needs_ports && (ports.0 == 0 || ports.1 == 0) {
            return Err(ParseError::Malformed);
        }
        (self.key.source_port, self.key.target_port) = ports;
        Ok(())
    }
}

pub(crate) struct Chain {
    pub(crate) protocol: Protocol,
    pub(crate) l4: usize,
    pub(crate) fragment: Fragment,
}

#[inline]
pub(crate) fn extensions(bytes: &[u8], start: usize, first: u8) -> Result<Chain, ParseError> {
    let (mut at, mut next) = (start, first);
    let mut fragment = Fragment::Whole;
    for _ in 0..=EXTENSIONS_MAX {
        let length = match next {
            // A routing header with segments left: the packet's target is only a stop on its way (RFC 8200, 4.4).
            43 if *bytes.get(at + 3).ok_or(ParseError::Truncated)? != 0 => {
                return Err(ParseError::ExtensionHeaders);
            }
            // Hop-by-hop options, routing, destination options (RFC 8200, 4)
            0 | 43 | 60 => (*bytes.get(at + 1).ok_or(ParseError::Truncated)? as usize + 1) * 8,
            // Authentication header (RFC 4302)
            51 => (*bytes.get(at + 1).ok_or(ParseError::Truncated)? as usize + 2) * 4,
            // A fragment of a fragment would hide that it is one.
            44 if fragment == Fragment::First => return Err(ParseError::Malformed),
            44 => {
                let bits = u16_at(bytes, at + 2).ok_or(ParseError::Truncated)?;
                fragment = match (bits >> 3, bits & 1) {
                    (0, 0) => Fragment::Whole,
                    (0, _) => Fragment::First,
                    (_, _) => Fragment::Later,
                };
                8
            }
            // Mobility, HIP, shim6 and experiments: not in a pod network.
            135 | 139 | 140 | 253 | 254 => return Err(ParseError::ExtensionHeaders),
            protocol => {
                return Ok(Chain {
                    protocol: Protocol(protocol),
                    l4: at,
                    fragment,
                });
            }
        };
        let followed_by = *bytes.get(at).ok_or(ParseError::Truncated)?;
        at += length;
        if at > bytes.len() {
            return Err(ParseError::Truncated);
        }
        if fragment == Fragment::Later {
            return Ok(Chain {
                protocol: Protocol(followed_by),
                l4: at,
                fragment,
            });
        }
        next = followed_by;
    }
    Err(ParseError::ExtensionHeaders)
}

#[inline]
pub(crate) fn ports_of(header: &[u8]) -> (u16, u16) {
    (
        u16::from_be_bytes([header[0], header[1]]),
        u16::from_be_bytes([header[2], header[3]]),
    )
}

pub(crate) fn icmp_v4(header: &[u8]) -> (Icmp, (u16, u16)) {
    let identifier = u16::from_be_bytes([header[4], header[5]]);
    match header[0] {
        8 => (Icmp::EchoRequest, (identifier, 0)),
        0 => (Icmp::EchoReply, (0, identifier)),
        3 | 4 | 5 | 11 | 12 => (Icmp::Error, (0, 0)),
        _ => (Icmp::Other, (0, 0)),
    }
}

pub(crate) fn icmp_v6(header: &[u8]) -> (Icmp, (u16, u16)) {
    let identifier = u16::from_be_bytes([header[4], header[5]]);
    match header[0] {
        128 => (Icmp::EchoRequest, (identifier, 0)),
        129 => (Icmp::EchoReply, (0, identifier)),
        // RFC 4443, 2.1: also those that are not known.
        0..=127 => (Icmp::Error, (0, 0)),
        130..=137 | 143 | 151..=153 => (Icmp::Neighbour, (0, 0)),
        _ => (Icmp::Other, (0, 0)),
    }
}
