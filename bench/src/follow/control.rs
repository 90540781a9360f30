//! Control without a kernel: the agent's own way from an API server to the published snapshot, its steps carried out in memory.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, ensure};
use podway::agent::{Settle, batches};
use podway::aim::{Due, Event, Facts, InForce, Step, Tables, desired, steps};
use podway_control::{Batch, Kind, Kubernetes, KubernetesSettings, Standing};
use podway_intent::{Change, Compiler};
use podway_state::Publication;
use podway_tables::{Client, Found, FrontendKind, ServiceKey, Snapshot};
use podway_wire::Protocol;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::world::{self, HERE};
use crate::cluster::{PEER, PEER_MAC, REMOTE_SERVICE, SERVICE_PORT, after, setup};
use crate::process::now_ns;

/// Objects that are told of as progress.
const TOLD: usize = 20_000;

/// What the agent's control has, but for the node's kernel and the workers.
pub(super) struct Control {
    batches: mpsc::Receiver<Batch>,
    facts: Facts,
    compiler: Compiler,
    tables: Arc<Tables>,
    in_force: InForce,
    publication: Publication<Snapshot>,
    stale: Settle,
    /// Holds the kubeconfig.
    _folder: TempDir,
}

/// A change that was published, by the machine's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Published {
    /// The version up to which EndpointSlices are in the tables.
    pub(super) version: u64,
    told_ns: u64,
    settled_ns: u64,
    published_ns: u64,
}

/// How long a change took, part after part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Took {
    pub(super) told_ns: u64,
    pub(super) settled_ns: u64,
    pub(super) tables_ns: u64,
}

impl Control {
    /// Begins to follow a server for a node that knows its neighbours.
    pub(super) async fn open(server: SocketAddr, services: u32) -> anyhow::Result<Control> {
        let folder = tempfile::tempdir().context("a folder for the kubeconfig")?;
        let path = folder.path().join("kubeconfig");
        fs::write(&path, podway_api_server::kubeconfig(server))?;
        let settings = KubernetesSettings {
            kubeconfig: Some(path),
            ..KubernetesSettings::default()
        };
        let batches = batches(Kubernetes::open(&settings).await?);
        let mut facts = Facts::new(HERE, 1, setup());
        let neighbours = (0..world::nodes(services)).map(|index| after(PEER, index).into());
        facts.take(Event::Source(Batch {
            changes: neighbours
                .map(|it| Change::Neighbour(it, PEER_MAC))
                .collect(),
            standing: Standing::Partial,
            ..Batch::default()
        }));
        let mut compiler = Compiler::new(HERE);
        let tables = Arc::new(Tables::of(&facts, &mut compiler));
        let (publication, _) = Publication::new(tables.compiled.snapshot.clone(), 0);
        Ok(Control {
            batches,
            facts,
            compiler,
            tables,
            in_force: InForce::default(),
            publication,
            stale: Settle::of_facts(),
            _folder: folder,
        })
    }

    /// Takes facts until there is a whole cluster.
    pub(super) async fn listed(&mut self) {
        let mut taken = 0;
        while let Some(batch) = self.batches.recv().await {
            let before = taken;
            taken += batch.changes.len();
            if taken / TOLD > before / TOLD {
                eprintln!("cluster: {taken} objects");
            }
            if self.take(batch) == Standing::Whole {
                return;
            }
        }
    }

    /// Compiles the facts and hands the tables to workers; when they had them.
    pub(super) fn publish(&mut self) -> u64 {
        self.tables = Arc::new(Tables::of(&self.facts, &mut self.compiler));
        let mut published_ns = now_ns();
        for step in steps(&self.in_force, &desired(&self.facts, &self.tables)) {
            match &step {
                Step::Start(tables) | Step::Publish(tables) => {
                    self.publication.publish(tables.compiled.snapshot.clone());
                    published_ns = now_ns();
                }
                Step::Await(_) => {
                    self.publication.collect();
                }
                // There is no kernel that it could be told to.
                Step::Narrow(_)
                | Step::Widen(_)
                | Step::Listen(_)
                | Step::Close(..)
                | Step::Prepare(..)
                | Step::Open(..)
                | Step::Raise(..)
                | Step::Look(_) => {}
            }
            self.in_force.carried(&step);
        }
        self.stale.clear();
        published_ns
    }

    /// Waits for changes, settles and publishes, as the agent's loop does.
    pub(super) async fn next(&mut self) -> Published {
        let (mut told_ns, mut version) = (None, None);
        loop {
            tokio::select! {
                Some(batch) = self.batches.recv() => {
                    version = batch.versions.get(Kind::EndpointSlice.name()).cloned().or(version);
                    let is_change = !batch.changes.is_empty();
                    self.take(batch);
                    if is_change {
                        told_ns.get_or_insert_with(now_ns);
                    }
                }
                () = self.stale.settled() => {
                    let settled_ns = now_ns();
                    return Published {
                        version: version.and_then(|text| text.parse().ok()).unwrap_or_default(),
                        told_ns: told_ns.unwrap_or(settled_ns),
                        settled_ns,
                        published_ns: self.publish(),
                    };
                }
            }
        }
    }

    /// An error unless the tables have so many services with so many endpoints each, and nothing is wrong.
    pub(super) fn check(&self, services: u32, endpoints: u32) -> anyhow::Result<()> {
        let problems = &self.tables.compiled.problems;
        ensure!(
            problems.is_empty(),
            "the cluster contradicts itself: {problems:?}"
        );
        let count = self.tables.compiled.snapshot.services.iter().count();
        ensure!(count == services as usize, "{count} services were compiled");
        for service in 0..services {
            let left = self.endpoints(service)?;
            ensure!(
                left == endpoints as usize,
                "service {service} has {left} endpoints, not {endpoints}"
            );
        }
        Ok(())
    }

    /// How many endpoints a service has in the tables.
    pub(super) fn endpoints(&self, service: u32) -> anyhow::Result<usize> {
        let services = &self.tables.compiled.snapshot.services;
        let key = ServiceKey {
            addr: after(REMOTE_SERVICE, service).into(),
            port: SERVICE_PORT,
            protocol: Protocol::TCP,
        };
        let found = match services.find(&key) {
            Found::Frontend(frontend) => services.service(frontend.service),
            Found::WrongPort | Found::Unallocated | Found::Nothing => None,
        };
        let found = found.with_context(|| format!("service {service} is not in the tables"))?;
        let candidates = found.candidates(FrontendKind::ClusterIp, Client::Inside);
        Ok(candidates.all().len())
    }

    fn take(&mut self, batch: Batch) -> Standing {
        for problem in &batch.problems {
            eprintln!("cluster: {problem}");
        }
        let standing = batch.standing;
        match self.facts.take(Event::Source(batch)) {
            Due::Nothing => {}
            Due::Soon | Due::Now => self.stale.mark(),
        }
        standing
    }
}

impl Published {
    /// How long it took since it was written.
    pub(super) fn since(&self, written_ns: u64) -> Took {
        Took {
            told_ns: self.told_ns.saturating_sub(written_ns),
            settled_ns: self.settled_ns - self.told_ns,
            tables_ns: self.published_ns - self.settled_ns,
        }
    }
}

impl Took {
    pub(super) fn all_ns(&self) -> u64 {
        self.told_ns + self.settled_ns + self.tables_ns
    }
}
