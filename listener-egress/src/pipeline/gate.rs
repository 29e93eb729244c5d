//! The last gate before the consumer: each id once.
//!
//! A verified frame claims its class and id (`txidset`); the consumer's name is part of the claim's prefix, so that the
//! listeners of one deployment share the gate and those of another do not. A frame that must wait for tier 2 is copied
//! into a bounded table; when that is full, the frame passes unclaimed (a duplicate is better than a loss).
//!
//! What the gate lets through carries a ticket that says how its delivery went: handed over, or failed (the claim is
//! released in both tiers, so that a sibling, or a resend, gets through).

use super::counts::{Counts, DropReason};
use super::mark::{Markable, Sighted};
use super::reassemble::{Parts, Rebuilt};
use super::slots::{Slot, Slots};
use crate::mutation::Mutation;
use frame::{DataFrame, HashKey, Id, Kind, SeqNum};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use txidset::{ClaimKey, Claimant, Claims, ClaimsConfig, Class, Decision, LocalSet, Ticket, Verdict, Why};

/// Class and id that a frame claims; `None` for kinds that are not delivered.
pub fn claim_key(frame: &DataFrame<'_>) -> Option<ClaimKey> {
    let class = match frame.kind {
        Kind::LegacyTx | Kind::Tx => Class::Tx,
        Kind::Anchor => Class::Anchor,
        Kind::Block => Class::Block(frame.msg_type),
        Kind::Subtree => Class::Subtree(frame.msg_type),
        _ => return None,
    };
    Some(ClaimKey { class, id: *frame.id })
}

/// Where the bytes of a frame are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the batch that is being worked on.
    Batch(u32),
    /// In the gate's own table.
    Kept(Kept),
}

/// A frame in the gate's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept(Slot);

/// A frame on its way to the consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Its bytes, from the first of the header.
    pub place: Place,
    /// Declared length: what lies behind is padding.
    pub wire_len: u32,
    /// Of which the header.
    pub header_len: u16,
    /// What to answer how it went; `None` if it passed without a claim.
    pub ticket: Option<Ticket>,
}

/// A frame that asks to pass.
pub(crate) struct Candidate {
    pub(crate) key: ClaimKey,
    pub(crate) place: Place,
    pub(crate) wire_len: u32,
    pub(crate) header_len: u16,
    /// Its number is behind its flow's highest and was not missing.
    pub(crate) behind: Option<Novel>,
    /// Whether to mark it if its id is new.
    pub(crate) mark: Markable,
}

impl Claimant for Candidate {
    fn key(&self) -> &ClaimKey {
        &self.key
    }
    fn bytes(&self) -> u32 {
        self.wire_len
    }
}

/// A frame whose id may be new although its number is not.
#[derive(Clone, Copy)]
pub(crate) struct Novel {
    pub(crate) key: HashKey,
    pub(crate) seq: SeqNum,
    pub(crate) source: IpAddr,
}

struct Waiting {
    frame: Vec<u8>,
    wire_len: u32,
    header_len: u16,
    /// Of a rebuilt frame.
    parts: Option<Parts>,
}

impl Waiting {
    /// Without its bytes.
    fn empty(wire_len: u32, header_len: u16) -> Waiting {
        Waiting { frame: Vec::new(), wire_len, header_len, parts: None }
    }
}

/// See the module text.
pub struct Gate {
    claims: Option<Claims>,
    kept: Slots<Waiting>,
    spare: Vec<Vec<u8>>,
    bytes: usize,
    budget: usize,
    candidates: Vec<Candidate>,
    verdicts: Vec<Verdict>,
    /// Names given to those that wait, in order.
    waiting: Vec<Slot>,
    /// New ids of the last batch that are to be marked.
    pub(super) sighted: Vec<Sighted>,
    pub(super) mutation: Option<Mutation>,
}

/// Buffers kept for reuse, each at most this long.
const SPARES: usize = 1024;
const SPARE_BYTES: usize = 4096;

impl Gate {
    /// `None` for `local`: no gate, every frame passes. `budget`: bytes of frames that wait.
    pub fn new(config: ClaimsConfig, local: Option<Arc<LocalSet>>, budget: usize, seed: u64) -> Gate {
        Gate {
            claims: local.map(|local| Claims::new(config, local, seed)),
            kept: Slots::new(),
            spare: Vec::new(),
            bytes: 0,
            budget,
            candidates: Vec::new(),
            verdicts: Vec::new(),
            waiting: Vec::new(),
            sighted: Vec::new(),
            mutation: None,
        }
    }

    pub(crate) fn ask(&mut self, candidate: Candidate) {
        self.candidates.push(candidate);
    }

