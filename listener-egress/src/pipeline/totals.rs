//! The tracker's totals among those of the worker, under the same names.

use super::counts::{Counts, Loss};
use gap_track::Loss as GapLoss;
use service::ledger;

impl From<GapLoss> for Loss {
    fn from(loss: GapLoss) -> Loss {
        match loss {
            GapLoss::Horizon => Loss::Horizon,
            GapLoss::Jump => Loss::Jump,
            GapLoss::Restart => Loss::Restart,
            GapLoss::TableFull => Loss::TableFull,
            GapLoss::FlowEvicted => Loss::FlowEvicted,
            GapLoss::Stop => Loss::Stop,
            GapLoss::BeforeStart => Loss::BeforeStart,
        }
    }
}

/// Brings the worker's totals up to date. Numbers of objects that could not be rebuilt are the worker's own; of the others the
/// ledger has those that were named one by one.
pub(super) fn follow(counts: &mut Counts, gaps: &gap_track::Counts) {
    let gap_track::Counts {
        lost,
        gaps_detected,
        recovered,
        reordered,
        duplicates,
        collisions,
        restarts,
        jumps_held,
        flow_mismatch,
        flows_refused,
        flows_evicted,
        digest_entries,
        tail_probes,
        flows_unconfirmed,
        flows_resumed,
        flows_without_position,
        catch_up,
    } = *gaps;
    for (why, numbers) in GapLoss::ALL.into_iter().zip(lost) {
        let why = Loss::from(why);
        counts.lost.lose(why, ledger::Loss::frames(numbers.saturating_sub(counts.lost.count(why))));
    }
    counts.gaps_detected = gaps_detected;
    counts.recovered = recovered;
    counts.reordered = reordered;
    counts.duplicates = duplicates;
    counts.collisions = collisions;
    counts.restarts = restarts;
    counts.jumps_held = jumps_held;
    counts.flow_mismatch = flow_mismatch;
    counts.flows_refused = flows_refused;
    counts.flows_evicted = flows_evicted;
    counts.digest_entries = digest_entries;
    counts.tail_probes = tail_probes;
    counts.flows_unconfirmed = flows_unconfirmed;
    counts.flows_resumed = flows_resumed;
    counts.flows_without_position = flows_without_position;
    counts.catch_up = catch_up;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_keeps_its_name_and_its_place() {
        for (n, why) in (1..).zip(GapLoss::ALL) {
            let mut gaps = gap_track::Counts::default();
            gaps.lost[why.index()] = n;
            let mut counts = Counts::default();
            follow(&mut counts, &gaps);
            assert_eq!(format!("{why:?}"), format!("{:?}", Loss::from(why)));
            assert_eq!((counts.lost.count(Loss::from(why)), counts.lost_total()), (n, n));
        }
    }
}
