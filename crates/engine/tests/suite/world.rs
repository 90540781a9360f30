//! Two nodes, their pods, and the wire between them, in memory: what the tests send packets through.

use std::sync::Arc;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use podway_engine::{
    Batch, DropReason, Engine, Event, Existing, Hits, Packet, Parts, Paths, Settings, Shared,
    Timeouts, Verdict, counter_names, event_index,
};
use podway_intent::{
    Affinity, Attachment, Change, Cluster, Compiled, Compiler, Endpoint, EndpointSlice, Labels,
    Name, Namespace, NetworkPolicy, Node, NodeSetup, Pod, PodNetwork, PodPhase, PolicyPeer,
    PolicyPort, PolicyRule, Ports, Requirement, Selector, Service, ServicePort, Serving, SlicePort,
    TrafficPolicy, Uplink, one_way_out,
};
use podway_state::{Counters, FlowTable};
use podway_tables::PortId;
use podway_wire::cut::parts;
use podway_wire::{Addr, Content, FlowKey, Frame, Mac, Parsed, Protocol};

pub(crate) const UPLINK: PortId = PortId(0);
pub(crate) const HOST: PortId = PortId(1);
pub(crate) const GATEWAY_MAC: Mac = Mac([2, 0, 0, 0, 0, 0xee]);
pub(crate) const HEADROOM: usize = 256;

/// A node of the test's cluster: its engine, and the tables that it has now.
pub(crate) struct TestNode {
    pub(crate) engine: Engine,
    pub(crate) cluster: Cluster,
    compiler: Compiler,
    pub(crate) compiled: Compiled,
    counters: Arc<Counters>,
    pub(crate) hits: Arc<Hits>,
    pub(crate) flows: Arc<FlowTable>,
    pub(crate) paths: Arc<Paths>,
    pub(crate) now_ms: u32,
    /// What the last packet made come out beside itself: its other parts, fragments that had waited.
    pub(crate) made: Vec<Sent>,
}

/// What became of a packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) verdict: Verdict,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn text(value: &str) -> Arc<str> {
    value.into()
}

pub(crate) fn name(namespace: &str, name: &str) -> Name {
    Name {
        namespace: text(namespace),
        name: text(name),
    }
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(key, value)| (text(key), text(value)))
        .collect()
}

pub(crate) fn addr(value: &str) -> Addr {
    value
        .parse::<std::net::IpAddr>()
        .expect("an address")
        .into()
}

/// The Ethernet address of the pod at this port of its node.
pub(crate) fn pod_mac(port: PortId) -> Mac {
    Mac([2, 0, 0, 0, 1, port.0 as u8])
}

pub(crate) fn node(number: u8) -> Change {
    Change::Node(Node {
        name: text(&format!("node{number}")),
        labels: Labels::new(),
        addresses: vec![
            format!("192.168.50.{number}").parse().expect("address"),
            format!("fd50::{number}").parse().expect("address"),
        ],
        taints: Vec::new(),
        pod_ranges: vec![
            format!("10.244.{number}.0/24").parse().expect("range"),
            format!("fd44:0:0:{number}::/64").parse().expect("range"),
        ],
    })
}

/// Pod `last` of a node, in namespace `shop`: 10.244.NODE.LAST and fd44:0:0:NODE::LAST, labelled `app: NAME`.
pub(crate) fn pod(pod_name: &str, node: u8, last: u8) -> Change {
    Change::Pod(Pod {
        name: name("shop", pod_name),
        uid: text(""),
        node: Some(text(&format!("node{node}"))),
        labels: labels(&[("app", pod_name)]).into(),
        addresses: vec![
            format!("10.244.{node}.{last}").parse().expect("address"),
            format!("fd44:0:0:{node}::{last}").parse().expect("address"),
        ],
        ports: [].into(),
        host_ports: Vec::new(),
        network: PodNetwork::Own,
        phase: PodPhase::Alive,
    })
}

pub(crate) fn attachment(pod_name: &str, port: u16) -> Change {
    Change::Attachment(Attachment {
        pod: name("shop", pod_name),
        port: PortId(port),
        mac: pod_mac(PortId(port)),
        mtu: 61_000,
        addresses: Vec::new(),
    })
}

