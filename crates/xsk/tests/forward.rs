//! Real sockets in namespaces, with a worker between them that forwards.

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use podway_engine::{Batch, Packet, Parts, Verdict};
use podway_tables::PortId;
use podway_wire::cut::Cut;
use podway_wire::{Content, Parsed};
use podway_xsk::{Bind, Bound, PortStatistics, WorkerEdge};
use support::Namespace;
use support::traffic::{Worker, add, ask_echo, cross, echo, edge, load, settle};

/// A node, two pods whose devices take packets of so many bytes, and an edge with both: ports 1 and 2.
fn two_pods(name: &str, mtus: [u32; 2]) -> (Namespace, Namespace, Namespace, WorkerEdge) {
    let node = Namespace::new(name);
    let one = node.pod("pod1", "10.0.0.1/24", mtus[0]);
    let two = node.pod("pod2", "10.0.0.2/24", mtus[1]);
    let edge = node.inside(|| {
        let redirect = load();
        let mut edge = edge(&redirect, 4096);
        add(&mut edge, &redirect, 1, "pod1");
        add(&mut edge, &redirect, 2, "pod2");
        edge
    });
    (node, one, two, edge)
}

#[test]
fn pods_reach_each_other_with_small_and_large_packets() {
    if !podway_needs::root() {
        return;
    }
    let (node, one, two, mut edge) = two_pods("forward", [61000, 61000]);
    edge = std::thread::scope(|scope| {
        let worker = Worker::start(scope, &node, edge, cross(&[(1, 2)]));
        let _echo = echo(scope, &two);
        one.run("ping -q -c 3 -i 0.05 -W 1 10.0.0.2");
        for length in [1, 1472, 3700, 3800, 3900, 8000, 60000] {
            assert_eq!(ask_echo(&one, "10.0.0.2", 50, length), 50, "{length} bytes");
        }
        worker.stop()
    });
    settle(&mut edge);
    let statistics = edge.port_statistics();
    assert_eq!(statistics[0].rx_packets, statistics[1].tx_packets);
    assert_eq!(statistics[1].rx_packets, statistics[0].tx_packets);
    assert_eq!(statistics[0].rx_bytes, statistics[1].tx_bytes);
    assert!(
        statistics
            .iter()
            .all(|port| port.ring_full + port.unsendable == 0)
    );
}

#[test]
fn headers_are_pushed_and_pulled_in_place() {
    if !podway_needs::root() {
        return;
    }
    const HEADERS: usize = 50;
    let node = Namespace::new("tunnel");
    let one = node.pod("pod1", "10.0.0.1/24", 60000);
    let two = node.pod("pod2", "10.0.0.2/24", 60000);
    node.run("ip link add wire1 mtu 61000 type veth peer name wire2 mtu 61000");
    node.run("sysctl -qw net.ipv6.conf.wire1.disable_ipv6=1 net.ipv6.conf.wire2.disable_ipv6=1");
    node.run("ip link set wire1 up");
    node.run("ip link set wire2 up");
    let mut edge = node.inside(|| {
        let redirect = load();
        let mut edge = edge(&redirect, 4096);
        for (port, device) in [(1, "pod1"), (2, "pod2"), (3, "wire1"), (4, "wire2")] {
            add(&mut edge, &redirect, port, device);
        }
        edge
    });
    let tunnel = |batch: &mut Batch<'_, '_>| {
        let packets = batch.packets.iter_mut();
        for packet in packets {
            let to = match packet.ingress.0 {
                from @ (1 | 2) => {
                    let bytes = packet.frame.push(HEADERS).expect("room before the packet");
                    bytes[..HEADERS].fill(0xee);
                    from + 2
                }
                from => {
                    assert_eq!(packet.frame.bytes()[..HEADERS], [0xee; HEADERS]);
                    packet.frame.pull(HEADERS).expect("headers");
                    from - 2
                }
            };
            packet.verdict = Verdict::Transmit(PortId(to));
        }
    };
    edge = std::thread::scope(|scope| {
        let worker = Worker::start(scope, &node, edge, tunnel);
        let _echo = echo(scope, &two);
        for length in [1, 1472, 3700, 3800, 3900, 59000] {
            assert_eq!(ask_echo(&one, "10.0.0.2", 20, length), 20, "{length} bytes");
        }
        worker.stop()
    });
    settle(&mut edge);
}

