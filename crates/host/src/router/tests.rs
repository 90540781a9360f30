//! Which route counts, from given facts; and the same from a kernel.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use podway_intent::{Change, Cluster, HostRoute, LinkAddress, RouteKey, RouteLeads};
use podway_tables::{NoWay, Upkeep};
use podway_wire::{Family, Mac};

use super::facts::{Address, Asks, Kind, Link, Medium, Read, Route, Rule, UseAsSource, Way};
use super::table::{Table, table};
use super::{Interface, Router};
use crate::node::tests::{Wire, ip as run_ip};

const MAIN: u32 = 254;
const LOCAL: u32 = 255;
const PATIENCE: Duration = Duration::from_secs(10);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn net(text: &str) -> IpNet {
    text.parse().expect("range")
}

fn link(ifindex: u32, name: &str, medium: Medium) -> Link {
    Link {
        interface: Interface {
            ifindex,
            name: name.to_owned(),
            mac: Mac([2, 0, 0, 0, 0, ifindex as u8]),
            mtu: 1500,
        },
        alias: String::new(),
        medium,
    }
}

fn route(range: &str, kind: Kind) -> Route {
    Route {
        table: MAIN,
        range: range.parse().expect("range"),
        metric: 0,
        preference: 1,
        kind,
        source: None,
        mtu: None,
    }
}

fn ways(all: &[(u32, Option<&str>)]) -> Kind {
    let way = |(device, gateway): &(u32, Option<&str>)| Way {
        device: *device,
        gateway: gateway.map(ip),
    };
    Kind::Ways(all.iter().map(way).collect())
}

fn address(device: u32, network: &str) -> Address {
    Address {
        device,
        network: network.parse().expect("network"),
        use_as_source: UseAsSource::Yes,
    }
}

fn read(routes: Vec<Route>) -> Read {
    Read {
        routes,
        links: vec![
            link(2, "eth0", Medium::Ethernet),
            link(3, "eth1", Medium::Unplugged),
            link(4, "wg0", Medium::Other),
            link(5, "podway-host", Medium::Ethernet),
        ],
        addresses: vec![
            address(2, "192.168.50.100/32"),
            address(2, "192.168.50.1/24"),
            address(2, "fd50::1/64"),
            address(3, "10.9.0.1/24"),
        ],
        ..Read::default()
    }
}

/// The route of a range in the table at a place.
fn at(made: &Table, place: u8, range: &str) -> Option<HostRoute> {
    let range = range.parse().expect("range");
    made.routes
        .get(&RouteKey {
            table: place,
            range,
        })
        .copied()
}

fn made(routes: Vec<Route>) -> Table {
    table(&read(routes), "podway-host")
}

#[test]
fn r1_of_routes_for_one_range_the_least_metric_counts_and_of_ways_the_first_that_works() {
    let default = "0.0.0.0/0";
    let metric = |metric, gateway| Route {
        metric,
        ..route(default, ways(&[(2, Some(gateway))]))
    };
    let made = made(vec![
        metric(50, "192.168.50.9"),
        metric(10, "192.168.50.2"),
        route(
            "10.20.0.0/16",
            ways(&[(4, None), (3, Some("10.9.0.3")), (2, Some("192.168.50.3"))]),
        ),
        route("10.21.0.0/16", ways(&[(3, Some("10.9.0.3"))])),
    ]);
    let leads = |range| at(&made, 1, range).expect("a route").leads;
    let by = |device, gateway| RouteLeads::Gateway {
        device,
        address: ip(gateway),
    };
    assert_eq!(leads(default), by(2, "192.168.50.2"));
    assert_eq!(leads("10.20.0.0/16"), by(2, "192.168.50.3"));
    assert_eq!(
        leads("10.21.0.0/16"),
        by(3, "10.9.0.3"),
        "all are unplugged"
    );
    let source = at(&made, 1, default).and_then(|it| it.source);
    assert_eq!(source, Some(ip("192.168.50.1")), "of the gateway's network");
    assert!(
        made.problems[0].contains("without a carrier: eth1: "),
        "{:?}",
        made.problems
    );
    let uplinks: Vec<u32> = made.uplinks.keys().copied().collect();
    assert_eq!(uplinks, [2], "the other has no carrier");
}

