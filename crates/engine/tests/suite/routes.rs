//! A pod's router is its node: ways out as the host's routes have them, and addresses that the host has.

use std::net::IpAddr;

use podway_engine::{DropReason, Verdict, Want};
use podway_intent::{
    Change, HostRoute, Key, LinkAddress, NodeSetup, Resolved, RouteKey, RouteLeads, Uplink,
};
use podway_tables::{NoWay, PortId, Upkeep};
use podway_wire::{FlowKey, Mac, Protocol, TCP_RST, macs};

use crate::outside::{nodes, outward};
use crate::world::{
    HOST, TestNode, UPLINK, WIRE, addr, ingress_policy, key, key_of, packet, parsed, slice,
};

const CLIENT: PortId = PortId(2);
const WEB1: PortId = PortId(3);
const GATEWAY: Mac = Mac([2, 0, 0, 0, 9, 9]);
/// A second device, its port and its address.
const SECOND: u32 = 8;
const STORAGE: PortId = PortId(30);
const STORAGE_MAC: Mac = Mac([2, 0, 0, 0, 7, 1]);
const ROUTER: Mac = Mac([2, 0, 0, 0, 7, 2]);
const NEIGHBOUR: Mac = Mac([2, 0, 0, 0, 7, 3]);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn route_key(range: &str) -> RouteKey {
    let range = range.parse().expect("range");
    RouteKey { table: 0, range }
}

fn route(range: &str, leads: RouteLeads, source: Option<&str>) -> Change {
    let route = HostRoute {
        leads,
        source: source.map(ip),
        mtu: None,
    };
    Change::Route(route_key(range), route)
}

fn by(device: u32, gateway: &str) -> RouteLeads {
    let address = ip(gateway);
    RouteLeads::Gateway { device, address }
}

fn resolved(device: u32, address: &str, mac: Mac, upkeep: Upkeep) -> Change {
    let address = ip(address);
    Change::LinkNeighbour(LinkAddress { device, address }, Resolved { mac, upkeep })
}

/// A node with a second uplink that leads to 10.9.0.0/24 and fd09::/64, and by a router there to 10.20.0.0/16.
fn two_uplinks() -> TestNode {
    let [mut node, _] = nodes(&[
        outward(Default::default()),
        slice("web", "web-1", &["10.244.1.11"]),
    ]);
    let setup = node.cluster.setup().expect("a set-up").clone();
    let mut uplinks = setup.uplinks.clone();
    uplinks.push(Uplink {
        port: STORAGE,
        device: SECOND,
        mac: STORAGE_MAC,
        mtu: 9000,
    });
    let link = RouteLeads::Link { device: SECOND };
    node.change([
        Change::Setup(NodeSetup { uplinks, ..setup }),
        Change::OwnAddress(ip("192.168.50.1")),
        Change::OwnAddress(ip("fd50::1")),
        Change::OwnAddress(ip("10.9.0.1")),
        Change::OwnAddress(ip("fd09::1")),
        route("10.9.0.0/24", link, Some("10.9.0.1")),
        route("fd09::/64", link, Some("fd09::1")),
        route("10.20.0.0/16", by(SECOND, "10.9.0.2"), Some("10.9.0.1")),
        resolved(SECOND, "10.9.0.2", ROUTER, Upkeep::Kept),
    ]);
    node
}

fn out(target: &str) -> FlowKey {
    let source = match target.contains(':') {
        true => "fd44:0:0:1::10",
        false => "10.244.1.10",
    };
    key(Protocol::TCP, (source, 5_000), (target, 443))
}

fn send(node: &mut TestNode, flow: &FlowKey, flags: u8) -> (Verdict, Vec<u8>) {
    let sent = node.send(CLIENT, &packet(CLIENT, flow, flags, b""));
    (sent.verdict, sent.bytes)
}

#[test]
fn r1_the_longest_route_says_device_router_and_source() {
    let mut node = two_uplinks();
    for (target, port, to, from, source) in [
        ("10.20.3.4", STORAGE, ROUTER, STORAGE_MAC, "10.9.0.1"),
        (
            "203.0.113.7",
            UPLINK,
            GATEWAY,
            Mac([2, 0, 0, 0, 2, 1]),
            "192.168.50.1",
        ),
        (
            "2001:db8::7",
            UPLINK,
            GATEWAY,
            Mac([2, 0, 0, 0, 2, 1]),
            "fd50::1",
        ),
    ] {
        let (verdict, bytes) = send(&mut node, &out(target), 2);
        assert_eq!(verdict, Verdict::Transmit(port), "{target}");
        assert_eq!(macs(&bytes), Some((to, from)), "{target}");
        assert_eq!(key_of(&bytes).source, addr(source), "{target}");
        let mut back = packet(port, &key_of(&bytes).reverse(), 18, b"");
        back[6..12].copy_from_slice(&to.0);
        assert_eq!(
            node.send(port, &back).verdict,
            Verdict::Transmit(CLIENT),
            "{target}"
        );
    }
}

