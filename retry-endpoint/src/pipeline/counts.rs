//! What the rounds of one worker count: plain numbers of the thread that owns them.

use super::admit::Refusal;
use super::limit::Level;
use service::{Ledger, Sum};

/// Counts since they were last taken (`Endpoint::take_counts`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoundCounts {
    /// Datagrams that arrived.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Frames kept.
    pub cached: u64,
    /// Frames that the shared tier or an upstream brought.
    pub brought: u64,
    /// Numbers asked for that were here.
    pub hits: u64,
    /// Numbers asked for that were not.
    pub misses: u64,
    /// Requests passed on to the next worker.
    pub forwarded: u64,
    /// Messages that a full queue refused.
    pub queue_dropped: u64,
    /// Frames repaired by multicast.
    pub retransmits: u64,
    /// Their bytes.
    pub retransmit_bytes: u64,
    /// Multicast repairs that an interface did not take.
    pub retransmit_failed: u64,
    /// Multicast repairs left out because they left within the dedup window.
    pub dedup: u64,
    /// Repairs that a limit refused, by limit.
    pub limited: [u64; Level::ALL.len()],
    /// Unicast repairs left out because the address has not proved itself.
    pub unproven: u64,
}

impl RoundCounts {
    /// What came, and what became of it; `ledger` has what was not kept.
    pub fn sum(&self, ledger: &Ledger<Refusal>) -> Sum {
        let copies = ledger.count(Refusal::Duplicate);
        Sum::new(
            [("received", self.received), ("brought", self.brought)],
            [
                ("kept", self.cached),
                ("removed copies", copies),
                ("refused", ledger.kept() - copies),
                ("lost", ledger.lost()),
            ],
        )
    }
}
