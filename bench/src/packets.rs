//! The packets that are measured: UDP, the flows told apart by source port and one address.

use std::net::Ipv4Addr;

use podway_wire::checksum;
use podway_wire::{ETHERNET, Frame, Mac, vxlan};

/// Flows that one address has: each by a source port of its own.
pub(crate) const PORTS: u32 = 60_000;
/// The source port of the first flow.
pub(crate) const FIRST_PORT: u16 = 2_000;
/// Flows have their turn this far from each other, so that neighbours in memory don't come in a row: a prime.
const STRIDE: u64 = 611_953;

/// Ethernet, IPv4 and UDP headers, in bytes.
pub(crate) const HEADERS: usize = ETHERNET + 20 + 8;

/// Which address differs from flow to flow, once the ports of one are used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Varied {
    /// The source's; and its port.
    Source,
    /// The target's; and the source's port.
    Target,
    /// The source's; and the target's port: what answers flows whose target varied.
    Replies,
}

/// Who sends to whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) source_mac: Mac,
    pub(crate) target_mac: Mac,
    pub(crate) source: Ipv4Addr,
    pub(crate) target: Ipv4Addr,
    /// What all flows share: the target's port, or of replies the source's.
    pub(crate) server_port: u16,
}

/// Packets of a number of flows, all of one length.
#[derive(Clone, Debug)]
pub(crate) struct Traffic {
    /// The packet of no flow: varied fields and checksums are zero. Outer headers come first.
    template: Vec<u8>,
    /// Where the inner Ethernet header starts.
    inner: usize,
    varied: Varied,
    first: u32,
    flows: u32,
    /// One's complement sums of what does not vary: the inner IP header, and UDP with its pseudo header.
    sums: (u32, u32),
}

impl Traffic {
    /// Packets of `length` bytes, Ethernet header included and checksum not.
    ///
    /// # Panics
    /// If a packet is shorter than its headers, or there are no flows.
    pub(crate) fn udp(ends: &Ends, varied: Varied, length: usize, flows: u32) -> Traffic {
        assert!(length >= HEADERS && flows > 0);
        let mut template = vec![0; length];
        template[0..6].copy_from_slice(&ends.target_mac.0);
        template[6..12].copy_from_slice(&ends.source_mac.0);
        template[12..14].copy_from_slice(&[0x08, 0x00]);
        let ip_length = (length - ETHERNET) as u16;
        let ip = &mut template[ETHERNET..];
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&ip_length.to_be_bytes());
        ip[8] = 64;
        ip[9] = 17;
        let first = match varied {
            Varied::Source | Varied::Replies => {
                ip[16..20].copy_from_slice(&ends.target.octets());
                ends.source
            }
            Varied::Target => {
                ip[12..16].copy_from_slice(&ends.source.octets());
                ends.target
            }
        };
        let at = match varied {
            Varied::Source | Varied::Target => 22,
            Varied::Replies => 20,
        };
        ip[at..at + 2].copy_from_slice(&ends.server_port.to_be_bytes());
        ip[24..26].copy_from_slice(&(ip_length - 20).to_be_bytes());
        let ip = &template[ETHERNET..];
        let sum = |bytes: &[u8]| u32::from(!checksum::checksum(bytes));
        let udp_sum = sum(&ip[12..]) + 17 + u32::from(ip_length - 20);
        let sums = (sum(&ip[..20]), udp_sum);
        Traffic {
            template,
            inner: 0,
            varied,
            first: first.into(),
            flows,
            sums,
        }
    }

    /// The same packets inside a tunnel.
    pub(crate) fn tunnelled(mut self, outer: &vxlan::Outer) -> Traffic {
        let overhead = vxlan::overhead(outer.target.family());
        let length = self.template.len();
        self.template.splice(0..0, vec![0; overhead]);
        let mut frame =
            Frame::new(&mut self.template, overhead, overhead + length, 0).expect("inside");
        vxlan::push(&mut frame, outer).expect("just made room");
        self.inner += overhead;
        self
    }

    /// Length of each packet in bytes.
    pub(crate) fn length(&self) -> usize {
        self.template.len()
    }

    pub(crate) fn flows(&self) -> u32 {
        self.flows
    }

    /// The flow of the packet that is sent after `count` others.
    #[inline]
    pub(crate) fn flow_of(&self, count: u64) -> u32 {
        (count % u64::from(self.flows) * STRIDE % u64::from(self.flows)) as u32
    }

    /// How far from each other flows have their turn.
    pub(crate) fn stride(&self) -> u32 {
        (STRIDE % u64::from(self.flows)) as u32
    }

    /// The varied address of the first flow.
    pub(crate) fn first_address(&self) -> u32 {
        self.first
    }

    /// All headers without what varies.
    pub(crate) fn headers(&self) -> &[u8] {
        &self.template[..self.inner + HEADERS]
    }

    /// Which fields differ from flow to flow.
    pub(crate) fn varied(&self) -> Varied {
        self.varied
    }

    /// The one's complement sums of what does not vary: the IP header, and UDP with its pseudo header.
    pub(crate) fn sums(&self) -> (u32, u32) {
        self.sums
    }

    /// Writes a flow's packet to the start of `bytes`.
    #[inline]
    pub(crate) fn write(&self, flow: u32, bytes: &mut [u8]) {
        bytes[..self.template.len()].copy_from_slice(&self.template);
        let ip = &mut bytes[self.inner + ETHERNET..self.template.len()];
        let address = self.first + flow / PORTS;
        let port = FIRST_PORT + (flow % PORTS) as u16;
        let (at, port_at) = match self.varied {
            Varied::Source => (12, 20),
            Varied::Target => (16, 20),
            Varied::Replies => (12, 22),
        };
        let (ip_sum, udp_sum) = self.sums;
        let varied = (address >> 16) + (address & 0xffff);
        ip[at..at + 4].copy_from_slice(&address.to_be_bytes());
        ip[10..12].copy_from_slice(&checksum(ip_sum + varied).to_be_bytes());
        ip[port_at..port_at + 2].copy_from_slice(&port.to_be_bytes());
        // RFC 768: zero would say that there is none.
        let udp = match checksum(udp_sum + varied + u32::from(port)) {
            0 => 0xffff,
            other => other,
        };
        ip[26..28].copy_from_slice(&udp.to_be_bytes());
    }
}

