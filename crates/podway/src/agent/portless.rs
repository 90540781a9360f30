//! Which answers without ports are taken off the wire: those to flows that are remembered (R5).

use std::collections::BTreeSet;

use podway_engine::{Portless, Remembered};
use podway_state::FlowTable;
use podway_wire::FlowKey;
use podway_xsk::Redirect;

/// Claims the answers to all flows without ports that are remembered, those of an earlier agent among them, and no others.
pub(super) fn claim(redirect: &Redirect, flows: &FlowTable) {
    let claimed = redirect.claims().reconcile(|| remembered(flows));
    if let Err(error) = claimed {
        tracing::error!(%error, "answers of protocols without ports may be left to the host");
    }
}

/// Lets go of what is over. Workers claim what they remember themselves, at once, so that nothing is missing.
pub(super) fn forget(redirect: &Redirect, flows: &FlowTable) {
    if !redirect.claims().is_empty() {
        claim(redirect, flows);
    }
}

fn remembered(flows: &FlowTable) -> BTreeSet<Portless> {
    let portless = flows.iter().filter_map(|flow| {
        let original = FlowKey::of_words(flow.original);
        let translated = FlowKey::of_words(flow.reply).reverse();
        let remembered = Remembered::of_words(flow.decision?.words)?;
        Portless::of(&original, &translated, remembered.forward)
    });
    portless.collect()
}
