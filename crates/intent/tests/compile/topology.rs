//! Nodes, pods and devices: where addresses are.

use podway_intent::*;
use podway_tables::{EndpointId, Hop, PeerId, PortId, PortKind, Via};
use podway_wire::Mac;

use proptest::prelude::*;

use crate::build::*;
use crate::naive;
use crate::view::hop_name;
use crate::world::{NODE, change, probes};

proptest! {
    #[test]
    fn hops_are_as_a_scan_of_the_objects_says(changes in prop::collection::vec(change(0), 0..80)) {
        let cluster = cluster(changes);
        let compiled = compile(&cluster, NODE);
        for probe in probes() {
            let hop = hop_name(&compiled, compiled.snapshot.routes.hop(&probe.into()));
            prop_assert_eq!(hop, naive::hop(&cluster, NODE, probe), "{}", probe);
        }
    }
}

fn facts() -> Cluster {
    cluster([
        Change::Setup(setup()),
        node("n1", "192.168.0.1 fd00::1", "10.244.1.0/24 fd44:1::/64"),
        node("n2", "fd00::2 192.168.0.2", "10.244.2.0/24 fd44:2::/64"),
        Change::Pod(pod("a/web", "n1", "10.244.1.10 fd44:1::a", "")),
        Change::Pod(pod("a/far", "n2", "10.244.2.10", "")),
        Change::Pod(pod("a/stray", "n2", "10.250.0.2", "")),
        Change::Pod(pod("a/outside", "n1", "10.250.0.1", "")),
        attachment("a/web", 2),
        attachment("a/unknown", 3),
        Change::Neighbour(ip("192.168.0.2"), Mac([2; 6])),
    ])
}

#[test]
fn every_address_has_its_hop() {
    let compiled = compile(&facts(), "n1");
    let hop = |text| compiled.snapshot.routes.hop(&addr(text));
    let web = compiled
        .names
        .endpoint_of(&name("a/web"))
        .expect("an endpoint");
    let outside = compiled
        .names
        .endpoint_of(&name("a/outside"))
        .expect("an endpoint");
    for (addr, expected) in [
        ("10.244.1.10", Hop::Endpoint(web)),
        ("fd44:1::a", Hop::Endpoint(web)),
        ("10.250.0.1", Hop::Endpoint(outside)),
        ("10.244.1.1", Hop::Gateway),
        ("fd44:1::1", Hop::Gateway),
        ("10.244.1.0", Hop::Unallocated),
        ("10.244.1.77", Hop::Unallocated),
        ("10.244.2.10", Hop::Peer(PeerId(0))),
        ("10.244.2.1", Hop::Peer(PeerId(0))),
        ("fd44:2::9", Hop::Peer(PeerId(0))),
        ("10.250.0.2", Hop::Peer(PeerId(0))),
        ("192.168.0.2", Hop::Peer(PeerId(0))),
        ("fd00::2", Hop::Peer(PeerId(0))),
        ("192.168.0.1", Hop::Host),
        ("fd00::1", Hop::Host),
        ("10.250.0.3", Hop::WORLD),
        ("192.168.0.3", Hop::WORLD),
    ] {
        assert_eq!(hop(addr), expected, "{addr}");
    }
    assert_eq!(compiled.problems, []);
}

#[test]
fn a_tunnel_is_of_our_first_family_and_falls_back_to_the_other() {
    let mut facts = facts();
    facts.apply(node("n3", "fd00::3", "10.244.3.0/24"));
    facts.apply(node("n4", "", "10.244.4.0/24"));
    let compiled = compile(&facts, "n1");
    let peer = |name| {
        let id = compiled.names.peer_of(name)?;
        assert_eq!(compiled.names.peer(id), Some(name));
        compiled.snapshot.peer(id)
    };
    let n2 = peer("n2").expect("a peer");
    assert_eq!(
        (n2.vtep, n2.source),
        (addr("192.168.0.2"), addr("192.168.0.1"))
    );
    assert_eq!((n2.next_hop, n2.mtu), (Some(Mac([2; 6])), 1_450));
    let n3 = peer("n3").expect("a peer");
    assert_eq!(
        (n3.vtep, n3.source, n3.next_hop, n3.mtu),
        (addr("fd00::3"), addr("fd00::1"), None, 1_430)
    );
    assert_eq!(peer("n4"), None);
    assert_eq!(
        compiled.snapshot.routes.hop(&addr("10.244.4.7")),
        Hop::Unallocated
    );
    let texts: Vec<String> = compiled.problems.iter().map(Problem::to_string).collect();
    assert_eq!(
        texts,
        [
            "node n4: no tunnel leads there: it and this node need InternalIP addresses of one family"
        ]
    );
}

