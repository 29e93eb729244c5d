//! Ids whose frames could not be sent lately. A frame that left by one interface and was refused by another is taken back,
//! but a listener may have seen it, and its courtesy mark may land after the claim was deleted: at the node that took the
//! frame back such a mark proves nothing, and the client's resend goes out.
//!
//! Limits: the last [`MOST`] ids, 300 KiB; older ones are forgotten. Cost: nothing until a send fails, then one insert for
//! each frame of which it did, and one lookup for each mark that is found.

use crate::ClaimKey;
use std::collections::{HashSet, VecDeque};

/// Ids that are remembered.
pub(super) const MOST: usize = 4096;

/// See the module text.
#[derive(Default)]
pub(super) struct Refused {
    order: VecDeque<ClaimKey>,
    ids: HashSet<ClaimKey>,
}

impl Refused {
    pub(super) fn note(&mut self, key: ClaimKey) {
        if !self.ids.insert(key) {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }

    pub(super) fn has(&self, key: &ClaimKey) -> bool {
        !self.ids.is_empty() && self.ids.contains(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Class;

    #[test]
    fn the_last_ids_are_remembered_and_no_more() {
        let key = |n: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_be_bytes());
            ClaimKey { class: Class::Tx, id }
        };
        let mut refused = Refused::default();
        assert!(!refused.has(&key(0)));
        for n in 0..=MOST {
            refused.note(key(n));
            refused.note(key(n));
        }
        assert!(!refused.has(&key(0)) && refused.has(&key(1)) && refused.has(&key(MOST)));
        assert_eq!((refused.order.len(), refused.ids.len()), (MOST, MOST));
    }
}
