//! Second stage, the ingress gate: first sight or not.
//!
//! All frames of a round are claimed at once. What tier 1 or an immediate store decides goes on in the same round, without
//! being copied. What must wait for a shared store keeps its place in the burst until the round ends. Then it is copied to
//! the [`slab`](super::slab), and goes on when its decision comes.

use super::admit::{Admitted, Outside};
use super::slab::{BLOCK, FrameHandle, HeldFrame, Slab};
#[cfg(feature = "mutants")]
use crate::mutation::Mutation;
use crate::tally::Tally;
use crate::variants::{Limited, Room, Variants};
use bytes::Bytes;
use frame::{Label, Variant};
use multicast_io::{Burst, Span};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use txidset::{ClaimKey, Claimant, Claims, Decision, Ticket, Verdict};

/// A frame on its way through the gate.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// What it is.
    pub(super) frame: Admitted,
    /// Who sent it.
    pub(super) sender: IpAddr,
    /// When it came to the gate.
    pub(super) since: Instant,
    /// What it is claimed as beside its id; kept for the case that it must be claimed again.
    pub(super) variant: Option<Box<ClaimKey>>,
}

/// A frame that may leave and is in no batch.
#[derive(Debug)]
pub(super) struct Cleared {
    /// What it is, and who sent it.
    pub(super) candidate: Candidate,
    /// Where its bytes are.
    pub(super) held: HeldFrame,
    /// The claim to be answered; `None` where the frame goes without one.
    pub(super) ticket: Option<Ticket>,
}

/// Frames of one round, and where their bytes are.
pub(super) type RoundFrames = Vec<(Candidate, HeldFrame)>;

/// A frame whose claim is asked for.
struct ClaimAsked {
    key: ClaimKey,
    /// Of a frame whose id does not prove all its bytes.
    variant: Option<ClaimKey>,
    /// Bytes that it takes while it waits.
    bytes: u32,
    /// Position in the batch.
    at: u32,
}

impl Claimant for ClaimAsked {
    fn key(&self) -> &ClaimKey {
        &self.key
    }
    fn variant(&self) -> Option<&ClaimKey> {
        self.variant.as_ref()
    }
    fn bytes(&self) -> u32 {
        self.bytes
    }
}

/// See the module text.
pub(super) struct Gate {
    claims: Claims,
    claiming: bool,
    /// How many variants of an id are let in; `None`: any number.
    variants: Option<Arc<Variants>>,
    slab: Slab<Candidate>,
    /// Frames of this round, written once when they were admitted and read once when they are loaded.
    batch: RoundFrames,
    asked: Vec<ClaimAsked>,
    verdicts: Vec<Verdict>,
    /// Handles given to those that wait, in order.
    waiting: Vec<FrameHandle>,
    /// Positions in `batch` of frames that may leave and whose bytes are in the burst: they must be taken in this round.
    present: VecDeque<(u32, Option<Ticket>)>,
    /// Frames that may leave and can wait for room.
    cleared: VecDeque<Cleared>,
    /// Undecided frames that are still in the burst.
    in_burst: Vec<FrameHandle>,
    /// Waiting bytes above which streams are not read.
    stream_limit: usize,
    #[cfg(feature = "mutants")]
    pub(super) mutation: Option<Mutation>,
}

impl Gate {
    /// A gate in front of `claims` with room for `entries` frames, `bytes` of them, that wait for the store, besides those
    /// that are parked. Not `claiming`: everything passes.
    pub(super) fn new(claims: Claims, claiming: bool, entries: usize, bytes: usize) -> Gate {
        let parked = claims.config().park_bytes;
        Gate {
            claims: claims.limit_waiting(entries, bytes),
            claiming,
            variants: None,
            slab: Slab::new(entries.saturating_add(parked / BLOCK), bytes.saturating_add(parked)),
            batch: Vec::new(),
            asked: Vec::new(),
            verdicts: Vec::new(),
            waiting: Vec::new(),
            present: VecDeque::new(),
            cleared: VecDeque::new(),
            in_burst: Vec::new(),
            stream_limit: bytes / 2,
            #[cfg(feature = "mutants")]
            mutation: None,
        }
    }

