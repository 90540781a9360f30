//! Waits for a burst of changes to end, but not for ever.

use std::time::Duration;

use tokio::time::Instant;

/// How long a burst of changes is waited for, and for how long at most.
const QUIET: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_millis(50);

/// Something to do once it has been quiet for a moment.
#[derive(Clone, Copy, Debug)]
pub struct Settle {
    quiet: Duration,
    patience: Duration,
    /// When the first and the last change of the burst came.
    burst: Option<(Instant, Instant)>,
}

impl Settle {
    /// As control waits for a burst of facts about the cluster.
    pub fn of_facts() -> Settle {
        Settle::new(QUIET, PATIENCE)
    }

    /// Waits until it was quiet for `quiet`, and at most `patience` from the first change on.
    pub fn new(quiet: Duration, patience: Duration) -> Settle {
        Settle {
            quiet,
            patience,
            burst: None,
        }
    }

    /// Something changed.
    pub fn mark(&mut self) {
        let now = Instant::now();
        let first = self.burst.map_or(now, |(first, _)| first);
        self.burst = Some((first, now));
    }

    /// It is done.
    pub fn clear(&mut self) {
        self.burst = None;
    }

    /// True if something is to be done.
    pub fn is_pending(&self) -> bool {
        self.burst.is_some()
    }

    /// Returns when it is time; never if nothing changed.
    pub async fn settled(self) {
        match self.burst {
            Some((first, last)) => {
                let due = (last + self.quiet).min(first + self.patience);
                tokio::time::sleep_until(due).await;
            }
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_burst_is_waited_for_but_not_for_ever() {
        let mut settle = Settle::new(Duration::from_millis(40), Duration::from_millis(100));
        assert!(!settle.is_pending());
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(95) {
            settle.mark();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        settle.settled().await;
        assert!(start.elapsed() >= Duration::from_millis(95));
        settle.clear();
        let idle = tokio::time::timeout(Duration::from_millis(20), settle.settled());
        assert!(idle.await.is_err());
    }
}
