//! Does the payload belong to the id in the header?
//!
//! Ids decide what is claimed and which gap is closed. So a frame that fails here leaves no trace but a counter.
//! Transactions: canonical TxID, Extended Format aware (wire 1.2). Blocks: header hash and proof of work (wire 1.4).
//! Subtree data: Merkle root over the nodes (wire 1.5).
//!
//! Cost: one double SHA-256 over the payload; those of a batch are computed together ([`Hashes`]). The Merkle root of
//! subtree data copies its node hashes once; such frames are rare and bounded by the reassembly limit.

use super::counts::DropReason;
use frame::block::{HEADER, header_hash, meets_target};
use frame::hash::{LONGEST_TOGETHER, Message, sha256d_each};
use frame::subtree::{Form, SubtreeData};
use frame::tx::{canonical_txid, is_extended};
use frame::{DataFrame, Id, Kind, TxId};

/// What is checked.
#[derive(Clone, Copy, Debug)]
pub struct VerifyRules {
    /// Payloads must hash to their ids.
    pub payload_hash: bool,
    /// Block headers must meet their target.
    pub block_pow: bool,
    /// And have at least this many leading zero bits.
    pub min_pow_bits: u32,
}

impl Default for VerifyRules {
    fn default() -> VerifyRules {
        VerifyRules { payload_hash: true, block_pow: true, min_pow_bits: 0 }
    }
}

/// Message type of a V4 announcement (wire 1.4); the other one carries a coinbase transaction.
pub(crate) const BLOCK_ANNOUNCE: u8 = 1;

/// Hashes of the transactions of a batch, by position; reused from batch to batch.
#[derive(Debug, Default)]
pub(super) struct Hashes {
    found: Vec<Option<Id>>,
    messages: Vec<Message>,
    sorted: Vec<Message>,
}

impl Hashes {
    /// A batch of `len` datagrams begins; what was found before is forgotten.
    pub(super) fn begin(&mut self, len: usize) {
        self.messages.clear();
        self.found.clear();
        self.found.resize(len, None);
    }

    /// The frame at this position will be verified: if its hash can be computed together with others, it will be.
    pub(super) fn want(&mut self, at: usize, frame: &DataFrame<'_>, rules: &VerifyRules) {
        let transaction = matches!(frame.kind, Kind::LegacyTx | Kind::Tx);
        let (payload, from) = (frame.payload, frame.header_len());
        if !transaction || !rules.payload_hash || payload.len() > LONGEST_TOGETHER || is_extended(payload) {
            return;
        }
        if let (Ok(at), Ok(from), Ok(len)) = (at.try_into(), from.try_into(), payload.len().try_into()) {
            self.messages.push(Message { at, from, len });
        }
    }

    /// Hashes what was wanted; `datagram` may give more than the datagram.
    pub(super) fn compute<'a>(&mut self, datagram: impl Fn(usize) -> &'a [u8]) {
        self.sorted.resize(self.messages.len(), Message::default());
        let found = &mut self.found;
        let bytes =
            |message: Message| datagram(message.at as usize).get(message.from as usize..).unwrap_or_default();
        sha256d_each(&self.messages, &mut self.sorted, bytes, |message, id| {
            found[message.at as usize] = Some(id);
        });
    }

    /// Hash of the transaction at a position, where it was computed.
    pub(super) fn of(&self, at: usize) -> Option<Id> {
        self.found.get(at).copied().flatten()
    }
}

/// Checks a whole frame; `hash` is that of its transaction, where it is known.
pub fn verify(frame: &DataFrame<'_>, rules: &VerifyRules, hash: Option<Id>) -> Result<(), DropReason> {
    let holds = match frame.kind {
        Kind::Block if frame.msg_type == BLOCK_ANNOUNCE => return verify_block(frame, rules),
        _ if !rules.payload_hash => true,
        Kind::LegacyTx | Kind::Tx | Kind::Anchor | Kind::Block => {
            let hash = hash.or_else(|| canonical_txid(frame.payload).ok().map(|id| id.0));
            hash.is_some_and(|hash| hash == *frame.id)
        }
        Kind::Subtree => subtree_root(frame.msg_type, frame.payload).is_some_and(|root| root == *frame.id),
        _ => false,
    };
    if holds { Ok(()) } else { Err(DropReason::PayloadHash) }
}

fn verify_block(frame: &DataFrame<'_>, rules: &VerifyRules) -> Result<(), DropReason> {
    if !rules.payload_hash && !rules.block_pow {
        return Ok(());
    }
    let header: &[u8; HEADER] = frame.payload.first_chunk().ok_or(DropReason::PayloadHash)?;
    let hash = header_hash(header);
    if rules.payload_hash && hash != *frame.id {
        return Err(DropReason::PayloadHash);
    }
    if rules.block_pow && !(meets_target(header, 0) && leading_zero_bits(&hash) >= rules.min_pow_bits) {
        return Err(DropReason::BlockPow);
    }
    Ok(())
}

/// Zero bits at the front of the hash as displayed, which is the back of the bytes as hashed.
fn leading_zero_bits(hash: &Id) -> u32 {
    let mut bits = 0;
    for byte in hash.iter().rev() {
        bits += byte.leading_zeros();
        if *byte != 0 {
            break;
        }
    }
    bits
}

fn subtree_root(msg_type: u8, payload: &[u8]) -> Option<Id> {
    let data = SubtreeData::decode(Form::of(msg_type)?, payload).ok()?;
    data.root(&mut vec![TxId::default(); data.nodes.len()])
}
