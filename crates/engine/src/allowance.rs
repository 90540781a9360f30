//! How many answers of our own may still be sent: a token bucket without a clock.

/// A bucket that fills by the second and holds one second's worth.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    per_second: u32,
    left: u32,
    filled_ms: u32,
}

impl Allowance {
    /// A full bucket.
    pub(crate) fn new(per_second: u32) -> Allowance {
        Allowance {
            per_second,
            left: per_second,
            filled_ms: 0,
        }
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&mut self, now_ms: u32) -> bool {
        let passed_ms = now_ms.wrapping_sub(self.filled_ms).min(1_000);
        let filled = (u64::from(passed_ms) * u64::from(self.per_second) / 1_000) as u32;
        if filled > 0 {
            self.left = (self.left + filled).min(self.per_second);
            self.filled_ms = now_ms;
        }
        let taken = self.left > 0;
        self.left -= u32::from(taken);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_its_rate_over_time_and_no_more_than_a_second_at_once() {
        let mut allowance = Allowance::new(100);
        assert_eq!((0..500).filter(|_| allowance.take(5)).count(), 100);
        assert_eq!((0..500).filter(|_| allowance.take(105)).count(), 10);
        assert_eq!((0..500).filter(|_| allowance.take(60_000)).count(), 100);
        let over_a_second = (60_000..61_000).filter(|now| allowance.take(*now)).count();
        assert!((99..=101).contains(&over_a_second), "{over_a_second}");
    }
}
