//! How long to wait before an API server is asked again.

use std::time::Duration;

/// Delays that double up to a limit, each drawn evenly from zero to it, so that a cluster's agents don't come back
/// all at once.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    ceiling: Duration,
    random: fastrand::Rng,
}

impl Backoff {
    pub(super) fn new(first: Duration, longest: Duration, seed: u64) -> Backoff {
        Backoff {
            first,
            longest,
            ceiling: first,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// How long to wait this time.
    pub(super) fn delay(&mut self) -> Duration {
        let delay = self.portion(self.ceiling);
        self.ceiling = (self.ceiling * 2).min(self.longest);
        delay
    }

    /// It went well: the next delay is a first one again.
    pub(super) fn reset(&mut self) {
        self.ceiling = self.first;
    }

    /// A part of a duration, any as likely as another.
    pub(super) fn portion(&mut self, of: Duration) -> Duration {
        of.mul_f64(self.random.f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_limit_differ_and_start_again() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(3));
        let mut backoff = Backoff::new(first, longest, 7);
        let mut ceiling = first;
        let mut longest_seen = Duration::ZERO;
        for _ in 0..200 {
            let delay = backoff.delay();
            assert!(delay <= ceiling, "{delay:?} of {ceiling:?}");
            ceiling = (ceiling * 2).min(longest);
            longest_seen = longest_seen.max(delay);
        }
        assert!(longest_seen > longest / 2);
        backoff.reset();
        assert!(backoff.delay() <= first);
        let of = |seed| Backoff::new(first, longest, seed).delay();
        assert_ne!(of(1), of(2));
    }
}