fn namespace() -> Change {
    Change::Namespace(Namespace {
        name: text("shop"),
        labels: labels(&[("kubernetes.io/metadata.name", "shop")]),
        phase: Default::default(),
    })
}

pub(crate) fn setup(number: u8) -> Change {
    Change::Setup(NodeSetup {
        uplink: Some((UPLINK, Mac([2, 0, 0, 0, 2, number]), 1500)),
        host: Some((HOST, Mac([2, 0, 0, 0, 3, number]), 1450)),
        gateway_mac: GATEWAY_MAC,
        vni: 7,
        tunnel_port: 4789,
        service_ranges: vec![
            "10.96.0.0/16".parse().expect("range"),
            "fd96::/112".parse().expect("range"),
        ],
        ..NodeSetup::default()
    })
}

/// The device that the uplink is to the kernel.
pub(crate) const WIRE: u32 = 7;

/// What makes a way out of a node's set-up: source ports, and one gateway of each family.
pub(crate) fn way_out(number: u8, gateway: Mac) -> Vec<Change> {
    let Change::Setup(setup) = setup(number) else {
        panic!("a set-up")
    };
    let (port, mac, mtu) = setup.uplink.expect("an uplink");
    let uplink = Uplink {
        port,
        device: WIRE,
        mac,
        mtu,
    };
    let mut changes: Vec<Change> = one_way_out(WIRE, gateway).collect();
    changes.push(Change::Setup(NodeSetup {
        uplinks: vec![uplink],
        snat_ports: Some((61_000, 61_063)),
        ..setup
    }));
    changes
}

/// Service `shop/NAME` at 10.96.0.LAST and fd96::LAST, TCP and UDP port 80.
pub(crate) fn service(service_name: &str, last: u8) -> Change {
    let port = |protocol, port_name: &str| ServicePort {
        name: text(port_name),
        protocol,
        port: 80,
        node_port: None,
    };
    Change::Service(Service {
        name: name("shop", service_name),
        created_s: 0,
        cluster_ips: vec![
            format!("10.96.0.{last}").parse().expect("address"),
            format!("fd96::{last}").parse().expect("address"),
        ],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        ports: vec![port(Protocol::TCP, "web"), port(Protocol::UDP, "dns")],
        internal: TrafficPolicy::Cluster,
        external: TrafficPolicy::Cluster,
        affinity: Affinity::None,
        health_check_port: None,
    })
}

/// The slice of a service: these addresses, at port 8080.
pub(crate) fn slice(service_name: &str, slice_name: &str, addresses: &[&str]) -> Change {
    let port = |protocol, port_name: &str| SlicePort {
        name: text(port_name),
        protocol,
        port: 8080,
    };
    let endpoint = |address: &&str| Endpoint {
        address: address.parse().expect("address"),
        serving: Serving::Ready,
        node: None,
        pod: None,
        zone_hints: Vec::new(),
        node_hints: Vec::new(),
    };
    Change::EndpointSlice(EndpointSlice {
        name: name("shop", slice_name),
        service: name("shop", service_name),
        ports: vec![port(Protocol::TCP, "web"), port(Protocol::UDP, "dns")],
        endpoints: addresses.iter().map(endpoint).collect(),
    })
}

pub(crate) fn app(value: &str) -> Selector {
    Selector {
        requirements: vec![Requirement::In(text("app"), vec![text(value)])],
    }
}

/// Pods `subject` take TCP 8080 from pods `from` only; with no `from`, nothing.
pub(crate) fn ingress_policy(subject: &str, from: Option<&str>) -> Change {
    let rule = |from: &str| PolicyRule {
        peers: Some(vec![PolicyPeer::Pods {
            namespaces: None,
            pods: app(from),
        }]),
        ports: Some(vec![PolicyPort {
            protocol: Protocol::TCP,
            ports: Ports::Range(8080, 8080),
        }]),
    };
    Change::NetworkPolicy(NetworkPolicy {
        name: name("shop", &format!("{subject}-ingress")),
        subject: app(subject),
        ingress: Some(from.map(rule).into_iter().collect()),
        egress: None,
        mode: Default::default(),
    })
}

/// Pods `subject` may send nothing.
pub(crate) fn egress_policy(subject: &str) -> Change {
    Change::NetworkPolicy(NetworkPolicy {
        name: name("shop", &format!("{subject}-egress")),
        subject: app(subject),
        ingress: None,
        egress: Some(Vec::new()),
        mode: Default::default(),
    })
}

