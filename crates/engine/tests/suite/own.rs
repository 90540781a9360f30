//! What comes to this node's own addresses and answers no flow of ours is its own stack's (R3).

use etherparse::PacketBuilder;
use podway_engine::{DropReason, Verdict};
use podway_tables::PortId;
use podway_wire::{FlowKey, Protocol, TCP_ACK, TCP_RST, TCP_SYN};

use crate::outside::nodes;
use crate::world::{HOST, UPLINK, key, key_of, packet};

const CLIENT: PortId = PortId(2);
const OUTSIDE: &str = "203.0.113.7";
const NODE: &str = "192.168.50.1";

#[test]
fn r3_what_answers_no_flow_of_ours_goes_to_the_host_and_leaves_nothing_behind() {
    let [mut node, _] = nodes(&[]);
    let arrivals = [
        (
            key(Protocol::TCP, (OUTSIDE, 5_000), (NODE, 61_005)),
            TCP_SYN,
        ),
        (
            key(Protocol::TCP, (OUTSIDE, 443), (NODE, 61_006)),
            TCP_SYN | TCP_ACK,
        ),
        (key(Protocol::TCP, (OUTSIDE, 443), (NODE, 61_007)), TCP_RST),
        (key(Protocol::UDP, (OUTSIDE, 53), (NODE, 61_008)), 0),
        // The answer to the host's own ping, whose identifier is in the range.
        (key(Protocol::ICMP, (OUTSIDE, 0), (NODE, 61_009)), 0),
        (key(Protocol(47), (OUTSIDE, 0), (NODE, 0)), 0),
        (
            key(Protocol::TCP, ("fd99::7", 5_000), ("fd50::1", 61_005)),
            TCP_SYN,
        ),
    ];
    for (flow, flags) in arrivals {
        for _ in 0..2 {
            let bytes = packet(CLIENT, &flow, flags, b"x");
            let (sent, moved) = node.send_counted(UPLINK, &bytes);
            assert_eq!(sent.verdict, Verdict::Transmit(HOST), "{flow}");
            assert_eq!(key_of(&sent.bytes), flow);
            assert_eq!(moved, ["received", "transmitted", "flow-miss", "host-own"]);
        }
    }
    assert_eq!(node.flows.iter().count(), 0);
    // Through its range, a pod's answers still come back.
    let out = key(Protocol::TCP, ("10.244.1.10", 5_000), (OUTSIDE, 443));
    let seen = key_of(&node.send(CLIENT, &packet(CLIENT, &out, TCP_SYN, b"")).bytes);
    let back = node.send(
        UPLINK,
        &packet(CLIENT, &seen.reverse(), TCP_SYN | TCP_ACK, b""),
    );
    assert_eq!(back.verdict, Verdict::Transmit(CLIENT));
}

/// An ICMP error (destination unreachable) from a router about a packet of this flow.
fn error_about(flow: &FlowKey) -> Vec<u8> {
    let mut quoted = packet(CLIENT, flow, TCP_SYN, b"").split_off(14);
    quoted.truncate(28);
    let mut bytes = Vec::new();
    let source = flow.source.low_bytes();
    let unreachable = etherparse::Icmpv4Type::DestinationUnreachable(
        etherparse::icmpv4::DestUnreachableHeader::Host,
    );
    PacketBuilder::ethernet2([2, 0, 0, 0, 8, 8], [2; 6])
        .ipv4([203, 0, 113, 1], source, 64)
        .icmpv4(unreachable)
        .write(&mut bytes, &quoted)
        .expect("a packet");
    bytes
}

#[test]
fn r3_errors_about_the_hosts_own_connections_are_its_own_and_others_are_nobodys() {
    let [mut node, _] = nodes(&[]);
    let own = key(Protocol::TCP, (NODE, 61_005), (OUTSIDE, 443));
    let (sent, moved) = node.send_counted(UPLINK, &error_about(&own));
    assert_eq!(sent.verdict, Verdict::Transmit(HOST));
    assert_eq!(moved, ["received", "transmitted", "host-own"]);
    let pods = key(Protocol::TCP, ("10.244.1.10", 5_000), (OUTSIDE, 443));
    node.drops(UPLINK, &error_about(&pods), DropReason::UnrelatedIcmp);
}
