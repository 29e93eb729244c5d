//! Ids whose frames could not be sent lately. A frame may leave by one interface and be refused by another: then its claim is
//! released, but a listener may have seen it, and its courtesy mark may land after the claim was deleted. At the node that
//! released the claim such a mark proves nothing, and the client's resend goes out.
//!
//! Limits: the last [`MOST`] ids, 300 KiB; older ones are forgotten. Cost: nothing until a send fails; then one insert for
//! each frame of which it did, and one lookup for each mark that is found.

use crate::key::ClaimKey;
use std::collections::{HashSet, VecDeque};

/// Ids that are remembered.
pub(super) const MOST: usize = 4096;

/// See the module text.
#[derive(Default)]
pub(super) struct FailedSends {
    order: VecDeque<ClaimKey>,
    ids: HashSet<ClaimKey>,
}

impl FailedSends {
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
    use crate::key::Class;

    #[test]
    fn the_last_ids_are_remembered_and_no_more() {
        let key = |n: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_be_bytes());
            ClaimKey { class: Class::Tx, id }
        };
        let mut failed = FailedSends::default();
        assert!(!failed.has(&key(0)));
        for n in 0..=MOST {
            failed.note(key(n));
            failed.note(key(n));
        }
        assert!(!failed.has(&key(0)) && failed.has(&key(1)) && failed.has(&key(MOST)));
        assert_eq!((failed.order.len(), failed.ids.len()), (MOST, MOST));
    }
}
