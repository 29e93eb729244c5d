//! A histogram whose buckets anybody can add up.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A histogram in powers of two of a nanosecond: bucket `i` holds what took more than 2^(i-1) and at most 2^i of them. These
/// are the buckets of the roles' own histograms, so counts can be added bucket by bucket.
#[derive(Debug)]
pub struct Latency {
    buckets: [AtomicU64; Latency::BUCKETS],
    sum: AtomicU64,
}

impl Default for Latency {
    fn default() -> Latency {
        Latency { buckets: [const { AtomicU64::new(0) }; Latency::BUCKETS], sum: AtomicU64::new(0) }
    }
}

impl Latency {
    /// The last bucket has no upper edge.
    pub const BUCKETS: usize = 40;

    /// Upper edge of a bucket; `None` for the last.
    pub fn edge(bucket: usize) -> Option<Duration> {
        (bucket + 1 < Latency::BUCKETS).then(|| Duration::from_nanos(1 << bucket))
    }
    /// Batches in each bucket (not cumulative).
    pub fn counts(&self) -> [u64; Latency::BUCKETS] {
        std::array::from_fn(|bucket| self.buckets[bucket].load(Relaxed))
    }
    /// Sum of all observations.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum.load(Relaxed))
    }
    /// Counts one observation.
    pub fn observe(&self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        // The smallest power of two that is not below the observation.
        let bucket = (64 - nanos.saturating_sub(1).leading_zeros()) as usize;
        self.buckets[bucket.min(Latency::BUCKETS - 1)].fetch_add(1, Relaxed);
        self.sum.fetch_add(nanos, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_lies_below_the_edge_of_its_bucket() {
        for us in (1..100_000).chain([1 << 24, (1 << 24) + 1]) {
            let (latency, took) = (Latency::default(), Duration::from_micros(us));
            latency.observe(took);
            let bucket = latency.counts().iter().position(|&count| count == 1).unwrap();
            assert!(Latency::edge(bucket).is_none_or(|edge| edge >= took));
            assert!(bucket == 0 || Latency::edge(bucket - 1).is_some_and(|edge| edge < took));
        }
    }
}
