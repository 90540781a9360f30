//! The objects of a cluster as its API server has them, listed and watched.
//!
//! Each kind is followed by itself; what was known of it stays so until the server says otherwise, however long it
//! can't be reached. Nothing is complete before every kind was listed once.

mod announce;
mod backoff;
mod connect;
mod decode;
mod follow;
mod intern;
mod kept;
mod kind;
mod known;
mod recall;
mod talk;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub use self::announce::{AnnounceError, Announcer};
pub use self::connect::ConnectError;
use self::follow::{Follow, Step};
pub use self::kind::Kind;
use self::recall::Recall;
use self::talk::Talk;
use crate::{Batch, Problem, Standing};

/// Steps of all kinds that wait at most.
const STEPS: usize = 64;
/// Changes that are handed over at once, about.
const CHANGES: usize = 4096;

/// Where the API server is, and how it is asked.
#[derive(Clone, Debug, Default)]
pub struct KubernetesSettings {
    /// A kubeconfig; without one, what a pod is told about its cluster.
    pub kubeconfig: Option<PathBuf>,
    /// How patiently and how often.
    pub pace: Pace,
    /// The file that keeps what is known, for when the server is away at the next start; without it, nothing is kept.
    pub kept: Option<PathBuf>,
}

/// How often and how patiently an API server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Objects of a list's page.
    pub page: u32,
    /// The first delay after a failure at most; it doubles from then on.
    pub first_delay: Duration,
    /// The longest delay.
    pub longest_delay: Duration,
    /// How long an answer or a page may take.
    pub patience: Duration,
    /// How long a watch is asked for at least; twice that at most.
    pub watch: Duration,
    /// After how much silence a watch is begun anew; bookmarks come each minute.
    pub silence: Duration,
    /// How often it is looked whether a kind that was absent is there.
    pub absent: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            page: 500,
            first_delay: Duration::from_millis(200),
            longest_delay: Duration::from_secs(30),
            patience: Duration::from_secs(60),
            watch: Duration::from_secs(300),
            silence: Duration::from_secs(150),
            absent: Duration::from_secs(10),
        }
    }
}

/// A cluster's API server, followed.
pub struct Kubernetes {
    client: kube::Client,
    steps: mpsc::Receiver<Step>,
    /// The resource versions up to which kinds are known.
    versions: BTreeMap<Kind, String>,
    problems: BTreeMap<Kind, Vec<Problem>>,
    recall: Recall,
    /// Ends with this value.
    _tasks: JoinSet<()>,
}

impl Kubernetes {
    /// Begins to list and watch; an API server that is not there yet is waited for.
    ///
    /// The error is about the kubeconfig or the pod's credentials. Needs a tokio runtime.
    pub async fn open(settings: &KubernetesSettings) -> Result<Kubernetes, ConnectError> {
        let (client, server) = connect::client(settings.kubeconfig.as_deref()).await?;
        let (sender, steps) = mpsc::channel(STEPS);
        let follows = Kind::ALL.map(|kind| {
            let talk = Talk {
                kind,
                client: client.clone(),
                patience: settings.pace.patience,
            };
            let seed = RandomState::new().hash_one(kind);
            Follow::new(talk, settings.pace, seed, sender.clone())
        });
        let (follows, recall) = match &settings.kept {
            Some(path) => recall::from_file(path, &server, follows),
            None => (follows, Recall::nothing()),
        };
        let mut tasks = JoinSet::new();
        for follow in follows {
            tasks.spawn(follow.run());
        }
        Ok(Kubernetes {
            client,
            steps,
            versions: BTreeMap::new(),
            problems: BTreeMap::new(),
            recall,
            _tasks: tasks,
        })
    }

    /// Says to the same API server that a node is ready.
    pub fn announcer(&self) -> Announcer {
        Announcer {
            client: self.client.clone(),
        }
    }

    /// Waits until something changes, or something else is wrong.
    ///
    /// A call that is dropped loses nothing.
    pub async fn next(&mut self) -> Batch {
        let mut batch = Batch::default();
        tokio::select! {
            step = self.steps.recv() => match step {
                Some(step) => self.take(step, &mut batch),
                // The tasks end only with this value.
                None => std::future::pending().await,
            },
            () = self.recall.overdue() => self.recall.count(),
        }
        while batch.changes.len() < CHANGES
            && let Ok(step) = self.steps.try_recv()
        {
            self.take(step, &mut batch);
        }
        let problems = self.problems.values().flatten();
        batch.problems = self
            .recall
            .problems()
            .iter()
            .chain(problems)
            .cloned()
            .collect();
        let versions = self.versions.iter();
        batch.versions = versions
            .map(|(kind, version)| (kind.name(), version.clone()))
            .collect();
        batch.facts = self.recall.facts();
        batch.standing = match self.versions.len() == Kind::ALL.len() && self.recall.counts() {
            true => Standing::Whole,
            false => Standing::Partial,
        };
        batch
    }

    fn take(&mut self, step: Step, batch: &mut Batch) {
        batch.changes.extend(step.changes);
        batch.received.extend(step.received);
        if let Some(version) = step.version {
            self.versions.insert(step.kind, version);
        }
        self.problems.insert(step.kind, step.problems);
        self.recall.heard(step.kind, step.teller);
    }
}
