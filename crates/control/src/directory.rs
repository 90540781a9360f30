//! A watched directory of manifests.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use podway_intent::{Change, Key};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::convert::{Before, Converted, Trust};
use crate::{Batch, Kind, Manifests, Problem, Problems};

/// How long a directory must be quiet before it is read: longer than an editor's or kubectl's burst of writes.
const QUIET: Duration = Duration::from_millis(50);
/// How long a directory that is never quiet stays unread.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often it is looked whether the directory is still the one that is watched.
const LOOK: Duration = Duration::from_secs(1);

/// A directory (or file) of manifests, and the cluster as it last described it without faults.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    watcher: RecommendedWatcher,
    wakeups: mpsc::Receiver<()>,
    watched: Option<Identity>,
    is_dirty: bool,
    manifests: Manifests,
    facts: BTreeMap<Key, Change>,
    /// Those facts that close what they may be about, and were never known better.
    closed: BTreeSet<Key>,
    problems: Vec<Problem>,
}

/// Device and inode of a directory.
type Identity = (u64, u64);

impl Directory {
    /// Reads the directory and begins to watch it; the changes lead from nothing to what it says.
    ///
    /// The error is everything that is wrong with it: there is no last good state to fall back to yet.
    pub fn open(path: &Path) -> Result<(Directory, Vec<Change>), Problems> {
        let (wake, wakeups) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let is_read = event.is_ok_and(|event| {
                let closed = notify::event::AccessKind::Close(notify::event::AccessMode::Write);
                matches!(event.kind, EventKind::Access(kind) if kind != closed)
            });
            if !is_read {
                // Full means that a wakeup is waiting already.
                let _ = wake.try_send(());
            }
        })
        .map_err(|error| unwatchable(path, &error))?;
        let mut directory = Directory {
            path: path.to_owned(),
            watcher,
            wakeups,
            watched: None,
            is_dirty: false,
            manifests: Manifests::default(),
            facts: BTreeMap::new(),
            closed: BTreeSet::new(),
            problems: Vec::new(),
        };
        // Watched before it is read, so that no change falls between.
        let watching = directory.watch();
        let batch = directory.adopt(read(path)?);
        watching.map_err(|error| unwatchable(path, &error))?;
        directory.report(&batch.problems);
        Ok((directory, batch.changes))
    }

    /// Waits until the directory says something else, or something else is wrong with it.
    ///
    /// A call that is dropped loses nothing: the next one sees the same change.
    pub async fn next(&mut self) -> Batch {
        loop {
            self.dirty().await;
            self.quiet().await;
            let watching = self.watch();
            let path = self.path.clone();
            let outcome = tokio::task::spawn_blocking(move || read(&path)).await;
            // `read` doesn't panic, and a runtime that is being shut down polls nobody again.
            let outcome =
                outcome.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
            self.is_dirty = false;
            let batch = match outcome {
                Ok(state) => self.adopt(state),
                Err(Problems(problems)) => Batch {
                    problems,
                    ..Batch::default()
                },
            };
            if let (Err(error), true) = (watching, batch.problems.is_empty()) {
                tracing::debug!(path = %self.path.display(), %error, "not watched, looked at instead");
            }
            if self.report(&batch.problems) || !batch.changes.is_empty() {
                return batch;
            }
        }
    }

    /// What is wrong with the directory now; empty if its last state is in force.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The cluster as the directory last described it without faults.
    pub fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    async fn dirty(&mut self) {
        while !self.is_dirty {
            let woken = timeout(LOOK, self.wakeups.recv()).await.is_ok();
            self.is_dirty = woken || self.watched.is_none() || self.watched != identity(&self.path);
            if self.is_dirty
                && !woken
                && identity(&self.path).is_none()
                && !self.problems.is_empty()
            {
                // Still not there, and that is known.
                self.is_dirty = false;
            }
        }
    }

    async fn quiet(&mut self) {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            match timeout(QUIET, self.wakeups.recv()).await {
                Ok(Some(())) => sleep(QUIET / 5).await,
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Watches what is at the path now.
    fn watch(&mut self) -> notify::Result<()> {
        let target = watched_directory(&self.path);
        // Fails if it was not watched or is gone; either is fine.
        let _ = self.watcher.unwatch(target);
        self.watched = None;
        self.watcher.watch(target, RecursiveMode::NonRecursive)?;
        self.watched = identity(&self.path);
        Ok(())
    }

    fn adopt(&mut self, (manifests, facts): Described) -> Batch {
        let mut now = BTreeMap::new();
        let mut closed = BTreeSet::new();
        let mut problems = Vec::new();
        let mut kinds_with_problems = Vec::new();
        for Converted {
            reading,
            problems: found,
        } in facts
        {
            let key = reading.value.key();
            let good = self.facts.get(&key).filter(|_| !self.closed.contains(&key));
            let before = Before::of(good.is_some());
            let change = match (reading.trust, good) {
                (Trust::Closed, Some(good)) => good.clone(),
                (Trust::Closed, None) => {
                    closed.insert(key.clone());
                    reading.value
                }
                (Trust::Understood, _) => reading.value,
            };
            if !found.is_empty() {
                kinds_with_problems.extend(Kind::of(&key).map(Kind::name));
            }
            now.insert(key, change);
            problems.extend(
                found
                    .into_iter()
                    .map(|it| it.with(reading.trust.consequence(before))),
            );
        }
        let changes = difference(&self.facts, &now);
        let mut not_as_written = BTreeMap::new();
        for kind in kinds_with_problems {
            *not_as_written.entry(kind).or_default() += 1;
        }
        (self.manifests, self.facts, self.closed) = (manifests, now, closed);
        Batch {
            changes,
            problems,
            not_as_written,
            ..Batch::default()
        }
    }

    /// Logs problems that were not there before; true if anything about them is new.
    fn report(&mut self, problems: &[Problem]) -> bool {
        if self.problems == problems {
            return false;
        }
        for problem in problems
            .iter()
            .filter(|problem| !self.problems.contains(problem))
        {
            tracing::warn!(%problem, "the manifests are not in order");
        }
        if problems.is_empty() {
            tracing::info!(path = %self.path.display(), "the manifests are mended");
        }
        self.problems = problems.to_vec();
        true
    }
}

/// Manifests, and what their objects mean.
type Described = (Manifests, Vec<Converted<Change>>);

fn read(path: &Path) -> Result<Described, Problems> {
    let manifests = Manifests::read(path)?;
    let facts = manifests.facts()?;
    Ok((manifests, facts))
}

/// The directory to watch: a file's, because editors replace files.
fn watched_directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if path.is_file() && parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) if path.is_file() => parent,
        Some(_) | None => path,
    }
}

fn identity(path: &Path) -> Option<Identity> {
    let metadata = std::fs::metadata(watched_directory(path)).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

fn unwatchable(path: &Path, error: &notify::Error) -> Problems {
    Problems(vec![Problem {
        file: path.to_string_lossy().into(),
        line: 0,
        object: String::new(),
        field: String::new(),
        message: format!("can't be watched ({error}): see sysctl fs.inotify"),
    }])
}

/// The changes that lead from one state to another: what is new or otherwise, then what is gone.
fn difference(from: &BTreeMap<Key, Change>, to: &BTreeMap<Key, Change>) -> Vec<Change> {
    let is_news = |(key, change): &(&Key, &Change)| from.get(key) != Some(change);
    let news = to.iter().filter(is_news).map(|(_, change)| change.clone());
    let gone = from.keys().filter(|key| !to.contains_key(key));
    news.chain(gone.cloned().map(Change::Gone)).collect()
}