/// node1 with client (port 2) and web1 (port 3), node2 with web2 (port 2) and other (port 3).
pub(crate) fn two_nodes(more: &[Change]) -> [TestNode; 2] {
    two_nodes_that(Existing::Judge, more)
}

/// The same with what a change of policy means for flows that are there.
pub(crate) fn two_nodes_that(existing: Existing, more: &[Change]) -> [TestNode; 2] {
    let shared = [
        namespace(),
        node(1),
        node(2),
        pod("client", 1, 10),
        pod("web1", 1, 11),
        pod("web2", 2, 12),
        pod("other", 2, 13),
    ];
    let own = [
        vec![setup(1), attachment("client", 2), attachment("web1", 3)],
        vec![setup(2), attachment("web2", 2), attachment("other", 3)],
    ];
    let mut number = 0;
    own.map(|own| {
        number += 1;
        let mut node = TestNode::new(&format!("node{number}"), existing);
        node.change(shared.iter().chain(&own).chain(more).cloned());
        let peer = format!("192.168.50.{}", 3 - number)
            .parse()
            .expect("address");
        node.change([Change::Neighbour(peer, Mac([2, 0, 0, 0, 2, 3 - number]))]);
        node
    })
}

impl TestNode {
    fn new(name: &str, existing: Existing) -> TestNode {
        TestNode::with(name, FlowTable::new(1024, 1, 42), existing)
    }

    /// A node whose flow table is there already.
    pub(crate) fn with(name: &str, flows: FlowTable, existing: Existing) -> TestNode {
        let shared = Shared::with(flows, 1);
        let (flows, counters) = (shared.flows.clone(), shared.counters.clone());
        let hits = shared.hits.clone();
        let paths = shared.paths.clone();
        let settings = Settings {
            timeouts: Timeouts::default(),
            existing,
        };
        TestNode {
            engine: Engine::new(settings, shared.part(0)),
            cluster: Cluster::default(),
            compiler: Compiler::new(name),
            compiled: Compiled::default(),
            counters,
            hits,
            flows,
            paths,
            now_ms: 1_000,
            made: Vec::new(),
        }
    }

    pub(crate) fn change(&mut self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            self.cluster.apply(change);
        }
        self.compiled = self.compiler.compile(&self.cluster);
    }

    /// Sends one packet in by a port; the books must balance, and a packet that goes on must be sound.
    pub(crate) fn send(&mut self, port: PortId, bytes: &[u8]) -> Sent {
        let (sent, _) = self.send_counted(port, bytes);
        sent
    }

    /// The same, with the names of the counters that moved.
    pub(crate) fn send_counted(&mut self, port: PortId, bytes: &[u8]) -> (Sent, Vec<String>) {
        let before = self.counters.totals();
        let mut chunk = vec![0xEE; 4096.max(HEADROOM + bytes.len())];
        chunk[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(bytes);
        let frame = Frame::new(&mut chunk, HEADROOM, HEADROOM + bytes.len(), 0).expect("fits");
        let mut packets = [Packet::received(frame, port)];
        let mut chunks = vec![[0xEE; 4096]; 16];
        let mut free = chunks.iter_mut();
        let mut spare = || Frame::new(free.next()?, HEADROOM, HEADROOM, 0);
        let mut batch = Batch::new(&mut packets, &mut spare);
        self.engine
            .process(&self.compiled.snapshot, &mut batch, self.now_ms);
        let made = batch.into_made();
        self.made.clear();
        for packet in &made {
            if let Verdict::Transmit(_) = packet.verdict {
                self.made.extend(sent(packet));
            }
        }
        let released = self.made.len() as u64;
        let mut came = sent(&packets[0]);
        let sent = came.remove(0);
        self.made.extend(came);
        let after = self.counters.totals();
        let moved: Vec<u64> = after
            .iter()
            .zip(&before)
            .map(|(after, before)| after - before)
            .collect();
        let drops: u64 = moved[Event::ALL.len()..].iter().sum();
        assert_balanced(&moved, 1);
        let sent_it = matches!(sent.verdict, Verdict::Transmit(_));
        assert_eq!(moved[1], u64::from(sent_it) + released, "{drops} drops");
        for sent in [&sent].into_iter().chain(&self.made) {
            if let Verdict::Transmit(_) = sent.verdict {
                assert_sound(&sent.bytes);
            }
        }
        let names = counter_names();
        let moved = moved.iter().zip(names).filter(|(count, _)| **count > 0);
        (sent, moved.map(|(_, name)| name).collect())
    }

    /// All counters, in order.
    pub(crate) fn totals(&self) -> Vec<u64> {
        self.counters.totals()
    }

    /// Sends a packet that must be dropped for this reason, and leave no flow behind.
    pub(crate) fn drops(&mut self, port: PortId, bytes: &[u8], reason: DropReason) {
        let flows = self.flows.iter().count();
        assert_eq!(self.send(port, bytes).verdict, Verdict::Drop(reason));
        assert_eq!(
            self.flows.iter().count(),
            flows,
            "a dropped packet leaves no flow"
        );
    }
}

