//! The kind of a datagram: byte 6 (wire 1.0).
//!
//! [`Kind::of`] checks length, magic and byte 6, and nothing else: it says which decoder to ask. Cost: one comparison and one
//! table look-up.

use crate::{DecodeError, field};

/// What byte 6 says a datagram is (wire 1.0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// BRC-12: no number, no flow.
    LegacyTx = 0x01,
    /// BRC-124 transaction, or BRC-128 in Extended Format.
    Tx = 0x02,
    /// BRC-130 fragment.
    Fragment = 0x03,
    /// BRC-131 block announce, BRC-133 coinbase.
    Block = 0x04,
    /// BRC-132 subtree data.
    Subtree = 0x05,
    /// BRC-134 anchor transaction.
    Anchor = 0x06,
    /// BRC-135 block header.
    BlockHeader = 0x07,
    /// BRC-142 bundle.
    Bundle = 0x08,
    /// BRC-149 object.
    Object = 0x09,
    /// Request for repair.
    Nack = 0x10,
    /// The request named something that is not there.
    Miss = 0x11,
    /// The request was served.
    Ack = 0x12,
    /// The request was refused for a while.
    Throttled = 0x13,
    /// Oncecast extension: flow digest.
    Digest = 0x14,
    /// Beacon of a retry endpoint.
    Advert = 0x20,
    /// BRC-127.
    SubtreeGroupAnnounce = 0x30,
    /// BRC-139.
    Manifest = 0x40,
}

impl Kind {
    /// Every kind, in the order of its number.
    pub const ALL: [Kind; 17] = [
        Kind::LegacyTx,
        Kind::Tx,
        Kind::Fragment,
        Kind::Block,
        Kind::Subtree,
        Kind::Anchor,
        Kind::BlockHeader,
        Kind::Bundle,
        Kind::Object,
        Kind::Nack,
        Kind::Miss,
        Kind::Ack,
        Kind::Throttled,
        Kind::Digest,
        Kind::Advert,
        Kind::SubtreeGroupAnnounce,
        Kind::Manifest,
    ];

    /// Length and magic are checked (44 bytes are not required: only what is needed to read byte 6), then byte 6.
    pub fn of(datagram: &[u8]) -> Result<Kind, DecodeError> {
        let head: &[u8; 7] = datagram.first_chunk().ok_or(DecodeError::TooShort)?;
        if !field::has_magic(head) {
            return Err(DecodeError::BadMagic);
        }
        Kind::from_byte(head[6]).ok_or(DecodeError::BadVersion)
    }

    /// The kind with this number.
    pub const fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            0x01 => Kind::LegacyTx,
            0x02 => Kind::Tx,
            0x03 => Kind::Fragment,
            0x04 => Kind::Block,
            0x05 => Kind::Subtree,
            0x06 => Kind::Anchor,
            0x07 => Kind::BlockHeader,
            0x08 => Kind::Bundle,
            0x09 => Kind::Object,
            0x10 => Kind::Nack,
            0x11 => Kind::Miss,
            0x12 => Kind::Ack,
            0x13 => Kind::Throttled,
            0x14 => Kind::Digest,
            0x20 => Kind::Advert,
            0x30 => Kind::SubtreeGroupAnnounce,
            0x40 => Kind::Manifest,
            _ => return None,
        })
    }

    /// Stable lower-case name for counters and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::LegacyTx => "legacy_tx",
            Kind::Tx => "tx",
            Kind::Fragment => "fragment",
            Kind::Block => "block",
            Kind::Subtree => "subtree",
            Kind::Anchor => "anchor",
            Kind::BlockHeader => "block_header",
            Kind::Bundle => "bundle",
            Kind::Object => "object",
            Kind::Nack => "nack",
            Kind::Miss => "miss",
            Kind::Ack => "ack",
            Kind::Throttled => "throttled",
            Kind::Digest => "digest",
            Kind::Advert => "advert",
            Kind::SubtreeGroupAnnounce => "subtree_group_announce",
            Kind::Manifest => "manifest",
        }
    }

    /// True for the kinds that [`DataFrame`](crate::DataFrame) views.
    pub const fn is_data(self) -> bool {
        matches!(
            self,
            Kind::LegacyTx
                | Kind::Tx
                | Kind::Block
                | Kind::Subtree
                | Kind::Anchor
                | Kind::BlockHeader
                | Kind::Object
        )
    }
}
