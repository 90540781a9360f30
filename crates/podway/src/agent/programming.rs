//! What of the source is in force, and how long it took to be.

use std::collections::BTreeMap;

use podway_control::{Batch, Facts};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::latency::Latency;

/// Events whose times are remembered until they are in force, at most.
const WAITING: usize = 1 << 20;

/// How far the source's facts have come.
#[derive(Debug)]
pub(super) struct Programming {
    facts: Facts,
    /// Resource versions that were taken in, and those that workers have.
    taken: BTreeMap<&'static str, String>,
    in_force: BTreeMap<&'static str, String>,
    not_as_written: BTreeMap<&'static str, usize>,
    /// When events came that workers don't have yet.
    waiting: Vec<Instant>,
    latency: Latency,
}

impl Programming {
    pub(super) fn new() -> Programming {
        Programming {
            facts: Facts::Told,
            taken: BTreeMap::new(),
            in_force: BTreeMap::new(),
            not_as_written: BTreeMap::new(),
            waiting: Vec::new(),
            latency: Latency::new(),
        }
    }

    /// Where the facts are from.
    pub(super) fn facts(&self) -> Facts {
        self.facts
    }

    /// A batch is taken into the facts.
    pub(super) fn take(&mut self, batch: &Batch) {
        let is_behind = !self.waiting.is_empty() || self.taken != self.in_force;
        self.facts = batch.facts;
        self.taken.clone_from(&batch.versions);
        self.not_as_written.clone_from(&batch.not_as_written);
        let room = WAITING - self.waiting.len();
        self.waiting.extend(batch.received.iter().take(room));
        if batch.changes.is_empty() && !is_behind {
            // What says nothing new is in force at once.
            self.in_force.clone_from(&batch.versions);
        }
    }

    /// Workers have all that was taken.
    pub(super) fn reached(&mut self) {
        let now = Instant::now();
        for received in self.waiting.drain(..) {
            self.latency.record(now - received);
        }
        self.in_force.clone_from(&self.taken);
    }

    /// How many objects of each kind are not as they are written.
    pub(super) fn not_as_written(&self) -> Value {
        json!(self.not_as_written)
    }

    /// Resource versions in force, by kind.
    pub(super) fn versions(&self) -> Value {
        json!(self.in_force)
    }

    /// How long events took from the source to all workers.
    pub(super) fn latency(&self) -> Value {
        self.latency.value()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use podway_intent::{Change, Key};

    use super::*;

    fn batch(version: &str, changes: usize) -> Batch {
        Batch {
            changes: vec![Change::Gone(Key::Node("n1".into())); changes],
            received: vec![Instant::now(); changes],
            versions: [("Node", version.to_owned())].into(),
            ..Batch::default()
        }
    }

    #[test]
    fn a_version_is_in_force_once_workers_have_what_led_to_it() {
        let mut programming = Programming::new();
        programming.take(&batch("7", 2));
        assert_eq!(programming.versions(), json!({}));
        programming.take(&batch("8", 0));
        assert_eq!(programming.versions(), json!({}), "7 is still on its way");
        programming.reached();
        assert_eq!(programming.versions(), json!({"Node": "8"}));
        programming.take(&batch("9", 0));
        assert_eq!(programming.versions(), json!({"Node": "9"}));
        assert_eq!(programming.latency()["count"], 2);
    }

    #[test]
    fn events_take_as_long_as_they_waited() {
        let mut programming = Programming::new();
        let mut one = batch("1", 1);
        one.received = vec![Instant::now() - Duration::from_secs(3)];
        programming.take(&one);
        programming.reached();
        let longest = programming.latency()["longest_us"].as_u64();
        assert!(longest >= Some(3_000_000), "{longest:?}");
    }
}
