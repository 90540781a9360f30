//! The XDP program, packet by packet through the kernel's `test_run`, with the counters that moved.
#![allow(unsafe_code)]

mod support;

use std::collections::BTreeMap;
use std::mem::size_of_val;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use libbpf_rs::libbpf_sys::{bpf_prog_test_run_opts, bpf_test_run_opts};
use podway_tables::{PortId, PortKind};
use podway_wire::Protocol;
use podway_xsk::{Bind, Plan, Redirect, RedirectSettings, WorkerEdge, WorkerSettings};
use support::Namespace;

const ABORTED: u32 = 0;
const DROP: u32 = 1;
const PASS: u32 = 2;
const REDIRECT: u32 = 4;

const NODE4: [u8; 4] = [192, 0, 2, 1];
const POD4: [u8; 4] = [10, 244, 1, 7];
const OTHER4: [u8; 4] = [198, 51, 100, 9];

fn node6() -> [u8; 16] {
    "2001:db8::1"
        .parse::<std::net::Ipv6Addr>()
        .expect("address")
        .octets()
}

fn pod6() -> [u8; 16] {
    "fd00:1::7"
        .parse::<std::net::Ipv6Addr>()
        .expect("address")
        .octets()
}

fn plan() -> Plan {
    Plan {
        local: vec![
            "10.244.1.0/24".parse().expect("range"),
            "10.96.0.0/16".parse().expect("range"),
            "fd00:1::/64".parse().expect("range"),
        ],
        node_addresses: vec![NODE4.into(), node6().into()],
        direct: Vec::new(),
        tunnel_port: Some(4789),
        node_ports: vec![(Protocol::TCP, 30080), (Protocol::UDP, 30053)],
        snat_ports: Some(61000..=61999),
    }
}

/// An Ethernet header, `tags` of 802.1Q, and `rest`.
fn ethernet(kind: u16, tags: usize, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for _ in 0..tags {
        bytes.extend([0x81, 0x00, 0x00, 0x05]);
    }
    bytes.extend(kind.to_be_bytes());
    bytes.extend(rest);
    bytes
}

/// An IPv4 packet with `options` words of padding and the given fragment field.
fn ipv4(target: [u8; 4], protocol: u8, fragment: u16, options: usize, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x45 + options as u8, 0];
    bytes.extend(((20 + options * 4 + payload.len()) as u16).to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, protocol, 0, 0]);
    bytes.extend(OTHER4);
    bytes.extend(target);
    bytes.extend(vec![1; options * 4]);
    bytes.extend(payload);
    bytes
}

/// An IPv6 packet whose payload begins with the headers of `chain`: (type, its bytes with the next type at 0).
fn ipv6(target: [u8; 16], chain: &[(u8, Vec<u8>)], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for (place, (_, header)) in chain.iter().enumerate() {
        let next = chain.get(place + 1).map_or(protocol, |(kind, _)| *kind);
        let at = body.len();
        body.extend(header);
        body[at] = next;
    }
    body.extend(payload);
    let first = chain.first().map_or(protocol, |(kind, _)| *kind);
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend((body.len() as u16).to_be_bytes());
    bytes.extend([first, 64]);
    bytes.extend(pod6());
    bytes.extend(target);
    bytes.extend(body);
    bytes
}

/// Ports, a length and a checksum: enough for UDP, and the start of TCP and SCTP.
fn transport(source: u16, target: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(source.to_be_bytes());
    bytes.extend(target.to_be_bytes());
    bytes.extend([0, 30, 0, 0]);
    bytes.extend([0; 22]);
    bytes
}

fn icmp(kind: u8, identifier: u16, quoted: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 0];
    bytes.extend(identifier.to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(quoted);
    bytes
}

fn options_header() -> Vec<u8> {
    vec![0, 0, 1, 4, 0, 0, 0, 0]
}

fn fragment_header(offset_and_more: u16) -> Vec<u8> {
    let mut bytes = vec![0, 0];
    bytes.extend(offset_and_more.to_be_bytes());
    bytes.extend([0, 0, 0, 9]);
    bytes
}

