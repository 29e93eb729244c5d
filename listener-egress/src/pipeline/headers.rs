//! Block headers (V7): one for each block announcement that passed the gate (wire 1.7).

use super::verify::BLOCK_ANNOUNCE;
use frame::data::{HEADER, HeaderFields, encode_header};
use frame::flow::{Origin, hash_key};
use frame::id::NO_ID;
use frame::{DataFrame, GroupIndex, Kind, SeqNum};

/// Length of a V7 frame (wire 1.7).
pub const BLOCK_HEADER_FRAME: usize = HEADER + frame::block::HEADER;

/// Headers that are to be emitted.
pub(super) struct BlockHeaders {
    /// Their emitter; `None` = none are emitted.
    origin: Option<Origin>,
    last: u64,
    waiting: Vec<[u8; BLOCK_HEADER_FRAME]>,
}

impl BlockHeaders {
    pub(super) fn new(origin: Option<Origin>) -> BlockHeaders {
        BlockHeaders { origin, last: 0, waiting: Vec::new() }
    }

    /// Headers are emitted here.
    pub(super) fn are_wanted(&self) -> bool {
        self.origin.is_some()
    }

    /// Makes the header of a frame that passed the gate; `true` if it is a block announcement.
    pub(super) fn of(&mut self, frame: &[u8]) -> bool {
        let Some(origin) = self.origin else { return false };
        let Ok(frame) = DataFrame::decode(frame) else { return false };
        let Some(header) = frame.payload.first_chunk::<{ frame::block::HEADER }>() else { return false };
        if frame.kind != Kind::Block || frame.msg_type != BLOCK_ANNOUNCE {
            return false;
        }
        self.last += 1;
        let fields = HeaderFields {
            kind: Kind::BlockHeader,
            msg_type: 0,
            id: frame.id,
            hash_key: hash_key(origin, GroupIndex::BLOCK_HEADER, &NO_ID),
            seq_num: SeqNum(self.last),
            second_id: &NO_ID,
            payload_len: 80,
        };
        let mut out = [0; BLOCK_HEADER_FRAME];
        if encode_header(&fields, &mut out).is_none() {
            return false;
        }
        out[HEADER..].copy_from_slice(header);
        self.waiting.push(out);
        true
    }

    /// Takes what waits.
    pub(super) fn take(&mut self) -> std::vec::Drain<'_, [u8; BLOCK_HEADER_FRAME]> {
        self.waiting.drain(..)
    }
}
