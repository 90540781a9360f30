//! The cluster of a kube-proxy row, as one node sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use ipnet::IpNet;
use k8s_openapi::api::core::v1;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use podway_control::convert::{self, Converted};
use podway_engine::Arrival;
use podway_intent::{
    Attachment, Change, Cluster, Compiled, Key, Labels, LocalhostNodePorts, Name, Node, NodeSetup,
    Pod, PodNetwork, PodPhase, Uplink, one_way_out,
};
use podway_tables::{ClusterIpMasquerade, PortId, PortKind};
use podway_wire::{Addr, Mac};
use serde::Deserialize;

use crate::dataplane::{GATEWAY, HOST, UPLINK, pod_mac};
use crate::services::Probe;

/// The uplink's number to the kernel.
const WIRE: u32 = 7;

/// The node that all rows are about.
pub(crate) const NODE: &str = "test-node";

/// The node of endpoints that name none.
const ELSEWHERE: &str = "elsewhere";

/// A step of a test: all objects, and packets.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    pub(crate) test: String,
    pub(crate) step: u32,
    node: RowNode,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<IpNet>,
    settings: Settings,
    services: Vec<v1::Service>,
    endpoint_slices: Vec<EndpointSlice>,
    pub(crate) packets: Vec<Probe>,
}

#[derive(Deserialize)]
struct RowNode {
    name: String,
    ips: Vec<IpAddr>,
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Settings {
    detect_local: bool,
    masquerade_all: bool,
    node_port_addresses: Vec<IpNet>,
    #[serde(default, rename = "serviceCIDRs")]
    service_cidrs: Vec<IpNet>,
    #[serde(default)]
    localhost_node_ports: bool,
}

/// A row's facts and where its packets come in.
pub(crate) struct World {
    facts: Vec<(Key, Change)>,
    /// The node's own addresses.
    ips: Vec<IpAddr>,
    pods: BTreeMap<IpAddr, PortId>,
}

impl World {
    pub(crate) fn of(row: &Row) -> Result<World> {
        assert_eq!(row.node.name, NODE, "the node of all rows");
        let mut world = World {
            facts: Vec::new(),
            ips: row.node.ips.clone(),
            pods: BTreeMap::new(),
        };
        world.set_up(row);
        for service in &row.services {
            if let Some(service) = convert::service(service).map(Converted::value) {
                let key = Key::Service(service.name.clone());
                world.facts.push((key, Change::Service(service)));
            }
        }
        let mut slices = Vec::new();
        for slice in &row.endpoint_slices {
            slices.extend(convert::endpoint_slice(slice)?.map(Converted::value));
        }
        let mut places: BTreeMap<IpAddr, Arc<str>> = BTreeMap::new();
        for probe in &row.packets {
            if row.pod_cidrs.iter().any(|range| range.contains(&probe.src)) {
                places.insert(probe.src, NODE.into());
            }
        }
        for endpoint in slices.iter().flat_map(|slice| &slice.endpoints) {
            let node = endpoint.node.clone().unwrap_or_else(|| ELSEWHERE.into());
            places.entry(endpoint.address).or_insert(node);
        }
        for slice in slices {
            let key = Key::EndpointSlice(slice.name.clone());
            world.facts.push((key, Change::EndpointSlice(slice)));
        }
        world.add_nodes(row, &places);
        world.add_pods(&places);
        Ok(world)
    }

    /// Makes a cluster have these facts and none of the ones before.
    pub(crate) fn apply_to(&self, cluster: &mut Cluster, before: Option<&World>) {
        let now: BTreeSet<&Key> = self.facts.iter().map(|(key, _)| key).collect();
        for (key, _) in before.iter().flat_map(|before| &before.facts) {
            if !now.contains(key) {
                cluster.apply(Change::Gone(key.clone()));
            }
        }
        for (_, change) in &self.facts {
            cluster.apply(change.clone());
        }
    }

    /// How packets of this source come in.
    pub(crate) fn arrival(
        &self,
        compiled: &Compiled,
        source: &IpAddr,
    ) -> Result<(PortId, Arrival)> {
        let host = self.ips.contains(source) || source.is_loopback();
        let port = match self.pods.get(source) {
            Some(port) => *port,
            None if host => HOST,
            None => UPLINK,
        };
        let known = compiled.snapshot.port(port).map(|port| port.kind);
        let arrival = match known.context("a port that is not there")? {
            PortKind::Pod(id) => Arrival::Endpoint(id.context("a port without a pod")?),
            PortKind::Host => Arrival::Host,
            PortKind::Uplink => Arrival::World,
        };
        Ok((port, arrival))
    }

