//! Small clusters and packets at random: few addresses and ports, so that they meet.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use podway_intent::*;
use podway_tables::{ClusterIpMasquerade, PortId};
use podway_wire::{Mac, Protocol};

/// The uplink's number to the kernel.
const WIRE: u32 = 7;

/// The node that decides.
pub(crate) const HERE: &str = "n1";

/// Steele et al., OOPSLA 2014: enough for tests, and the same everywhere.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % limit
    }

    pub(crate) fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize].clone()
    }

    /// Some of these, as words.
    fn some(&mut self, text: &str, most: u64) -> Vec<String> {
        let words: Vec<&str> = text.split(' ').collect();
        let count = self.below(most + 1);
        let picked: BTreeSet<&str> = (0..count).map(|_| self.of(&words)).collect();
        picked.into_iter().map(str::to_owned).collect()
    }

    fn parsed<T: std::str::FromStr<Err: std::fmt::Debug>>(
        &mut self,
        text: &str,
        most: u64,
    ) -> Vec<T> {
        let words = self.some(text, most);
        words
            .iter()
            .map(|word| word.parse().expect("legal"))
            .collect()
    }
}

/// The facts, in both shapes: for the compiler and for the evaluator.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) node: Node,
    pub(crate) setup: NodeSetup,
    pub(crate) services: Vec<Service>,
    pub(crate) slices: Vec<EndpointSlice>,
}

const ENDPOINTS: &str = "10.244.1.10 10.244.1.11 10.244.1.99 10.244.2.10 10.244.2.11 192.168.0.1 192.168.0.2 192.168.0.4 203.0.113.50 127.0.0.1 fd44:0:0:1::10 fd44:0:0:2::10 fd50::1 fd50::2 fe80::7";

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

pub(crate) fn endpoint(dice: &mut Dice) -> (IpAddr, u16) {
    let all: Vec<&str> = ENDPOINTS.split(' ').collect();
    (ip(dice.of(&all)), dice.of(&[8080, 8081]))
}

fn name(text: String) -> Name {
    Name {
        namespace: "a".into(),
        name: text.into(),
    }
}

fn node(number: u8, addresses: &str, zone: &str) -> Node {
    let labels = [("topology.kubernetes.io/zone".into(), zone.into())];
    let ranges = [
        format!("10.244.{number}.0/24"),
        format!("fd44:0:0:{number}::/64"),
    ];
    Node {
        name: format!("n{number}").into(),
        labels: labels.into(),
        addresses: addresses.split(' ').map(ip).collect(),
        taints: Vec::new(),
        pod_ranges: ranges.map(|text| text.parse().expect("range")).to_vec(),
    }
}

impl World {
    /// A new world; with the one before, in a cluster that was that one.
    pub(crate) fn random(dice: &mut Dice, before: Option<&World>) -> World {
        let mut cluster = before.map_or_else(Cluster::default, |before| before.cluster.clone());
        for service in before.iter().flat_map(|it| &it.services) {
            cluster.apply(Change::Gone(Key::Service(service.name.clone())));
        }
        for slice in before.iter().flat_map(|it| &it.slices) {
            cluster.apply(Change::Gone(Key::EndpointSlice(slice.name.clone())));
        }
        let zone = dice.of(&["", "za", "zb"]);
        let node = node(1, "192.168.0.1 192.168.0.3 fd50::1", zone);
        cluster.apply(Change::Node(node.clone()));
        cluster.apply(Change::Node(self::node(
            2,
            "192.168.0.2 192.168.0.4 fd50::2",
            "za",
        )));
        for (pod, place) in [("here-0", 1), ("here-1", 1), ("there-0", 2), ("there-1", 2)] {
            cluster.apply(Change::Pod(self::pod(pod, place)));
        }
        for (pod, port) in [("here-0", 2), ("here-1", 3)] {
            cluster.apply(Change::Attachment(Attachment {
                pod: name(pod.to_owned()),
                port: PortId(port),
                mac: Mac([2, 0, 0, 0, 0, port as u8]),
                mtu: 1500,
                addresses: Vec::new(),
            }));
        }
        let setup = setup(dice);
        cluster.apply(Change::Setup(setup.clone()));
        for change in one_way_out(WIRE, Mac([2, 9, 0, 0, 0, 0])) {
            cluster.apply(change);
        }
        let services: Vec<Service> = (0..8).map(|number| service(dice, number)).collect();
        let slices: Vec<EndpointSlice> = (0..20).map(|number| slice(dice, number)).collect();
        for service in &services {
            cluster.apply(Change::Service(service.clone()));
        }
        for slice in &slices {
            cluster.apply(Change::EndpointSlice(slice.clone()));
        }
        World {
            cluster,
            node,
            setup,
            services,
            slices,
        }
    }
}

fn pod(pod: &str, node: u8) -> Pod {
    let last = 10 + pod.bytes().last().map_or(0, |digit| digit - b'0');
    let addresses = [
        format!("10.244.{node}.{last}"),
        format!("fd44:0:0:{node}::{last}"),
    ];
    Pod {
        name: name(pod.to_owned()),
        uid: "".into(),
        node: Some(format!("n{node}").into()),
        labels: Labels::new().into(),
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        ports: [].into(),
        host_ports: Vec::new(),
        network: PodNetwork::Own,
        phase: PodPhase::Alive,
    }
}

