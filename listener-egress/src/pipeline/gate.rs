//! The last gate before the consumer: each id once.
//!
//! A verified frame claims its class and id (`txidset`). The consumer's name is part of the claim's prefix: the listeners
//! of one deployment share the gate, those of another do not. A frame that must wait for tier 2 is copied into a bounded
//! table. When that is full, the frame passes unclaimed: a duplicate is better than a loss.
//!
//! A frame with bytes that its id does not prove claims its variant too ([`frame::outside`]), and passes if it wins either. The
//! SubtreeID makes no variant here: it has been filtered by. A raw copy behind an extended one is let go, unless the id is
//! [`contested`](super::contested).
//!
//! What the gate lets through carries a ticket that says how its delivery went. It was handed over; or it failed, and the
//! claim is released in both tiers, so that a sibling, or a resend, gets through.

use super::contested::Contested;
use super::counts::{Counts, DropReason};
use super::mark::{Markable, Sighted};
use super::reassemble::{Parts, Rebuilt};
use frame::{DataFrame, HashKey, Id, Kind, Label, SeqNum, Variant};
use gap_track::slots::{Slot, Slots};
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

/// The claim on the bytes that a frame's id does not prove, beside that on its id, `key`; `None` where the id proves all.
pub(super) fn variant_key(frame: &DataFrame<'_>, key: &ClaimKey) -> Option<ClaimKey> {
    let variant = Variant::of(frame, Label::LeftOut)?;
    Some(ClaimKey { class: key.class.variant(), id: variant.id })
}

/// Where the bytes of a frame are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FramePlace {
    /// In the batch that is being worked on.
    Batch(u32),
    /// In the gate's own table.
    Kept(Kept),
}

/// A frame in the gate's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept(Slot);

/// A frame on its way to the consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    /// Its bytes, from the first of the header.
    pub(super) place: FramePlace,
    /// Declared length: what lies behind is padding.
    pub(super) wire_len: u32,
    /// Of which the header.
    pub(super) header_len: u16,
    /// What to answer how it went; `None` if it passed without a claim.
    pub(super) ticket: Option<Ticket>,
}

/// A frame that asks to pass.
pub(super) struct Candidate {
    pub(super) key: ClaimKey,
    /// Of a frame whose id does not prove all its bytes.
    pub(super) variant: Option<ClaimKey>,
    pub(super) place: FramePlace,
    pub(super) wire_len: u32,
    pub(super) header_len: u16,
    /// Its number is behind its flow's highest and was not missing.
    pub(super) behind: Option<Novel>,
    /// Whether to mark it if its id is new.
    pub(super) mark: Markable,
    /// Its variant as proxies claim it, if it is to be marked and has one.
    pub(super) mark_variant: Option<Id>,
}

impl Candidate {
    fn delivery(&self, ticket: Option<Ticket>) -> Delivery {
        Delivery { place: self.place, wire_len: self.wire_len, header_len: self.header_len, ticket }
    }
}

impl Claimant for Candidate {
    fn key(&self) -> &ClaimKey {
        &self.key
    }
    fn variant(&self) -> Option<&ClaimKey> {
        self.variant.as_ref()
    }
    fn bytes(&self) -> u32 {
        self.wire_len
    }
}

/// A frame whose id may be new although its number is not.
#[derive(Clone, Copy)]
pub(super) struct Novel {
    pub(super) key: HashKey,
    pub(super) seq: SeqNum,
    pub(super) source: IpAddr,
}

struct KeptFrame {
    frame: Vec<u8>,
    wire_len: u32,
    header_len: u16,
    /// Of a rebuilt frame.
    parts: Option<Parts>,
}

impl KeptFrame {
    /// Without its bytes.
    fn empty(wire_len: u32, header_len: u16) -> KeptFrame {
        KeptFrame { frame: Vec::new(), wire_len, header_len, parts: None }
    }
}

