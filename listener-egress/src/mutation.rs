//! Faults that can be planted into the pipeline, to show that the simulator finds them. Never set in production: the
//! switch exists only with the feature `mutants`.

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
}

impl Mutation {
    /// All of them.
    pub const ALL: [Mutation; 10] = [
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
    ];
}
