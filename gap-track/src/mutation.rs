//! Faults that can be planted into the tracker, to show that the simulator finds them.

/// One planted fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each name says what is wrong")]
pub enum Mutation {
    DuplicateClosesGap,
    DigestIgnored,
    ResumedNotProbed,
    ProbeSkipsOne,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Mutation; 4] = [
        Mutation::DuplicateClosesGap,
        Mutation::DigestIgnored,
        Mutation::ResumedNotProbed,
        Mutation::ProbeSkipsOne,
    ];
}
