//! What a pod's port costs a worker.

use std::fs;
use std::time::Duration;

use anyhow::{Context, ensure};
use podway_tables::{PortId, PortKind};
use podway_xsk::{Bind, Redirect, RedirectSettings, WorkerEdge, WorkerSettings};

use crate::cluster::{Isolation, SMALL, compiled, plan};
use crate::wire::{Bed, Turn, ip};

const PODS: u16 = 48;
/// One for each worker, on both ends.
const QUEUES: &str = "numtxqueues 1 numrxqueues 1";
const FRAMES: u32 = 8_192;
const PATIENCE: Duration = Duration::from_secs(2);

/// What the machine has less for each of many ports, in MiB; the worker's own memory is there before.
pub(super) fn mib(turn: &Turn) -> anyhow::Result<f64> {
    let bed = Bed::make(turn, 1)?;
    let pairs: String = (0..PODS)
        .map(|pod| format!("link add pod{pod} {QUEUES} type veth peer name peer{pod} {QUEUES}\nlink set pod{pod} up\nlink set peer{pod} up\n"))
        .collect();
    ip("node", &pairs)?;
    bed.node.inside(|| {
        let redirect = Redirect::load(RedirectSettings {
            queues: 1,
            ports: PODS + 8,
        })?;
        redirect.reconcile(&plan(&compiled(SMALL, Isolation::Open)))?;
        let mut edge = WorkerEdge::new(WorkerSettings {
            queue: 0,
            frames: FRAMES,
            sockets: redirect.sockets(),
        })?;
        let mut add = |pod: u16| {
            let (device, port) = (format!("pod{pod}"), PortId(2 + pod));
            redirect.attach(&device, PortKind::Pod(None), port)?;
            edge.add_port(port, &device, Bind::Copy, PATIENCE)?;
            Ok::<_, anyhow::Error>(())
        };
        add(0)?;
        let before = available_kib()?;
        (1..PODS).try_for_each(&mut add)?;
        let taken = before - available_kib()?;
        ensure!(
            taken > 0.0,
            "the machine has more memory with more ports: others are at work"
        );
        Ok(taken / 1_024.0 / f64::from(PODS - 1))
    })?
}

fn available_kib() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(number
        .context("no MemAvailable in /proc/meminfo")?
        .trim()
        .parse()?)
}
