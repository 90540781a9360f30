//! The node agent: control's one thread, from sources of facts to tables in force; beside it the workers, and the thread
//! that answers for all of them how they do.

mod announce;
mod binding;
mod clock;
mod health;
mod host_ports;
mod kept;
mod kernel;
mod latency;
mod mend;
mod path_mtus;
mod policies;
mod portless;
mod ports;
mod programming;
mod report;
mod requests;
mod reserved;
mod room;
mod routing;
mod services;
mod settle;
mod socket;
mod source;
mod start;
mod waiting;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use podway_control::{Batch, ConnectError, Facts as Standing, Problems};
use podway_engine::Want;
use podway_host::node::{Mend, NodeError, Ours};
use podway_host::router::{News, Router};
use podway_host::{NetlinkError, Network};
use podway_intent::Compiler;
use podway_tables::Hop;
use podway_wire::{FlowKey, Protocol};
use podway_xsk::{LoadError, RedirectError};
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use self::announce::Announce;
use self::health::Readiness;
use self::host_ports::HostPorts;
use self::kernel::Report;
use self::programming::Programming;
use self::requests::{Found, Waiter};
use self::room::{Done, Happened, Room};
use self::socket::Asked;
use crate::aim::{Due, Event, Facts, Given, Looked, Stage, Step, Tables, desired};
use crate::config::Config;

pub use self::health::HealthError;
pub(crate) use self::report::{endpoint_text, mode_of};
pub use self::settle::Settle;
pub use self::socket::SocketError;
pub use self::source::batches;
pub use self::worker::WorkerError;

/// How long a burst of the kernel's events is waited for, and for how long at most.
const KERNEL_QUIET: Duration = Duration::from_millis(20);
const KERNEL_PATIENCE: Duration = Duration::from_millis(200);
/// How often the kernel is looked at without an event.
const LOOK: Duration = Duration::from_secs(5);
/// Neighbours that workers want, and that wait for control at most; what doesn't fit is wanted again.
const WANTS: usize = 256;
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
    /// The way to ask the kernel.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The XDP program.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The XDP program's devices or maps.
    #[error(transparent)]
    Redirect(#[from] RedirectError),
    /// A NIC, which may take a change later.
    #[error("{interface} takes no changes for now: {error}")]
    NicBusy {
        /// The device.
        interface: String,
        /// What the kernel said.
        error: std::io::Error,
    },
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
        let (mut agent, inputs) = Agent::start(config).await?;
        agent.control(inputs).await?;
        agent.stop();
        Ok(())
    });
    runtime.shutdown_background();
    outcome
}

/// What control listens to, beside the room.
struct Inputs {
    requests: mpsc::Receiver<Asked>,
    found: (mpsc::Sender<Found>, mpsc::Receiver<Found>),
    wanted: mpsc::Receiver<Want>,
    batches: mpsc::Receiver<Batch>,
    host_ports: HostPorts,
    terminate: Signal,
    interrupt: Signal,
}

/// Control's state: what is known, what follows from it, and the room where that is put in force.
struct Agent {
    config: Config,
    facts: Facts,
    compiler: Compiler,
    /// What follows from the facts, as it was compiled last.
    tables: Arc<Tables>,
    room: Room,
    /// Where devices are looked up.
    network: Network,
    /// Who follows the kernel's routes, and has it resolve neighbours.
    router: Router,
    waiters: Vec<Waiter>,
    programming: Programming,
    announce: Option<Announce>,
    /// How often what of ours on the host was mended.
    mends: BTreeMap<&'static str, u64>,
    /// Facts that are not compiled yet.
    stale: Settle,
    /// Events of the kernel that were not looked at yet.
    unseen: Settle,
}

/// What control wakes up for.
enum Wake {
    Asked(Asked),
    Found(Found),
    Source(Batch),
    HostPorts,
    Routing(News),
    Wanted(Want),
    Report(Report),
    Stale,
    Unseen,
    Round,
    Stop,
}

impl Agent {
    /// Serves until it is told to stop.
    async fn control(&mut self, mut inputs: Inputs) -> Result<(), AgentError> {
        let mut round = interval(LOOK);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.go(Due::Now).await?;
        loop {
            self.room.stamp();
            let wake = tokio::select! {
                _ = inputs.terminate.recv() => Wake::Stop,
                _ = inputs.interrupt.recv() => Wake::Stop,
                Some(asked) = inputs.requests.recv(), if self.takes_requests() => Wake::Asked(asked),
                Some(found) = inputs.found.1.recv() => Wake::Found(found),
                Some(batch) = inputs.batches.recv() => Wake::Source(batch),
                () = inputs.host_ports.changed() => Wake::HostPorts,
                news = self.router.news() => Wake::Routing(news),
                Some(want) = inputs.wanted.recv() => Wake::Wanted(want),
                report = self.room.report() => Wake::Report(report),
                () = self.stale.settled() => Wake::Stale,
                () = self.unseen.settled() => Wake::Unseen,
                _ = round.tick() => Wake::Round,
            };
            let due = match wake {
                Wake::Stop => return Ok(()),
                Wake::Asked(asked) => self.asked(asked, &inputs.found.0).await,
                Wake::Found(found) => self.attach(found),
                Wake::Source(batch) => self.told(batch),
                Wake::HostPorts => self.found(inputs.host_ports.found()),
                Wake::Routing(news) => self.routed(news),
                Wake::Wanted(want) => {
                    self.ask_for(want);
                    Due::Nothing
                }
                Wake::Report(report) => self.happened(report)?,
                Wake::Stale => Due::Now,
                Wake::Unseen => {
                    self.unseen.clear();
                    self.room.look_again();
                    Due::Nothing
                }
                Wake::Round => {
                    self.room.try_again();
                    portless::forget(&self.room.redirect, &self.room.flows);
                    self.room.look_again();
                    self.let_go()
                }
            };
            self.go(due).await?;
        }
    }

