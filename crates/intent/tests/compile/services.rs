//! Services, row by row and against the naive evaluator.

use std::collections::BTreeSet;

use podway_intent::*;
use podway_tables::{Choice, Client, Found, FrontendKind, ServiceKey};
use podway_wire::Protocol;
use proptest::prelude::*;

use crate::build::*;
use crate::naive::{self, Serves};
use crate::world::{NODE, change};

proptest! {
    #[test]
    fn each_usable_endpoint_occurs_and_no_other(changes in prop::collection::vec(change(0), 0..80)) {
        let cluster = cluster(changes.into_iter().map(unhinted));
        let compiled = compile(&cluster, NODE);
        let mut all = cluster.services();
        all.sort_by_key(|service| (service.created_s, &service.name));
        let mut taken = BTreeSet::new();
        for service in all {
            for (port, vip) in service.ports.iter().flat_map(|port| service.cluster_ips.iter().map(move |vip| (port, *vip))) {
                if !taken.insert((vip, port.port, port.protocol)) {
                    continue;
                }
                let key = ServiceKey { addr: vip.into(), port: port.port, protocol: port.protocol };
                let seen = choices(&compiled, &key);
                prop_assert_eq!(seen, naive::serves(&cluster, NODE, service, port, vip));
            }
        }
        let keys = compiled.snapshot.services.frontends();
        let of_cluster = keys.filter(|(_, frontend)| frontend.kind == FrontendKind::ClusterIp);
        prop_assert_eq!(of_cluster.count(), taken.len());
    }
}

/// The change without hints: those have tests of their own.
fn unhinted(mut change: Change) -> Change {
    if let Change::EndpointSlice(slice) = &mut change {
        for endpoint in &mut slice.endpoints {
            endpoint.zone_hints.clear();
        }
    }
    change
}

/// All that a key's service gives over many flows.
fn choices(compiled: &Compiled, key: &ServiceKey) -> Serves {
    choices_of(compiled, key, Client::Inside)
}

fn choices_of(compiled: &Compiled, key: &ServiceKey, client: Client) -> Serves {
    let Found::Frontend(frontend) = compiled.snapshot.services.find(key) else {
        panic!("no service at {key:?}");
    };
    let service = compiled.snapshot.services.service(frontend.service);
    let service = service.expect("a service");
    let mut backends = BTreeSet::new();
    for hash in 0..200 {
        match service.choose(frontend.kind, client, hash) {
            Choice::Backend(backend) => drop(backends.insert((backend.addr.ip(), backend.port))),
            Choice::Reject => return Serves::Reject,
            Choice::Drop => return Serves::Drop,
        }
    }
    Serves::Any(backends)
}

/// What a service and its slices give to TCP port 80 of an address, on node n1.
fn serves(service: Service, slices: Vec<EndpointSlice>, vip: &str) -> Serves {
    let slices = slices.into_iter().map(Change::EndpointSlice);
    let cluster = cluster(slices.chain([Change::Service(service)]));
    choices(&compile(&cluster, "n1"), &key(vip, 80))
}

fn key(vip: &str, port: u16) -> ServiceKey {
    ServiceKey {
        addr: addr(vip),
        port,
        protocol: Protocol::TCP,
    }
}

fn any(backends: &[(&str, u16)]) -> Serves {
    Serves::Any(
        backends
            .iter()
            .map(|(addr, port)| (ip(addr), *port))
            .collect(),
    )
}

const VIP: &str = "10.96.0.1";

fn web() -> Service {
    service("a/web", VIP)
}

fn local() -> Service {
    Service {
        internal: TrafficPolicy::Local,
        ..web()
    }
}

fn one(endpoints: Vec<Endpoint>) -> Vec<EndpointSlice> {
    vec![slice("a/web-1", "a/web", endpoints)]
}

#[test]
fn s1_nobody_anywhere_is_refused() {
    assert_eq!(serves(web(), vec![], VIP), Serves::Reject);
    let dead = one(vec![endpoint("10.244.1.10", "n1", Serving::No)]);
    assert_eq!(serves(web(), dead.clone(), VIP), Serves::Reject);
    assert_eq!(serves(local(), dead, VIP), Serves::Reject);
}

