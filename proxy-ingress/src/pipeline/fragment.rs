//! Fragments (docs/wire.md 1.3 and 5): a large frame leaves in pieces of the MTU, a chunk at a time through the burst's heap.
//!
//! A 64 MiB frame never needs more than the heap of a burst. What does not fit now is cut in the next round, while the
//! worker goes on receiving. Each fragment takes a number of the flow of its original; they leave in index order.

use super::admit::Admitted;
use frame::fragment::{FragmentFields, FragmentPlan, encode};
use frame::{DataFrame, HashKey, SeqNum};
use multicast_io::{Burst, Span};

/// Writes fragment `index` of `payload` to the heap of `burst`, unnumbered; `None` when the heap is full.
///
/// `scratch` holds one datagram.
pub(super) fn cut(
    burst: &mut Burst,
    frame: &Admitted,
    plan: &FragmentPlan,
    index: u16,
    data: &[u8],
    scratch: &mut Vec<u8>,
) -> Option<Span> {
    let original = DataFrame {
        kind: frame.kind,
        msg_type: frame.msg_type,
        id: &frame.id,
        hash_key: HashKey(0),
        seq_num: SeqNum(0),
        second_id: &frame.second_id,
        payload: &[],
    };
    let fields = FragmentFields::of(&original, *plan, index, HashKey(0), SeqNum(0));
    scratch.resize(frame::fragment::HEADER + data.len(), 0);
    let length = encode(&fields, data, scratch)?;
    burst.push(scratch.get(..length)?)
}
