//! Flow digest, control type 0x14 (extension, `docs/wire-extensions.md`): the highest number of each active flow. By it
//! receivers find the loss of a flow's last frames, or of its only one.
//!
//! Layout: magic, protocol; byte 6 = 0x14; byte 7 flags ([`RELAYED`]); u16 count at 8; 6 reserved bytes; then `count` entries of
//! 50 bytes: HashKey u64, highest SeqNum u64, group index u16, SubtreeID 32. Bytes after the last entry are tolerated.

use crate::{DecodeError, GroupIndex, HashKey, Id, Kind, SeqNum, field};

/// Length of the header.
pub const HEADER: usize = 16;
/// Length of an entry.
pub const ENTRY: usize = 50;

/// Flag: a retry endpoint speaks for senders that fell silent.
pub const RELAYED: u8 = 0x01;

/// Borrowed view of a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest<'a> {
    entries: &'a [[u8; ENTRY]],
    flags: u8,
}

/// One flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The flow.
    pub hash_key: HashKey,
    /// The highest number that was handed over.
    pub highest: SeqNum,
    /// The group that carries the flow.
    pub group: GroupIndex,
    /// Offset 56 of the flow's frames, so that filters can judge a flow of which nothing was seen.
    pub subtree_id: Id,
}

impl<'a> Digest<'a> {
    /// Everything that is wrong is `BadDigest`.
    pub fn decode(datagram: &'a [u8]) -> Result<Digest<'a>, DecodeError> {
        let bad = DecodeError::BadDigest;
        let (header, rest) = datagram.split_first_chunk::<HEADER>().ok_or(bad)?;
        if !field::has_magic(header) || header[6] != Kind::Digest as u8 {
            return Err(bad);
        }
        let count = usize::from(field::u16(header, 8).ok_or(bad)?);
        let (entries, _) = rest.as_chunks::<ENTRY>();
        Ok(Digest { entries: entries.get(..count).ok_or(bad)?, flags: header[7] })
    }

    /// True if a retry endpoint speaks for others ([`RELAYED`]).
    pub fn is_relayed(&self) -> bool {
        self.flags & RELAYED != 0
    }

    /// The flows, in the order of the datagram.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = Entry> + 'a {
        self.entries.iter().map(Entry::read)
    }
}

impl Entry {
    fn read(bytes: &[u8; ENTRY]) -> Entry {
        let (hash_key, rest) = split(bytes);
        let (highest, rest) = split(rest);
        let (group, rest) = split(rest);
        Entry {
            hash_key: HashKey(u64::from_be_bytes(hash_key)),
            highest: SeqNum(u64::from_be_bytes(highest)),
            group: GroupIndex(u16::from_be_bytes(group)),
            subtree_id: split(rest).0,
        }
    }

    fn write(&self, out: &mut [u8; ENTRY]) {
        out[..8].copy_from_slice(&self.hash_key.0.to_be_bytes());
        out[8..16].copy_from_slice(&self.highest.0.to_be_bytes());
        out[16..18].copy_from_slice(&self.group.0.to_be_bytes());
        out[18..].copy_from_slice(&self.subtree_id);
    }
}

/// The first `N` bytes and the rest; zeros where there are fewer.
fn split<const N: usize>(bytes: &[u8]) -> ([u8; N], &[u8]) {
    bytes.split_first_chunk().map_or(([0; N], &[]), |(first, rest)| (*first, rest))
}

/// Writes as many entries as fit into `out`; returns (length, entries written). (0, 0) if not even the header fits.
pub fn encode(entries: &[Entry], out: &mut [u8]) -> (usize, usize) {
    encode_flagged(0, entries, out)
}

/// As [`encode`], with flags.
pub fn encode_flagged(flags: u8, entries: &[Entry], out: &mut [u8]) -> (usize, usize) {
    let Some((header, rest)) = out.split_first_chunk_mut::<HEADER>() else {
        return (0, 0);
    };
    let (slots, _) = rest.as_chunks_mut::<ENTRY>();
    let count = u16::try_from(entries.len().min(slots.len())).unwrap_or(u16::MAX);
    header.fill(0);
    header[..8].copy_from_slice(&field::prologue(Kind::Digest as u8, flags));
    header[8..10].copy_from_slice(&count.to_be_bytes());
    let written = usize::from(count);
    for (entry, slot) in entries.iter().zip(slots).take(written) {
        entry.write(slot);
    }
    (HEADER + written * ENTRY, written)
}
