//! Worker threads: each owns one queue of every port, and an engine.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use podway_engine::{Engine, Existing, Observed, Timeouts, Want};
use podway_state::Reader;
use podway_tables::{PortId, Snapshot};
use podway_xsk::{
    Bind, Bound, Claims, Opened, Opening, PortError, PortStatistics, Sockets, WorkerEdge,
    WorkerSettings,
};
use tokio::sync::{mpsc, oneshot};

use super::clock::{boot_ns, flow_ms};

/// Turns without a packet before a worker goes to sleep.
const IDLE_TURNS: u32 = 256;
/// How long a worker sleeps at most: commands wake it, flows are swept in between.
const SLEEP: Duration = Duration::from_millis(100);
/// The same while packets wait for a neighbour.
const NAP: Duration = Duration::from_millis(10);
/// How long it takes to look at every flow once.
const SWEEP_MS: u64 = 10_000;
/// Flows looked at in one turn at most.
const SWEEP_SLOTS: u64 = 4_096;
/// How long a queue that an earlier process still holds is waited for.
const BUSY: Duration = Duration::from_secs(3);
/// How long packets that are on their way out may take when the worker ends.
const DRAIN: Duration = Duration::from_millis(100);
const COMMANDS: usize = 64;

/// What a worker does between two turns.
enum Command {
    /// Say what it takes to have a socket of a device.
    Opening {
        port: PortId,
        interface: String,
        bind: Bind,
        done: oneshot::Sender<Result<Opening, PortError>>,
    },
    /// Take a socket up.
    TakeUp {
        opened: Box<Opened>,
        done: oneshot::Sender<Result<Bound, PortError>>,
    },
    /// Close it.
    RemovePort {
        port: PortId,
        done: oneshot::Sender<()>,
    },
    /// Say what the ports did.
    Report { done: oneshot::Sender<Report> },
    /// Say which flows observed policies would have stopped.
    Observed {
        done: oneshot::Sender<Vec<Observed>>,
    },
    /// End.
    Stop,
}

/// What a worker counted.
#[derive(Clone, Debug)]
pub(super) struct Report {
    /// By port.
    pub(super) ports: Vec<PortStatistics>,
    /// Packets for ports that the worker does not have.
    pub(super) unknown_port: u64,
    /// Frames on their way out.
    pub(super) outstanding: u32,
    /// Free frames.
    pub(super) free: u32,
}

/// How a worker spent its time, in nanoseconds since it started.
#[derive(Debug, Default)]
struct Load {
    /// In turns that carried packets.
    busy: AtomicU64,
    /// In all.
    total: AtomicU64,
}

/// Tells that a worker turns, without a word to it.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<Load>);

impl Turns {
    /// A number that is another one after each turn; a worker sleeps for a tenth of a second at most.
    pub(super) fn mark(&self) -> u64 {
        self.0.total.load(Ordering::Relaxed)
    }
}

/// What every worker shares.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) state: podway_engine::Shared,
    /// Where it is said whom packets are for that nobody has resolved.
    pub(super) wants: mpsc::Sender<Want>,
    pub(super) sockets: Sockets,
    pub(super) claims: Claims,
    pub(super) frames: u32,
    pub(super) timeouts: Timeouts,
    pub(super) existing: Existing,
}

/// Why there is no worker, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A port can't be served.
    #[error(transparent)]
    Port(#[from] PortError),
    /// No thread.
    #[error("no thread for worker {index}: {problem}: raise the limit on threads")]
    Thread {
        /// The worker.
        index: usize,
        /// What the system said.
        problem: std::io::Error,
    },
    /// It ended.
    #[error("worker {0} has ended: restart the agent, and see its log")]
    Ended(usize),
}

