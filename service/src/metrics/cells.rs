//! Cells: numbers that one thread writes and any thread reads.
//!
//! Promise: a write is a load and a store, never a locked instruction and never an allocation; a reader sees whole
//! numbers. Limit: one writer for each cell. Two writers lose counts, they do not corrupt.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that only grows, from zero at the start.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts `n` more.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A value that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Replaces the value.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How long something took, counted in buckets that double in width. Bucket `i` holds observations of more than 2^(i-1)
/// and at most 2^i nanoseconds; the last bucket holds everything above.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; Histogram::BUCKETS],
    sum: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { buckets: [const { AtomicU64::new(0) }; Histogram::BUCKETS], sum: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Buckets kept, the last one included: up to 2^38 ns, 275 s.
    pub const BUCKETS: usize = 40;

    /// Counts one observation.
    pub fn observe(&self, value: Duration) {
        self.observe_many(value, 1);
    }

    /// Counts `n` observations of one value (the frames of one batch).
    pub fn observe_many(&self, value: Duration, n: u64) {
        let nanos = nanos(value);
        if let Some(bucket) = self.buckets.get(bucket_of(nanos)) {
            bucket.store(bucket.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
        }
        let sum = self.sum.load(Ordering::Relaxed).saturating_add(nanos.saturating_mul(n));
        self.sum.store(sum, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn snapshot(&self) -> Buckets {
        Buckets {
            counts: std::array::from_fn(|i| self.buckets.get(i).map_or(0, |b| b.load(Ordering::Relaxed))),
            sum_nanos: self.sum.load(Ordering::Relaxed),
        }
    }
}

fn nanos(value: Duration) -> u64 {
    u64::try_from(value.as_nanos()).unwrap_or(u64::MAX)
}

/// Index of the bucket for a value: the smallest `i` with `nanos <= 2^i`, at most the last one.
fn bucket_of(nanos: u64) -> usize {
    let bits = u64::BITS - nanos.saturating_sub(1).leading_zeros();
    (bits as usize).min(Histogram::BUCKETS - 1)
}

/// The counts of a [`Histogram`] at one moment. Counts of several histograms can be added up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets {
    counts: [u64; Histogram::BUCKETS],
    sum_nanos: u64,
}

impl Default for Buckets {
    fn default() -> Buckets {
        Buckets { counts: [0; Histogram::BUCKETS], sum_nanos: 0 }
    }
}

impl Buckets {
    /// Buckets shown to Prometheus: `le` from 2^10 ns (1 µs) to 2^34 ns (17 s). What lies below is in the first, what lies
    /// above in `+Inf`.
    const SHOWN: std::ops::RangeInclusive<usize> = 10..=34;

    /// Observations counted elsewhere, by the upper bound of their bucket.
    pub fn of(counts: impl IntoIterator<Item = (Duration, u64)>, sum: Duration) -> Buckets {
        let mut buckets = Buckets { sum_nanos: nanos(sum), ..Buckets::default() };
        for (bound, n) in counts {
            if let Some(count) = buckets.counts.get_mut(bucket_of(nanos(bound))) {
                *count = count.wrapping_add(n);
            }
        }
        buckets
    }

    /// Adds the counts of another histogram.
    pub fn add(&mut self, other: &Buckets) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine = mine.wrapping_add(theirs);
        }
        self.sum_nanos = self.sum_nanos.saturating_add(other.sum_nanos);
    }

    /// Number of observations.
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |total, n| total.wrapping_add(*n))
    }

    /// Sum of all observations.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_nanos)
    }

    /// Upper bound of the bucket that holds quantile `q` (0 to 1); `None` when nothing was observed.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let total = self.count();
        let mut below = 0u64;
        for (i, n) in self.counts.iter().enumerate() {
            below = below.wrapping_add(*n);
            if *n > 0 && below as f64 >= q.clamp(0.0, 1.0) * total as f64 {
                return Some(Duration::from_nanos(1 << i));
            }
        }
        None
    }

    /// (upper bound in seconds, observations at most that large).
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        Buckets::SHOWN.map(|last| {
            let at_most = self.counts.iter().take(last + 1).fold(0u64, |total, n| total.wrapping_add(*n));
            (Duration::from_nanos(1 << last).as_secs_f64(), at_most)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_with_inclusive_bounds() {
        let histogram = Histogram::default();
        for nanos in [0, 1, 1024, 1025, 1 << 34, (1 << 34) + 1, u64::MAX] {
            histogram.observe(Duration::from_nanos(nanos));
        }
        let buckets = histogram.snapshot();
        let shown: Vec<_> = buckets.cumulative().collect();
        assert_eq!(shown.first(), Some(&(0.000001024, 3)));
        assert_eq!(shown.get(1).unwrap().1, 4);
        assert_eq!(shown.last().unwrap().1, 5);
        assert_eq!(buckets.count(), 7);
        assert_eq!(buckets.quantile(0.5), Some(Duration::from_nanos(2048)));
        assert_eq!(Histogram::default().snapshot().quantile(0.5), None);
    }
}
