//! What fails says so by code and sentence, and leaves nothing behind (C2, C4, C7).

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::thread;

use serde_json::{Value, json};

use crate::place::{Place, sh};

const ONE: &str = "10.244.1.0/24";

/// Stands in for an agent: says what wires are made of, and to all else what it is told, or hangs up.
fn stand_in(place: &Place, answer: Option<&'static str>) {
    let listener = UnixListener::bind(place.socket()).expect("bound");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut line = String::new();
            BufReader::new(&stream)
                .read_line(&mut line)
                .expect("a line");
            let said = match line.trim_end() {
                "\"network\"" => {
                    let network = json!({"ok": {
                        "pod_ranges": ["10.244.1.0/24"], "queues": 1, "pod_mtu": 61_000, "tunnel_mtu": 1_450,
                        "gateway_mac": "02:00:00:00:00:01", "problem": null,
                    }});
                    Some(network.to_string())
                }
                _ => answer.map(str::to_owned),
            };
            if let Some(said) = said {
                let _ = writeln!(stream, "{said}");
            }
        }
    });
}

#[test]
fn c7_add_is_code_11_and_makes_nothing_while_the_agent_is_down() {
    if !podway_needs::root() {
        return;
    }
    let place = Place::new("down", ONE, 1);
    let (code, text) = place.add(0).error();
    assert_eq!(code, 11);
    assert!(text.starts_with("no agent answers on "), "{text}");
    let status = place.network("1.1.0", Value::Null);
    assert_eq!(place.run("STATUS", 0, &status).error().0, 51);
    place.delete(0).done();
    place.is_clean();
    assert!(!place.path("state").exists());
}

#[test]
fn c2_an_agent_that_refuses_is_code_102_and_nothing_is_left() {
    if !podway_needs::root() {
        return;
    }
    let place = Place::new("refused", ONE, 1);
    stand_in(&place, Some("{\"error\":\"all ports are taken\"}"));
    assert_eq!(
        place.add(0).error(),
        (102, "all ports are taken".to_owned())
    );
    place.is_clean();
}

#[test]
fn c2_c7_an_agent_that_dies_meanwhile_is_code_11_and_nothing_is_left() {
    if !podway_needs::root() {
        return;
    }
    let place = Place::new("dies", ONE, 1);
    stand_in(&place, None);
    let (code, text) = place.add(0).error();
    assert_eq!(code, 11, "{text}");
    place.is_clean();
}

#[test]
fn c2_a_wire_that_does_not_start_in_time_is_code_11_and_nothing_is_left() {
    if !podway_needs::root() {
        return;
    }
    let place = Place::new("idle", ONE, 1);
    // An agent that says so, but leaves the host's end down.
    stand_in(&place, Some("{\"ok\":{}}"));
    let (code, text) = place.add(0).error();
    assert_eq!(code, 11, "{text}");
    assert!(
        text.starts_with("interface eth0 carries no packets after 10 s: "),
        "{text}"
    );
    place.is_clean();
}

#[test]
fn c2_a_kernel_that_refuses_is_code_103_and_nothing_is_left() {
    if !podway_needs::root() {
        return;
    }
    let place = Place::new("kernel", ONE, 1);
    stand_in(&place, None);
    // A default route of somebody else's, which ours would not join.
    let made = sh(
        &place.pod(0),
        "ip link add other type veth peer name other1 && ip link set other up && ip route add default dev other",
    );
    assert_eq!(made, "");
    let (code, text) = place.add(0).error();
    assert_eq!(code, 103, "{text}");
    assert!(
        text.starts_with("pod shop/pod-0: cannot add route 0.0.0.0/0: "),
        "{text}"
    );
    place.is_clean();
}

#[test]
fn c4_a_full_range_is_code_100_and_status_50() {
    if !podway_needs::root() {
        return;
    }
    let place = Place::new("full", "10.244.1.0/29, \"fd44:0:0:1::/64\"", 6);
    let _agent = place.start();
    let status = place.network("1.1.0", Value::Null);
    for pod in 0..5 {
        place.run("STATUS", 0, &status).done();
        place.add(pod).result();
    }
    let full = "the node's pod range 10.244.1.0/29 is full: ";
    let (code, text) = place.add(5).error();
    assert_eq!(code, 100);
    assert!(text.starts_with(full), "{text}");
    let (code, text) = place.run("STATUS", 0, &status).error();
    assert_eq!(code, 50);
    assert!(text.starts_with(full), "{text}");
    assert_eq!((place.wires(), place.records().len()), (5, 5));
    place.delete(2).done();
    place.run("STATUS", 0, &status).done();
    place.add(5).result();
    for pod in 0..6 {
        place.delete(pod).done();
    }
    place.is_clean();
}

#[test]
fn an_interface_name_that_exists_is_code_101_and_stays_as_it_is() {
    if !podway_needs::root() {
        return;
    }
    let place = Place::new("exists", ONE, 2);
    let _agent = place.start();
    sh(&place.pod(0), "ip link add eth0 type veth peer name other");
    let (code, text) = place.add(0).error();
    assert_eq!(code, 101);
    assert!(
        text.starts_with("CNI_IFNAME: there is an interface eth0 in /run/netns/"),
        "{text}"
    );
    assert!(sh(&place.pod(0), "ip -o link show eth0").contains("eth0@other"));
    sh(&place.pod(0), "ip link del eth0");

    let result = place.add(1).result();
    assert_eq!(place.add(1).error().0, 101, "a second ADD without a DEL");
    let check = place.network("1.1.0", json!({"prevResult": result}));
    place.run("CHECK", 1, &check).done();
    assert_eq!(place.records().len(), 1);
    place.delete(1).done();
    place.is_clean();
}

#[test]
fn a_missing_netns_is_code_3() {
    if !podway_needs::root() {
        return;
    }
    let place = Place::new("gone", ONE, 1);
    podway_host::Namespace::remove(&format!("podway-test-cni-{}-0", "gone")).expect("removed");
    let (code, text) = place.add(0).error();
    assert_eq!(code, 3);
    assert!(
        text.starts_with("CNI_NETNS: network namespace /run/netns/podway-test-cni-gone-0"),
        "{text}"
    );
    place.delete(0).done();
    assert_eq!((place.wires(), place.records().len()), (0, 0));
}

#[test]
fn install_writes_program_and_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let output = Command::new(env!("CARGO_BIN_EXE_podway"))
        .args(["cni", "install", "--socket", "/run/x.sock", "--bin-dir"])
        .arg(path("bin"))
        .arg("--conf-dir")
        .arg(path("net.d"))
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{output:?}");
    let built = fs::read(env!("CARGO_BIN_EXE_podway-cni")).expect("built");
    for name in ["bin/podway-cni", "bin/loopback"] {
        assert_eq!(fs::read(path(name)).expect("installed"), built, "{name}");
    }
    let text = fs::read(path("net.d/10-podway.conflist")).expect("installed");
    let value: Value = serde_json::from_slice(&text).expect("JSON");
    assert_eq!(value["plugins"][0]["type"], "podway-cni");
    assert_eq!(value["plugins"][0]["socket"], "/run/x.sock");
    let version = Command::new(path("bin/podway-cni"))
        .env("CNI_COMMAND", "VERSION")
        .output();
    assert!(version.expect("it runs").status.success());
}
