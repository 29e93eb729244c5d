//! The bytes of a frame that its id does not prove, and the name of a frame with such bytes: its *variant*.
//!
//! Two frames of one id may differ in these bytes. Whoever forwards an id once, and no more, lets the first sender choose them.
//!
//! | Frame | Outside its id |
//! |---|---|
//! | transaction, anchor, coinbase, raw | nothing of the payload |
//! | the same in Extended Format | amount and script of each spent output |
//! | block announcement | everything behind the 80 bytes of the block header |
//! | subtree data | fees, sizes, conflicts: all but the nodes' hashes |
//! | all of them, but V1 | the 32 bytes at offset 56: the SubtreeID of a transaction |
//!
//! The variant is SHA-256 over the id, the 32 bytes at offset 56 (zeros for V1; left out where labels do not count), and the
//! bytes of the payload that lie outside. Of subtree data the whole payload is taken: the hashes of its nodes are the same
//! wherever the id is.
//!
//! Cost: a compare for a frame that has no such bytes ([`Variant::is_plain`]); for others one SHA-256 over what lies outside.

use crate::block::HEADER;
use crate::hash::Pieces;
use crate::tx::{self, Part};
use crate::{DataFrame, Id, Kind, NO_ID};

/// Message type of a V4 announcement.
const ANNOUNCE: u8 = 1;

/// Whether the SubtreeID makes a variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// It does: on the fabric, where consumers filter by it.
    Counts,
    /// It does not: before one consumer, behind its filter.
    LeftOut,
}

/// What tells a frame from others with its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// SHA-256 over the id and the bytes outside of it.
    pub id: Id,
    /// Bytes of the payload in standard form: those that remain of a transaction without its extension.
    pub standard_len: usize,
}

impl Variant {
    /// Whether the id proves every byte of the frame.
    #[inline]
    pub fn is_plain(frame: &DataFrame<'_>, label: Label) -> bool {
        let labelled = label == Label::Counts && *frame.second_id != NO_ID;
        !labelled && !carries_more(frame)
    }

    /// The variant of a frame; `None` if it is plain. An Extended Format that does not parse counts as a whole.
    pub fn of(frame: &DataFrame<'_>, label: Label) -> Option<Variant> {
        if Variant::is_plain(frame, label) {
            return None;
        }
        let mut hash = begin(frame.id, frame.second_id, label);
        let mut standard_len = frame.payload.len();
        if carries_more(frame) {
            standard_len = outside(frame, |piece| hash.update(piece));
        }
        Some(Variant { id: hash.sha256(), standard_len })
    }

    /// Name of the frame that has nothing outside of its id, where it must have one.
    pub fn of_nothing(id: &Id, label: Label) -> Id {
        begin(id, &NO_ID, label).sha256()
    }
}

/// Something of the payload lies outside of the id.
#[inline]
fn carries_more(frame: &DataFrame<'_>) -> bool {
    match frame.kind {
        Kind::Subtree => true,
        Kind::Block if frame.msg_type == ANNOUNCE => frame.payload.len() > HEADER,
        _ => tx::is_extended(frame.payload),
    }
}

fn begin(id: &Id, second_id: &Id, label: Label) -> Pieces {
    let mut hash = Pieces::default();
    hash.update(id);
    if label == Label::Counts {
        hash.update(second_id);
    }
    hash
}

