//! The hand that reaches into the kernel: it may wait for the lock of devices, and nothing waits for it.
//!
//! A crowd of starting pods holds that lock for half a minute. Steps that need it are carried out here, one after the other,
//! while tables go on being published; what came of each is reported.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use podway_host::node::{Device, Node};
use podway_tables::{PortId, PortKind};
use podway_xsk::{Mode, Nic, Redirect, RedirectError, Setting, Why};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::AgentError;
use super::binding::{Binding, Undo};
use super::health::KernelClock;
use super::mend::Devices;
use super::worker::Worker;
use crate::aim::{Look, Looked, Port, Prepared, Step};

/// Reports that wait for control at most.
const REPORTS: usize = 16;
/// How long a report may wait before the kernel's own events are listened to again.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the hand did.
pub(super) enum Report {
    /// A step was carried out, or failed.
    Carried(Box<Carried>),
    /// The kernel changed something by itself.
    Stirred,
}

/// A step, and what came of it.
pub(super) struct Carried {
    pub(super) step: Step,
    pub(super) outcome: Result<Outcome, AgentError>,
}

/// What came of a step.
pub(super) enum Outcome {
    /// A port is open, and how it is bound.
    Opened(Binding),
    /// What came of having a NIC be otherwise.
    Prepared(Prepared),
    /// It is done.
    Done,
    /// The kernel is as it should be, or says why not.
    Looked(Box<Looked>),
}

/// Where steps go, and reports come from.
pub(super) struct Kernel {
    jobs: mpsc::Sender<Job>,
    reports: mpsc::Receiver<Report>,
    /// What the hand is at.
    busy: Option<Step>,
}

struct Job {
    step: Step,
    workers: Arc<[Worker]>,
}

struct Hand {
    node: Node,
    redirect: Arc<Redirect>,
    undo: Undo,
    clock: KernelClock,
    jobs: mpsc::Receiver<Job>,
    reports: mpsc::Sender<Report>,
    devices: Devices,
    /// Where the program runs on open ports: sockets are bound for it.
    modes: BTreeMap<PortId, Mode>,
}

impl Kernel {
    /// Starts the hand; needs a tokio runtime.
    pub(super) fn start(
        node: Node,
        redirect: Arc<Redirect>,
        undo: Undo,
        clock: KernelClock,
    ) -> Kernel {
        let (jobs, asked) = mpsc::channel(1);
        let (reporter, reports) = mpsc::channel(REPORTS);
        let hand = Hand {
            node,
            redirect,
            undo,
            clock,
            jobs: asked,
            reports: reporter,
            devices: Devices::default(),
            modes: BTreeMap::new(),
        };
        tokio::spawn(hand.work());
        Kernel {
            jobs,
            reports,
            busy: None,
        }
    }

    /// What the hand is at.
    pub(super) fn busy(&self) -> Option<&Step> {
        self.busy.as_ref()
    }

    /// Has the idle hand carry out a step.
    pub(super) fn begin(&mut self, step: Step, workers: Arc<[Worker]>) {
        self.busy = Some(step.clone());
        // It is idle, and lives as long as this.
        let _ = self.jobs.try_send(Job { step, workers });
    }

    /// What happened next; a call that is dropped loses nothing.
    pub(super) async fn report(&mut self) -> Report {
        match self.reports.recv().await {
            Some(report) => {
                if let Report::Carried(..) = report {
                    self.busy = None;
                }
                report
            }
            // It panicked, and said so.
            None => std::future::pending().await,
        }
    }
}

impl Hand {
    async fn work(mut self) {
        loop {
            let report = tokio::select! {
                job = self.jobs.recv() => match job {
                    Some(Job { step, workers }) => {
                        self.clock.begins();
                        let outcome = self.carry_out(&step, &workers).await;
                        self.clock.rests();
                        Report::Carried(Box::new(Carried { step, outcome }))
                    }
                    None => return,
                },
                () = self.node.changed() => Report::Stirred,
            };
            let sent = match report {
                // One that nobody has room for is as good as those before it.
                Report::Stirred => timeout(PATIENCE, self.reports.send(report))
                    .await
                    .unwrap_or(Ok(())),
                Report::Carried(..) => self.reports.send(report).await,
            };
            if sent.is_err() {
                return;
            }
        }
    }

    async fn carry_out(&mut self, step: &Step, workers: &[Worker]) -> Result<Outcome, AgentError> {
        match step {
            Step::Open(id, port) => self.open(*id, port, workers).await.map(Outcome::Opened),
            Step::Close(id, port) => {
                self.close(*id, port, workers).await?;
                Ok(Outcome::Done)
            }
            Step::Prepare(interface, settings) => self
                .prepare(interface, settings)
                .await
                .map(Outcome::Prepared),
            Step::Raise(_, port) => {
                self.node.raise(port.ifindex).await?;
                Ok(Outcome::Done)
            }
            Step::Look(look) => {
                let looked = self.look(look).await?;
                Ok(Outcome::Looked(Box::new(looked)))
            }
            Step::Start(_)
            | Step::Narrow(_)
            | Step::Publish(_)
            | Step::Await(_)
            | Step::Widen(_)
            | Step::Listen(_) => unreachable!("the room's own steps need no hand"),
        }
    }

