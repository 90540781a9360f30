//! What the agent finds on its node: the kernel's facts go into the cluster's.

use std::net::IpAddr;
use std::time::Duration;

use podway_intent::{Change, Key, NodeSetup};
use podway_tables::NextHops;
use podway_wire::Mac;
use tokio::time::Instant;

use super::health::InForce;
use super::ports::{HOST, UPLINK};
use super::worker::Worker;
use super::{Agent, wanted};
use crate::config::Config;
use podway_host::node::{Node, Seen};

/// How old the figures are at least that a worker's busy share is measured from.
const SAMPLE: Duration = Duration::from_secs(1);

impl Agent {
    /// Looks at the node's kernel, mends what differs and takes in what was found.
    pub(super) async fn look(&mut self) {
        self.unseen.clear();
        if self.sampled.elapsed() >= SAMPLE {
            self.sampled = Instant::now();
            self.loads_ns = self.workers.iter().map(Worker::load_ns).collect();
        }
        let wanted = wanted::of_node(&self.cluster, &self.compiled);
        let mut problems = match self.node.reconcile(&wanted).await {
            Ok(seen) => {
                self.take_seen(&seen).await;
                seen.problems
            }
            Err(error) => vec![error.to_string()],
        };
        problems.extend(self.unowned_queues());
        problems.extend(self.health.follow(&self.cluster).await);
        if self.cluster.node(&self.config.node).is_none() {
            problems.push(format!(
                "the source has no Node {:?}: set `node` to the name of one, or add it",
                self.config.node
            ));
        }
        if problems != self.node_problems {
            for problem in &problems {
                tracing::warn!(problem, "the node's kernel is not as it should be");
            }
            self.node_problems = problems;
        }
        if self.is_held_back() {
            self.announce();
        }
        self.forget_vanished().await;
        if self.plan != wanted::plan(&self.compiled.plan) || self.health.in_force() != InForce::Yes
        {
            self.stale.mark();
        }
    }

    /// Tunnel packets that came since the last look to a queue of the uplink that no worker has: they are dropped.
    fn unowned_queues(&mut self) -> Option<String> {
        let closed = self.closed_at_uplink();
        let before = std::mem::replace(&mut self.uplink_closed, closed);
        (closed > before).then(|| {
            let (uplink, workers) = (&self.node.uplink().name, self.config.workers);
            format!(
                "packets of the tunnel come in by queues of {uplink} that no worker has: set `workers` to the number of its queues, or `ethtool -L {uplink} combined {workers}`"
            )
        })
    }

    /// Packets of the uplink so far that the XDP program had no socket for.
    pub(super) fn closed_at_uplink(&self) -> u64 {
        let counters = self.redirect.counters().unwrap_or_default();
        let closed = counters.iter().find(|(name, _)| *name == "uplink-closed");
        closed.map_or(0, |(_, count)| *count)
    }

    async fn take_seen(&mut self, seen: &Seen) {
        let setup = setup(&self.config, &self.node, seen);
        if let Change::Setup(now) = &setup
            && self.cluster.setup() != Some(now)
        {
            self.apply(setup);
        }
        if self.world != seen.world {
            let text = |mac: Option<Mac>| mac.map_or("none".to_owned(), |mac| mac.to_string());
            let NextHops { v4, v6 } = seen.world;
            tracing::info!(v4 = text(v4), v6 = text(v6), "default gateways");
            self.world = seen.world;
        }
        for (vtep, mac) in &seen.next_hops {
            if self.next_hops.get(vtep) != Some(mac) {
                tracing::info!(%vtep, %mac, "next hop resolved");
                self.apply(Change::Neighbour(*vtep, *mac));
            }
        }
        let lost: Vec<IpAddr> = self
            .next_hops
            .keys()
            .filter(|vtep| !seen.next_hops.contains_key(vtep))
            .copied()
            .collect();
        for vtep in lost {
            tracing::info!(%vtep, "next hop lost");
            self.apply(Change::Gone(Key::Neighbour(vtep)));
        }
        self.next_hops.clone_from(&seen.next_hops);
        self.follow_devices(&seen.uplink).await;
    }
}

/// The node's set-up as the compiler takes it.
pub(super) fn setup(config: &Config, node: &Node, seen: &Seen) -> Change {
    Change::Setup(NodeSetup {
        uplink: Some((UPLINK, seen.uplink.mac, seen.uplink.mtu)),
        host: Some((HOST, node.host().mac, node.host().mtu)),
        gateway_mac: node.dataplane().mac,
        tunnel: config.tunnel,
        subnets: seen.subnets.clone(),
        vni: config.vxlan.vni,
        tunnel_port: config.vxlan.port,
        service_ranges: config.service_ranges.clone(),
        node_port_addresses: config.node_port_addresses.clone(),
        allowed_external_ips: config.allowed_external_ips.clone(),
        masquerade_exempt: config.masquerade_exempt.clone(),
        world: seen.world,
        snat_ports: Some(config.snat_ports),
        ..NodeSetup::default()
    })
}
