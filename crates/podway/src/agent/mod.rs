//! The node agent: control's one thread, from sources of facts to tables in force; beside it the workers, and the thread
//! that answers for all of them how they do.

mod announce;
mod clock;
mod health;
mod kept;
mod latency;
mod local_ports;
mod look;
mod policies;
mod ports;
mod programming;
mod publish;
mod report;
mod services;
mod settle;
mod socket;
mod source;
mod waiting;
mod wanted;
mod worker;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use podway_cni::agent::Response;
use podway_control::{Batch, ConnectError, Facts, Problem, Problems};
use podway_intent::{Change, Cluster, Compiled, Compiler};
use podway_state::{Counters, FlowTable, Publication};
use podway_tables::{NextHops, PortKind, Snapshot};
use podway_wire::Mac;
use podway_xsk::{Bind, LoadError, Plan, Redirect, RedirectError, RedirectSettings};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::announce::Announce;
use self::health::{HealthPorts, InForce};
use self::look::setup;
use self::policies::HitsByName;
use self::ports::{HOST, Ports, UPLINK};
use self::programming::Programming;
use self::socket::{AdminSocket, Asked, Request};
use self::source::Opened;
use self::waiting::{CLOSED, UNKNOWN, Waited};
use self::worker::{Shared, Worker};
use crate::config::Config;
use podway_host::node::{Node, NodeError, Settings};

pub use self::health::HealthError;
pub use self::local_ports::LocalPortsError;
pub(crate) use self::report::{endpoint_text, mode_of};
pub use self::settle::Settle;
pub use self::socket::SocketError;
pub use self::source::batches;
pub use self::worker::WorkerError;

/// Devices at most, the uplink and the host's among them.
const PORTS: u16 = 1024;
/// How long a burst of the kernel's events is waited for, and for how long at most.
const KERNEL_QUIET: Duration = Duration::from_millis(20);
const KERNEL_PATIENCE: Duration = Duration::from_millis(200);
/// How often the kernel is looked at without an event.
const LOOK: Duration = Duration::from_secs(5);
/// Requests that wait for control at most.
const REQUESTS: usize = 64;

