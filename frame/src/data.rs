//! Data frames: V1, V2, V4, V5, V6, V7 and V9 share one view (wire 1.1 - 1.9).
//!
//! A view borrows the datagram: ids and payload are references into it. Bytes after the declared length are tolerated (wire
//! 1.0); they are not part of the view.
//!
//! ```
//! use frame::{DataFrame, DecodeError, Kind};
//!
//! let mut datagram = [0; 92];
//! datagram[..4].copy_from_slice(&frame::MAGIC);
//! datagram[6] = Kind::Tx as u8;
//! assert_eq!(DataFrame::decode(&datagram).map(|frame| frame.payload.len()), Ok(0));
//! // A length of one byte, which is not there.
//! datagram[91] = 1;
//! assert_eq!(DataFrame::decode(&datagram), Err(DecodeError::UnexpectedEof));
//! ```

use crate::{DecodeError, HashKey, Id, Kind, SeqNum, field};

/// Header length of V1.
pub const V1_HEADER: usize = 44;
/// Header length of V2, V4, V5, V6, V7 and V9.
pub const HEADER: usize = 92;
/// Payload length of V7: a block header.
pub const BLOCK_HEADER_PAYLOAD: u32 = 80;

/// Length of the header, for the kinds that [`DataFrame`] views.
const fn header_of(kind: Kind) -> Option<usize> {
    match kind {
        Kind::LegacyTx => Some(V1_HEADER),
        _ if kind.is_data() => Some(HEADER),
        _ => None,
    }
}

/// Borrowed view of a V1, V2, V4, V5, V6, V7 or V9 datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataFrame<'a> {
    /// Byte 6.
    pub kind: Kind,
    /// Byte 7: MsgType of V4 and V5, DeliverCount of V9, reserved otherwise.
    pub msg_type: u8,
    /// Offset 8: TxID, ContentID or SubtreeID by kind.
    pub id: &'a Id,
    /// Offset 40; 0 for V1.
    pub hash_key: HashKey,
    /// Offset 48; 0 for V1.
    pub seq_num: SeqNum,
    /// Offset 56: SubtreeID (V2), TopicID (V9), padding otherwise; zeros for V1.
    pub second_id: &'a Id,
    /// The declared payload.
    pub payload: &'a [u8],
}