/// A running worker, as control sees it.
pub(super) struct Worker {
    index: usize,
    core: Option<usize>,
    commands: SyncSender<Command>,
    waker: podway_xsk::Waker,
    load: Arc<Load>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Worker {
    /// Starts a worker's thread in the caller's network namespace, and returns when it is ready for ports.
    pub(super) fn start(
        index: usize,
        core: Option<usize>,
        shared: Shared,
        reader: Reader<Snapshot>,
    ) -> Result<Worker, WorkerError> {
        let (commands, incoming) = sync_channel(COMMANDS);
        let (ready, made) = sync_channel(1);
        let load = Arc::new(Load::default());
        let workers_load = load.clone();
        let thread = thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || {
                let _fatal = Fatal;
                pin(index, core);
                let edge = WorkerEdge::new(WorkerSettings {
                    queue: index as u32,
                    frames: shared.frames,
                    sockets: shared.sockets.clone(),
                });
                let edge = match edge {
                    Ok(edge) => edge,
                    Err(error) => {
                        let _ = ready.send(Err(error));
                        return;
                    }
                };
                let _ = ready.send(Ok(edge.waker()));
                let share =
                    shared.state.flows.capacity() as u64 / shared.state.counters.workers() as u64;
                let settings = podway_engine::Settings {
                    timeouts: shared.timeouts,
                    existing: shared.existing,
                };
                Loop {
                    edge,
                    engine: Engine::new(settings, shared.state.part(index)),
                    wants: shared.wants,
                    reader,
                    commands: incoming,
                    load: workers_load,
                    claims: shared.claims,
                    share,
                }
                .run();
            })
            .map_err(|problem| WorkerError::Thread { index, problem })?;
        let waker = made.recv().map_err(|_| WorkerError::Ended(index))??;
        Ok(Worker {
            index,
            core,
            commands,
            waker,
            load,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Binds the worker's queue of a device to a port, and says how, and why not better. The kernel is waited for in another thread: the worker goes on.
    pub(super) async fn add_port(
        &self,
        port: PortId,
        interface: &str,
        bind: Bind,
    ) -> Result<(Bound, Option<String>), WorkerError> {
        let interface = interface.to_owned();
        let opening = |done| Command::Opening {
            port,
            interface,
            bind,
            done,
        };
        let opening = self.ask(opening).await??;
        let opened = tokio::task::spawn_blocking(move || opening.open(BUSY).map(Box::new));
        let opened = opened.await.expect("it opens, or says why not")?;
        let refused = opened.refused().map(str::to_owned);
        let bound = self.ask(|done| Command::TakeUp { opened, done }).await?;
        Ok((bound?, refused))
    }

    /// Closes it; a port that is not there is no error.
    pub(super) async fn remove_port(&self, port: PortId) -> Result<(), WorkerError> {
        self.ask(|done| Command::RemovePort { port, done }).await
    }

    /// What the worker counted so far.
    pub(super) async fn report(&self) -> Result<Report, WorkerError> {
        self.ask(|done| Command::Report { done }).await
    }

    /// The last flows that observed policies would have stopped.
    pub(super) async fn observed(&self) -> Result<Vec<Observed>, WorkerError> {
        self.ask(|done| Command::Observed { done }).await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, WorkerError> {
        let (done, answer) = oneshot::channel();
        self.send(command(done))?;
        answer.await.map_err(|_| WorkerError::Ended(self.index))
    }

    /// The core that it is pinned to.
    pub(super) fn core(&self) -> Option<usize> {
        self.core
    }

    /// Nanoseconds in turns that carried packets, and in all.
    pub(super) fn load_ns(&self) -> (u64, u64) {
        let of = |word: &AtomicU64| word.load(Ordering::Relaxed);
        (of(&self.load.busy), of(&self.load.total))
    }

    /// Tells that it turns.
    pub(super) fn turns(&self) -> Turns {
        Turns(self.load.clone())
    }

    /// Ends the worker and waits for it.
    pub(super) fn stop(&self) {
        let _ = self.send(Command::Stop);
        let thread = self.thread.lock().expect("nobody panics inside").take();
        let _ = thread.map(JoinHandle::join);
    }

    fn send(&self, command: Command) -> Result<(), WorkerError> {
        // Control waits for every answer but the last, so the channel is never full while the worker lives.
        self.commands
            .try_send(command)
            .map_err(|_| WorkerError::Ended(self.index))?;
        self.waker.wake();
        Ok(())
    }
}

/// A worker that panics takes the process with it: pods' ports are closed by the programs that stay attached.
struct Fatal;

impl Drop for Fatal {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!(
                "a worker panicked: the agent ends, pods' ports are closed until it is started again"
            );
            std::process::abort();
        }
    }
}

fn pin(index: usize, core: Option<usize>) {
    let Some(core) = core else { return };
    if !core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        tracing::warn!(
            worker = index,
            core,
            "not pinned: name cores that this process may use with `cores`"
        );
    }
}

struct Loop {
    edge: WorkerEdge,
    engine: Engine,
    wants: mpsc::Sender<Want>,
    reader: Reader<Snapshot>,
    commands: Receiver<Command>,
    load: Arc<Load>,
    claims: Claims,
    /// Flows of the table that are this worker's to sweep.
    share: u64,
}

impl Loop {
    fn run(mut self) {
        let mut idle_turns = 0;
        let mut turn_began = boot_ns();
        let mut swept_ms = turn_began / 1_000_000;
        loop {
            if let After::Stop = self.obey() {
                self.edge.drain(DRAIN);
                return;
            }
            let Loop {
                edge,
                engine,
                reader,
                ..
            } = &mut self;
            let now_ms = flow_ms(turn_began);
            let snapshot = reader.latest();
            let packets = edge.turn(&mut |batch| engine.process(snapshot, batch, now_ms));
            if packets == 0 && engine.has_waiting() {
                edge.make(&mut |batch| engine.process(snapshot, batch, now_ms));
            }
            let portless = engine.portless();
            if !portless.is_empty()
                && let Err(error) = self.claims.add(&portless)
            {
                tracing::error!(%error, "answers of a protocol without ports are left to the host");
            }
            if !self.engine.wanted().is_empty() {
                self.hand_wants_over();
            }
            let passed_ms = (turn_began / 1_000_000).saturating_sub(swept_ms);
            if passed_ms > 0 {
                let slots = (self.share * passed_ms).div_ceil(SWEEP_MS).min(SWEEP_SLOTS);
                self.engine.sweep(slots as usize, now_ms);
                swept_ms += passed_ms;
            }
            match packets {
                0 => idle_turns += 1,
                _ => idle_turns = 0,
            }
            if idle_turns >= IDLE_TURNS {
                idle_turns = 0;
                self.sleep();
            }
            turn_began = self.account(turn_began, packets);
        }
    }

