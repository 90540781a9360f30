//! How the agent comes to be.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use podway_engine::Paths;
use podway_host::node::{Node, Settings, Wanted};
use podway_host::router::Router;
use podway_intent::{Compiler, NodeSetup};
use podway_xsk::{Redirect, RedirectSettings};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::binding::Undo;
use super::health::HealthPorts;
use super::host_ports::HostPorts;
use super::kernel::Kernel;
use super::programming::Programming;
use super::room::Room;
use super::settle::Settle;
use super::socket::{AdminSocket, Asked};
use super::source::Opened;
use super::waiting::UNKNOWN;
use super::worker::Shared;
use super::{
    Agent, AgentError, Inputs, KERNEL_PATIENCE, KERNEL_QUIET, REQUESTS, WANTS, announce, clock,
    kept, ports, source,
};
use crate::aim::{Event, Facts, Looked, PORTS, Tables};
use crate::config::Config;

impl Agent {
    /// Takes everything the agent needs, in the order in which each can still be refused without a trace.
    pub(super) async fn start(config: Config) -> Result<(Agent, Inputs), AgentError> {
        let socket = AdminSocket::take(&config.socket).await?;
        // Early, because what follows waits for the kernel.
        let health = HealthPorts::open(config.health_address, &config.node, UNKNOWN).await?;
        let Opened {
            first,
            batches,
            announcer,
        } = source::open(&config).await?;
        let mut node = Node::open(of_node(&config)).await?;
        health.stamp();
        let redirect = Arc::new(Redirect::load(RedirectSettings {
            queues: config.workers as u32,
            ports: PORTS,
        })?);

        let host_ports =
            HostPorts::watch(config.snat_ports, &config.proc_sys).map_err(AgentError::Runtime)?;
        let mut facts = Facts::new(&config.node, config.workers, configured(&config));
        if let Some(named) = &config.service_ranges {
            facts = facts.with_service_ranges(named);
        }
        facts.take(Event::HostPorts(host_ports.found().ports));
        let seen = node.reconcile(&Wanted::default()).await?;
        facts.take(Event::Looked(Box::new(Looked {
            seen,
            gone: Default::default(),
            uplink_closed: 0,
            nics: BTreeMap::new(),
        })));
        // Workers begin with the ways out that there are.
        let mut router = Router::watch(&config.host_interface)?;
        facts.take(Event::Routing(router.news().await));
        health.stamp();
        for wire in ports::adopted(&node, &config).await? {
            facts.take(Event::Attach(wire));
        }
        let mut compiler = Compiler::new(&config.node);
        let tables = Arc::new(Tables::of(&facts, &mut compiler));

        let seed = RandomState::new().hash_one(clock::boot_ns());
        let flows = kept::flow_table(&config, seed);
        let (wants, wanted) = mpsc::channel(WANTS);
        let shared = Shared {
            wants,
            state: podway_engine::Shared {
                paths: Arc::new(Paths::new(config.path_mtu_lifetime * 1_000)),
                ..podway_engine::Shared::with(flows, config.workers)
            },
            sockets: redirect.sockets(),
            claims: redirect.claims(),
            frames: config.frames,
            timeouts: config.timeouts.of_flows(),
            existing: config.existing_connections.of_flows(),
        };
        let inputs = Inputs {
            requests: serve(socket),
            found: mpsc::channel(REQUESTS),
            wanted,
            batches,
            host_ports,
            terminate: signal(SignalKind::terminate()).map_err(AgentError::Runtime)?,
            interrupt: signal(SignalKind::interrupt()).map_err(AgentError::Runtime)?,
        };
        let announce = announcer.map(|announcer| {
            let (node, taint) = (config.node.clone(), config.startup_taint.clone());
            announce::spawn(announcer, node, taint)
        });
        let network = node.network().clone();
        let undo = Undo::beside(&config.socket);
        let kernel = Kernel::start(node, redirect.clone(), undo, health.kernel_clock());
        let mut agent = Agent {
            room: Room::new(kernel, redirect, shared, health),
            config,
            facts,
            compiler,
            tables,
            network,
            router,
            waiters: Vec::new(),
            programming: Programming::new(),
            announce,
            mends: BTreeMap::new(),
            stale: Settle::of_facts(),
            unseen: Settle::new(KERNEL_QUIET, KERNEL_PATIENCE),
        };
        agent.told(first);
        Ok((agent, inputs))
    }
}

fn of_node(config: &Config) -> Settings {
    Settings {
        uplink: config.uplink.clone(),
        host_interface: config.host_interface.clone(),
        queues: config.workers as u32,
        tunnel: config.tunnel,
        pod_mtu: config.pod_mtu,
        node: config.node.clone(),
        proc_sys: config.proc_sys.clone(),
    }
}

/// What the configuration says of the node.
fn configured(config: &Config) -> NodeSetup {
    NodeSetup {
        tunnel: config.tunnel,
        vni: config.vxlan.vni,
        tunnel_port: config.vxlan.port,
        service_ranges: config.service_ranges(),
        node_port_addresses: config.node_port_addresses.clone(),
        allowed_external_ips: config.allowed_external_ips.clone(),
        masquerade_exempt: config.masquerade_exempt.clone(),
        snat_ports: Some(config.snat_ports),
        ..NodeSetup::default()
    }
}

fn serve(socket: AdminSocket) -> mpsc::Receiver<Asked> {
    let (requests, asked) = mpsc::channel(REQUESTS);
    tokio::spawn(socket.serve(requests));
    asked
}

/// The cores for workers: those that were named, or the last ones that the process may use.
pub(super) fn cores(config: &Config) -> Vec<usize> {
    if !config.cores.is_empty() {
        return config.cores.clone();
    }
    let allowed = core_affinity::get_core_ids().unwrap_or_default();
    if allowed.len() < config.workers {
        tracing::warn!(
            workers = config.workers,
            cores = allowed.len(),
            "workers are not pinned: fewer cores than workers"
        );
        return Vec::new();
    }
    allowed[allowed.len() - config.workers..]
        .iter()
        .map(|core| core.id)
        .collect()
}
