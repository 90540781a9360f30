//! Where services answer beside their cluster addresses, and whom each address leads to, row by row.

use podway_intent::*;
use podway_tables::{Client, Found, FrontendKind, Hop, Reach, Service as Table, ServiceKey};
use podway_wire::Protocol;

use crate::build::*;

const HERE: &str = "n1";

/// This node with two addresses of IPv4 and one of IPv6, in zone `za`.
fn here(zone: &str) -> Change {
    let Change::Node(mut here) = node(HERE, "192.168.0.1 192.168.0.3 fd50::1", "10.244.1.0/24")
    else {
        panic!("a node");
    };
    here.labels = labels(zone);
    Change::Node(here)
}

fn with(alter: impl FnOnce(&mut NodeSetup)) -> Change {
    let mut setup = setup();
    alter(&mut setup);
    Change::Setup(setup)
}

fn nets(text: &str) -> Vec<ipnet::IpNet> {
    text.split_whitespace().map(net).collect()
}

/// Service `a/web` of both families with every kind of address: node port 30080.
fn outward() -> Service {
    let vip = |text| (ip(text), IpMode::Vip);
    let mut service = Service {
        external_ips: ips("198.51.100.9 192.168.0.3"),
        load_balancer_ips: vec![
            vip("198.51.100.1"),
            (ip("198.51.100.2"), IpMode::Proxy),
            vip("fdee::1"),
        ],
        ..service("a/web", "10.96.0.1 fd96::1")
    };
    service.ports[0].node_port = Some(30_080);
    service
}

fn compiled(changes: impl IntoIterator<Item = Change>) -> Compiled {
    compile(&cluster(changes), HERE)
}

fn found(compiled: &Compiled, addr: &str, port: u16) -> Option<FrontendKind> {
    let key = ServiceKey {
        addr: crate::build::addr(addr),
        port,
        protocol: Protocol::TCP,
    };
    match compiled.snapshot.services.find(&key) {
        Found::Frontend(frontend) => Some(frontend.kind),
        Found::WrongPort | Found::Unallocated | Found::Nothing => None,
    }
}

/// The service port at TCP 80 of an address.
fn at<'a>(compiled: &'a Compiled, addr: &str) -> &'a Table {
    let key = ServiceKey {
        addr: crate::build::addr(addr),
        port: 80,
        protocol: Protocol::TCP,
    };
    let Found::Frontend(frontend) = compiled.snapshot.services.find(&key) else {
        panic!("no service at {addr}");
    };
    let service = compiled.snapshot.services.service(frontend.service);
    service.expect("a service")
}

fn texts(compiled: &Compiled) -> Vec<String> {
    compiled.problems.iter().map(Problem::to_string).collect()
}

#[test]
fn s12_node_ports_answer_on_the_primary_addresses_or_on_the_chosen_ones() {
    let all = [
        "192.168.0.1",
        "192.168.0.3",
        "fd50::1",
        "127.0.0.1",
        "198.51.100.1",
    ];
    for (chosen, expected) in [
        ("", vec!["192.168.0.1", "fd50::1"]),
        ("192.168.0.3/32", vec!["192.168.0.3"]),
        ("0.0.0.0/0 127.0.0.0/8", vec!["192.168.0.1", "192.168.0.3"]),
        ("::/0", vec!["fd50::1"]),
    ] {
        let setup = with(|setup| setup.node_port_addresses = nets(chosen));
        let compiled = compiled([setup, here(""), Change::Service(outward())]);
        let answers = |addr: &&str| found(&compiled, addr, 30_080) == Some(FrontendKind::NodePort);
        let seen: Vec<&str> = all.into_iter().filter(answers).collect();
        assert_eq!(seen, expected, "{chosen}");
        assert_eq!(compiled.plan.node_ports, [(Protocol::TCP, 30_080)]);
    }
    let open = with(|setup| setup.localhost_node_ports = LocalhostNodePorts::Open);
    let compiled = compiled([open, here(""), Change::Service(outward())]);
    assert_eq!(
        found(&compiled, "127.0.0.1", 30_080),
        Some(FrontendKind::NodePort)
    );
}