    /// Keeps a rebuilt frame until it was delivered.
    pub(crate) fn keep(&mut self, rebuilt: Rebuilt, wire_len: u32, header_len: u16) -> Place {
        let Rebuilt { frame, parts } = rebuilt;
        self.bytes += frame.len();
        Place::Kept(Kept(self.kept.insert(Waiting { frame, wire_len, header_len, parts: Some(parts) })))
    }

    /// Decides about all candidates of a batch. Frames that pass are appended to `out`; ids that were new although their
    /// number was not are named to `novel`.
    pub(crate) fn judge<'a>(
        &mut self,
        now: Instant,
        bytes_of: impl Fn(u32) -> &'a [u8],
        out: &mut Vec<Delivery>,
        mut novel: impl FnMut(Novel, &mut Counts),
        counts: &mut Counts,
    ) {
        let mut candidates = std::mem::take(&mut self.candidates);
        let Some(claims) = &mut self.claims else {
            for c in candidates.drain(..) {
                out.push(Delivery {
                    place: c.place,
                    wire_len: c.wire_len,
                    header_len: c.header_len,
                    ticket: None,
                });
            }
            self.candidates = candidates;
            return;
        };
        self.verdicts.clear();
        self.waiting.clear();
        let stats = claims.stats();
        let before = stats.by(Why::BreakerOpen).value();
        let (kept, waiting, verdicts) = (&mut self.kept, &mut self.waiting, &mut self.verdicts);
        claims.claim_each(
            now,
            &candidates,
            // Tokens name the waiting copy; it is made only for those that wait.
            |at| {
                let c = &candidates[at];
                let slot = match c.place {
                    Place::Kept(Kept(slot)) => slot,
                    Place::Batch(_) => kept.insert(Waiting::empty(c.wire_len, c.header_len)),
                };
                waiting.push(slot);
                Some(slot.token())
            },
            |_, verdict| verdicts.push(verdict),
        );
        // Won without being asked about, because the store does not answer.
        let unasked = stats.by(Why::BreakerOpen).value() - before;
        let mut waiting = 0;
        for (index, c) in candidates.drain(..).enumerate() {
            let mut delivery =
                Delivery { place: c.place, wire_len: c.wire_len, header_len: c.header_len, ticket: None };
            let verdict = self.verdicts.get(index).copied();
            if let (Some(behind), Some(Verdict::Won(_) | Verdict::Wait)) = (c.behind, verdict) {
                novel(behind, counts);
            }
            if c.mark != Markable::No && matches!(verdict, Some(Verdict::Won(_) | Verdict::Wait)) {
                match (c.mark, c.place) {
                    (Markable::Yes, Place::Batch(at)) => self.sighted.push(sighted(&c.key.id, bytes_of(at))),
                    (Markable::Withheld(why), _) => counts.marks_withheld[why.index()] += 1,
                    _ => {}
                }
            }
            match verdict {
                Some(Verdict::Seen) => {
                    counts.drop(DropReason::Deduplicated);
                    if let Place::Kept(Kept(slot)) = c.place {
                        self.forget(slot);
                    }
                }
                Some(Verdict::Wait) => {
                    counts.claims_waited += 1;
                    let slot = self.waiting.get(waiting).copied();
                    waiting += 1;
                    if let (Place::Batch(at), Some(slot)) = (c.place, slot) {
                        let frame = bytes_of(at);
                        let padded = self.mutation == Some(Mutation::PaddingDelivered);
                        let frame = frame.get(..c.wire_len as usize).filter(|_| !padded).unwrap_or(frame);
                        if self.bytes + frame.len() > self.budget {
                            counts.claims_open += 1;
                            // Settled only when the consumer has it, like any other.
                            delivery.ticket =
                                self.claims.as_mut().and_then(|claims| claims.let_through(slot.token()));
                            if delivery.ticket.is_some() {
                                self.kept.remove(slot);
                            }
                            if self.mutation != Some(Mutation::FullTableDrops) {
                                out.push(delivery);
                            }
                        } else {
                            self.fill(slot, frame);
                        }
                    }
                }
                won => {
                    counts.claims_won += 1;
                    if let Some(Verdict::Won(ticket)) = won {
                        delivery.ticket = Some(ticket);
                    }
                    out.push(delivery);
                }
            }
        }
        counts.claims_won -= unasked;
        counts.claims_open += unasked;
        self.candidates = candidates;
    }

    /// Frames whose claims were decided meanwhile.
    pub(crate) fn decided(&mut self, now: Instant, out: &mut Vec<Delivery>, counts: &mut Counts) {
        let Some(claims) = &mut self.claims else { return };
        while let Some(decision) = claims.next_decision() {
            match decision {
                Decision::Send { token, ticket, why } => {
                    let slot = Slot::of_token(token);
                    counts.claims_won += u64::from(matches!(why, Why::Won | Why::TakenOver));
                    counts.claims_open += u64::from(!matches!(why, Why::Won | Why::TakenOver));
                    match self.kept.get(slot) {
                        Some(w) if !w.frame.is_empty() => out.push(Delivery {
                            place: Place::Kept(Kept(slot)),
                            wire_len: w.wire_len,
                            header_len: w.header_len,
                            ticket: Some(ticket),
                        }),
                        // It passed when the table was full.
                        _ => {
                            self.kept.remove(slot);
                            claims.sent(now, ticket);
                        }
                    }
                }
                Decision::Suppress { token, .. } => {
                    counts.drop(DropReason::DeduplicatedElsewhere);
                    let slot = Slot::of_token(token);
                    if let Some(waiting) = self.kept.remove(slot) {
                        self.bytes -= waiting.frame.len();
                        recycle(&mut self.spare, waiting.frame);
                    }
                }
            }
        }
    }

    /// May the frame still leave under its claim? `false`: the process was late (a pause, a full queue), another
    /// listener may have taken over; the frame is kept and a decision follows.
    pub(crate) fn may_leave<'a>(
        &mut self,
        now: Instant,
        delivery: &Delivery,
        bytes: impl FnOnce() -> &'a [u8],
    ) -> bool {
        let (Some(claims), Some(ticket)) = (&mut self.claims, delivery.ticket) else { return true };
        let kept = &mut self.kept;
        let mut copy = None;
        let may = claims.may_send(now, ticket, || match delivery.place {
            Place::Kept(Kept(slot)) => slot.token(),
            Place::Batch(_) => {
                let slot = kept.insert(Waiting::empty(delivery.wire_len, delivery.header_len));
                copy = Some(slot);
                slot.token()
            }
        });
        if let Some(slot) = copy {
            self.fill(slot, bytes());
        }
        may
    }

    /// The frame was handed to the consumer, or queued for it: its kept copy goes.
    pub(crate) fn release(&mut self, delivery: &Delivery) {
        if let Place::Kept(Kept(slot)) = delivery.place {
            self.forget(slot);
        }
    }

    /// Bytes of a kept frame.
    pub(crate) fn bytes_of(&self, kept: Kept) -> &[u8] {
        self.kept.get(kept.0).map_or(&[], |waiting| &waiting.frame)
    }

    /// What a kept frame was made of, if it was rebuilt.
    pub(crate) fn parts_of(&self, delivery: &Delivery) -> Option<&Parts> {
        let Place::Kept(Kept(slot)) = delivery.place else { return None };
        self.kept.get(slot)?.parts.as_ref()
    }

    /// The consumer has the frame.
    pub(crate) fn sent(&mut self, now: Instant, ticket: Ticket) {
        if let Some(claims) = &mut self.claims {
            claims.sent(now, ticket);
        }
    }

    /// The consumer will not get the frame from us.
    pub(crate) fn failed(&mut self, now: Instant, ticket: Ticket) {
        if let Some(claims) = &mut self.claims {
            claims.failed(now, ticket);
        }
    }

    /// The protocol, for its driver.
    pub fn claims_mut(&mut self) -> Option<&mut Claims> {
        self.claims.as_mut()
    }

    pub(crate) fn claims(&self) -> Option<&Claims> {
        self.claims.as_ref()
    }

    /// Bytes of frames that are kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Frames that wait.
    pub fn waiting(&self) -> usize {
        self.kept.len()
    }

    fn fill(&mut self, slot: Slot, frame: &[u8]) {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.extend_from_slice(frame);
        self.bytes += buffer.len();
        if let Some(waiting) = self.kept.get_mut(slot) {
            waiting.frame = buffer;
        }
    }

    fn forget(&mut self, slot: Slot) {
        if let Some(waiting) = self.kept.remove(slot) {
            self.bytes -= waiting.frame.len();
            recycle(&mut self.spare, waiting.frame);
        }
    }
}

fn sighted(id: &Id, frame: &[u8]) -> Sighted {
    let (flow, number) = frame::datagram::stamped(frame).map_or((0, 0), |(_, flow, seq)| (flow.0, seq.0));
    Sighted { id: *id, flow, number }
}

fn recycle(spare: &mut Vec<Vec<u8>>, mut buffer: Vec<u8>) {
    if spare.len() < SPARES && buffer.capacity() > 0 && buffer.capacity() <= SPARE_BYTES {
        buffer.clear();
        spare.push(buffer);
    }
}
