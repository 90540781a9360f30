//! One node that has every pod of a row: what its engine says of a packet.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use etherparse::{IpNumber, PacketBuilder};
use k8s_openapi::api::core::v1;
use podway_control::{PolicyObject, convert};
use podway_engine::{Batch, Decision, Engine, Packet, Settings, Shared, Timeouts, Verdict};
use podway_intent::{Attachment, Change, Cluster, Compiled, Compiler, NodeSetup, PodPhase};
use podway_tables::{EndpointId, PortId, Snapshot};
use podway_wire::{Frame, Mac, Protocol};

const NODE: &str = "podway-node";
pub(crate) const UPLINK: PortId = PortId(0);
pub(crate) const HOST: PortId = PortId(1);
pub(crate) const GATEWAY: Mac = Mac([2, 0, 0, 0, 0, 1]);
const HEADROOM: usize = 256;

/// A packet as the rows describe it.
pub(crate) struct Described {
    pub(crate) source: IpAddr,
    pub(crate) target: IpAddr,
    pub(crate) source_port: u16,
    pub(crate) target_port: u16,
    pub(crate) protocol: Protocol,
}

pub(crate) struct Dataplane {
    pub(crate) compiled: Compiled,
    /// The ports of pods by their addresses.
    ports: BTreeMap<IpAddr, PortId>,
    endpoints: BTreeMap<IpAddr, EndpointId>,
}

pub(crate) fn pod_mac(port: PortId) -> Mac {
    let [high, low] = port.0.to_be_bytes();
    Mac([2, 0, 0, 1, high, low])
}

impl Dataplane {
    pub(crate) fn new(
        namespaces: &[v1::Namespace],
        pods: &[v1::Pod],
        policies: &[PolicyObject],
        cluster_policies: &[PolicyObject],
    ) -> Result<Dataplane> {
        let mut cluster = Cluster::default();
        cluster.apply(Change::Node(podway_intent::Node {
            name: NODE.into(),
            labels: Default::default(),
            addresses: vec!["198.18.0.1".parse()?, "2001:2::1".parse()?],
            taints: Vec::new(),
            pod_ranges: vec!["198.18.1.0/24".parse()?, "2001:2:0:1::/64".parse()?],
        }));
        cluster.apply(Change::Setup(NodeSetup {
            uplink: Some((UPLINK, Mac([2, 0, 0, 0, 0, 2]), 1500)),
            host: Some((HOST, Mac([2, 0, 0, 0, 0, 3]), 1450)),
            gateway_mac: GATEWAY,
            vni: 1,
            tunnel_port: 4789,
            service_ranges: Vec::new(),
            ..NodeSetup::default()
        }));
        for namespace in namespaces {
            cluster.apply(Change::Namespace(convert::namespace(namespace).value()));
        }
        for policy in policies {
            cluster.apply(Change::NetworkPolicy(
                convert::network_policy(policy).value(),
            ));
        }
        for policy in cluster_policies {
            let policy = convert::cluster_network_policy(policy).value();
            cluster.apply(Change::ClusterNetworkPolicy(policy));
        }
        let mut ports = BTreeMap::new();
        let mut names = Vec::new();
        for (pod, port) in pods.iter().zip(2..) {
            let mut pod = convert::pod(pod).value();
            pod.node = Some(NODE.into());
            if pod.phase == PodPhase::Alive {
                let port = PortId(port);
                cluster.apply(Change::Attachment(Attachment {
                    pod: pod.name.clone(),
                    port,
                    mac: pod_mac(port),
                    mtu: 1500,
                    addresses: Vec::new(),
                }));
                ports.extend(pod.addresses.iter().map(|address| (*address, port)));
                names.extend(
                    pod.addresses
                        .iter()
                        .map(|address| (*address, pod.name.clone())),
                );
            }
            cluster.apply(Change::Pod(pod));
        }
        let compiled = Compiler::new(NODE).compile(&cluster);
        let endpoint = |name| {
            compiled
                .names
                .endpoint_of(name)
                .context("a pod without endpoint")
        };
        let endpoints = names
            .iter()
            .map(|(address, name)| Ok((*address, endpoint(name)?)))
            .collect::<Result<_>>()?;
        Ok(Dataplane {
            compiled,
            ports,
            endpoints,
        })
    }

    /// The pod on this node with this address.
    pub(crate) fn endpoint(&self, address: &IpAddr) -> Option<EndpointId> {
        self.endpoints.get(address).copied()
    }

    /// Sends the first packet of a connection through the engine: its verdict, and what was decided.
    pub(crate) fn send(&self, packet: &Described) -> Result<(Verdict, Decision)> {
        let ingress = self.ports.get(&packet.source).copied().unwrap_or(UPLINK);
        let mut engine = engine();
        send(&mut engine, &self.compiled.snapshot, ingress, packet)
    }
}

/// An engine that remembers nothing yet.
pub(crate) fn engine() -> Engine {
    let settings = Settings {
        timeouts: Timeouts::default(),
        existing: Default::default(),
    };
    Engine::new(settings, Shared::brief().part(0))
}

/// Sends the first packet of a connection in by a port: its verdict, and what was decided.
pub(crate) fn send(
    engine: &mut Engine,
    snapshot: &Snapshot,
    ingress: PortId,
    packet: &Described,
) -> Result<(Verdict, Decision)> {
    let bytes = bytes_of(packet, ingress)?;
    let mut chunk = vec![0; 2048];
    chunk[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(&bytes);
    let frame = Frame::new(&mut chunk, HEADROOM, HEADROOM + bytes.len(), 0);
    let frame = frame.context("the packet fits")?;
    let mut packets = [Packet::received(frame, ingress)];
    let mut none = || None;
    engine.process(snapshot, &mut Batch::new(&mut packets, &mut none), 0);
    let decision = engine.last_decision();
    let decision = decision.with_context(|| format!("no decision: {:?}", packets[0].verdict))?;
    Ok((packets[0].verdict, *decision))
}

pub(crate) fn bytes_of(packet: &Described, ingress: PortId) -> Result<Vec<u8>> {
    let builder = PacketBuilder::ethernet2(pod_mac(ingress).0, GATEWAY.0);
    let builder = match (packet.source, packet.target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            builder.ipv4(source.octets(), target.octets(), 64)
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            builder.ipv6(source.octets(), target.octets(), 64)
        }
        (source, target) => bail!("{source} and {target} are of two families"),
    };
    let mut bytes = Vec::new();
    let (source, target) = (packet.source_port, packet.target_port);
    match packet.protocol {
        Protocol::TCP => builder
            .tcp(source, target, 1, 1024)
            .syn()
            .write(&mut bytes, &[])?,
        Protocol::UDP => builder.udp(source, target).write(&mut bytes, &[0; 8])?,
        Protocol::SCTP => {
            let header = [source.to_be_bytes(), target.to_be_bytes()].concat();
            let init = [&header[..], &[0; 8], &[1, 0, 0, 20], &[0; 16]].concat();
            builder.write(&mut bytes, IpNumber::SCTP, &init)?;
        }
        other => bail!("no packets of {other}"),
    }
    Ok(bytes)
}

/// The protocol of a row.
pub(crate) fn protocol(name: &str) -> Result<Protocol> {
    match name {
        "TCP" => Ok(Protocol::TCP),
        "UDP" => Ok(Protocol::UDP),
        "SCTP" => Ok(Protocol::SCTP),
        other => bail!("unknown protocol {other}"),
    }
}