fn setup(dice: &mut Dice) -> NodeSetup {
    let ranges = |text: &str| -> Vec<IpNet> {
        let words = text.split_whitespace();
        words.map(|word| word.parse().expect("range")).collect()
    };
    NodeSetup {
        uplink: Some((PortId(0), Mac([2, 1, 0, 0, 0, 0]), 1500)),
        host: Some((PortId(1), Mac([2, 1, 0, 0, 0, 1]), 1500)),
        tunnel_port: 4789,
        service_ranges: ranges("10.96.0.0/24 fd96::/112"),
        node_port_addresses: ranges(dice.of(&["", "192.168.0.0/24", "192.168.0.3/32 fd50::/64"])),
        allowed_external_ips: ranges(dice.of(&["", "198.51.100.0/24 192.168.0.3/32 fdee::/64"])),
        cluster_ip_masquerade: dice.of(&[
            ClusterIpMasquerade::Foreign,
            ClusterIpMasquerade::Foreign,
            ClusterIpMasquerade::All,
            ClusterIpMasquerade::None,
        ]),
        masquerade_exempt: ranges(dice.of(&["", "203.0.113.0/24"])),
        uplinks: vec![Uplink {
            port: PortId(0),
            device: WIRE,
            mac: Mac([2, 1, 0, 0, 0, 0]),
            mtu: 1500,
        }],
        snat_ports: Some((50_000, 59_999)),
        ..NodeSetup::default()
    }
}

fn service(dice: &mut Dice, number: u8) -> Service {
    let policies = [TrafficPolicy::Cluster, TrafficPolicy::Local];
    let mut taken = BTreeSet::new();
    let mut ports = Vec::new();
    for _ in 0..dice.below(5) {
        let protocol = dice.of(&[Protocol::TCP, Protocol::TCP, Protocol::UDP]);
        let port = dice.of(&[80, 81]);
        if taken.insert((protocol, port)) {
            ports.push(ServicePort {
                name: dice.of(&["", "", "", "x"]).into(),
                protocol,
                port,
                node_port: dice.of(&[None, Some(30_000), Some(30_001), Some(30_002)]),
            });
        }
    }
    let vip = 1 + dice.below(3);
    let v4 = format!("10.96.0.{vip}");
    let v6 = format!("fd96::{vip}");
    let vips = dice.of(&[vec![v4.clone()], vec![v4, v6.clone()], vec![v6]]);
    let balancers: Vec<IpAddr> = dice.parsed("198.51.100.1 198.51.100.2 fdee::2", 2);
    let modes = [IpMode::Vip, IpMode::Vip, IpMode::Proxy];
    Service {
        name: name(format!("s{number}")),
        created_s: dice.below(3) as i64,
        cluster_ips: vips.iter().map(|text| ip(text)).collect(),
        external_ips: dice.parsed("198.51.100.1 198.51.100.3 192.168.0.3 8.8.8.8 fdee::1", 2),
        load_balancer_ips: balancers
            .into_iter()
            .map(|ip| (ip, dice.of(&modes)))
            .collect(),
        source_ranges: dice.parsed("203.0.113.0/25 10.244.0.0/16 192.168.0.0/24 fd44::/16", 2),
        ports,
        internal: dice.of(&policies),
        external: dice.of(&policies),
        affinity: dice.of(&[Affinity::None, Affinity::ClientIp { timeout_s: 60 }]),
        health_check_port: None,
    }
}

fn slice(dice: &mut Dice, number: u8) -> EndpointSlice {
    let mut ports = Vec::new();
    for _ in 0..=dice.below(3) {
        ports.push(SlicePort {
            name: dice.of(&["", "", "x"]).into(),
            protocol: dice.of(&[Protocol::TCP, Protocol::TCP, Protocol::UDP]),
            port: dice.of(&[8080, 8081]),
        });
    }
    let hinted = dice.of(&[0, 0, 1, 2, 3]);
    let mut endpoints = Vec::new();
    for _ in 0..dice.below(5) {
        let (address, _) = endpoint(dice);
        let hints = |dice: &mut Dice, kind, text: &str| -> Vec<std::sync::Arc<str>> {
            let most = if hinted & kind != 0 { 2 } else { 0 };
            let words = dice.some(text, most).into_iter();
            words.map(|word| word.into()).collect()
        };
        endpoints.push(Endpoint {
            address,
            serving: dice.of(&[
                Serving::Ready,
                Serving::Ready,
                Serving::Terminating,
                Serving::Unready,
                Serving::No,
            ]),
            node: dice.of(&[Some("n1"), Some("n2"), None]).map(Into::into),
            pod: None,
            zone_hints: hints(dice, 1, "za zb"),
            node_hints: hints(dice, 2, "n1 n2"),
        });
    }
    EndpointSlice {
        name: name(format!("e{number}")),
        service: name(format!("s{}", dice.below(9))),
        ports,
        endpoints,
    }
}