#[test]
fn a_veth_has_no_zero_copy_and_says_so() {
    if !podway_needs::root() {
        return;
    }
    let node = Namespace::new("zerocopy");
    let _one = node.pod("pod1", "10.0.0.1/24", 1500);
    node.inside(|| {
        let redirect = load();
        let mut edge = edge(&redirect, 256);
        let bound = edge
            .add_port(
                PortId(1),
                "pod1",
                Bind::Nic(Bound::ZeroCopy),
                Duration::ZERO,
            )
            .expect("falls back");
        assert_eq!(bound, Bound::Copy);
        edge.remove_port(PortId(1));
        assert_eq!(
            (edge.outstanding(), edge.free()),
            (0, 0),
            "the memory went with its last port"
        );
    });
}

#[test]
fn d2_large_packets_leave_in_parts_and_the_books_balance() {
    if !podway_needs::root() {
        return;
    }
    const LONGEST: usize = 1500;
    let (node, one, two, mut edge) = two_pods("parts", [61000, 61000]);
    let mut pass = cross(&[(1, 2)]);
    let cut = move |batch: &mut Batch<'_, '_>| {
        pass(batch);
        for packet in batch.packets.iter_mut() {
            if let Ok(Content::Ip(parsed)) = Parsed::frame(&packet.frame)
                && parsed.length as usize > LONGEST
            {
                let segments = Cut::segments(packet.frame.bytes(), &parsed, LONGEST);
                let cut = segments.or_else(|| Cut::fragments(&parsed, LONGEST));
                packet.parts = Parts::Cut(cut.expect("IPv4"));
            }
        }
    };
    edge = std::thread::scope(|scope| {
        let worker = Worker::start(scope, &node, edge, cut);
        let _echo = echo(scope, &two);
        for length in [1473, 8000, 60_000] {
            assert_eq!(ask_echo(&one, "10.0.0.2", 20, length), 20, "{length} bytes");
        }
        transfer(&one, &two);
        worker.stop()
    });
    settle(&mut edge);
    let statistics = edge.port_statistics();
    let sum = |of: fn(&PortStatistics) -> u64| statistics.iter().map(of).sum::<u64>();
    assert!(sum(|port| port.cut_packets) > 100, "{statistics:?}");
    assert!(sum(|port| port.cut_parts) > 10 * sum(|port| port.cut_packets));
    assert_eq!(sum(|port| port.unsound + port.unsendable), 0);
    assert_eq!(
        sum(|port| port.rx_packets) + sum(|port| port.cut_parts),
        sum(|port| port.tx_packets + port.ring_full + port.cut_packets),
        "D13: every packet is accounted for"
    );
}

#[test]
fn segments_that_follow_each_other_arrive_as_one_packet_and_the_books_balance() {
    if !podway_needs::root() {
        return;
    }
    let (node, one, two, mut edge) = two_pods("joined", [1500, 61000]);
    let mut pass = cross(&[(1, 2)]);
    let join = move |batch: &mut Batch<'_, '_>| {
        pass(batch);
        let from_one = |packet: &&mut Packet<'_>| packet.ingress == PortId(1);
        for packet in batch.packets.iter_mut().filter(from_one) {
            packet.parts = Parts::Joined { longest: 61_000 };
        }
    };
    edge = std::thread::scope(|scope| {
        let worker = Worker::start(scope, &node, edge, join);
        let _echo = echo(scope, &two);
        assert_eq!(ask_echo(&one, "10.0.0.2", 20, 1_000), 20, "others pass");
        transfer(&one, &two);
        worker.stop()
    });
    settle(&mut edge);
    let statistics = edge.port_statistics();
    let sum = |of: fn(&PortStatistics) -> u64| statistics.iter().map(of).sum::<u64>();
    let (packets, parts) = (
        sum(|port| port.joined_packets),
        sum(|port| port.joined_parts),
    );
    assert!(packets > 0 && parts >= 2 * packets, "{statistics:?}");
    assert_eq!(
        sum(|port| port.rx_packets) + packets,
        sum(|port| port.tx_packets + port.ring_full + port.unsendable) + parts,
        "D13: every packet is accounted for"
    );
    let counted = two.run("nstat -asz TcpInCsumErrors");
    assert!(
        counted.contains("TcpInCsumErrors                 0"),
        "{counted}"
    );
}

/// Sends eight megabytes from one pod to another; they must arrive as they were.
fn transfer(one: &Namespace, two: &Namespace) {
    let sent: Vec<u8> = (0..8_000_000_u32).map(|at| (at % 251) as u8).collect();
    let listener = two.inside(|| TcpListener::bind("10.0.0.2:80").expect("bind"));
    let got = std::thread::scope(|scope| {
        let receiver = scope.spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).expect("all of it");
            bytes
        });
        one.inside(|| {
            let mut stream = TcpStream::connect("10.0.0.2:80").expect("connect");
            stream.write_all(&sent).expect("taken");
        });
        receiver.join().expect("received")
    });
    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
}
