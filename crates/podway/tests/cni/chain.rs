//! Lists of plugins with podway-cni first, run as runtimes run them: Debian's `containernetworking-plugins` (C3).

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::life::{address, answers, answers_to, serve};
use crate::place::{PLUGIN, Place, Said, said, sh};

/// Where Debian puts them.
const PLUGINS: &str = "/usr/lib/cni";
/// What Debian 12's plugins speak.
const VERSION: &str = "1.0.0";

fn are_installed() -> bool {
    podway_needs::root_and_file(
        &Path::new(PLUGINS).join("portmap"),
        "containernetworking-plugins",
    )
}

/// A list of plugins on a node, and what the runtime remembers of a container.
struct Chain<'a> {
    place: &'a Place,
    plugins: Vec<Value>,
    /// What plugins that declare the capability are told.
    mappings: Value,
    result: Value,
}

impl<'a> Chain<'a> {
    /// podway-cni and one plugin after it.
    fn new(place: &'a Place, second: Value) -> Chain<'a> {
        Chain {
            place,
            plugins: vec![place.network(VERSION, Value::Null), second],
            mappings: Value::Null,
            result: Value::Null,
        }
    }

    fn run(&self, index: usize, command: &str, pod: usize) -> Said {
        let mut network = self.plugins[index].clone();
        network["cniVersion"] = json!(VERSION);
        network["name"] = json!("podway");
        if !self.result.is_null() {
            network["prevResult"] = self.result.clone();
        }
        if network["capabilities"]["portMappings"] == true {
            network["runtimeConfig"] = json!({"portMappings": self.mappings});
        }
        let program = match network["type"].as_str().expect("a type") {
            "podway-cni" => PathBuf::from(PLUGIN),
            name => Path::new(PLUGINS).join(name),
        };
        let child = self.place.spawn_plugin(&program, command, pod, &network);
        said(child.wait_with_output().expect("it ends"))
    }

    /// What the last plugin says of the container; the first one's word reaches it through the second.
    fn add(&mut self, pod: usize) -> Value {
        self.result = Value::Null;
        for index in 0..self.plugins.len() {
            self.result = self.run(index, "ADD", pod).result();
        }
        self.result.clone()
    }

    fn check(&self, pod: usize) {
        for index in 0..self.plugins.len() {
            self.run(index, "CHECK", pod).done();
        }
    }

    fn delete(&mut self, pod: usize) {
        for index in (0..self.plugins.len()).rev() {
            self.run(index, "DEL", pod).done();
        }
        self.result = Value::Null;
    }
}

#[test]
fn c3_tuning_and_sbr_change_the_interface_and_its_routes_and_check_tolerates_it() {
    if !are_installed() {
        return;
    }
    let place = Place::new("tuned", "10.244.1.0/24, \"fd44:0:0:1::/64\"", 2);
    let _agent = place.start();
    let server = place.add(1).result();
    serve(&place, 1);
    for (second, line, holds) in [
        (
            json!({"type": "tuning", "mtu": 1400, "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}}),
            "cat /proc/sys/net/ipv4/conf/eth0/arp_filter; ip link show eth0",
            "1\n",
        ),
        (
            json!({"type": "sbr"}),
            "ip rule; ip route show table all dev eth0 default",
            "from 10.244.1.",
        ),
    ] {
        let mut chain = Chain::new(&place, second);
        chain.add(0);
        let text = sh(&place.pod(0), line);
        assert!(text.contains(holds), "{text}");
        for index in [0, 1] {
            // sbr's tables are asked by the source: a socket that has none yet finds no route.
            let source = SocketAddr::new(address(&chain.result, index), 0);
            let target = SocketAddr::new(address(&server, index), 7777);
            let echoes = answers_to(&place.pod(0), source, target);
            assert!(echoes, "{target}: {text}");
        }
        chain.check(0);
        chain.delete(0);
        let again = sh(&place.pod(0), "ip rule del prio 100; ip -o link show eth0");
        assert!(again.contains("does not exist"), "{again}");
    }
    place.delete(1).done();
    place.is_clean();
}

/// Sends datagrams to a pod's port 7777 and counts those that come back.
fn echoed(place: &Place, pod: usize, target: IpAddr, count: usize) -> usize {
    let dial = || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bound");
        let timeout = Some(Duration::from_secs(2));
        socket.set_read_timeout(timeout).expect("set");
        socket.connect((target, 7777)).expect("connected");
        let mut echoed = 0;
        for _ in 0..count {
            socket.send(&[7; 1_000]).expect("sent");
            echoed += usize::from(socket.recv(&mut [0; 1_500]).is_ok());
        }
        echoed
    };
    place.pod(pod).inside(dial).expect("inside")
}

/// Half a megabyte each way through 80 kbit/s and 8 kB of burst, in each direction, would take a minute and a half.
#[test]
fn bandwidth_makes_its_queues_and_no_packet_passes_them() {
    if !are_installed() {
        return;
    }
    let place = Place::new("shaped", "10.244.1.0/24", 2);
    let _agent = place.start();
    let server = address(&place.add(1).result(), 0);
    serve(&place, 1);
    let mut chain = Chain::new(
        &place,
        json!({
            "type": "bandwidth",
            "ingressRate": 80_000, "ingressBurst": 64_000,
            "egressRate": 80_000, "egressBurst": 64_000,
        }),
    );
    chain.add(0);
    let host = chain.result["interfaces"][0]["name"].as_str();
    let host = host.expect("a name").to_owned();
    let queues = place.sh(&format!("tc qdisc show dev {host}"));
    assert!(
        queues.contains("tbf") && queues.contains("ingress"),
        "{queues}"
    );
    assert_eq!(echoed(&place, 0, server, 500), 500);
    let counted = place.sh(&format!("tc -s qdisc show dev {host}"));
    let words: Vec<&str> = counted.split_whitespace().collect();
    let packets = words.windows(2).filter(|pair| pair[1] == "pkt");
    let packets: Vec<u32> = packets
        .map(|pair| pair[0].parse().expect("a count"))
        .collect();
    assert_eq!(packets.len(), counted.matches("qdisc").count(), "{counted}");
    // The kernel's own first words on a link pass its queue; of the 500 there and 500 back nothing does.
    assert!(packets.iter().all(|count| *count < 10), "{counted}");
    chain.check(0);
    chain.delete(0);
    place.delete(1).done();
    place.is_clean();
}

/// Makes the namespace of a pod that no container has the world outside, 192.168.50.2 on the node's uplink.
fn world(place: &Place, pod: usize) {
    let world = place.netns(pod);
    let moved = place.sh(&format!(
        "ip link set wire0 netns {} && ip route add default via 192.168.50.2 && sysctl -qw net.ipv4.ip_forward=1",
        world.file_name().expect("a name").display()
    ));
    assert_eq!(moved, "");
    let made = sh(
        &place.pod(pod),
        "ip address add 192.168.50.2/24 dev wire0 && ip link set wire0 up && ethtool -K wire0 tx off >/dev/null",
    );
    assert_eq!(made, "");
}

/// Whether a host port answers the node itself and the world, with portmap after podway-cni.
fn mapped(test: &str, pod_spec: &str) -> [bool; 2] {
    let place = Place::new(test, "10.244.1.0/24", 2);
    let source = place.path("cluster/cluster.yaml");
    let text = fs::read_to_string(&source).expect("there");
    // The first address of the range is what the Pod object will say.
    let named = text
        .replacen("image: none", &format!("image: none{pod_spec}"), 1)
        .replacen("10.244.1.253", "10.244.1.2", 1);
    fs::write(&source, named).expect("written");
    world(&place, 1);
    let _agent = place.start();
    let second = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    let mut chain = Chain::new(&place, second);
    chain.mappings = json!([{"hostPort": 8080, "containerPort": 7777, "protocol": "udp"}]);
    chain.add(0);
    serve(&place, 0);
    let target = SocketAddr::from(([192, 168, 50, 1], 8080));
    let seen = [place.node(), place.pod(1)].map(|from| answers(&from, target));
    // Debian 12's portmap fails its own CHECK: it looks for its IPv4 rules among those of IPv6.
    chain.run(0, "CHECK", 0).done();
    chain.delete(0);
    assert!(!place.sh("iptables-save -t nat").contains("8080"));
    place.is_clean();
    seen
}

#[test]
fn portmap_opens_a_host_port_to_the_world_and_to_the_node() {
    if are_installed() {
        assert_eq!(mapped("mapped", ""), [true, true]);
    }
}

#[test]
fn s18_a_pods_own_host_port_is_not_in_portmaps_way() {
    if are_installed() {
        let own = ", ports: [{ containerPort: 7777, hostPort: 8080, protocol: UDP }]";
        assert_eq!(mapped("both", own), [true, true]);
    }
}
