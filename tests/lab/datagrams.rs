//! What clients of services meet on the way: small MTUs, hops, backends that are replaced, two translations in a row.

use std::fs;
use std::time::Duration;

use crate::bench::{Lab, eventually};
use crate::capture::{Capture, WIRE};
use crate::direct::counter;
use crate::services::ASK;
use crate::world::{copy, up, up_from};

#[test]
fn d2_too_big_datagrams_are_cut_or_their_sender_learns_the_paths_mtu() {
    if !podway_needs::root() {
        return;
    }
    let lab = up();
    for host in ["10.96.0.7", "fd96::7"] {
        let client = ["python3", "-c", include_str!("big_datagrams.py"), host];
        println!("{host}: {}", lab.must("default/client", &client));
    }
}

#[test]
fn d7_traceroute_through_a_service_shows_every_hop() {
    if !podway_needs::root() {
        return;
    }
    let lab = up();
    shows_every_hop(&lab);
}

/// Traceroute through a service on the other node sees this node, that one, and the service.
pub(crate) fn shows_every_hop(lab: &Lab) {
    for (service, hops) in [
        ("10.96.0.80", ["10.244.1.1", "10.244.2.1", "10.96.0.80"]),
        ("fd96::80", ["fd44:0:0:1::1", "fd44:0:0:2::1", "fd96::80"]),
    ] {
        let traceroute = [
            "traceroute",
            "-n",
            "-T",
            "-p",
            "80",
            "-q",
            "1",
            "-w",
            "2",
            "-m",
            "6",
            service,
        ];
        let text = lab.must("default/client", &traceroute);
        let seen: Vec<&str> = text
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().nth(1))
            .collect();
        assert_eq!(seen, hops, "{text}");
    }
}

#[test]
fn f6_a_client_that_keeps_its_port_reaches_the_pod_that_took_the_others_place() {
    if !podway_needs::root() {
        return;
    }
    let directory = copy("replaced");
    let lab = up_from(&directory);
    let count = 300;
    let client = |host: &str| {
        let text = count.to_string();
        let script = include_str!("keeps_sending.py");
        lab.spawn("default/client", &["python3", "-c", script, host, &text])
    };
    let remembered = || counter(&lab, "node1", "flow-hit");
    let before = remembered();
    let client = client("10.96.0.7");
    let is_under_way = || remembered() > before + 60;
    assert!(eventually(Duration::from_secs(4), is_under_way));
    let servers = directory.join("servers.yaml");
    let text = fs::read_to_string(&servers).expect("servers");
    let kept = text
        .split("---\n")
        .filter(|object| !object.contains("name: echo, labels: { app: echo }"));
    let replaced: Vec<String> = kept
        .map(|object| object.replace("app: echo-next", "app: echo"))
        .collect();
    fs::write(&servers, replaced.join("---\n")).expect("written");
    let output = client.wait_with_output().expect("it ends");
    let answered = String::from_utf8_lossy(&output.stdout).into_owned();
    let answered: Vec<u32> = answered
        .split_whitespace()
        .map(|number| number.parse().expect("a number"))
        .collect();
    let flows = lab.show("node1", "flows");
    let next = lab.address("default/echo-next", |ip| !ip.contains(':'));
    println!("{} of {count} answered", answered.len());
    assert!(answered.contains(&10), "by the first: {answered:?}");
    assert!(
        answered.contains(&(count - 10)),
        "by the second: {answered:?}"
    );
    let rows = flows["flows"].as_array().expect("flows").iter();
    let targets: Vec<&str> = rows
        .filter(|flow| flow["target"] == "10.96.0.7:7")
        .filter_map(|flow| flow["translated_target"].as_str())
        .collect();
    assert_eq!(
        targets,
        [format!("{next}:7777")],
        "F1: the old flow is gone"
    );
    drop(lab);
    fs::remove_dir_all(directory).expect("removed");
}

#[test]
fn f12_of_two_questions_at_once_from_one_socket_none_is_lost() {
    if !podway_needs::root() {
        return;
    }
    let count = std::env::var("PODWAY_QUESTIONS").unwrap_or_else(|_| "2000".to_owned());
    let lab = up();
    for server in ["10.96.0.53", "fd96::53"] {
        lab.must(
            "default/client",
            &["python3", "-c", ASK, server, "53", "udp", &count],
        );
    }
}

/// The part of a line of tcpdump after `start`, up to the next blank.
fn after<'a>(text: &'a str, start: &str) -> &'a str {
    let (_, rest) = text
        .split_once(start)
        .unwrap_or_else(|| panic!("{start} is not in:\n{text}"));
    rest.split([' ', ':']).next().expect("split gives one")
}

#[test]
fn s20_two_translations_in_a_row_are_as_they_should_be_at_each_hop() {
    if !podway_needs::root() {
        return;
    }
    let lab = up();
    let pod = lab.address("default/web", |ip| !ip.contains(':'));
    let wire = Capture::of(WIRE, "tcp or udp port 4789");
    let inside = Capture::of("podway-lab-pod-default-web", "tcp port 8080");
    let got = node_port(&lab);
    let (wire, inside) = (wire.lines().join("\n"), inside.lines().join("\n"));
    assert_eq!(got, "192.168.50.1");

    // Client to node port, and the answer from where it was asked.
    let client = after(&wire, "IP 192.168.50.254.");
    let asked = format!("IP 192.168.50.254.{client} > 192.168.50.1.30080: Flags [S],");
    let answered = format!("IP 192.168.50.1.30080 > 192.168.50.254.{client}: Flags [S.],");
    // First node to second in the tunnel, under the first node's address; the backend's answer goes back there.
    let port = after(&inside, "IP 192.168.50.1.");
    let number: u16 = port.parse().expect("a port");
    assert!(number >= 61_000, "F10: {port}");
    let masqueraded = format!("IP 192.168.50.1.{port} > {pod}.8080: Flags [S],");
    let returned = format!("IP {pod}.8080 > 192.168.50.1.{port}: Flags [S.],");
    for line in [&asked, &masqueraded, &returned, &answered] {
        assert!(wire.contains(line), "{line} on the wire:\n{wire}");
    }
    assert!(wire.contains("192.168.50.2.4789: VXLAN"), "{wire}");
    for line in [&masqueraded, &returned] {
        assert!(inside.contains(line), "{line} at the pod:\n{inside}");
    }
    assert!(!inside.contains("192.168.50.254"), "{inside}");
}

fn node_port(lab: &Lab) -> String {
    lab.must(
        "world",
        &[
            "curl",
            "--silent",
            "--max-time",
            "2",
            "http://192.168.50.1:30080/",
        ],
    )
}
