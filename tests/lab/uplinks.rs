//! Devices beside the first that routes lead to: bridges and what is on top of others, gone and back, renamed and replaced.

use crate::bench::{Lab, eventually, root};
use crate::direct::both_families;
use crate::storage::{PATIENCE, POD, Storage, all_are_reached, node_ip, refusal, told};
use crate::world;

/// Gives the addresses and routes of `eth1` to another device.
fn moves_to(lab: &Lab, device: &str) {
    for line in [
        "addr flush dev eth1 scope global".to_owned(),
        format!("link set {device} up"),
        format!("addr add 10.9.0.1/24 dev {device}"),
        format!("addr add fd09::1/64 dev {device} nodad"),
        "route replace 10.20.0.0/16 via 10.9.0.2".to_owned(),
        "route replace fd20::/64 via fd09::2".to_owned(),
    ] {
        node_ip(lab, &line);
    }
}

fn ports(lab: &Lab) -> String {
    lab.show("node1", "ports").to_string()
}

#[test]
fn r1_the_first_packet_to_a_neighbour_waits_for_it_and_is_answered_if_there_is_none() {
    if !podway_needs::root() {
        return;
    }
    let lab = Lab::up(&root().join("tests/manifests/plain"));
    let storage = Storage::join(&lab);
    let _server = storage.tells_peers();
    storage.ip("addr add 10.9.0.3/24 dev eth0");
    storage.ip("addr add fd09::3/64 dev eth0 nodad");
    all_are_reached(&lab, "at first");
    for (address, nobody) in [("10.9.0.3", "10.9.0.99"), ("fd09::3", "fd09::99")] {
        assert!(
            lab.pings(POD, address),
            "{address}: one packet, and one second"
        );
        assert_eq!(refusal(&lab, nobody), "No route to host", "{nobody}");
    }
}

#[test]
fn r1_routes_lead_by_bridges_and_by_devices_on_top_of_others() {
    if !podway_needs::root() {
        return;
    }
    let lab = Lab::up(&root().join("tests/manifests/plain"));
    let storage = Storage::join(&lab);
    let _server = storage.tells_peers();
    all_are_reached(&lab, "by the device itself");
    node_ip(&lab, "link add mac1 link eth1 type macvlan mode private");
    moves_to(&lab, "mac1");
    all_are_reached(&lab, "by a macvlan device");
    node_ip(&lab, "link del mac1");
    node_ip(&lab, "link add br1 type bridge forward_delay 0");
    node_ip(&lab, "link set eth1 master br1");
    moves_to(&lab, "br1");
    all_are_reached(&lab, "by a bridge");
    assert!(ports(&lab).contains("uplink:br1"), "{}", ports(&lab));
}

#[test]
fn r1_a_device_goes_down_and_comes_back_under_another_name_or_as_another() {
    if !podway_needs::root() {
        return;
    }
    let lab = Lab::up(&root().join("tests/manifests/plain"));
    let storage = Storage::join(&lab);
    let _server = storage.tells_peers();
    all_are_reached(&lab, "at first");
    node_ip(&lab, "link set eth1 down");
    // The default route leads there now, where nobody has that address.
    let is_cut_off = || told(&lab, "10.9.0.2", 7000).is_empty();
    assert!(eventually(PATIENCE, is_cut_off));
    node_ip(&lab, "link set eth1 name stor0");
    for line in [
        "link set stor0 up",
        "addr add fd09::1/64 dev stor0 nodad",
        "route add 10.20.0.0/16 via 10.9.0.2",
        "route add fd20::/64 via fd09::2",
    ] {
        node_ip(&lab, line);
    }
    all_are_reached(&lab, "by its new name");
    let is_renamed = || ports(&lab).contains("uplink:stor0");
    assert!(eventually(PATIENCE, is_renamed), "{}", ports(&lab));
    node_ip(&lab, "link del stor0");
    let is_gone = || !ports(&lab).contains("stor0");
    assert!(eventually(PATIENCE, is_gone), "{}", ports(&lab));
    storage.plug_in(&lab);
    all_are_reached(&lab, "by the device in its place");
}

#[test]
fn r1_s9_clients_by_the_second_device_reach_services_and_are_answered_there() {
    if !podway_needs::root() {
        return;
    }
    let lab = world::up();
    let storage = Storage::join(&lab);
    storage.ip("route add 203.0.113.0/24 via 10.9.0.1");
    storage.ip("route add 2001:db8::/32 via fd09::1");
    let dials = |url: &str| {
        let mut curl = storage.run(&["curl", "--silent", "--fail", "--max-time", "2", url]);
        curl.child.wait().expect("it ends").success()
    };
    for url in ["http://203.0.113.80/", "http://[2001:db8:1::80]/"] {
        assert!(eventually(PATIENCE, || dials(url)), "{url}");
    }
}

#[test]
fn r1_d8_the_tunnel_follows_the_route_to_a_node_by_another_device() {
    if !podway_needs::root() {
        return;
    }
    let lab = Lab::up(&root().join("tests/manifests/plain"));
    let far_node = lab.node("node2")["namespace"].to_string();
    let far_node = far_node.trim_matches('"');
    node_ip(
        &lab,
        &format!("link add eth1 type veth peer name eth1 netns {far_node}"),
    );
    let nodes = [("node:node1", 1, 2), ("node:node2", 2, 1)];
    let ip = |node: &str, line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        lab.must(node, &[&["ip"], &words[..]].concat());
    };
    for (node, own, _) in nodes {
        ip(node, &format!("addr add 10.8.0.{own}/24 dev eth1"));
        ip(node, "link set eth1 up");
    }
    for (node, _, other) in nodes {
        let route = format!("route add 192.168.50.{other}/32 via 10.8.0.{other}");
        ip(node, &route);
    }
    let sent = |name: &str| {
        let ports = lab.show("node1", "ports");
        let mut rows = ports.as_array().expect("rows").iter();
        let row = rows.find(|row| row["name"] == name);
        row.map_or(0, |row| row["tx_packets"].as_u64().expect("a count"))
    };
    for far in both_families(&lab, "default/side") {
        let goes_by_it = || {
            let before = sent("uplink:eth1");
            lab.pings(POD, &far) && sent("uplink:eth1") > before
        };
        assert!(eventually(PATIENCE, goes_by_it), "{far}");
        let before = sent("uplink");
        assert!(lab.pings(POD, &far), "{far}");
        assert_eq!(sent("uplink"), before, "{far} goes by the new way alone");
    }
    assert_eq!(
        lab.show("node1", "status")["node_problems"].to_string(),
        "[]"
    );
}
