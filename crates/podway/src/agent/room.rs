//! The room where steps are carried out. It alone has the workers, the XDP program and the way into the kernel, and it alone
//! says what is in force.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use podway_engine::Paths;
use podway_state::{Counters, FlowTable, Publication};
use podway_tables::{PortId, Snapshot};
use podway_xsk::{Mode, Redirect};
use tokio::time::Instant;

use super::AgentError;
use super::binding::Binding;
use super::health::{HealthPorts, Readiness};
use super::kernel::{Carried, Kernel, Outcome, Report};
use super::policies::HitsByName;
use super::portless;
use super::start::cores;
use super::waiting::CLOSED;
use super::worker::{Shared, Worker};
use crate::aim::{Desired, Event, HOST, InForce, Lane, LastLook, Step, Tables, UPLINK, steps};
use crate::config::Config;

/// How long workers may take to go on to new tables.
const REACH: Duration = Duration::from_secs(2);
/// How old the figures are at least that a worker's busy share is measured from.
const SAMPLE: Duration = Duration::from_secs(1);

/// What carries steps out.
pub(super) struct Room {
    in_force: InForce,
    /// Steps that failed since the last round: they are not tried again before the next one.
    failed: Vec<Step>,
    pub(super) redirect: Arc<Redirect>,
    kernel: Kernel,
    crew: Crew,
    /// How each port is bound.
    bindings: BTreeMap<PortId, Binding>,
    /// Why some packets would find no worker, as of the last facts.
    unowned: Option<String>,
    pub(super) flows: Arc<FlowTable>,
    pub(super) paths: Arc<Paths>,
    pub(super) counters: Arc<Counters>,
    pub(super) hits: HitsByName,
    health: HealthPorts,
}

/// The workers.
enum Crew {
    /// They wait for their first tables: with none, they would end flows that go on over a restart (F9).
    Waits(Shared),
    /// They work.
    Works(Works),
}

struct Works {
    workers: Arc<[Worker]>,
    publication: Publication<Snapshot>,
    /// The number of the last publication.
    number: u64,
    /// Nanoseconds in turns that carried packets, and in all, when they were last sampled.
    loads_ns: Vec<(u64, u64)>,
    sampled: Instant,
}

/// How far it went.
#[derive(Default)]
pub(super) struct Went {
    /// What is known by it.
    pub(super) events: Vec<Event>,
    /// Why tables are not in force.
    pub(super) failed: Option<AgentError>,
}

/// What a report came to.
pub(super) enum Happened {
    /// The kernel changed something by itself.
    Stirred,
    /// A step was carried out, or failed.
    Step(Box<Done>),
}

/// A step that the kernel has had.
pub(super) struct Done {
    pub(super) step: Step,
    /// Why it failed, if it did.
    pub(super) failure: Option<AgentError>,
    /// What is known by it.
    pub(super) event: Option<Event>,
}

impl Room {
    pub(super) fn new(
        kernel: Kernel,
        redirect: Arc<Redirect>,
        shared: Shared,
        health: HealthPorts,
    ) -> Room {
        portless::claim(&redirect, &shared.state.flows);
        Room {
            in_force: InForce::default(),
            failed: Vec::new(),
            redirect,
            kernel,
            bindings: BTreeMap::new(),
            unowned: None,
            flows: shared.state.flows.clone(),
            paths: shared.state.paths.clone(),
            counters: shared.state.counters.clone(),
            hits: HitsByName::new(shared.state.hits.clone()),
            crew: Crew::Waits(shared),
            health,
        }
    }

    /// Goes from what is in force towards what is desired, as far as it gets without waiting for the kernel. An error is one
    /// that an agent which starts can't go on with.
    pub(super) async fn go_towards(
        &mut self,
        desired: &Desired,
        config: &Config,
    ) -> Result<Went, AgentError> {
        let mut went = Went::default();
        self.unowned.clone_from(&desired.unowned);
        for step in steps(&self.in_force, desired) {
            let has_failed = self.failed.iter().any(|it| it.is(&step));
            match step.lane() {
                // What comes after it relies on it.
                Lane::Tables if has_failed => return Ok(went),
                Lane::Tables => {
                    if let Err(error) = self.put_in_force(step, config).await {
                        return self.not_in_force(went, error);
                    }
                }
                Lane::Beside | Lane::Kernel if has_failed => {}
                Lane::Beside => went.events.extend(self.answer_for_services(step).await),
                Lane::Kernel => {
                    if let (None, Crew::Works(works)) = (self.kernel.busy(), &self.crew) {
                        self.kernel.begin(step, works.workers.clone());
                    }
                    break;
                }
            }
        }
        self.stand();
        Ok(went)
    }