#[test]
fn r2_s10_s12_a_balancers_address_on_a_device_is_the_services_at_its_ports_and_else_the_nodes() {
    let chosen = with(|setup| setup.node_port_addresses = nets("198.51.100.0/24"));
    let own = ["192.168.0.1", "198.51.100.1", "198.51.100.7"].map(ip);
    let mut changes = vec![chosen, here(""), Change::Service(outward())];
    changes.extend(own.map(Change::OwnAddress));
    let compiled = compiled(changes);
    let balancer = Some(FrontendKind::LoadBalancer);
    assert_eq!(found(&compiled, "198.51.100.1", 80), balancer);
    assert_eq!(found(&compiled, "198.51.100.1", 81), None);
    let node_port = Some(FrontendKind::NodePort);
    assert_eq!(
        found(&compiled, "198.51.100.7", 30_080),
        node_port,
        "no Node names it"
    );
    let routes = &compiled.snapshot.routes;
    assert!(own.iter().all(|ip| routes.hop(&(*ip).into()) == Hop::Host));
    let plan = &compiled.plan;
    assert!(
        !plan.local.contains(&net("198.51.100.1/32")),
        "only ports of it are ours"
    );
    assert!(plan.node_ports.contains(&(Protocol::TCP, 80)));
    assert_eq!(plan.node_addresses, own);
}

#[test]
fn s9_s10_s16_a_balancers_address_is_captured_at_the_services_ports_if_it_is_a_vip() {
    let compiled = compiled([with(|_| ()), here(""), Change::Service(outward())]);
    let balancer = Some(FrontendKind::LoadBalancer);
    assert_eq!(found(&compiled, "198.51.100.1", 80), balancer);
    assert_eq!(found(&compiled, "fdee::1", 80), balancer);
    assert_eq!(found(&compiled, "198.51.100.1", 81), None);
    assert_eq!(found(&compiled, "198.51.100.2", 80), None);
    let one_family = Service {
        cluster_ips: ips("10.96.0.1"),
        ..outward()
    };
    let compiled = self::compiled([with(|_| ()), here(""), Change::Service(one_family)]);
    assert_eq!(found(&compiled, "fdee::1", 80), None);
    assert_eq!(found(&compiled, "fd50::1", 30_080), None);
}

#[test]
fn s23_external_ips_are_off_unless_their_range_is_allowed() {
    let off = compiled([with(|_| ()), here(""), Change::Service(outward())]);
    assert_eq!(found(&off, "198.51.100.9", 80), None);
    assert_eq!(texts(&off).len(), 2);
    let said = "service a/web: external IP 198.51.100.9 is in none of the allowed ranges";
    assert!(texts(&off)[1].starts_with(said) || texts(&off)[0].starts_with(said));
    let setup = with(|setup| setup.allowed_external_ips = nets("198.51.100.0/24"));
    let some = compiled([setup, here(""), Change::Service(outward())]);
    let external = Some(FrontendKind::ExternalIp);
    assert_eq!(found(&some, "198.51.100.9", 80), external);
    assert_eq!(found(&some, "192.168.0.3", 80), None);
    assert_eq!(texts(&some).len(), 1);
}

#[test]
fn s10_d10_the_kernel_gives_us_whole_outside_addresses_but_only_ports_of_the_nodes_own() {
    let setup = with(|setup| setup.allowed_external_ips = nets("0.0.0.0/0"));
    let plan = compiled([setup, here(""), Change::Service(outward())]).plan;
    let local: Vec<String> = plan.local.iter().map(|range| range.to_string()).collect();
    for addr in ["198.51.100.1/32", "198.51.100.9/32", "fdee::1/128"] {
        assert!(local.contains(&addr.to_owned()), "{addr}");
    }
    assert!(!local.contains(&"198.51.100.2/32".to_owned()));
    assert!(!local.contains(&"192.168.0.3/32".to_owned()));
    let expected = [(Protocol::TCP, 80), (Protocol::TCP, 30_080)];
    assert_eq!(plan.node_ports, expected);
}

