//! `icmp`: the answers of our own, made in place of the packet they are about.

use podway_wire::icmp::{IcmpError, echo_reply, error, may_be_answered};
use podway_wire::{
    Addr, Content, Family, FlowKey, Frame, Icmp, NoRoom, Parsed, Protocol, embedded,
};
use proptest::prelude::*;

use crate::packets::{ETHERNET, key, packet, packet_with, parsed, translations, wrong_sums};

/// Room in front of a packet, in bytes.
const HEADROOM: usize = 64;

fn kinds() -> impl Strategy<Value = IcmpError> {
    prop_oneof![
        Just(IcmpError::TimeExceeded),
        Just(IcmpError::PortUnreachable),
        Just(IcmpError::NetUnreachable),
        Just(IcmpError::HostUnreachable),
        Just(IcmpError::AddressUnreachable),
        Just(IcmpError::Prohibited),
        any::<u16>().prop_map(|mtu| IcmpError::TooBig { mtu }),
    ]
}

fn sender(family: Family) -> Addr {
    match family {
        Family::V4 => Addr::v4([169, 254, 1, 1]),
        Family::V6 => Addr::v6([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
    }
}

/// The error about a packet that lies in a chunk with headroom, and is followed by padding or carried bytes.
fn error_about(
    packet: &[u8],
    padding: usize,
    carried: usize,
    kind: IcmpError,
) -> (Vec<u8>, Parsed) {
    let mut chunk = vec![0xee; HEADROOM];
    chunk.extend(packet);
    chunk.resize(chunk.len() + padding, 0xdd);
    let tail = chunk.len();
    let mut frame = Frame::new(&mut chunk, HEADROOM, tail, carried).expect("a frame");
    let Ok(Content::Ip(about)) = Parsed::frame(&frame) else {
        panic!("not IP")
    };
    let made = error(&mut frame, &about, &sender(about.family), kind).expect("room");
    assert_eq!(frame.carried(), 0);
    (frame.bytes().to_vec(), made)
}

proptest! {
    #[test]
    fn d1_d2_d7_an_error_quotes_the_packet_that_it_is_about(
        (flow, _) in translations(),
        kind in kinds(),
        options in prop_oneof![Just(&[][..]), Just(&[1, 1, 1, 0][..])],
        payload in prop_oneof![0..80usize, 400..1400usize],
        padding in 0..20usize,
    ) {
        let about = packet_with(&flow, options, &vec![0xab; payload]);
        let family = flow.source.family();
        let (bytes, made) = error_about(&about, padding, 0, kind);
        prop_assert_eq!(parsed(&bytes), made);
        prop_assert_eq!(wrong_sums(&bytes), Vec::<&str>::new());
        prop_assert_eq!((made.key.source, made.key.target), (sender(family), flow.source));
        prop_assert_eq!(embedded(&bytes, &made).expect("embedded").key, flow);

        let (header, limit) = match family {
            Family::V4 => (20, 576),
            Family::V6 => (40, 1280),
        };
        let quote = &bytes[ETHERNET + header + 8..];
        prop_assert_eq!(quote, &about[ETHERNET..][..quote.len()]);
        prop_assert_eq!(quote.len(), (about.len() - ETHERNET).min(limit - header - 8));
        let message = &bytes[ETHERNET + header..][..8];
        let (expected, rest) = match (family, kind) {
            (Family::V4, IcmpError::TimeExceeded) => ([11, 0], 0),
            (Family::V4, IcmpError::PortUnreachable) => ([3, 3], 0),
            (Family::V4, IcmpError::NetUnreachable) => ([3, 0], 0),
            (Family::V4, IcmpError::HostUnreachable | IcmpError::AddressUnreachable) => ([3, 1], 0),
            (Family::V4, IcmpError::Prohibited) => ([3, 13], 0),
            (Family::V4, IcmpError::TooBig { mtu }) => ([3, 4], u32::from(mtu)),
            (Family::V6, IcmpError::TimeExceeded) => ([3, 0], 0),
            (Family::V6, IcmpError::PortUnreachable) => ([1, 4], 0),
            (Family::V6, IcmpError::NetUnreachable | IcmpError::HostUnreachable) => ([1, 0], 0),
            (Family::V6, IcmpError::AddressUnreachable) => ([1, 3], 0),
            (Family::V6, IcmpError::Prohibited) => ([1, 1], 0),
            (Family::V6, IcmpError::TooBig { mtu }) => ([2, 0], u32::from(mtu)),
        };
        prop_assert_eq!(&message[..2], &expected);
        prop_assert_eq!(&message[4..], &rest.to_be_bytes());
        prop_assert!(!may_be_answered(&made));
    }

    #[test]
    fn an_echo_is_answered_with_what_it_carried(
        (flow, _) in translations(),
        payload in prop::collection::vec(prop_oneof![Just(0), any::<u8>()], 0..64),
    ) {
        let mut flow = flow;
        flow.protocol = match flow.source.family() {
            Family::V4 => Protocol::ICMP,
            Family::V6 => Protocol::ICMPV6,
        };
        flow.target_port = 0;
        let mut bytes = packet(&flow, &payload);
        let request = parsed(&bytes);
        prop_assert_eq!(request.icmp, Icmp::EchoRequest);
        echo_reply(&mut bytes, &request);
        let reply = parsed(&bytes);
        prop_assert_eq!(reply.icmp, Icmp::EchoReply);
        prop_assert_eq!(reply.key, flow.reverse());
        prop_assert_eq!(reply.ttl, 64);
        prop_assert_eq!(wrong_sums(&bytes), Vec::<&str>::new());
        prop_assert!(bytes.ends_with(&payload));
    }
}

#[test]
fn an_echo_of_zeros_alone_has_a_reply_whose_sum_is_all_ones() {
    let flow = key(Protocol::ICMP, ("10.0.0.1", 0), ("10.0.0.2", 0));
    let mut bytes = packet(&flow, &[0; 56]);
    let l4 = parsed(&bytes).l4 as usize;
    // Identifier and sequence number 0 as well.
    bytes[l4 + 2..l4 + 8].copy_from_slice(&[0xf7, 0xff, 0, 0, 0, 0]);
    assert_eq!(wrong_sums(&bytes), Vec::<&str>::new());
    let request = parsed(&bytes);
    echo_reply(&mut bytes, &request);
    assert_eq!(wrong_sums(&bytes), Vec::<&str>::new());

    // And so when a translation makes its identifier 0, and back.
    let reply = bytes.clone();
    let mut translated = parsed(&bytes);
    translated.key.target_port = 7;
    podway_wire::edit::translate(&mut bytes, &parsed(&reply), &translated.key);
    assert_eq!(wrong_sums(&bytes), Vec::<&str>::new());
    let there = parsed(&bytes);
    podway_wire::edit::translate(&mut bytes, &there, &parsed(&reply).key);
    assert_eq!(bytes, reply);
}

#[test]
fn d2_an_error_about_carried_bytes_quotes_what_the_chunk_holds() {
    for flow in [
        key(Protocol::TCP, ("10.0.0.1", 1000), ("10.0.0.2", 80)),
        key(Protocol::TCP, ("fd00::1", 1000), ("fd00::2", 80)),
    ] {
        let whole = packet(&flow, &[0xab; 4000]);
        let (head, tail) = whole.split_at(200);
        let (bytes, made) = error_about(head, 0, tail.len(), IcmpError::TooBig { mtu: 1400 });
        assert_eq!(parsed(&bytes), made);
        assert_eq!(wrong_sums(&bytes), Vec::<&str>::new());
        assert!(bytes.ends_with(&head[ETHERNET..]));
        assert_eq!(embedded(&bytes, &made).expect("embedded").key, flow);
    }
}

#[test]
fn without_headroom_there_is_no_error_and_no_change() {
    let flow = key(Protocol::UDP, ("10.0.0.1", 1000), ("10.0.0.2", 53));
    let before = packet(&flow, &[0xab; 900]);
    for (headroom, fits) in [(27, false), (28, true)] {
        let mut chunk = vec![0; headroom];
        chunk.extend(&before);
        let tail = chunk.len();
        let mut frame = Frame::new(&mut chunk, headroom, tail, 0).expect("a frame");
        let made = error(
            &mut frame,
            &parsed(&before),
            &sender(Family::V4),
            IcmpError::PortUnreachable,
        );
        assert_eq!(made.is_ok(), fits);
        if !fits {
            assert_eq!(made, Err(NoRoom));
            assert_eq!(frame.bytes(), before);
        }
    }
}

#[test]
fn what_may_not_be_answered_is_not() {
    let four = key(Protocol::UDP, ("10.0.0.1", 1000), ("10.0.0.2", 53));
    let six = key(Protocol::UDP, ("fd00::1", 1000), ("fd00::2", 53));
    let answerable = |flow: &FlowKey| may_be_answered(&parsed(&packet(flow, b"")));
    assert!(answerable(&four) && answerable(&six));
    for (flow, group, nobody) in [(four, "224.0.0.1", "0.0.0.0"), (six, "ff02::1", "::")] {
        let group = key(Protocol::UDP, (group, 0), (nobody, 0));
        let (mut to_group, mut from_nobody) = (flow, flow);
        to_group.target = group.source;
        from_nobody.source = group.target;
        assert!(!answerable(&to_group) && !answerable(&from_nobody));
    }
    // Echoes may, errors and neighbour discovery may not: RFC 792 and RFC 4443 number them.
    for (flow, yes, no) in [
        (
            key(Protocol::ICMP, ("10.0.0.1", 1), ("10.0.0.2", 0)),
            &[0, 8, 13][..],
            &[3, 4, 5, 11, 12][..],
        ),
        (
            key(Protocol::ICMPV6, ("fd00::1", 1), ("fd00::2", 0)),
            &[128, 129, 200][..],
            &[0, 1, 2, 3, 4, 100, 127, 133, 134, 135, 136, 137][..],
        ),
    ] {
        let mut bytes = packet(&flow, b"message");
        let l4 = parsed(&bytes).l4 as usize;
        for (types, expected) in [(yes, true), (no, false)] {
            for &message in types {
                bytes[l4] = message;
                assert_eq!(may_be_answered(&parsed(&bytes)), expected, "{message}");
            }
        }
    }
}
