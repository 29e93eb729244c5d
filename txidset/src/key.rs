//! What is claimed: a class and a 32-byte id.

/// Class of a claim (`docs/claims.md`): each has its own budget in tier 1 and its own keys in tier 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// A transaction frame (V2), raw or Extended Format.
    Tx,
    /// An anchor transaction.
    Anchor,
    /// Message type of the block frame: 1 announce, 2 coinbase.
    Block(u8),
    /// Message type of the subtree frame: 1 hashes, 2 full nodes.
    Subtree(u8),
    /// Kind of the object.
    Object(u8),
    /// A frame with bytes that its id does not prove; the number says of which class and kind (`Class::variant`). Its id is
    /// the SHA-256 of the frame's id and those bytes.
    Variant(u8),
}

impl Class {
    /// Number of classes, kinds aside: the length of every per-class table.
    pub const COUNT: usize = 6;
    /// Names of the classes by `index`; labels of the gauges.
    pub const LABELS: [&'static str; Class::COUNT] =
        ["tx", "anchor", "block", "subtree", "object", "variant"];

    /// Position in per-class tables.
    pub fn index(self) -> usize {
        match self {
            Class::Tx => 0,
            Class::Anchor => 1,
            Class::Block(_) => 2,
            Class::Subtree(_) => 3,
            Class::Object(_) => 4,
            Class::Variant(_) => 5,
        }
    }

    /// Name used in keys and labels.
    pub fn label(self) -> &'static str {
        Class::LABELS[self.index()]
    }

    /// Second part of the class, where it has one.
    pub fn kind(self) -> Option<u8> {
        match self {
            Class::Tx | Class::Anchor => None,
            Class::Block(kind) | Class::Subtree(kind) | Class::Object(kind) | Class::Variant(kind) => {
                Some(kind)
            }
        }
    }

    /// The class of variants of this class: place of the class times 16, and its kind.
    pub fn variant(self) -> Class {
        #[allow(clippy::cast_possible_truncation, reason = "six classes")]
        let class = self.index() as u8;
        Class::Variant(class << 4 | self.kind().unwrap_or(0) & 15)
    }
}

/// A class and an id in internal byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClaimKey {
    /// Which budget and which keys.
    pub class: Class,
    /// The id in internal byte order (as hashed, not as displayed).
    pub id: [u8; 32],
}