#[test]
fn s10_d10_no_nodes_address_is_captured_whole_if_a_balancer_has_it() {
    // As k3s' ServiceLB: a service answers at all nodes' own addresses.
    let other = node("n2", "192.168.0.2 fd50::2", "10.244.2.0/24");
    let everywhere = Service {
        load_balancer_ips: ips("192.168.0.1 192.168.0.2 fd50::2")
            .into_iter()
            .map(|ip| (ip, IpMode::Vip))
            .collect(),
        ..outward()
    };
    let compiled = compiled([with(|_| ()), here(""), other, Change::Service(everywhere)]);
    let nodes = ips("192.168.0.1 192.168.0.2 fd50::1 fd50::2");
    let local = &compiled.plan.local;
    assert!(
        !local.iter().any(|range| nodes.contains(&range.addr())),
        "{local:?}"
    );
    assert!(compiled.plan.node_ports.contains(&(Protocol::TCP, 80)));
    // A pod here that dials the other node's still reaches the service.
    let balancer = Some(FrontendKind::LoadBalancer);
    assert_eq!(found(&compiled, "192.168.0.2", 80), balancer);
}

#[test]
fn s13_source_ranges_admit_by_family_and_a_nodes_own_packets_with_the_balancers_address() {
    let admits = |ranges: &str, source: &str| {
        let service = Service {
            source_ranges: nets(ranges),
            ..outward()
        };
        let compiled = compiled([with(|_| ()), here(""), Change::Service(service)]);
        let source = addr(source);
        let balancer = match source.ip().is_ipv4() {
            true => "198.51.100.1",
            false => "fdee::1",
        };
        at(&compiled, balancer).admits(FrontendKind::LoadBalancer, &source)
    };
    assert!(admits("", "203.0.113.200"));
    assert!(admits("203.0.113.0/25", "203.0.113.7"));
    assert!(!admits("203.0.113.0/25", "203.0.113.200"));
    assert!(!admits("203.0.113.0/25", "198.51.100.1"));
    assert!(admits("203.0.113.0/25", "fdbb::7"));
    assert!(admits("192.168.0.0/30", "198.51.100.1"));
    assert!(!admits("192.168.0.3/32", "198.51.100.1"));
}

/// The cluster set of `a/web` in zone `za` with these endpoints: address, node hints, zone hints.
fn hinted(endpoints: &[(&str, &str, &str)], zone: &str) -> Vec<String> {
    let of = |(address, nodes, zones): &(&str, &str, &str)| Endpoint {
        node_hints: nodes.split_whitespace().map(Into::into).collect(),
        zone_hints: zones.split_whitespace().map(Into::into).collect(),
        ..endpoint(address, "n2", Serving::Ready)
    };
    let slice = slice("a/web-1", "a/web", endpoints.iter().map(of).collect());
    let facts = [
        with(|_| ()),
        here(zone),
        Change::Service(outward()),
        Change::EndpointSlice(slice),
    ];
    let compiled = compiled(facts);
    let all = at(&compiled, "10.96.0.1").cluster.all().iter();
    all.map(|it| it.addr.to_string()).collect()
}

