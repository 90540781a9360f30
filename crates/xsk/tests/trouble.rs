//! What must not stop a worker: too few frames, devices that go down or vanish, a process that is killed.

mod support;

use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use podway_engine::{Batch, Verdict};
use podway_tables::PortId;
use podway_xsk::{Bind, Bound, PortError, Redirect, WorkerEdge};
use support::Namespace;
use support::traffic::{Worker, add, ask_echo, cross, echo, edge, load, settle};

/// Tells this test binary to be the process that gets killed, in the namespace that it names.
const VICTIM: &str = "PODWAY_TEST_VICTIM";

/// Sends `count` datagrams of `length` bytes as fast as they go; nobody answers.
fn flood(pod: &Namespace, target: &str, count: u32, length: usize) {
    pod.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
        let bytes = vec![7; length];
        for _ in 0..count {
            let _ = socket.send_to(&bytes, (target, 9));
        }
    });
}

/// A node with pods 1 and 2, and a worker with both.
fn node_with_pods(
    role: &str,
    frames: u32,
) -> (Namespace, Namespace, Namespace, Redirect, WorkerEdge) {
    let node = Namespace::new(role);
    let one = node.pod("pod1", "10.0.0.1/24", 61000);
    let two = node.pod("pod2", "10.0.0.2/24", 61000);
    let redirect = load();
    let edge = node.inside(|| {
        let mut edge = edge(&redirect, frames);
        add(&mut edge, &redirect, 1, "pod1");
        add(&mut edge, &redirect, 2, "pod2");
        edge
    });
    (node, one, two, redirect, edge)
}

#[test]
fn floods_with_few_frames_lose_packets_but_no_frames() {
    if !podway_needs::root() {
        return;
    }
    let (node, one, two, _redirect, edge) = node_with_pods("flood", 256);
    let mut edge = std::thread::scope(|scope| {
        let worker = Worker::start(scope, &node, edge, cross(&[(1, 2)]));
        let _echo = echo(scope, &two);
        let floods = [
            scope.spawn(|| flood(&one, "10.0.0.2", 20_000, 100)),
            scope.spawn(|| flood(&two, "10.0.0.1", 1_000, 60_000)),
        ];
        for flood in floods {
            flood.join().expect("flood");
        }
        // What the floods left in the kernel's queues may still push out the first ones.
        let passes = (0..3).any(|_| ask_echo(&one, "10.0.0.2", 20, 60_000) == 20);
        assert!(passes, "large packets pass again");
        assert_eq!(ask_echo(&one, "10.0.0.2", 20, 100), 20);
        worker.stop()
    });
    settle(&mut edge);
    let statistics = edge.port_statistics();
    let sent: u64 = statistics.iter().map(|port| port.tx_packets).sum();
    let full: u64 = statistics
        .iter()
        .map(|port| port.ring_full + port.unsendable)
        .sum();
    let received: u64 = statistics.iter().map(|port| port.rx_packets).sum();
    assert_eq!(
        received,
        sent + full + edge.unknown_port(),
        "every packet is accounted for"
    );
}

#[test]
fn a_device_that_is_down_holds_no_frames_of_others() {
    if !podway_needs::root() {
        return;
    }
    let (node, one, two, redirect, mut edge) = node_with_pods("down", 1024);
    let three = node.pod("pod3", "10.0.0.3/24", 1500);
    node.inside(|| add(&mut edge, &redirect, 3, "pod3"));
    node.run("ip link set pod3 down");
    // Every other packet of the flood goes to the port that is down.
    let mut odd = false;
    let mut pass = cross(&[(1, 2)]);
    let process = move |batch: &mut Batch<'_, '_>| {
        pass(batch);
        for packet in batch
            .packets
            .iter_mut()
            .filter(|packet| packet.frame.len() == 542)
        {
            odd = !odd;
            if odd {
                packet.verdict = Verdict::Transmit(PortId(3));
            }
        }
    };
    edge = std::thread::scope(|scope| {
        let worker = Worker::start(scope, &node, edge, process);
        let _echo = echo(scope, &two);
        assert_eq!(ask_echo(&one, "10.0.0.2", 5, 100), 5);
        flood(&one, "10.0.0.2", 20_000, 500);
        assert_eq!(
            ask_echo(&one, "10.0.0.2", 50, 100),
            50,
            "others' traffic goes on"
        );
        let outstanding = worker.ask(|edge| edge.outstanding());
        assert!(
            outstanding <= 256,
            "{outstanding} frames wait for the device"
        );
        node.run("ip link set pod3 up");
        worker.stop()
    });
    settle(&mut edge);
    let down = edge.port_statistics()[2];
    assert!(down.ring_full > 500, "{down:?}");
    drop(three);
}

