//! Whose packets without ports are ours: answers to masqueraded flows of GRE, ESP and their like (R5).

use std::collections::BTreeSet;
use std::sync::Arc;

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use podway_engine::Portless;

use crate::entries::portless;
use crate::error::RedirectError;
use crate::redirect::remove;

/// Says which of them the XDP program hands up; a cheap clone for each worker.
///
/// There is room for 4 096; the longest unused makes room for a new one.
#[derive(Clone, Debug)]
pub struct Claims {
    pub(crate) map: Arc<MapHandle>,
}

impl Claims {
    /// True if no answers are taken.
    pub fn is_empty(&self) -> bool {
        self.map.keys().next().is_none()
    }

    /// Takes the answers to these flows.
    pub fn add(&self, flows: &[Portless]) -> Result<(), RedirectError> {
        let mut keys = flows.iter().map(portless);
        keys.try_for_each(|key| self.map.update(&key, &[1], MapFlags::ANY))
            .map_err(RedirectError::map("portless"))
    }

    /// Takes the answers to the flows that `current` then names, and to no others.
    ///
    /// It is asked after a look at what is claimed: a flow is remembered before it is claimed, so that none is missed.
    pub fn reconcile(
        &self,
        current: impl FnOnce() -> BTreeSet<Portless>,
    ) -> Result<(), RedirectError> {
        let claimed: BTreeSet<Vec<u8>> = self.map.keys().collect();
        let current = current();
        let wanted: BTreeSet<Vec<u8>> = current.iter().map(portless).collect();
        let stale = claimed.difference(&wanted);
        stale
            .into_iter()
            .try_for_each(|key| remove(&self.map, key))
            .map_err(RedirectError::map("portless"))?;
        let missing = wanted.difference(&claimed);
        missing
            .into_iter()
            .try_for_each(|key| self.map.update(key, &[1], MapFlags::ANY))
            .map_err(RedirectError::map("portless"))
    }
}