#[test]
fn r1_what_cant_be_taken_is_refused_and_named_and_our_own_routes_are_left_out() {
    let made = made(vec![
        route("10.7.0.0/16", ways(&[(4, None)])),
        route("10.8.0.0/16", Kind::Encapsulated),
        route("10.30.0.0/16", Kind::Refused(NoWay::Prohibited)),
        route("10.31.0.0/16", Kind::Throw),
        route("10.244.0.0/16", ways(&[(5, Some("169.254.112.1"))])),
        route("fe80::/64", ways(&[(2, None)])),
    ]);
    let leads = |range| at(&made, 1, range).map(|route| route.leads);
    let refused = |why| Some(RouteLeads::Refused(why));
    assert_eq!(leads("10.7.0.0/16"), refused(NoWay::NoRoute));
    assert_eq!(leads("10.8.0.0/16"), refused(NoWay::NoRoute));
    assert_eq!(leads("10.30.0.0/16"), refused(NoWay::Prohibited));
    assert_eq!(leads("10.31.0.0/16"), Some(RouteLeads::Onwards));
    assert_eq!((leads("10.244.0.0/16"), leads("fe80::/64")), (None, None));
    let link_local = at(&made, 0, "fe80::/10").map(|route| route.leads);
    assert_eq!(link_local, refused(NoWay::NoRoute), "RFC 4291, 2.5.6");
    assert_eq!(made.problems.len(), 1, "{:?}", made.problems);
    for named in ["wg0", "10.8.0.0/16"] {
        assert!(made.problems[0].contains(named), "{:?}", made.problems);
    }
    assert!(made.uplinks.is_empty());
}

#[test]
fn r1_tables_are_asked_in_the_order_of_rules_and_other_rules_are_named() {
    let rule = |preference, asks| Rule {
        family: Family::V4,
        preference,
        asks,
    };
    let mut facts = read(vec![
        Route {
            table: 7,
            ..route("0.0.0.0/0", ways(&[(2, Some("192.168.50.7"))]))
        },
        route("0.0.0.0/0", ways(&[(2, Some("192.168.50.2"))])),
        Route {
            table: 9,
            ..route("10.0.0.0/8", Kind::Throw)
        },
        Route {
            table: LOCAL,
            ..route("10.9.0.1/32", Kind::Local(Some(3)))
        },
    ]);
    facts.rules = vec![
        rule(32_766, Asks::Table(MAIN)),
        rule(200, Asks::Table(LOCAL)),
        rule(300, Asks::Table(7)),
        rule(10, Asks::OwnPackets),
        rule(20, Asks::From("10.9.0.1/32".parse().expect("range"))),
        rule(30, Asks::Other),
    ];
    let made = table(&facts, "podway-host");
    assert!(at(&made, 1, "0.0.0.0/0").is_some_and(|it| it.leads
        == RouteLeads::Gateway {
            device: 2,
            address: ip("192.168.50.7")
        }));
    assert!(at(&made, 2, "0.0.0.0/0").is_some());
    assert!(
        made.routes.keys().all(|key| key.range != net("10.0.0.0/8")),
        "nobody asks table 9"
    );
    assert_eq!(made.problems.len(), 1, "{:?}", made.problems);
    assert!(made.problems[0].starts_with("rule 30 "));
}

#[test]
fn r2_own_addresses_are_those_that_the_kernel_takes_and_the_loopback_is_nobodys() {
    let local = |range, kind| Route {
        table: LOCAL,
        ..route(range, kind)
    };
    let made = made(vec![
        local("192.168.50.1/32", Kind::Local(Some(5))),
        local("169.254.20.10/32", Kind::Local(Some(5))),
        local("fe80::7/128", Kind::Local(Some(5))),
        // Of another device than the pair to the host: no pod's wire ends there.
        local("fe80::8/128", Kind::Local(Some(2))),
        local("127.0.0.0/8", Kind::Local(Some(5))),
        local("127.0.0.1/32", Kind::Local(Some(5))),
        local("192.168.50.255/32", Kind::Broadcast),
        local("198.51.100.0/24", Kind::Local(Some(5))),
    ]);
    let own: Vec<String> = made.own.iter().map(ToString::to_string).collect();
    assert_eq!(own, ["169.254.20.10", "192.168.50.1", "fe80::7"]);
    for range in ["127.0.0.0/8", "192.168.50.255/32"] {
        let leads = at(&made, 0, range).map(|route| route.leads);
        assert_eq!(
            leads,
            Some(RouteLeads::Refused(NoWay::Blackhole)),
            "{range}"
        );
    }
    assert!(
        made.problems[0].contains("198.51.100.0/24"),
        "{:?}",
        made.problems
    );
}

