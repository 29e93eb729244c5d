//! The hashes of a round's transactions, all computed together.
//!
//! Verifying an id is a double SHA-256, the largest single cost of a frame. Processors with wide vectors hash sixteen
//! messages side by side for little more than half of the price; they have to be of similar length, so the round is
//! sorted by length first. On other processors nothing happens here and `admit` hashes frame by frame.

use super::admit::{Policy, transaction_to_hash};
use frame::{TxId, hash};
use multicast_io::{Arrival, Burst};

/// Fewer are hashed one by one.
const FEWEST: usize = 8;

/// Hashes by position in the round; reused from round to round.
#[derive(Debug, Default)]
pub struct Hashes {
    found: Vec<Option<TxId>>,
    /// Length and position.
    order: Vec<u64>,
}

impl Hashes {
    /// Hashes what can be hashed together; what was found before is forgotten.
    pub fn take_batch(&mut self, policy: &Policy, burst: &Burst, arrivals: &[Arrival]) {
        self.found.clear();
        if !policy.verify_payload_hash || arrivals.len() < FEWEST || hash::lanes() == 1 {
            return;
        }
        let transaction = |at: u32| transaction_to_hash(burst.bytes(arrivals[at as usize].span));
        self.order.clear();
        self.order.extend((0_u32..).zip(arrivals).filter_map(|(at, _)| {
            let length = transaction(at)?.len() as u64;
            Some(length << 32 | u64::from(at))
        }));
        self.order.sort_unstable();
        self.found.resize(arrivals.len(), None);
        #[allow(clippy::cast_possible_truncation, reason = "the low half of a key is the position")]
        let order = self.order.iter().map(|&key| key as u32);
        let found = &mut self.found;
        hash::sha256d_each(
            order,
            |at| transaction(at).unwrap_or_default(),
            |at, id| found[at as usize] = Some(TxId(id)),
        );
    }

    /// Hash of the arrival at a position, where it was computed.
    pub fn of(&self, at: usize) -> Option<TxId> {
        self.found.get(at).copied().flatten()
    }
}
