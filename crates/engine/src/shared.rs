//! What the engines of a node's workers share, and what each has of it for itself.

use std::sync::Arc;

use podway_state::{Counters, FlowTable, Fragments, Row, Share};

use crate::Hits;
use crate::hits::OwnHits;
use crate::path_mtu::Paths;

/// Datagrams in fragments that are known at a time.
const DATAGRAMS: usize = 1_024;

/// What the engines of all workers share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Remembered decisions.
    pub flows: Arc<FlowTable>,
    /// Datagrams whose fragments are on their way.
    pub fragments: Arc<Fragments>,
    /// Paths on which less fits than on our own wire.
    pub paths: Arc<Paths>,
    /// A row of [`crate::COUNTERS`] for each worker.
    pub counters: Arc<Counters>,
    /// What policies did.
    pub hits: Arc<Hits>,
}

impl Shared {
    /// State for one worker and a packet or two, as `explain` needs it: quickly made.
    pub fn brief() -> Shared {
        Shared {
            flows: Arc::new(FlowTable::new(64, 1, 0)),
            fragments: Arc::new(Fragments::new(1)),
            paths: Arc::new(Paths::brief()),
            counters: Arc::new(Counters::new(1, crate::COUNTERS)),
            hits: Arc::new(Hits::brief()),
        }
    }

    /// State for this many flows and workers; `seed` should be random, so that nobody can aim at one bucket.
    pub fn new(flows: usize, workers: usize, seed: u64) -> Shared {
        Shared::with(FlowTable::new(flows, workers, seed), workers)
    }

    /// State for this many workers around a flow table that is there.
    pub fn with(flows: FlowTable, workers: usize) -> Shared {
        Shared {
            flows: Arc::new(flows),
            fragments: Arc::new(Fragments::new(DATAGRAMS)),
            paths: Arc::default(),
            counters: Arc::new(Counters::new(workers, crate::COUNTERS)),
            hits: Arc::new(Hits::new(workers)),
        }
    }

    /// A worker's part, which nobody else can have before its engine is dropped.
    ///
    /// # Panics
    /// If there is no such worker, or if its part is another's.
    pub fn part(&self, worker: usize) -> Part {
        Part {
            flows: self.flows.share(worker),
            fragments: self.fragments.clone(),
            paths: self.paths.clone(),
            counters: self.counters.row(worker),
            hits: self.hits.own(worker),
        }
    }
}

/// What one worker's engine has of what all share: its own part of the flow table, of counters and of hits.
#[derive(Debug)]
pub struct Part {
    pub(crate) flows: Share,
    pub(crate) fragments: Arc<Fragments>,
    pub(crate) paths: Arc<Paths>,
    pub(crate) counters: Row,
    pub(crate) hits: OwnHits,
}