/// A packet as the edge sends it: itself, or its parts.
fn sent(packet: &Packet<'_>) -> Vec<Sent> {
    let verdict = packet.verdict;
    let bytes = packet.frame.bytes().to_vec();
    let parts = match (verdict, packet.parts) {
        (Verdict::Transmit(_), Parts::Cut(cut)) => parts(&bytes, cut).expect("a sound packet"),
        (Verdict::Transmit(_), Parts::Whole | Parts::Joined { .. })
        | (Verdict::Drop(_) | Verdict::Waits, _) => {
            vec![bytes]
        }
    };
    parts
        .into_iter()
        .map(|bytes| Sent { verdict, bytes })
        .collect()
}

/// Sends a packet in by a port of node `from`, over the wire if it goes there, and says where it came out.
pub(crate) fn across(nodes: &mut [TestNode; 2], from: usize, port: PortId, bytes: &[u8]) -> Sent {
    let sent = nodes[from].send(port, bytes);
    match sent.verdict {
        Verdict::Transmit(UPLINK) => nodes[1 - from].send(UPLINK, &sent.bytes),
        Verdict::Transmit(_) | Verdict::Drop(_) | Verdict::Waits => sent,
    }
}

pub(crate) fn key(protocol: Protocol, source: (&str, u16), target: (&str, u16)) -> FlowKey {
    FlowKey {
        source: addr(source.0),
        target: addr(target.0),
        source_port: source.1,
        target_port: target.1,
        protocol,
    }
}

/// The flow key that a frame carries.
pub(crate) fn key_of(bytes: &[u8]) -> FlowKey {
    parsed(bytes).key
}

pub(crate) fn parsed(bytes: &[u8]) -> Parsed {
    let mut copy = bytes.to_vec();
    let length = copy.len();
    let frame = Frame::new(&mut copy, 0, length, 0).expect("a frame");
    match Parsed::frame(&frame) {
        Ok(Content::Ip(parsed)) => parsed,
        other => panic!("not an IP packet: {other:?}"),
    }
}

/// A packet of this flow from the pod at `port` to the gateway; TCP carries `flags` (SYN 2, ACK 16, …).
pub(crate) fn packet(port: PortId, key: &FlowKey, flags: u8, payload: &[u8]) -> Vec<u8> {
    packet_ttl(port, key, flags, payload, 64)
}

