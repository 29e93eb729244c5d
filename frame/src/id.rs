//! Identifiers as types: ids of 32 bytes, flow keys and sequence numbers.

use core::fmt;

/// A 32-byte id in internal byte order (as hashed, not as displayed): TxID, ContentID or SubtreeID by context.
pub type Id = [u8; 32];

/// All zeros: "none" wherever an id is optional.
pub const NO_ID: Id = [0; 32];

/// Transaction id, internal byte order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct TxId(pub Id);

/// Subtree id (Merkle root of the subtree); all zeros means "none".
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct SubtreeId(pub Id);

/// Flow key (wire 3): opaque to receivers, 0 means "unset".
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Debug)]
pub struct HashKey(pub u64);

/// Number of a datagram in its flow (wire 3): from 1, 0 means "unset".
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Debug)]
pub struct SeqNum(pub u64);

impl SeqNum {
    /// The number after this one. 0 means "unset" on the wire and is skipped when the counter wraps.
    pub const fn next(self) -> SeqNum {
        match self.0.wrapping_add(1) {
            0 => SeqNum(1),
            next => SeqNum(next),
        }
    }
}

/// HashKey ∥ SeqNum: the key under which a frame is stored for repair (wire 6.4).
pub fn cache_key(flow: HashKey, seq: SeqNum) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&flow.0.to_be_bytes());
    key[8..].copy_from_slice(&seq.0.to_be_bytes());
    key
}

impl fmt::Debug for TxId {
    /// Hex in wire order.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(out, self.0.iter())
    }
}

impl fmt::Display for TxId {
    /// Hex in display order, as block explorers print it: the reverse of the wire.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(out, self.0.iter().rev())
    }
}

impl fmt::Debug for SubtreeId {
    /// Hex in wire order.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(out, self.0.iter())
    }
}

fn write_hex<'a>(out: &mut fmt::Formatter<'_>, mut bytes: impl Iterator<Item = &'a u8>) -> fmt::Result {
    bytes.try_for_each(|byte| write!(out, "{byte:02x}"))
}