/// The set-up of a node whose packets get to others this way; its uplink is in these subnets.
fn setup_that(tunnel: Tunnel, subnets: &str) -> Change {
    Change::Setup(NodeSetup {
        tunnel,
        subnets: subnets.split_whitespace().map(net).collect(),
        ..setup()
    })
}

#[test]
fn peers_are_reached_directly_as_chosen_and_if_they_are_in_a_subnet_of_the_uplink() {
    let mut facts = facts();
    facts.apply(node("n3", "192.168.1.3", "10.244.3.0/24"));
    facts.apply(node("n4", "fd00::4", "10.244.4.0/24"));
    let mut compiler = Compiler::new("n1");
    let mut ways = |tunnel, subnets| {
        facts.apply(setup_that(tunnel, subnets));
        let compiled = compiler.compile(&facts);
        let ways = ["n2", "n3", "n4"].map(|name| {
            let id = compiled.names.peer_of(name).expect("a peer");
            let peer = compiled.snapshot.peer(id).expect("a peer");
            (peer.via, peer.mtu)
        });
        (ways, compiled)
    };
    let (v4, v6) = ((Via::Vxlan, 1_450), (Via::Vxlan, 1_430));
    let near = (Via::Direct, 1_500);
    let nothing = (Via::Nothing, 1_500);
    for (tunnel, subnets, expected, direct) in [
        (Tunnel::Vxlan, "192.168.0.0/16 fd00::/64", [v4, v4, v6], ""),
        (
            Tunnel::Direct,
            "192.168.0.0/16 fd00::/64",
            [near; 3],
            "10.244.2.0/24 10.244.3.0/24 10.244.4.0/24 fd44:2::/64",
        ),
        (
            Tunnel::Direct,
            "192.168.0.0/24",
            [near, nothing, nothing],
            "10.244.2.0/24 fd44:2::/64",
        ),
        (
            Tunnel::Auto,
            "192.168.0.0/24 10.0.0.0/8",
            [near, v4, v6],
            "10.244.2.0/24 fd44:2::/64",
        ),
        (Tunnel::Auto, "", [v4, v4, v6], ""),
    ] {
        let (seen, compiled) = ways(tunnel, subnets);
        assert_eq!(seen, expected, "{tunnel} in {subnets}");
        let direct: Vec<_> = direct.split_whitespace().map(net).collect();
        assert_eq!(compiled.plan.direct, direct, "{tunnel} in {subnets}");
        let named: Vec<String> = compiled.problems.iter().map(Problem::to_string).collect();
        let far = |name: &str, address: &str| {
            format!(
                "node {name}: nothing leads there: {address} is in none of the uplink's subnets ({subnets}); set `tunnel` to \"auto\" or \"vxlan\""
            )
        };
        match expected.contains(&nothing) {
            true => assert_eq!(named, [far("n3", "192.168.1.3"), far("n4", "fd00::4")]),
            false => assert_eq!(named, Vec::<String>::new()),
        }
    }
}

#[test]
fn a_peer_that_changes_its_way_or_goes_is_so_with_the_next_snapshot() {
    let mut facts = facts();
    facts.apply(setup_that(Tunnel::Direct, "192.168.0.0/24"));
    let mut compiler = Compiler::new("n1");
    let peer = |compiled: &Compiled| compiled.snapshot.peer(PeerId(0)).cloned();
    let direct = peer(&compiler.compile(&facts)).expect("a peer");
    facts.apply(setup_that(Tunnel::Vxlan, "192.168.0.0/24"));
    let compiled = compiler.compile(&facts);
    let tunnelled = peer(&compiled).expect("a peer");
    assert!(
        tunnelled.generation > direct.generation,
        "flows are judged again"
    );
    assert_eq!(compiled.plan.direct, Vec::new());

    facts.apply(setup_that(Tunnel::Direct, "192.168.0.0/24"));
    compiler.compile(&facts);
    facts.apply(Change::Gone(Key::Node("n2".into())));
    let compiled = compiler.compile(&facts);
    assert_eq!(peer(&compiled), None);
    assert_eq!(compiled.plan.direct, Vec::new());
    let hop = |text| compiled.snapshot.routes.hop(&addr(text));
    // Of its pods it is known that they are not outside.
    for (address, hop_now) in [
        ("10.244.2.10", Hop::Unallocated),
        ("10.250.0.2", Hop::Unallocated),
        ("10.244.2.11", Hop::WORLD),
        ("192.168.0.2", Hop::WORLD),
    ] {
        assert_eq!(hop(address), hop_now, "{address}");
    }
}

