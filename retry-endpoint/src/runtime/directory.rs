//! Which worker holds a flow: workers write it when a flow begins, the NACK server reads it for each request.
//!
//! A fixed table of words, no lock. A set has four slots. A word holds 56 bits of a HashKey and the worker. Full sets
//! overwrite in turn. The answer is a hint: a worker that has nothing passes the request on. So a flow that was displaced
//! costs a hop, never a false MISS. Memory: 2 MiB.

use crate::pipeline::seeded::seeded;
use std::sync::atomic::{AtomicU64, Ordering};

/// See the module text.
pub(super) struct Directory {
    slots: Box<[AtomicU64]>,
    seed: u64,
}

impl Directory {
    const SETS: usize = 1 << 16;
    const WAYS: usize = 4;

    pub(super) fn new(seed: u64) -> Directory {
        Directory { slots: (0..Directory::SETS * Directory::WAYS).map(|_| AtomicU64::new(0)).collect(), seed }
    }

    /// Remembers that `worker` holds the flow.
    pub(super) fn learn(&self, hash_key: u64, worker: u8) {
        let set = self.set(hash_key);
        let word = tag(hash_key) | (u64::from(worker) + 1);
        let same = |slot: &&AtomicU64| {
            let held = slot.load(Ordering::Relaxed);
            held == 0 || held & !0xFF == tag(hash_key)
        };
        // Full: the key itself says which slot it takes.
        let turn = (hash_key >> 8) as usize % Directory::WAYS;
        if let Some(slot) = set.iter().find(same).or_else(|| set.get(turn)) {
            slot.store(word, Ordering::Relaxed);
        }
    }

    /// The worker that should hold the flow.
    pub(super) fn find(&self, hash_key: u64) -> Option<u8> {
        let words = self.set(hash_key).iter().map(|slot| slot.load(Ordering::Relaxed));
        let found = words.into_iter().find(|word| *word != 0 && word & !0xFF == tag(hash_key))?;
        u8::try_from(found & 0xFF).ok()?.checked_sub(1)
    }

    fn set(&self, hash_key: u64) -> &[AtomicU64] {
        #[allow(clippy::cast_possible_truncation, reason = "a hash, folded on purpose")]
        let set = seeded(self.seed, hash_key, 1) as usize % Directory::SETS;
        &self.slots[set * Directory::WAYS..][..Directory::WAYS]
    }
}

fn tag(hash_key: u64) -> u64 {
    hash_key & !0xFF
}