#[test]
fn s8_hints_are_all_or_nothing_nodes_before_zones() {
    const ZONE: &str = "topology.kubernetes.io/zone=za";
    let (first, second) = ("10.244.2.10", "10.244.2.11");
    let both = [first, second];
    let zones = [(first, "", "za"), (second, "", "zb")];
    assert_eq!(hinted(&zones, ZONE), [first]);
    assert_eq!(hinted(&zones, ""), both);
    assert_eq!(hinted(&zones, "topology.kubernetes.io/zone="), both);
    assert_eq!(hinted(&zones, "topology.kubernetes.io/zone=zc"), both);
    assert_eq!(hinted(&[(first, "", "za"), (second, "", "")], ZONE), both);
    let nodes = [(first, "n9", "za"), (second, "n1", "zb")];
    assert_eq!(hinted(&nodes, ZONE), [second]);
    assert_eq!(
        hinted(&[(first, "", "za"), (second, "n1", "zb")], ZONE),
        [first]
    );
}

#[test]
fn s8_a_zone_that_changes_renews_what_hints_decide() {
    let zoned = |address: &str, zone: &str| Endpoint {
        zone_hints: vec![zone.into()],
        ..endpoint(address, "n2", Serving::Ready)
    };
    let hinted = vec![zoned("10.244.2.10", "za"), zoned("10.244.2.11", "zb")];
    let mut facts = cluster([
        with(|_| ()),
        here("topology.kubernetes.io/zone=za"),
        Change::Service(service("a/web", "10.96.0.1")),
        Change::EndpointSlice(slice("a/web-1", "a/web", hinted)),
        Change::Service(service("a/other", "10.96.0.2")),
    ]);
    let mut compiler = Compiler::new(HERE);
    let mut generations = |facts: &Cluster| {
        let compiled = compiler.compile(facts);
        let of = |vip| at(&compiled, vip).generation;
        let backend = at(&compiled, "10.96.0.1").cluster.all()[0].addr.to_string();
        (of("10.96.0.1"), of("10.96.0.2"), backend)
    };
    assert_eq!(generations(&facts), (1, 1, "10.244.2.10".to_owned()));
    facts.apply(here("topology.kubernetes.io/zone=zb"));
    assert_eq!(generations(&facts), (2, 1, "10.244.2.11".to_owned()));
    facts.apply(here("topology.kubernetes.io/zone=zb other=label"));
    assert_eq!(generations(&facts), (2, 1, "10.244.2.11".to_owned()));
}

#[test]
fn s2_s4_s5_each_policy_has_its_set_and_one_without_anybody_near_is_silent() {
    let service = Service {
        external: TrafficPolicy::Local,
        ..outward()
    };
    let far = endpoint("10.244.2.10", "n2", Serving::Ready);
    let near = |serving| endpoint("10.244.1.10", HERE, serving);
    let table = |endpoints: Vec<Endpoint>| {
        let slice = Change::EndpointSlice(slice("a/web-1", "a/web", endpoints));
        let facts = [
            with(|_| ()),
            here(""),
            Change::Service(service.clone()),
            slice,
        ];
        at(&compiled(facts), "198.51.100.1").clone()
    };
    let sets = |table: &Table| {
        let texts = |client| {
            let all = table.candidates(FrontendKind::LoadBalancer, client).all();
            all.iter().map(|it| it.addr.to_string()).collect::<Vec<_>>()
        };
        (texts(Client::Inside), texts(Client::Outside))
    };
    let one = |text: &str| vec![text.to_owned()];
    let silent = table(vec![far.clone()]);
    assert_eq!(sets(&silent), (one("10.244.2.10"), vec![]));
    assert_eq!(silent.refusal, podway_tables::Refusal::Drop);
    let leaving = table(vec![far, near(Serving::Terminating)]);
    assert_eq!(sets(&leaving), (one("10.244.2.10"), one("10.244.1.10")));
    assert_eq!(
        (leaving.internal, leaving.external),
        (Reach::Cluster, Reach::Local)
    );
    assert_eq!(
        table(vec![near(Serving::No)]).refusal,
        podway_tables::Refusal::Reject
    );
}