/// See the module text.
pub(super) struct Gate {
    claims: Option<Claims>,
    kept: Slots<KeptFrame>,
    /// Places in `kept` of frames that passed because the table was full; their decision is still to come.
    passed: u64,
    spare: Vec<Vec<u8>>,
    bytes: usize,
    budget: usize,
    candidates: Vec<Candidate>,
    verdicts: Vec<Verdict>,
    /// Names given to those that wait, in order.
    waiting: Vec<Slot>,
    contested: Contested,
    /// New ids of the last batches that are to be marked.
    sighted: Vec<Sighted>,
    #[cfg(feature = "mutants")]
    mutation: Option<crate::mutation::Mutation>,
}

/// Buffers kept for reuse, each at most this long.
const SPARES: usize = 1024;
const SPARE_BYTES: usize = 4096;

impl Gate {
    /// `None` for `local`: no gate, every frame passes. `budget`: bytes of frames that wait.
    pub(super) fn new(config: ClaimsConfig, local: Option<Arc<LocalSet>>, budget: usize, seed: u64) -> Gate {
        Gate {
            claims: local.map(|local| Claims::new(config, local, seed)),
            kept: Slots::new(),
            passed: 0,
            spare: Vec::new(),
            bytes: 0,
            budget,
            candidates: Vec::new(),
            verdicts: Vec::new(),
            waiting: Vec::new(),
            contested: Contested::new(),
            sighted: Vec::new(),
            #[cfg(feature = "mutants")]
            mutation: None,
        }
    }

    /// Plants a fault.
    #[cfg(feature = "mutants")]
    pub(super) fn mutate(&mut self, mutation: crate::mutation::Mutation) {
        self.mutation = Some(mutation);
    }

    /// New ids that are to be marked, since `forget_sighted`.
    pub(super) fn sighted(&self) -> &[Sighted] {
        &self.sighted
    }

    /// They were handed over.
    pub(super) fn forget_sighted(&mut self) {
        self.sighted.clear();
    }

    /// The claim, beside that on its id, of a frame whose id proves all of it, where that id is contested.
    pub(super) fn standard_key(&self, key: &ClaimKey) -> Option<ClaimKey> {
        let class = key.class.variant();
        let id = || Variant::of_nothing(&key.id, Label::LeftOut);
        self.contested.has(&key.id).then(|| ClaimKey { class, id: id() })
    }

    /// A frame asks to pass: `judge` answers.
    pub(super) fn ask(&mut self, candidate: Candidate) {
        self.candidates.push(candidate);
    }

    /// Keeps a rebuilt frame until it was delivered.
    pub(super) fn keep(&mut self, rebuilt: Rebuilt, wire_len: u32, header_len: u16) -> FramePlace {
        let Rebuilt { frame, parts } = rebuilt;
        self.bytes += frame.len();
        FramePlace::Kept(Kept(self.kept.insert(KeptFrame {
            frame,
            wire_len,
            header_len,
            parts: Some(parts),
        })))
    }

