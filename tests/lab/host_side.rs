//! The node itself: its own ports, its own services, and what others change of ours on it.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use serde_json::Value;

use crate::bench::{Lab, eventually, root};
use crate::deaths::kill_agent;
use crate::world;

const SOON: Duration = Duration::from_secs(10);
const NODE: &str = "node:node1";
/// A web server that somebody else runs on a node or in the world.
const SERVER: &str = "import http.server, socket, sys
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
Server(('::', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()";

/// A process that ends with its value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a web server; it listens when this returns.
fn serve(lab: &Lab, at: &str, port: &str) -> Running {
    let running = Running(lab.spawn(at, &["python3", "-c", SERVER, port]));
    let listens = || {
        lab.must(at, &["ss", "-Hltn"])
            .contains(&format!(":{port} "))
    };
    assert!(eventually(SOON, listens), "{at} {port}");
    running
}

fn set(lab: &Lab, setting: &str) {
    lab.must(NODE, &["sysctl", "-qw", setting]);
}

/// Packets that the XDP program took for answers to masqueraded flows.
fn claimed(lab: &Lab) -> u64 {
    lab.show("node1", "counters")["xdp"]["snat"]
        .as_u64()
        .expect("a counter")
}

fn problems(lab: &Lab) -> String {
    lab.show("node1", "status")["node_problems"].to_string()
}

#[test]
fn r3_d10_a_server_of_the_node_in_the_masquerading_range_is_reached_always() {
    if !podway_needs::root() {
        return;
    }
    let lab = Lab::up(&root().join("config/lab"));
    let server = serve(&lab, NODE, "61616");
    let all = ["http://192.168.50.1:61616/", "http://[fd50::1]:61616/"];
    let reached = |when: &str| {
        for url in all {
            assert!(lab.gets("world", url), "{url} {when}");
        }
    };
    reached("as it has just begun to listen");
    let is_left = || {
        let before = claimed(&lab);
        reached("while it is left to the host");
        claimed(&lab) == before
    };
    assert!(eventually(SOON, is_left), "XDP still claims the port");
    for device in ["all", "podway-host", "eth0"] {
        set(&lab, &format!("net.ipv4.conf.{device}.rp_filter=1"));
    }
    reached("by strict reverse paths");
    assert!(lab.gets("shop/client", all[0]), "by a pod of the node");
    kill_agent(&lab, "node1");
    reached("with the agent dead");
    drop(server);
}

#[test]
fn r3_what_still_answers_a_flow_of_ours_is_not_left_to_a_new_server() {
    if !podway_needs::root() {
        return;
    }
    let lab = Lab::up(&root().join("config/lab"));
    let world = serve(&lab, "world", "9100");
    let hold = "import socket, sys, time
s = socket.create_connection(('192.168.50.254', 9100)); print(s.getsockname(), flush=True)
sys.stdin.readline(); s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n'); sys.exit(not s.recv(1))";
    let mut client = Running(spawn_piped(&lab, "shop/client", hold));
    let port = || -> Option<String> {
        let flows = lab.show("node1", "flows");
        let mut flows = flows["flows"].as_array()?.iter();
        let flow = flows.find(|flow| flow["target"] == "192.168.50.254:9100")?;
        let source = flow["translated_source"].as_str()?;
        Some(source.rsplit_once(':')?.1.to_owned())
    };
    assert!(eventually(SOON, || port().is_some()), "it is connected");
    let port = port().expect("a flow");
    let server = serve(&lab, NODE, &port);
    let url = format!("http://192.168.50.1:{port}/");
    assert!(lab.gets("world", &url), "a new client reaches the host");
    let stdin = client.0.stdin.take().expect("piped");
    drop(stdin);
    let ended = client.0.wait().expect("it ends");
    assert!(ended.success(), "the pod's connection went on");
    drop((server, world));
}

fn spawn_piped(lab: &Lab, at: &str, script: &str) -> Child {
    use std::process::{Command, Stdio};
    let mut command = Command::new(crate::bench::podway());
    command.args(["lab", "exec", at, "--", "python3", "-c", script]);
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    let _ = lab;
    command.spawn().expect("podway runs")
}

#[test]
fn r3_f10_a_local_port_range_that_overlaps_is_named_and_mixes_nothing_up() {
    if !podway_needs::root() {
        return;
    }
    let lab = Lab::up(&root().join("config/lab"));
    for (range, port) in [("10240 65535", "9100"), ("61000 65535", "9101")] {
        let world = serve(&lab, "world", port);
        set(&lab, &format!("net.ipv4.ip_local_port_range={range}"));
        let named = format!("ip_local_port_range, {},", range.replace(' ', "-"));
        let is_named = || problems(&lab).contains(&named);
        assert!(eventually(SOON, is_named), "{range}: {}", problems(&lab));
        for from in [NODE, "shop/client"] {
            let script = "import socket, sys
for number in range(60):
    s = socket.create_connection(('192.168.50.254', int(sys.argv[1])), 2)
    s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')
    assert s.recv(1)
    s.close()";
            // It is named before tables and program follow.
            let all = || {
                lab.exec(from, &["python3", "-c", script, port])
                    .status
                    .success()
            };
            assert!(eventually(SOON, all), "{range}: {from}");
        }
        drop(world);
    }
    set(&lab, "net.ipv4.ip_local_port_range=32768 60999");
    let is_mended = || !problems(&lab).contains("ip_local_port_range");
    assert!(eventually(SOON, is_mended), "{}", problems(&lab));
    let reserved = ["sysctl", "-n", "net.ipv4.ip_local_reserved_ports"];
    assert_eq!(lab.must(NODE, &reserved).trim(), "61000-65535");
}

#[test]
fn s26_a_nodes_processes_reach_node_ports_and_host_ports_at_its_own_addresses() {
    if !podway_needs::root() {
        return;
    }
    let lab = world::up();
    let gets = |node: &str, url: &str| {
        assert!(
            eventually(SOON, || lab.gets(node, &format!("http://{url}/"))),
            "{node} {url}"
        );
    };
    for (node, v4, v6) in [
        ("node:node1", "192.168.50.1", "[fd50::1]"),
        ("node:node2", "192.168.50.2", "[fd50::2]"),
    ] {
        gets(node, &format!("{v4}:30080"));
        gets(node, &format!("{v6}:30080"));
        for (transport, address) in [("udp", v4), ("tcp", v6), ("udp", v6)] {
            let address = address.trim_matches(['[', ']']);
            let ask = include_str!("ask_names.py");
            let asked = ["python3", "-c", ask, address, "30053", transport, "3"];
            lab.must(node, &asked);
        }
        // Health is the node's own, on its addresses and on the loopback.
        for address in [v4, "127.0.0.1", v6] {
            let url = format!("http://{address}:10256/livez");
            assert!(lab.gets(node, &url), "{node} {url}");
        }
    }
    for address in ["192.168.50.2", "[fd50::2]", "127.0.0.1"] {
        gets("node:node2", &format!("{address}:8088"));
    }
    assert!(lab.gets("node:node2", "http://192.168.50.2:30090/"));
    // S12: node ports are not on the loopback.
    assert!(!lab.gets("node:node1", "http://127.0.0.1:30080/"));
    // D10: all else of the node's own goes on with the agent dead.
    let server = serve(&lab, NODE, "9200");
    kill_agent(&lab, "node1");
    for address in ["192.168.50.1", "[fd50::1]", "127.0.0.1", "[::1]"] {
        assert!(
            lab.gets(NODE, &format!("http://{address}:9200/")),
            "{address}"
        );
    }
    drop(server);
}

#[test]
fn r7_services_outside_of_the_configured_ranges_are_reached_by_the_nodes_processes() {
    if !podway_needs::root() {
        return;
    }
    let said = "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: { name: kubernetes }\nspec: { cidrs: [172.30.0.0/16, \"fd30::/112\"] }\n---\n";
    for (objects, address, v6, more) in [
        (said, "172.30.0.80", "fd30::80", &[][..]),
        (
            said,
            "172.30.0.80",
            "fd30::80",
            &["--source", "kubernetes"][..],
        ),
        ("", "172.31.9.80", "fd31::80", &[][..]),
    ] {
        let directory = world::copy("ranges");
        let web = directory.join("web.yaml");
        let text = fs::read_to_string(&web).expect("web");
        let text = text.replace("10.96.0.", &address[..address.len() - 2]);
        let text = text.replace("fd96::", &v6[..v6.len() - 2]);
        fs::write(&web, format!("{objects}{text}")).expect("written");
        reaches(&directory, address, v6, more);
        fs::remove_dir_all(directory).expect("removed");
    }
}

fn reaches(directory: &Path, v4: &str, v6: &str, more: &[&str]) {
    let lab = world::up_with(directory, more);
    for from in ["node:node1", "node:node2", "default/client"] {
        for address in [v4.to_owned(), format!("[{v6}]")] {
            let url = format!("http://{address}/");
            assert!(
                eventually(SOON, || lab.gets(from, &url)),
                "{from} {url} {more:?}"
            );
        }
    }
    // S11 follows what was read: nobody's address of the range is silent, and none outside of it is ours.
    if more.is_empty() && v4.starts_with("172.30.") {
        let routes = lab.must(NODE, &["ip", "route", "show", "dev", "podway-host"]);
        assert!(routes.contains("172.30.0.0/16"), "{routes}");
        assert!(!routes.contains("10.96.0.0/16"), "{routes}");
    }
}

/// How often something of ours was mended on node1, by what it was.
fn mended(lab: &Lab) -> Value {
    lab.show("node1", "status")["mended"].clone()
}

#[test]
fn r4_what_others_change_of_ours_on_the_host_is_back_soon_and_counted() {
    if !podway_needs::root() {
        return;
    }
    let lab = Lab::up(&root().join("config/lab"));
    let pod = lab.address("shop/client", |address| !address.contains(':'));
    let pod6 = lab.address("shop/client", |address| address.contains(':'));
    let dials =
        || lab.pings(NODE, &pod) && lab.pings(NODE, &pod6) && lab.gets(NODE, "http://10.96.0.20/");
    assert!(eventually(SOON, dials), "at first");
    let sysctl = |settings: &str| format!("sysctl -qw {settings}");
    for (what, script) in [
        ("route", "ip route flush dev podway-host".to_owned()),
        ("route", "ip -6 route flush dev podway-host".to_owned()),
        (
            "neighbour",
            "ip neigh flush all nud all; ip -6 neigh flush all nud all".to_owned(),
        ),
        ("device", "ip link set podway-host down".to_owned()),
        ("device", "ip link set podway-dp down".to_owned()),
        ("device", "ip link set podway-host mtu 1280".to_owned()),
        ("device", "ip link set podway-host name others".to_owned()),
        ("address", "ip addr flush dev podway-host".to_owned()),
        (
            "setting",
            sysctl("net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.podway-host.rp_filter=1"),
        ),
        (
            "setting",
            sysctl("net.ipv4.conf.podway-host.accept_local=0"),
        ),
        (
            "setting",
            sysctl("net.ipv6.conf.podway-host.disable_ipv6=1"),
        ),
        ("offload", "ethtool -K podway-host tx on".to_owned()),
        ("program", "ip link set podway-dp xdp off".to_owned()),
        ("program", "ip link set eth0 xdp off".to_owned()),
        ("program", "tc qdisc del dev lo clsact".to_owned()),
        (
            "reserved-ports",
            sysctl("net.ipv4.ip_local_reserved_ports="),
        ),
    ] {
        let before = mended(&lab)[what].as_u64().unwrap_or(0);
        lab.must(NODE, &["sh", "-c", &script]);
        let counted = || mended(&lab)[what].as_u64().unwrap_or(0) > before;
        assert!(eventually(SOON, counted), "{script}: {}", mended(&lab));
        assert!(eventually(SOON, dials), "{script}: {}", problems(&lab));
    }
    assert_eq!(problems(&lab), "[]");
}

#[test]
fn r4_an_uplink_that_flaps_or_changes_is_followed() {
    if !podway_needs::root() {
        return;
    }
    let lab = Lab::up(&root().join("config/lab"));
    // A pod of the other node, whose policies let this node in.
    let reads = "exec 3<>/dev/tcp/10.96.0.9/9000 && head -c 1000 <&3 >/dev/null";
    let far = || {
        let node = lab.exec(NODE, &["timeout", "2", "bash", "-c", reads]);
        node.status.success() && lab.gets("shop/client", "http://10.96.0.30/1000")
    };
    assert!(eventually(SOON, far), "at first");
    for script in [
        "ip link set eth0 down; sleep 1; ip link set eth0 up",
        "ip link set eth0 mtu 1400",
        "ip link set eth0 mtu 1500",
        "ip link set eth0 down; ip link set eth0 address 02:00:00:12:34:56; ip link set eth0 up",
        "ip link set eth0 down; ip link set eth0 name wan0; ip link set wan0 up",
        "ip link set wan0 down; ip link set wan0 name eth0; ip link set eth0 up",
    ] {
        lab.must(NODE, &["sh", "-c", script]);
        // What IPv6 loses with a link that is down, whoever took it down gives back.
        lab.exec(
            NODE,
            &[
                "ip",
                "addr",
                "replace",
                "fd50::1/64",
                "dev",
                "eth0",
                "nodad",
            ],
        );
        assert!(eventually(SOON, far), "{script}: {}", problems(&lab));
    }
}

#[test]
fn r4_a_pod_whose_program_is_taken_away_stays_closed_until_it_is_back() {
    if !podway_needs::root() {
        return;
    }
    let lab = Lab::up(&root().join("config/lab"));
    let url = "http://10.96.0.30/1000";
    assert!(
        eventually(SOON, || lab.gets("shop/client", url)),
        "at first"
    );
    let ports = lab.show("node1", "ports");
    let mut rows = ports.as_array().expect("ports").iter();
    let row = rows.find(|row| row["name"] == "pod:shop/client");
    let device = row.expect("the pod's")["interface"]
        .as_str()
        .expect("a name");
    for (what, script) in [
        ("program", format!("ip link set {device} xdp off")),
        ("device", format!("ip link set {device} down")),
        ("device", format!("ip link set {device} alias others")),
    ] {
        let before = mended(&lab)[what].as_u64().unwrap_or(0);
        lab.must(NODE, &["sh", "-c", &script]);
        let counted = || mended(&lab)[what].as_u64().unwrap_or(0) > before;
        assert!(eventually(SOON, counted), "{script}: {}", mended(&lab));
        assert!(
            eventually(SOON, || lab.gets("shop/client", url)),
            "{script}"
        );
    }
    let link = lab.must(NODE, &["ip", "link", "show", device]);
    assert!(link.contains("alias podway:shop/client"), "{link}");
}
