//! Fragments (wire 1.3 and 5): large frames leave in pieces of the MTU, cut a chunk at a time into the burst's heap.
//!
//! A 64 MiB frame never needs more than the heap of a burst: what does not fit now is cut in the next round, while the
//! worker goes on receiving. Each fragment takes a number of the flow of the original; they leave in index order.

use super::admit::Admitted;
use frame::fragment::{FragmentFields, Plan, encode};
use frame::{HashKey, Kind, SeqNum};
use multicast_io::{Burst, Span};

/// Byte 100: what the proxies in the field write for a V2 origin is 0 (wire 1.3).
fn original_version(kind: Kind) -> u8 {
    match kind {
        Kind::Block => 4,
        Kind::Subtree => 5,
        _ => 0,
    }
}

/// Writes fragment `index` of `payload` to the heap of `burst`, unnumbered; `None` when the heap is full.
///
/// `scratch` keeps one datagram; the payload may lie in the burst itself, so it is read through `chunk`.
pub fn cut(
    burst: &mut Burst,
    frame: &Admitted,
    plan: &Plan,
    index: u16,
    data: &[u8],
    scratch: &mut Vec<u8>,
) -> Option<Span> {
    let second_id = if frame.kind == Kind::Tx { &frame.second_id } else { &[0; 32] };
    let fields = FragmentFields {
        msg_type: if frame.kind == Kind::Tx { 0 } else { frame.msg_type },
        id: &frame.id,
        second_id,
        hash_key: HashKey(0),
        seq_num: SeqNum(0),
        original_len: plan.payload_len,
        index,
        total: plan.total,
        original_version: original_version(frame.kind),
    };
    scratch.resize(frame::fragment::HEADER + data.len(), 0);
    let length = encode(&fields, data, scratch)?;
    burst.push(scratch.get(..length)?)
}
