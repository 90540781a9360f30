//! Remembered decisions: how long they hold, and what makes them be judged again.

use podway_engine::{DropReason, Verdict};
use podway_intent::{Change, Key, Pod};
use podway_tables::PortId;
use podway_wire::Protocol;

use crate::world::{
    TestNode, UPLINK, across, ingress_policy, key, key_of, labels, name, packet, parsed, pod,
    service, slice, two_nodes,
};

const CLIENT: PortId = PortId(2);
const WEB1: PortId = PortId(3);

fn relabelled(change: Change, app: &str) -> Change {
    let Change::Pod(pod) = change else {
        panic!("a pod")
    };
    Change::Pod(Pod {
        labels: labels(&[("app", app)]).into(),
        ..pod
    })
}

fn established(node: &mut TestNode) -> podway_wire::FlowKey {
    let flow = key(Protocol::TCP, ("10.244.1.10", 4000), ("10.244.1.11", 8080));
    node.send(CLIENT, &packet(CLIENT, &flow, 2, b""));
    node.send(WEB1, &packet(WEB1, &flow.reverse(), 18, b""));
    flow
}

#[test]
fn n12_a_tightened_policy_cuts_a_live_flow_at_once_in_both_directions() {
    let [mut node, _] = two_nodes(&[]);
    let flow = established(&mut node);
    node.change([ingress_policy("web1", Some("client"))]);
    let sent = node.send(CLIENT, &packet(CLIENT, &flow, 16, b"still"));
    assert_eq!(sent.verdict, Verdict::Transmit(WEB1));
    node.change([ingress_policy("web1", None)]);
    let refused = node.send(CLIENT, &packet(CLIENT, &flow, 16, b"cut"));
    let denied = Verdict::Drop(DropReason::IngressDenied);
    assert_eq!(refused.verdict, denied);
    // What the server sends again is no connection of its own, however often it is sent, and nothing follows on it.
    for now_ms in [2_000, 30_000, 600_000] {
        node.now_ms = now_ms;
        let again = node.send(WEB1, &packet(WEB1, &flow.reverse(), 16, b"again"));
        assert_eq!(again.verdict, denied);
        let more = node.send(CLIENT, &packet(CLIENT, &flow, 16, b"more"));
        assert_eq!(more.verdict, denied);
    }
    node.change([ingress_policy("web1", Some("client"))]);
    let mended = node.send(CLIENT, &packet(CLIENT, &flow, 16, b"allowed again"));
    assert_eq!(mended.verdict, Verdict::Transmit(WEB1));
    let answer = node.send(WEB1, &packet(WEB1, &flow.reverse(), 16, b"y"));
    assert_eq!(answer.verdict, Verdict::Transmit(CLIENT));
}

#[test]
fn n16_a_peers_new_labels_count_for_flows_that_are_there() {
    let [_, mut node] = two_nodes(&[ingress_policy("web2", Some("client"))]);
    // What the tunnel brings from node1 was judged there; here only ingress counts.
    let [mut near, _] = two_nodes(&[]);
    let flow = key(Protocol::TCP, ("10.244.1.10", 4000), ("10.244.2.12", 8080));
    let syn = near.send(CLIENT, &packet(CLIENT, &flow, 2, b"")).bytes;
    assert_eq!(
        node.send(UPLINK, &syn).verdict,
        Verdict::Transmit(PortId(2))
    );
    let data = near.send(CLIENT, &packet(CLIENT, &flow, 16, b"x")).bytes;
    assert_eq!(
        node.send(UPLINK, &data).verdict,
        Verdict::Transmit(PortId(2))
    );
    node.change([relabelled(pod("client", 1, 10), "stranger")]);
    assert_eq!(
        node.send(UPLINK, &data).verdict,
        Verdict::Drop(DropReason::IngressDenied)
    );
}

#[test]
fn changes_elsewhere_leave_a_flow_alone() {
    let [mut node, _] = two_nodes(&[service("web", 5), slice("web", "web-1", &["10.244.1.11"])]);
    let flow = established(&mut node);
    node.change([service("new", 9), slice("new", "new-1", &["10.244.2.13"])]);
    let (_, moved) = node.send_counted(CLIENT, &packet(CLIENT, &flow, 16, b""));
    assert_eq!(moved, ["received", "transmitted", "flow-hit"]);
}

