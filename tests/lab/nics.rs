//! Uplinks that are no plain wires: devices on top of others, and devices of the machine with queues of their own.

use std::process::Command;

use crate::bench::{Lab, eventually, no_wrong_cell, root};
use crate::deaths::{kill_agent, restart};
use crate::storage::{PATIENCE, node_ip};

/// Ends that the machine lends to a lab as its nodes' uplinks.
const LENT: [&str; 2] = ["pwnic0", "pwnic1"];
const CONFIG: &str = "/run/podway-lab/node1.toml";

/// What an agent says of a node's uplink.
fn uplink(lab: &Lab) -> String {
    lab.show("node1", "status")["uplinks"][0].to_string()
}

/// Moves node1's addresses from one device to another, and the agent with them.
fn moves(lab: &Lab, from: &str, to: &str) {
    let shown = lab.must("node:node1", &["ip", "-j", "addr", "show", "dev", from]);
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    let addresses = shown[0]["addr_info"].as_array().expect("addresses");
    let addresses: Vec<String> = addresses
        .iter()
        .filter(|it| it["scope"] == "global")
        .map(|it| {
            format!(
                "{}/{}",
                it["local"].as_str().expect("text"),
                it["prefixlen"]
            )
        })
        .collect();
    node_ip(lab, &format!("addr flush dev {from} scope global"));
    node_ip(lab, &format!("link set {to} up"));
    for address in addresses {
        node_ip(lab, &format!("addr add {address} dev {to} nodad"));
    }
    let config = std::fs::read_to_string(CONFIG).expect("the agent's");
    let moved = config.replace(&format!("\"{from}\""), &format!("\"{to}\""));
    assert_ne!(config, moved, "the configuration names the uplink");
    std::fs::write(CONFIG, moved).expect("it is ours");
}

fn all_cells_are_right(lab: &Lab, when: &str) {
    let is_right = || lab.check()["wrong"] == 0;
    assert!(eventually(PATIENCE, is_right), "{when}: {}", lab.check());
    no_wrong_cell(lab);
}

#[test]
fn nic3_what_is_on_top_of_an_earlier_uplink_is_carried_and_nothing_is_left_below_it() {
    if !podway_needs::root() {
        return;
    }
    for (to, made) in [
        (
            "mac0",
            &["link add mac0 link eth0 type macvlan mode passthru"][..],
        ),
        (
            "br0",
            &[
                "link add br0 type bridge forward_delay 0 mcast_snooping 0",
                "link set eth0 master br0",
            ],
        ),
    ] {
        let lab = Lab::up(&root().join("tests/manifests/plain"));
        // The program stays where the killed agent had it, and drops what is for pods.
        kill_agent(&lab, "node1");
        for line in made {
            node_ip(&lab, line);
        }
        moves(&lab, "eth0", to);
        let mut agent = restart(&lab, "node1");
        all_cells_are_right(&lab, to);
        let said = uplink(&lab);
        assert!(said.contains("generic copy"), "{said}");
        assert!(
            said.contains("the XDP program is not in the driver"),
            "{said}"
        );
        let below = lab.must("node:node1", &["ip", "link", "show", "eth0"]);
        assert!(!below.contains("xdp"), "{below}");
        agent.kill().expect("it runs");
        agent.wait().expect("it has ended");
    }
}

/// Two joined devices of the machine with four queues each way; gone with this value.
struct Lent;

impl Lent {
    fn make() -> Lent {
        let _ = ip(&format!("link del {}", LENT[0]));
        let [one, other] = LENT;
        let queues = "numrxqueues 4 numtxqueues 4";
        let made = ip(&format!(
            "link add {one} {queues} type veth peer name {other} {queues}"
        ));
        assert!(made, "veth devices have queues");
        Lent
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let _ = ip(&format!("link del {}", LENT[0]));
    }
}

fn ip(line: &str) -> bool {
    let mut command = Command::new("ip");
    let status = command.args(line.split(' ')).status();
    status.expect("ip runs").success()
}

/// The queues that packets come in by, of those that node1's uplink could have.
fn receiving(lab: &Lab) -> String {
    let shown = lab.must("node:node1", &["ethtool", "-l", "eth0"]);
    let now = shown.split("Current hardware settings").nth(1);
    let rx = now.and_then(|it| it.lines().find_map(|line| line.strip_prefix("RX:")));
    rx.expect("a number").trim().to_owned()
}

#[test]
fn nic1_queues_without_a_worker_are_given_up_at_the_start_and_when_others_take_more() {
    if !podway_needs::root() {
        return;
    }
    let lent = Lent::make();
    let [one, other] = LENT;
    let uplinks = [format!("node1={one}"), format!("node2={other}")];
    let plain = root().join("tests/manifests/plain");
    let lab = Lab::up_with(&plain, &["--uplink", &uplinks[0], "--uplink", &uplinks[1]]);
    all_cells_are_right(&lab, "by devices of the machine");
    assert_eq!(receiving(&lab), "1");
    lab.must("node:node1", &["ethtool", "-L", "eth0", "rx", "3"]);
    assert!(eventually(PATIENCE, || receiving(&lab) == "1"));
    all_cells_are_right(&lab, "after others took more");
    let status = lab.show("node1", "status");
    assert_eq!(status["in_force"], true, "{status}");
    let undo = std::fs::read_to_string("/run/podway-lab/node1.nic.sh");
    assert_eq!(undo.expect("what puts it back"), "ethtool -L eth0 rx 4\n");
    drop(lab);
    assert!(
        LENT.iter().all(|name| ip(&format!("link show {name}"))),
        "what was lent is given back"
    );
    drop(lent);
}
