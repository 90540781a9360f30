//! The word among followers that the API server answers again.

use tokio::sync::watch;
use tokio::time::Instant;

/// One follower's share of the word: whoever is answered first after a trouble tells all others (K1).
#[derive(Clone, Debug)]
pub(super) struct Recovery {
    sender: watch::Sender<Option<Instant>>,
    receiver: watch::Receiver<Option<Instant>>,
}

impl Recovery {
    pub(super) fn new() -> Recovery {
        let (sender, receiver) = watch::channel(None);
        Recovery { sender, receiver }
    }

    /// Tells the others that the server answers, which it did not from this moment on.
    pub(super) fn tell(&mut self, away_since: Instant) {
        self.sender.send_replace(Some(away_since));
        self.receiver.mark_unchanged();
    }

    /// Waits until another follower tells that the server answers again.
    pub(super) async fn told(&mut self) -> Instant {
        loop {
            // The sender is our own, and lives as long.
            let _ = self.receiver.changed().await;
            let told = *self.receiver.borrow_and_update();
            if let Some(away_since) = told {
                return away_since;
            }
        }
    }

    /// Waits until another tells that the server was away since after this moment: what waits since then waits in vain.
    pub(super) async fn told_away_after(&mut self, heard: Instant) {
        while self.told().await < heard {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn k1_the_first_answer_wakes_all_others_once() {
        let mut first = Recovery::new();
        let mut second = first.clone();
        let mut third = first.clone();
        let began = Instant::now();
        first.tell(began);
        assert_eq!(second.told().await, began);
        assert_eq!(third.told().await, began);
        assert!(timeout(MOMENT, second.told()).await.is_err());
        assert!(
            timeout(MOMENT, first.told()).await.is_err(),
            "it knows itself"
        );
    }

    #[tokio::test]
    async fn k1_who_was_heard_meanwhile_goes_on() {
        let mut first = Recovery::new();
        let mut second = first.clone();
        let before = Instant::now();
        let heard = before + MOMENT;
        first.tell(before);
        assert!(
            timeout(MOMENT, second.told_away_after(heard))
                .await
                .is_err()
        );
        first.tell(heard + MOMENT);
        assert!(timeout(MOMENT, second.told_away_after(heard)).await.is_ok());
    }
}
