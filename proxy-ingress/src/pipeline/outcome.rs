//! What became of frames is told: claims are answered, losses counted, flows that lost numbers retired.

use super::announcer::Announcer;
use super::hand_over::HandOvers;
use super::number::{FlowHandle, FlowTable};
#[cfg(feature = "mutants")]
use crate::mutation::Mutation;
use crate::tally::Tally;
use service::ledger::Loss;
use std::time::{Duration, Instant};
use txidset::Claims;

/// See the module text.
#[derive(Default)]
pub(super) struct Outcomes {
    hand_overs: HandOvers,
    /// Flows to be retired, each once.
    retired: Vec<(FlowHandle, u64)>,
    #[cfg(feature = "mutants")]
    pub(super) mutation: Option<Mutation>,
}

impl Outcomes {
    /// Where hand-overs are opened and finished.
    pub(super) fn hand_overs(&mut self) -> &mut HandOvers {
        &mut self.hand_overs
    }

    /// Age of the claim that waits longest for its answer; zero where none waits.
    pub(super) fn oldest(&self, now: Instant) -> Duration {
        self.hand_overs.oldest(now).unwrap_or_default()
    }

    /// No claim waits for its answer.
    pub(super) fn is_idle(&self) -> bool {
        self.hand_overs.outstanding() == 0
    }

    /// Tells what was noted since the last call.
    pub(super) fn tell(
        &mut self,
        now: Instant,
        claims: &mut Claims,
        flows: &mut FlowTable,
        announcer: &mut Announcer,
        tally: &Tally,
    ) {
        let noted = &mut self.hand_overs;
        tally.handed_over.add(std::mem::take(&mut noted.handed_over));
        tally.handed_over_bytes.add(std::mem::take(&mut noted.handed_over_bytes));
        tally.left_out.add(std::mem::take(&mut noted.left_out));
        noted.confirm();
        for ticket in noted.sent.drain(..) {
            claims.sent(now, ticket);
        }
        if planted!(self, FailedClaimNotReleased) && noted.lost.is_empty() {
            return;
        }
        let flow = noted.retired.last().and_then(|(flow, _)| flows.key(*flow)).map_or(0, |key| key.0);
        for (reason, frames) in noted.lost.drain(..) {
            if !planted!(self, DropNotCounted) {
                tally.ledger.lose(reason, Loss { frames, flow, ..Loss::default() });
            }
        }
        // The last datagram of a frame that lost others may be one that was handed over: a claim fails without a loss, too.
        for ticket in noted.failed.drain(..) {
            tally.released.add(1);
            if planted!(self, ClaimKeptAfterRefusal) {
                claims.sent(now, ticket);
            } else {
                claims.failed(now, ticket);
            }
        }
        if !self.hand_overs.retired.is_empty() && !planted!(self, FlowKeptAfterHole) {
            self.retire(now, flows, announcer);
        }
    }

    fn retire(&mut self, now: Instant, flows: &mut FlowTable, announcer: &mut Announcer) {
        self.retired.clear();
        self.retired.append(&mut self.hand_overs.retired);
        self.retired.sort_unstable();
        self.retired.dedup_by(|next, flow| {
            let same = next.0 == flow.0;
            flow.1 += if same { next.1 } else { 0 };
            same
        });
        for (flow, lost) in self.retired.drain(..) {
            announcer.retire(now, flows, flow, lost);
        }
    }
}
