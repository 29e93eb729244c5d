//! Data frames: V1, V2, V4, V5, V6, V7 and V9 share one view (wire 1.1 - 1.9), plus the dispatcher over all types.

use crate::{DecodeError, HashKey, Id, SeqNum};

/// Header length of V1.
pub const V1_HEADER: usize = 44;
/// Header length of V2, V4, V5, V6, V7 and V9.
pub const HEADER: usize = 92;

/// What byte 6 says a datagram is (wire 1.0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    LegacyTx = 0x01,
    Tx = 0x02,
    Fragment = 0x03,
    Block = 0x04,
    Subtree = 0x05,
    Anchor = 0x06,
    BlockHeader = 0x07,
    Bundle = 0x08,
    Object = 0x09,
    Nack = 0x10,
    Miss = 0x11,
    Ack = 0x12,
    Throttled = 0x13,
    /// Oncecast extension: flow digest.
    Digest = 0x14,
    Advert = 0x20,
    SubtreeGroupAnnounce = 0x30,
    Manifest = 0x40,
}

impl Kind {
    /// Length and magic are checked (44 bytes are not required: only what is needed to read byte 6), then byte 6.
    pub fn of(_datagram: &[u8]) -> Result<Kind, DecodeError> {
        unimplemented!()
    }
    /// Stable lower-case name for counters and logs.
    pub fn name(self) -> &'static str {
        unimplemented!()
    }
}

/// Borrowed view of a V1, V2, V4, V5, V6, V7 or V9 datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataFrame<'a> {
    pub kind: Kind,
    /// Byte 7.
    pub msg_type: u8,
    /// Offset 8: TxID, ContentID or SubtreeID by kind.
    pub id: &'a Id,
    /// Offset 40; 0 for V1.
    pub hash_key: HashKey,
    /// Offset 48; 0 for V1.
    pub seq_num: SeqNum,
    /// Offset 56: SubtreeID (V2), TopicID (V9), padding otherwise; zeros for V1.
    pub second_id: &'a Id,
    pub payload: &'a [u8],
}

impl<'a> DataFrame<'a> {
    /// Decodes whichever data frame byte 6 announces, in the check order of wire 1.0.
    pub fn decode(_datagram: &'a [u8]) -> Result<DataFrame<'a>, DecodeError> {
        unimplemented!()
    }
    /// The general transaction decoder of the Go stack: V1 and V2 only, anything else is `BadVersion`.
    pub fn decode_tx(_datagram: &'a [u8]) -> Result<DataFrame<'a>, DecodeError> {
        unimplemented!()
    }
    /// Declared length on the wire (header and payload, without trailing bytes).
    pub fn wire_len(&self) -> usize {
        unimplemented!()
    }
    /// Length of this frame's header.
    pub fn header_len(&self) -> usize {
        unimplemented!()
    }
}

/// What a 92-byte header is built from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderFields<'a> {
    pub kind: Kind,
    pub msg_type: u8,
    pub id: &'a Id,
    pub hash_key: HashKey,
    pub seq_num: SeqNum,
    pub second_id: &'a Id,
    pub payload_len: u32,
}

/// Writes a 92-byte header (44 for V1) to the front of `out`; returns its length, or `None` if `out` is too short.
pub fn encode_header(_fields: &HeaderFields<'_>, _out: &mut [u8]) -> Option<usize> {
    unimplemented!()
}

/// Writes bytes 40-55. `datagram` must be a 92- or 104-byte-header frame (V2-V6, V9); shorter slices are left alone
/// and `false` is returned.
pub fn stamp(_datagram: &mut [u8], _hash_key: HashKey, _seq_num: SeqNum) -> bool {
    unimplemented!()
}

/// Any datagram of the fabric.
#[derive(Clone, Copy, Debug)]
pub enum Datagram<'a> {
    Data(DataFrame<'a>),
    Fragment(crate::fragment::Fragment<'a>),
    Bundle(crate::bundle::Bundle<'a>),
    Nack(crate::control::Nack),
    Response(crate::control::Response),
    Digest(crate::digest::Digest<'a>),
    Advert(crate::control::Advert),
    SubtreeGroupAnnounce(crate::control::SubtreeGroupAnnounce),
    Manifest(crate::manifest::Manifest<'a>),
}

impl<'a> Datagram<'a> {
    /// Dispatches on byte 6.
    pub fn decode(_datagram: &'a [u8]) -> Result<Datagram<'a>, DecodeError> {
        unimplemented!()
    }
}