    /// Carries out a step that takes moments.
    async fn put_in_force(&mut self, step: Step, config: &Config) -> Result<(), AgentError> {
        let carried = match &step {
            Step::Start(tables) => self.start(tables, config),
            Step::Narrow(plan) | Step::Widen(plan) => {
                self.redirect.reconcile(plan).map_err(AgentError::from)
            }
            Step::Publish(tables) => {
                self.publish(tables);
                Ok(())
            }
            Step::Await(tables) => self.reached(tables).await,
            Step::Listen(_)
            | Step::Close(..)
            | Step::Prepare(..)
            | Step::Open(..)
            | Step::Raise(..)
            | Step::Look(_) => unreachable!("not a step of the tables"),
        };
        match &carried {
            Ok(()) => self.in_force.carried(&step),
            Err(_) => {
                self.in_force.failed(&step);
                self.failed.push(step);
            }
        }
        carried
    }

    fn not_in_force(&self, went: Went, error: AgentError) -> Result<Went, AgentError> {
        if matches!(self.health.readiness(), Readiness::NotYet(_)) {
            return Err(error);
        }
        tracing::error!(%error, "tables are not in force");
        let readiness = Readiness::Failed(error.to_string());
        self.health.tell(|told| told.readiness = readiness);
        let failed = Some(error);
        Ok(Went { failed, ..went })
    }

    fn start(&mut self, tables: &Arc<Tables>, config: &Config) -> Result<(), AgentError> {
        let Crew::Waits(shared) = &self.crew else {
            return Ok(());
        };
        let first = tables.compiled.snapshot.clone();
        let (publication, readers) = Publication::new(first, config.workers);
        let cores = cores(config);
        let mut workers = Vec::new();
        for (index, reader) in readers.into_iter().enumerate() {
            let core = cores.get(index).copied();
            workers.push(Worker::start(index, core, shared.clone(), reader)?);
        }
        self.health.tell(|told| {
            told.readiness = Readiness::NotYet(CLOSED);
            told.workers = workers.iter().map(Worker::turns).collect();
        });
        self.crew = Crew::Works(Works {
            loads_ns: workers.iter().map(Worker::load_ns).collect(),
            workers: workers.into(),
            publication,
            number: 1,
            sampled: Instant::now(),
        });
        Ok(())
    }

    fn publish(&mut self, tables: &Arc<Tables>) {
        let Crew::Works(works) = &mut self.crew else {
            return;
        };
        if let Some(before) = self.in_force.tables.last() {
            self.hits
                .rename(&before.compiled.names, &tables.compiled.names);
        }
        works.number = works.publication.publish(tables.compiled.snapshot.clone());
    }

