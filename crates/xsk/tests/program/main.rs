//! The XDP program, packet by packet through the kernel's `test_run`, with the counters that moved.
#![allow(unsafe_code)]

#[path = "../support/mod.rs"]
mod support;
mod wire;

use std::collections::BTreeMap;
use std::mem::size_of_val;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use libbpf_rs::libbpf_sys::{bpf_prog_test_run_opts, bpf_test_run_opts};
use podway_engine::Portless;
use podway_tables::{PortId, PortKind};
use podway_wire::{Addr, Protocol};
use podway_xsk::{Bind, Mode, Plan, Redirect, RedirectSettings, WorkerEdge, WorkerSettings};
use support::Namespace;
use wire::*;

const ABORTED: u32 = 0;
const DROP: u32 = 1;
const PASS: u32 = 2;
const REDIRECT: u32 = 4;

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
    if !podway_needs::root() {
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
    if !podway_needs::root() {
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
    if !podway_needs::root() {
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
    if !podway_needs::root() {
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
    if !podway_needs::root() {
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
    if !podway_needs::root() {
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
fn r5_answers_without_ports_are_ours_only_from_whom_we_speak_to() {
    if !podway_needs::root() {
        return;
    }
    let (gre, esp) = (47, 50);
    let of = |peer: Addr, protocol| Portless {
        peer,
        protocol: Protocol(protocol),
    };
    let all = [of(Addr::v4(OTHER4), gre), of(Addr::v6(pod6()), esp)];
    let v4 =
        |protocol, fragment| ethernet(0x0800, 0, &ipv4(NODE4, protocol, fragment, 0, &[0; 40]));
    let quoted = ipv4(OTHER4, gre, 0, 0, &[0; 8]);
    let error = ethernet(0x0800, 0, &ipv4(NODE4, 1, 0, 0, &icmp(3, 0, &quoted)));
    let v6 = ethernet(0x86dd, 0, &ipv6(node6(), &[], esp, &[0; 40]));
    let claimed = [v4(gre, 0), v4(gre, 0x2000), v4(gre, 0x0005), error, v6];
    let others = [
        v4(esp, 0),
        ethernet(0x86dd, 0, &ipv6(node6(), &[], gre, &[0; 40])),
        ethernet(0x0800, 0, &ipv4([203, 0, 113, 5], gre, 0, 0, &[0; 40])),
    ];
    with_port(PortKind::Uplink, |redirect| {
        let _edge = worker(redirect);
        let claims = redirect.claims();
        let seen = |packets: &[Vec<u8>]| -> Vec<u32> {
            packets.iter().map(|packet| run(redirect, packet)).collect()
        };
        assert!(claims.is_empty());
        assert_eq!(seen(&claimed), [PASS; 5]);
        claims.add(&all).expect("room");
        assert_eq!(seen(&claimed), [REDIRECT; 5]);
        assert_eq!(seen(&others), [PASS; 3]);
        let current = || all.iter().copied().take(1).collect();
        claims.reconcile(current).expect("reconcile");
        assert_eq!(
            seen(&claimed),
            [REDIRECT, REDIRECT, REDIRECT, REDIRECT, PASS]
        );
        claims.reconcile(Default::default).expect("reconcile");
        assert_eq!(seen(&claimed), [PASS; 5]);
        assert!(claims.is_empty());
    });
}

#[test]
fn a_queue_that_no_worker_owns_reaches_no_other_ports_socket() {
    if !podway_needs::root() {
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

#[test]
fn r3_ports_of_the_host_in_the_masquerading_range_are_left_to_it() {
    if !podway_needs::root() {
        return;
    }
    let to = |protocol: u8, port| {
        [
            ethernet(
                0x0800,
                0,
                &ipv4(NODE4, protocol, 0, 0, &transport(5000, port)),
            ),
            ethernet(
                0x86dd,
                0,
                &ipv6(node6(), &[], protocol, &transport(5000, port)),
            ),
        ]
    };
    with_port(PortKind::Uplink, |redirect| {
        let _edge = worker(redirect);
        let plan = Plan {
            host_ports: [
                (Protocol::TCP, 61_000),
                (Protocol::TCP, 61_616),
                (Protocol::UDP, 61_063),
                (Protocol::TCP, 30_080),
            ]
            .into(),
            ..plan()
        };
        let seen = |packets: [Vec<u8>; 2]| {
            packets.map(|packet| moved(redirect, || run(redirect, &packet)))
        };
        let of = |action, counter| [(action, vec![(counter, 1)]), (action, vec![(counter, 1)])];
        redirect.reconcile(&plan).expect("reconcile");
        for (protocol, port, expected) in [
            (6, 61_000, of(PASS, "uplink-pass")),
            (6, 61_616, of(PASS, "uplink-pass")),
            (17, 61_616, of(REDIRECT, "snat")),
            (17, 61_063, of(PASS, "uplink-pass")),
            (6, 61_063, of(REDIRECT, "snat")),
            (6, 61_617, of(REDIRECT, "snat")),
            // Outside of the range a node port stays one.
            (6, 30_080, of(REDIRECT, "node-port")),
        ] {
            assert_eq!(seen(to(protocol, port)), expected, "{protocol} {port}");
        }
        redirect.reconcile(&wire::plan()).expect("reconcile");
        assert_eq!(seen(to(6, 61_616)), of(REDIRECT, "snat"));
    });
}

#[test]
fn s26_r4_the_filter_on_the_nodes_own_packets_is_there_once_and_again_after_others() {
    if !podway_needs::root() {
        return;
    }
    let namespace = Namespace::new("own");
    namespace.inside(|| {
        let redirect = load(1);
        assert!(redirect.attach_own("lo").expect("attached"));
        assert!(!redirect.attach_own("lo").expect("it is there"));
        let shown = support::run("tc filter show dev lo egress");
        assert!(shown.contains("podway_own"), "{shown}");
        support::run("tc qdisc del dev lo clsact");
        assert!(redirect.attach_own("lo").expect("attached again"));
        // Another process has other maps, and takes its place.
        let later = load(1);
        assert!(later.attach_own("lo").expect("replaced"));
        assert!(redirect.attach_own("lo").expect("and back"));
    });
}

#[test]
fn r4_a_device_that_lost_the_program_has_it_again() {
    if !podway_needs::root() {
        return;
    }
    with_port(PortKind::Uplink, |redirect| {
        assert!(!redirect.restore("lo", Mode::Generic).expect("it is there"));
        support::run("ip link set lo xdp off");
        support::run("ip link set lo xdpgeneric off");
        assert!(redirect.restore("lo", Mode::Generic).expect("restored"));
        assert!(!redirect.restore("lo", Mode::Generic).expect("it is there"));
    });
}
