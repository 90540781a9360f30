//! Network namespaces for tests: named, entered by the test's own thread, and gone afterwards.
#![allow(unsafe_code, dead_code)] // each test file uses a part

pub(crate) mod traffic;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

const PREFIX: &str = "podway-test-xsk-";
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace that is deleted with the value.
pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    pub(crate) fn new(role: &str) -> Namespace {
        sweep();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{role}", std::process::id());
        run(&format!("ip netns add {name}"));
        let namespace = Namespace { name };
        namespace.run("ip link set lo up");
        namespace
    }

    /// Runs a command inside; panics with its output if it fails.
    pub(crate) fn run(&self, command: &str) -> String {
        run(&format!("ip netns exec {} {command}", self.name))
    }

    /// Runs a command inside, whatever comes of it.
    pub(crate) fn try_run(&self, command: &str) -> Output {
        output(&format!("ip netns exec {} {command}", self.name))
    }

    /// Moves this thread inside, for good: call it in a thread of its own.
    pub(crate) fn enter(&self) {
        enter(&self.name);
    }

    /// Runs `body` in a thread inside.
    pub(crate) fn inside<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter();
                    body()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A veth pair: `device` here, `eth0` with `address` and `mtu` in a namespace of its own.
    pub(crate) fn pod(&self, device: &str, address: &str, mtu: u32) -> Namespace {
        let pod = Namespace::new(device);
        self.run(&format!(
            "ip link add {device} mtu {mtu} numrxqueues 1 numtxqueues 1 type veth peer name eth0 mtu {mtu} \
             numrxqueues 1 numtxqueues 1 netns {}",
            pod.name
        ));
        self.run(&format!("ip link set {device} up"));
        pod.run("sysctl -qw net.ipv6.conf.eth0.accept_dad=0");
        pod.run(&format!("ip addr add {address} dev eth0"));
        pod.run("ip link set eth0 up");
        pod.run("ethtool -K eth0 tx off");
        pod
    }
}

/// Moves this thread into a namespace, for good.
pub(crate) fn enter(name: &str) {
    let file = File::open(format!("/run/netns/{name}")).expect("namespace");
    // SAFETY: the descriptor is a namespace's; only this thread moves.
    let status = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(status, 0, "setns: {}", std::io::Error::last_os_error());
}

impl Drop for Namespace {
    fn drop(&mut self) {
        output(&format!("ip netns del {}", self.name));
    }
}

/// Deletes what crashed runs left behind.
fn sweep() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(PREFIX) else {
            continue;
        };
        let maker = rest.split('-').next().unwrap_or("");
        if !Path::new("/proc").join(maker).exists() {
            output(&format!("ip netns del {name}"));
        }
    }
}

pub(crate) fn run(command: &str) -> String {
    let output = output(command);
    assert!(
        output.status.success(),
        "{command}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn output(command: &str) -> Output {
    let mut words = command.split_whitespace();
    Command::new(words.next().expect("a command"))
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("{command}: {error}"))
}
