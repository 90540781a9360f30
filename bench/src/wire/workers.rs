//! podway's workers beside a measurement.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::anyhow;
use podway_intent::{Cluster, Compiler};

use super::bed::Bed;
use super::churn::churn;
use super::count::{CoreShare, settle};
use super::dataplane::{Behind, Counted, Dataplane, Device, counted};
use super::{SOURCE_CORE, forwarder_core};

/// How long a forwarder may take to be ready.
const PATIENCE: Duration = Duration::from_secs(20);

/// What happens in the rest of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Elsewhere {
    Quiet,
    /// See [`churn`].
    Changing,
}

/// Who works, and where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workers {
    pub(crate) behind: Behind,
    pub(crate) count: usize,
    /// Flows that they have room for.
    pub(crate) room: usize,
    pub(crate) devices: [Device; 2],
    pub(crate) elsewhere: Elsewhere,
}

/// What was measured, and what the workers did meanwhile.
#[derive(Clone, Debug)]
pub(crate) struct Beside<T> {
    pub(crate) measured: T,
    pub(crate) counted: Counted,
    /// See [`CoreShare`]: the least of the workers'.
    pub(crate) core_share: f64,
}

/// Measures while workers of podway's forward on the bed's node.
pub(crate) fn beside<T>(
    bed: &Bed,
    workers: Workers,
    mut cluster: Cluster,
    measured: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<Beside<T>> {
    let mut compiler = Compiler::new("here");
    let compiled = compiler.compile(&cluster);
    let Workers {
        behind,
        count,
        room,
        devices,
        elsewhere,
    } = workers;
    let new = || Dataplane::new(behind, count, room, &compiled, devices);
    let Dataplane {
        mut publication,
        workers,
        counters,
        redirect: _attached,
    } = bed.node.inside(new)??;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (ready, is_ready) = channel();
        let stop = &stop;
        let threads: Vec<_> = workers
            .into_iter()
            .enumerate()
            .map(|(index, worker)| {
                let ready = ready.clone();
                scope.spawn(move || {
                    settle(&bed.node, forwarder_core(index))?;
                    let share = CoreShare::start();
                    let ports = worker.forward(stop, &ready)?;
                    Ok::<_, anyhow::Error>((ports, share.end()))
                })
            })
            .collect();
        drop(ready);
        let mut all = threads.iter();
        let waited = all.try_for_each(|_| is_ready.recv_timeout(PATIENCE));
        let changing = (elsewhere == Elsewhere::Changing).then(|| {
            scope.spawn(|| {
                settle(&bed.node, SOURCE_CORE)?;
                Ok::<_, anyhow::Error>(churn(&mut cluster, &mut compiler, &mut publication, stop))
            })
        });
        let measured = match waited {
            Ok(()) => measured(),
            Err(RecvTimeoutError::Timeout) => {
                Err(anyhow!("the workers are not ready after {PATIENCE:?}"))
            }
            // Its own error says more.
            Err(RecvTimeoutError::Disconnected) => Err(anyhow!("a worker ended")),
        };
        stop.store(true, Ordering::Relaxed);
        let churned = changing.map(|it| it.join().expect("control does not panic"));
        let (mut ports, mut core_share) = (Vec::new(), 1.0_f64);
        for thread in threads {
            let (own, share) = thread.join().expect("a worker does not panic")?;
            ports.extend(own);
            core_share = core_share.min(share);
        }
        let measured = measured?;
        let mut counted = counted(&ports, &counters);
        if let Some(churned) = churned.transpose()? {
            counted.extend([
                ("endpoints-a-second".to_owned(), churned.endpoints_a_second),
                ("snapshots-a-second".to_owned(), churned.snapshots_a_second),
            ]);
        }
        Ok(Beside {
            measured,
            counted,
            core_share,
        })
    })
}
