//! `planted!(self, Name)`: is this fault planted? Without the feature `mutants` the answer is `false` and the name is in no
//! binary.

#[cfg(feature = "mutants")]
macro_rules! planted {
    ($part:expr, $fault:ident) => {
        $part.mutation == Some(crate::mutation::Mutation::$fault)
    };
}

#[cfg(not(feature = "mutants"))]
macro_rules! planted {
    ($part:expr, $fault:ident) => {
        false
    };
}
