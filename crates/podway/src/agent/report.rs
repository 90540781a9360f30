//! What `podway show` is answered: JSON whose keys are stable.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;

use podway_cni::agent::NodeNetwork;
use podway_engine::{Remembered, counter_names};
use podway_intent::Tunnel;
use podway_state::{Flow, Phase};
use podway_tables::{EndpointId, Exit, Hop, NoWay, PortId, Via};
use podway_wire::{Addr, FlowKey, Mac, Protocol};
use podway_xsk::{CHUNK, PortStatistics};
use serde_json::{Map, Value, json};

use super::Agent;
use super::binding::Binding;
use super::clock::{boot_ns, flow_ms};
use super::path_mtus::path_mtus;
use super::ports::mode_name;
use super::services::services;
use super::worker::Report;
use crate::aim::{HOST, Tables, UPLINK, Wire, WireState};
use crate::show::Topic;
use podway_host::node::DATAPLANE_INTERFACE;
use podway_host::tunnel_mtu;

/// Flows that one answer shows at most.
const FLOWS: usize = 10_000;
/// The protocol of entries of the flow table that are clients' backends (S14), and no flows.
const AFFINITY: Protocol = Protocol(255);

impl Agent {
    /// The tables that are shown: those that workers were given last, or would be.
    pub(super) fn shown(&self) -> &Tables {
        let given = self.room.in_force().tables.last();
        given.unwrap_or(&self.tables)
    }

    /// Pods' open ports.
    fn pods(&self) -> impl Iterator<Item = (PortId, &Wire)> {
        let wires = self.facts.wires();
        wires.filter_map(|(id, wire, state)| match state {
            WireState::Open(_) => Some((id, wire)),
            WireState::Asked | WireState::Leaving => None,
        })
    }

    /// The answer to `show`.
    pub(super) async fn show(&self, topic: Topic) -> Value {
        match topic {
            Topic::Services => services(&self.shown().compiled),
            Topic::Endpoints => self.endpoints(),
            Topic::Policies => self.policies().await,
            Topic::Flows => self.flows(),
            Topic::Ports => self.ports_value().await,
            Topic::Counters => self.counters_value().await,
            Topic::Status => self.status(),
        }
    }

    /// What a pod's wire on this node is made of.
    pub(super) fn network(&self) -> Value {
        let node = self.facts.cluster().node(&self.config.node);
        let setup = self.facts.cluster().setup();
        let gateway_mac = setup.map_or(Mac::default(), |it| it.gateway_mac);
        let uplink_mtu = setup.and_then(|it| it.uplink).map_or(0, |(_, _, mtu)| mtu);
        let vtep = node.and_then(|node| node.addresses.first().copied());
        let path_mtu = match self.config.tunnel {
            Tunnel::Vxlan => tunnel_mtu(uplink_mtu, vtep.unwrap_or(Ipv4Addr::UNSPECIFIED.into())),
            // What a node behind the tunnel takes less is told by its path.
            Tunnel::Direct | Tunnel::Auto => uplink_mtu,
        };
        let network = NodeNetwork {
            pod_ranges: node.map_or(Vec::new(), |node| node.pod_ranges.clone()),
            queues: NonZeroU16::new(self.config.workers as u16).expect("1 to 64 workers"),
            pod_mtu: self.config.pod_mtu,
            tunnel_mtu: path_mtu,
            gateway_mac: gateway_mac.to_string(),
            problem: self.room.readiness().problem().map(str::to_owned),
        };
        json!(network)
    }

    fn endpoints(&self) -> Value {
        let endpoints = (0..).zip(&self.shown().compiled.snapshot.endpoints);
        let rows = endpoints.filter_map(|(id, endpoint)| {
            let endpoint = endpoint.as_ref()?;
            let pod = self.shown().compiled.names.endpoint(EndpointId(id))?;
            let known = self.pods().find(|(_, wire)| wire.pod == *pod);
            Some(json!({
                "pod": pod.to_string(),
                "addresses": endpoint.addresses.iter().map(Addr::to_string).collect::<Vec<_>>(),
                "mac": endpoint.mac.to_string(),
                "mtu": endpoint.mtu,
                "port": endpoint.port.map(|port| port.0),
                "interface": known.map(|(_, wire)| wire.interface.as_str()),
            }))
        });
        rows.collect()
    }

