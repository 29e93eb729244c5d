//! Tier 1: exact 32-byte keys, fixed memory, expiry from first sight, seeded placement, per-class budgets.

use crate::ClaimKey;
use std::time::{Duration, Instant};

/// Shared by the workers of one role.
pub struct LocalSet {}

impl LocalSet {
    /// `capacity` entries over all classes, allocated once; `horizon` from first sight; `seed` places entries.
    pub fn new(_capacity: usize, _horizon: Duration, _seed: u64) -> LocalSet {
        unimplemented!()
    }
    /// For each key: `true` where it is new (and now inserted). Never pushes an expiry forward.
    pub fn insert_batch(&self, _keys: &[ClaimKey], _now: Instant, _new: &mut Vec<bool>) {
        unimplemented!()
    }
    /// Forgets a key (released, or dropped after first sight).
    pub fn remove(&self, _key: &ClaimKey) {
        unimplemented!()
    }
    pub fn contains(&self, _key: &ClaimKey, _now: Instant) -> bool {
        unimplemented!()
    }
    pub fn len(&self) -> usize {
        unimplemented!()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    pub fn capacity(&self) -> usize {
        unimplemented!()
    }
    /// Seconds of history that the set holds at the recent rate: min(horizon, age of the entry evicted last).
    pub fn effective_horizon(&self, _now: Instant) -> Duration {
        unimplemented!()
    }
    /// Entries that left before their horizon because room was needed.
    pub fn evicted_early(&self) -> u64 {
        unimplemented!()
    }
}
