//! Connections that last, end and come back, with real clients; protocols without ports; a world that leaves checksums
//! to its device.

use std::fs;
use std::process::Child;
use std::time::Duration;

use crate::bench::{Lab, eventually, root};
use crate::world::{copy, up, up_from};

/// Dials from one port again and again until it is answered, and says by whom.
const DIALS: &str = "
import socket, sys, time
host, port, own, kind = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
end = time.monotonic() + 60
while time.monotonic() < end:
    it = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM)
    it.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    it.bind(('', own))
    it.settimeout(1)
    try:
        it.connect((host, port))
        it.send(b'GET / HTTP/1.0\\r\\n\\r\\n' if kind == 'tcp' else b'who')
        said = it.recv(4096)
        if said: print('answered', flush=True); sys.exit(0)
    except OSError:
        time.sleep(0.2)
    finally:
        it.close()
sys.exit('nobody answered')
";

/// Sends one packet of a protocol to an address, or waits for one and answers it.
const RAW: &str = "
import socket, sys
what, protocol, host = sys.argv[1], int(sys.argv[2]), sys.argv[3]
it = socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
if what == 'ask':
    it.settimeout(0.5)
    for _ in range(20):
        it.sendto(b'\\0\\0\\x08\\0' + b'q' * 40, (host, 0))
        try:
            packet, who = it.recvfrom(2048)
        except TimeoutError:
            continue
        if who[0] == host: print(who[0]); sys.exit(0)
    sys.exit('no answer')
print('listens', flush=True)
while True:
    packet, who = it.recvfrom(2048)
    print(who[0], flush=True)
    it.sendto(b'\\0\\0\\x08\\0' + b'a' * 40, (who[0], 0))
";

/// A client of the world that half-closes, and hears the answer that comes after that.
const HALF_CLOSES: &str = "
import socket, sys
it = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)
it.sendall(b'GET /' + b' HTTP/1.0\\r\\n\\r\\n')
it.shutdown(socket.SHUT_WR)
said = b''
while True:
    part = it.recv(4096)
    if not part: break
    said += part
sys.exit(0 if b'200 OK' in said else repr(said))
";

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: { name: late }
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.90
  selector: { app: web }
  ports: [{ name: http, port: 80, targetPort: http }]
status: { loadBalancer: { ingress: [{ ip: 203.0.113.90 }] } }
";

fn python(lab: &Lab, from: &str, script: &str, arguments: &[&str]) -> Child {
    lab.spawn(from, &[&["python3", "-c", script], arguments].concat())
}

fn ends_well(child: Child, what: &str) -> String {
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{what}: {said}{error}");
    said
}

#[test]
fn f19_a_client_that_dials_from_one_port_before_the_service_is_there_reaches_it_afterwards() {
    if !podway_needs::root() {
        return;
    }
    let directory = copy("late");
    let lab = up_from(&directory);
    let dials = ["203.0.113.90", "80", "45000", "tcp"];
    let waiting = python(&lab, "default/client", DIALS, &dials);
    let is_remembered = || {
        let flows = lab.show("node1", "flows").to_string();
        flows.contains("203.0.113.90")
    };
    assert!(eventually(Duration::from_secs(10), is_remembered));
    fs::write(directory.join("late.yaml"), SERVICE).expect("written");
    let said = ends_well(waiting, "a client that dialled too early");
    assert_eq!(said.trim(), "answered");
    drop(lab);
    fs::remove_dir_all(directory).expect("removed");
}

#[test]
fn f16_a_client_that_half_closes_hears_the_answer() {
    if !podway_needs::root() {
        return;
    }
    let lab = up();
    for from in ["default/client", "world"] {
        let client = python(&lab, from, HALF_CLOSES, &["203.0.113.80", "80"]);
        ends_well(client, from);
    }
}

#[test]
fn r5_protocols_without_ports_reach_pods_and_the_world_and_are_answered() {
    if !podway_needs::root() {
        return;
    }
    let lab = Lab::up(&root().join("tests/manifests/services"));
    let pod = lab.address("default/remote", |address| !address.contains(':'));
    for protocol in ["47", "50", "51"] {
        for (to, host) in [
            ("default/remote", pod.as_str()),
            ("world", "192.168.50.254"),
        ] {
            let mut server = python(&lab, to, RAW, &["answer", protocol, host]);
            let client = python(&lab, "default/client", RAW, &["ask", protocol, host]);
            ends_well(client, &format!("protocol {protocol} to {to}"));
            server.kill().expect("it runs");
            let _ = server.wait();
        }
    }
}

#[test]
fn d4_a_world_that_leaves_checksums_to_its_device_reaches_services_and_is_reached() {
    if !podway_needs::root() {
        return;
    }
    let lab = up();
    let devices = lab.must("world", &["ip", "-br", "link"]);
    let device = devices
        .lines()
        .filter_map(|line| line.split(['@', ' ']).next())
        .find(|name| *name != "lo")
        .expect("a device");
    lab.must("world", &["ethtool", "-K", device, "tx", "on"]);
    let mut server = lab.spawn(
        "world",
        &["python3", "-m", "http.server", "8000", "--bind", "::"],
    );
    let listens = || lab.must("world", &["ss", "-Hltn"]).contains(":8000");
    assert!(eventually(Duration::from_secs(10), listens));
    for url in [
        "http://203.0.113.80/",
        "http://192.168.50.1:30080/",
        "http://[2001:db8::80]/",
    ] {
        assert!(lab.gets("world", url), "{url}");
    }
    for url in ["http://192.168.50.254:8000/", "http://[fd50::254]:8000/"] {
        assert!(lab.gets("default/client", url), "{url}");
    }
    let counters = lab.show("node1", "counters").to_string();
    assert!(counters.contains("checksum-completed"), "{counters}");
    server.kill().expect("it runs");
    let _ = server.wait();
}