/// Why the agent can't run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// It may not.
    #[error("podway run makes devices and loads an XDP program: run it as root")]
    NotRoot,
    /// The admin socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The ports for masquerading.
    #[error(transparent)]
    LocalPorts(#[from] LocalPortsError),
    /// The port for health checks.
    #[error(transparent)]
    Health(#[from] HealthError),
    /// The source of facts.
    #[error("{}", one_line(.0))]
    Source(Problems),
    /// The way to the API server.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The node's kernel.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The XDP program.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The XDP program's devices or maps.
    #[error(transparent)]
    Redirect(#[from] RedirectError),
    /// The workers.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// No port is free.
    #[error("all 1022 ports of pods are taken: detach pods that are gone")]
    Full,
    /// A worker is stuck.
    #[error(
        "workers did not take new tables up within 2 s: see `podway show status` for what they do"
    )]
    Stuck,
    /// The runtime.
    #[error("no runtime: {0}: raise the limits on files and threads")]
    Runtime(#[source] std::io::Error),
}

fn one_line(problems: &Problems) -> String {
    let more = problems.0.len().saturating_sub(1);
    match (problems.0.first(), more) {
        (Some(first), 0) => first.to_string(),
        (Some(first), more) => format!("{first} (and {more} more: see the log)"),
        (None, _) => "the source has no objects".to_owned(),
    }
}

/// Runs the agent in the caller's network namespace until it is told to stop (SIGTERM, SIGINT).
pub fn run(config: Config) -> Result<(), AgentError> {
    if !rustix::process::geteuid().is_root() {
        return Err(AgentError::NotRoot);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(AgentError::Runtime)?;
    let outcome = runtime.block_on(async {
        let (mut agent, mut inputs, shared) = Agent::start(config).await?;
        match agent.await_facts(&mut inputs).await {
            Waited::ForFacts => {
                agent.start_workers(&shared)?;
                agent.open_ports().await?;
                agent.control(inputs).await;
            }
            Waited::ForNothing => {}
        }
        agent.stop();
        Ok(())
    });
    runtime.shutdown_background();
    outcome
}

/// What control listens to, beside the kernel.
struct Inputs {
    requests: mpsc::Receiver<Asked>,
    batches: mpsc::Receiver<Batch>,
    terminate: Signal,
    interrupt: Signal,
}

/// Control's state: the facts, what was made of them, and where it is in force.
struct Agent {
    config: Config,
    node: Node,
    cluster: Cluster,
    compiler: Compiler,
    compiled: Compiled,
    publication: Publication<Snapshot>,
    redirect: Redirect,
    /// What the XDP program redirects now.
    plan: Plan,
    workers: Vec<Worker>,
    ports: Ports,
    flows: Arc<FlowTable>,
    counters: Arc<Counters>,
    hits: HitsByName,
    /// What facts the kernel was last seen to have.
    next_hops: BTreeMap<IpAddr, Mac>,
    world: NextHops,
    source_problems: Vec<Problem>,
    programming: Programming,
    announce: Option<Announce>,
    node_problems: Vec<String>,
    /// Workers' loads when they were last sampled, for their busy shares.
    loads_ns: Vec<(u64, u64)>,
    sampled: Instant,
    /// Packets of the uplink that the XDP program had no socket for, at the last look.
    uplink_closed: u64,
    health: HealthPorts,
    /// Facts that are not compiled yet.
    stale: Settle,
    /// Events of the kernel that were not looked at yet.
    unseen: Settle,
}

enum Event {
    Asked(Asked),
    Source(Batch),
    Kernel,
    Stale,
    Look,
    Stop,
}

impl Agent {
    /// Takes everything the agent needs, in the order in which each can still be refused without a trace.
    async fn start(config: Config) -> Result<(Agent, Inputs, Shared), AgentError> {
        local_ports::check(config.snat_ports)?;
        let socket = AdminSocket::take(&config.socket).await?;
        // Early, because what follows waits for the kernel.
        let health = HealthPorts::open(config.health_address, &config.node, UNKNOWN).await?;
        let Opened {
            first,
            batches,
            announcer,
        } = source::open(&config).await?;
        let mut node = Node::open(Settings {
            uplink: config.uplink.clone(),
            host_interface: config.host_interface.clone(),
            queues: config.workers as u32,
            tunnel: config.tunnel,
            pod_mtu: config.pod_mtu,
            node: config.node.clone(),
            proc_sys: config.proc_sys.clone(),
        })
        .await?;
        health.stamp();
        let redirect = Redirect::load(RedirectSettings {
            queues: config.workers as u32,
            ports: PORTS,
        })?;

        let mut cluster = Cluster::default();
        let seen = node.reconcile(&Default::default()).await?;
        cluster.apply(setup(&config, &node, &seen));
        let mut compiler = Compiler::new(&config.node);
        let compiled = compiler.compile(&cluster);
        let (publication, _) = Publication::new(compiled.snapshot.clone(), 0);

        let seed = RandomState::new().hash_one(clock::boot_ns());
        let flows = kept::flow_table(&config, seed);
        let state = podway_engine::Shared::with(flows, config.workers);
        let (flows, counters) = (state.flows.clone(), state.counters.clone());
        let hits = HitsByName::new(state.hits.clone());
        let shared = Shared {
            state,
            sockets: redirect.sockets(),
            frames: config.frames,
            timeouts: config.timeouts.of_flows(),
            existing: config.existing_connections.of_flows(),
        };
        let inputs = Inputs {
            requests: serve(socket),
            batches,
            terminate: signal(SignalKind::terminate()).map_err(AgentError::Runtime)?,
            interrupt: signal(SignalKind::interrupt()).map_err(AgentError::Runtime)?,
        };
        let announce = announcer.map(|announcer| {
            let (node, taint) = (config.node.clone(), config.startup_taint.clone());
            announce::spawn(announcer, node, taint)
        });
        let mut agent = Agent {
            announce,
            programming: Programming::new(),
            ports: Ports::new(PORTS, &seen.uplink, node.dataplane()),
            node_problems: Vec::new(),
            config,
            node,
            cluster,
            compiler,
            compiled,
            publication,
            redirect,
            plan: Plan::default(),
            loads_ns: Vec::new(),
            sampled: Instant::now(),
            uplink_closed: 0,
            health,
            workers: Vec::new(),
            flows,
            counters,
            hits,
            next_hops: BTreeMap::new(),
            world: NextHops::default(),
            source_problems: Vec::new(),
            stale: Settle::of_facts(),
            unseen: Settle::new(KERNEL_QUIET, KERNEL_PATIENCE),
        };
        agent.take(first);
        Ok((agent, inputs, shared))
    }

    /// Starts the workers with the first tables: with none, they would end flows that go on over a restart (F9).
    fn start_workers(&mut self, shared: &Shared) -> Result<(), AgentError> {
        self.compiled = self.compiler.compile(&self.cluster);
        let first = self.compiled.snapshot.clone();
        let (publication, readers) = Publication::new(first, self.config.workers);
        self.publication = publication;
        let cores = cores(&self.config);
        for (index, reader) in readers.into_iter().enumerate() {
            let core = cores.get(index).copied();
            let worker = Worker::start(index, core, shared.clone(), reader)?;
            self.workers.push(worker);
        }
        self.loads_ns = self.workers.iter().map(Worker::load_ns).collect();
        self.health.tell(|told| {
            told.in_force = InForce::NotYet(CLOSED);
            told.workers = self.workers.iter().map(Worker::turns).collect();
        });
        Ok(())
    }

    /// Takes up the host's port, the pods' that an earlier agent left, and last the uplink.
    async fn open_ports(&mut self) -> Result<(), AgentError> {
        self.publish().await?;
        let host = self.node.dataplane().clone();
        self.open_port(HOST, PortKind::Host, &host.name, Bind::Copy)
            .await?;
        self.adopt_pods().await?;
        self.publish().await?;
        let uplink = self.node.uplink().name.clone();
        self.open_port(UPLINK, PortKind::Uplink, &uplink, Bind::ZeroCopy)
            .await?;
        // What came before the socket was there says nothing about queues.
        self.uplink_closed = self.closed_at_uplink();
        self.health.tell(|told| told.in_force = InForce::Yes);
        self.look().await;
        tracing::info!(
            node = self.config.node,
            sequence = self.compiled.snapshot.sequence,
            pods = self.ports.pods().count(),
            workers = self.workers.len(),
            "in force"
        );
        self.announce();
        Ok(())
    }

    /// Serves until it is told to stop.
    async fn control(&mut self, mut inputs: Inputs) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.health.stamp();
            let event = tokio::select! {
                _ = inputs.terminate.recv() => Event::Stop,
                _ = inputs.interrupt.recv() => Event::Stop,
                Some(asked) = inputs.requests.recv() => Event::Asked(asked),
                Some(batch) = inputs.batches.recv() => Event::Source(batch),
                () = self.stale.settled() => Event::Stale,
                () = self.unseen.settled() => Event::Look,
                () = self.node.changed() => Event::Kernel,
                _ = look.tick() => Event::Look,
            };
            match event {
                Event::Stop => return,
                Event::Asked(Asked { request, answer }) => {
                    let _ = answer.send(self.answer(request).await);
                }
                Event::Source(batch) => self.take(batch),
                Event::Kernel => self.unseen.mark(),
                Event::Look => self.look().await,
                Event::Stale => {
                    let in_force = match self.publish().await {
                        Ok(()) => InForce::Yes,
                        Err(error) => {
                            tracing::error!(%error, "tables are not in force");
                            // The next look tries again.
                            self.stale.clear();
                            InForce::No(error.to_string())
                        }
                    };
                    self.health.tell(|told| told.in_force = in_force);
                }
            }
        }
    }

    async fn answer(&mut self, request: Request) -> Response {
        let outcome = match request {
            Request::Attach(attach) => self.attach(attach).await,
            Request::Detach(detach) => self.detach(&detach).await,
            Request::Network => Ok(self.network()),
            Request::Show(topic) => Ok(self.show(topic).await),
        };
        match outcome {
            Ok(value) => Response::Ok(value),
            Err(text) => Response::Error(text),
        }
    }

    fn take(&mut self, batch: Batch) {
        let before = self.programming.facts();
        self.programming.take(&batch);
        match (before, batch.facts) {
            (Facts::Told, Facts::Kept(_)) => tracing::warn!(
                facts = %batch.facts,
                "the last known facts count until the API server tells of new ones"
            ),
            (Facts::Kept(_), Facts::Told) => {
                tracing::info!("the API server has told of everything since");
            }
            (Facts::Told, Facts::Told) | (Facts::Kept(_), Facts::Kept(_)) => {}
        }
        for problem in &batch.problems {
            if !self.source_problems.contains(problem) {
                tracing::warn!(%problem, "the last good state of the source stays in force");
            }
        }
        if batch.problems.is_empty() && !self.source_problems.is_empty() {
            tracing::info!("the source is in order again");
        }
        self.source_problems = batch.problems;
        for change in batch.changes {
            self.apply(change);
        }
    }

    fn apply(&mut self, change: Change) {
        self.cluster.apply(change);
        self.stale.mark();
    }

    /// Ends in order: sockets close, so that pods' ports are shut and the node's own traffic passes.
    fn stop(self) {
        tracing::info!("stopping: pods' ports are closed until the agent runs again");
        for worker in self.workers {
            worker.stop();
        }
    }
}

/// The cores for workers: those that were named, or the last ones that the process may use.
fn cores(config: &Config) -> Vec<usize> {
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

fn serve(socket: AdminSocket) -> mpsc::Receiver<Asked> {
    let (requests, asked) = mpsc::channel(REQUESTS);
    tokio::spawn(socket.serve(requests));
    asked
}
