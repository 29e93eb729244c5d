//! Counters of one worker's claims: written by that worker alone, read by whoever exports them.

use crate::decision::Why;
use cache_backend::guard::Latency;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number with one writer: plain loads and stores.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Current value.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.value() + n, Relaxed);
    }
    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }
    pub(crate) fn raise(&self, n: u64) {
        if n > self.value() {
            self.set(n);
        }
    }
}

/// What happened to the frames of one worker.
#[derive(Debug, Default)]
pub struct ClaimStats {
    /// Suppressed by tier 1.
    pub seen: Count,
    /// First sight in tier 1.
    pub novel: Count,
    /// Let through or held back, by `Why::index`.
    by_why: [Count; Why::ALL.len()],
    /// Frames that wait for an answer about their claim, and their bytes.
    pub waiting: Count,
    /// Bytes of `waiting`.
    pub waiting_bytes: Count,
    /// The longest that a frame waited for an answer about its claim, in microseconds.
    pub longest_wait: Count,
    /// Frames that waited longer than they may although the worker had a turn in time: none, or there is a fault.
    pub overdue: Count,
    /// Frames that waited longer than they may because the worker's turn came late.
    pub late: Count,
    /// Copies parked until another owner settles.
    pub parked: Count,
    /// Bytes of `parked`.
    pub parked_bytes: Count,
    /// Copies that were parked, in total.
    pub parked_total: Count,
    /// How long copies were parked that were let go, as their owner had sent its own.
    pub parked_let_go: Latency,
    /// How long the others were: taken over, asked about once more, or sent for want of room or of an answer.
    pub parked_went_on: Latency,
    /// Frames whose sender could not hand them over.
    pub failed: Count,
    /// Claims deleted with an acknowledgement.
    pub released: Count,
    /// Releases that were not acknowledged or not safe: the worker goes on under a new owner id.
    pub renewed: Count,
    /// Claims made on the worker's own takeover key because it was late.
    pub fenced: Count,
    /// Age of the oldest epoch that is not settled, in microseconds.
    pub unsettled_age: Count,
    /// Epochs that were not settled for two seconds.
    pub unsettled_late: Count,
    /// Keys sent to tier 2 as claims.
    pub claims: Count,
    /// Claim requests (batches).
    pub claim_requests: Count,
    /// Records read (keys).
    pub records_read: Count,
    /// Records written.
    pub records_written: Count,
    /// Answers that belonged to another question.
    pub slipped: Count,
    /// One while claims bypass tier 2 because the breaker is open.
    pub bypass: Count,
}

impl ClaimStats {
    /// Frames let through or held back for this reason.
    pub fn by(&self, why: Why) -> &Count {
        &self.by_why[why.index()]
    }
    /// What was asked of the store, by what it was.
    pub fn requests(&self) -> [(&'static str, &Count); 5] {
        [
            ("claims", &self.claims),
            ("claim_requests", &self.claim_requests),
            ("records_read", &self.records_read),
            ("records_written", &self.records_written),
            ("released", &self.released),
        ]
    }
    /// Frames let through.
    pub fn won(&self) -> u64 {
        Why::ALL.iter().filter(|why| why.sends()).map(|&why| self.by(why).value()).sum()
    }
    /// Frames held back after asking tier 2.
    pub fn suppressed(&self) -> u64 {
        Why::ALL.iter().filter(|why| !why.sends()).map(|&why| self.by(why).value()).sum()
    }
}
