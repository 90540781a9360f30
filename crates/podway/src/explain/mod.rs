//! `podway explain`: what becomes of a packet, by running its bytes through the real engine.
//!
//! No kernel is asked: every pod of the node counts as attached, every next hop as resolved, every other node as in a
//! subnet of the uplink, and the uplink as the only way out of the cluster.

mod answer;
mod packet;
mod question;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::net::IpAddr;
use std::path::Path;

use std::sync::Arc;

use ipnet::{Ipv4Net, Ipv6Net};
use podway_control::{Problems, load};
use podway_engine::{Batch, Engine, Packet, Settings, Shared, Timeouts};
use podway_intent::{
    Attachment, Change, Cluster, Compiled, Compiler, Name, NodeSetup, PodNetwork, PodPhase, Tunnel,
    Uplink, one_way_out,
};
use podway_tables::{PortId, Snapshot};
use podway_wire::{Frame, Mac};

use self::packet::{Link, Outside};
use crate::config::{Vxlan, default_service_ranges, default_snat_ports};

pub use self::answer::{Answer, PolicyAnswer};
pub use self::question::{BadQuestion, Ingress, Kind, Question};

const UPLINK: PortId = PortId(0);
const HOST: PortId = PortId(1);
const FIRST_POD: u16 = 2;
/// The uplink's number; no kernel gave it.
const WIRE: u32 = 1;
const UPLINK_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 0x01]);
const HOST_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 0x02]);
const GATEWAY_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 0x03]);
const NEXT_HOP_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 0x04]);
const UPLINK_MTU: u32 = 1500;
const POD_MTU: u32 = 61_000;
const CHUNK: usize = 4096;
/// Room in front of the packet, for what the engine pushes.
const HEADROOM: usize = 256;

/// Why nothing can be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The manifests.
    #[error("{}", first(.0))]
    Manifests(Problems),
    /// The node.
    #[error("--node: there is no Node {node:?} in the manifests: give one of {known}")]
    NoNode {
        /// The one that was asked for.
        node: String,
        /// Those that are there.
        known: String,
    },
    /// The packet.
    #[error("--packet: {0}")]
    Packet(BadQuestion),
    /// Some packets.
    #[error("--packets: {bad} of {all} lines are no packets: see their `error`")]
    Packets {
        /// How many.
        bad: usize,
        /// Of how many.
        all: usize,
    },
    /// The file of packets.
    #[error("--packets: {path}: {problem}: give a readable file with a packet in each line")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        problem: std::io::Error,
    },
    /// Where answers go.
    #[error("answers can't be written: {0}")]
    Output(#[source] std::io::Error),
}

fn first(problems: &Problems) -> String {
    let more = problems.0.len().saturating_sub(1);
    match problems.0.first() {
        Some(first) if more > 0 => format!("{first} (and {more} more)"),
        Some(first) => first.to_string(),
        None => "the manifests have no objects".to_owned(),
    }
}

/// One node's dataplane, ready to be asked.
pub struct Explainer {
    cluster: Cluster,
    compiled: Compiled,
    /// The node's pods with networks of their own.
    pods: BTreeMap<String, (PortId, Mac)>,
    vni: u32,
}

impl Explainer {
    /// The dataplane of `node` in the cluster that the manifests describe.
    pub fn of_manifests(
        path: &Path,
        node: &str,
        tunnel: Tunnel,
    ) -> Result<Explainer, ExplainError> {
        let changes = load(path).map_err(ExplainError::Manifests)?;
        let mut cluster = Cluster::default();
        for change in changes {
            cluster.apply(change);
        }
        Explainer::of_cluster(cluster, node, tunnel)
    }

    /// The dataplane of `node` in a cluster.
    pub fn of_cluster(
        mut cluster: Cluster,
        node: &str,
        tunnel: Tunnel,
    ) -> Result<Explainer, ExplainError> {
        if cluster.node(node).is_none() {
            let known: Vec<&str> = cluster.nodes().iter().map(|node| &*node.name).collect();
            return Err(ExplainError::NoNode {
                node: node.to_owned(),
                known: known.join(", "),
            });
        }
        let vxlan = Vxlan::default();
        cluster.apply(Change::Setup(NodeSetup {
            uplink: Some((UPLINK, UPLINK_MAC, UPLINK_MTU)),
            host: Some((HOST, HOST_MAC, UPLINK_MTU - 50)),
            gateway_mac: GATEWAY_MAC,
            tunnel,
            subnets: vec![Ipv4Net::default().into(), Ipv6Net::default().into()],
            vni: vxlan.vni,
            tunnel_port: vxlan.port,
            service_ranges: default_service_ranges(),
            uplinks: vec![Uplink {
                port: UPLINK,
                device: WIRE,
                mac: UPLINK_MAC,
                mtu: UPLINK_MTU,
            }],
            snat_ports: Some(default_snat_ports()),
            ..NodeSetup::default()
        }));
        for change in one_way_out(WIRE, NEXT_HOP_MAC) {
            cluster.apply(change);
        }
        let pods = attach(&mut cluster, node);
        let mut compiler = Compiler::new(node);
        let unresolved = compiler.compile(&cluster);
        for peer in unresolved.snapshot.peers.iter().flatten() {
            cluster.apply(Change::Neighbour(peer.vtep.ip(), NEXT_HOP_MAC));
        }
        Ok(Explainer {
            compiled: compiler.compile(&cluster),
            cluster,
            pods,
            vni: vxlan.vni,
        })
    }

