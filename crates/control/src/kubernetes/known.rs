//! What is known of the objects of one kind, so that a list is a difference.

use std::collections::{BTreeMap, HashMap};

use podway_intent::{Change, Key};

use super::Kind;
use super::decode::{Decoded, NAMELESS, title};
use crate::Problem;
use crate::convert::{Before, Converted, Trust};

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
    /// What closes all that it may be about is: no version of it was ever understood (N19).
    Closed,
    /// No version of it is: it is not ours, or was never readable.
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
        !entries.any(|entry| entry.standing != Standing::LeftOut)
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
        let before = before.unwrap_or(Standing::LeftOut);
        let (standing, change) = match fact {
            Ok(Some(converted)) => {
                let Converted { reading, problems } = converted;
                let good = Before::of(before == Standing::InForce);
                self.told(&key, problems, reading.trust.consequence(good));
                match (reading.trust, good) {
                    (Trust::Understood, _) => (Standing::InForce, Some(reading.value)),
                    (Trust::Closed, Before::Never) => (Standing::Closed, Some(reading.value)),
                    (Trust::Closed, Before::Understood) => (Standing::InForce, None),
                }
            }
            Ok(None) => {
                self.told(&key, Vec::new(), "");
                let gone = before != Standing::LeftOut;
                (Standing::LeftOut, gone.then(|| Change::Gone(key.clone())))
            }
            Err(problems) => {
                let consequence = match before {
                    Standing::InForce | Standing::Closed => "its last good version stays in force",
                    Standing::LeftOut => "it is left out",
                };
                self.told(&key, problems.0, consequence);
                (before, None)
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
        self.told(&key, Vec::new(), "");
        let entry = self.entries.remove(&key)?;
        (entry.standing != Standing::LeftOut).then_some(Change::Gone(key))
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

    /// What is wrong with an object, the first of it.
    pub(super) fn problem(&self, key: &Key) -> Option<&Problem> {
        match self.problems.is_empty() {
            true => None,
            false => self.problems.get(&title(self.kind, key)),
        }
    }

    /// How many objects are not as they are written.
    pub(super) fn problem_count(&self) -> usize {
        self.problems.len()
    }

    /// What is wrong with objects, the first of it.
    pub(super) fn problems(&self) -> Vec<Problem> {
        self.problems.values().take(TOLD).cloned().collect()
    }

    /// Notes what is wrong with an object now, the first of it, and what happens for it.
    fn told(&mut self, key: &Key, problems: Vec<Problem>, consequence: &str) {
        match problems.into_iter().next() {
            Some(first) => {
                let title = title(self.kind, key);
                self.problems.insert(title, first.with(consequence));
            }
            None if self.problems.is_empty() => {}
            None => drop(self.problems.remove(&title(self.kind, key))),
        }
    }
}