#[test]
fn ports_join_after_the_first_device_vanished() {
    if !podway_needs::root() {
        return;
    }
    let (node, one, two, redirect, mut edge) = node_with_pods("vanish", 1024);
    node.run("ip link del pod1");
    drop(one);
    edge.remove_port(PortId(1));
    let three = node.pod("pod3", "10.0.0.3/24", 61000);
    // A second packet memory: packets between the two are copied.
    node.inside(|| add(&mut edge, &redirect, 3, "pod3"));
    edge = std::thread::scope(|scope| {
        let worker = Worker::start(scope, &node, edge, cross(&[(2, 3)]));
        let _echo = echo(scope, &two);
        for length in [1, 1472, 3900, 60000] {
            assert_eq!(
                ask_echo(&three, "10.0.0.2", 20, length),
                20,
                "{length} bytes"
            );
        }
        worker.stop()
    });
    settle(&mut edge);
    edge.remove_port(PortId(2));
    edge.remove_port(PortId(3));
    assert_eq!(edge.drain(Duration::from_secs(2)), 0);
}

#[test]
fn a_removed_first_port_comes_back() {
    if !podway_needs::root() {
        return;
    }
    let (node, one, two, _redirect, mut edge) = node_with_pods("revive", 1024);
    edge.remove_port(PortId(1));
    let dead = one.try_run("ping -q -c 1 -W 0.2 10.0.0.2");
    assert!(!dead.status.success(), "closed without a socket");
    let bound = node.inside(|| edge.add_port(PortId(1), "pod1", Bind::Copy, Duration::ZERO));
    bound.expect("its socket was kept");
    edge = std::thread::scope(|scope| {
        let worker = Worker::start(scope, &node, edge, cross(&[(1, 2)]));
        let _echo = echo(scope, &two);
        assert_eq!(ask_echo(&one, "10.0.0.2", 20, 1000), 20);
        worker.stop()
    });
    settle(&mut edge);
}

#[test]
fn a_worker_goes_on_while_the_kernel_is_waited_for() {
    if !podway_needs::root() {
        return;
    }
    const PATIENCE: Duration = Duration::from_secs(20);
    let (node, one, two, redirect, mut edge) = node_with_pods("waiting", 1024);
    let _three = node.pod("pod3", "10.0.0.3/24", 1500);
    let holder = node.inside(|| {
        let mut holder = support::traffic::edge(&redirect, 256);
        add(&mut holder, &redirect, 3, "pod3");
        holder
    });
    edge = std::thread::scope(|scope| {
        let worker = Worker::start(scope, &node, edge, cross(&[(1, 2)]));
        let _echo = echo(scope, &two);
        let ask = || {
            let opening = worker.ask(|edge| edge.opening(PortId(3), "pod3", Bind::Copy));
            opening.expect("a port that is not there")
        };
        let opening = ask();
        let waits = scope.spawn(|| node.inside(|| opening.open(PATIENCE)));
        assert_eq!(ask_echo(&one, "10.0.0.2", 50, 1000), 50);
        assert!(!waits.is_finished(), "the queue is another worker's");
        drop(holder);
        let opened = waits.join().expect("no panic").expect("the queue is free");
        drop(opened);
        let again = node.inside(|| ask().open(PATIENCE));
        let again = again.expect("what nobody took up is closed");
        let bound = worker.ask(|edge| edge.take_up(again)).expect("taken up");
        assert_eq!(bound, Bound::Copy);
        worker.ask(|edge| edge.remove_port(PortId(3)));
        let late = node.inside(|| ask().open(PATIENCE)).expect("a socket");
        let mut edge = worker.stop();
        settle(&mut edge);
        edge.remove_port(PortId(1));
        edge.remove_port(PortId(2));
        let error = edge.take_up(late).expect_err("its memory went");
        assert!(matches!(error, PortError::MemoryGone), "{error}");
        edge
    });
    assert_eq!((edge.outstanding(), edge.free()), (0, 0));
}