    async fn reached(&mut self, tables: &Arc<Tables>) -> Result<(), AgentError> {
        let Crew::Works(works) = &mut self.crew else {
            return Ok(());
        };
        let began = Instant::now();
        while !works.publication.reached(works.number) {
            if began.elapsed() > REACH {
                return Err(AgentError::Stuck);
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        works.publication.collect();
        self.health
            .tell(|told| told.cluster.clone_from(&tables.cluster));
        Ok(())
    }

    async fn answer_for_services(&mut self, step: Step) -> Option<Event> {
        let Step::Listen(listeners) = &step else {
            return None;
        };
        let problems = self.health.follow(listeners).await;
        match problems.is_empty() {
            true => self.in_force.carried(&step),
            false => self.failed.push(step),
        }
        Some(Event::NotListening(problems))
    }

    /// Says how the agent does, from what is in force.
    fn stand(&self) {
        let is_open = self.in_force.ports.contains_key(&UPLINK);
        let readiness = match (&self.crew, self.health.readiness()) {
            (Crew::Waits(_), _) => return,
            (Crew::Works(_), Readiness::NotYet(_)) if !is_open => Readiness::NotYet(CLOSED),
            (Crew::Works(_), Readiness::NotYet(_) | Readiness::Ready | Readiness::Failed(_)) => {
                match &self.unowned {
                    Some(problem) => Readiness::Failed(problem.clone()),
                    None => Readiness::Ready,
                }
            }
        };
        self.health.tell(|told| told.readiness = readiness);
    }

    /// What happened next; a call that is dropped loses nothing.
    pub(super) async fn report(&mut self) -> Report {
        self.kernel.report().await
    }

    /// Takes up what the hand in the kernel reports. An error is one that an agent which starts can't go on with.
    pub(super) fn take(&mut self, report: Report) -> Result<Happened, AgentError> {
        let Carried { step, outcome } = match report {
            Report::Stirred => return Ok(Happened::Stirred),
            Report::Carried(carried) => *carried,
        };
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => return self.not_carried(step, error),
        };
        self.in_force.carried(&step);
        let event = match (&step, outcome) {
            (Step::Open(id, port), Outcome::Opened(binding)) => {
                tracing::info!(
                    port = id.0,
                    interface = port.interface,
                    binding = binding.name(),
                    why = binding.why.as_ref().map(ToString::to_string),
                    "port open"
                );
                self.bindings.insert(*id, binding);
                Some(Event::Opened(*id))
            }
            (Step::Close(id, _), _) => {
                self.bindings.remove(id);
                Some(Event::Closed(*id))
            }
            (_, Outcome::Looked(looked)) => Some(Event::Looked(looked)),
            (_, Outcome::Prepared(prepared)) => Some(Event::Prepared(prepared)),
            (_, Outcome::Opened(_) | Outcome::Done) => None,
        };
        Ok(Happened::Step(Box::new(Done {
            step,
            failure: None,
            event,
        })))
    }

    fn not_carried(&mut self, step: Step, error: AgentError) -> Result<Happened, AgentError> {
        self.in_force.failed(&step);
        let event = match &step {
            Step::Open(id, port) => {
                let interface = &port.interface;
                tracing::error!(port = id.0, interface, %error, "the port is closed");
                let is_fixed = [HOST, UPLINK].contains(id);
                if is_fixed && matches!(self.health.readiness(), Readiness::NotYet(_)) {
                    return Err(error);
                }
                (!is_fixed).then(|| Event::NotOpened(*id, error.to_string()))
            }
            Step::Look(_) => Some(Event::NotLooked(error.to_string())),
            Step::Close(id, _) => {
                tracing::error!(port = id.0, %error, "the port is not closed");
                None
            }
            Step::Prepare(interface, _) => {
                tracing::warn!(interface, %error, "the NIC is not as it should be");
                None
            }
            Step::Raise(id, port) => {
                let interface = &port.interface;
                tracing::error!(port = id.0, interface, %error, "the device is down");
                None
            }
            Step::Start(_)
            | Step::Narrow(_)
            | Step::Publish(_)
            | Step::Await(_)
            | Step::Widen(_)
            | Step::Listen(_) => unreachable!("not a step of the kernel"),
        };
        if event.is_none() || matches!(step, Step::Look(_)) {
            self.failed.push(step.clone());
        }
        Ok(Happened::Step(Box::new(Done {
            step,
            failure: Some(error),
            event,
        })))
    }

    /// Has the kernel looked at again.
    pub(super) fn look_again(&mut self) {
        self.in_force.looked = LastLook::IsOld;
    }

    /// Whether everything that follows from the same facts as these tables is in force, or was refused by the kernel.
    pub(super) fn has_all_of(&self, tables: &Tables) -> bool {
        let refused = self.failed.iter().any(|step| match step {
            Step::Look(look) => look.wanted == tables.host,
            Step::Start(_)
            | Step::Narrow(_)
            | Step::Publish(_)
            | Step::Await(_)
            | Step::Widen(_)
            | Step::Listen(_)
            | Step::Close(..)
            | Step::Prepare(..)
            | Step::Open(..)
            | Step::Raise(..) => false,
        });
        let is_mended = self.in_force.host.as_ref() == Some(&tables.host) || refused;
        self.readiness() == Readiness::Ready && self.in_force.has(tables) && is_mended
    }

    /// Begins a new round: what failed is tried again.
    pub(super) fn try_again(&mut self) {
        self.failed.clear();
        if let Crew::Works(works) = &mut self.crew
            && works.sampled.elapsed() >= SAMPLE
        {
            works.sampled = Instant::now();
            works.loads_ns = works.workers.iter().map(Worker::load_ns).collect();
        }
    }

    /// What is in force.
    pub(super) fn in_force(&self) -> &InForce {
        &self.in_force
    }

    /// Whether anything of a port is in force, or about to be.
    pub(super) fn has(&self, id: PortId) -> bool {
        let opening = match self.kernel.busy() {
            Some(Step::Open(it, _)) => *it == id,
            Some(_) | None => false,
        };
        opening || self.in_force.ports.contains_key(&id)
    }

    /// How the XDP program runs on a port; `None` if it isn't open.
    pub(super) fn mode(&self, id: PortId) -> Option<Mode> {
        self.binding(id).map(|binding| binding.mode)
    }

    /// How a port is bound; `None` if it isn't open.
    pub(super) fn binding(&self, id: PortId) -> Option<&Binding> {
        self.bindings.get(&id)
    }

    /// How the agent does.
    pub(super) fn readiness(&self) -> Readiness {
        self.health.readiness()
    }

    /// Control begins something new.
    pub(super) fn stamp(&self) {
        self.health.stamp();
    }

    /// The workers; none before the first tables.
    pub(super) fn workers(&self) -> &[Worker] {
        match &self.crew {
            Crew::Waits(_) => &[],
            Crew::Works(works) => &works.workers,
        }
    }

    /// Workers with their loads when they were last sampled.
    pub(super) fn loads(&self) -> impl Iterator<Item = (&Worker, (u64, u64))> {
        let loads = match &self.crew {
            Crew::Waits(_) => &[][..],
            Crew::Works(works) => &works.loads_ns,
        };
        self.workers().iter().zip(loads.iter().copied())
    }

    /// Ends in order: sockets close, so that pods' ports are shut and the node's own traffic passes.
    pub(super) fn stop(self) {
        self.workers().iter().for_each(Worker::stop);
    }
}