#[test]
fn s3_local_without_a_local_one_is_silent() {
    let far = one(vec![endpoint("10.244.2.10", "n2", Serving::Ready)]);
    assert_eq!(serves(local(), far, VIP), Serves::Drop);
    let both = one(vec![
        endpoint("10.244.2.10", "n2", Serving::Ready),
        endpoint("10.244.1.10", "n1", Serving::Ready),
    ]);
    assert_eq!(serves(local(), both, VIP), any(&[("10.244.1.10", 8080)]));
}

#[test]
fn s5_the_terminating_serve_when_nobody_is_ready_here_and_everywhere_apart() {
    let mixed = one(vec![
        endpoint("10.244.1.10", "n1", Serving::Terminating),
        endpoint("10.244.1.11", "n1", Serving::No),
        endpoint("10.244.2.10", "n2", Serving::Ready),
    ]);
    assert_eq!(
        serves(web(), mixed.clone(), VIP),
        any(&[("10.244.2.10", 8080)])
    );
    assert_eq!(serves(local(), mixed, VIP), any(&[("10.244.1.10", 8080)]));
}

#[test]
fn s15_ports_join_by_name_slices_differ_and_duplicates_merge() {
    let ready = |addr| endpoint(addr, "n2", Serving::Ready);
    let mut second = slice(
        "a/web-2",
        "a/web",
        vec![ready("10.244.2.11"), ready("10.244.2.10")],
    );
    second.ports[0].port = 9090;
    let slices = vec![
        slice("a/web-1", "a/web", vec![ready("10.244.2.10")]),
        slice(
            "a/web-3",
            "a/web",
            vec![endpoint("10.244.2.10", "n2", Serving::No)],
        ),
        second,
        slice("a/other-1", "a/other", vec![ready("10.244.2.12")]),
    ];
    let expected = any(&[
        ("10.244.2.10", 8080),
        ("10.244.2.11", 9090),
        ("10.244.2.10", 9090),
    ]);
    assert_eq!(serves(web(), slices.clone(), VIP), expected);
    let mut named = web();
    named.ports[0].name = "http".into();
    assert_eq!(serves(named, slices, VIP), Serves::Reject);
}

#[test]
fn s15_a_backend_is_where_the_best_of_those_is_that_have_its_address() {
    let at = |entries: &[(&str, Serving)]| {
        let entries = entries.iter().enumerate();
        let slices = entries.map(|(index, (node, serving))| {
            let name = format!("a/web-{index}");
            slice(
                &name,
                "a/web",
                vec![endpoint("10.244.1.10", node, *serving)],
            )
        });
        serves(local(), slices.collect(), VIP)
    };
    let here = any(&[("10.244.1.10", 8080)]);
    // The address is a new pod's on another node, and its last owner still ends here (Kubernetes #135593).
    for ghost in [Serving::Terminating, Serving::No] {
        assert_eq!(at(&[("n1", ghost), ("n2", Serving::Ready)]), Serves::Drop);
        assert_eq!(at(&[("n2", Serving::Ready), ("n1", ghost)]), Serves::Drop);
        assert_eq!(at(&[("n2", ghost), ("n1", Serving::Ready)]), here);
    }
    assert_eq!(at(&[("n1", Serving::Ready), ("n2", Serving::Ready)]), here);
    assert_eq!(at(&[("n1", Serving::Terminating)]), here);
}

#[test]
fn a_slice_that_changes_hands_leaves_its_old_service() {
    let ready = || vec![endpoint("10.244.2.10", "n2", Serving::Ready)];
    let mut facts = cluster([
        Change::Service(web()),
        Change::Service(service("a/next", "10.96.0.2")),
        Change::EndpointSlice(slice("a/web-1", "a/web", ready())),
    ]);
    let mut compiler = Compiler::new("n1");
    compiler.compile(&facts);
    facts.apply(Change::EndpointSlice(slice("a/web-1", "a/next", ready())));
    let compiled = compiler.compile(&facts);
    assert_eq!(choices(&compiled, &key(VIP, 80)), Serves::Reject);
    let expected = any(&[("10.244.2.10", 8080)]);
    assert_eq!(choices(&compiled, &key("10.96.0.2", 80)), expected);
}

