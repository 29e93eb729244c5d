//! Flow digest, control type 0x14 (extension, `docs/wire-extensions.md`): the highest number of each active flow, so
//! that receivers find the loss of a flow's last (or only) frames.
//!
//! Layout: magic, protocol; byte 6 = 0x14; byte 7 flags 0; u16 count at 8; 6 reserved bytes; then `count` entries of
//! 50 bytes: HashKey u64, highest SeqNum u64, group index u16, SubtreeID 32.

use crate::{DecodeError, GroupIndex, HashKey, Id, SeqNum};

pub const HEADER: usize = 16;
pub const ENTRY: usize = 50;

/// Borrowed view of a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest<'a> {
    entries: &'a [u8],
}

/// One flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub hash_key: HashKey,
    pub highest: SeqNum,
    pub group: GroupIndex,
    pub subtree_id: Id,
}

impl<'a> Digest<'a> {
    pub fn decode(_datagram: &'a [u8]) -> Result<Digest<'a>, DecodeError> {
        unimplemented!()
    }
    pub fn entries(&self) -> impl Iterator<Item = Entry> + 'a {
        let _ = self.entries;
        core::iter::empty()
    }
}

/// Writes as many entries as fit into `out`; returns (length, entries written).
pub fn encode(_entries: &[Entry], _out: &mut [u8]) -> (usize, usize) {
    unimplemented!()
}
