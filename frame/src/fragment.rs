//! V3 fragments (wire 1.3, 5): view, encoder, the plan by which a payload is cut, and the rule that says which fragment may
//! open a reassembly.
//!
//! ```
//! use frame::fragment::{Cut, Threshold, cut};
//!
//! let Cut::Fragments(plan) = cut(3_000, 1_500, Threshold::Compatible) else { panic!("3,000 bytes are cut") };
//! assert_eq!((plan.total, plan.range(2)), (3, 2_696..3_000));
//! assert_eq!(cut(1_348, 1_500, Threshold::Compatible), Cut::Whole);
//! ```

use crate::{DataFrame, DecodeError, HashKey, Id, Kind, NO_ID, SeqNum, data, field};

/// Header length of V3.
pub const HEADER: usize = 104;
/// IPv6 (40), UDP (8) and fragment header (104) bytes taken from the MTU (wire 5).
pub const OVERHEAD: usize = 152;
/// IPv6 (40), UDP (8) and data frame header (92) bytes taken from the MTU by a frame that goes whole.
pub const WHOLE_OVERHEAD: usize = 140;

/// Borrowed view of a V3 datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// Byte 7: MsgType of the original for V4/V5 origin, 0 for V2.
    pub msg_type: u8,
    /// Offset 8: TxID, ContentID or SubtreeID of the original, the same on all fragments.
    pub id: &'a Id,
    /// Offset 40: the flow of the original.
    pub hash_key: HashKey,
    /// Offset 48: this datagram's own number.
    pub seq_num: SeqNum,
    /// Offset 56: SubtreeID (V2 origin), TopicID (V9), zeros (V4, V5).
    pub second_id: &'a Id,
    /// Offset 92: length of the whole payload.
    pub original_len: u32,
    /// Offset 96, below `total`.
    pub index: u16,
    /// Offset 98, at least 1.
    pub total: u16,
    /// Byte 100 as received: 0 and 2 both mean V2.
    pub original_version: u8,
    /// This fragment's part of the payload.
    pub data: &'a [u8],
}

impl<'a> Fragment<'a> {
    /// Decodes a V3 datagram in the check order of wire 1.0.
    pub fn decode(datagram: &'a [u8]) -> Result<Fragment<'a>, DecodeError> {
        use DecodeError::TooShort;
        let head: &[u8; data::V1_HEADER] = datagram.first_chunk().ok_or(TooShort)?;
        if !field::has_magic(head) {
            return Err(DecodeError::BadMagic);
        }
        if head[6] != Kind::Fragment as u8 {
            return Err(DecodeError::BadVersion);
        }
        let header: &[u8; HEADER] = datagram.first_chunk().ok_or(TooShort)?;
        let data_len = field::u32(header, 88).ok_or(TooShort)?;
        let data = field::slice(datagram, HEADER, data_len).ok_or(DecodeError::UnexpectedEof)?;
        let index = field::u16(header, 96).ok_or(TooShort)?;
        let total = field::u16(header, 98).ok_or(TooShort)?;
        if index >= total {
            return Err(DecodeError::BadFragment);
        }
        Ok(Fragment {
            msg_type: header[7],
            id: field::id(header, 8).ok_or(TooShort)?,
            hash_key: HashKey(field::u64(header, 40).ok_or(TooShort)?),
            seq_num: SeqNum(field::u64(header, 48).ok_or(TooShort)?),
            second_id: field::id(header, 56).ok_or(TooShort)?,
            original_len: field::u32(header, 92).ok_or(TooShort)?,
            index,
            total,
            original_version: header[100],
            data,
        })
    }

    /// Declared length on the wire (header and data, without trailing bytes).
    pub fn wire_len(&self) -> usize {
        HEADER + self.data.len()
    }

    /// Kind of the frame that was cut: V4, V5 and V9 by byte 100, V2 for every other value (wire 5).
    pub fn original_kind(&self) -> Kind {
        match Kind::from_byte(self.original_version) {
            Some(kind @ (Kind::Block | Kind::Subtree | Kind::Object)) => kind,
            _ => Kind::Tx,
        }
    }

    /// Writes the fragment to the front of `out`; `None` if `out` is too short.
    pub fn encode(&self, out: &mut [u8]) -> Option<usize> {
        let fields = FragmentFields {
            msg_type: self.msg_type,
            id: self.id,
            second_id: self.second_id,
            hash_key: self.hash_key,
            seq_num: self.seq_num,
            original_len: self.original_len,
            index: self.index,
            total: self.total,
            original_version: self.original_version,
        };
        encode(&fields, self.data, out)
    }
}

/// Whether a fragment may open a reassembly slot (wire 5): `index < total`, `1 ≤ original_len ≤ max_len`, and no more
/// fragments than the payload has bytes, plus one. A fleet's common bound for `max_len` is 64 MiB; generation A has
/// none (`u32::MAX`, which itself is always refused).
pub fn opens_slot(index: u16, total: u16, original_len: u32, max_len: u32) -> bool {
    let most = original_len.checked_add(1);
    index < total
        && original_len >= 1
        && original_len <= max_len
        && most.is_some_and(|most| u32::from(total) <= most)
}

/// How a payload is cut: every fragment but the last carries `data_len` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentPlan {
    /// Length of the whole payload.
    pub payload_len: u32,
    /// Bytes in every fragment but the last.
    pub data_len: u16,
    /// Number of fragments, at least 1.
    pub total: u16,
}

