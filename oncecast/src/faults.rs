//! Faults that are planted into the code of this binary: none in a product.
//!
//! With the feature `mutants` the names of all of them are linked, and `oncecast --version` lists them. A test looks for these
//! names in a binary that was built without it.

/// What `oncecast --version` says after the name.
pub fn version() -> String {
    #[cfg(feature = "mutants")]
    return format!("{} with planted faults: {}", crate::VERSION, names().join(", "));
    #[cfg(not(feature = "mutants"))]
    crate::VERSION.to_owned()
}

/// Every fault of every crate.
#[cfg(feature = "mutants")]
fn names() -> Vec<String> {
    fn of(all: &[impl std::fmt::Debug]) -> impl Iterator<Item = String> {
        all.iter().map(|fault| format!("{fault:?}"))
    }
    of(&txidset::mutation::Mutation::ALL)
        .chain(of(&proxy_ingress::mutation::Mutation::ALL))
        .chain(of(&listener_egress::mutation::Mutation::ALL))
        .chain(of(&retry_endpoint::mutation::Mutation::ALL))
        .collect()
}