#[test]
fn the_node_knows_its_devices_and_mtu() {
    let compiled = compile(&facts(), "n1");
    let snapshot = &compiled.snapshot;
    let node = &snapshot.node;
    assert_eq!((node.uplink, node.host), (Some(PortId(0)), Some(PortId(1))));
    assert_eq!((node.uplink_mtu, node.host_mtu), (1500, 65_000));
    assert_eq!(node.gateways, [addr("10.244.1.1"), addr("fd44:1::1")]);
    let kind = |port| snapshot.port(PortId(port)).map(|port| port.kind);
    let web = compiled.names.endpoint_of(&name("a/web"));
    assert_eq!(kind(0), Some(PortKind::Uplink));
    assert_eq!(kind(1), Some(PortKind::Host));
    assert_eq!(kind(2), Some(PortKind::Pod(web)));
    assert_eq!(kind(3), Some(PortKind::Pod(None)));
    assert_eq!(kind(4), None);
    assert_eq!(compiled.names.port(PortId(2)), Some("pod:a/web"));
    let endpoint = snapshot
        .endpoint(web.expect("an endpoint"))
        .expect("an endpoint");
    assert_eq!((endpoint.port, endpoint.mtu), (Some(PortId(2)), 9000));
    assert_eq!(endpoint.addresses, [addr("10.244.1.10"), addr("fd44:1::a")]);
}

#[test]
fn the_plan_holds_ranges_stray_pods_and_services() {
    let plan = compile(&facts(), "n1").plan;
    let local = "10.96.0.0/16 10.244.1.0/24 10.250.0.1/32 fd44:1::/64 fd96::/112";
    assert_eq!(plan.local, local.split(' ').map(net).collect::<Vec<_>>());
    assert_eq!(plan.node_addresses, ips("192.168.0.1 fd00::1"));
    assert_eq!((plan.tunnel_port, plan.node_ports), (4789, vec![]));
}

#[test]
fn r2_own_addresses_beyond_what_the_program_takes_are_named_and_the_nodes_all_the_same() {
    let mut cluster = facts();
    let own = (0..5_000u32).map(|number| (0x0a63_0000 + number).into());
    for ip in own.map(std::net::IpAddr::V4).chain(ips("192.168.0.1")) {
        cluster.apply(Change::OwnAddress(ip));
    }
    let compiled = compile(&cluster, "n1");
    let plan = &compiled.plan.node_addresses;
    assert_eq!((plan.len(), plan[0]), (4_096, ip("192.168.0.1")));
    let routes = &compiled.snapshot.routes;
    assert_eq!(routes.hop(&addr("10.99.19.135")), Hop::Host, "the last one");
    let named = |problem: &&Problem| problem.text.contains("5001 addresses");
    assert_eq!(compiled.problems.iter().filter(named).count(), 1);
}

#[test]
fn m3_an_address_of_a_pod_that_is_being_deleted_is_another_pods_as_soon_as_that_has_it() {
    let mut facts = facts();
    let old = Pod {
        phase: PodPhase::Leaving,
        ..pod("a/aaa", "n1", "10.244.1.77", "")
    };
    facts.apply(Change::Pod(old));
    let mut compiler = Compiler::new("n1");
    let mut owner = |facts: &Cluster| {
        let compiled = compiler.compile(facts);
        let Hop::Endpoint(id) = compiled.snapshot.routes.hop(&addr("10.244.1.77")) else {
            panic!("no pod there");
        };
        let owner = compiled.names.endpoint(id).map(Name::to_string);
        let problems: Vec<String> = compiled.problems.iter().map(Problem::to_string).collect();
        (owner, problems)
    };
    assert_eq!(owner(&facts), (Some("a/aaa".to_owned()), vec![]));
    facts.apply(Change::Pod(pod("a/zzz", "n1", "10.244.1.77", "")));
    assert_eq!(owner(&facts), (Some("a/zzz".to_owned()), vec![]));
    facts.apply(Change::Gone(Key::Pod(name("a/zzz"))));
    assert_eq!(owner(&facts), (Some("a/aaa".to_owned()), vec![]));
}

#[test]
fn f11_of_two_pods_with_one_address_the_attached_one_has_it_and_ended_ones_do_not_count() {
    let mut facts = facts();
    facts.apply(Change::Pod(pod("a/aaa", "n1", "10.244.1.10", "")));
    facts.apply(Change::Pod(Pod {
        phase: PodPhase::Ended,
        ..pod("a/ended", "n1", "10.244.1.10", "")
    }));
    let mut compiler = Compiler::new("n1");
    let compiled = compiler.compile(&facts);
    let owner = |compiled: &Compiled| {
        let Hop::Endpoint(id) = compiled.snapshot.routes.hop(&addr("10.244.1.10")) else {
            panic!("no pod there");
        };
        compiled.names.endpoint(id).map(Name::to_string)
    };
    assert_eq!(owner(&compiled).as_deref(), Some("a/web"));
    assert_eq!(compiled.names.endpoint_of(&name("a/aaa")), None);
    let texts: Vec<String> = compiled.problems.iter().map(Problem::to_string).collect();
    assert_eq!(
        texts,
        ["pod a/aaa: address 10.244.1.10 is already pod a/web's; delete one of the two"]
    );
    facts.apply(Change::Gone(Key::Attachment(name("a/web"))));
    assert_eq!(owner(&compiler.compile(&facts)).as_deref(), Some("a/aaa"));
}

