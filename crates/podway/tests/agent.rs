//! A real agent on a node in a network namespace, with two pods, a service and the node's own processes.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use podway_cni::agent::{AgentError, Attach, Detach, Request, ask, mac_text};
use podway_cni::{PodWiring, host_interface, pod_mac, wire};
use podway_host::Namespace;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(10);
const NODE: &str = "podway-test-agent-node";
const PEER: &str = "podway-test-agent-peer";
const CLIENT: &str = "podway-test-agent-client";
const SERVER: &str = "podway-test-agent-server";

const CLUSTER: &str = r#"
kind: Node
apiVersion: v1
metadata: { name: n1 }
spec: { podCIDRs: [10.244.1.0/24, "fd44:0:0:1::/64"] }
status: { addresses: [{ type: InternalIP, address: 192.168.50.1 }, { type: InternalIP, address: "fd50::1" }] }
---
kind: Pod
apiVersion: v1
metadata: { name: client, namespace: shop }
spec: { nodeName: n1, containers: [{ name: c, image: none }] }
status: { podIPs: [{ ip: 10.244.1.9 }, { ip: "fd44:0:0:1::9" }], podIP: 10.244.1.9 }
---
kind: Pod
apiVersion: v1
metadata: { name: server, namespace: shop, labels: { app: server } }
spec: { nodeName: n1, containers: [{ name: c, image: none }] }
status: { podIPs: [{ ip: 10.244.1.10 }, { ip: "fd44:0:0:1::10" }], podIP: 10.244.1.10 }
---
kind: Service
apiVersion: v1
metadata: { name: echo, namespace: shop }
spec: { clusterIP: 10.96.0.7, selector: { app: server }, ports: [{ port: 7, targetPort: 7777, protocol: UDP }] }
"#;

const ISOLATED: &str = r#"
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: { name: nobody, namespace: shop }
spec: { podSelector: { matchLabels: { app: server } }, policyTypes: [Ingress] }
"#;

/// The namespaces, the folder and the agent; all gone when dropped.
struct Lab {
    folder: tempfile::TempDir,
    agent: Option<Child>,
}

impl Lab {
    fn new() -> Lab {
        remove();
        for name in [NODE, PEER, CLIENT, SERVER] {
            ip(&format!("netns add {name}"));
            ip(&format!("-n {name} link set lo up"));
        }
        ip(&format!(
            "-n {NODE} link add eth0 type veth peer name eth0 netns {PEER}"
        ));
        ip(&format!("-n {NODE} addr add 192.168.50.1/24 dev eth0"));
        ip(&format!("-n {NODE} addr add fd50::1/64 dev eth0 nodad"));
        ip(&format!("-n {NODE} link set eth0 up"));
        ip(&format!("-n {PEER} addr add 192.168.50.2/24 dev eth0"));
        ip(&format!("-n {PEER} link set eth0 up"));
        let folder = tempfile::tempdir().expect("folder");
        let lab = Lab {
            folder,
            agent: None,
        };
        let source = lab.path("cluster");
        fs::create_dir(&source).expect("made");
        fs::write(source.join("cluster.yaml"), CLUSTER).expect("written");
        let config = format!(
            "node = \"n1\"\nsource = {source:?}\nuplink = \"eth0\"\nsocket = {:?}\nframes = 2048\nflows = 4096\n",
            lab.path("podway.sock")
        );
        fs::write(lab.path("podway.toml"), config).expect("written");
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&mut self) {
        let log = fs::File::create(self.path("log")).expect("log");
        let agent = Command::new("ip")
            .args(["netns", "exec", NODE, env!("CARGO_BIN_EXE_podway"), "run"])
            .arg("--config")
            .arg(self.path("podway.toml"))
            .stderr(log)
            .spawn();
        self.agent = Some(agent.expect("the agent starts"));
        self.until("in force", |lab| {
            matches!(lab.ask(&json!({"show": "status"})), Ok(status) if status["in_force"] == true)
        });
    }

    /// Sends a signal (by name) and waits for the end.
    fn end(&mut self, signal: &str) {
        let mut agent = self.agent.take().expect("it runs");
        let id = agent.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &id]).status();
        assert!(sent.expect("kill").success());
        let began = Instant::now();
        while agent.try_wait().expect("a child").is_none() {
            assert!(began.elapsed() < PATIENCE, "{signal} does not end it");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn ask(&self, request: &impl serde::Serialize) -> Result<Value, AgentError> {
        ask(&self.path("podway.sock"), request, PATIENCE)
    }

    fn until(&mut self, what: &str, holds: impl Fn(&Lab) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            if began.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.path("log")).unwrap_or_default();
                panic!("not {what} within 10 s; the agent's log:\n{log}");
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn attach(&self, pod: &str, namespace: &str, addresses: &[&str]) -> Value {
        let addresses: Vec<IpAddr> = addresses
            .iter()
            .map(|text| text.parse().expect("address"))
            .collect();
        let ranges = ["10.244.1.0/24", "fd44:0:0:1::/64"].map(|text| text.parse().expect("range"));
        let interface = host_interface(pod);
        wire(&PodWiring {
            pod,
            interface: &interface,
            device: "eth0",
            node_namespace: &Namespace::named(NODE).expect("there"),
            pod_namespace: &Namespace::named(namespace).expect("there"),
            mac: pod_mac(pod),
            addresses: &addresses,
            pod_ranges: &ranges,
            gateway_mac: None,
            queues: NonZeroU16::MIN,
            pod_mtu: 61_000,
            tunnel_mtu: 1_450,
        })
        .expect("wired");
        let attach = Request::Attach(Attach {
            pod: pod.to_owned(),
            interface,
            mac: mac_text(pod_mac(pod)),
            mtu: 61_000,
            addresses: Vec::new(),
        });
        self.ask(&attach).expect("attached")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        remove();
    }
}

