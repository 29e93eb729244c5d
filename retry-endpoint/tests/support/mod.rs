//! Frames for the tests of the pipeline and of the runtime.
#![allow(dead_code, reason = "not every test binary needs all of them")]

use frame::data::{HeaderFields, encode_header};
use frame::tx::sha256d;
use frame::{HashKey, Id, Kind, SeqNum};

/// A V2 frame whose id is the hash of its payload.
pub(crate) fn frame_of(flow: HashKey, seq: u64, payload: &[u8]) -> Vec<u8> {
    frame_with(Kind::Tx, flow, seq, &sha256d(payload), payload)
}

/// A data frame of any kind; MsgType 1 where the kind has one.
pub(crate) fn frame_with(kind: Kind, flow: HashKey, seq: u64, id: &Id, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 92 + payload.len()];
    let fields = HeaderFields {
        kind,
        msg_type: u8::from(kind != Kind::Tx),
        id,
        hash_key: flow,
        seq_num: SeqNum(seq),
        second_id: &[0; 32],
        payload_len: u32::try_from(payload.len()).unwrap(),
    };
    let header = encode_header(&fields, &mut out).unwrap();
    out[header..].copy_from_slice(payload);
    out
}
