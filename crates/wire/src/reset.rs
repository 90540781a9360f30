//! A TCP reset in the place of a segment that nobody takes any more (RFC 9293, 3.5.2).

use crate::bytes::put_u16;
use crate::checksum::{checksum, transport};
use crate::parse::{ETHERNET, Parsed, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};
use crate::{Family, Frame, NoRoom, Protocol};

/// Length of a TCP header without options, in bytes.
const TCP: usize = 20;

/// True if a segment may be answered by a reset: it is whole, and none itself.
pub fn may_be_answered(parsed: &Parsed) -> bool {
    parsed.key.protocol == Protocol::TCP
        && parsed.fragment == crate::Fragment::Whole
        && parsed.tcp_flags & TCP_RST == 0
}

/// Replaces a TCP segment by the reset that answers it, from its target to its source.
///
/// The Ethernet header is left to the caller; IP options and extension headers are left out.
pub fn answer(frame: &mut Frame<'_>, parsed: &Parsed) -> Result<Parsed, NoRoom> {
    let l4 = parsed.l4 as usize;
    let segment: [u8; TCP] = frame.bytes()[l4..l4 + TCP].try_into().expect("parsed");
    let payload = parsed.end() - l4 - (segment[12] >> 4) as usize * 4;
    let header = match parsed.family {
        Family::V4 => 20,
        Family::V6 => 40,
    };
    frame.resize(ETHERNET + header + TCP)?;
    let bytes = frame.bytes_mut();
    let key = parsed.key.reverse();
    let message = ETHERNET + header;
    {
        let tcp = &mut bytes[message..];
        tcp.fill(0);
        put_u16(tcp, 0, key.source_port);
        put_u16(tcp, 2, key.target_port);
        tcp[12] = (TCP as u8 / 4) << 4;
        if parsed.tcp_flags & TCP_ACK != 0 {
            tcp[4..8].copy_from_slice(&segment[8..12]);
            tcp[13] = TCP_RST;
        } else {
            let counted = payload as u32
                + u32::from(parsed.tcp_flags & TCP_SYN != 0)
                + u32::from(parsed.tcp_flags & TCP_FIN != 0);
            let sequence = u32::from_be_bytes(segment[4..8].try_into().expect("4 bytes"));
            tcp[8..12].copy_from_slice(&sequence.wrapping_add(counted).to_be_bytes());
            tcp[13] = TCP_RST | TCP_ACK;
        }
        let sum = transport(&key.source, &key.target, Protocol::TCP, tcp);
        put_u16(tcp, 16, sum);
    }
    let ip = &mut bytes[ETHERNET..message];
    ip.fill(0);
    match parsed.family {
        Family::V4 => {
            ip[0] = 0x45;
            put_u16(ip, 2, (20 + TCP) as u16);
            ip[6] = 0x40;
            ip[8] = 64;
            ip[9] = Protocol::TCP.0;
            ip[12..16].copy_from_slice(&key.source.low_bytes());
            ip[16..20].copy_from_slice(&key.target.low_bytes());
            let sum = checksum(ip);
            put_u16(ip, 10, sum);
        }
        Family::V6 => {
            ip[0] = 0x60;
            put_u16(ip, 4, TCP as u16);
            ip[6] = Protocol::TCP.0;
            ip[7] = 64;
            ip[8..24].copy_from_slice(&key.source.octets());
            ip[24..40].copy_from_slice(&key.target.octets());
        }
    }
    Ok(Parsed {
        key,
        l3: ETHERNET as u16,
        l4: message as u16,
        length: (header + TCP) as u32,
        traffic_class: 0,
        ttl: 64,
        tcp_flags: TCP_RST,
        ..*parsed
    })
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

    use super::*;
    use crate::Content;

    fn reset_of(mut bytes: Vec<u8>) -> (Vec<u8>, Parsed) {
        let length = bytes.len();
        let mut frame = Frame::new(&mut bytes, 0, length, 0).expect("a frame");
        let Ok(Content::Ip(parsed)) = Parsed::frame(&frame) else {
            panic!("a segment")
        };
        assert!(may_be_answered(&parsed));
        let answered = answer(&mut frame, &parsed).expect("room");
        let bytes = frame.bytes().to_vec();
        let mut copy = bytes.clone();
        let length = copy.len();
        let frame = Frame::new(&mut copy, 0, length, 0).expect("a frame");
        let Ok(Content::Ip(read)) = Parsed::frame(&frame) else {
            panic!("a segment")
        };
        assert_eq!((read.key, read.length), (answered.key, answered.length));
        (bytes, read)
    }

    #[test]
    fn f5_a_segment_is_reset_at_the_number_that_its_sender_waits_for() {
        for payload in [&b""[..], b"data"] {
            let mut acked = Vec::new();
            let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
                .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
                .tcp(1000, 80, 7, 1024)
                .ack(99);
            builder.write(&mut acked, payload).expect("a segment");
            let mut bare = Vec::new();
            let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
                .ipv6([0xfd; 16], [0xfe; 16], 64)
                .tcp(1000, 80, 7, 1024)
                .syn();
            builder.write(&mut bare, payload).expect("a segment");
            for (segment, sequence, acknowledged) in
                [(acked, 99, 0), (bare, 0, 8 + payload.len() as u32)]
            {
                let (bytes, read) = reset_of(segment);
                assert_eq!((read.key.source_port, read.key.target_port), (80, 1000));
                let sliced = SlicedPacket::from_ethernet(&bytes).expect("a packet");
                let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else {
                    panic!("TCP")
                };
                assert!(tcp.rst());
                assert_eq!(tcp.sequence_number(), sequence);
                assert_eq!(tcp.acknowledgment_number(), acknowledged);
                let sum = match &sliced.net {
                    Some(NetSlice::Ipv4(ip)) => {
                        let header = ip.header().to_header();
                        assert_eq!(header.header_checksum, header.calc_header_checksum());
                        tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination())
                    }
                    Some(NetSlice::Ipv6(ip)) => {
                        tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination())
                    }
                    _ => panic!("IP"),
                };
                assert_eq!(sum, Ok(tcp.checksum()));
            }
        }
    }
}
