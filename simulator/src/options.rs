//! What a world is told, whatever its kind.

use crate::violation::Violation;
use std::fmt::Display;

/// What kind of worlds to run; `M` are the faults that can be planted into them.
#[derive(Clone, Copy, Debug)]
pub struct Options<M> {
    /// Fewest ids of a world.
    pub ids: usize,
    /// Faults of a world; one world in sixteen has none.
    pub faults: usize,
    /// A fault planted into the product.
    pub mutation: Option<M>,
    /// Prints every event.
    pub trace: bool,
}

impl<M> Default for Options<M> {
    fn default() -> Options<M> {
        Options { ids: 50, faults: 3, mutation: None, trace: false }
    }
}

impl<M: Display> Options<M> {
    pub(crate) fn violation(&self, example: &'static str, seed: u64, what: String) -> Violation {
        let mutation = self.mutation.as_ref().map(ToString::to_string);
        Violation { seed, what, example, mutation, ids: self.ids, faults: self.faults }
    }
}
