//! A machine on a wire of its own to a node's second device, and programs that run where a test says.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use podway_host::{Namespace, Network};

use crate::bench::{Lab, eventually, podway};

/// The pod that tests dial from.
pub(crate) const POD: &str = "default/caller";
const STORAGE: &str = "podway-test-storage";
pub(crate) const TELLS_PEER: &str = include_str!("tells_peer.py");
/// How long a change of the kernel's may take to be in force on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// The servers there, of each family, and whom they see.
const SERVERS: [(&str, &str); 4] = [
    ("10.9.0.2", "10.9.0.1"),
    ("10.20.0.1", "10.9.0.1"),
    ("fd09::2", "fd09::1"),
    ("fd20::1", "fd09::1"),
];

/// A process in a pod, a node, the world or another namespace; gone when dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    lines: BufReader<ChildStdout>,
}

impl Running {
    fn start(mut command: Command) -> Running {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it runs");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Running { child, lines }
    }

    pub(crate) fn at(target: &str, command: &[&str]) -> Running {
        let mut lab = Command::new(podway());
        lab.args(["lab", "exec", target, "--"]).args(command);
        Running::start(lab)
    }

    /// The next line that it prints.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("a line");
        line.trim().to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A machine on a wire of its own to node1's `eth1`: 10.9.0.2 and fd09::2, and behind it 10.20.0.1 and fd20::1.
pub(crate) struct Storage;

impl Storage {
    pub(crate) fn join(lab: &Lab) -> Storage {
        remove();
        ip(&format!("netns add {STORAGE}"));
        let storage = Storage;
        storage.ip("link set lo up");
        storage.ip("addr add 10.20.0.1/32 dev lo");
        storage.ip("addr add fd20::1/128 dev lo nodad");
        storage.plug_in(lab);
        storage
    }

    /// Joins the wire, which is a new device at both of its ends.
    pub(crate) fn plug_in(&self, lab: &Lab) {
        let wire = format!("link add eth1 type veth peer name eth0 netns {STORAGE}");
        node_ip(lab, &wire);
        for line in [
            "addr add 10.9.0.2/24 dev eth0",
            "addr add fd09::2/64 dev eth0 nodad",
            "link set eth0 up",
        ] {
            self.ip(line);
        }
        let storage = Namespace::named(STORAGE).expect("made");
        Network::of(&storage, async |network: Network| {
            network.checksum_in_software(network.index("eth0")?).await
        })
        .expect("no device completes checksums on the way");
        for line in [
            "addr add 10.9.0.1/24 dev eth1",
            "addr add fd09::1/64 dev eth1 nodad",
            "link set eth1 up",
            "route add 10.20.0.0/16 via 10.9.0.2",
            "route add fd20::/64 via fd09::2",
        ] {
            node_ip(lab, line);
        }
    }

    /// Runs `ip` there.
    pub(crate) fn ip(&self, line: &str) {
        ip(&format!("-n {STORAGE} {line}"));
    }

    /// A server at port 7000 of its addresses that tells who dials it whom it sees.
    pub(crate) fn tells_peers(&self) -> Running {
        serves(self.run(&["python3", "-c", TELLS_PEER, "7000"]))
    }

    pub(crate) fn run(&self, command: &[&str]) -> Running {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", STORAGE]).args(command);
        Running::start(inside)
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        remove();
    }
}

/// What a server tells a pod that dials it; empty if it can't be dialled.
pub(crate) fn told(lab: &Lab, address: &str, port: u16) -> String {
    let program = "import socket,sys; print(socket.create_connection((sys.argv[1], int(sys.argv[2])), 3).recv(64).decode())";
    let port = port.to_string();
    let output = lab.exec(POD, &["python3", "-c", program, address, &port]);
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Waits until a pod reaches all of them.
pub(crate) fn all_are_reached(lab: &Lab, when: &str) {
    for (server, source) in SERVERS {
        let reached = eventually(PATIENCE, || told(lab, server, 7000) == source);
        assert!(reached, "{server} {when}: {:?}", told(lab, server, 7000));
    }
}

/// What a pod is told that can't dial.
pub(crate) fn refusal(lab: &Lab, address: &str) -> String {
    let program = "import socket,sys\ntry: socket.create_connection((sys.argv[1], 9), 6)\nexcept OSError as error: print(error.strerror or error)";
    let output = lab.exec(POD, &["python3", "-c", program, address]);
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

pub(crate) fn serves(mut running: Running) -> Running {
    assert_eq!(running.line(), "listens");
    running
}

/// Runs `ip` on node1.
pub(crate) fn node_ip(lab: &Lab, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    lab.must("node:node1", &[&["ip"], &words[..]].concat())
}

fn ip(line: &str) {
    let words = line.split_whitespace();
    let output = Command::new("ip").args(words).output().expect("ip runs");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "ip {line}: {error}");
}

fn remove() {
    let _ = Command::new("ip").args(["netns", "del", STORAGE]).output();
}
