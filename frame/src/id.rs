//! Identifiers as types: ids of 32 bytes, flow keys and sequence numbers.

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