    /// Lets in so many variants of an id.
    pub(super) fn bound_variants(mut self, variants: Option<Arc<Variants>>) -> Gate {
        self.variants = variants;
        self
    }

    /// The protocol, for the driver.
    pub(super) fn claims(&mut self) -> &mut Claims {
        &mut self.claims
    }

    /// Puts a frame into the batch that [`Gate::ask`] will claim. Kinds without a claim pass at once.
    pub(super) fn offer(
        &mut self,
        mut candidate: Candidate,
        held: HeldFrame,
        outside: Option<&Outside>,
        tally: &Tally,
    ) {
        let at = u32::try_from(self.batch.len()).unwrap_or(u32::MAX);
        let key = candidate.frame.claim_key().filter(|_| self.claiming);
        if let (Some(key), Some(outside)) = (&key, outside) {
            candidate.variant = self.bound(key, outside, &mut candidate, tally).map(Box::new);
        }
        self.add(at, key, candidate, held);
    }

    /// Puts a frame back that was withdrawn.
    pub(super) fn offer_again(&mut self, candidate: Candidate, bytes: Bytes) {
        let at = u32::try_from(self.batch.len()).unwrap_or(u32::MAX);
        let key = candidate.frame.claim_key().filter(|_| self.claiming);
        self.add(at, key, candidate, HeldFrame::Owned(bytes));
    }

    fn add(&mut self, at: u32, key: Option<ClaimKey>, candidate: Candidate, held: HeldFrame) {
        let variant = candidate.variant.as_deref().copied();
        let bytes = u32::try_from(held.charge(candidate.frame.len as usize)).unwrap_or(u32::MAX);
        self.batch.push((candidate, held));
        match key {
            Some(key) => self.asked.push(ClaimAsked { key, variant, bytes, at }),
            None => self.clear(at, None),
        }
    }

    /// The variant under which a frame is claimed beside its id. Where its id has too many, that of its standard form, in which
    /// it then leaves, so once; none for frames that have no such form.
    fn bound(
        &self,
        key: &ClaimKey,
        outside: &Outside,
        candidate: &mut Candidate,
        tally: &Tally,
    ) -> Option<ClaimKey> {
        let class = key.class.variant();
        let (since, sender) = (candidate.since, candidate.sender);
        let room = self.variants.as_ref().map(|table| table.admit(since, key, &outside.variant, sender));
        let room = room.unwrap_or(Room::Granted);
        if room == Room::Granted {
            return Some(ClaimKey { class, id: outside.variant });
        }
        let cut = candidate.frame.reduce(outside);
        tally.limit(since, Limited::of(room == Room::SourceFull, cut), &key.id);
        cut.then(|| ClaimKey { class, id: Variant::of_nothing(&key.id, Label::Counts) })
    }

    fn clear(&mut self, at: u32, ticket: Option<Ticket>) {
        match &self.batch[at as usize] {
            (_, HeldFrame::InBurst(_)) => self.present.push_back((at, ticket)),
            (candidate, held) => {
                self.cleared.push_back(Cleared { candidate: candidate.clone(), held: held.clone(), ticket });
            }
        }
    }

