//! What a node's own processes dial: service ranges that are read from the cluster, and the node's own addresses.

use ipnet::IpNet;
use podway_intent::*;
use podway_tables::{Found, ServiceKey};
use podway_wire::Protocol;

use crate::build::*;

const HERE: &str = "n1";

fn here() -> Change {
    node(HERE, "192.168.0.1 fd50::1", "10.244.1.0/24 fd44::/64")
}

fn service_cidr(name: &str, ranges: &str) -> Change {
    Change::ServiceCidr(ServiceCidr {
        name: name.into(),
        ranges: ranges.split_whitespace().map(net).collect(),
    })
}

fn local(compiled: &Compiled) -> Vec<String> {
    compiled.plan.local.iter().map(IpNet::to_string).collect()
}

fn found(compiled: &Compiled, address: &str) -> Found {
    compiled.snapshot.services.find(&ServiceKey {
        addr: addr(address),
        port: 9,
        protocol: Protocol::TCP,
    })
}

#[test]
fn r7_s11_the_clusters_own_ranges_count_and_the_configured_ones_where_it_has_none() {
    let mut compiler = Compiler::new(HERE);
    let mut facts = cluster([here(), Change::Setup(setup())]);
    let configured = ["10.96.0.0/16", "10.244.1.0/24", "fd44::/64", "fd96::/112"];
    let compiled = compiler.compile(&facts);
    assert_eq!(local(&compiled), configured);
    assert_eq!(found(&compiled, "10.96.1.1"), Found::Unallocated);

    facts.apply(service_cidr("kubernetes", "172.20.0.0/16 fd20::/112"));
    facts.apply(service_cidr("more", "172.21.0.0/24"));
    let compiled = compiler.compile(&facts);
    assert_eq!(
        local(&compiled),
        [
            "10.244.1.0/24",
            "172.20.0.0/16",
            "172.21.0.0/24",
            "fd20::/112",
            "fd44::/64"
        ]
    );
    assert_eq!(found(&compiled, "10.96.1.1"), Found::Nothing);
    for inside in ["172.20.1.1", "172.21.0.1", "fd20::1"] {
        assert_eq!(found(&compiled, inside), Found::Unallocated, "{inside}");
    }

    facts.apply(Change::Gone(Key::ServiceCidr("more".into())));
    facts.apply(Change::Gone(Key::ServiceCidr("kubernetes".into())));
    assert_eq!(local(&compiler.compile(&facts)), configured);
}

#[test]
fn r7_cluster_addresses_outside_of_the_ranges_are_taken_as_they_are_and_named() {
    let mut compiler = Compiler::new(HERE);
    let mut facts = cluster([
        here(),
        Change::Setup(setup()),
        Change::Service(service("a/in", "10.96.0.1")),
        Change::Service(service("a/out", "172.31.0.9 fd31::9")),
        // A node's address stays the node's, whatever a service says.
        Change::Service(service("a/node", "192.168.0.1")),
        Change::Service(service("a/local", "127.0.0.1")),
    ]);
    let has = |compiled: &Compiled, range: &str| local(compiled).contains(&range.to_owned());
    let compiled = compiler.compile(&facts);
    assert!(has(&compiled, "172.31.0.9/32") && has(&compiled, "fd31::9/128"));
    assert!(!has(&compiled, "10.96.0.1/32"), "it is in the range");
    assert!(!has(&compiled, "192.168.0.1/32") && !has(&compiled, "127.0.0.1/32"));
    let texts: Vec<String> = compiled.problems.iter().map(Problem::to_string).collect();
    assert_eq!(
        texts,
        [
            "service a/out: cluster address 172.31.0.9 is outside of the service ranges 10.96.0.0/16, fd96::/112, and so are 2 others: it is taken by itself; set `service_ranges` to what the cluster gives addresses from"
        ]
    );

    facts.apply(Change::Service(service("a/out", "172.31.0.10")));
    let compiled = compiler.compile(&facts);
    assert!(!has(&compiled, "172.31.0.9/32") && has(&compiled, "172.31.0.10/32"));
    facts.apply(service_cidr("kubernetes", "172.31.0.0/16"));
    let compiled = compiler.compile(&facts);
    assert!(!has(&compiled, "172.31.0.10/32"), "it is in the range now");
    assert!(has(&compiled, "10.96.0.1/32"), "and this one no more");
    facts.apply(Change::Gone(Key::Service(name("a/in"))));
    assert!(!has(&compiler.compile(&facts), "10.96.0.1/32"));
}

#[test]
fn s26_ports_at_the_nodes_own_addresses_are_planned_for_its_own_processes() {
    let mut web = service("a/web", "10.96.0.1 fd96::1");
    web.ports[0].node_port = Some(30_080);
    web.load_balancer_ips = vec![
        (ip("192.168.0.1"), IpMode::Vip),
        (ip("203.0.113.1"), IpMode::Vip),
    ];
    let host_port = |ip: Option<&str>, port| HostPort {
        ip: ip.map(crate::build::ip),
        protocol: Protocol::UDP,
        port,
        target: 53,
    };
    let pod = Pod {
        host_ports: vec![host_port(Some("127.0.0.1"), 53), host_port(None, 54)],
        ..pod("a/own", HERE, "10.244.1.7", "")
    };
    let facts = cluster([
        here(),
        Change::Setup(setup()),
        Change::Service(web),
        Change::Pod(pod),
    ]);
    let compiled = compile(&facts, HERE);
    let own = |address: &str, protocol, port| (ip(address), protocol, port);
    assert_eq!(
        compiled.plan.own_ports,
        [
            own("127.0.0.1", Protocol::UDP, 53),
            own("127.0.0.1", Protocol::UDP, 54),
            own("192.168.0.1", Protocol::TCP, 80),
            own("192.168.0.1", Protocol::TCP, 30_080),
            own("192.168.0.1", Protocol::UDP, 54),
            own("fd50::1", Protocol::TCP, 30_080),
        ]
    );
    // What is on the loopback only is nothing to the wire.
    assert!(!compiled.plan.node_ports.contains(&(Protocol::UDP, 53)));
    assert!(compiled.plan.node_ports.contains(&(Protocol::UDP, 54)));
    assert_eq!(compiled.problems, []);
}