fn checksum(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    use podway_wire::Addr;

    use super::*;

    const ENDS: Ends = Ends {
        source_mac: Mac([2, 0, 0, 0, 0, 5]),
        target_mac: Mac([2, 0, 0, 0, 0, 6]),
        source: Ipv4Addr::new(10, 244, 1, 5),
        target: Ipv4Addr::new(10, 96, 0, 10),
        server_port: 80,
    };

    #[test]
    fn packets_are_what_etherparse_reads() {
        for (varied, length) in [
            (Varied::Source, 64),
            (Varied::Target, 1_400),
            (Varied::Replies, 64),
        ] {
            let traffic = Traffic::udp(&ENDS, varied, length, 200_000);
            for flow in [0, 59_999, 60_000, 199_999] {
                let mut bytes = vec![0xaa; length];
                traffic.write(flow, &mut bytes);
                let packet = SlicedPacket::from_ethernet(&bytes).expect("packet");
                let Some(NetSlice::Ipv4(ip)) = packet.net else {
                    panic!("{packet:?}")
                };
                let Some(TransportSlice::Udp(udp)) = packet.transport else {
                    panic!("not UDP")
                };
                let step = flow / PORTS;
                let (source, target) = match varied {
                    Varied::Source | Varied::Replies => {
                        (u32::from(ENDS.source) + step, u32::from(ENDS.target))
                    }
                    Varied::Target => (u32::from(ENDS.source), u32::from(ENDS.target) + step),
                };
                let header = ip.header().to_header();
                assert_eq!(
                    (header.source, header.destination),
                    (source.to_be_bytes(), target.to_be_bytes())
                );
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                let ports = match varied {
                    Varied::Source | Varied::Target => (udp.source_port(), udp.destination_port()),
                    Varied::Replies => (udp.destination_port(), udp.source_port()),
                };
                assert_eq!(ports, (2_000 + (flow % PORTS) as u16, 80));
                let sum = udp.to_header().calc_checksum_ipv4(&header, udp.payload());
                assert_eq!(Ok(udp.checksum()), sum);
            }
        }
    }

    #[test]
    fn every_flow_has_its_turn() {
        for flows in [1, 1_000, 20_000, 1_000_000] {
            let traffic = Traffic::udp(&ENDS, Varied::Target, 64, flows);
            let seen: HashSet<u32> = (0..u64::from(flows))
                .map(|count| traffic.flow_of(count))
                .collect();
            assert_eq!(seen.len(), flows as usize);
            assert_eq!(traffic.flow_of(1), traffic.stride() % flows);
        }
    }

    #[test]
    fn a_tunnel_goes_around_whole_packets() {
        let outer = vxlan::Outer {
            target_mac: ENDS.target_mac,
            source_mac: ENDS.source_mac,
            source: Addr::v4([192, 168, 77, 2]),
            target: Addr::v4([192, 168, 77, 1]),
            source_port: 50_000,
            target_port: 4_789,
            vni: 1,
            traffic_class: 0,
        };
        let plain = Traffic::udp(&ENDS, Varied::Source, 64, 10);
        let tunnelled = plain.clone().tunnelled(&outer);
        let (mut inner, mut whole) = ([0; 64], [0; 114]);
        plain.write(7, &mut inner);
        tunnelled.write(7, &mut whole);
        assert_eq!(tunnelled.length(), 114);
        assert_eq!(whole[50..], inner);
        let packet = SlicedPacket::from_ethernet(&whole).expect("packet");
        assert!(
            matches!(packet.transport, Some(TransportSlice::Udp(udp)) if udp.destination_port() == 4_789)
        );
    }
}