    /// What becomes of a packet that begins a connection.
    pub fn explain(&self, question: &Question) -> Result<Answer, BadQuestion> {
        let (ingress, bytes) = self.arrival(question)?;
        let snapshot: &Snapshot = &self.compiled.snapshot;
        let mut chunk = vec![0; CHUNK];
        let tail = HEADROOM + bytes.len();
        chunk[HEADROOM..tail].copy_from_slice(&bytes);
        let frame = Frame::new(&mut chunk, HEADROOM, tail, 0).expect("inside the chunk");
        let mut packets = [Packet::received(frame, ingress)];
        let mut engine = engine();
        engine.process(snapshot, &mut Batch::new(&mut packets, &mut || None), 0);
        let [packet] = &packets;
        Ok(self.answer(question, packet, engine.last_decision()))
    }

    /// The port that the packet comes in by, and its bytes.
    fn arrival(&self, question: &Question) -> Result<(PortId, Vec<u8>), BadQuestion> {
        let from = |source| Link {
            source,
            target: GATEWAY_MAC,
        };
        let wire = Link {
            source: NEXT_HOP_MAC,
            target: UPLINK_MAC,
        };
        match &question.ingress {
            Ingress::Host => Ok((HOST, packet::frame(question, from(HOST_MAC)))),
            Ingress::Uplink => Ok((UPLINK, packet::frame(question, wire))),
            Ingress::Pod(pod) => {
                let (port, mac) = self.pod(pod)?;
                Ok((port, packet::frame(question, from(mac))))
            }
            Ingress::Tunnel(node) => {
                let (source, target) = self.tunnel(node)?;
                let outside = Outside {
                    link: wire,
                    source,
                    target,
                    port: self.compiled.snapshot.node.tunnel_port,
                    vni: self.vni,
                };
                let inner = packet::frame(question, from(NEXT_HOP_MAC));
                Ok((UPLINK, packet::tunnelled(&inner, outside)))
            }
        }
    }

    /// A pod's port and Ethernet address; a pod on the node's own network sends from the host.
    fn pod(&self, pod: &str) -> Result<(PortId, Mac), BadQuestion> {
        if let Some(known) = self.pods.get(pod) {
            return Ok(*known);
        }
        let on_host = self.cluster.pods().into_iter().any(|it| {
            it.network == PodNetwork::Host && it.name.to_string() == pod && self.is_here(&it.node)
        });
        match on_host {
            true => Ok((HOST, HOST_MAC)),
            false => Err(BadQuestion(format!(
                "ingress: no pod {pod} is on this node: give a pod of it, or tunnel:NODE for one of another node"
            ))),
        }
    }

    fn is_here(&self, node: &Option<Arc<str>>) -> bool {
        let own = &self.compiled.snapshot.node.addresses;
        let node = node.as_deref().and_then(|name| self.cluster.node(name));
        node.is_some_and(|node| {
            node.addresses
                .iter()
                .any(|address| own.contains(&(*address).into()))
        })
    }

    fn tunnel(&self, node: &str) -> Result<(IpAddr, IpAddr), BadQuestion> {
        self.compiled
            .names
            .peer_of(node)
            .and_then(|id| self.compiled.snapshot.peer(id))
            .map(|peer| (peer.vtep.ip(), peer.source.ip()))
            .ok_or_else(|| {
                BadQuestion(format!(
                    "ingress: no tunnel leads to {node}: give the name of another node of the cluster"
                ))
            })
    }
}

/// Answers one packet; the error is for bad input.
pub fn one(explainer: &Explainer, text: &str) -> Result<String, ExplainError> {
    let question = Question::parse(text).map_err(ExplainError::Packet)?;
    let answer = explainer.explain(&question);
    Ok(answer.map_err(ExplainError::Packet)?.to_json())
}

/// Answers a line for each line; a line that is no packet is answered by its `error`.
pub fn many(
    explainer: &Explainer,
    input: impl BufRead,
    name: &str,
    mut output: impl Write,
) -> Result<(), ExplainError> {
    let (mut bad, mut all) = (0, 0);
    for line in input.lines() {
        let line = line.map_err(|problem| ExplainError::File {
            path: name.to_owned(),
            problem,
        })?;
        if line.trim().is_empty() {
            continue;
        }
        all += 1;
        let answer = Question::parse(&line)
            .and_then(|question| explainer.explain(&question))
            .map(|answer| answer.to_json())
            .unwrap_or_else(|error| {
                bad += 1;
                let id = question::id_of(&line);
                serde_json::json!({"id": id, "error": error.to_string()}).to_string()
            });
        writeln!(output, "{answer}").map_err(ExplainError::Output)?;
    }
    match bad {
        0 => Ok(()),
        bad => Err(ExplainError::Packets { bad, all }),
    }
}

/// Gives every pod of the node a device.
fn attach(cluster: &mut Cluster, node: &str) -> BTreeMap<String, (PortId, Mac)> {
    let here: Vec<Name> = cluster
        .pods()
        .into_iter()
        .filter(|pod| {
            pod.node.as_deref() == Some(node)
                && pod.network == PodNetwork::Own
                && pod.phase != PodPhase::Ended
        })
        .map(|pod| pod.name.clone())
        .collect();
    let mut pods = BTreeMap::new();
    for (name, port) in here.into_iter().zip(FIRST_POD..) {
        let text = name.to_string();
        let mac = Mac(podway_cni::pod_mac(&text));
        pods.insert(text, (PortId(port), mac));
        cluster.apply(Change::Attachment(Attachment {
            pod: name,
            port: PortId(port),
            mac,
            mtu: POD_MTU,
            addresses: Vec::new(),
        }));
    }
    pods
}

/// An engine that remembers nothing yet.
fn engine() -> Engine {
    let settings = Settings {
        timeouts: Timeouts::default(),
        existing: Default::default(),
    };
    Engine::new(settings, Shared::brief().part(0))
}