#[test]
fn r1_a_neighbour_is_sent_to_itself_and_packets_wait_until_it_is_known() {
    let mut node = two_uplinks();
    for target in ["10.9.0.77", "fd09::77"] {
        let flow = out(target);
        let first = packet(CLIENT, &flow, 2, b"");
        let (waits, counted) = node.send_counted(CLIENT, &first);
        assert_eq!(waits.verdict, Verdict::Waits);
        assert_eq!(counted, ["received", "waits", "flow-miss"]);
        let flows = node.flows.iter().count();
        let want = Want {
            port: STORAGE,
            addr: addr(target),
        };
        assert_eq!(node.engine.wanted().take().collect::<Vec<_>>(), [want]);
        assert_eq!(node.send(CLIENT, &first).verdict, Verdict::Waits);
        assert_eq!(
            node.flows.iter().count(),
            flows,
            "nothing is remembered of it"
        );
        drop(node.engine.wanted().take());
        node.change([resolved(SECOND, target, NEIGHBOUR, Upkeep::Unasked)]);
        // Any batch sends it on.
        let other = key(Protocol::UDP, ("10.244.1.10", 5_000), ("10.244.1.11", 53));
        let other = packet(CLIENT, &other, 0, b"");
        let (_, counted) = node.send_counted(CLIENT, &other);
        assert!(counted.contains(&"made".to_owned()), "{counted:?}");
        let [made, _] = &node.made[..] else {
            panic!("two packets waited")
        };
        assert_eq!(made.verdict, Verdict::Transmit(STORAGE));
        assert_eq!(macs(&made.bytes), Some((NEIGHBOUR, STORAGE_MAC)));
        assert!(!node.engine.has_waiting());
        assert!(!node.engine.wanted().is_empty(), "nobody keeps it yet");
        drop(node.engine.wanted().take());
        node.change([resolved(SECOND, target, ROUTER, Upkeep::Kept)]);
        let (_, bytes) = send(&mut node, &flow, 16);
        assert_eq!(macs(&bytes), Some((ROUTER, STORAGE_MAC)), "it moved");
        assert!(node.engine.wanted().is_empty());
        let (device, address) = (SECOND, ip(target));
        node.change([Change::Gone(Key::LinkNeighbour(LinkAddress {
            device,
            address,
        }))]);
        assert_eq!(send(&mut node, &flow, 16).0, Verdict::Waits);
        assert!(!node.engine.wanted().is_empty(), "it is asked for again");
        drop(node.engine.wanted().take());
        node.change([resolved(SECOND, target, ROUTER, Upkeep::Kept)]);
        node.send(CLIENT, &other);
        assert_eq!(node.made.len(), 1, "{target}");
    }
}

#[test]
fn r1_what_waits_for_a_neighbour_is_bounded_and_answered_if_there_is_nobody() {
    let mut node = two_uplinks();
    for (target, at, code) in [("10.9.0.77", 34, [3, 1]), ("fd09::77", 54, [1, 3])] {
        let flow = out(target);
        let syn = packet(CLIENT, &flow, 2, b"");
        for _ in 0..8 {
            assert_eq!(node.send(CLIENT, &syn).verdict, Verdict::Waits);
        }
        node.drops(CLIENT, &syn, DropReason::NoNeighbour);
        // Another port has room of its own.
        let from_web = key(Protocol::TCP, ("10.244.1.11", 5_000), ("10.9.0.78", 443));
        let from_web = packet(WEB1, &from_web, 2, b"");
        assert_eq!(node.send(WEB1, &from_web).verdict, Verdict::Waits);
        node.now_ms += 2_999;
        let other = key(Protocol::UDP, ("10.244.1.10", 5_000), ("10.244.1.11", 53));
        let other = packet(CLIENT, &other, 0, b"");
        node.send(CLIENT, &other);
        assert_eq!(node.made.len(), 0, "there is time left");
        node.now_ms += 1;
        let (_, counted) = node.send_counted(CLIENT, &other);
        assert!(counted.contains(&"unreachable".to_owned()), "{counted:?}");
        assert_eq!(node.made.len(), 9);
        for answer in &node.made[..8] {
            assert_eq!(answer.verdict, Verdict::Transmit(CLIENT), "{target}");
            assert_eq!(answer.bytes[at..at + 2], code, "{target}");
        }
        assert!(!node.engine.has_waiting());
    }
}

