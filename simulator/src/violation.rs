//! A promise that was broken, with the command that shows it again.

use std::fmt;

/// See the module text.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The world.
    pub seed: u64,
    /// What was broken, for a person.
    pub what: String,
    /// Kind of world: the example that runs it.
    pub(crate) example: &'static str,
    pub(crate) mutation: Option<String>,
    pub(crate) ids: usize,
    pub(crate) faults: usize,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {}: {}\nreplay: cargo run --release -p simulator --example {} -- --seed {} --ids {} --faults {}",
            self.seed, self.what, self.example, self.seed, self.ids, self.faults
        )?;
        self.mutation.as_ref().map_or(Ok(()), |mutation| write!(f, " --mutant {mutation}"))
    }
}

impl std::error::Error for Violation {}

/// Runs a world; a panic in it is a promise broken like any other.
pub(crate) fn guarded<S>(
    run: impl FnOnce() -> Result<S, String> + std::panic::UnwindSafe,
) -> Result<S, String> {
    std::panic::catch_unwind(run).unwrap_or_else(|_| Err("the product panicked".to_owned()))
}