    /// Claims the batch.
    pub(super) fn ask(&mut self, now: Instant, tally: &Tally) {
        if self.asked.is_empty() {
            return;
        }
        self.verdicts.clear();
        self.waiting.clear();
        let (slab, waiting, verdicts) = (&mut self.slab, &mut self.waiting, &mut self.verdicts);
        let drops = planted!(self, FrameWithoutPlaceDropped);
        let mut dropped = Vec::new();
        self.claims.claim_each(
            now,
            &self.asked,
            // Only frames that wait take a handle.
            |asked| match slab.reserve() {
                Some(handle) => {
                    waiting.push(handle);
                    Some(handle.token())
                }
                None => {
                    tally.slab_overflow.add(1);
                    dropped.extend(drops.then_some(asked));
                    None
                }
            },
            |_, verdict| verdicts.push(verdict),
        );
        let mut waiting = 0;
        let mut new = 0;
        for asked in 0..self.asked.len().min(self.verdicts.len()) {
            let at = self.asked[asked].at;
            match self.verdicts[asked] {
                Verdict::Wait => {
                    new += 1;
                    let (candidate, held) = self.batch[at as usize].clone();
                    let handle = self.waiting[waiting];
                    waiting += 1;
                    self.slab.fill(handle, candidate, held);
                    self.in_burst.push(handle);
                }
                Verdict::Seen => {
                    tally.seen_locally.add(1);
                    tally.deduped(self.batch[at as usize].0.frame.kind).add(1);
                }
                Verdict::Won(ticket) => {
                    new += 1;
                    if dropped.contains(&asked) {
                        continue;
                    }
                    self.clear(at, Some(ticket));
                }
            }
        }
        tally.new_locally.add(new);
        self.asked.clear();
    }

    /// The frames of this round, while those of them that may leave are loaded.
    pub(super) fn take_batch(&mut self) -> RoundFrames {
        std::mem::take(&mut self.batch)
    }

    /// Ends [`Gate::take_batch`].
    pub(super) fn give_batch_back(&mut self, batch: RoundFrames) {
        self.batch = batch;
    }

    /// The next frame of the batch that may leave and is in the burst already: its position, and its claim.
    pub(super) fn next_present(&mut self) -> Option<(usize, Option<Ticket>)> {
        self.present.pop_front().map(|(at, ticket)| (at as usize, ticket))
    }

    /// The next frame that may leave and waited for it outside of the batch.
    pub(super) fn next(&mut self, now: Instant, tally: &Tally) -> Option<Cleared> {
        if let Some(cleared) = self.cleared.pop_front() {
            return Some(cleared);
        }
        loop {
            match self.claims.next_decision()? {
                Decision::Suppress { token, why } => {
                    if let Some((candidate, _)) = self.slab.release(FrameHandle::from_token(token)) {
                        tally.deduped(candidate.frame.kind).add(1);
                        tally.wait_time(why).observe(now.saturating_duration_since(candidate.since));
                    }
                }
                Decision::Send { token, ticket, why } => {
                    let gone = self
                        .slab
                        .find(FrameHandle::from_token(token))
                        .is_none_or(|(_, held)| matches!(held, HeldFrame::Gone));
                    // An owner that comes late asks again: a sibling may have taken over.
                    let asks = !planted!(self, LateFrameSent);
                    if !gone && asks && !self.claims.may_send(now, ticket, || token) {
                        continue;
                    }
                    match self.slab.release(FrameHandle::from_token(token)) {
                        None | Some((_, HeldFrame::Gone)) => self.claims.sent(now, ticket),
                        Some((candidate, held)) => {
                            tally.wait_time(why).observe(now.saturating_duration_since(candidate.since));
                            return Some(Cleared { candidate, held, ticket: Some(ticket) });
                        }
                    }
                }
            }
        }
    }

    /// Copies undecided frames out of the burst, which is about to be cleared. Those that find no room are handed to
    /// `overflow`, to be sent undecided.
    pub(super) fn keep(&mut self, burst: &Burst, tally: &Tally, mut overflow: impl FnMut(Cleared)) {
        self.batch.clear();
        for handle in self.in_burst.drain(..) {
            let Some((_, HeldFrame::InBurst(span))) = self.slab.find(handle) else { continue };
            let span: Span = *span;
            if self.slab.keep(handle, burst.bytes(span)) {
                continue;
            }
            tally.slab_overflow.add(1);
            // The ticket says how it went: a claim that settled although the kernel refused its frame would be a loss.
            let ticket = self.claims.let_through(handle.token());
            if let Some((candidate, _)) = self.slab.find(handle) {
                overflow(Cleared { candidate: candidate.clone(), held: HeldFrame::InBurst(span), ticket });
            }
            if ticket.is_some() {
                self.slab.release(handle);
            } else {
                self.slab.mark_gone(handle);
            }
        }
    }

