//! Packets that end early: each by its own name, and without a trace.

use podway_engine::{DropReason, Verdict};
use podway_intent::{Change, Key};
use podway_tables::PortId;
use podway_wire::{Mac, Protocol};

use crate::world::{
    HOST, UPLINK, egress_policy, ingress_policy, key, name, packet, service, slice, two_nodes,
};

const CLIENT: PortId = PortId(2);
const WEB1: PortId = PortId(3);

#[test]
fn d11_a_pod_sends_with_its_own_addresses_only() {
    let [mut node, _] = two_nodes(&[]);
    let foreign_ip = key(Protocol::UDP, ("10.244.1.11", 4000), ("10.244.2.12", 53));
    node.drops(
        CLIENT,
        &packet(CLIENT, &foreign_ip, 0, b""),
        DropReason::Spoofed,
    );
    let own = key(Protocol::UDP, ("10.244.1.10", 4000), ("10.244.2.12", 53));
    node.drops(CLIENT, &packet(WEB1, &own, 0, b""), DropReason::Spoofed);
    let link_local = key(Protocol::UDP, ("fe80::1", 4000), ("fd44:0:0:2::12", 53));
    node.drops(
        CLIENT,
        &packet(CLIENT, &link_local, 0, b""),
        DropReason::Spoofed,
    );
}

#[test]
fn d11_the_host_forwards_for_no_pod() {
    let [mut node, _] = two_nodes(&[]);
    for source in ["10.244.1.11", "10.244.1.200", "10.244.2.12"] {
        let forged = key(Protocol::UDP, (source, 4000), ("10.244.1.10", 53));
        node.drops(HOST, &packet(HOST, &forged, 0, b""), DropReason::Spoofed);
    }
    for source in ["192.168.50.1", "192.168.50.2", "198.51.100.7"] {
        let forwarded = key(Protocol::UDP, (source, 4000), ("10.244.1.10", 53));
        let sent = node.send(HOST, &packet(HOST, &forwarded, 0, b""));
        assert_eq!(sent.verdict, Verdict::Transmit(CLIENT), "{source}");
    }
}

#[test]
fn d12_a_pod_has_no_tunnel_to_a_node() {
    let [mut node, _] = two_nodes(&[]);
    for target in ["192.168.50.1", "192.168.50.2"] {
        let tunnel = key(Protocol::UDP, ("10.244.1.10", 50_000), (target, 4789));
        node.drops(
            CLIENT,
            &packet(CLIENT, &tunnel, 0, b""),
            DropReason::PodTunnel,
        );
    }
    let to_pod = key(
        Protocol::UDP,
        ("10.244.1.10", 50_000),
        ("10.244.1.11", 4789),
    );
    let sent = node.send(CLIENT, &packet(CLIENT, &to_pod, 0, b""));
    assert_eq!(
        sent.verdict,
        Verdict::Transmit(WEB1),
        "a pod may serve that port to pods"
    );
}

#[test]
fn d8_a_tunnel_packet_is_of_a_peer_our_network_and_that_peers_pods() {
    let [mut near, mut far] = two_nodes(&[]);
    let to_web2 = key(Protocol::UDP, ("10.244.1.10", 4000), ("10.244.2.12", 53));
    let wire = near.send(CLIENT, &packet(CLIENT, &to_web2, 0, b"q")).bytes;
    let vni_at = 14 + 20 + 8 + 4;
    let mut wrong_vni = wire.clone();
    wrong_vni[vni_at + 2] = 8;
    far.drops(UPLINK, &wrong_vni, DropReason::WrongVni);
    let mut no_flag = wire.clone();
    no_flag[14 + 20 + 8] = 0;
    far.drops(UPLINK, &no_flag, DropReason::Malformed);
    let mut stranger = wire.clone();
    stranger[14 + 15] = 77;
    far.drops(UPLINK, &stranger, DropReason::UnknownPeer);
    let mut foreign = wire.clone();
    // The inner source becomes a pod of the receiving node itself.
    foreign[50 + 14 + 14] = 2;
    far.drops(UPLINK, &foreign, DropReason::ForeignSource);
    far.change([Change::Gone(Key::Node("node1".into()))]);
    far.drops(UPLINK, &wire, DropReason::UnknownPeer);
}

