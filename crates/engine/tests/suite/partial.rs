//! Checksums that a kernel has left to a device, as veth passes them on (D4).

use podway_engine::Verdict;
use podway_tables::PortId;
use podway_wire::{FlowKey, Protocol, TCP_ACK, TCP_SYN};

use crate::outside::{nodes, outward};
use crate::world::{UPLINK, across, addr, key, key_of, packet, parsed, slice};

const CLIENT: PortId = PortId(2);
const WEB1: PortId = PortId(3);
const OUTSIDE: &str = "203.0.113.7";

/// The packet as a kernel hands it to a device that sums for it: with the sum of its pseudo-header alone.
fn partial(mut bytes: Vec<u8>) -> Vec<u8> {
    let read = parsed(&bytes);
    let l4 = usize::from(read.l4);
    let at = match read.key.protocol {
        Protocol::TCP => l4 + 16,
        _ => l4 + 6,
    };
    let words = |addr: &podway_wire::Addr| {
        let octets = match addr.family() {
            podway_wire::Family::V4 => addr.low_bytes().to_vec(),
            podway_wire::Family::V6 => addr.octets().to_vec(),
        };
        let pairs = octets
            .chunks(2)
            .map(|it| u32::from(it[0]) << 8 | u32::from(it[1]));
        pairs.sum::<u32>()
    };
    let length = (read.end() - l4) as u32;
    let mut sum = words(&read.key.source) + words(&read.key.target);
    sum += length + u32::from(read.key.protocol.0);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    bytes[at..at + 2].copy_from_slice(&(sum as u16).to_be_bytes());
    bytes
}

fn is_counted(moved: &[String]) -> bool {
    moved.iter().any(|name| name == "checksum-completed")
}

/// What the world's kernel sends: `send` asserts that what goes on is sound.
#[test]
fn d4_unfinished_checksums_from_the_wire_are_completed_translated_and_counted() {
    let mut nodes = nodes(&[
        outward(podway_intent::TrafficPolicy::Cluster),
        slice("web", "web-1", &["10.244.1.11"]),
    ]);
    for protocol in [Protocol::TCP, Protocol::UDP] {
        for (from, to) in [
            ((OUTSIDE, 5_000), ("192.168.50.1", 30_080)),
            ((OUTSIDE, 5_001), ("10.244.1.11", 8080)),
            (("2001:db8::7", 5_002), ("fd44:0:0:1::11", 8080)),
        ] {
            let dialled = key(protocol, from, to);
            for payload in [&b""[..], b"odd", b"even"] {
                let bytes = partial(packet(CLIENT, &dialled, TCP_SYN, payload));
                let (sent, moved) = nodes[0].send_counted(UPLINK, &bytes);
                assert_eq!(sent.verdict, Verdict::Transmit(WEB1), "{dialled}");
                assert!(is_counted(&moved), "{dialled}: {moved:?}");
            }
            let sound = packet(CLIENT, &dialled, TCP_ACK, b"sound");
            let (_, moved) = nodes[0].send_counted(UPLINK, &sound);
            assert!(!is_counted(&moved), "{moved:?}");
        }
    }
}

#[test]
fn d4_the_first_answer_tells_that_the_world_leaves_checksums_to_its_device() {
    for protocol in [Protocol::TCP, Protocol::UDP] {
        let [mut node, _] = nodes(&[]);
        let out = key(protocol, ("10.244.1.10", 5_000), (OUTSIDE, 443));
        let sent = node.send(CLIENT, &packet(CLIENT, &out, TCP_SYN, b"q"));
        let back = key_of(&sent.bytes).reverse();
        for flags in [TCP_SYN | TCP_ACK, TCP_ACK, TCP_ACK] {
            let (sent, moved) =
                node.send_counted(UPLINK, &partial(packet(CLIENT, &back, flags, b"a")));
            assert_eq!(sent.verdict, Verdict::Transmit(CLIENT));
            assert!(is_counted(&moved));
        }
        // What a device would have completed wrongly stays wrong, and is the receiver's to drop.
        let mut wrong = packet(CLIENT, &back, TCP_ACK, b"a");
        let last = wrong.len() - 1;
        wrong[last] ^= 0x55;
        let before = node.totals();
        let kept = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            node.send(UPLINK, &wrong);
        }));
        assert!(kept.is_err(), "the checksum is as wrong as it came");
        let completed = podway_engine::event_index(podway_engine::Event::Completed);
        assert_eq!(node.totals()[completed], before[completed]);
    }
}

#[test]
fn d4_unfinished_checksums_of_pods_and_out_of_the_tunnel_are_completed() {
    let mut nodes = nodes(&[]);
    let out = key(Protocol::TCP, ("10.244.1.10", 4_000), ("10.244.2.12", 8080));
    for flags in [TCP_SYN, TCP_ACK] {
        let sent = across(
            &mut nodes,
            0,
            CLIENT,
            &partial(packet(CLIENT, &out, flags, b"x")),
        );
        assert_eq!(sent.verdict, Verdict::Transmit(PortId(2)));
        assert_eq!(key_of(&sent.bytes), out);
    }
    // A peer that has not completed what its pod sent.
    let other: FlowKey = key(Protocol::UDP, ("10.244.1.10", 4_001), ("10.244.2.12", 53));
    let whole = packet(CLIENT, &other, 0, b"query");
    let mut tunnelled = nodes[0].send(CLIENT, &whole).bytes;
    let inner = partial(tunnelled.split_off(50));
    tunnelled.extend_from_slice(&inner);
    let (sent, moved) = nodes[1].send_counted(UPLINK, &tunnelled);
    assert_eq!(sent.verdict, Verdict::Transmit(PortId(2)));
    assert!(is_counted(&moved));
    assert_eq!(key_of(&sent.bytes).target, addr("10.244.2.12"));
}