/// What a router told so far.
#[derive(Default)]
struct Told {
    cluster: Cluster,
    problems: Vec<String>,
}

impl Told {
    async fn until(&mut self, router: &mut Router, what: &str, holds: impl Fn(&Told) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            assert!(
                start.elapsed() < PATIENCE,
                "{what}: {:?}",
                self.cluster.host_facts()
            );
            let news = tokio::time::timeout(Duration::from_millis(200), router.news()).await;
            let Ok(news) = news else { continue };
            for change in news.changes {
                self.cluster.apply(change);
            }
            self.problems = news.problems;
        }
    }

    fn has(&self, fact: impl Fn(&Change) -> bool) -> bool {
        self.cluster.host_facts().iter().any(fact)
    }

    fn leads(&self, range: &str) -> Option<RouteLeads> {
        let range = range.parse().expect("range");
        self.cluster
            .host_facts()
            .iter()
            .find_map(|fact| match fact {
                Change::Route(key, route) if key.range == range => Some(route.leads),
                _ => None,
            })
    }
}

#[test]
fn r1_r2_the_kernels_routes_addresses_and_neighbours_are_followed() {
    if !podway_needs::root() {
        return;
    }
    let wire = Wire::new("router");
    wire.inside(|| async {
        let mut router = Router::watch("podway-host").expect("a thread");
        let mut told = Told::default();
        let own = |text: &'static str| move |told: &Told| told.has(|it| *it == Change::OwnAddress(ip(text)));
        told.until(&mut router, "its address", own("192.168.50.1")).await;
        assert!(matches!(told.leads("192.168.50.0/24"), Some(RouteLeads::Link { .. })));
        run_ip("route add 10.20.0.0/16 via 192.168.50.2 metric 10");
        run_ip("route add 10.20.0.0/16 via 192.168.50.9 metric 50");
        run_ip("route add blackhole 10.30.0.0/16");
        run_ip("-6 route add fd20::/64 via fd50::2");
        run_ip("addr add 169.254.20.10/32 dev eth0");
        let gateway = |told: &Told| {
            let by = |it: &'static str| move |leads| matches!(leads, RouteLeads::Gateway { address, .. } if address == ip(it));
            told.leads("10.20.0.0/16").is_some_and(by("192.168.50.2"))
                && told.leads("fd20::/64").is_some_and(by("fd50::2"))
        };
        told.until(&mut router, "routes", gateway).await;
        let blackhole = RouteLeads::Refused(NoWay::Blackhole);
        told.until(&mut router, "a blackhole", |it| it.leads("10.30.0.0/16") == Some(blackhole)).await;
        told.until(&mut router, "another address", own("169.254.20.10")).await;
        let kept = |address: &'static str| {
            move |told: &Told| {
                told.has(|fact| matches!(fact, Change::LinkNeighbour(LinkAddress { address: it, .. }, known)
                    if *it == ip(address) && known.upkeep == Upkeep::Kept && known.mac == Mac([2, 0, 0, 0, 0, 2])))
            }
        };
        told.until(&mut router, "the gateway resolved", kept("192.168.50.2")).await;
        let device = told.cluster.host_facts().iter().find_map(|fact| match fact {
            Change::Route(_, HostRoute { leads: RouteLeads::Link { device }, .. }) => Some(*device),
            _ => None,
        });
        let address = ip("fd50::2");
        router.want(LinkAddress { device: device.expect("eth0"), address });
        told.until(&mut router, "a neighbour that was wanted", kept("fd50::2")).await;
        run_ip("route del 10.20.0.0/16 metric 10");
        run_ip("addr del 169.254.20.10/32 dev eth0");
        let other = |told: &Told| matches!(told.leads("10.20.0.0/16"), Some(RouteLeads::Gateway { address, .. }) if address == ip("192.168.50.9"));
        told.until(&mut router, "the next metric", other).await;
        told.until(&mut router, "the address gone", |it| !own("169.254.20.10")(it)).await;
        // The kernel says nothing of routes that go with their device.
        run_ip("link set eth0 down");
        told.until(&mut router, "routes gone with their device", |it| it.leads("10.20.0.0/16").is_none()).await;
        run_ip("rule add fwmark 7 lookup 100");
        told.until(&mut router, "a rule that is not followed", |it| !it.problems.is_empty()).await;
    });
}
