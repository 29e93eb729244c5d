//! Faults that can be planted into the protocol, to show that the simulator finds them. This module, the fields that hold a
//! fault and the compares with it exist only with the feature `mutants`.

use std::fmt;

/// One planted fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each name says what is wrong")]
pub enum Mutation {
    SettledTooEarly,
    SettledOutOfOrder,
    ClosedEpochReused,
    RecordCoversRelease,
    ReleaseNotAwaited,
    UnackedReleaseForgotten,
    DoubtfulReleaseDeleted,
    NonceIgnored,
    IdBytesNotChecked,
    RecordOwnerNotChecked,
    MissingRecordSettles,
    EarlierReadsCount,
    TakeoverWithoutLease,
    TakeoverWithoutClaim,
    ParkedCopyDropped,
    DrainDropsParked,
    DoubtSuppresses,
    FenceLeftOut,
    LostFenceSettles,
    Tier1KeptAfterRelease,
    PlainValueParks,
    RecordExpiresEarly,
    /// Planted in the simulator: the lease is measured with a clock that jumps.
    LeaseByWallClock,
    /// Planted in the simulator: a worker comes back under its old owner id.
    OwnerKeptAcrossRestart,
    /// Planted in the simulator: the store says of living owners that their process has ended.
    EndedWhileAlive,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Mutation; 25] = [
        Mutation::SettledTooEarly,
        Mutation::SettledOutOfOrder,
        Mutation::ClosedEpochReused,
        Mutation::RecordCoversRelease,
        Mutation::ReleaseNotAwaited,
        Mutation::UnackedReleaseForgotten,
        Mutation::DoubtfulReleaseDeleted,
        Mutation::NonceIgnored,
        Mutation::IdBytesNotChecked,
        Mutation::RecordOwnerNotChecked,
        Mutation::MissingRecordSettles,
        Mutation::EarlierReadsCount,
        Mutation::TakeoverWithoutLease,
        Mutation::TakeoverWithoutClaim,
        Mutation::ParkedCopyDropped,
        Mutation::DrainDropsParked,
        Mutation::DoubtSuppresses,
        Mutation::FenceLeftOut,
        Mutation::LostFenceSettles,
        Mutation::Tier1KeptAfterRelease,
        Mutation::PlainValueParks,
        Mutation::RecordExpiresEarly,
        Mutation::LeaseByWallClock,
        Mutation::OwnerKeptAcrossRestart,
        Mutation::EndedWhileAlive,
    ];
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