#[test]
fn f1_f6_udp_goes_to_another_backend_when_its_own_is_gone_and_not_before() {
    let backends = ["10.244.1.11", "10.244.2.12", "10.244.2.13"];
    let [mut node, _] = two_nodes(&[service("dns", 5), slice("dns", "dns-1", &backends)]);
    for port in 4000..4050 {
        let flow = key(Protocol::UDP, ("10.244.1.10", port), ("10.96.0.5", 80));
        let backend_of = |node: &mut TestNode| {
            let sent = node.send(CLIENT, &packet(CLIENT, &flow, 0, b"q"));
            let mut bytes = sent.bytes;
            if sent.verdict == Verdict::Transmit(UPLINK) {
                bytes.drain(..50);
            }
            key_of(&bytes).target.to_string()
        };
        let first = backend_of(&mut node);
        let grown = [&backends[..], &["10.244.2.99"]].concat();
        node.change([slice("dns", "dns-1", &grown)]);
        assert_eq!(
            backend_of(&mut node),
            first,
            "another endpoint changes nothing"
        );
        let others: Vec<&str> = backends
            .into_iter()
            .filter(|other| *other != first)
            .collect();
        node.change([slice("dns", "dns-1", &others)]);
        assert_ne!(backend_of(&mut node), first, "its own went");
        node.change([slice("dns", "dns-1", &backends)]);
    }
}

#[test]
fn f2_udp_flows_go_with_their_last_endpoint_and_with_their_service() {
    for gone in [
        slice("dns", "dns-1", &[]),
        Change::Gone(Key::Service(name("shop", "dns"))),
    ] {
        let [mut node, _] =
            two_nodes(&[service("dns", 5), slice("dns", "dns-1", &["10.244.1.11"])]);
        let flow = key(Protocol::UDP, ("10.244.1.10", 4000), ("10.96.0.5", 80));
        let sent = node.send(CLIENT, &packet(CLIENT, &flow, 0, b"q"));
        assert_eq!(sent.verdict, Verdict::Transmit(WEB1));
        node.change([gone]);
        let sent = node.send(CLIENT, &packet(CLIENT, &flow, 0, b"q"));
        assert_ne!(sent.verdict, Verdict::Transmit(WEB1));
        assert_eq!(node.flows.iter().count(), 0);
    }
}

#[test]
fn f5_established_tcp_is_left_alone_when_endpoints_change() {
    let [mut node, _] = two_nodes(&[service("web", 5), slice("web", "web-1", &["10.244.1.11"])]);
    let flow = key(Protocol::TCP, ("10.244.1.10", 4000), ("10.96.0.5", 80));
    node.send(CLIENT, &packet(CLIENT, &flow, 2, b""));
    node.change([slice("web", "web-1", &["10.244.2.12"])]);
    let sent = node.send(CLIENT, &packet(CLIENT, &flow, 16, b"data"));
    assert_eq!(sent.verdict, Verdict::Transmit(WEB1));
    let fresh = key(Protocol::TCP, ("10.244.1.10", 4001), ("10.96.0.5", 80));
    let sent = node.send(CLIENT, &packet(CLIENT, &fresh, 2, b""));
    assert_eq!(
        sent.verdict,
        Verdict::Transmit(UPLINK),
        "a new connection goes to the new one"
    );
}

#[test]
fn f11_a_pods_address_that_is_anothers_now_gets_nothing_of_the_old_flows() {
    let [mut node, _] = two_nodes(&[]);
    let flow = established(&mut node);
    node.change([
        Change::Gone(Key::Pod(name("shop", "web1"))),
        pod("heir", 1, 11),
    ]);
    node.change([
        Change::Gone(Key::Attachment(name("shop", "web1"))),
        crate::world::attachment("heir", 7),
        ingress_policy("heir", None),
    ]);
    let sent = node.send(CLIENT, &packet(CLIENT, &flow, 16, b"data"));
    assert_eq!(
        (sent.verdict, parsed(&sent.bytes).tcp_flags),
        (Verdict::Transmit(CLIENT), podway_wire::TCP_RST),
        "F18: whom it was for is gone"
    );
    let again = node.send(CLIENT, &packet(CLIENT, &flow, 2, b""));
    assert_eq!(
        again.verdict,
        Verdict::Drop(DropReason::IngressDenied),
        "judged as a new flow"
    );
}

#[test]
fn replies_pass_isolated_pods_and_new_connections_of_the_server_do_not() {
    let mut nodes = two_nodes(&[ingress_policy("client", None)]);
    let flow = key(Protocol::TCP, ("10.244.1.10", 4000), ("10.244.2.12", 8080));
    across(&mut nodes, 0, CLIENT, &packet(CLIENT, &flow, 2, b""));
    let back = across(
        &mut nodes,
        1,
        PortId(2),
        &packet(PortId(2), &flow.reverse(), 18, b""),
    );
    assert_eq!(back.verdict, Verdict::Transmit(CLIENT));
    let inward = key(Protocol::TCP, ("10.244.2.12", 5000), ("10.244.1.10", 8080));
    let refused = across(
        &mut nodes,
        1,
        PortId(2),
        &packet(PortId(2), &inward, 2, b""),
    );
    assert_eq!(refused.verdict, Verdict::Drop(DropReason::IngressDenied));
}