/// Gives what of the payload lies outside; returns the length of the rest that stands for itself.
fn outside(frame: &DataFrame<'_>, mut each: impl FnMut(&[u8])) -> usize {
    let payload = frame.payload;
    match frame.kind {
        Kind::Subtree => each(payload),
        Kind::Block if frame.msg_type == ANNOUNCE => each(payload.get(HEADER..).unwrap_or_default()),
        _ => {
            let mut standard = 0;
            let split = tx::split_extended(payload, |piece, part| match part {
                Part::Standard => standard += piece.len(),
                Part::Extension => each(piece),
            });
            if split.is_ok() {
                return standard;
            }
            each(payload);
        }
    }
    payload.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HashKey, SeqNum};
    use std::vec::Vec;

    /// One input and one output; `spent`: amount and script of what it spends.
    fn transaction(spent: Option<&[u8]>) -> Vec<u8> {
        let mut bytes = Vec::from([1, 0, 0, 0]);
        bytes.extend_from_slice(if spent.is_some() { &[0, 0, 0, 0, 0, 0xEF] } else { &[] });
        bytes.push(1);
        bytes.extend_from_slice(&[7; 36]);
        bytes.extend_from_slice(&[0, 0xFF, 0xFF, 0xFF, 0xFF]);
        bytes.extend_from_slice(spent.unwrap_or_default());
        bytes.push(1);
        bytes.extend_from_slice(&[9, 0, 0, 0, 0, 0, 0, 0, 1, 0x51]);
        bytes.extend_from_slice(&[0; 4]);
        bytes
    }

    fn spent(amount: u8) -> [u8; 10] {
        [amount, 0, 0, 0, 0, 0, 0, 0, 1, 0x52]
    }

    fn variant(payload: &[u8], label: &Id, counts: Label) -> Option<Variant> {
        let id = tx::canonical_txid(payload).unwrap().0;
        Variant::of(&frame(Kind::Tx, 0, &id, label, payload), counts)
    }

    fn frame<'a>(
        kind: Kind,
        msg_type: u8,
        id: &'a Id,
        second_id: &'a Id,
        payload: &'a [u8],
    ) -> DataFrame<'a> {
        DataFrame { kind, msg_type, id, hash_key: HashKey(0), seq_num: SeqNum(0), second_id, payload }
    }

    #[test]
    fn a_raw_transaction_without_a_label_is_plain() {
        assert_eq!(variant(&transaction(None), &NO_ID, Label::Counts), None);
        assert!(variant(&transaction(None), &[1; 32], Label::Counts).is_some());
        assert_eq!(variant(&transaction(None), &[1; 32], Label::LeftOut), None);
    }

    #[test]
    fn other_spent_amounts_are_another_variant_of_one_id() {
        let (honest, forged) = (transaction(Some(&spent(5))), transaction(Some(&spent(6))));
        assert_eq!(tx::canonical_txid(&honest), tx::canonical_txid(&forged));
        let of = |bytes: &[u8]| variant(bytes, &NO_ID, Label::Counts).unwrap();
        assert_ne!(of(&honest).id, of(&forged).id);
        assert_eq!(of(&honest), of(&honest));
        assert_eq!(of(&honest).standard_len, transaction(None).len());
    }

    #[test]
    fn the_variant_is_the_hash_of_id_label_and_extension() {
        let bytes = transaction(Some(&spent(5)));
        let id = tx::canonical_txid(&bytes).unwrap().0;
        let expected = |label: &[u8]| crate::hash::sha256(&[&id[..], label, &spent(5)].concat());
        let of = |counts| variant(&bytes, &[3; 32], counts).unwrap().id;
        assert_eq!(of(Label::Counts), expected(&[3; 32]));
        assert_eq!(of(Label::LeftOut), expected(&[]));
        assert_eq!(Variant::of_nothing(&id, Label::Counts), crate::hash::sha256(&[id, NO_ID].concat()));
    }

    #[test]
    fn the_body_of_an_announcement_and_the_fees_of_a_subtree_count() {
        let (a, b) = ([&[4; 80][..], &[1; 40]].concat(), [&[4; 80][..], &[2; 40]].concat());
        let of = |kind, msg_type, bytes: &[u8]| {
            Variant::of(&frame(kind, msg_type, &[8; 32], &NO_ID, bytes), Label::LeftOut)
        };
        for (kind, msg_type) in [(Kind::Block, 1), (Kind::Subtree, 1), (Kind::Subtree, 2)] {
            assert!(of(kind, msg_type, &a).is_some() && of(kind, msg_type, &a) != of(kind, msg_type, &b));
        }
        assert_eq!(of(Kind::Block, 1, &a[..80]), None);
        assert_eq!(of(Kind::Block, 2, &transaction(None)), None);
    }
}
