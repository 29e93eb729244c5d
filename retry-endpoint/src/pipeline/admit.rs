//! What may be kept: a look at each datagram before it costs memory.
//!
//! Promise: only numbered data frames pass. They are cut to their declared length, because a train pads its frames with zeros
//! that belong to no payload. Everything else is refused for a reason with a name.
//!
//! The store asks later whether a payload hashes to its id (`payload_matches_id`): when a frame is about to be served, or
//! when two frames claim one number. That gives the same guarantee as hashing each arrival, and hashes only what somebody
//! lost.
//!
//! Cost: one header decode, no hash, no allocation.

use frame::flow::Route;
use frame::subtree::{Form, SubtreeData};
use frame::{DataFrame, Fragment, GroupIndex, HashKey, Id, Kind, SeqNum, ShardBits, TxId, block, tx};

/// Decides the lifetime of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// V2 and fragments of it.
    Tx,
    /// V4.
    Block,
    /// V5.
    Subtree,
    /// V6.
    Anchor,
}

impl Class {
    /// One byte for the log.
    pub(crate) fn code(self) -> u8 {
        self as u8
    }

    /// Inverse of `code`; unknown codes cannot come out of the log and count as transactions.
    pub(crate) fn of_code(code: u8) -> Class {
        match code {
            1 => Class::Block,
            2 => Class::Subtree,
            3 => Class::Anchor,
            _ => Class::Tx,
        }
    }
}

/// A frame that may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted<'a> {
    /// Its flow.
    pub hash_key: HashKey,
    /// Its number, never 0.
    pub seq: SeqNum,
    /// Its lifetime class.
    pub class: Class,
    /// The datagram without trailing bytes.
    pub bytes: &'a [u8],
}

impl Admitted<'_> {
    /// Group of a frame that did not come from one (wire 2).
    pub fn group(&self, bits: ShardBits) -> GroupIndex {
        let route = match Kind::of(self.bytes) {
            Ok(Kind::Fragment) => Fragment::decode(self.bytes).ok().and_then(|fragment| {
                Route::of_fragment(&fragment, bits, bits).map(|route| route.destination)
            }),
            _ => DataFrame::decode(self.bytes)
                .ok()
                .and_then(|data| Route::of(&data, bits, bits).map(|route| route.destination)),
        };
        route.unwrap_or(GroupIndex(0))
    }
}

service::reasons! {
    /// Why a datagram is not kept.
    pub enum Refusal {
        /// No decoder takes it.
        keeps Undecodable = "decode_error",
        /// V1 carries no number.
        keeps Legacy = "legacy_v1",
        /// SeqNum 0: nobody could ask for it.
        keeps Unnumbered = "unnumbered",
        /// V7: derived by listeners, never asked for (wire 1.7).
        keeps BlockHeader = "block_header",
        /// V8, not served yet.
        keeps Bundle = "bundle",
        /// V9, not served yet.
        keeps Object = "object",
        /// 0x40, not served yet.
        keeps Manifest = "manifest",
        /// A control datagram on the data port.
        keeps Control = "control",
        /// It is here already.
        keeps Duplicate = "duplicate",
        /// Another frame has its number.
        keeps Conflict = "conflict",
        /// Longer than a segment of the store: nobody can have it repaired from here.
        loses Oversize = "oversize",
        /// It came to no group of the fabric.
        keeps Foreign = "foreign_group",
    }
}

/// Looks at one datagram.
///
/// # Errors
/// Why it is not kept.
pub fn admit(datagram: &[u8]) -> Result<Admitted<'_>, Refusal> {
    let (hash_key, seq, class, len) = match Kind::of(datagram).map_err(|_| Refusal::Undecodable)? {
        Kind::LegacyTx => return Err(Refusal::Legacy),
        Kind::BlockHeader => return Err(Refusal::BlockHeader),
        Kind::Bundle => return Err(Refusal::Bundle),
        Kind::Object => return Err(Refusal::Object),
        Kind::Manifest => return Err(Refusal::Manifest),
        Kind::Fragment => {
            let fragment = Fragment::decode(datagram).map_err(|_| Refusal::Undecodable)?;
            let class = match fragment.original_version {
                0x04 => Class::Block,
                0x05 => Class::Subtree,
                0x06 => Class::Anchor,
                _ => Class::Tx,
            };
            (fragment.hash_key, fragment.seq_num, class, fragment.wire_len())
        }
        kind @ (Kind::Tx | Kind::Block | Kind::Subtree | Kind::Anchor) => {
            let data = DataFrame::decode(datagram).map_err(|_| Refusal::Undecodable)?;
            let class = match kind {
                Kind::Block => Class::Block,
                Kind::Subtree => Class::Subtree,
                Kind::Anchor => Class::Anchor,
                _ => Class::Tx,
            };
            (data.hash_key, data.seq_num, class, data.wire_len())
        }
        _ => return Err(Refusal::Control),
    };
    if seq == SeqNum(0) {
        return Err(Refusal::Unnumbered);
    }
    let bytes = datagram.get(..len).ok_or(Refusal::Undecodable)?;
    Ok(Admitted { hash_key, seq, class, bytes })
}

/// Label of a frame's flow, as its sender's digest would name it; zeros where it has none.
pub(crate) fn label_of(stored: &[u8]) -> Id {
    let label = || {
        // Labels do not depend on the number of shards.
        let bits = ShardBits::new(0)?;
        Some(match Kind::of(stored) {
            Ok(Kind::Fragment) => {
                *Route::of_fragment(&Fragment::decode(stored).ok()?, bits, bits)?.flow_subtree
            }
            _ => *Route::of(&DataFrame::decode(stored).ok()?, bits, bits)?.flow_subtree,
        })
    };
    label().unwrap_or(frame::id::NO_ID)
}

/// True if the payload of a stored frame hashes to its id. Fragments carry a part of a payload and pass.
pub fn payload_matches_id(stored: &[u8]) -> bool {
    match Kind::of(stored) {
        Ok(Kind::Fragment) => Fragment::decode(stored).is_ok(),
        Ok(Kind::Tx | Kind::Anchor | Kind::Block | Kind::Subtree) => {
            DataFrame::decode(stored).is_ok_and(|data| data_matches_id(&data))
        }
        _ => false,
    }
}

fn data_matches_id(data: &DataFrame<'_>) -> bool {
    match (data.kind, data.msg_type) {
        (Kind::Subtree, form) => subtree_root(form, data.payload).is_some_and(|root| root == *data.id),
        // A block announce and a whole block body share only the header at the front (wire 1.4).
        (Kind::Block, 1) => {
            data.payload.first_chunk::<80>().is_some_and(|header| block::header_hash(header) == *data.id)
        }
        _ => tx::canonical_txid(data.payload).is_ok_and(|TxId(id)| id == *data.id),
    }
}

fn subtree_root(form: u8, payload: &[u8]) -> Option<Id> {
    let data = SubtreeData::decode(Form::of(form)?, payload).ok()?;
    data.root(&mut vec![TxId::default(); data.nodes.len()])
}
