//! Flow digests: their senders say how far a flow is, so that the loss of its last frames, or of all of them, shows.

use crate::sighting::{FlowClass, Sighting};
use frame::{GroupIndex, HashKey, Id, SeqNum};
use hashbrown::HashSet;
use std::net::IpAddr;

/// Senders of digests that are remembered.
const SENDERS: usize = 1024;

/// One entry of a flow digest: all numbers of the flow up to `highest` were sent.
#[derive(Clone, Copy, Debug)]
pub struct FlowDigest<'a> {
    /// Flow.
    pub key: HashKey,
    /// The highest number sent.
    pub highest: SeqNum,
    /// Group that carries the flow.
    pub group: GroupIndex,
    /// Subtree label of the flow.
    pub subtree: &'a Id,
    /// Who sent the digest.
    pub source: IpAddr,
    /// The filters admit frames of this flow.
    pub wanted: bool,
}

impl<'a> FlowDigest<'a> {
    /// The first sight of a flow that only this digest names.
    pub(crate) fn sighting(&self) -> Sighting<'a> {
        Sighting {
            key: self.key,
            seq: self.highest,
            group: self.group,
            subtree: self.subtree,
            class: FlowClass::of_group(self.group),
            source: self.source,
            wanted: self.wanted,
            trusted: false,
        }
    }
}

/// Senders of digests. Their flows are probed late, because they have the first word. Bounded.
#[derive(Default)]
pub(crate) struct DigestSenders {
    known: HashSet<IpAddr>,
}

impl DigestSenders {
    pub(crate) fn spoke(&mut self, source: IpAddr) {
        if self.known.len() < SENDERS {
            self.known.insert(source);
        }
    }

    pub(crate) fn contains(&self, source: &IpAddr) -> bool {
        self.known.contains(source)
    }
}