#[test]
fn n1_policies_deny_at_both_ends_and_name_their_end() {
    let [mut near, mut far] = two_nodes(&[egress_policy("client"), ingress_policy("web2", None)]);
    let denied = key(Protocol::TCP, ("10.244.1.10", 4000), ("10.244.1.11", 8080));
    near.drops(
        CLIENT,
        &packet(CLIENT, &denied, 2, b""),
        DropReason::EgressDenied,
    );
    let from_web1 = key(Protocol::TCP, ("10.244.1.11", 4000), ("10.244.2.12", 8080));
    let wire = near.send(WEB1, &packet(WEB1, &from_web1, 2, b""));
    assert_eq!(wire.verdict, Verdict::Transmit(UPLINK));
    far.drops(UPLINK, &wire.bytes, DropReason::IngressDenied);
}

#[test]
fn n13_a_pods_own_node_is_let_in_and_another_node_is_not() {
    let [mut near, mut far] = two_nodes(&[ingress_policy("web2", None)]);
    let probe = key(Protocol::TCP, ("192.168.50.2", 4000), ("10.244.2.12", 8080));
    let sent = far.send(HOST, &packet(HOST, &probe, 2, b""));
    assert_eq!(sent.verdict, Verdict::Transmit(PortId(2)));
    let from_node1 = key(Protocol::TCP, ("192.168.50.1", 4000), ("10.244.2.12", 8080));
    let wire = near.send(HOST, &packet(HOST, &from_node1, 2, b""));
    far.drops(UPLINK, &wire.bytes, DropReason::IngressDenied);
}

#[test]
fn s11_what_nobody_owns_of_the_service_range_is_dropped_and_pings_are_not_answered() {
    let [mut node, _] = two_nodes(&[service("web", 5), slice("web", "web-1", &["10.244.1.11"])]);
    let nobody = key(Protocol::TCP, ("10.244.1.10", 4000), ("10.96.0.77", 80));
    node.drops(
        CLIENT,
        &packet(CLIENT, &nobody, 2, b""),
        DropReason::UnallocatedVip,
    );
    let ping = key(Protocol::ICMP, ("10.244.1.10", 7), ("10.96.0.5", 0));
    node.drops(
        CLIENT,
        &packet(CLIENT, &ping, 0, b""),
        DropReason::VipProtocol,
    );
}

#[test]
fn d9_frames_behind_vlan_tags_are_dropped_by_name_whoever_sends_them() {
    let [mut node, _] = two_nodes(&[]);
    for (source, target, port) in [
        ("10.244.1.10", "10.244.1.11", CLIENT),
        ("fd44:0:0:1::10", "fd44:0:0:1::11", CLIENT),
        ("192.168.50.1", "10.244.1.11", HOST),
        ("203.0.113.5", "10.244.1.11", UPLINK),
    ] {
        let flow = key(Protocol::UDP, (source, 4000), (target, 53));
        let bytes = packet(port, &flow, 0, b"");
        for tags in [&[0x81, 0, 0, 5][..], &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 0]] {
            let tagged = [&bytes[..12], tags, &bytes[12..]].concat();
            node.drops(port, &tagged, DropReason::VlanTag);
        }
    }
}

#[test]
fn addresses_that_no_pod_has_are_dropped_by_name() {
    let [mut node, _] = two_nodes(&[]);
    let cases = [
        ("10.244.1.99", DropReason::NoSuchPod),
        ("239.1.2.3", DropReason::Multicast),
    ];
    for (target, reason) in cases {
        let to = key(Protocol::UDP, ("10.244.1.10", 4000), (target, 53));
        node.drops(CLIENT, &packet(CLIENT, &to, 0, b""), reason);
    }
    let to = key(Protocol::UDP, ("10.244.1.10", 4000), ("10.244.1.11", 53));
    node.drops(
        PortId(9),
        &packet(CLIENT, &to, 0, b""),
        DropReason::UnknownPort,
    );
    let mut arp = packet(CLIENT, &to, 0, b"");
    arp[12..14].copy_from_slice(&[0x88, 0xcc]);
    node.drops(CLIENT, &arp, DropReason::NotIp);
    node.change([Change::Gone(Key::Attachment(name("shop", "web1")))]);
    node.drops(
        CLIENT,
        &packet(CLIENT, &to, 0, b""),
        DropReason::PodNotAttached,
    );
    node.change([Change::Gone(Key::Neighbour(
        "192.168.50.2".parse().expect("address"),
    ))]);
    let to = key(Protocol::UDP, ("10.244.1.10", 4000), ("10.244.2.12", 53));
    node.drops(
        CLIENT,
        &packet(CLIENT, &to, 0, b""),
        DropReason::NoNeighbour,
    );
}

