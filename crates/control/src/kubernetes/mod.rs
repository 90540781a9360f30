//! The objects of a cluster as its API server has them, listed and watched.
//!
//! Each kind is followed by itself; what was known of it stays so until the server says otherwise, however long it
//! can't be reached. Nothing is complete before every kind was listed once.

mod announce;
mod backoff;
mod complain;
mod connect;
mod decode;
#[cfg(test)]
mod filled;
mod follow;
mod foreign;
mod intern;
mod kept;
mod kind;
mod known;
mod recall;
mod recovery;
mod talk;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

pub use self::announce::{AnnounceError, Announcer};
use self::complain::Complaints;
pub use self::connect::ConnectError;
use self::follow::{Ends, Follow, Step};
pub use self::kind::Kind;
use self::recall::Recall;
use self::recovery::Recovery;
use self::talk::Talk;
use crate::{Batch, Problem, Standing, Unenforced};

/// Steps of all kinds that wait at most.
const STEPS: usize = 64;
/// How much more rarely it is looked which policies others are to enforce than whether a kind that was absent is there.
const LOOKS: u32 = 60;
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
    not_as_written: BTreeMap<Kind, usize>,
    /// What keeps the server's word of a kind from us.
    troubles: BTreeMap<Kind, String>,
    /// Policies that others are to enforce (N20).
    unenforced: watch::Receiver<Vec<Unenforced>>,
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
        let recovery = Recovery::new();
        let (complaints, to_tell) = Complaints::new();
        let follows = Kind::ALL.map(|kind| {
            let talk = Talk {
                kind,
                client: client.clone(),
                patience: settings.pace.patience,
            };
            let seed = RandomState::new().hash_one(kind);
            let ends = Ends {
                steps: sender.clone(),
                recovery: recovery.clone(),
                complaints: complaints.clone(),
            };
            Follow::new(talk, settings.pace, seed, ends)
        });
        let (follows, recall) = match &settings.kept {
            Some(path) => recall::from_file(path, &server, follows),
            None => (follows, Recall::nothing()),
        };
        let mut tasks = JoinSet::new();
        for follow in follows {
            tasks.spawn(follow.run());
        }
        let announcer = Announcer {
            client: client.clone(),
        };
        tasks.spawn(complain::tell(announcer.clone(), to_tell));
        let (found, unenforced) = watch::channel(Vec::new());
        let every = settings.pace.absent * LOOKS;
        let seed = RandomState::new().hash_one("unenforced");
        tasks.spawn(foreign::look(announcer, every, seed, found));
        Ok(Kubernetes {
            client,
            steps,
            versions: BTreeMap::new(),
            problems: BTreeMap::new(),
            not_as_written: BTreeMap::new(),
            troubles: BTreeMap::new(),
            unenforced,
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
            Ok(()) = self.unenforced.changed() => {}
        }
        while batch.changes.len() < CHANGES
            && let Ok(step) = self.steps.try_recv()
        {
            self.take(step, &mut batch);
        }
        let problems = self.problems.values().flatten();
        let known = self.recall.problems().iter().chain(problems).cloned();
        let unenforced = self
            .unenforced
            .borrow()
            .iter()
            .map(nobodys)
            .collect::<Vec<_>>();
        let known = known.chain(told(&self.troubles)).chain(unenforced);
        batch.problems = known.collect();
        let versions = self.versions.iter();
        batch.versions = versions
            .map(|(kind, version)| (kind.name(), version.clone()))
            .collect();
        let counts = self.not_as_written.iter();
        batch.not_as_written = counts.map(|(kind, count)| (kind.name(), *count)).collect();
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
        self.not_as_written.insert(step.kind, step.not_as_written);
        let was_away = !self.troubles.is_empty();
        match step.trouble {
            Some(trouble) => drop(self.troubles.insert(step.kind, trouble)),
            None => drop(self.troubles.remove(&step.kind)),
        }
        if was_away && self.troubles.is_empty() {
            tracing::info!("the API server answers again, for all kinds");
        }
        self.recall.heard(step.kind, step.teller);
    }
}

/// Policies that nobody enforces, as a problem.
fn nobodys(unenforced: &Unenforced) -> Problem {
    Problem {
        file: "".into(),
        line: 0,
        object: String::new(),
        field: String::new(),
        message: unenforced.to_string(),
    }
}

/// Troubles as problems: one for all kinds that have the same, whatever its details.
fn told(troubles: &BTreeMap<Kind, String>) -> impl Iterator<Item = Problem> {
    let mut alike: BTreeMap<&str, (&str, Vec<Kind>)> = BTreeMap::new();
    for (kind, trouble) in troubles {
        let head = trouble.split(": ").next().unwrap_or_default();
        let (_, kinds) = alike.entry(head).or_insert((trouble, Vec::new()));
        kinds.push(*kind);
    }
    let of = |kinds: &[Kind]| match kinds {
        [kind] => format!(" of {}", kind.plural()),
        _ => String::new(),
    };
    alike.into_values().map(move |(trouble, kinds)| Problem {
        file: "".into(),
        line: 0,
        object: String::new(),
        field: String::new(),
        message: format!(
            "the API server {trouble}: what is known{} stays in force",
            of(&kinds)
        ),
    })
}
