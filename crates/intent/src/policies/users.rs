//! Whose verdicts read what, so that a peer that changes concerns only those.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use podway_tables::{Identity, IdentityId, SelectorId, Verdicts};

use crate::policies::Both;

/// The identities whose verdicts name a selector, or ports of peers.
#[derive(Debug, Default)]
pub(super) struct Users {
    of_selector: HashMap<SelectorId, HashSet<IdentityId>>,
    of_names: BTreeSet<IdentityId>,
    /// Selectors that may have lost their last user.
    retired: BTreeSet<SelectorId>,
}

impl Users {
    /// Notes that the verdicts of an identity are others now.
    pub(super) fn replace(&mut self, id: IdentityId, before: &Both, now: &Both) {
        let (old, new) = (selectors(before), selectors(now));
        for selector in old.difference(&new) {
            if let Some(users) = self.of_selector.get_mut(selector) {
                users.remove(&id);
                if users.is_empty() {
                    self.of_selector.remove(selector);
                    self.retired.insert(*selector);
                }
            }
        }
        for selector in new.difference(&old) {
            self.of_selector.entry(*selector).or_default().insert(id);
        }
        let reads: fn(&Arc<Verdicts>) -> bool = |verdicts| verdicts.reads_names();
        match now.each().any(reads) {
            true => self.of_names.insert(id),
            false => self.of_names.remove(&id),
        };
    }

    /// Selectors that lost their last user since the last call, and may have found others again.
    pub(super) fn take_retired(&mut self) -> BTreeSet<SelectorId> {
        std::mem::take(&mut self.retired)
    }

    /// True if some verdicts name a selector.
    pub(super) fn has(&self, selector: SelectorId) -> bool {
        self.of_selector.contains_key(&selector)
    }

    /// The identities whose verdicts may tell the two apart.
    pub(super) fn concerned(
        &self,
        one: Option<&Identity>,
        other: Option<&Identity>,
    ) -> BTreeSet<IdentityId> {
        let of = |identity: Option<&Identity>| -> BTreeSet<SelectorId> {
            identity
                .into_iter()
                .flat_map(|it| it.selectors.iter().copied())
                .collect()
        };
        let selectors = &of(one) ^ &of(other);
        let users = selectors.iter().filter_map(|it| self.of_selector.get(it));
        let mut concerned: BTreeSet<IdentityId> = users.flatten().copied().collect();
        if one.map(|it| &it.ports) != other.map(|it| &it.ports) {
            concerned.extend(&self.of_names);
        }
        concerned
    }
}

fn selectors(both: &Both) -> BTreeSet<SelectorId> {
    both.each()
        .flat_map(|verdicts| verdicts.selectors())
        .collect()
}
