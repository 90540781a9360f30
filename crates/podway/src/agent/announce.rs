//! Tells the cluster that this node is ready, as often as it takes.

use std::time::Duration;

use podway_control::Announcer;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::Agent;

/// The pauses between attempts: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Where to say that there is something to announce; one that is on its way already is enough.
pub(super) type Announce = mpsc::Sender<()>;

/// Announces whenever it is asked to, until it worked.
pub(super) fn spawn(announcer: Announcer, node: String, taint: String) -> Announce {
    let (sender, mut wanted) = mpsc::channel(1);
    tokio::spawn(async move {
        while wanted.recv().await.is_some() {
            let mut pause = PAUSES.0;
            while let Err(error) = announcer.announce(&node, &taint).await {
                tracing::warn!(%error, "the node can't be said to be ready yet");
                sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
            tracing::info!(node, "the cluster knows that the node is ready");
        }
    });
    sender
}

impl Agent {
    /// Has it announced that the node is ready, if the source has somebody who wants to know.
    pub(super) fn announce(&self) {
        if let Some(announce) = &self.announce {
            // Full means that it is announced soon anyway.
            let _ = announce.try_send(());
        }
    }

    /// True if the Node still, or again, has the taint that we are to remove.
    pub(super) fn is_held_back(&self) -> bool {
        let node = self.facts.cluster().node(&self.config.node);
        let taints = node.map_or(&[][..], |node| &node.taints);
        taints.iter().any(|key| **key == *self.config.startup_taint)
    }
}