#[test]
fn f1_a_backend_that_hints_or_policies_leave_out_still_serves() {
    let near = endpoint("10.244.1.10", HERE, Serving::Ready);
    let far = endpoint("10.244.2.10", "n2", Serving::Ready);
    let leaving = endpoint("10.244.2.11", "n2", Serving::Terminating);
    let unready = endpoint("10.244.2.13", "n2", Serving::Unready);
    let dead = endpoint("10.244.2.12", "n2", Serving::No);
    let hinted = Endpoint {
        node_hints: vec![HERE.into()],
        ..near
    };
    let elsewhere = Endpoint {
        node_hints: vec!["n2".into()],
        ..far
    };
    let slice = slice(
        "a/web-1",
        "a/web",
        vec![hinted, elsewhere, leaving, unready, dead],
    );
    let facts = [
        with(|_| ()),
        here(""),
        Change::Service(outward()),
        Change::EndpointSlice(slice),
    ];
    let compiled = compiled(facts);
    let table = at(&compiled, "10.96.0.1");
    let serves = |text| {
        let addr = addr(text);
        table.serves(&podway_tables::Backend { addr, port: 8080 })
    };
    assert_eq!(table.cluster.all().len(), 1);
    assert!(
        ["10.244.1.10", "10.244.2.10", "10.244.2.11", "10.244.2.13"]
            .into_iter()
            .all(serves)
    );
    assert!(!serves("10.244.2.12"));
}

#[test]
fn s14_affinity_is_the_services_word_and_switching_it_keeps_the_service() {
    let affine = |affinity| Service {
        affinity,
        ..outward()
    };
    let mut facts = cluster([
        with(|_| ()),
        here(""),
        Change::Service(affine(Affinity::None)),
    ]);
    let mut compiler = Compiler::new(HERE);
    let mut look = |facts: &Cluster| {
        let compiled = compiler.compile(facts);
        let key = ServiceKey {
            addr: addr("10.96.0.1"),
            port: 80,
            protocol: Protocol::TCP,
        };
        let Found::Frontend(frontend) = compiled.snapshot.services.find(&key) else {
            panic!("no service");
        };
        (
            frontend.service,
            at(&compiled, "10.96.0.1").affinity_timeout_s,
        )
    };
    let (id, none) = look(&facts);
    assert_eq!(none, None);
    facts.apply(Change::Service(affine(Affinity::ClientIp {
        timeout_s: 60,
    })));
    assert_eq!(look(&facts), (id, Some(60)));
    facts.apply(Change::Service(affine(Affinity::None)));
    assert_eq!(look(&facts), (id, None));
}

#[test]
fn s24_a_node_port_that_two_want_is_the_older_ones_and_what_is_two_things_to_one_is_no_clash() {
    let young = Service {
        created_s: 20,
        name: name("a/young"),
        cluster_ips: ips("10.96.0.2"),
        external_ips: vec![],
        load_balancer_ips: vec![],
        ..outward()
    };
    let both = Service {
        created_s: 10,
        external_ips: ips("198.51.100.1"),
        ..outward()
    };
    let setup = with(|setup| setup.allowed_external_ips = nets("0.0.0.0/0"));
    let facts = [
        setup,
        here(""),
        Change::Service(young),
        Change::Service(both),
    ];
    let compiled = compiled(facts);
    let balancer = Some(FrontendKind::LoadBalancer);
    assert_eq!(found(&compiled, "198.51.100.1", 80), balancer);
    let said = "service a/young: 192.168.0.1 port 30080/tcp is already service a/web's, which comes first; give this one another address or port";
    assert_eq!(texts(&compiled), [said]);
}

#[test]
fn f2_an_address_that_leaves_a_service_renews_it() {
    let mut facts = cluster([with(|_| ()), here(""), Change::Service(outward())]);
    let mut compiler = Compiler::new(HERE);
    compiler.compile(&facts);
    let mut service = outward();
    service.load_balancer_ips.clear();
    facts.apply(Change::Service(service));
    let compiled = compiler.compile(&facts);
    assert_eq!(found(&compiled, "198.51.100.1", 80), None);
    assert_eq!(at(&compiled, "10.96.0.1").generation, 2);
}