#[test]
fn nothing_of_the_cluster_comes_in_from_the_wire_without_a_tunnel() {
    let [mut near, _] = two_nodes(&[]);
    for source in ["10.244.2.12", "10.244.1.11", "192.168.50.2"] {
        let plain = key(Protocol::UDP, (source, 4000), ("10.244.1.10", 53));
        near.drops(UPLINK, &packet(CLIENT, &plain, 0, b""), DropReason::Spoofed);
    }
    let world = key(Protocol::UDP, ("203.0.113.5", 4000), ("10.244.1.10", 53));
    let sent = near.send(UPLINK, &packet(CLIENT, &world, 0, b""));
    assert_eq!(sent.verdict, Verdict::Transmit(CLIENT));
}

#[test]
fn d4_udp_without_a_checksum_passes_on_ipv4_only() {
    let [mut node, _] = two_nodes(&[]);
    let v4 = key(Protocol::UDP, ("10.244.1.10", 4000), ("10.244.1.11", 53));
    let mut bytes = packet(CLIENT, &v4, 0, b"q");
    bytes[40..42].fill(0);
    let sent = node.send(CLIENT, &bytes);
    assert_eq!(sent.verdict, Verdict::Transmit(WEB1));
    assert_eq!(sent.bytes[40..42], [0, 0]);
    let v6 = key(
        Protocol::UDP,
        ("fd44:0:0:1::10", 4000),
        ("fd44:0:0:1::11", 53),
    );
    let mut bytes = packet(CLIENT, &v6, 0, b"q");
    bytes[60..62].fill(0);
    node.drops(CLIENT, &bytes, DropReason::NoChecksum);
}

#[test]
fn f14_flows_without_an_answer_have_a_quota_and_answered_ones_stay() {
    let [mut node, _] = two_nodes(&[]);
    let kept = key(Protocol::TCP, ("10.244.1.10", 999), ("10.244.1.11", 8080));
    node.send(CLIENT, &packet(CLIENT, &kept, 2, b""));
    node.send(WEB1, &packet(WEB1, &kept.reverse(), 18, b""));
    let mut refused = 0;
    for port in 1_000..3_000 {
        let syn = key(Protocol::TCP, ("10.244.1.10", port), ("10.244.1.11", 8080));
        let sent = node.send(CLIENT, &packet(CLIENT, &syn, 2, b""));
        refused += usize::from(sent.verdict == Verdict::Drop(DropReason::EmbryonicQuota));
    }
    assert!(
        refused >= 1_000,
        "{refused} of 2 000 refused in a table of 1 024"
    );
    let (_, moved) = node.send_counted(CLIENT, &packet(CLIENT, &kept, 16, b""));
    assert_eq!(moved, ["received", "transmitted", "flow-hit"]);
    // The flood ends, its flows time out, and there is room again.
    node.now_ms += 21_000;
    node.engine.sweep(1_024, node.now_ms);
    let late = key(Protocol::TCP, ("10.244.1.10", 5_000), ("10.244.1.11", 8080));
    let sent = node.send(CLIENT, &packet(CLIENT, &late, 2, b""));
    assert_eq!(sent.verdict, Verdict::Transmit(WEB1));
}

#[test]
fn a_packet_from_nobodys_ethernet_address_is_not_a_pods() {
    let [mut node, _] = two_nodes(&[]);
    let to = key(Protocol::UDP, ("10.244.1.10", 4000), ("10.244.1.11", 53));
    let mut bytes = packet(CLIENT, &to, 0, b"");
    bytes[6..12].copy_from_slice(&Mac::BROADCAST.0);
    node.drops(CLIENT, &bytes, DropReason::Spoofed);
}