    /// Closes a device by the XDP program, then has every worker serve its queue of it; all or nothing.
    async fn open(
        &mut self,
        id: PortId,
        port: &Port,
        workers: &[Worker],
    ) -> Result<Binding, AgentError> {
        let device = self.node.network().device(&port.interface).await?;
        let mtu = device.as_ref().map_or(0, |it| it.mtu);
        if let (PortKind::Uplink, Some(device)) = (port.kind, &device) {
            self.clear_below(device).await?;
        }
        let (redirect, interface, kind) =
            (self.redirect.clone(), port.interface.clone(), port.kind);
        let mut binding = beside(move || {
            let attached = redirect.attach(&interface, kind, id)?;
            Ok::<_, RedirectError>(Binding::of(kind, &interface, mtu, attached))
        })
        .await?;
        for worker in workers {
            let asked = binding.bind(kind);
            match worker.add_port(id, &port.interface, asked).await {
                Ok((bound, refused)) => {
                    binding.bound = bound;
                    binding.why = refused.map(Why::Refused).or(binding.why);
                }
                Err(error) => {
                    self.close(id, port, workers).await?;
                    return Err(error.into());
                }
            }
        }
        self.modes.insert(id, binding.mode);
        Ok(binding)
    }

    /// Takes what an earlier agent left off the devices that an uplink is made of: the kernel refuses that once the uplink has
    /// the program, and until then what is ours is dropped there.
    async fn clear_below(&self, uplink: &Device) -> Result<(), AgentError> {
        let ours = self.redirect.program_id();
        let is_below = |it: &Device| it.master == uplink.ifindex || it.ifindex == uplink.below;
        for device in self.node.devices().await? {
            if is_below(&device) && device.program != 0 && device.program != ours {
                let (redirect, name) = (self.redirect.clone(), device.name);
                beside(move || redirect.take_off(&name)).await?;
            }
        }
        Ok(())
    }

    /// Has a NIC be as the workers need it.
    async fn prepare(&self, interface: &str, settings: &[Setting]) -> Result<Prepared, AgentError> {
        let (undo, interface) = (self.undo.clone(), interface.to_owned());
        let settings = settings.to_vec();
        beside(move || undo.prepare(&interface, settings)).await
    }

    async fn close(
        &mut self,
        id: PortId,
        port: &Port,
        workers: &[Worker],
    ) -> Result<(), AgentError> {
        for worker in workers {
            worker.remove_port(id).await?;
        }
        self.modes.remove(&id);
        let (redirect, interface) = (self.redirect.clone(), port.interface.clone());
        Ok(beside(move || redirect.detach(&interface)).await?)
    }

    async fn look(&mut self, look: &Look) -> Result<Looked, AgentError> {
        let mut seen = self.node.reconcile(&look.wanted).await?;
        let devices = match look.devices.is_empty() && look.uplinks.is_empty() {
            true => Vec::new(),
            false => self.node.devices().await?,
        };
        let nics = nics(&look.uplinks, &devices).await;
        let mut gone = Vec::new();
        for (id, port) in &look.devices {
            let is_listed = devices.iter().any(|it| it.ifindex == port.ifindex);
            // A list may miss a device while others come and go.
            if !is_listed && !self.is_there(port).await? {
                gone.push(*id);
            }
        }
        let opening = look.uplinks.keys().copied();
        let opening = opening.chain([self.node.dataplane().ifindex]);
        let opening: BTreeSet<u32> = opening.collect();
        let ports = (&look.devices[..], &self.modes);
        let mended = self
            .devices
            .mend((&self.node, &self.redirect), ports, &opening, &devices)
            .await;
        seen.mended.extend(mended.mends);
        seen.problems.extend(mended.problems);
        Ok(Looked {
            seen,
            gone: gone.into_iter().collect(),
            uplink_closed: closed_at_uplink(&self.redirect),
            nics,
        })
    }

    async fn is_there(&self, port: &Port) -> Result<bool, AgentError> {
        let device = self.node.network().device(&port.interface).await?;
        Ok(device.is_some_and(|it| it.ifindex == port.ifindex))
    }
}

/// What uplinks are like as NICs, each with those that it is made of.
async fn nics(uplinks: &BTreeMap<u32, String>, devices: &[Device]) -> BTreeMap<u32, Vec<Nic>> {
    let named = uplinks.iter().map(|(ifindex, name)| {
        let below = devices.iter().filter(|it| it.master == *ifindex);
        let below: Vec<String> = below.map(|it| it.name.clone()).collect();
        (*ifindex, name.clone(), below)
    });
    let named: Vec<_> = named.collect();
    beside(move || {
        let all = named.into_iter().map(|(ifindex, name, below)| {
            let nic = Nic::of(&name);
            let below = match nic.is_made_of_others() {
                true => below,
                false => Vec::new(),
            };
            let below = below.iter().map(|it| Nic::of(it));
            (ifindex, [nic].into_iter().chain(below).collect())
        });
        all.collect()
    })
    .await
}

/// Packets of the uplink so far that the XDP program had no socket for.
fn closed_at_uplink(redirect: &Redirect) -> u64 {
    let counters = redirect.counters().unwrap_or_default();
    let closed = counters.iter().find(|(name, _)| *name == "uplink-closed");
    closed.map_or(0, |(_, count)| *count)
}

/// What a call returns that waits inside the kernel, made on a thread that nothing else waits for.
pub(super) async fn beside<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(call).await {
        Ok(returned) => returned,
        Err(ended) => std::panic::resume_unwind(ended.into_panic()),
    }
}
