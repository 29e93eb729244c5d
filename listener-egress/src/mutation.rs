//! Faults that can be planted into the pipeline, to show that the simulator finds them.

use gap_track::mutation::Mutation as GapMutation;

/// One planted fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each name says what is wrong")]
pub enum Mutation {
    DuplicateClosesGap,
    RepairSwallowed,
    RefusedFrameForgotten,
    FullTableDrops,
    UndeliveredSettles,
    PaddingDelivered,
    DigestIgnored,
    NothingVerified,
    ResumedNotProbed,
    ProbeSkipsOne,
    /// In the order of a round: a claim is settled when its frame is queued, not when the consumer has it.
    SettledBeforeAcknowledged,
    /// In the order of a round: the kept copy is released before the tracker was told that the frame found no room.
    ReleasedBeforeDeferred,
    /// A round that comes late does not ask again whether a frame is still its own.
    LateFrameDelivered,
    /// A round believes numbers asked for although their request was never sent.
    RequestsNotSent,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Mutation; 14] = [
        Mutation::DuplicateClosesGap,
        Mutation::RepairSwallowed,
        Mutation::RefusedFrameForgotten,
        Mutation::FullTableDrops,
        Mutation::UndeliveredSettles,
        Mutation::PaddingDelivered,
        Mutation::DigestIgnored,
        Mutation::NothingVerified,
        Mutation::ResumedNotProbed,
        Mutation::ProbeSkipsOne,
        Mutation::SettledBeforeAcknowledged,
        Mutation::ReleasedBeforeDeferred,
        Mutation::LateFrameDelivered,
        Mutation::RequestsNotSent,
    ];

    /// The fault of the tracker that this one is.
    pub(crate) fn of_gaps(self) -> Option<GapMutation> {
        match self {
            Mutation::DuplicateClosesGap => Some(GapMutation::DuplicateClosesGap),
            Mutation::DigestIgnored => Some(GapMutation::DigestIgnored),
            Mutation::ResumedNotProbed => Some(GapMutation::ResumedNotProbed),
            Mutation::ProbeSkipsOne => Some(GapMutation::ProbeSkipsOne),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_of_the_tracker_can_be_planted_through_the_pipeline() {
        for fault in GapMutation::ALL {
            assert!(Mutation::ALL.iter().any(|mutation| mutation.of_gaps() == Some(fault)), "{fault:?}");
        }
    }
}