    fn flows(&self) -> Value {
        let now_ms = flow_ms(boot_ns());
        let flows = &self.room.flows;
        let rows: Vec<Value> = flows
            .iter()
            .filter(|flow| FlowKey::of_words(flow.original).protocol != AFFINITY)
            .take(FLOWS)
            .map(|flow| self.flow(&flow, now_ms))
            .collect();
        json!({"total": flows.len(), "flows": rows})
    }

    fn flow(&self, flow: &Flow, now_ms: u32) -> Value {
        let original = FlowKey::of_words(flow.original);
        let translated = FlowKey::of_words(flow.reply).reverse();
        let remembered = flow
            .decision
            .and_then(|decision| Remembered::of_words(decision.words));
        let service = remembered.and_then(|it| it.service);
        json!({
            "protocol": original.protocol.to_string(),
            "source": side_text(&original.source, original.source_port, original.protocol),
            "target": side_text(&original.target, original.target_port, original.protocol),
            "translated_source": side_text(&translated.source, translated.source_port, translated.protocol),
            "translated_target": side_text(&translated.target, translated.target_port, translated.protocol),
            "answered": flow.phase == Phase::Answered,
            "idle_ms": now_ms.wrapping_sub(flow.seen_ms).cast_signed().max(0),
            "service": service.and_then(|id| self.shown().compiled.names.service(id)),
            "route": remembered.and_then(|it| self.route(it.forward, &translated.target)),
        })
    }

    /// The route by which packets leave the cluster, if they do.
    fn route(&self, hop: Hop, target: &Addr) -> Option<String> {
        let id = match hop {
            Hop::World(id) => id,
            Hop::Endpoint(_) | Hop::Peer(_) | Hop::Host | Hop::Gateway | Hop::Unallocated => {
                return None;
            }
        };
        let world = &self.shown().compiled.snapshot.world;
        let range = world.route(target)?;
        let leads = match world.exit(id)? {
            Exit::To(next) => {
                let mut ports = self.named_ports();
                let (_, _, interface) = ports.find(|(port, _, _)| *port == next.port)?;
                format!("dev {interface}")
            }
            Exit::Refused(NoWay::NoRoute) => "by no uplink".to_owned(),
            Exit::Refused(NoWay::Unreachable) => "unreachable".to_owned(),
            Exit::Refused(NoWay::Prohibited) => "prohibit".to_owned(),
            Exit::Refused(NoWay::Blackhole) => "blackhole".to_owned(),
        };
        Some(format!("{range} {leads}"))
    }

    async fn ports_value(&self) -> Value {
        let reports = self.reports().await;
        let mut rows = Vec::new();
        for (port, name, interface) in self.named_ports() {
            let mode = self.room.mode(port).map(mode_name);
            let binding = self.room.binding(port);
            let why = binding.and_then(|it| it.why.as_ref());
            let mut row = json!({
                "port": port.0,
                "name": name,
                "interface": interface,
                "mode": mode,
                "binding": binding.map(Binding::name),
                "why": why.map(ToString::to_string),
            });
            let fields = row.as_object_mut().expect("an object");
            fields.append(&mut port_counters(&reports, port));
            rows.push(row);
        }
        Value::Array(rows)
    }

    /// How each uplink is bound, why not better, and what packet memory it has of its own, in bytes.
    fn uplinks(&self) -> Vec<Value> {
        let bound = self.named_ports().filter_map(|(port, name, interface)| {
            let is_uplink = name.starts_with("uplink");
            let binding = self.room.binding(port).filter(|_| is_uplink)?;
            let frames = match binding.bound.has_own_memory() {
                true => self.config.frames as usize * self.config.workers,
                false => 0,
            };
            Some(json!({
                "interface": interface,
                "binding": binding.name(),
                "why": binding.why.as_ref().map(ToString::to_string),
                "own_memory": frames * CHUNK,
            }))
        });
        bound.collect()
    }

