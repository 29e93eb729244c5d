//! The hashes of a burst's transactions, all computed together.
//!
//! Verifying an id is a double SHA-256, the largest single cost of a frame. Sixteen messages hash side by side for little
//! more than half of the price ([`sha256d_each`]).

use super::admit::{Policy, transaction_to_hash};
use frame::TxId;
use frame::hash::{Message, sha256d_each};
use multicast_io::{Arrival, Burst};

/// Hashes by position in the batch; reused from batch to batch.
#[derive(Debug, Default)]
pub(super) struct Hashes {
    found: Vec<Option<TxId>>,
    messages: Vec<Message>,
    sorted: Vec<Message>,
}

impl Hashes {
    /// Hashes what can be hashed together; what was found before is forgotten.
    pub(super) fn take_batch(&mut self, policy: &Policy, burst: &Burst, arrivals: &[Arrival]) {
        self.found.clear();
        if !policy.verify_payload_hash {
            return;
        }
        self.messages.clear();
        self.messages.extend((0_u32..).zip(arrivals).filter_map(|(at, arrival)| {
            let inside = transaction_to_hash(burst.bytes(arrival.span))?;
            let start = u32::try_from(inside.start).ok()?;
            Some(Message { at, from: arrival.span.start + start, len: u32::try_from(inside.len()).ok()? })
        }));
        self.found.resize(arrivals.len(), None);
        self.sorted.resize(self.messages.len(), Message::default());
        let found = &mut self.found;
        sha256d_each(
            &self.messages,
            &mut self.sorted,
            // To the end of the burst: whole blocks are loaded, and what lies behind a message is not looked at.
            |message| burst.memory().get(message.from as usize..).unwrap_or_default(),
            |message, id| found[message.at as usize] = Some(TxId(id)),
        );
    }

    /// Hash of the arrival at a position, where it was computed.
    pub(super) fn of(&self, at: usize) -> Option<TxId> {
        self.found.get(at).copied().flatten()
    }
}
