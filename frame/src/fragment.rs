//! V3 fragments (wire 1.3, 5): view, encoder and the plan that cuts a payload.

use crate::{DecodeError, HashKey, Id, SeqNum};

/// Header length of V3.
pub const HEADER: usize = 104;
/// IPv6 (40), UDP (8) and fragment header (104) bytes taken from the MTU (wire 5).
pub const OVERHEAD: usize = 152;

/// Borrowed view of a V3 datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// Byte 7: MsgType of the original for V4/V5 origin, 0 for V2.
    pub msg_type: u8,
    pub id: &'a Id,
    pub hash_key: HashKey,
    pub seq_num: SeqNum,
    pub second_id: &'a Id,
    pub original_len: u32,
    pub index: u16,
    pub total: u16,
    /// Byte 100 as received: 0 and 2 both mean V2.
    pub original_version: u8,
    pub data: &'a [u8],
}

impl<'a> Fragment<'a> {
    pub fn decode(_datagram: &'a [u8]) -> Result<Fragment<'a>, DecodeError> {
        unimplemented!()
    }
    pub fn wire_len(&self) -> usize {
        unimplemented!()
    }
}

/// How a payload is cut: every fragment but the last carries `data_len` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub payload_len: u32,
    pub data_len: u16,
    pub total: u16,
}

impl Plan {
    /// `None`: no cutting possible (MTU ≤ 152) or more than 65,535 fragments would be needed.
    pub fn new(_payload_len: usize, _mtu: u16) -> Option<Plan> {
        unimplemented!()
    }
    /// Byte range of fragment `index` in the payload.
    pub fn range(&self, _index: u16) -> core::ops::Range<usize> {
        unimplemented!()
    }
}

/// Fields of a fragment header to be written.
#[derive(Clone, Copy, Debug)]
pub struct FragmentFields<'a> {
    pub msg_type: u8,
    pub id: &'a Id,
    pub second_id: &'a Id,
    pub hash_key: HashKey,
    pub seq_num: SeqNum,
    pub original_len: u32,
    pub index: u16,
    pub total: u16,
    pub original_version: u8,
}

/// Writes header and data; returns the length of the datagram, `None` if `out` is too short.
pub fn encode(_fields: &FragmentFields<'_>, _data: &[u8], _out: &mut [u8]) -> Option<usize> {
    unimplemented!()
}
