//! What is known of the objects of one kind, so that a list is a difference.

use std::collections::{BTreeMap, HashMap};

use podway_intent::{Change, Key};

use super::Kind;
use super::decode::{Decoded, NAMELESS, title};
use crate::Problem;

/// Problems of one kind that are told at most.
const TOLD: usize = 50;

/// The objects of a kind: which there are, and what is wrong with them.
#[derive(Debug)]
pub(super) struct Known {
    kind: Kind,
    entries: HashMap<Key, Entry>,
    /// What is wrong, by the object's title.
    problems: BTreeMap<String, Problem>,
    /// The list that is being read, or was last.
    list: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    version: u64,
    standing: Standing,
    /// The last list that had it.
    list: u32,
}

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// A version of it is in force.
    InForce,
    /// No version of it is: it is not ours, or was never right.
    LeftOut,
}

impl Known {
    pub(super) fn new(kind: Kind) -> Known {
        Known {
            kind,
            entries: HashMap::new(),
            problems: BTreeMap::new(),
            list: 0,
        }
    }

    /// True if no object is in force.
    pub(super) fn is_empty(&self) -> bool {
        let mut entries = self.entries.values();
        !entries.any(|entry| entry.standing == Standing::InForce)
    }

    /// True if this version of the object was taken before; that it was listed is noted.
    pub(super) fn has(&mut self, key: &Key, version: u64) -> bool {
        let list = self.list;
        let Some(entry) = self.entries.get_mut(key) else {
            return false;
        };
        entry.list = list;
        entry.version == version
    }

    /// Takes an object as it is now; a version that can't be used leaves the last good one in force.
    pub(super) fn take(&mut self, decoded: Decoded) -> Option<Change> {
        let Decoded { key, version, fact } = decoded;
        let before = self.entries.get(&key).map(|entry| entry.standing);
        let was_in_force = before == Some(Standing::InForce);
        let (standing, change) = match fact {
            Ok(Some(change)) => {
                self.mended(&key);
                (Standing::InForce, Some(change))
            }
            Ok(None) => {
                self.mended(&key);
                let gone = was_in_force.then(|| Change::Gone(key.clone()));
                (Standing::LeftOut, gone)
            }
            Err(problems) => {
                self.wrong(&key, problems.0, was_in_force);
                (before.unwrap_or(Standing::LeftOut), None)
            }
        };
        let list = self.list;
        let entry = Entry {
            version,
            standing,
            list,
        };
        self.entries.insert(key, entry);
        change
    }

    /// Notes an object that can't even be told apart from others.
    pub(super) fn nameless(&mut self, problem: Problem) {
        self.problems.insert(problem.object.clone(), problem);
    }

    /// The object is gone.
    pub(super) fn remove(&mut self, key: Key) -> Option<Change> {
        self.mended(&key);
        let entry = self.entries.remove(&key)?;
        (entry.standing == Standing::InForce).then_some(Change::Gone(key))
    }

    /// A list of all objects begins.
    pub(super) fn begin_list(&mut self) {
        self.list = self.list.wrapping_add(1);
        let has_name = |problem: &Problem| !problem.object.ends_with(NAMELESS);
        self.problems.retain(|_, problem| has_name(problem));
    }

    /// The list is complete: what it didn't have is gone.
    pub(super) fn end_list(&mut self) -> Vec<Change> {
        let list = self.list;
        let entries = self.entries.iter();
        let gone: Vec<Key> = entries
            .filter(|(_, entry)| entry.list != list)
            .map(|(key, _)| key.clone())
            .collect();
        let gone = gone.into_iter();
        gone.filter_map(|key| self.remove(key)).collect()
    }

    /// What is wrong with objects, the first of it.
    pub(super) fn problems(&self) -> Vec<Problem> {
        self.problems.values().take(TOLD).cloned().collect()
    }

    fn mended(&mut self, key: &Key) {
        if !self.problems.is_empty() {
            self.problems.remove(&title(self.kind, key));
        }
    }

    fn wrong(&mut self, key: &Key, problems: Vec<Problem>, was_in_force: bool) {
        let Some(mut first) = problems.into_iter().next() else {
            return;
        };
        first.message += match was_in_force {
            true => ": its last good version stays in force",
            false => ": it is left out",
        };
        self.problems.insert(title(self.kind, key), first);
    }
}