/// Packets from the wire, what they are, and the counter that moves; `Some` if they are ours.
fn from_the_wire() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let v4 = |rest: Vec<u8>| ethernet(0x0800, 0, &rest);
    let v6 = |rest: Vec<u8>| ethernet(0x86dd, 0, &rest);
    let (tcp, udp, sctp) = (6, 17, 132);
    let to_tunnel = transport(5000, 4789);
    let hop = |count| {
        (0..count)
            .map(|_| (60, options_header()))
            .collect::<Vec<_>>()
    };
    vec![
        ("VXLAN", v4(ipv4(NODE4, udp, 0, 0, &to_tunnel)), "tunnel"),
        (
            "VXLAN behind IP options",
            v4(ipv4(NODE4, udp, 0, 10, &to_tunnel)),
            "tunnel",
        ),
        (
            "VXLAN behind a VLAN tag",
            ethernet(0x0800, 1, &ipv4(NODE4, udp, 0, 0, &to_tunnel)),
            "uplink-pass",
        ),
        (
            "VXLAN behind two tags",
            ethernet(0x86dd, 2, &ipv6(node6(), &[], udp, &to_tunnel)),
            "uplink-pass",
        ),
        (
            "a node port behind 8 tags",
            ethernet(0x0800, 8, &ipv4(NODE4, tcp, 0, 0, &transport(1, 30080))),
            "uplink-pass",
        ),
        (
            "behind 9 tags",
            ethernet(0x0800, 9, &ipv4(NODE4, tcp, 0, 0, &transport(5000, 22))),
            "uplink-tagged",
        ),
        (
            "to a pod behind a tag",
            ethernet(0x0800, 1, &ipv4(POD4, tcp, 0, 0, &transport(5000, 80))),
            "uplink-tagged",
        ),
        (
            "to a service behind two tags",
            ethernet(
                0x0800,
                2,
                &ipv4([10, 96, 3, 3], udp, 0, 0, &transport(1, 2)),
            ),
            "uplink-tagged",
        ),
        (
            "to a pod over IPv6 behind 8 tags",
            ethernet(0x86dd, 8, &ipv6(pod6(), &[], tcp, &transport(5000, 80))),
            "uplink-tagged",
        ),
        (
            "ARP behind a tag",
            ethernet(0x0806, 1, &[0; 28]),
            "uplink-pass",
        ),
        (
            "VXLAN over IPv6",
            v6(ipv6(node6(), &[], udp, &to_tunnel)),
            "tunnel",
        ),
        (
            "VXLAN behind 8 headers",
            v6(ipv6(node6(), &hop(8), udp, &to_tunnel)),
            "tunnel",
        ),
        (
            "VXLAN behind 9 headers",
            v6(ipv6(node6(), &hop(9), udp, &to_tunnel)),
            "uplink-unread",
        ),
        (
            "VXLAN behind AH",
            v6(ipv6(
                node6(),
                &[(51, vec![0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])],
                udp,
                &to_tunnel,
            )),
            "tunnel",
        ),
        (
            "VXLAN, first fragment",
            v4(ipv4(NODE4, udp, 0x2000, 0, &to_tunnel)),
            "tunnel",
        ),
        (
            "a later fragment",
            v4(ipv4(NODE4, udp, 0x2004, 0, &to_tunnel)),
            "uplink-pass",
        ),
        (
            "the last fragment",
            v4(ipv4(NODE4, udp, 0x0004, 0, &to_tunnel)),
            "uplink-pass",
        ),
        (
            "VXLAN over IPv6, first fragment",
            v6(ipv6(node6(), &[(44, fragment_header(1))], udp, &to_tunnel)),
            "tunnel",
        ),
        (
            "a later IPv6 fragment",
            v6(ipv6(
                node6(),
                &[(44, fragment_header(0x101))],
                udp,
                &to_tunnel,
            )),
            "uplink-pass",
        ),
        (
            "VXLAN to another node",
            v4(ipv4(OTHER4, udp, 0, 0, &to_tunnel)),
            "uplink-pass",
        ),
        (
            "TCP to the tunnel's port",
            v4(ipv4(NODE4, tcp, 0, 0, &to_tunnel)),
            "uplink-pass",
        ),
        (
            "SSH to the node",
            v4(ipv4(NODE4, tcp, 0, 0, &transport(5000, 22))),
            "uplink-pass",
        ),
        (
            "SSH to the node over IPv6",
            v6(ipv6(node6(), &[], tcp, &transport(5000, 22))),
            "uplink-pass",
        ),
        (
            "to a pod",
            v4(ipv4(POD4, tcp, 0, 0, &transport(5000, 80))),
            "local",
        ),
        (
            "to a pod, a later fragment",
            v4(ipv4(POD4, tcp, 0x0004, 0, &[])),
            "local",
        ),
        (
            "to a pod over IPv6",
            v6(ipv6(pod6(), &hop(9), tcp, &[])),
            "local",
        ),
        (
            "to a service",
            v4(ipv4([10, 96, 3, 3], sctp, 0, 0, &transport(1, 2))),
            "local",
        ),
        (
            "to a node port",
            v4(ipv4(NODE4, tcp, 0, 0, &transport(5000, 30080))),
            "node-port",
        ),
        (
            "to that port by UDP",
            v4(ipv4(NODE4, udp, 0, 0, &transport(5000, 30080))),
            "uplink-pass",
        ),
        (
            "to a node port over IPv6",
            v6(ipv6(node6(), &[], udp, &transport(5000, 30053))),
            "node-port",
        ),
        (
            "to a node port of another node",
            v4(ipv4(OTHER4, tcp, 0, 0, &transport(5000, 30080))),
            "uplink-pass",
        ),
        (
            "an answer to masqueraded TCP",
            v4(ipv4(NODE4, tcp, 0, 0, &transport(443, 61000))),
            "snat",
        ),
        (
            "the last masquerading port",
            v4(ipv4(NODE4, sctp, 0, 0, &transport(443, 61999))),
            "snat",
        ),
        (
            "one after the last",
            v4(ipv4(NODE4, tcp, 0, 0, &transport(443, 62000))),
            "uplink-pass",
        ),
        (
            "ping to the node",
            v4(ipv4(NODE4, 1, 0, 0, &icmp(8, 61500, &[]))),
            "uplink-pass",
        ),
        (
            "an answer to a masqueraded ping",
            v4(ipv4(NODE4, 1, 0, 0, &icmp(0, 61500, &[]))),
            "snat",
        ),
        (
            "an answer to the node's own ping",
            v4(ipv4(NODE4, 1, 0, 0, &icmp(0, 77, &[]))),
            "uplink-pass",
        ),
        (
            "ICMPv6 answer to a masqueraded ping",
            v6(ipv6(node6(), &[], 58, &icmp(129, 61500, &[]))),
            "snat",
        ),
        (
            "an error about masqueraded TCP",
            v4(ipv4(
                NODE4,
                1,
                0,
                0,
                &icmp(3, 0, &ipv4(OTHER4, tcp, 0, 1, &transport(61007, 443))),
            )),
            "snat",
        ),
        (
            "an error about a node port's answer",
            v4(ipv4(
                NODE4,
                1,
                0,
                0,
                &icmp(11, 0, &ipv4(OTHER4, tcp, 0, 0, &transport(30080, 443))),
            )),
            "node-port",
        ),
        (
            "an error about the node's own TCP",
            v4(ipv4(
                NODE4,
                1,
                0,
                0,
                &icmp(3, 0, &ipv4(OTHER4, tcp, 0, 0, &transport(40000, 443))),
            )),
            "uplink-pass",
        ),
        (
            "an error about our tunnel",
            v4(ipv4(
                NODE4,
                1,
                0,
                0,
                &icmp(3, 0, &ipv4(OTHER4, udp, 0, 0, &transport(50000, 4789))),
            )),
            "uplink-pass",
        ),
        (
            "an error from the tunnel's port",
            v4(ipv4(
                NODE4,
                1,
                0,
                0,
                &icmp(3, 0, &ipv4(OTHER4, udp, 0, 0, &transport(4789, 4789))),
            )),
            "uplink-pass",
        ),
        (
            "packet too big for masqueraded UDP",
            v6(ipv6(
                node6(),
                &[],
                58,
                &icmp(2, 0, &ipv6(pod6(), &[], udp, &transport(61007, 53))),
            )),
            "snat",
        ),
        (
            "an error that quotes nothing",
            v4(ipv4(NODE4, 1, 0, 0, &icmp(3, 0, &[]))),
            "uplink-unread",
        ),
        ("ARP", ethernet(0x0806, 0, &[0; 28]), "uplink-pass"),
        (
            "an IPv4 header cut short",
            v4(vec![0x45; 19]),
            "uplink-unread",
        ),
        (
            "an IPv4 header that claims 4 words",
            v4(vec![0x44; 24]),
            "uplink-unread",
        ),
        (
            "IPv6 by type, not by version",
            v6(vec![0x45; 40]),
            "uplink-unread",
        ),
        (
            "UDP without ports",
            v4(ipv4(NODE4, udp, 0, 0, &[1])),
            "uplink-unread",
        ),
        (
            "a tag and nothing after it",
            ethernet(0x8100, 0, &[0, 5]),
            "uplink-unread",
        ),
        (
            "an IPv6 header that leads nowhere",
            v6(ipv6(node6(), &[(0, vec![0, 255])], udp, &[])),
            "uplink-unread",
        ),
    ]
}