#[test]
fn verdicts_that_cannot_be_carried_out_are_counted() {
    if !podway_needs::root() {
        return;
    }
    let (_node, one, two, _redirect, mut edge) = node_with_pods("verdicts", 256);
    one.run("ip neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 dev eth0");
    one.run("sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1");
    two.run("sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1");
    while edge.turn(&mut |_| ()) > 0 {}
    let before = edge.port_statistics();
    flood(&one, "10.0.0.2", 3, 10_000);
    let mut seen = 0;
    let start = Instant::now();
    while seen < 3 && start.elapsed() < Duration::from_secs(5) {
        edge.turn(&mut |batch| {
            for packet in batch.packets.iter_mut() {
                assert_eq!(packet.frame.len(), 10_042);
                assert!(packet.frame.carried() > 0);
                packet.verdict = match seen {
                    0 => Verdict::Transmit(PortId(77)),
                    1 => {
                        packet.frame.resize(10).expect("shorter");
                        Verdict::Transmit(PortId(2))
                    }
                    _ => {
                        packet.frame.resize(60).expect("shorter");
                        Verdict::Transmit(PortId(2))
                    }
                };
                seen += 1;
            }
        });
    }
    settle(&mut edge);
    let after = edge.port_statistics();
    assert_eq!(seen, 3);
    assert_eq!(edge.unknown_port(), 1);
    assert_eq!(after[1].unsendable - before[1].unsendable, 1);
    assert_eq!(after[1].tx_packets - before[1].tx_packets, 1);
    assert_eq!(
        after[1].tx_bytes - before[1].tx_bytes,
        60,
        "what was cut off stayed here"
    );
}

#[test]
fn sleep_ends_by_traffic_and_by_a_waker() {
    if !podway_needs::root() {
        return;
    }
    let (_node, one, _two, _redirect, mut edge) = node_with_pods("sleep", 256);
    one.run("ip neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 dev eth0");
    // Whatever the stacks sent on their own comes first.
    let quiet = |edge: &mut WorkerEdge| {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(300) {
            edge.turn(&mut |_| ());
        }
    };
    quiet(&mut edge);
    for end in [0, 1] {
        let waker = edge.waker();
        let start = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(50));
                match end {
                    0 => waker.wake(),
                    _ => flood(&one, "10.0.0.2", 1, 10),
                }
            });
            edge.sleep(Duration::from_secs(10)).expect("sleep");
        });
        assert!(start.elapsed() < Duration::from_secs(5), "{end}");
        quiet(&mut edge);
    }
    assert!(edge.port_statistics()[0].rx_packets > 0);
}

/// Not a test of its own: the process that [`d10_a_killed_agent_leaves_pods_closed`] kills.
#[test]
fn victim() {
    let Ok(name) = std::env::var(VICTIM) else {
        return;
    };
    support::enter(&name);
    let redirect = load();
    let mut edge = edge(&redirect, 1024);
    add(&mut edge, &redirect, 1, "pod1");
    add(&mut edge, &redirect, 2, "pod2");
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        if edge.turn(&mut cross(&[(1, 2)])) == 0 {
            edge.sleep(Duration::from_millis(100)).expect("sleep");
        }
    }
}

#[test]
fn d10_a_killed_agent_leaves_pods_closed_and_its_successor_takes_over() {
    if !podway_needs::root() {
        return;
    }
    let node = Namespace::new("kill");
    let one = node.pod("pod1", "10.0.0.1/24", 1500);
    let _two = node.pod("pod2", "10.0.0.2/24", 1500);
    let mut victim = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "victim"])
        .env(VICTIM, &node.name)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("victim");
    let start = Instant::now();
    let ping = "ping -q -c 1 -W 0.3 10.0.0.2";
    while !one.try_run(ping).status.success() {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "the victim never forwarded"
        );
    }
    victim.kill().expect("SIGKILL");
    victim.wait().expect("gone");
    assert!(!one.try_run(ping).status.success(), "closed");
    assert!(
        node.run("ip link show pod1").contains("prog/xdp"),
        "the program stays"
    );

    let mut edge = node.inside(|| {
        let redirect = load();
        let mut edge = edge(&redirect, 1024);
        add(&mut edge, &redirect, 1, "pod1");
        add(&mut edge, &redirect, 2, "pod2");
        edge
    });
    edge = std::thread::scope(|scope| {
        let worker = Worker::start(scope, &node, edge, cross(&[(1, 2)]));
        one.run("ping -q -c 3 -i 0.05 -W 1 10.0.0.2");
        worker.stop()
    });
    settle(&mut edge);
}
