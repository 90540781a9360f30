//! `neighbour`: who has an address, asked and answered over ARP and neighbour discovery.

use etherparse::{ArpOperation, ArpPacket, EtherType, NetSlice, PacketBuilder, SlicedPacket};
use podway_wire::neighbour::{Question, advertisement, arp_answer, arp_request, solicitation};
use podway_wire::{Addr, Content, Frame, Mac, NoRoom, Protocol};

use crate::packets::{ETHERNET, content, key, packet, parsed, wrong_sums};

const POD: Mac = Mac([2, 0, 0, 0, 0, 7]);
const GATEWAY: Mac = Mac([2, 0, 0, 0, 0, 1]);

fn arp(operation: ArpOperation) -> Vec<u8> {
    let arp = ArpPacket::new(
        etherparse::ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        operation,
        &POD.0,
        &[10, 244, 1, 7],
        &[0; 6],
        &[169, 254, 1, 1],
    );
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(POD.0, Mac::BROADCAST.0)
        .arp(arp.expect("ARP"))
        .write(&mut bytes)
        .expect("a packet");
    bytes
}

#[test]
fn d6_an_arp_request_is_answered_in_place() {
    let mut bytes = arp(ArpOperation::REQUEST);
    assert_eq!(content(&bytes), Ok(Content::Arp));
    let question = arp_request(&bytes).expect("a request");
    assert_eq!(
        question,
        Question {
            sender_mac: POD,
            sender: Addr::v4([10, 244, 1, 7]),
            target: Addr::v4([169, 254, 1, 1]),
        }
    );
    let length = bytes.len();
    arp_answer(&mut bytes, &question, GATEWAY);
    assert_eq!(bytes.len(), length);
    assert_eq!(podway_wire::macs(&bytes), Some((POD, GATEWAY)));
    let sliced = SlicedPacket::from_ethernet(&bytes).expect("etherparse reads it");
    let Some(NetSlice::Arp(answer)) = sliced.net else {
        panic!("not ARP")
    };
    assert_eq!(answer.operation(), ArpOperation::REPLY);
    assert_eq!(answer.sender_hw_addr(), GATEWAY.0);
    assert_eq!(answer.sender_protocol_addr(), [169, 254, 1, 1]);
    assert_eq!(answer.target_hw_addr(), POD.0);
    assert_eq!(answer.target_protocol_addr(), [10, 244, 1, 7]);
}

#[test]
fn d6_what_is_no_arp_request_is_none() {
    assert_eq!(arp_request(&arp(ArpOperation::REPLY)), None);
    let request = arp(ArpOperation::REQUEST);
    for length in 0..ETHERNET + 28 {
        assert_eq!(arp_request(&request[..length]), None, "{length} bytes");
    }
    let mut other = request.clone();
    other[12..14].copy_from_slice(&[0x08, 0x00]);
    assert_eq!(arp_request(&other), None);
}

/// A solicitation for fe80::1 from this address, with a source link-layer option unless it is a probe.
fn asked_by(source: &str) -> Vec<u8> {
    let mut message = [0; 24];
    message[0] = 135;
    message[8..24].copy_from_slice(
        &key(Protocol::UDP, ("fe80::1", 0), ("::", 0))
            .source
            .octets(),
    );
    let flow = key(Protocol::ICMPV6, (source, 0), ("ff02::1:ff00:1", 0));
    let mut body = message[8..].to_vec();
    if source != "::" {
        body.extend([1, 1]);
        body.extend(POD.0);
    }
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(POD.0, [0x33, 0x33, 0xff, 0, 0, 1])
        .ipv6(flow.source.octets(), flow.target.octets(), 255)
        .icmpv6_raw(135, 0, [0; 4])
        .write(&mut bytes, &body)
        .expect("a packet");
    bytes
}

#[test]
fn d6_a_solicitation_is_answered_to_the_asker_and_a_probe_to_all() {
    for (source, target, target_mac, flags) in [
        ("fd00::7", "fd00::7", POD, 0xe0),
        ("::", "ff02::1", Mac([0x33, 0x33, 0, 0, 0, 1]), 0xa0),
    ] {
        let mut chunk = asked_by(source);
        let length = chunk.len();
        chunk.resize(length + 40, 0xee);
        let asked = parsed(&chunk[..length]);
        let question = solicitation(&chunk[..length], &asked).expect("a solicitation");
        assert_eq!(
            (question.sender_mac, question.sender),
            (POD, asked.key.source)
        );
        assert_eq!(question.target.to_string(), "fe80::1");

        let mut frame = Frame::new(&mut chunk, 0, length, 0).expect("a frame");
        advertisement(&mut frame, &question, GATEWAY).expect("room");
        let bytes = frame.bytes();
        assert_eq!(wrong_sums(bytes), Vec::<&str>::new());
        assert_eq!(podway_wire::macs(bytes), Some((target_mac, GATEWAY)));
        let answer = parsed(bytes);
        assert_eq!(answer.key.source.to_string(), "fe80::1");
        assert_eq!(answer.key.target.to_string(), target);
        // RFC 4861, 7.1.2: hop limit 255, or nobody believes it.
        assert_eq!((answer.ttl, bytes.len()), (255, answer.end()));
        let message = &bytes[answer.l4 as usize..];
        assert_eq!((message[0], message[1], message[4]), (136, 0, flags));
        assert_eq!(message[8..24], question.target.octets());
        assert_eq!(message[24..32], [&[2, 1], &GATEWAY.0[..]].concat());
    }
}

#[test]
fn d6_an_advertisement_needs_its_room() {
    let mut chunk = asked_by("::");
    let length = chunk.len();
    let question = solicitation(&chunk, &parsed(&chunk)).expect("a solicitation");
    let mut frame = Frame::new(&mut chunk, 0, length, 0).expect("a frame");
    assert_eq!(advertisement(&mut frame, &question, GATEWAY), Err(NoRoom));
}

#[test]
fn d6_what_is_no_solicitation_is_none() {
    let bytes = asked_by("fd00::7");
    let l4 = parsed(&bytes).l4 as usize;
    // Its type, its code, a hop limit that a router lowered, and a multicast target.
    for (at, value) in [(l4, 136), (l4 + 1, 1), (ETHERNET + 7, 254), (l4 + 8, 0xff)] {
        let mut other = bytes.clone();
        other[at] = value;
        assert_eq!(solicitation(&other, &parsed(&other)), None, "byte {at}");
    }
    // A UDP packet whose source port starts like a solicitation.
    let flow = key(Protocol::UDP, ("fd00::7", 135 << 8), ("fd00::1", 53));
    let mut other = packet(&flow, &[0; 40]);
    other[ETHERNET + 7] = 255;
    assert_eq!(solicitation(&other, &parsed(&other)), None);
    // One whose target lies in the Ethernet padding.
    let mut other = bytes.clone();
    other[ETHERNET + 5] = 8;
    assert_eq!(solicitation(&other, &parsed(&other)), None);
    // One in a fragment.
    let mut other = [&bytes[..l4], &[58, 0, 0, 1, 0, 0, 0, 9], &bytes[l4..]].concat();
    other[ETHERNET + 5] += 8;
    other[ETHERNET + 6] = 44;
    assert_eq!(parsed(&other).fragment, podway_wire::Fragment::First);
    assert_eq!(solicitation(&other, &parsed(&other)), None);
}
