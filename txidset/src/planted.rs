//! `planted!(part, Fault)`: whether that fault was planted into the part, whose field `mutation` says so. Without the feature
//! `mutants` it is `false`, and neither the field nor the name of the fault is in the binary.

#[cfg(feature = "mutants")]
macro_rules! planted {
    ($part:expr, $fault:ident) => {
        $part.mutation == Some($crate::mutation::Mutation::$fault)
    };
}

#[cfg(not(feature = "mutants"))]
macro_rules! planted {
    ($part:expr, $fault:ident) => {
        false
    };
}