#[test]
fn s24_host_ports_of_this_nodes_pods_lead_to_them_and_give_way_to_services() {
    let host_port = |ip: Option<&str>, port| HostPort {
        ip: ip.map(crate::build::ip),
        protocol: Protocol::TCP,
        port,
        target: 80,
    };
    let of = |name: &str, node: &str, address: &str, host_ports: Vec<HostPort>| {
        Change::Pod(Pod {
            host_ports,
            ..pod(name, node, address, "")
        })
    };
    let own = "10.244.1.7 fd44::7";
    let facts = cluster([
        with(|_| ()),
        here(""),
        Change::Service(Service {
            external_ips: Vec::new(),
            ..outward()
        }),
        of(
            "a/one",
            HERE,
            own,
            vec![host_port(None, 8080), host_port(Some("192.168.0.3"), 81)],
        ),
        of(
            "a/two",
            HERE,
            "10.244.1.8",
            vec![
                host_port(None, 8080),
                host_port(None, 30_080),
                host_port(Some("192.168.0.2"), 82),
            ],
        ),
        of("a/far", "n2", "10.244.2.9", vec![host_port(None, 9090)]),
    ]);
    let mut compiler = Compiler::new(HERE);
    let compiled = compiler.compile(&facts);
    let node_port = Some(FrontendKind::NodePort);
    for (addr, port, expected) in [
        ("192.168.0.1", 8080, node_port),
        ("192.168.0.3", 8080, node_port),
        ("fd50::1", 8080, node_port),
        ("192.168.0.1", 81, None),
        ("192.168.0.3", 81, node_port),
        ("192.168.0.2", 82, None),
        ("192.168.0.1", 9090, None),
        ("127.0.0.1", 8080, node_port),
        ("127.0.0.1", 81, None),
    ] {
        assert_eq!(found(&compiled, addr, port), expected, "{addr} {port}");
    }
    let key = ServiceKey {
        addr: addr("fd50::1"),
        port: 8080,
        protocol: Protocol::TCP,
    };
    let Found::Frontend(frontend) = compiled.snapshot.services.find(&key) else {
        panic!("a host port")
    };
    let table = compiled
        .snapshot
        .services
        .service(frontend.service)
        .expect("it is there");
    for client in [Client::Inside, Client::Outside] {
        let backends = table.candidates(FrontendKind::NodePort, client).all();
        assert_eq!(backends.len(), 1);
        assert_eq!((backends[0].addr, backends[0].port), (addr("fd44::7"), 80));
    }
    assert_eq!(
        compiled.names.service(frontend.service),
        Some("pod:a/one:8080")
    );
    assert!(compiled.plan.node_ports.contains(&(Protocol::TCP, 81)));
    let clash = |addr: &str, port: u16, winner: &str| {
        format!(
            "pod a/two: {addr} port {port}/tcp is already {winner}'s, which comes first; give this one another address or port"
        )
    };
    assert_eq!(
        texts(&compiled),
        [
            clash("127.0.0.1", 8080, "pod a/one"),
            clash("192.168.0.1", 30_080, "service a/web"),
            clash("192.168.0.1", 8080, "pod a/one"),
            clash("192.168.0.3", 8080, "pod a/one"),
            "pod a/two: host port 82 asks for 192.168.0.2, which is none of this node's addresses, and is not served; give it an InternalIP of the Node object, or none".to_owned(),
        ]
    );
    let mut facts = facts;
    facts.apply(Change::Gone(Key::Pod(name("a/one"))));
    let compiled = compiler.compile(&facts);
    assert_eq!(
        found(&compiled, "192.168.0.1", 8080),
        node_port,
        "the next one has it"
    );
    assert_eq!(found(&compiled, "fd50::1", 8080), None);
    assert_eq!(found(&compiled, "192.168.0.3", 81), None);
}