    /// Decides about all candidates of a batch. Frames that pass are appended to `out`; ids that were new although their
    /// number was not are named to `novel`.
    pub(super) fn judge<'a>(
        &mut self,
        now: Instant,
        bytes_of: impl Fn(u32) -> &'a [u8],
        out: &mut Vec<Delivery>,
        mut novel: impl FnMut(Novel),
        counts: &mut Counts,
    ) {
        let mut candidates = std::mem::take(&mut self.candidates);
        let Some(claims) = &mut self.claims else {
            out.extend(candidates.drain(..).map(|c| c.delivery(None)));
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
                    FramePlace::Kept(Kept(slot)) => slot,
                    FramePlace::Batch(_) => kept.insert(KeptFrame::empty(c.wire_len, c.header_len)),
                };
                waiting.push(slot);
                Some(slot.token())
            },
            |_, verdict| verdicts.push(verdict),
        );
        // Won without being asked about, because the store does not answer.
        let unasked = stats.by(Why::BreakerOpen).value() - before;
        let mut waited = 0;
        for (index, c) in candidates.drain(..).enumerate() {
            let verdict = self.verdicts.get(index).copied();
            if matches!(verdict, Some(Verdict::Won(_) | Verdict::Wait)) {
                if let Some(behind) = c.behind {
                    novel(behind);
                }
                if let Some(variant) = &c.variant {
                    self.contested.passed(&c.key.id, &variant.id);
                }
                self.mark(&c, &bytes_of, counts);
            }
            match verdict {
                Some(Verdict::Seen) => {
                    counts.dropped.keep(DropReason::Deduplicated, 1);
                    if let FramePlace::Kept(Kept(slot)) = c.place {
                        self.forget(slot);
                    }
                }
                Some(Verdict::Wait) => {
                    let slot = self.waiting.get(waited).copied();
                    waited += 1;
                    counts.claims_waited += 1;
                    if let (FramePlace::Batch(at), Some(slot)) = (c.place, slot) {
                        out.extend(self.wait(&c, slot, bytes_of(at), counts));
                    }
                }
                won => {
                    counts.claims_won += 1;
                    out.push(c.delivery(if let Some(Verdict::Won(ticket)) = won {
                        Some(ticket)
                    } else {
                        None
                    }));
                }
            }
        }
        counts.claims_won -= unasked;
        counts.claims_open += unasked;
        self.candidates = candidates;
    }

    /// Notes a new id that is to be marked, or why it is not.
    fn mark<'a>(&mut self, c: &Candidate, bytes_of: impl Fn(u32) -> &'a [u8], counts: &mut Counts) {
        match (c.mark, c.place) {
            (Markable::Yes, FramePlace::Batch(at)) => {
                let variant = c.mark_variant.map(|id| ClaimKey { class: c.key.class.variant(), id });
                let keys = [Some(c.key), variant].into_iter().flatten();
                self.sighted.extend(keys.map(|key| sighted(key, bytes_of(at))));
            }
            (Markable::Withheld(why), _) => counts.marks_withheld[why.index()] += 1,
            (Markable::No | Markable::Yes, _) => {}
        }
    }

    /// Keeps a copy of a frame that waits for tier 2; where there is no room for it, the frame passes at once.
    fn wait(&mut self, c: &Candidate, slot: Slot, frame: &[u8], counts: &mut Counts) -> Option<Delivery> {
        let padded = planted!(self, PaddingDelivered);
        let frame = frame.get(..c.wire_len as usize).filter(|_| !padded).unwrap_or(frame);
        if self.bytes + frame.len() <= self.budget {
            self.fill(slot, frame);
            return None;
        }
        counts.claims_open += 1;
        // Settled only when the consumer has it, like any other.
        let ticket = self.claims.as_mut().and_then(|claims| claims.let_through(slot.token()));
        match ticket {
            Some(_) => drop(self.kept.remove(slot)),
            None => self.passed += 1,
        }
        (!planted!(self, FullTableDrops)).then(|| c.delivery(ticket))
    }

    /// Frames whose claims were decided meanwhile.
    pub(super) fn decided(&mut self, now: Instant, out: &mut Vec<Delivery>, counts: &mut Counts) {
        let Some(claims) = &mut self.claims else { return };
        while let Some(decision) = claims.next_decision() {
            match decision {
                Decision::Send { token, ticket, why } => {
                    let slot = Slot::of_token(token);
                    counts.claims_won += u64::from(why.grants());
                    counts.claims_open += u64::from(!why.grants());
                    match self.kept.get(slot) {
                        Some(w) if !w.frame.is_empty() => out.push(Delivery {
                            place: FramePlace::Kept(Kept(slot)),
                            wire_len: w.wire_len,
                            header_len: w.header_len,
                            ticket: Some(ticket),
                        }),
                        // It passed when the table was full.
                        _ => {
                            self.passed -= u64::from(self.kept.remove(slot).is_some());
                            claims.sent(now, ticket);
                        }
                    }
                }
                Decision::Suppress { token, .. } => {
                    let slot = Slot::of_token(token);
                    if let Some(kept) = self.kept.remove(slot) {
                        let passed = u64::from(kept.frame.is_empty());
                        self.passed -= passed;
                        counts.dropped.keep(DropReason::DeduplicatedElsewhere, 1 - passed);
                        self.bytes -= kept.frame.len();
                        recycle(&mut self.spare, kept.frame);
                    }
                }
            }
        }
    }

    /// May the frame still leave under its claim? `false`: the process was late (a pause, a full queue), another
    /// listener may have taken over; the frame is kept and a decision follows.
    pub(super) fn may_leave<'a>(
        &mut self,
        now: Instant,
        delivery: &Delivery,
        bytes: impl FnOnce() -> &'a [u8],
    ) -> bool {
        let (Some(claims), Some(ticket)) = (&mut self.claims, delivery.ticket) else { return true };
        let kept = &mut self.kept;
        let mut copy = None;
        let may = claims.may_send(now, ticket, || match delivery.place {
            FramePlace::Kept(Kept(slot)) => slot.token(),
            FramePlace::Batch(_) => {
                let slot = kept.insert(KeptFrame::empty(delivery.wire_len, delivery.header_len));
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
    pub(super) fn release(&mut self, delivery: &Delivery) {
        if let FramePlace::Kept(Kept(slot)) = delivery.place {
            self.forget(slot);
        }
    }

    /// Bytes of a kept frame.
    pub(super) fn bytes_of(&self, kept: Kept) -> &[u8] {
        self.kept.get(kept.0).map_or(&[], |kept| &kept.frame)
    }

    /// What a kept frame was made of, if it was rebuilt.
    pub(super) fn parts_of(&self, delivery: &Delivery) -> Option<&Parts> {
        let FramePlace::Kept(Kept(slot)) = delivery.place else { return None };
        self.kept.get(slot)?.parts.as_ref()
    }

    /// The consumer has the frame.
    pub(super) fn sent(&mut self, now: Instant, ticket: Ticket) {
        if let Some(claims) = &mut self.claims {
            claims.sent(now, ticket);
        }
    }

    /// The consumer will not get the frame from us.
    pub(super) fn failed(&mut self, now: Instant, ticket: Ticket) {
        if let Some(claims) = &mut self.claims {
            claims.failed(now, ticket);
        }
    }

    /// The protocol, for its driver.
    pub(super) fn claims_mut(&mut self) -> Option<&mut Claims> {
        self.claims.as_mut()
    }

    pub(super) fn claims(&self) -> Option<&Claims> {
        self.claims.as_ref()
    }

    /// Bytes of frames that are kept.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Frames whose decision is open, but for those that passed when the table was full.
    pub(super) fn undecided(&self) -> u64 {
        (self.kept.len() as u64).saturating_sub(self.passed)
    }

    /// Frames that are kept.
    pub(super) fn kept(&self) -> usize {
        self.kept.len()
    }

    fn fill(&mut self, slot: Slot, frame: &[u8]) {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.extend_from_slice(frame);
        self.bytes += buffer.len();
        if let Some(kept) = self.kept.get_mut(slot) {
            kept.frame = buffer;
        }
    }

    fn forget(&mut self, slot: Slot) {
        if let Some(kept) = self.kept.remove(slot) {
            self.bytes -= kept.frame.len();
            recycle(&mut self.spare, kept.frame);
        }
    }
}

fn sighted(key: ClaimKey, frame: &[u8]) -> Sighted {
    let (flow, number) = frame::datagram::stamped(frame).map_or((0, 0), |(_, flow, seq)| (flow.0, seq.0));
    Sighted { key, flow, number }
}

fn recycle(spare: &mut Vec<Vec<u8>>, mut buffer: Vec<u8>) {
    if spare.len() < SPARES && buffer.capacity() > 0 && buffer.capacity() <= SPARE_BYTES {
        buffer.clear();
        spare.push(buffer);
    }
}