    /// Does what control asked for since the last turn.
    fn obey(&mut self) -> After {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Opening {
                    port,
                    interface,
                    bind,
                    done,
                }) => {
                    let _ = done.send(self.edge.opening(port, &interface, bind));
                }
                Ok(Command::TakeUp { opened, done }) => {
                    let _ = done.send(self.edge.take_up(*opened));
                }
                Ok(Command::RemovePort { port, done }) => {
                    self.edge.remove_port(port);
                    let _ = done.send(());
                }
                Ok(Command::Report { done }) => {
                    let _ = done.send(Report {
                        ports: self.edge.port_statistics(),
                        unknown_port: self.edge.unknown_port(),
                        outstanding: self.edge.outstanding(),
                        free: self.edge.free(),
                    });
                }
                Ok(Command::Observed { done }) => {
                    let _ = done.send(self.engine.observed());
                }
                Err(TryRecvError::Empty) => return After::Continue,
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return After::Stop,
            }
        }
    }

    /// What control has no room for is wanted again by its next packet.
    #[cold]
    fn hand_wants_over(&mut self) {
        for want in self.engine.wanted().take() {
            let _ = self.wants.try_send(want);
        }
    }

    fn sleep(&mut self) {
        let edge = &mut self.edge;
        let nap = match self.engine.has_waiting() {
            true => NAP,
            false => SLEEP,
        };
        if let Err(error) = self.reader.offline(|| edge.sleep(nap)) {
            tracing::warn!(%error, "poll failed: the worker spins for a while");
        }
    }

    fn account(&self, turn_began: u64, packets: usize) -> u64 {
        let now = boot_ns();
        let spent = now.saturating_sub(turn_began);
        let add = |word: &AtomicU64| {
            // Written by this thread only.
            let sum = word.load(Ordering::Relaxed) + spent;
            word.store(sum, Ordering::Relaxed);
        };
        add(&self.load.total);
        if packets > 0 {
            add(&self.load.busy);
        }
        now
    }
}

enum After {
    Continue,
    Stop,
}
