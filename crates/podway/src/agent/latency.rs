//! How long things took, in bounded memory.

use std::time::Duration;

use serde_json::{Value, json};

/// Parts of each power of two: a figure is at most an eighth too large.
const PARTS: u64 = 8;
/// Powers of two of a microsecond: up to half an hour, and the last bucket takes what is longer.
const POWERS: u64 = 31;

/// A histogram of durations.
#[derive(Clone, Debug)]
pub(super) struct Latency {
    buckets: Vec<u64>,
    longest_us: u64,
}

impl Latency {
    pub(super) fn new() -> Latency {
        Latency {
            buckets: vec![0; (PARTS * POWERS) as usize],
            longest_us: 0,
        }
    }

    pub(super) fn record(&mut self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let last = self.buckets.len() - 1;
        self.buckets[bucket(us).min(last)] += 1;
        self.longest_us = self.longest_us.max(us);
    }

    /// How often, the median, the 99th percentile and the longest in µs, and counts by bucket.
    pub(super) fn value(&self) -> Value {
        let filled = self.buckets.iter().enumerate().filter(|(_, n)| **n > 0);
        let buckets: Vec<Value> = filled
            .map(|(index, n)| json!({"at_most_us": at_most_us(index), "count": n}))
            .collect();
        json!({
            "count": self.count(),
            "p50_us": self.percentile_us(50),
            "p99_us": self.percentile_us(99),
            "longest_us": self.longest_us,
            "buckets": buckets,
        })
    }

    fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// What so many of a hundred were not longer than.
    fn percentile_us(&self, percent: u64) -> u64 {
        let wanted = (self.count() * percent).div_ceil(100);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return at_most_us(index).min(self.longest_us);
            }
        }
        self.longest_us
    }
}

fn bucket(us: u64) -> usize {
    if us < PARTS {
        return us as usize;
    }
    let power = u64::from(us.ilog2());
    let shift = power - u64::from(PARTS.ilog2());
    let part = (us >> shift) & (PARTS - 1);
    ((shift + 1) * PARTS + part) as usize
}

fn at_most_us(index: usize) -> u64 {
    let index = index as u64;
    if index < PARTS {
        return index;
    }
    let (shift, part) = (index / PARTS - 1, index % PARTS);
    ((PARTS + part + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_is_in_a_bucket_that_is_at_most_an_eighth_too_large() {
        for us in (0..100_000).chain([1 << 30, (1 << 31) + 12_345]) {
            let at_most = at_most_us(bucket(us));
            assert!(us <= at_most && at_most <= us + us / 8, "{us}: {at_most}");
        }
    }

    #[test]
    fn percentiles_are_of_what_was_recorded() {
        let mut latency = Latency::new();
        assert_eq!(latency.value()["p99_us"], 0);
        for us in 1..=1000 {
            latency.record(Duration::from_micros(us));
        }
        latency.record(Duration::from_secs(10_000));
        let value = latency.value();
        assert_eq!(value["count"], 1001);
        let near = |field: &str, wanted: u64| {
            let seen = value[field].as_u64().expect("a number");
            assert!(
                wanted <= seen && seen <= wanted + wanted / 8,
                "{field}: {seen}"
            );
        };
        near("p50_us", 501);
        near("p99_us", 991);
        assert_eq!(value["longest_us"], 10_000_000_000u64);
    }
}