    /// Reads the bytes of a copied frame. Its blocks are free already; call before anything else is kept.
    pub(super) fn read(&self, first: u32, len: u32, out: &mut Vec<u8>) {
        self.slab.read(first, len, out);
    }

    /// Frames admitted that were not taken by [`Gate::next`] yet.
    pub(super) fn pending(&self) -> usize {
        self.asked.len() + self.present.len() + self.cleared.len()
    }

    /// Frames that were not claimed yet leave the batch, with their bytes: no interface can emit.
    pub(super) fn withdraw(&mut self, burst: &Burst, mut take: impl FnMut(Candidate, Bytes)) {
        let (asked, present) = (self.asked.drain(..), self.present.drain(..));
        for at in asked.map(|asked| asked.at).chain(present.map(|(at, _)| at)) {
            if let Some((candidate, held)) = self.batch.get(at as usize) {
                let bytes = match held {
                    HeldFrame::InBurst(span) => Bytes::copy_from_slice(burst.bytes(*span)),
                    HeldFrame::Owned(bytes) => bytes.clone(),
                    HeldFrame::Copied { .. } | HeldFrame::Gone => continue,
                };
                take(candidate.clone(), bytes);
            }
        }
    }

    /// What was decided is released and handed back, with its bytes: no interface can emit.
    pub(super) fn withdraw_decided(
        &mut self,
        now: Instant,
        burst: &Burst,
        tally: &Tally,
        mut take: impl FnMut(Candidate, Bytes),
    ) {
        while let Some(Cleared { candidate, held, ticket }) = self.next(now, tally) {
            if let Some(ticket) = ticket {
                tally.released.add(1);
                self.claims.failed(now, ticket);
            }
            let bytes = match held {
                HeldFrame::InBurst(span) => Bytes::copy_from_slice(burst.bytes(span)),
                HeldFrame::Owned(bytes) => bytes,
                HeldFrame::Copied { first, len } => {
                    let mut out = Vec::new();
                    self.read(first, len, &mut out);
                    out.into()
                }
                HeldFrame::Gone => continue,
            };
            take(candidate, bytes);
        }
    }

    /// Gives up what was decided and not taken: its claims are released. Returns how many frames.
    pub(super) fn abandon(&mut self, now: Instant, tally: &Tally) -> u64 {
        let mut frames = 0;
        while let Some(cleared) = self.next(now, tally) {
            frames += 1;
            if let Some(ticket) = cleared.ticket {
                tally.released.add(1);
                self.claims.failed(now, ticket);
            }
        }
        frames
    }

    /// Frames in the batch that are cleared and not taken.
    pub(super) fn has_cleared(&self) -> bool {
        !(self.cleared.is_empty() && self.present.is_empty())
    }

    /// Frames of this round were not claimed yet, or are in the burst and not taken: it must not be cleared.
    pub(super) fn has_unasked(&self) -> bool {
        !self.asked.is_empty() || !self.present.is_empty()
    }

    /// The store keeps up, and at most half of the room for waiting frames is taken.
    pub(super) fn may_read_streams(&self) -> bool {
        self.slab.used_bytes() <= self.stream_limit && !self.claims.is_behind()
    }

    /// Waiting bytes and frames, parked ones included.
    pub(super) fn load(&self) -> (usize, usize) {
        (self.slab.used_bytes(), self.slab.len())
    }
}
