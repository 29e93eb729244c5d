//! What is claimed: a class and a 32-byte id.

/// Class of a claim (design section 4): each has its own budget in tier 1 and its own keys in tier 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    Tx,
    Anchor,
    /// Message type of the block frame: 1 announce, 2 coinbase.
    Block(u8),
    /// Message type of the subtree frame: 1 hashes, 2 full nodes.
    Subtree(u8),
    Object(u8),
}

/// A class and an id in internal byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClaimKey {
    pub class: Class,
    pub id: [u8; 32],
}