impl<'a> DataFrame<'a> {
    /// Decodes whichever data frame byte 6 announces, in the check order of wire 1.0.
    pub fn decode(datagram: &'a [u8]) -> Result<DataFrame<'a>, DecodeError> {
        DataFrame::decode_if(datagram, Kind::is_data)
    }

    /// The general transaction decoder of the Go stack: V1 and V2 only, anything else is `BadVersion`.
    pub fn decode_tx(datagram: &'a [u8]) -> Result<DataFrame<'a>, DecodeError> {
        DataFrame::decode_if(datagram, |kind| matches!(kind, Kind::LegacyTx | Kind::Tx))
    }

    /// The decoder of one kind; any other kind, and any kind that is not a data frame, is `BadVersion`.
    pub fn decode_only(wanted: Kind, datagram: &'a [u8]) -> Result<DataFrame<'a>, DecodeError> {
        DataFrame::decode_if(datagram, |kind| kind == wanted)
    }

    fn decode_if(datagram: &'a [u8], wanted: impl Fn(Kind) -> bool) -> Result<DataFrame<'a>, DecodeError> {
        use DecodeError::{BadMagic, BadVersion, TooShort, UnexpectedEof};
        let head: &[u8; V1_HEADER] = datagram.first_chunk().ok_or(TooShort)?;
        if !field::has_magic(head) {
            return Err(BadMagic);
        }
        let kind = Kind::from_byte(head[6]).filter(|kind| wanted(*kind)).ok_or(BadVersion)?;
        let header = header_of(kind).ok_or(BadVersion)?;
        if datagram.len() < header {
            return Err(TooShort);
        }
        let msg_type = head[7];
        check_msg_type(kind, msg_type)?;
        let payload_len = field::u32(datagram, header - 4).ok_or(TooShort)?;
        if kind == Kind::BlockHeader && payload_len != BLOCK_HEADER_PAYLOAD {
            return Err(DecodeError::BadBlockHeaderLen);
        }
        let payload = field::slice(datagram, header, payload_len).ok_or(UnexpectedEof)?;
        let id = field::id(datagram, 8).ok_or(TooShort)?;
        if kind == Kind::LegacyTx {
            let (hash_key, seq_num, second_id) = (HashKey(0), SeqNum(0), &crate::NO_ID);
            return Ok(DataFrame { kind, msg_type, id, hash_key, seq_num, second_id, payload });
        }
        Ok(DataFrame {
            kind,
            msg_type,
            id,
            hash_key: HashKey(field::u64(datagram, 40).ok_or(TooShort)?),
            seq_num: SeqNum(field::u64(datagram, 48).ok_or(TooShort)?),
            second_id: field::id(datagram, 56).ok_or(TooShort)?,
            payload,
        })
    }

    /// Declared length on the wire (header and payload, without trailing bytes).
    pub fn wire_len(&self) -> usize {
        self.header_len() + self.payload.len()
    }

    /// Length of this frame's header.
    pub fn header_len(&self) -> usize {
        if self.kind == Kind::LegacyTx { V1_HEADER } else { HEADER }
    }

    /// Writes the frame to the front of `out`; returns its length. `None` if `out` is too short, or if the payload is
    /// longer than its length field can say.
    pub fn encode(&self, out: &mut [u8]) -> Option<usize> {
        let fields = HeaderFields {
            kind: self.kind,
            msg_type: self.msg_type,
            id: self.id,
            hash_key: self.hash_key,
            seq_num: self.seq_num,
            second_id: self.second_id,
            payload_len: u32::try_from(self.payload.len()).ok()?,
        };
        let header = encode_header(&fields, out)?;
        out.get_mut(header..)?.get_mut(..self.payload.len())?.copy_from_slice(self.payload);
        Some(self.wire_len())
    }
}

fn check_msg_type(kind: Kind, msg_type: u8) -> Result<(), DecodeError> {
    match (kind, msg_type) {
        (Kind::Block | Kind::Subtree, 1 | 2) => Ok(()),
        (Kind::Block, _) => Err(DecodeError::BadBlockMsg),
        (Kind::Subtree, _) => Err(DecodeError::BadSubtreeMsg),
        _ => Ok(()),
    }
}

/// What a 92-byte header is built from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderFields<'a> {
    /// Byte 6.
    pub kind: Kind,
    /// Byte 7.
    pub msg_type: u8,
    /// Offset 8.
    pub id: &'a Id,
    /// Offset 40 (not written for V1).
    pub hash_key: HashKey,
    /// Offset 48 (not written for V1).
    pub seq_num: SeqNum,
    /// Offset 56 (not written for V1).
    pub second_id: &'a Id,
    /// Length of the payload that the caller writes after the header.
    pub payload_len: u32,
}

/// Writes a 92-byte header (44 for V1) to the front of `out`; returns its length, or `None` if `out` is too short or
/// the kind is not a data frame.
pub fn encode_header(fields: &HeaderFields<'_>, out: &mut [u8]) -> Option<usize> {
    let prologue = field::prologue(fields.kind as u8, fields.msg_type);
    if fields.kind == Kind::LegacyTx {
        let header: &mut [u8; V1_HEADER] = out.first_chunk_mut()?;
        header[..8].copy_from_slice(&prologue);
        header[8..40].copy_from_slice(fields.id);
        header[40..].copy_from_slice(&fields.payload_len.to_be_bytes());
        return Some(V1_HEADER);
    }
    header_of(fields.kind)?;
    let header: &mut [u8; HEADER] = out.first_chunk_mut()?;
    header[..8].copy_from_slice(&prologue);
    header[8..40].copy_from_slice(fields.id);
    header[40..48].copy_from_slice(&fields.hash_key.0.to_be_bytes());
    header[48..56].copy_from_slice(&fields.seq_num.0.to_be_bytes());
    header[56..88].copy_from_slice(fields.second_id);
    header[88..].copy_from_slice(&fields.payload_len.to_be_bytes());
    Some(HEADER)
}