    /// While ports open for the first time, who asks for more has to wait.
    fn takes_requests(&self) -> bool {
        let opens = matches!(self.room.readiness(), Readiness::NotYet(_));
        self.facts.stage() == Stage::Waiting || !opens
    }

    /// Puts in force what follows from the facts, as far as it gets without waiting.
    async fn go(&mut self, mut due: Due) -> Result<(), AgentError> {
        let before = (self.room.readiness(), self.tables_in_force());
        loop {
            match due {
                Due::Nothing => {}
                Due::Soon => self.stale.mark(),
                Due::Now => self.compile(),
            }
            let desired = desired(&self.facts, &self.tables);
            let went = self.room.go_towards(&desired, &self.config).await?;
            let events = went.events.into_iter().map(|event| self.facts.take(event));
            due = events
                .max()
                .unwrap_or(Due::Nothing)
                .max(self.forget_closed());
            if let Some(error) = went.failed {
                self.disappoint(None, &error);
            }
            if due == Due::Nothing {
                break;
            }
        }
        self.answer_waiters();
        self.note(before);
        Ok(())
    }

    /// What follows from the facts is made anew, unless they are not to be in force yet.
    fn compile(&mut self) {
        self.stale.clear();
        if self.facts.stage() == Stage::Waiting {
            return;
        }
        let tables = Tables::of(&self.facts, &mut self.compiler);
        if self.tables.compiled.problems != tables.compiled.problems {
            for problem in &tables.compiled.problems {
                tracing::warn!(%problem, "objects contradict each other");
            }
        }
        self.tables = Arc::new(tables);
        self.ask_for_peers();
    }

    /// Wires and uplinks that go and of which nothing is in force any more are gone.
    fn forget_closed(&mut self) -> Due {
        let ports = self.facts.ports();
        let ports: Vec<_> = ports.filter(|it| !self.room.has(*it)).collect();
        let closed = ports
            .into_iter()
            .map(|port| self.facts.take(Event::Closed(port)));
        closed.max().unwrap_or(Due::Nothing)
    }

    /// The number of the tables that all workers have.
    fn tables_in_force(&self) -> Option<u32> {
        match &self.room.in_force().tables {
            Given::All(tables) => Some(tables.sequence()),
            Given::Some(_) | Given::Nothing => None,
        }
    }

    /// Tells of what is in force now and was not before.
    fn note(&mut self, before: (Readiness, Option<u32>)) {
        let now = (self.room.readiness(), self.tables_in_force());
        if now.1.is_some() && now.1 != before.1 {
            self.programming.reached();
            tracing::debug!(sequence = now.1, "tables in force");
            match self.let_go() {
                Due::Nothing => {}
                Due::Soon | Due::Now => self.stale.mark(),
            }
        }
        if let (Readiness::NotYet(_), Readiness::Ready) = (before.0, now.0) {
            tracing::info!(
                node = self.config.node,
                sequence = now.1,
                pods = self.facts.wires().count(),
                workers = self.room.workers().len(),
                "in force"
            );
            self.announce();
        }
    }