#[test]
fn r1_a_way_that_cant_be_taken_is_answered_as_the_kernel_would() {
    let mut node = two_uplinks();
    node.change([
        route(
            "10.30.0.0/16",
            RouteLeads::Refused(NoWay::Unreachable),
            None,
        ),
        route("10.31.0.0/16", RouteLeads::Refused(NoWay::Prohibited), None),
        route("10.32.0.0/16", RouteLeads::Refused(NoWay::Blackhole), None),
        route(
            "2001:db8:1::/48",
            RouteLeads::Refused(NoWay::Prohibited),
            None,
        ),
        route("10.33.0.0/16", by(99, "10.99.0.1"), None),
        Change::Gone(Key::Route(route_key("::/0"))),
    ]);
    for (target, at, code) in [
        ("10.30.0.1", 34, [3, 1]),
        ("10.31.0.1", 34, [3, 13]),
        ("10.33.0.1", 34, [3, 0]),
        ("2001:db8:1::1", 54, [1, 1]),
        ("2001:db8::1", 54, [1, 0]),
    ] {
        let sent = packet(CLIENT, &out(target), 2, b"");
        let (answer, counted) = node.send_counted(CLIENT, &sent);
        assert_eq!(answer.verdict, Verdict::Transmit(CLIENT), "{target}");
        assert_eq!(answer.bytes[at..at + 2], code, "{target}");
        assert!(counted.contains(&"unreachable".to_owned()), "{counted:?}");
    }
    let lost = packet(CLIENT, &out("10.32.0.1"), 2, b"");
    node.drops(CLIENT, &lost, DropReason::Blackhole);
}

#[test]
fn r1_flows_follow_a_default_route_that_goes_and_comes() {
    let mut node = two_uplinks();
    let flow = out("203.0.113.7");
    let (_, first) = send(&mut node, &flow, 2);
    let seen = key_of(&first);
    node.change([Change::Gone(Key::Route(route_key("0.0.0.0/0")))]);
    let answered = node
        .send_counted(CLIENT, &packet(CLIENT, &flow, 16, b"data"))
        .1;
    assert!(answered.contains(&"unreachable".to_owned()), "{answered:?}");
    node.change([route("0.0.0.0/0", by(SECOND, "10.9.0.2"), Some("10.9.0.1"))]);
    let (verdict, bytes) = send(&mut node, &flow, 16);
    assert_eq!(verdict, Verdict::Transmit(STORAGE));
    assert_eq!(macs(&bytes), Some((ROUTER, STORAGE_MAC)));
    assert_eq!(key_of(&bytes), seen, "under the source that it had");
    let mut back = packet(STORAGE, &seen.reverse(), 16, b"");
    back[6..12].copy_from_slice(&ROUTER.0);
    assert_eq!(node.send(STORAGE, &back).verdict, Verdict::Transmit(CLIENT));
}

#[test]
fn r1_a_flow_whose_source_address_left_the_node_ends() {
    let mut node = two_uplinks();
    let tcp = out("10.20.3.4");
    let udp = key(Protocol::UDP, ("10.244.1.10", 5_000), ("10.20.3.4", 53));
    send(&mut node, &tcp, 2);
    send(&mut node, &udp, 0);
    node.change([
        Change::Gone(Key::OwnAddress(ip("10.9.0.1"))),
        Change::OwnAddress(ip("10.9.0.9")),
        route("10.20.0.0/16", by(SECOND, "10.9.0.2"), Some("10.9.0.9")),
    ]);
    let (verdict, bytes) = send(&mut node, &tcp, 16);
    assert_eq!(verdict, Verdict::Transmit(CLIENT));
    assert_eq!(parsed(&bytes).tcp_flags & TCP_RST, TCP_RST);
    let (_, bytes) = send(&mut node, &udp, 0);
    assert_eq!(
        key_of(&bytes).source,
        addr("10.9.0.9"),
        "datagrams begin anew"
    );
}

#[test]
fn r1_what_came_by_an_uplink_is_answered_there_whatever_routes_say() {
    let mut node = two_uplinks();
    let dialled = key(Protocol::TCP, ("172.30.0.7", 5_000), ("198.51.100.5", 80));
    let mut syn = packet(STORAGE, &dialled, 2, b"");
    syn[6..12].copy_from_slice(&ROUTER.0);
    let arrived = node.send(STORAGE, &syn);
    assert_eq!(arrived.verdict, Verdict::Transmit(WEB1));
    let back = packet(WEB1, &key_of(&arrived.bytes).reverse(), 18, b"");
    let back = node.send(WEB1, &back);
    assert_eq!(
        back.verdict,
        Verdict::Transmit(STORAGE),
        "the default route is another's"
    );
    assert_eq!(macs(&back.bytes), Some((ROUTER, STORAGE_MAC)));
    assert_eq!(key_of(&back.bytes), dialled.reverse());
}