/// What the program is told about a packet (`struct xdp_md`).
#[derive(Default)]
#[repr(C)]
struct Received {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

/// Runs one packet as if `lo` had received it: the action.
fn run(redirect: &Redirect, packet: &[u8]) -> u32 {
    run_from(redirect, packet, 1, 0)
}

/// Runs one packet as if a queue of a device of this namespace had received it: the action.
fn run_from(redirect: &Redirect, packet: &[u8], ifindex: u32, queue: u32) -> u32 {
    let received = Received {
        data_end: packet.len() as u32,
        ingress_ifindex: ifindex,
        rx_queue_index: queue,
        ..Received::default()
    };
    let mut options = bpf_test_run_opts {
        sz: size_of::<bpf_test_run_opts>() as _,
        data_in: packet.as_ptr().cast(),
        data_size_in: size_of_val(packet) as u32,
        ctx_in: std::ptr::from_ref(&received).cast(),
        ctx_size_in: size_of_val(&received) as u32,
        ..Default::default()
    };
    // SAFETY: the options name the packet and its description, which live through the call, and no output buffers.
    let status = unsafe { bpf_prog_test_run_opts(redirect.as_fd().as_raw_fd(), &mut options) };
    assert_eq!(status, 0, "test_run: {}", std::io::Error::last_os_error());
    options.retval
}

/// The counters that moved while `body` ran, and by how much.
fn moved<T>(redirect: &Redirect, body: impl FnOnce() -> T) -> (T, Vec<(&'static str, u64)>) {
    let before: BTreeMap<_, _> = redirect.counters().expect("counters").into_iter().collect();
    let value = body();
    let after = redirect.counters().expect("counters");
    let moved = after
        .into_iter()
        .map(|(name, count)| (name, count - before[name]))
        .filter(|(_, count)| *count > 0)
        .collect();
    (value, moved)
}

fn load(queues: u32) -> Redirect {
    let redirect = Redirect::load(RedirectSettings { queues, ports: 16 }).expect("load");
    redirect.reconcile(&plan()).expect("reconcile");
    redirect
}

/// What `lo` is to the program; attached for real, because `test_run` needs only the map's entry that this writes.
fn with_port(kind: PortKind, body: impl FnOnce(&Redirect) + Send) {
    let namespace = Namespace::new("program");
    namespace.inside(|| {
        let redirect = load(1);
        redirect.attach("lo", kind, PortId(3)).expect("attach");
        body(&redirect);
        redirect.detach("lo").expect("detach");
    });
}

/// A worker with a socket on `lo`, so that there is somewhere to redirect to.
fn worker(redirect: &Redirect) -> WorkerEdge {
    let mut edge = WorkerEdge::new(WorkerSettings {
        queue: 0,
        frames: 256,
        sockets: redirect.sockets(),
    })
    .expect("edge");
    edge.add_port(PortId(3), "lo", Bind::Copy, Duration::ZERO)
        .expect("port");
    edge
}

/// What becomes of a packet from the wire by its counter; `open` is the fate of what is ours.
fn action_of(counter: &str, open: u32) -> u32 {
    match counter {
        "uplink-tagged" => DROP,
        _ if is_ours(counter) => open,
        _ => PASS,
    }
}

fn is_ours(counter: &str) -> bool {
    !counter.starts_with("uplink-")
}

/// D9: of tagged frames, those for the cluster's addresses end here, and the others are the host's.
#[test]
fn d9_the_wire_is_classified_packet_by_packet() {
    if !support::privileged() {
        return;
    }
    with_port(PortKind::Uplink, |redirect| {
        let edge = worker(redirect);
        for (name, packet, counter) in from_the_wire() {
            let (action, moved) = moved(redirect, || run(redirect, &packet));
            assert_eq!(moved, [(counter, 1)], "{name}");
            assert_eq!(action, action_of(counter, REDIRECT), "{name}");
        }
        drop(edge);
        // Nobody listens now: what is ours is dropped, the host's passes.
        for (name, packet, counter) in from_the_wire() {
            let (action, moved) = moved(redirect, || run(redirect, &packet));
            assert_eq!(action, action_of(counter, DROP), "{name}");
            let closed = is_ours(counter).then_some("uplink-closed");
            assert_eq!(moved, [(closed.unwrap_or(counter), 1)], "{name}");
        }
    });
}

#[test]
fn every_cut_of_every_packet_has_a_verdict() {
    if !support::privileged() {
        return;
    }
    with_port(PortKind::Uplink, |redirect| {
        let _edge = worker(redirect);
        for (name, packet, _) in from_the_wire() {
            for length in 14..packet.len() {
                let (action, moved) = moved(redirect, || run(redirect, &packet[..length]));
                assert_ne!(action, ABORTED, "{name}, {length} bytes");
                assert_eq!(moved.len(), 1, "{name}, {length} bytes: {moved:?}");
            }
        }
    });
}

#[test]
fn d10_pods_are_closed_and_the_host_is_open_without_a_socket() {
    if !support::privileged() {
        return;
    }
    let cases = [
        (PortKind::Pod(None), "pod", "pod-closed", DROP),
        (PortKind::Host, "host", "host-closed", PASS),
    ];
    for (kind, open, closed, action_closed) in cases {
        with_port(kind, |redirect| {
            for (name, packet, _) in from_the_wire() {
                let (action, moved) = moved(redirect, || run(redirect, &packet));
                assert_eq!(
                    (action, &moved[..]),
                    (action_closed, &[(closed, 1)][..]),
                    "{name}"
                );
            }
            let edge = worker(redirect);
            for (name, packet, _) in from_the_wire() {
                let (action, moved) = moved(redirect, || run(redirect, &packet));
                assert_eq!((action, &moved[..]), (REDIRECT, &[(open, 1)][..]), "{name}");
            }
            drop(edge);
            let (action, moved) = moved(redirect, || run(redirect, &[0; 64]));
            assert_eq!((action, &moved[..]), (action_closed, &[(closed, 1)][..]));
        });
    }
}

#[test]
fn a_device_without_an_entry_passes() {
    if !support::privileged() {
        return;
    }
    let namespace = Namespace::new("unknown");
    namespace.inside(|| {
        let redirect = load(1);
        let (action, moved) = moved(&redirect, || run(&redirect, &[0; 64]));
        assert_eq!((action, &moved[..]), (PASS, &[("unknown-device", 1)][..]));
    });
}

#[test]
fn reconciling_adds_and_removes_what_differs() {
    if !support::privileged() {
        return;
    }
    with_port(PortKind::Uplink, |redirect| {
        let _edge = worker(redirect);
        let to_pod = ethernet(0x0800, 0, &ipv4(POD4, 6, 0, 0, &transport(1, 2)));
        let to_tunnel = ethernet(0x0800, 0, &ipv4(NODE4, 17, 0, 0, &transport(1, 4789)));
        let to_other = ethernet(0x0800, 0, &ipv4(OTHER4, 17, 0, 0, &transport(1, 8472)));
        let seen = |packets: [&Vec<u8>; 3]| packets.map(|packet| run(redirect, packet));
        assert_eq!(
            seen([&to_pod, &to_tunnel, &to_other]),
            [REDIRECT, REDIRECT, PASS]
        );
        let other = Plan {
            local: vec!["10.244.1.7/32".parse().expect("range")],
            node_addresses: vec![OTHER4.into()],
            tunnel_port: Some(8472),
            ..Plan::default()
        };
        redirect.reconcile(&other).expect("reconcile");
        assert_eq!(
            seen([&to_pod, &to_tunnel, &to_other]),
            [REDIRECT, PASS, REDIRECT]
        );
        redirect.reconcile(&Plan::default()).expect("reconcile");
        assert_eq!(seen([&to_pod, &to_tunnel, &to_other]), [PASS, PASS, PASS]);
        redirect.reconcile(&plan()).expect("reconcile");
        redirect.reconcile(&plan()).expect("again");
        assert_eq!(
            seen([&to_pod, &to_tunnel, &to_other]),
            [REDIRECT, REDIRECT, PASS]
        );
    });
}

#[test]
fn what_pods_of_direct_nodes_send_to_the_node_is_ours() {
    if !support::privileged() {
        return;
    }
    let ssh = transport(5000, 22);
    let later = ethernet(0x0800, 0, &ipv4(NODE4, 17, 0x0004, 0, &ssh));
    let v4 = ethernet(0x0800, 0, &ipv4(NODE4, 6, 0, 0, &ssh));
    let v6 = ethernet(0x86dd, 0, &ipv6(node6(), &[], 6, &ssh));
    let elsewhere = ethernet(0x0800, 0, &ipv4([203, 0, 113, 5], 6, 0, 0, &ssh));
    with_port(PortKind::Uplink, |redirect| {
        let _edge = worker(redirect);
        let all = [&v4, &later, &v6, &elsewhere];
        let seen = || all.map(|packet| moved(redirect, || run(redirect, packet)));
        let pass = || (PASS, vec![("uplink-pass", 1)]);
        let direct = || (REDIRECT, vec![("direct", 1)]);
        assert_eq!(seen(), [pass(), pass(), pass(), pass()]);
        let [a, b, c, _] = OTHER4;
        let ranges = [format!("{a}.{b}.{c}.0/24"), "fd00:1::/64".to_owned()];
        let plan = Plan {
            direct: ranges.map(|range| range.parse().expect("range")).into(),
            ..plan()
        };
        redirect.reconcile(&plan).expect("reconcile");
        assert_eq!(seen(), [direct(), direct(), direct(), pass()]);
        // Its own claims are found first: the range of a pod says more than that of its sender.
        let to_pod = ethernet(0x0800, 0, &ipv4(POD4, 6, 0, 0, &ssh));
        let (action, counted) = moved(redirect, || run(redirect, &to_pod));
        assert_eq!((action, &counted[..]), (REDIRECT, &[("local", 1)][..]));
        redirect.reconcile(&self::plan()).expect("reconcile");
        assert_eq!(seen(), [pass(), pass(), pass(), pass()]);
    });
}

#[test]
fn a_queue_that_no_worker_owns_reaches_no_other_ports_socket() {
    if !support::privileged() {
        return;
    }
    let node = Namespace::new("queues");
    node.run(
        "ip link add twin numrxqueues 2 numtxqueues 1 type veth peer name other numtxqueues 2",
    );
    node.run("ip link set twin up");
    node.run("ip link set other up");
    let twin = node.run("cat /sys/class/net/twin/ifindex");
    let twin = twin.trim().parse().expect("a number");
    let to_pod = ethernet(0x0800, 0, &ipv4(POD4, 6, 0, 0, &transport(1, 2)));
    let kinds = [
        (PortKind::Uplink, "local", "uplink-closed", DROP),
        (PortKind::Pod(None), "pod", "pod-closed", DROP),
        (PortKind::Host, "host", "host-closed", PASS),
    ];
    node.inside(|| {
        let redirect = load(1);
        // One queue a port: port 4's place is where queue 1 of port 3 would be.
        let mut edge = worker(&redirect);
        edge.remove_port(PortId(3));
        for (port, device) in [(3, "twin"), (4, "other")] {
            edge.add_port(PortId(port), device, Bind::Copy, Duration::from_secs(1))
                .expect("port");
        }
        for (kind, open, closed, action_closed) in kinds {
            redirect.attach("twin", kind, PortId(3)).expect("attach");
            let (action, first) = moved(&redirect, || run_from(&redirect, &to_pod, twin, 0));
            assert_eq!((action, &first[..]), (REDIRECT, &[(open, 1)][..]));
            let (action, second) = moved(&redirect, || run_from(&redirect, &to_pod, twin, 1));
            assert_eq!((action, &second[..]), (action_closed, &[(closed, 1)][..]));
        }
    });
}
