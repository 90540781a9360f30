//! A container's life as its runtime sees it.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use podway_host::Namespace;
use serde_json::{Value, json};

use crate::place::{Place, sh};

const BOTH: &str = "10.244.1.0/24, \"fd44:0:0:1::/64\"";

pub(crate) fn address(result: &Value, index: usize) -> IpAddr {
    let text = result["ips"][index]["address"]
        .as_str()
        .expect("an address");
    let (address, _) = text.split_once('/').expect("a length");
    address.parse().expect("an address")
}

/// Answers every datagram at port 7777 of a pod until the process ends.
pub(crate) fn serve(place: &Place, pod: usize) {
    let bind = || UdpSocket::bind("[::]:7777").expect("bound");
    let socket = place.pod(pod).inside(bind).expect("inside");
    thread::spawn(move || {
        let mut buffer = vec![0; 2_048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
}

fn echoes(place: &Place, pod: usize, target: IpAddr) -> bool {
    answers(&place.pod(pod), SocketAddr::new(target, 7777))
}

/// Whether a datagram comes back.
pub(crate) fn answers(from: &Namespace, target: SocketAddr) -> bool {
    let any = if target.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    answers_to(from, any.parse().expect("an address"), target)
}

/// Whether a datagram from this address comes back.
pub(crate) fn answers_to(from: &Namespace, source: SocketAddr, target: SocketAddr) -> bool {
    let dial = || {
        let socket = UdpSocket::bind(source).expect("bound");
        let timeout = Some(Duration::from_millis(500));
        socket.set_read_timeout(timeout).expect("set");
        socket.connect(target).is_ok()
            && socket.send(b"podway").is_ok()
            && socket.recv(&mut [0; 16]).is_ok()
    };
    from.inside(dial).expect("inside")
}

#[test]
fn c1_c3_containers_are_added_checked_and_deleted_with_the_agent_dying_in_between() {
    if !podway_needs::root() {
        return;
    }
    let place = Place::new("life", BOTH, 2);
    let mut agent = place.start();
    let quiet = |command: &str, pod, more| {
        place
            .run(command, pod, &place.network("1.1.0", more))
            .done()
    };
    quiet("STATUS", 0, Value::Null);

    let client = place.add(0).result();
    let server = place.add(1).result();
    let [v4, v6] = [0, 1].map(|index| address(&server, index));
    serve(&place, 1);
    for target in [v4, v6] {
        assert!(echoes(&place, 0, target), "{target}");
    }
    let neighbours = sh(&place.pod(0), "ip neighbour show nud permanent");
    assert!(neighbours.contains("10.244.1.1 dev eth0"), "{neighbours}");

    // What later plugins add is theirs.
    let mut chained = client.clone();
    chained["interfaces"]
        .as_array_mut()
        .expect("a list")
        .push(json!({"name": "ifb0"}));
    chained["ips"]
        .as_array_mut()
        .expect("a list")
        .push(json!({"address": "192.0.2.1/32"}));
    for previous in [&client, &chained] {
        quiet("CHECK", 0, json!({"prevResult": previous}));
    }

    agent.kill();
    assert!(!echoes(&place, 0, v4), "D10: pods are closed");
    let mut agent = place.start();
    assert!(
        echoes(&place, 0, v4),
        "adopted with the addresses that it was given"
    );
    quiet("CHECK", 0, json!({"prevResult": client}));

    agent.kill();
    place.delete(0).done();
    place.delete(0).done();
    assert_eq!((place.wires(), place.records().len()), (1, 1));
    let agent = place.start();
    assert_eq!(
        place.ports(),
        1,
        "what was deleted meanwhile is not adopted"
    );
    let mut again = place.add(0).result();
    assert_ne!(
        address(&again, 0),
        address(&client, 0),
        "a freed address rests"
    );
    assert!(echoes(&place, 0, v4));

    for (breaks, says) in [
        (
            "ip neighbour del 10.244.1.1 dev eth0",
            "eth0 has lost its gateway's Ethernet address: 10.244.1.1 is at ".to_owned(),
        ),
        (
            "ip route replace default via 10.244.1.1 dev eth0 onlink mtu lock 1400",
            "the route to 0.0.0.0/0 by 10.244.1.1 of eth0 has lost its MTU 61000".to_owned(),
        ),
        (
            "ip -6 route del default",
            "eth0 has lost its route to ::/0 by fd44:0:0:1::1".to_owned(),
        ),
        (
            "ip address del $(ip -4 -o address show eth0 | awk '{print $4}') dev eth0",
            "eth0 has lost its address 10.244.1.".to_owned(),
        ),
        (
            "ip link set eth0 address 02:00:00:00:00:77",
            "eth0 has the Ethernet address 02:00:00:00:00:77 instead of ".to_owned(),
        ),
        (
            "ip link del eth0",
            "there is no interface eth0 in the container".to_owned(),
        ),
    ] {
        let check = place.network("1.1.0", json!({"prevResult": again}));
        place.run("CHECK", 0, &check).done();
        assert_eq!(sh(&place.pod(0), breaks), "", "{breaks}");
        let (code, text) = place.run("CHECK", 0, &check).error();
        assert_eq!(code, 104, "{text}");
        assert!(text.starts_with(&says), "{text}");
        place.delete(0).done();
        again = place.add(0).result();
    }

    for pod in [0, 1, 0] {
        place.delete(pod).done();
    }
    let check = place.network("1.1.0", json!({"prevResult": again}));
    let (code, _) = place.run("CHECK", 0, &check).error();
    assert_eq!(code, 104);
    place.is_clean();
    assert_eq!(place.ports(), 0);
    drop(agent);
}

#[test]
fn c6_results_have_the_shape_of_the_version_that_asks() {
    if !podway_needs::root() {
        return;
    }
    let place = Place::new("shape", BOTH, 1);
    let _agent = place.start();
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let network = place.network(version, json!({"dns": {"nameservers": ["10.96.0.10"]}}));
        let result = place.run("ADD", 0, &network).result();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["dns"]["nameservers"][0], "10.96.0.10");
        let interfaces = &result["interfaces"];
        assert_eq!(interfaces[1]["name"], "eth0");
        assert_eq!(interfaces[1]["sandbox"], json!(place.netns(0)));
        let link = sh(&place.pod(0), "ip -o link show eth0");
        assert!(
            link.contains(interfaces[1]["mac"].as_str().expect("a MAC")),
            "{link}"
        );
        let host = interfaces[0]["name"].as_str().expect("a name");
        assert!(place.sh(&format!("ip -o link show {host}")).contains(",UP"));
        for (index, gateway, family) in [(0, "10.244.1.1", "4"), (1, "fd44:0:0:1::1", "6")] {
            let ip = &result["ips"][index];
            assert_eq!(
                (&ip["gateway"], &ip["interface"]),
                (&json!(gateway), &json!(1))
            );
            let expected = if version < "1.0.0" {
                json!(family)
            } else {
                Value::Null
            };
            assert_eq!(ip["version"], expected, "{version}");
        }
        let mtus = [&interfaces[1]["mtu"], &result["routes"][1]["mtu"]];
        let expected = if version == "1.1.0" {
            [json!(61_000), json!(61_000)]
        } else {
            [Value::Null, Value::Null]
        };
        assert_eq!(mtus, expected.each_ref(), "{version}");
        place.run("DEL", 0, &network).done();
    }
    place.is_clean();
}

#[test]
fn c5_gc_removes_what_is_not_listed_and_keeps_going_on_errors() {
    if !podway_needs::root() {
        return;
    }
    let place = Place::new("gc", BOTH, 4);
    let _agent = place.start();
    for pod in 0..3 {
        place.add(pod).result();
    }
    let other = place.network("1.1.0", json!({"name": "another"}));
    place.run("ADD", 3, &other).result();
    std::fs::write(place.path("state/broken@eth0.json"), "{").expect("written");

    let valid =
        json!({"cni.dev/valid-attachments": [{"containerID": "c0ffee-1", "ifname": "eth0"}]});
    let (code, text) = place
        .run("GC", 0, &place.network("1.1.0", valid.clone()))
        .error();
    assert_eq!(code, 5);
    assert!(text.contains("broken@eth0.json"), "{text}");
    std::fs::remove_file(place.path("state/broken@eth0.json")).expect("removed");
    let left: Vec<_> = place.records().into_iter().map(|it| it.pod).collect();
    assert_eq!(left, ["shop/pod-1", "shop/pod-3"]);
    assert_eq!((place.wires(), place.ports()), (2, 2));
    place.run("GC", 0, &place.network("1.1.0", valid)).done();
    assert_eq!(place.wires(), 2);
}

#[test]
fn c2_a_second_interface_of_a_pod_is_refused_and_the_first_goes_on() {
    if !podway_needs::root() {
        return;
    }
    let place = Place::new("second", BOTH, 2);
    let _agent = place.start();
    let target = address(&place.add(1).result(), 0);
    place.add(0).result();
    serve(&place, 1);
    place.until("answered", || echoes(&place, 0, target));
    // As multus asks for it: the same container, another network and device.
    let network = place.network("0.4.0", json!({"name": "second"}));
    let (code, text) = place.run_for("net1", "ADD", 0, &network).error();
    assert_eq!(code, 101);
    assert!(text.contains("eth0 of podway already"), "{text}");
    assert!(echoes(&place, 0, target), "the first interface is mute");
    place.run_for("net1", "DEL", 0, &network).done();
    assert!(echoes(&place, 0, target), "the first interface is mute");
    assert_eq!((place.wires(), place.ports()), (2, 2));
    for pod in 0..2 {
        place.delete(pod).done();
    }
    place.is_clean();
}
