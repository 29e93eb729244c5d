//! What a tracker counted, and what it keeps for the log.
//!
//! Promise: every number that is given up is counted under one reason. The lists for the log are bounded; the counters
//! have everything.

use frame::HashKey;
use std::time::Duration;

/// Losses kept for the log between two calls.
const LOSS_NOTES: usize = 64;
/// Recovery times kept between two calls.
const RECOVERY_NOTES: usize = 4096;
/// Flows without an answer kept for the log between two calls.
const UNCONFIRMED_NOTES: usize = 64;

/// Why numbers were given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// The repair horizon passed.
    Horizon,
    /// A jump longer than any endpoint could fill.
    Jump,
    /// The sender began anew under the same flow key.
    Restart,
    /// The gap table is full.
    TableFull,
    /// The flow left the table with open gaps.
    FlowEvicted,
    /// The process stopped.
    Stop,
    /// Asked for to catch up after the start, and not held any more (`TrackLimits::catch_up`).
    BeforeStart,
}

impl Loss {
    /// All reasons, in the order of [`Self::index`].
    pub const ALL: [Loss; 7] = [
        Loss::Horizon,
        Loss::Jump,
        Loss::Restart,
        Loss::TableFull,
        Loss::FlowEvicted,
        Loss::Stop,
        Loss::BeforeStart,
    ];

    /// Position in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// Numbers that were given up, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Flow.
    pub key: HashKey,
    /// First number.
    pub first: u64,
    /// Last number.
    pub last: u64,
    /// Why.
    pub why: Loss,
}

/// Totals of one tracker since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Numbers lost for good, by [`Loss`].
    pub lost: [u64; Loss::ALL.len()],
    /// Numbers found missing.
    pub gaps_detected: u64,
    /// Missing numbers that came after they were requested.
    pub recovered: u64,
    /// Missing numbers that came before anyone asked: reordering.
    pub reordered: u64,
    /// Frames under a number that was seen before.
    pub duplicates: u64,
    /// Frames under a number that was seen before, with an id that was not.
    pub collisions: u64,
    /// Flows that began anew under their old key.
    pub restarts: u64,
    /// Jumps held back until a second frame or digest confirms them.
    pub jumps_held: u64,
    /// Untrusted frames whose subtree contradicts their flow.
    pub flow_mismatch: u64,
    /// Flows that found no room in the table.
    pub flows_refused: u64,
    /// Flows that left for others or for their age.
    pub flows_evicted: u64,
    /// Digest entries taken.
    pub digest_entries: u64,
    /// Probes for a flow's next numbers.
    pub tail_probes: u64,
    /// Flows of which no endpoint said whether more was sent.
    pub flows_unconfirmed: u64,
    /// Flows that go on where an earlier process was.
    pub flows_resumed: u64,
    /// Flows older than this process whose position nobody kept: a fixed number of frames is asked for.
    pub flows_without_position: u64,
    /// Numbers from before this process that are owed.
    pub catch_up: u64,
}

impl Counts {
    /// Numbers given up for whatever reason.
    pub fn lost_total(&self) -> u64 {
        self.lost.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }
}

/// See the module text.
#[derive(Default)]
pub(crate) struct Journal {
    pub(crate) counts: Counts,
    losses: Vec<Lost>,
    recoveries: Vec<Duration>,
    unconfirmed: Vec<(HashKey, u64)>,
}

impl Journal {
    /// Numbers `first..=last` were found missing.
    pub(crate) fn found_missing(&mut self, first: u64, last: u64) {
        let numbers = (last - first).saturating_add(1);
        self.counts.gaps_detected = self.counts.gaps_detected.saturating_add(numbers);
    }

    /// Numbers `first..=last` are given up.
    pub(crate) fn lose(&mut self, key: HashKey, first: u64, last: u64, why: Loss) {
        let cell = &mut self.counts.lost[why.index()];
        *cell = cell.saturating_add((last - first).saturating_add(1));
        if self.losses.len() < LOSS_NOTES {
            self.losses.push(Lost { key, first, last, why });
        }
    }

    /// A missing number came.
    pub(crate) fn came(&mut self, requested: bool, was_missing: Duration) {
        if !requested {
            self.counts.reordered += 1;
            return;
        }
        self.counts.recovered += 1;
        if self.recoveries.len() < RECOVERY_NOTES {
            self.recoveries.push(was_missing);
        }
    }

    /// No endpoint said whether the flow has numbers from `next` on.
    pub(crate) fn unconfirmed(&mut self, key: HashKey, next: u64) {
        self.counts.flows_unconfirmed += 1;
        if self.unconfirmed.len() < UNCONFIRMED_NOTES {
            self.unconfirmed.push((key, next));
        }
    }

    pub(crate) fn take_losses(&mut self, out: &mut Vec<Lost>) {
        out.append(&mut self.losses);
    }

    pub(crate) fn take_recoveries(&mut self, out: &mut Vec<Duration>) {
        out.append(&mut self.recoveries);
    }

    pub(crate) fn take_unconfirmed(&mut self, out: &mut Vec<(HashKey, u64)>) {
        out.append(&mut self.unconfirmed);
    }
}