    /// Every port with what people and the kernel call it.
    fn named_ports(&self) -> impl Iterator<Item = (PortId, String, &str)> {
        let uplink = self.facts.kernel().map(|it| it.seen.uplink.name.as_str());
        let fixed = [
            (UPLINK, "uplink".to_owned(), uplink.unwrap_or_default()),
            (HOST, "host".to_owned(), DATAPLANE_INTERFACE),
        ];
        let pods = self.pods();
        let pods = pods.map(|(id, it)| (id, format!("pod:{}", it.pod), it.interface.as_str()));
        let more = self.facts.uplinks();
        let more = more.map(|(id, it)| (id, format!("uplink:{}", it.name), it.name.as_str()));
        fixed.into_iter().chain(more).chain(pods)
    }

    async fn counters_value(&self) -> Value {
        let reports = self.reports().await;
        let xdp: Map<String, Value> = match self.room.redirect.counters() {
            Ok(counters) => counters
                .into_iter()
                .map(|(name, count)| (name.to_owned(), json!(count)))
                .collect(),
            Err(error) => {
                tracing::warn!(%error, "the XDP program's counters can't be read");
                Map::new()
            }
        };
        let engine: Map<String, Value> = counter_names()
            .into_iter()
            .zip(self.room.counters.totals())
            .map(|(name, count)| (name, json!(count)))
            .collect();
        let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
        let ports = self.named_ports();
        let ports: Map<String, Value> = ports
            .map(|(port, name, _)| (name, stages(&reports, port)))
            .collect();
        let busy = self.busy_shares().enumerate();
        let workers: Map<String, Value> = busy
            .map(|(index, busy)| (index.to_string(), json!({"busy": busy})))
            .collect();
        json!({
            "not_as_written": self.programming.not_as_written(),
            "workers": workers,
            "ports": ports,
            "xdp": xdp,
            "engine": engine,
            "mended": self.mends,
            "edge": {
                "unknown-port": sum(|report| report.unknown_port),
                "frames-outstanding": sum(|report| report.outstanding.into()),
                "frames-free": sum(|report| report.free.into()),
            },
        })
    }

    fn status(&self) -> Value {
        let workers: Vec<Value> = self
            .room
            .workers()
            .iter()
            .zip(self.busy_shares())
            .enumerate()
            .map(|(index, (worker, busy))| {
                json!({
                    "worker": index,
                    "core": worker.core(),
                    "busy": busy,
                })
            })
            .collect();
        let text = |problems: &mut dyn Iterator<Item = String>| problems.collect::<Vec<_>>();
        json!({
            "node": self.config.node,
            "version": env!("CARGO_PKG_VERSION"),
            "sequence": self.shown().compiled.snapshot.sequence,
            "in_force": !self.stale.is_pending() && self.room.has_all_of(&self.tables),
            "source": {
                "path": self.config.source.to_string(),
                "facts": self.programming.facts().to_string(),
                "versions": self.programming.versions(),
                "event_to_workers": self.programming.latency(),
                "problems": text(&mut self.facts.source_problems().iter().map(ToString::to_string)),
            },
            "cluster_problems": text(&mut self.shown().compiled.problems.iter().map(ToString::to_string)),
            "node_problems": self.facts.node_problems(),
            "uplinks": self.uplinks(),
            "mended": self.mends,
            "tunnel": self.config.tunnel.to_string(),
            "peers": self.peers(),
            "pods": self.pods().count(),
            "pod_mtu": self.config.pod_mtu,
            "path_mtus": path_mtus(&self.room.paths, flow_ms(boot_ns())),
            "flows": {
                "used": self.room.flows.len(),
                "embryonic": self.room.flows.embryonic(),
                "capacity": self.room.flows.capacity(),
            },
            "workers": workers,
        })
    }

    /// The part of its time, of late, in which each worker carried packets.
    fn busy_shares(&self) -> impl Iterator<Item = f64> {
        self.room.loads().map(|(worker, before)| {
            let now = worker.load_ns();
            rounded((now.0 - before.0) as f64 / (now.1 - before.1).max(1) as f64)
        })
    }