#[test]
fn s16_families_are_independent() {
    let dual = service("a/web", "10.96.0.1 fd96::1");
    let v4 = slice(
        "a/web-4",
        "a/web",
        vec![endpoint("10.244.2.10", "n2", Serving::Ready)],
    );
    assert_eq!(
        serves(dual.clone(), vec![v4.clone()], VIP),
        any(&[("10.244.2.10", 8080)])
    );
    assert_eq!(serves(dual, vec![v4], "fd96::1"), Serves::Reject);
}

#[test]
fn s11_a_service_without_ports_there_and_an_unknown_address_are_told_apart() {
    let facts = [Change::Setup(setup()), Change::Service(web())];
    let services = compile(&cluster(facts), "n1").snapshot.services.clone();
    assert_eq!(services.find(&key(VIP, 81)), Found::WrongPort);
    assert_eq!(services.find(&key("10.96.0.7", 80)), Found::Unallocated);
    assert_eq!(services.find(&key("fd96::7", 80)), Found::Unallocated);
    assert_eq!(services.find(&key("10.97.0.7", 80)), Found::Nothing);
}

#[test]
fn s24_the_oldest_has_the_address_the_loser_is_reported_and_inherits() {
    let created = |name: &str, created_s| Service {
        created_s,
        ..service(name, VIP)
    };
    let mut facts = cluster([
        Change::Setup(setup()),
        Change::Service(created("a/young", 20)),
        Change::Service(created("b/old", 10)),
        Change::Service(created("c/twin", 10)),
    ]);
    let mut compiler = Compiler::new("n1");
    let mut owner = |facts: &Cluster| {
        let compiled = compiler.compile(facts);
        let Found::Frontend(frontend) = compiled.snapshot.services.find(&key(VIP, 80)) else {
            panic!("no service");
        };
        let id = frontend.service;
        let losers = compiled.problems.iter().map(|it| it.object.to_string());
        let generation = compiled
            .snapshot
            .services
            .service(id)
            .map(|it| it.generation);
        let name = compiled.names.service(id).map(str::to_owned);
        (name, generation, losers.collect::<Vec<_>>())
    };
    let losers = |all: &[&str]| {
        all.iter()
            .map(|it| format!("service {it}"))
            .collect::<Vec<_>>()
    };
    let name = |text: &str| Some(text.to_owned());
    assert_eq!(
        owner(&facts),
        (name("b/old:80"), Some(1), losers(&["a/young", "c/twin"]))
    );
    facts.apply(Change::Gone(Key::Service(crate::build::name("b/old"))));
    assert_eq!(
        owner(&facts),
        (name("c/twin:80"), Some(2), losers(&["a/young"]))
    );
    facts.apply(Change::Gone(Key::Service(crate::build::name("c/twin"))));
    assert_eq!(owner(&facts), (name("a/young:80"), Some(3), losers(&[])));
}

#[test]
fn s25_endpoints_in_special_ranges_get_nothing_and_are_reported() {
    let endpoints = ["127.0.0.1", "169.254.169.254", "224.0.0.1", "10.244.2.10"];
    let endpoints = endpoints
        .map(|addr| endpoint(addr, "n2", Serving::Ready))
        .to_vec();
    let facts = cluster([
        Change::Setup(setup()),
        Change::Service(web()),
        Change::EndpointSlice(one(endpoints)[0].clone()),
    ]);
    let compiled = compile(&facts, "n1");
    assert_eq!(
        choices(&compiled, &key(VIP, 80)),
        any(&[("10.244.2.10", 8080)])
    );
    let texts: Vec<String> = compiled.problems.iter().map(|it| it.to_string()).collect();
    assert_eq!(texts.len(), 3);
    assert!(
        texts[0].starts_with("endpointslice a/web-1: endpoint 127.0.0.1 is loopback"),
        "{}",
        texts[0]
    );
}
