//! Ids that came with more than one form of the bytes that they do not prove: somebody forges, or did.
//!
//! Why: a raw copy behind an extended one is let go, as it says less. But of a contested id the consumer has several forms, and
//! knows of none that it is true. The raw one is: its id proves all of it. So it is delivered too, once.
//!
//! Limits: the last [`MOST`] ids that came extended, and as many contested ones. Cost: an insert for each extended frame that
//! passes the gate; for raw frames nothing while no id is contested.

use frame::Id;
use lru::LruCache;
use std::num::NonZeroUsize;

/// Ids that are remembered.
const MOST: usize = 4096;

/// See the module text.
pub(super) struct Contested {
    /// The variant of each id that passed last.
    passed: LruCache<Id, Id>,
    ids: LruCache<Id, ()>,
}

impl Contested {
    pub(super) fn new() -> Contested {
        let most = NonZeroUsize::new(MOST).unwrap_or(NonZeroUsize::MIN);
        Contested { passed: LruCache::new(most), ids: LruCache::new(most) }
    }

    /// A variant of an id passed the gate.
    pub(super) fn passed(&mut self, id: &Id, variant: &Id) {
        if self.passed.put(*id, *variant).is_some_and(|before| before != *variant) {
            self.ids.put(*id, ());
        }
    }

    /// More than one variant of the id passed.
    #[inline]
    pub(super) fn has(&self, id: &Id) -> bool {
        !self.ids.is_empty() && self.ids.contains(id)
    }
}