    /// Takes in what the room reports.
    fn happened(&mut self, report: Report) -> Result<Due, AgentError> {
        let Done {
            step,
            failure,
            event,
        } = match self.room.take(report)? {
            Happened::Stirred => {
                self.unseen.mark();
                return Ok(Due::Nothing);
            }
            Happened::Step(done) => *done,
        };
        if let Some(error) = failure {
            let port = match &step {
                Step::Open(port, _) | Step::Close(port, _) | Step::Raise(port, _) => Some(*port),
                Step::Start(_)
                | Step::Narrow(_)
                | Step::Publish(_)
                | Step::Await(_)
                | Step::Widen(_)
                | Step::Listen(_)
                | Step::Prepare(..)
                | Step::Look(_) => None,
            };
            if port.is_some() {
                self.disappoint(port, &error);
            }
        }
        let Some(event) = event else {
            return Ok(Due::Nothing);
        };
        let problems = self.facts.node_problems();
        let looked = self.facts.kernel().cloned();
        if let Event::Looked(looked) = &event {
            let uplinks = self.facts.uplinks();
            for (_, uplink) in uplinks.filter(|(port, _)| looked.gone.contains(port)) {
                tracing::warn!(interface = uplink.name, "the uplink is gone");
            }
            let wires = self.facts.wires();
            for (_, wire, _) in wires.filter(|(port, ..)| looked.gone.contains(port)) {
                tracing::warn!(pod = %wire.pod, "the pod's device is gone");
            }
            self.mended(&looked.seen.mended);
        }
        let is_look = matches!(event, Event::Looked(_) | Event::NotLooked(_));
        let due = self.facts.take(event);
        self.tell_of_problems(&problems);
        if is_look {
            tell_of(looked.as_ref(), self.facts.kernel());
            if self.is_held_back() {
                self.announce();
            }
        }
        Ok(due)
    }

    fn tell_of_problems(&self, before: &[String]) {
        let problems = self.facts.node_problems();
        if problems != before {
            for problem in &problems {
                tracing::warn!(problem, "the node's kernel is not as it should be");
            }
        }
    }

    /// Takes in which ports are the host's.
    fn found(&mut self, found: host_ports::Found) -> Due {
        let before = self.mends.get(Ours::ReservedPorts.name());
        let times = found.mended.saturating_sub(before.copied().unwrap_or(0));
        for _ in 0..times {
            self.mended(&[Mend::new(
                Ours::ReservedPorts,
                "net.ipv4.ip_local_reserved_ports",
            )]);
        }
        let problems = self.facts.node_problems();
        let due = self.facts.take(Event::HostPorts(found.ports));
        self.tell_of_problems(&problems);
        due.max(self.let_go())
    }

    /// Lets the host have the ports at which it has sockets, but for those that flows of ours still use: workers begin none
    /// there, once all of them have tables that say so.
    fn let_go(&mut self) -> Due {
        let Given::All(tables) = &self.room.in_force().tables else {
            return Due::Nothing;
        };
        let hosts = &tables.compiled.plan.host_ports;
        let left: BTreeSet<_> = hosts.difference(self.facts.ports_let_go()).collect();
        if left.is_empty() {
            return Due::Nothing;
        }
        let routes = &tables.compiled.snapshot.routes;
        let replies = self.room.flows.iter();
        let replies = replies.map(|flow| FlowKey::of_words(flow.reply));
        let busy: BTreeSet<(Protocol, u16)> = replies
            .filter(|reply| routes.hop(&reply.target) == Hop::Host)
            .map(|reply| (reply.protocol, reply.target_port))
            .collect();
        let free = left.into_iter().filter(|port| !busy.contains(port));
        let free = free.copied().collect();
        self.facts.take(Event::LetGo(free))
    }

    /// Tells of what of ours was mended.
    fn mended(&mut self, mends: &[Mend]) {
        for mend in mends {
            let (what, detail) = (mend.ours.name(), mend.detail.as_str());
            tracing::warn!(what, detail, "mended: others had changed it");
            *self.mends.entry(what).or_default() += 1;
        }
    }

    /// Takes in what the source told of.
    fn told(&mut self, batch: Batch) -> Due {
        let before = self.programming.facts();
        self.programming.take(&batch);
        match (before, batch.facts) {
            (Standing::Told, Standing::Kept(_)) => tracing::warn!(
                facts = %batch.facts,
                "the last known facts count until the API server tells of new ones"
            ),
            (Standing::Kept(_), Standing::Told) => {
                tracing::info!("the API server has told of everything since");
            }
            (Standing::Told, Standing::Told) | (Standing::Kept(_), Standing::Kept(_)) => {}
        }
        let before = self.facts.source_problems();
        for problem in batch.problems.iter().filter(|it| !before.contains(it)) {
            tracing::warn!(%problem, "the source is not in order");
        }
        if batch.problems.is_empty() && !before.is_empty() {
            tracing::info!("the source is in order again");
        }
        self.facts.take(Event::Source(batch))
    }

    /// Ends in order: sockets close, so that pods' ports are shut and the node's own traffic passes.
    fn stop(self) {
        tracing::info!("stopping: pods' ports are closed until the agent runs again");
        self.room.stop();
    }
}

/// Tells of next hops that came or went.
fn tell_of(before: Option<&Looked>, now: Option<&Looked>) {
    let (Some(before), Some(now)) = (before, now) else {
        return;
    };
    let (before, now) = (&before.seen, &now.seen);
    for (vtep, mac) in &now.next_hops {
        if before.next_hops.get(vtep) != Some(mac) {
            tracing::info!(%vtep, %mac, "next hop resolved");
        }
    }
    for vtep in before
        .next_hops
        .keys()
        .filter(|it| !now.next_hops.contains_key(it))
    {
        tracing::info!(%vtep, "next hop lost");
    }
}