    /// True of addresses that send replies back to this node.
    pub(crate) fn is_ours(&self, compiled: &Compiled, address: &IpAddr) -> bool {
        let gateways = &compiled.snapshot.node.gateways;
        self.ips.contains(address) || gateways.contains(&Addr::from(*address))
    }

    fn set_up(&mut self, row: &Row) {
        let Settings {
            detect_local,
            masquerade_all,
            node_port_addresses,
            service_cidrs,
            localhost_node_ports,
        } = &row.settings;
        let setup = NodeSetup {
            uplink: Some((UPLINK, Mac([2, 0, 0, 0, 0, 2]), 1500)),
            host: Some((HOST, Mac([2, 0, 0, 0, 0, 3]), 1450)),
            gateway_mac: GATEWAY,
            vni: 1,
            tunnel_port: 4789,
            service_ranges: service_cidrs.clone(),
            node_port_addresses: node_port_addresses.clone(),
            localhost_node_ports: match localhost_node_ports {
                true => LocalhostNodePorts::Open,
                false => LocalhostNodePorts::Closed,
            },
            allowed_external_ips: everything(),
            cluster_ip_masquerade: match (masquerade_all, detect_local) {
                (true, _) => ClusterIpMasquerade::All,
                (false, true) => ClusterIpMasquerade::Foreign,
                (false, false) => ClusterIpMasquerade::None,
            },
            // The rows are about services alone: what leaves the cluster without one is nothing to them.
            masquerade_exempt: everything(),
            uplinks: vec![Uplink {
                port: UPLINK,
                device: WIRE,
                mac: Mac([2, 0, 0, 0, 0, 2]),
                mtu: 1500,
            }],
            snat_ports: Some((50_000, 59_999)),
            ..NodeSetup::default()
        };
        self.facts.push((Key::Setup, Change::Setup(setup)));
        let way_out = one_way_out(WIRE, GATEWAY);
        self.facts
            .extend(way_out.map(|change| (change.key(), change)));
    }

    fn add_nodes(&mut self, row: &Row, places: &BTreeMap<IpAddr, Arc<str>>) {
        let labels = row.node.labels.iter();
        self.add_node(Node {
            name: NODE.into(),
            labels: labels
                .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
                .collect(),
            addresses: row.node.ips.clone(),
            taints: Vec::new(),
            pod_ranges: ranges(1),
        });
        let others: BTreeSet<&Arc<str>> = places.values().filter(|it| ***it != *NODE).collect();
        for (name, number) in others.into_iter().zip(2..) {
            let addresses: Vec<IpAddr> = vec![
                [198, 18, 0, number].into(),
                [0x2001, 2, 0, 0, 0, 0, 0, u16::from(number)].into(),
            ];
            for address in &addresses {
                let key = Key::Neighbour(*address);
                let change = Change::Neighbour(*address, Mac([2, 0, 0, 0, 0, 9]));
                self.facts.push((key, change));
            }
            self.add_node(Node {
                name: name.clone(),
                labels: Labels::new(),
                addresses,
                taints: Vec::new(),
                pod_ranges: ranges(number),
            });
        }
    }

    fn add_node(&mut self, node: Node) {
        let key = Key::Node(node.name.clone());
        self.facts.push((key, Change::Node(node)));
    }

    fn add_pods(&mut self, places: &BTreeMap<IpAddr, Arc<str>>) {
        for ((address, node), port) in places.iter().zip(2..) {
            let name = Name {
                namespace: "vectors".into(),
                name: format!("at-{address}").into(),
            };
            let pod = Pod {
                name: name.clone(),
                uid: "".into(),
                node: Some(node.clone()),
                labels: Labels::new().into(),
                addresses: vec![*address],
                ports: [].into(),
                host_ports: Vec::new(),
                network: PodNetwork::Own,
                phase: PodPhase::Alive,
            };
            self.facts.push((Key::Pod(name.clone()), Change::Pod(pod)));
            if **node == *NODE {
                let port = PortId(port);
                self.pods.insert(*address, port);
                let attachment = Attachment {
                    pod: name.clone(),
                    port,
                    mac: pod_mac(port),
                    mtu: 1500,
                    addresses: Vec::new(),
                };
                let change = Change::Attachment(attachment);
                self.facts.push((Key::Attachment(name), change));
            }
        }
    }
}

/// Pod ranges that meet none of the rows' addresses.
fn ranges(node: u8) -> Vec<IpNet> {
    let texts = [
        format!("198.18.{node}.0/24"),
        format!("2001:2:0:{node:x}::/64"),
    ];
    let parsed = texts.map(|text| text.parse().expect("a range"));
    parsed.to_vec()
}

fn everything() -> Vec<IpNet> {
    ["0.0.0.0/0", "::/0"]
        .map(|text| text.parse().expect("a range"))
        .to_vec()
}