fn remove() {
    for name in [NODE, PEER, CLIENT, SERVER] {
        let _ = Command::new("ip").args(["netns", "del", name]).output();
    }
}

fn ip(line: &str) -> String {
    let output = Command::new("ip").args(line.split(' ')).output();
    let output = output.expect("iproute2 is installed");
    assert!(output.status.success(), "ip {line}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// Answers every datagram at port 7777 of the server until the process ends.
fn serve() {
    let bind = || UdpSocket::bind("[::]:7777").expect("bound");
    let socket = Namespace::named(SERVER)
        .and_then(|server| server.inside(bind))
        .expect("inside");
    thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
}

/// True if a datagram of so many bytes comes back within half a second.
fn echoes(namespace: &str, target: &str, length: usize) -> bool {
    let target: SocketAddr = target.parse().expect("address");
    let dial = || {
        let any = if target.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let socket = UdpSocket::bind(any).expect("bound");
        socket
            .set_read_timeout(Some(Duration::from_millis(500)))
            .expect("set");
        // Connected, so that only the dialled address's answers count.
        socket.connect(target).expect("a route");
        socket.send(&vec![7; length]).expect("sent");
        let mut buffer = vec![0; 65_536];
        match socket.recv(&mut buffer) {
            Ok(received) => received == length,
            Err(error) => {
                let silent = [ErrorKind::WouldBlock, ErrorKind::ConnectionRefused];
                assert!(silent.contains(&error.kind()), "{error}");
                false
            }
        }
    };
    let client = Namespace::named(namespace).expect("there");
    client.inside(dial).expect("inside")
}

/// True if one of some datagrams comes back: a kernel that is busy with links starts a new one late, and drops till then.
fn reaches(namespace: &str, target: &str, length: usize) -> bool {
    (0..20).any(|_| echoes(namespace, target, length))
}

/// True if the namespace has a route to the address by way of the dataplane.
fn routed(namespace: &str, target: &str) -> bool {
    let route = ["-n", namespace, "route", "get", target];
    let output = Command::new("ip").args(route).output().expect("iproute2");
    String::from_utf8_lossy(&output.stdout).contains("podway-host")
}

fn counter(lab: &Lab, name: &str) -> u64 {
    let counters = lab.ask(&json!({"show": "counters"})).expect("shown");
    counters["engine"][name].as_u64().expect("a count")
}

#[test]
fn an_agent_carries_pods_services_and_the_node_through_restarts() {
    if !podway_needs::root() {
        return;
    }
    let mut lab = Lab::new();
    lab.start();
    let attached = lab.attach("shop/client", CLIENT, &["10.244.1.9", "fd44:0:0:1::9"]);
    assert_eq!(
        (&attached["port"], &attached["mode"]),
        (&json!(2), &json!("native"))
    );
    lab.attach("shop/server", SERVER, &["10.244.1.10", "fd44:0:0:1::10"]);
    serve();

    for target in ["10.244.1.10:7777", "[fd44:0:0:1::10]:7777", "10.96.0.7:7"] {
        assert!(reaches(CLIENT, target, 100), "pod to {target}");
        assert!(reaches(NODE, target, 100), "node to {target}");
    }
    assert!(reaches(CLIENT, "10.244.1.10:7777", 50_000), "a large one");
    let flows = lab.ask(&json!({"show": "flows"})).expect("shown");
    let flows = flows["flows"].as_array().expect("rows").clone();
    assert!(
        flows.iter().any(|flow| flow["target"] == "10.96.0.7:7"
            && flow["translated_target"] == "10.244.1.10:7777"
            && flow["service"] == "shop/echo:7"
            && flow["answered"] == true),
        "{flows:?}"
    );

    policies_follow_the_directory(&mut lab);
    a_bad_directory_leaves_the_last_good_state(&mut lab);
    requests_that_make_no_sense_are_refused(&lab);
    a_second_agent_is_refused(&lab);

    for signal in ["TERM", "KILL"] {
        lab.end(signal);
        assert!(
            !echoes(CLIENT, "10.244.1.10:7777", 100),
            "D10: pods are closed after {signal}"
        );
        assert!(node_is_reachable(), "D10: the node after {signal}");
        lab.start();
        let ports = lab.ask(&json!({"show": "ports"})).expect("shown");
        assert_eq!(ports.as_array().expect("rows").len(), 4, "pods are adopted");
        assert!(reaches(CLIENT, "10.244.1.10:7777", 100), "after {signal}");
    }

    ip(&format!("-n {NODE} link del podway-host"));
    lab.until("back with the host's port", |_| {
        routed(NODE, "10.244.1.10") && echoes(NODE, "10.244.1.10:7777", 100)
    });

    let detach = Request::Detach(Detach {
        pod: "shop/client".to_owned(),
        interface: None,
    });
    assert_eq!(lab.ask(&detach).expect("done"), json!({"detached": true}));
    assert_eq!(lab.ask(&detach).expect("done"), json!({"detached": false}));
    let endpoints = lab.ask(&json!({"show": "endpoints"})).expect("shown");
    let rows = endpoints.as_array().expect("rows").iter();
    let ported: Vec<_> = rows.filter(|row| !row["port"].is_null()).collect();
    assert_eq!(ported.len(), 1, "{ported:?}");

    ip(&format!(
        "-n {NODE} link del {}",
        host_interface("shop/server")
    ));
    lab.until("rid of the vanished pod", |lab| {
        let ports = lab.ask(&json!({"show": "ports"})).expect("shown");
        ports.as_array().expect("rows").len() == 2
    });
    lab.end("TERM");
    assert!(!lab.path("podway.sock").exists());
    assert!(node_is_reachable(), "after the end");
}

fn policies_follow_the_directory(lab: &mut Lab) {
    let file = lab.path("cluster/policy.yaml");
    fs::write(&file, ISOLATED).expect("written");
    let before = counter(lab, "drop/ingress-denied");
    lab.until("isolated", |_| !echoes(CLIENT, "10.244.1.10:7777", 100));
    assert!(counter(lab, "drop/ingress-denied") > before);
    assert!(reaches(NODE, "10.244.1.10:7777", 100), "N13: its own node");
    let policies = lab.ask(&json!({"show": "policies"})).expect("shown");
    let rows = policies.as_array().expect("rows");
    assert!(rows.iter().any(|row| row["pod"] == "shop/server"
        && row["direction"] == "ingress"
        && row["isolated"] == true
        && row["policies"] == json!(["shop/nobody"])
        && row["isolation_hits"].as_u64() > Some(0)));
    fs::remove_file(&file).expect("removed");
    lab.until("open again", |_| echoes(CLIENT, "10.244.1.10:7777", 100));
}

fn a_bad_directory_leaves_the_last_good_state(lab: &mut Lab) {
    let file = lab.path("cluster/broken.yaml");
    fs::write(
        &file,
        "kind: Service\napiVersion: v1\nmetadata: { name: UPPER }\n",
    )
    .expect("written");
    let problems = |lab: &Lab| {
        let status = lab.ask(&json!({"show": "status"})).expect("shown");
        status["source"]["problems"].as_array().expect("list").len()
    };
    lab.until("reported", |lab| problems(lab) > 0);
    assert!(reaches(CLIENT, "10.96.0.7:7", 100), "the last good state");
    fs::remove_file(&file).expect("removed");
    lab.until("mended", |lab| problems(lab) == 0);
}

fn requests_that_make_no_sense_are_refused(lab: &Lab) {
    let attach = |pod: &str, interface: &str, mac: &str, mtu: u32| {
        let request =
            json!({"attach": {"pod": pod, "interface": interface, "mac": mac, "mtu": mtu}});
        lab.ask(&request).expect_err("refused").to_string()
    };
    let mac = "02:00:00:00:00:01";
    for (said, expected) in [
        (
            attach("x", "eth0", mac, 1500),
            "pod: \"x\" is no pod: give NAMESPACE/NAME",
        ),
        (
            attach("a/b", "pw9", mac, 1500),
            "interface: there is no device pw9 on this node: wire the pod first",
        ),
        (
            attach("a/b", "eth0", mac, 1500),
            "interface: eth0 is not a pod's device",
        ),
        (
            attach("a/b", "podway-dp", mac, 1500),
            "interface: podway-dp is not a pod's device",
        ),
        (
            attach("a/b", "lo", "02", 1500),
            "mac: \"02\" is no Ethernet address: give one as 02:00:00:00:00:01",
        ),
        (
            attach("a/b", "lo", mac, 100),
            "mtu: 100 is out of range: give 1280 to 65535",
        ),
    ] {
        assert_eq!(said, expected);
    }
}

fn a_second_agent_is_refused(lab: &Lab) {
    let second = Command::new("ip")
        .args(["netns", "exec", NODE, env!("CARGO_BIN_EXE_podway"), "run"])
        .arg("--config")
        .arg(lab.path("podway.toml"))
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{text}");
    assert!(
        text.contains("another agent answers on this socket"),
        "{text}"
    );
}

/// True if the wire still reaches the node's own stack.
fn node_is_reachable() -> bool {
    let ping = ["netns", "exec", PEER, "ping", "-c1", "-W2", "192.168.50.1"];
    let output = Command::new("ip").args(ping).output().expect("ping");
    output.status.success() && Path::new("/run/netns").exists()
}