#[test]
fn timeouts_end_flows_by_what_is_known_of_them() {
    let [mut node, _] = two_nodes(&[]);
    established(&mut node);
    let echo = key(Protocol::ICMP, ("10.244.1.10", 7), ("10.244.1.11", 0));
    node.send(CLIENT, &packet(CLIENT, &echo, 0, b""));
    let mut left_after = |seconds: u32| {
        node.now_ms += seconds * 1_000;
        node.engine.sweep(1_024, node.now_ms);
        node.flows.iter().count()
    };
    assert_eq!(left_after(4), 2);
    assert_eq!(left_after(2), 1, "ICMP after 5 s");
    assert_eq!(left_after(8_000), 1, "F17: established TCP stays");
    assert_eq!(
        left_after(200),
        0,
        "and goes when no keepalive was answered"
    );
}

#[test]
fn f3_udp_that_nothing_matched_is_a_services_as_soon_as_it_has_an_endpoint() {
    let [mut node, _] = two_nodes(&[]);
    node.change(crate::world::way_out(1, podway_wire::Mac([2; 6])));
    let Change::Service(mut outward) = service("dns", 5) else {
        panic!("a service")
    };
    let address = "198.51.100.5".parse().expect("address");
    outward.load_balancer_ips = vec![(address, podway_intent::IpMode::Vip)];
    let dialled = key(Protocol::UDP, ("10.244.1.10", 4000), ("198.51.100.5", 80));
    let ask = |node: &mut TestNode| {
        node.send(CLIENT, &packet(CLIENT, &dialled, 0, b"q"))
            .verdict
    };
    assert_eq!(
        ask(&mut node),
        Verdict::Transmit(UPLINK),
        "out into the world"
    );
    node.change([Change::Service(outward)]);
    let refused = node.send(CLIENT, &packet(CLIENT, &dialled, 0, b"q"));
    assert_eq!(
        key_of(&refused.bytes).protocol,
        Protocol::ICMP,
        "F19: it is a service's, and nobody serves yet"
    );
    node.change([slice("dns", "dns-1", &["10.244.1.11"])]);
    assert_eq!(ask(&mut node), Verdict::Transmit(WEB1));
}

#[test]
fn f4_one_way_udp_that_keeps_coming_does_not_keep_a_dead_backend_alive() {
    let [mut node, _] = two_nodes(&[service("dns", 5), slice("dns", "dns-1", &["10.244.1.11"])]);
    let flow = key(Protocol::UDP, ("10.244.1.10", 4000), ("10.96.0.5", 80));
    let ask = |node: &mut TestNode| {
        node.now_ms += 1_000;
        node.send(CLIENT, &packet(CLIENT, &flow, 0, b"q")).verdict
    };
    assert_eq!(ask(&mut node), Verdict::Transmit(WEB1));
    assert_eq!(ask(&mut node), Verdict::Transmit(WEB1));
    node.change([slice("dns", "dns-1", &["10.244.2.12"])]);
    assert_eq!(
        ask(&mut node),
        Verdict::Transmit(UPLINK),
        "never answered, never idle, and moved"
    );
}

#[test]
fn f7_a_segment_outside_of_any_window_is_still_translated() {
    let [mut node, _] = two_nodes(&[service("web", 5), slice("web", "web-1", &["10.244.1.11"])]);
    let flow = key(Protocol::TCP, ("10.244.1.10", 4000), ("10.96.0.5", 80));
    node.send(CLIENT, &packet(CLIENT, &flow, 2, b""));
    let answer = key(Protocol::TCP, ("10.244.1.11", 8080), ("10.244.1.10", 4000));
    node.send(WEB1, &packet(WEB1, &answer, 18, b""));
    for flags in [0, 4, 16, 0x29, 0xff] {
        let mut stray = packet(WEB1, &answer, 16, b"late");
        // Far outside: the sequence number, and flags that make no sense, with the checksum that goes with them.
        stray[38..42].copy_from_slice(&0xdead_beef_u32.to_be_bytes());
        stray[47] = flags;
        stray[50..52].fill(0);
        let sum = podway_wire::checksum::transport(
            &answer.source,
            &answer.target,
            Protocol::TCP,
            &stray[34..],
        );
        stray[50..52].copy_from_slice(&sum.to_be_bytes());
        let sent = node.send(WEB1, &stray);
        assert_eq!(sent.verdict, Verdict::Transmit(CLIENT));
        assert_eq!(key_of(&sent.bytes), flow.reverse(), "flags {flags:x}");
    }
}