#[test]
fn r1_answers_go_by_the_route_and_to_their_sender_until_that_is_resolved() {
    let mut node = two_uplinks();
    node.change([route("172.30.0.0/16", by(SECOND, "10.9.0.3"), None)]);
    let dialled = key(Protocol::TCP, ("172.30.0.7", 5_000), ("198.51.100.5", 80));
    let mut syn = packet(STORAGE, &dialled, 2, b"");
    syn[6..12].copy_from_slice(&ROUTER.0);
    let arrived = node.send(STORAGE, &syn);
    let back = packet(WEB1, &key_of(&arrived.bytes).reverse(), 18, b"");
    let to = |node: &mut TestNode| {
        let sent = node.send(WEB1, &back);
        assert_eq!(sent.verdict, Verdict::Transmit(STORAGE));
        macs(&sent.bytes).map(|(to, _)| to)
    };
    assert_eq!(to(&mut node), Some(ROUTER), "nobody knows 10.9.0.3 yet");
    node.change([resolved(SECOND, "10.9.0.3", NEIGHBOUR, Upkeep::Kept)]);
    assert_eq!(to(&mut node), Some(NEIGHBOUR));
    node.change([resolved(SECOND, "10.9.0.3", GATEWAY, Upkeep::Kept)]);
    assert_eq!(
        to(&mut node),
        Some(GATEWAY),
        "its successor has the address"
    );
}

#[test]
fn r2_an_address_is_the_nodes_as_long_as_a_device_has_it() {
    let mut node = two_uplinks();
    let vip = "192.168.50.100";
    let link = RouteLeads::Link { device: WIRE };
    node.change([
        route("192.168.50.0/24", link, Some("192.168.50.1")),
        resolved(WIRE, vip, NEIGHBOUR, Upkeep::Kept),
    ]);
    let flow = key(Protocol::UDP, ("10.244.1.10", 5_000), (vip, 53));
    let (verdict, bytes) = send(&mut node, &flow, 0);
    assert_eq!(verdict, Verdict::Transmit(UPLINK), "another node has it");
    assert_eq!(macs(&bytes).map(|(to, _)| to), Some(NEIGHBOUR));
    node.change([Change::OwnAddress(ip(vip))]);
    let (verdict, bytes) = send(&mut node, &flow, 0);
    assert_eq!(verdict, Verdict::Transmit(HOST), "the same flow");
    assert_eq!(key_of(&bytes), flow);
    let answer = packet(HOST, &flow.reverse(), 0, b"");
    assert_eq!(node.send(HOST, &answer).verdict, Verdict::Transmit(CLIENT));
    node.change([Change::Gone(Key::OwnAddress(ip(vip)))]);
    assert_eq!(send(&mut node, &flow, 0).0, Verdict::Transmit(UPLINK));
    assert!(node.compiled.plan.node_addresses.contains(&ip("10.9.0.1")));
}

#[test]
fn n13_r2_probes_from_any_address_of_the_node_are_let_in() {
    let mut node = two_uplinks();
    node.change([
        ingress_policy("web1", None),
        Change::OwnAddress(ip("169.254.20.10")),
        Change::OwnAddress(ip("fe80::7")),
    ]);
    for (source, target) in [
        ("10.9.0.1", "10.244.1.11"),
        ("169.254.20.10", "10.244.1.11"),
        ("169.254.1.1", "10.244.1.11"),
        ("fd09::1", "fd44:0:0:1::11"),
        ("fe80::7", "fd44:0:0:1::11"),
    ] {
        let probe = key(Protocol::TCP, (source, 40_000), (target, 8080));
        let sent = node.send(HOST, &packet(HOST, &probe, 2, b""));
        assert_eq!(sent.verdict, Verdict::Transmit(WEB1), "{source}");
        let back = packet(WEB1, &probe.reverse(), 18, b"");
        assert_eq!(
            node.send(WEB1, &back).verdict,
            Verdict::Transmit(HOST),
            "{source}"
        );
    }
    let stranger = key(
        Protocol::TCP,
        ("203.0.113.7", 40_000),
        ("10.244.1.11", 8080),
    );
    node.drops(
        HOST,
        &packet(HOST, &stranger, 2, b""),
        DropReason::IngressDenied,
    );
}

#[test]
fn what_the_host_forwards_for_the_world_stays_through_new_tables() {
    let mut node = two_uplinks();
    let flow = key(
        Protocol::TCP,
        ("203.0.113.7", 40_000),
        ("10.244.1.11", 8080),
    );
    assert_eq!(
        node.send(HOST, &packet(HOST, &flow, 2, b"")).verdict,
        Verdict::Transmit(WEB1)
    );
    node.change([Change::OwnAddress(ip("10.77.0.1"))]);
    let back = node.send(WEB1, &packet(WEB1, &flow.reverse(), 18, b""));
    assert_eq!(
        (back.verdict, key_of(&back.bytes)),
        (Verdict::Transmit(HOST), flow.reverse())
    );
}
