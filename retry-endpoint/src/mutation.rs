//! Faults that can be planted into the pipeline, to show that the simulator finds them.
//!
//! They exist only with the feature `mutants`: without it no field, no compare and no name is compiled.

/// One planted fault.
#[cfg(feature = "mutants")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each name says what is wrong")]
pub enum Mutation {
    SilenceNotAnnounced,
    OldDigestCovers,
    /// The order of the round is wrong: answers leave before the kernel was given their repairs.
    AnsweredBeforeRepairs,
}

#[cfg(feature = "mutants")]
impl Mutation {
    /// All of them.
    pub const ALL: [Mutation; 3] =
        [Mutation::SilenceNotAnnounced, Mutation::OldDigestCovers, Mutation::AnsweredBeforeRepairs];
}

/// True if the fault of that name is planted in `$owner`, which has a field `mutation`.
#[cfg(feature = "mutants")]
macro_rules! planted {
    ($owner:expr, $name:ident) => {
        $owner.mutation == Some($crate::mutation::Mutation::$name)
    };
}

/// Without the feature nothing is planted.
#[cfg(not(feature = "mutants"))]
macro_rules! planted {
    ($owner:expr, $name:ident) => {
        false
    };
}

pub(crate) use planted;
