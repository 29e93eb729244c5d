//! Faults that can be planted into the pipeline, to show that the simulator finds them. This module, the fields that hold a
//! fault and every comparison exist only with the feature `mutants`; see `planted!` in `lib.rs`.

/// One planted fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each name says what is wrong")]
pub enum Mutation {
    ClaimKeptAfterRefusal,
    /// A claim that failed waits for the next loss before it is released.
    FailedClaimNotReleased,
    /// Frames are offered although earlier ones of their group wait.
    WaitingTrainOvertaken,
    RefusedTrainRenumbered,
    FlowKeptAfterHole,
    SettledBeforeSend,
    FrameWithoutPlaceDropped,
    LateFrameSent,
    DigestOvertakes,
    DropNotCounted,
    /// The links are not looked at behind a hand-over.
    SettledWithoutCarrier,
    /// In the order of the round: the burst is cleared and filled again before waiting frames are copied out of it.
    ClearedBeforeKept,
    /// In the order of the round: frames leave by the time at which the store was asked.
    TimeNotReadAgain,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Mutation; 13] = [
        Mutation::ClaimKeptAfterRefusal,
        Mutation::FailedClaimNotReleased,
        Mutation::WaitingTrainOvertaken,
        Mutation::RefusedTrainRenumbered,
        Mutation::FlowKeptAfterHole,
        Mutation::SettledBeforeSend,
        Mutation::FrameWithoutPlaceDropped,
        Mutation::LateFrameSent,
        Mutation::DigestOvertakes,
        Mutation::DropNotCounted,
        Mutation::SettledWithoutCarrier,
        Mutation::ClearedBeforeKept,
        Mutation::TimeNotReadAgain,
    ];
}