#[test]
fn what_contradicts_itself_is_reported_and_has_one_outcome() {
    let mut facts = facts();
    facts.apply(node("n3", "192.168.0.2 192.168.0.3", "10.244.2.128/25"));
    facts.apply(Change::Pod(pod("a/gateway", "n1", "10.244.1.1", "")));
    facts.apply(Change::Pod(pod("a/loop", "n1", "127.0.0.1", "")));
    facts.apply(attachment("a/zzz", 1));
    let compiled = compile(&facts, "n1");
    let texts: Vec<String> = compiled.problems.iter().map(Problem::to_string).collect();
    assert_eq!(
        texts,
        [
            "node n3: address 192.168.0.2 is another node's too; correct one of them",
            "node n3: pod range 10.244.2.128/25 overlaps one of node n2; give each node its own",
            "pod a/gateway: address 10.244.1.1 is already a node's or gateway's; delete one of the two",
            "pod a/loop: address 127.0.0.1 is loopback, link-local, multicast or unspecified and gets no traffic; recreate the pod",
            "attachment of pod a/zzz: port 1 is already host; attach the pod again",
        ]
    );
    let n3 = compiled.names.peer_of("n3").expect("a peer");
    let hop = |text| compiled.snapshot.routes.hop(&addr(text));
    assert_eq!(hop("10.244.2.200"), Hop::Peer(n3));
    assert_eq!(hop("192.168.0.2"), Hop::Peer(PeerId(0)));
    assert_eq!(hop("10.244.1.1"), Hop::Gateway);
    assert_eq!(compiled.snapshot.endpoint(EndpointId(9)), None);
}

#[test]
fn an_empty_cluster_compiles() {
    let compiled = compile(&Cluster::default(), "n1");
    assert_eq!(compiled.snapshot.sequence, 1);
    assert_eq!(compiled.plan, Plan::default());
    assert_eq!(compiled.snapshot.routes.hop(&addr("10.0.0.1")), Hop::WORLD);
}

#[test]
fn n15_a_device_has_the_addresses_it_was_given_before_its_pod_object_knows_them() {
    let given = |addresses: &str| {
        let Change::Attachment(mut device) = attachment("a/web", 7) else {
            panic!("no device");
        };
        device.addresses = ips(addresses);
        Change::Attachment(device)
    };
    let mut facts = facts();
    facts.apply(given("10.244.1.77"));
    let mut compiler = Compiler::new("n1");
    let owner = |compiled: &Compiled, address: &str| {
        let Hop::Endpoint(id) = compiled.snapshot.routes.hop(&addr(address)) else {
            return None;
        };
        compiled.names.endpoint(id).map(Name::to_string)
    };
    let compiled = compiler.compile(&facts);
    assert_eq!(owner(&compiled, "10.244.1.77").as_deref(), Some("a/web"));
    assert_ne!(owner(&compiled, "10.244.1.10").as_deref(), Some("a/web"));

    // Without the object nobody says what it may do: its port stays closed. But what it was told before counts (F18).
    facts.apply(Change::Gone(Key::Pod(name("a/web"))));
    let afresh = Compiler::new("n1").compile(&facts);
    assert_ne!(owner(&afresh, "10.244.1.77").as_deref(), Some("a/web"));
    let compiled = compiler.compile(&facts);
    assert_eq!(owner(&compiled, "10.244.1.77").as_deref(), Some("a/web"));
    facts.apply(Change::Pod(pod("a/heir", "n1", "10.244.1.77", "")));
    let compiled = compiler.compile(&facts);
    assert_eq!(
        owner(&compiled, "10.244.1.77").as_deref(),
        Some("a/heir"),
        "a pod that is over has no claim"
    );
    facts.apply(Change::Gone(Key::Pod(name("a/heir"))));
    facts.apply(Change::Pod(pod("a/web", "n1", "", "")));
    let compiled = compiler.compile(&facts);
    assert_eq!(owner(&compiled, "10.244.1.77").as_deref(), Some("a/web"));

    facts.apply(Change::Gone(Key::Attachment(name("a/web"))));
    let compiled = compiler.compile(&facts);
    assert_ne!(owner(&compiled, "10.244.1.77").as_deref(), Some("a/web"));
}