impl FragmentPlan {
    /// `None`: no cutting possible (MTU ≤ 152) or more than 65,535 fragments would be needed.
    pub fn new(payload_len: usize, mtu: u16) -> Option<FragmentPlan> {
        let data_len = usize::from(mtu).checked_sub(OVERHEAD).filter(|len| *len > 0)?;
        let total = payload_len.div_ceil(data_len).max(1);
        Some(FragmentPlan {
            payload_len: u32::try_from(payload_len).ok()?,
            data_len: u16::try_from(data_len).ok()?,
            total: u16::try_from(total).ok()?,
        })
    }

    /// Byte range of fragment `index` in the payload; empty at or after `total`.
    pub fn range(&self, index: u16) -> core::ops::Range<usize> {
        let end_of_payload = usize::try_from(self.payload_len).unwrap_or(usize::MAX);
        let data_len = usize::from(self.data_len);
        let start = usize::from(index).saturating_mul(data_len).min(end_of_payload);
        start..start.saturating_add(data_len).min(end_of_payload)
    }
}

/// When a payload is cut (wire 5, 9.3 #33).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Threshold {
    /// As the Go stack: a payload longer than the data of one fragment is cut.
    #[default]
    Compatible,
    /// A frame that fits the MTU with its own, shorter header goes whole: at MTU 1500 payloads of 1349 to 1360 bytes.
    /// Receivers do not care.
    WholeIfFits,
}

/// What becomes of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// One datagram with the header of its own kind.
    Whole,
    /// As many fragments as the plan says.
    Fragments(FragmentPlan),
    /// More than 65,535 fragments would be needed: drop and count (`frag_overflow`).
    Overflow,
}

/// Decides for a V2, V4, V5 or V9 payload. An MTU of at most 152 turns fragmentation off. V1 and V6 are never cut:
/// do not ask.
pub fn cut(payload_len: usize, mtu: u16, threshold: Threshold) -> Cut {
    let taken = match threshold {
        Threshold::Compatible => OVERHEAD,
        Threshold::WholeIfFits => WHOLE_OVERHEAD,
    };
    let mtu_len = usize::from(mtu);
    if mtu_len <= OVERHEAD || payload_len <= mtu_len - taken {
        return Cut::Whole;
    }
    FragmentPlan::new(payload_len, mtu).map_or(Cut::Overflow, Cut::Fragments)
}

/// Fields of a fragment header to be written.
#[derive(Clone, Copy, Debug)]
pub struct FragmentFields<'a> {
    /// Byte 7: MsgType of a V4 or V5 original, 0 otherwise.
    pub msg_type: u8,
    /// Offset 8: id of the original.
    pub id: &'a Id,
    /// Offset 56: SubtreeID (V2), zeros (V4 and V5, wire 1.3), TopicID (V9).
    pub second_id: &'a Id,
    /// Offset 40.
    pub hash_key: HashKey,
    /// Offset 48: this fragment's own number.
    pub seq_num: SeqNum,
    /// Offset 92.
    pub original_len: u32,
    /// Offset 96.
    pub index: u16,
    /// Offset 98.
    pub total: u16,
    /// Byte 100: 0 for V2 (as the Go proxy writes), else the version.
    pub original_version: u8,
}

impl<'a> FragmentFields<'a> {
    /// Header of fragment `index` of a V2, V4, V5 or V9 frame, by the rules of wire 1.3: V4 and V5 keep their MsgType and
    /// leave offset 56 zero, V2 and V9 keep offset 56 and leave byte 7 zero; the version of V2 is written as 0.
    pub fn of(
        frame: &DataFrame<'a>,
        plan: FragmentPlan,
        index: u16,
        hash_key: HashKey,
        seq_num: SeqNum,
    ) -> FragmentFields<'a> {
        let (msg_type, second_id) = match frame.kind {
            Kind::Block | Kind::Subtree => (frame.msg_type, &NO_ID),
            _ => (0, frame.second_id),
        };
        FragmentFields {
            msg_type,
            id: frame.id,
            second_id,
            hash_key,
            seq_num,
            original_len: plan.payload_len,
            index,
            total: plan.total,
            original_version: if frame.kind == Kind::Tx { 0 } else { frame.kind as u8 },
        }
    }
}

/// Writes header and data; returns the length of the datagram, `None` if `out` is too short.
pub fn encode(fields: &FragmentFields<'_>, data: &[u8], out: &mut [u8]) -> Option<usize> {
    let data_len = u32::try_from(data.len()).ok()?;
    let (header, rest) = out.split_first_chunk_mut::<HEADER>()?;
    let body = rest.get_mut(..data.len())?;
    header[..8].copy_from_slice(&field::prologue(Kind::Fragment as u8, fields.msg_type));
    header[8..40].copy_from_slice(fields.id);
    header[40..48].copy_from_slice(&fields.hash_key.0.to_be_bytes());
    header[48..56].copy_from_slice(&fields.seq_num.0.to_be_bytes());
    header[56..88].copy_from_slice(fields.second_id);
    header[88..92].copy_from_slice(&data_len.to_be_bytes());
    header[92..96].copy_from_slice(&fields.original_len.to_be_bytes());
    header[96..98].copy_from_slice(&fields.index.to_be_bytes());
    header[98..100].copy_from_slice(&fields.total.to_be_bytes());
    header[100] = fields.original_version;
    header[101..].fill(0);
    body.copy_from_slice(data);
    Some(HEADER + data.len())
}