    fn peers(&self) -> Vec<Value> {
        let peers = (0..).zip(&self.shown().compiled.snapshot.peers);
        let rows = peers.filter_map(|(id, peer)| {
            let peer = peer.as_ref()?;
            Some(json!({
                "node": self.shown().compiled.names.peer(podway_tables::PeerId(id)),
                "mode": mode_of(peer.via),
                "vtep": peer.vtep.to_string(),
                "mtu": peer.mtu,
                "next_hop": peer.next_hop.map(|mac| mac.to_string()),
            }))
        });
        rows.collect()
    }

    async fn reports(&self) -> Vec<Report> {
        let mut reports = Vec::new();
        for worker in self.room.workers() {
            match worker.report().await {
                Ok(report) => reports.push(report),
                Err(error) => tracing::warn!(%error, "a worker does not report"),
            }
        }
        reports
    }
}

/// How packets get to a peer, as users see it.
pub(crate) fn mode_of(via: Via) -> &'static str {
    match via {
        Via::Vxlan => "vxlan",
        Via::Direct => "direct",
        Via::Nothing => "unreachable",
    }
}

/// What tells where a port's packets spend their time: how full calls are, and what was short of room.
fn stages(reports: &[Report], port: PortId) -> Value {
    let sum = |of: fn(&PortStatistics) -> u64| port_sum(reports, port, of);
    let ratio = |part: u64, whole: u64| rounded(part as f64 / whole.max(1) as f64);
    json!({
        "packets-a-poll": ratio(sum(|it| it.rx_packets), sum(|it| it.polls)),
        "packets-a-sendto": ratio(sum(|it| it.tx_packets), sum(|it| it.sends)),
        "ring-full": sum(|it| it.ring_full),
        "fill-empty": sum(|it| it.fill_empty),
    })
}

fn rounded(figure: f64) -> f64 {
    (figure * 1_000.0).round() / 1_000.0
}

fn port_sum(reports: &[Report], port: PortId, of: fn(&PortStatistics) -> u64) -> u64 {
    let all = reports.iter().flat_map(|report| &report.ports);
    all.filter(|it| it.port == port).map(of).sum()
}

/// A port's counters, summed over workers.
fn port_counters(reports: &[Report], port: PortId) -> Map<String, Value> {
    let sum = |of: fn(&PortStatistics) -> u64| json!(port_sum(reports, port, of));
    [
        ("rx_packets", sum(|it| it.rx_packets)),
        ("rx_bytes", sum(|it| it.rx_bytes)),
        ("tx_packets", sum(|it| it.tx_packets)),
        ("tx_bytes", sum(|it| it.tx_bytes)),
        ("polls", sum(|it| it.polls)),
        ("sends", sum(|it| it.sends)),
        ("ring_full", sum(|it| it.ring_full)),
        ("unsendable", sum(|it| it.unsendable)),
        ("cut_packets", sum(|it| it.cut_packets)),
        ("cut_parts", sum(|it| it.cut_parts)),
        ("joined_packets", sum(|it| it.joined_packets)),
        ("joined_parts", sum(|it| it.joined_parts)),
        ("unsound", sum(|it| it.unsound)),
        ("fill_empty", sum(|it| it.fill_empty)),
        ("kernel_rx_dropped", sum(|it| it.kernel.rx_dropped)),
        ("kernel_rx_ring_full", sum(|it| it.kernel.rx_ring_full)),
        (
            "kernel_fill_ring_empty",
            sum(|it| it.kernel.fill_ring_empty),
        ),
        ("kernel_rx_invalid", sum(|it| it.kernel.rx_invalid)),
        ("kernel_tx_invalid", sum(|it| it.kernel.tx_invalid)),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

pub(super) fn side_text(addr: &Addr, port: u16, protocol: Protocol) -> String {
    match protocol.has_ports() {
        true => endpoint_text(addr, port),
        false => addr.to_string(),
    }
}

/// An address and port as `10.0.0.1:80` or `[fd00::1]:80`.
pub(crate) fn endpoint_text(addr: &Addr, port: u16) -> String {
    std::net::SocketAddr::new(addr.ip(), port).to_string()
}
