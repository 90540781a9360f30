//! Attaching to devices: modes, adoption after a crash, others' programs, errors that say what to do.

mod support;

use std::os::fd::AsFd;
use std::time::Duration;

use libbpf_rs::{Xdp, XdpFlags};
use podway_tables::{PortId, PortKind};
use podway_xsk::{
    Adopted, Attachment, Bind, Mode, PortError, Redirect, RedirectError, RedirectSettings,
    WorkerEdge, WorkerSettings,
};
use support::Namespace;

fn load() -> Redirect {
    Redirect::load(RedirectSettings {
        queues: 1,
        ports: 16,
    })
    .expect("load")
}

fn edge(redirect: &Redirect) -> WorkerEdge {
    WorkerEdge::new(WorkerSettings {
        queue: 0,
        frames: 1024,
        sockets: redirect.sockets(),
    })
    .expect("edge")
}

const POD: PortKind = PortKind::Pod(None);

#[test]
fn veth_is_native_and_loopback_generic() {
    if !podway_needs::root() {
        return;
    }
    let node = Namespace::new("modes");
    let _pod = node.pod("pod1", "10.0.0.2/24", 1500);
    node.inside(|| {
        let redirect = load();
        let pod = redirect.attach("pod1", POD, PortId(1)).expect("attach");
        let native = Attachment {
            mode: Mode::Native,
            not_native: None,
            adopted: Adopted::Nothing,
        };
        assert_eq!(pod, native);
        let uplink = redirect
            .attach("lo", PortKind::Uplink, PortId(2))
            .expect("attach");
        assert_eq!(
            (uplink.mode, uplink.adopted),
            (Mode::Generic, Adopted::Nothing)
        );
        let reason = uplink.not_native.expect("the kernel's reason");
        assert!(
            reason.contains("Operation not supported") && reason.contains("driver"),
            "the kernel's words are kept: {reason}"
        );
        redirect.detach("pod1").expect("detach");
        redirect
            .detach("pod1")
            .expect("detaching twice is no error");
        redirect
            .detach("gone")
            .expect("nor is a device that is gone");
    });
    assert!(!node.run("ip link show pod1").contains("xdp"));
    assert!(node.run("ip link show lo").contains("xdpgeneric"));
}

#[test]
fn nic2_a_program_that_is_lost_comes_back_where_it_ran_and_nowhere_else() {
    if !podway_needs::root() {
        return;
    }
    let node = Namespace::new("where");
    let _pod = node.pod("pod1", "10.0.0.2/24", 1500);
    node.inside(|| {
        let redirect = load();
        redirect.attach("pod1", POD, PortId(1)).expect("attach");
        let shown = || String::from_utf8(node.try_run("ip link show pod1").stdout).expect("text");
        // Others have the same program run in the stack: zero-copy sockets would receive nothing of it.
        let ifindex: i32 = node
            .run("cat /sys/class/net/pod1/ifindex")
            .trim()
            .parse()
            .expect("a number");
        let others = Xdp::new(redirect.as_fd());
        others
            .detach(ifindex, XdpFlags::DRV_MODE)
            .expect("taken off");
        others
            .attach(ifindex, XdpFlags::SKB_MODE)
            .expect("attached");
        assert!(shown().contains("xdpgeneric"), "{}", shown());
        assert!(redirect.restore("pod1", Mode::Native).expect("restored"));
        assert!(!shown().contains("xdpgeneric"), "{}", shown());
        assert!(!redirect.restore("pod1", Mode::Native).expect("it is there"));
        redirect.detach("pod1").expect("detach");
        redirect
            .attach("lo", PortKind::Uplink, PortId(2))
            .expect("attach");
        redirect.detach("lo").expect("detach");
        let refused = redirect.restore("lo", Mode::Native);
        assert!(refused.is_err(), "a driver without XDP runs nothing");
    });
}