pub(crate) fn packet_ttl(
    port: PortId,
    key: &FlowKey,
    flags: u8,
    payload: &[u8],
    ttl: u8,
) -> Vec<u8> {
    let source = match port {
        HOST => Mac([2, 0, 0, 0, 3, 1]),
        port => pod_mac(port),
    };
    let ethernet = PacketBuilder::ethernet2(source.0, GATEWAY_MAC.0);
    let builder = match (key.source.ip(), key.target.ip()) {
        (std::net::IpAddr::V4(source), std::net::IpAddr::V4(target)) => {
            ethernet.ipv4(source.octets(), target.octets(), ttl)
        }
        (std::net::IpAddr::V6(source), std::net::IpAddr::V6(target)) => {
            ethernet.ipv6(source.octets(), target.octets(), ttl)
        }
        _ => panic!("one family"),
    };
    let mut bytes = Vec::new();
    let written = match key.protocol {
        Protocol::TCP => {
            let mut tcp = builder.tcp(key.source_port, key.target_port, 1, 1024);
            if flags & 2 != 0 {
                tcp = tcp.syn();
            }
            if flags & 16 != 0 {
                tcp = tcp.ack(1);
            }
            if flags & 4 != 0 {
                tcp = tcp.rst();
            }
            if flags & 1 != 0 {
                tcp = tcp.fin();
            }
            tcp.write(&mut bytes, payload)
        }
        Protocol::UDP => builder
            .udp(key.source_port, key.target_port)
            .write(&mut bytes, payload),
        Protocol::ICMP => match key.target_port {
            0 => builder
                .icmpv4_echo_request(key.source_port, 1)
                .write(&mut bytes, payload),
            id => builder.icmpv4_echo_reply(id, 1).write(&mut bytes, payload),
        },
        Protocol::ICMPV6 => match key.target_port {
            0 => builder
                .icmpv6_echo_request(key.source_port, 1)
                .write(&mut bytes, payload),
            id => builder.icmpv6_echo_reply(id, 1).write(&mut bytes, payload),
        },
        Protocol::SCTP => {
            let mut chunk = vec![0; 12];
            chunk[0..2].copy_from_slice(&key.source_port.to_be_bytes());
            chunk[2..4].copy_from_slice(&key.target_port.to_be_bytes());
            chunk.extend_from_slice(payload);
            builder.write(&mut bytes, key.protocol.0.into(), &chunk)
        }
        other => builder.write(&mut bytes, other.0.into(), payload),
    };
    written.expect("a packet");
    bytes
}

/// D13: what came in and was made went out, was dropped by a reason, or waits.
pub(crate) fn assert_balanced(moved: &[u64], received: u64) {
    let of = |event: Event| moved[event_index(event)];
    let drops: u64 = moved[Event::ALL.len()..].iter().sum();
    assert_eq!(of(Event::Received), received);
    assert_eq!(
        of(Event::Received) + of(Event::Made),
        of(Event::Transmitted) + of(Event::Waits) + drops,
        "D13: the books balance"
    );
}

/// Checks every checksum of a frame, and of the frame inside its tunnel, with etherparse.
pub(crate) fn assert_sound(bytes: &[u8]) {
    let sliced = SlicedPacket::from_ethernet(bytes).expect("etherparse reads it");
    let wrong = |what: &str| panic!("wrong {what} checksum in {bytes:02x?}");
    match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header().to_header();
            if header.header_checksum != header.calc_header_checksum() {
                wrong("IPv4");
            }
        }
        Some(NetSlice::Ipv6(_)) => {}
        _ => return,
    }
    match (&sliced.net, &sliced.transport) {
        (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) => {
            let sum = tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination());
            assert_eq!(sum, Ok(tcp.checksum()));
        }
        (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Tcp(tcp))) => {
            let sum = tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination());
            assert_eq!(sum, Ok(tcp.checksum()));
        }
        (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) => {
            let header = udp.to_header();
            if udp.checksum() != 0 {
                let (source, target) = (ip.header().source(), ip.header().destination());
                let sum = header.calc_checksum_ipv4_raw(source, target, udp.payload());
                assert_eq!(sum, Ok(udp.checksum()));
            }
            if udp.destination_port() == 4789 && !udp.payload().is_empty() {
                assert_sound(&udp.payload()[8..]);
            }
        }
        (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Udp(udp))) => {
            let header = udp.to_header();
            let (source, target) = (ip.header().source(), ip.header().destination());
            let sum = header.calc_checksum_ipv6_raw(source, target, udp.payload());
            // RFC 6935: tunnels need none.
            if udp.destination_port() == 4789 && udp.checksum() == 0 {
                return assert_sound(&udp.payload()[8..]);
            }
            assert_eq!(sum, Ok(udp.checksum()));
        }
        (Some(NetSlice::Ipv4(_)), Some(TransportSlice::Icmpv4(icmp))) => {
            let sum = icmp.icmp_type().calc_checksum(icmp.payload());
            assert_eq!(sum, icmp.checksum());
        }
        (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(icmp))) => {
            let (source, target) = (ip.header().source(), ip.header().destination());
            let sum = icmp
                .icmp_type()
                .calc_checksum(source, target, icmp.payload());
            assert_eq!(sum, Ok(icmp.checksum()));
        }
        (_, _) => {}
    }
}
