//! Ports that come and go under traffic; alone in its process, whose descriptors and memory it counts.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use podway_tables::PortId;
use podway_xsk::Bind;
use support::Namespace;
use support::traffic::{Worker, add, ask_echo, cross, echo, edge, load, settle};

#[test]
fn ports_come_and_go_under_traffic() {
    if !podway_needs::root() {
        return;
    }
    const TOGETHER: u16 = 20;
    let node = Namespace::new("churn");
    let one = node.pod("pod1", "10.0.0.1/24", 1500);
    let two = node.pod("pod2", "10.0.0.2/24", 1500);
    for number in 0..TOGETHER {
        node.run(&format!(
            "ip link add x{number} type veth peer name y{number}"
        ));
        node.run(&format!("ip link set x{number} up"));
        node.run(&format!("ip link set y{number} up"));
    }
    let enough = AtomicBool::new(false);
    let redirect = load();
    let mut edge = node.inside(|| {
        let mut edge = edge(&redirect, 4096);
        add(&mut edge, &redirect, 1, "pod1");
        add(&mut edge, &redirect, 2, "pod2");
        edge
    });
    edge = std::thread::scope(|scope| {
        let worker = Worker::start(scope, &node, edge, cross(&[(1, 2)]));
        let _echo = echo(scope, &two);
        let client = scope.spawn(|| {
            let (mut asked, mut answered) = (0, 0);
            while !enough.load(Ordering::Relaxed) {
                asked += 100;
                answered += ask_echo(&one, "10.0.0.2", 100, 1000);
            }
            (asked, answered)
        });
        let mut sizes = Vec::new();
        for _ in 0..10 {
            for number in 0..TOGETHER {
                worker.ask(move |edge| {
                    let device = format!("x{number}");
                    edge.add_port(
                        PortId(10 + number),
                        &device,
                        Bind::Copy,
                        Duration::from_secs(1),
                    )
                    .expect("add");
                });
            }
            for number in 0..TOGETHER {
                worker.ask(move |edge| edge.remove_port(PortId(10 + number)));
            }
            sizes.push((descriptors(), resident()));
        }
        enough.store(true, Ordering::Relaxed);
        let (asked, answered) = client.join().expect("client");
        assert_eq!(asked, answered, "traffic of other ports is untouched");
        let ((fds, memory), (fds_later, memory_later)) = (sizes[1], sizes[9]);
        assert!(fds_later <= fds + 2, "{fds} descriptors, then {fds_later}");
        assert!(
            memory_later < memory + 2048,
            "{memory} KiB, then {memory_later}"
        );
        worker.stop()
    });
    settle(&mut edge);
    // The second port's socket hangs on the first's, which stays: 64 to 512 frames are in their fill rings.
    edge.remove_port(PortId(1));
    settle(&mut edge);
    let free = edge.free();
    assert!(
        (4096 - 2 * 512..=4096 - 2 * 64).contains(&free),
        "{free} free"
    );
    edge.remove_port(PortId(2));
    assert_eq!((edge.outstanding(), edge.free()), (0, 0));
}

/// Open file descriptors of this process.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("proc").count()
}

/// Resident memory of this process, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc");
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .expect("VmRSS")
}