#[test]
fn d10_a_program_stays_when_its_loader_goes_and_the_next_one_takes_over() {
    if !podway_needs::root() {
        return;
    }
    let node = Namespace::new("adopt");
    let _pod = node.pod("pod1", "10.0.0.2/24", 1500);
    node.inside(|| {
        let first = load();
        first.attach("pod1", POD, PortId(1)).expect("attach");
        first
            .attach("lo", PortKind::Uplink, PortId(2))
            .expect("attach");
        let before = first.program_id();
        drop(first);
        let shown = node.run("ip link show pod1");
        assert!(shown.contains(&format!("prog/xdp id {before}")), "{shown}");

        let second = load();
        for (device, port, mode) in [("pod1", 4, Mode::Native), ("lo", 5, Mode::Generic)] {
            let attachment = second.attach(device, POD, PortId(port)).expect("attach");
            assert_eq!((attachment.mode, attachment.adopted), (mode, Adopted::Own));
        }
        let shown = node.run("ip link show pod1");
        assert!(
            shown.contains(&format!("prog/xdp id {}", second.program_id())),
            "{shown}"
        );
    });
}

#[test]
fn another_program_is_named_and_left_alone() {
    if !podway_needs::root() {
        return;
    }
    let node = Namespace::new("foreign");
    let _pod = node.pod("pod1", "10.0.0.2/24", 1500);
    let folder = std::env::temp_dir().join(format!("podway-test-xsk-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("folder");
    let object = folder.join("other.o");
    let source = folder.join("other.c");
    std::fs::write(
        &source,
        "__attribute__((section(\"xdp\"), used)) int someone_else(void *ctx) { return 2; }\n\
         char terms[] __attribute__((section(\"license\"), used)) = \"GPL\";\n",
    )
    .expect("source");
    support::run(&format!(
        "clang -O2 -g -target bpf -c {} -o {}",
        source.display(),
        object.display()
    ));
    node.run(&format!(
        "ip link set dev pod1 xdp obj {} sec xdp",
        object.display()
    ));
    std::fs::remove_dir_all(&folder).expect("clean up");
    node.inside(|| {
        let redirect = load();
        let error = redirect.attach("pod1", POD, PortId(1)).expect_err("taken");
        let text = error.to_string();
        assert!(
            matches!(error, RedirectError::ForeignProgram { .. }),
            "{text}"
        );
        assert!(
            text.contains("someone_else") && text.contains("xdp off"),
            "{text}"
        );
        redirect.detach("pod1").expect("not ours: left alone");
    });
    assert!(node.run("ip link show pod1").contains("prog/xdp"));
}

#[test]
fn errors_say_what_to_do() {
    if !podway_needs::root() {
        return;
    }
    let node = Namespace::new("errors");
    node.inside(|| {
        let redirect = load();
        let error = redirect
            .attach("nosuch", POD, PortId(1))
            .expect_err("no device");
        assert!(error.to_string().contains("`nosuch`"), "{error}");
        let mut first = edge(&redirect);
        first
            .add_port(PortId(1), "lo", Bind::Copy, Duration::ZERO)
            .expect("port");
        let error = first.add_port(PortId(1), "lo", Bind::Copy, Duration::ZERO);
        assert!(matches!(error, Err(PortError::Exists(1))));
        let error = first.add_port(PortId(16), "lo", Bind::Copy, Duration::ZERO);
        assert!(matches!(
            error,
            Err(PortError::OutOfRange { port: 16, queue: 0 })
        ));
        let mut second = edge(&redirect);
        let error = second
            .add_port(PortId(2), "lo", Bind::Copy, Duration::from_millis(50))
            .expect_err("taken");
        assert!(matches!(error, PortError::QueueBusy { .. }), "{error}");
        let waiting = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(first);
        });
        second
            .add_port(PortId(2), "lo", Bind::Copy, Duration::from_secs(2))
            .expect("patience is rewarded");
        waiting.join().expect("thread");
    });
}
