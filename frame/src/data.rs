//! Data frames: V1, V2, V4, V5, V6, V7 and V9 share one view (wire 1.1 - 1.9), plus the dispatcher over all types.
//!
//! A view borrows the datagram: ids and payload are references into it, nothing is copied or allocated. Bytes after
//! the declared length are tolerated (wire 1.0) and not part of the view.

use crate::{
    DecodeError, Fragment, HashKey, Id, SeqNum, bundle::Bundle, control, digest::Digest, field,
    manifest::Manifest,
};

/// Header length of V1.
pub const V1_HEADER: usize = 44;
/// Header length of V2, V4, V5, V6, V7 and V9.
pub const HEADER: usize = 92;
/// Payload length of V7: a block header.
pub const BLOCK_HEADER_PAYLOAD: u32 = 80;

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

    /// True for the kinds that [`DataFrame`] views.
    pub const fn is_data(self) -> bool {
        self.data_header().is_some()
    }

    /// Length of the header, for the kinds that [`DataFrame`] views.
    const fn data_header(self) -> Option<usize> {
        match self {
            Kind::LegacyTx => Some(V1_HEADER),
            Kind::Tx | Kind::Block | Kind::Subtree | Kind::Anchor | Kind::BlockHeader | Kind::Object => {
                Some(HEADER)
            }
            _ => None,
        }
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
        let header = kind.data_header().ok_or(BadVersion)?;
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
    fields.kind.data_header()?;
    let header: &mut [u8; HEADER] = out.first_chunk_mut()?;
    header[..8].copy_from_slice(&prologue);
    header[8..40].copy_from_slice(fields.id);
    header[40..48].copy_from_slice(&fields.hash_key.0.to_be_bytes());
    header[48..56].copy_from_slice(&fields.seq_num.0.to_be_bytes());
    header[56..88].copy_from_slice(fields.second_id);
    header[88..].copy_from_slice(&fields.payload_len.to_be_bytes());
    Some(HEADER)
}

/// First eight bytes of the id, flow and number of a datagram that was stamped; `None` for whatever [`stamp`] leaves alone
/// or that is too short.
pub fn stamped(datagram: &[u8]) -> Option<(u64, HashKey, SeqNum)> {
    let data = Kind::of(datagram).is_ok_and(|kind| kind.is_data() && kind != Kind::LegacyTx);
    let header = datagram.first_chunk::<56>().filter(|_| data)?;
    let at = |at: usize| header[at..].first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    Some((at(8), HashKey(at(40)), SeqNum(at(48))))
}

/// Writes bytes 40-55. Left alone, with `false`, is whatever has no HashKey and SeqNum there: V1, control messages,
/// foreign bytes, and slices shorter than the header of their kind.
pub fn stamp(datagram: &mut [u8], hash_key: HashKey, seq_num: SeqNum) -> bool {
    let header = match Kind::of(datagram) {
        Ok(Kind::Fragment) => crate::fragment::HEADER,
        Ok(Kind::Bundle) => crate::bundle::HEADER,
        Ok(Kind::LegacyTx) | Err(_) => return false,
        Ok(kind) if kind.is_data() => HEADER,
        Ok(_) => return false,
    };
    if datagram.len() < header {
        return false;
    }
    field::put(datagram, 40, &hash_key.0.to_be_bytes());
    field::put(datagram, 48, &seq_num.0.to_be_bytes());
    true
}

/// Any datagram of the fabric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagram<'a> {
    /// V1, V2, V4, V5, V6, V7, V9.
    Data(DataFrame<'a>),
    /// V3.
    Fragment(Fragment<'a>),
    /// V8.
    Bundle(Bundle<'a>),
    /// 0x10.
    Nack(control::Nack),
    /// 0x11, 0x12, 0x13.
    Response(control::Response),
    /// 0x14.
    Digest(Digest<'a>),
    /// 0x20.
    Advert(control::Advert),
    /// 0x30.
    SubtreeGroupAnnounce(control::SubtreeGroupAnnounce),
    /// 0x40.
    Manifest(Manifest<'a>),
}

impl<'a> Datagram<'a> {
    /// Dispatches on byte 6.
    pub fn decode(datagram: &'a [u8]) -> Result<Datagram<'a>, DecodeError> {
        Ok(match Kind::of(datagram)? {
            Kind::Fragment => Datagram::Fragment(Fragment::decode(datagram)?),
            Kind::Bundle => Datagram::Bundle(Bundle::decode(datagram)?),
            Kind::Nack => Datagram::Nack(control::Nack::decode(datagram)?),
            Kind::Miss | Kind::Ack | Kind::Throttled => {
                Datagram::Response(control::Response::decode(datagram)?)
            }
            Kind::Digest => Datagram::Digest(Digest::decode(datagram)?),
            Kind::Advert => Datagram::Advert(control::Advert::decode(datagram)?),
            Kind::SubtreeGroupAnnounce => {
                Datagram::SubtreeGroupAnnounce(control::SubtreeGroupAnnounce::decode(datagram)?)
            }
            Kind::Manifest => Datagram::Manifest(Manifest::decode(datagram)?),
            _ => Datagram::Data(DataFrame::decode(datagram)?),
        })
    }
}
