//! Second stage: first sight or not.
//!
//! A whole batch is claimed at once; what tier 1 or an immediate store decides goes on in the same round, without being
//! copied. What must wait for a shared store keeps its place in the burst until the round ends, is then copied to the
//! [`slab`](super::slab), and goes on when its decision comes.

use super::admit::Admitted;
use super::slab::{BLOCK, Held, Key, Slab};
use crate::mutation::Mutation;
use crate::tally::Tally;
use multicast_io::{Burst, Span};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;
use txidset::{ClaimKey, Claimant, Claims, Decision, Ticket, Verdict};

/// A frame on its way through the gate.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// What it is.
    pub frame: Admitted,
    /// Who sent it.
    pub sender: IpAddr,
    /// When it came to the gate.
    pub since: Instant,
}

/// A frame that may leave and is in no batch.
#[derive(Debug)]
pub struct Cleared {
    /// What it is, and who sent it.
    pub candidate: Candidate,
    /// Where its bytes are.
    pub held: Held,
    /// The claim to be answered; `None` where the frame goes without one.
    pub ticket: Option<Ticket>,
}

/// Frames of one round, and where their bytes are.
pub type Batch = Vec<(Candidate, Held)>;

/// A frame whose claim is asked for.
struct Asked {
    key: ClaimKey,
    /// Bytes that it takes while it waits.
    bytes: u32,
    /// Place in the batch.
    at: u32,
}

impl Claimant for Asked {
    fn key(&self) -> &ClaimKey {
        &self.key
    }
    fn bytes(&self) -> u32 {
        self.bytes
    }
}

/// See the module text.
pub struct Gate {
    claims: Claims,
    claiming: bool,
    slab: Slab<Candidate>,
    /// Frames of this round, written once when they were judged and read once when they are loaded.
    batch: Batch,
    asked: Vec<Asked>,
    verdicts: Vec<Verdict>,
    /// Names given to those that wait, in order.
    waiting: Vec<Key>,
    /// Places in `batch` of frames that may leave and whose bytes are in the burst: they must be taken in this round.
    present: VecDeque<(u32, Option<Ticket>)>,
    /// Frames that may leave and can wait for room.
    cleared: VecDeque<Cleared>,
    /// Undecided frames that are still in the burst.
    in_burst: Vec<Key>,
    pub(super) mutation: Option<Mutation>,
}

impl Gate {
    /// A gate in front of `claims` with room for `entries` frames, `bytes` of them, that wait for the store, besides those
    /// that are parked. Not `claiming`: everything passes.
    pub fn new(claims: Claims, claiming: bool, entries: usize, bytes: usize) -> Gate {
        let parked = claims.config().park_bytes;
        Gate {
            claims: claims.limit_waiting(entries, bytes),
            claiming,
            slab: Slab::new(entries.saturating_add(parked / BLOCK), bytes.saturating_add(parked)),
            batch: Vec::new(),
            asked: Vec::new(),
            verdicts: Vec::new(),
            waiting: Vec::new(),
            present: VecDeque::new(),
            cleared: VecDeque::new(),
            in_burst: Vec::new(),
            mutation: None,
        }
    }

    /// The protocol, for the driver.
    pub fn claims(&mut self) -> &mut Claims {
        &mut self.claims
    }

    /// Puts a frame into the batch that [`Gate::ask`] will claim. Kinds without a claim pass at once.
    pub fn offer(&mut self, candidate: Candidate, held: Held) {
        let at = u32::try_from(self.batch.len()).unwrap_or(u32::MAX);
        let key = candidate.frame.claim_key().filter(|_| self.claiming);
        let bytes = u32::try_from(held.charge(candidate.frame.len as usize)).unwrap_or(u32::MAX);
        self.batch.push((candidate, held));
        match key {
            Some(key) => self.asked.push(Asked { key, bytes, at }),
            None => self.clear(at, None),
        }
    }

    fn clear(&mut self, at: u32, ticket: Option<Ticket>) {
        match &self.batch[at as usize] {
            (_, Held::InBurst(_)) => self.present.push_back((at, ticket)),
            (candidate, held) => {
                self.cleared.push_back(Cleared { candidate: candidate.clone(), held: held.clone(), ticket });
            }
        }
    }

    /// Claims the batch.
    pub fn ask(&mut self, now: Instant, tally: &Tally) {
        if self.asked.is_empty() {
            return;
        }
        self.verdicts.clear();
        self.waiting.clear();
        let (slab, waiting, verdicts) = (&mut self.slab, &mut self.waiting, &mut self.verdicts);
        let drops = self.mutation == Some(Mutation::FrameWithoutPlaceDropped);
        let mut dropped = Vec::new();
        self.claims.claim_each(
            now,
            &self.asked,
            // Only frames that wait take a name.
            |asked| match slab.reserve() {
                Some(name) => {
                    waiting.push(name);
                    Some(name.token())
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
                    let key = self.waiting[waiting];
                    waiting += 1;
                    self.slab.fill(key, candidate, held);
                    self.in_burst.push(key);
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
    pub fn lend_batch(&mut self) -> Batch {
        std::mem::take(&mut self.batch)
    }

    /// Ends [`Gate::lend_batch`].
    pub fn return_batch(&mut self, batch: Batch) {
        self.batch = batch;
    }

    /// The next frame of the batch that may leave and is in the burst already: its place, and its claim.
    pub fn next_present(&mut self) -> Option<(usize, Option<Ticket>)> {
        self.present.pop_front().map(|(at, ticket)| (at as usize, ticket))
    }

    /// The next frame that may leave and waited for it outside of the batch.
    pub fn next(&mut self, now: Instant, tally: &Tally) -> Option<Cleared> {
        if let Some(cleared) = self.cleared.pop_front() {
            return Some(cleared);
        }
        loop {
            match self.claims.next_decision()? {
                Decision::Suppress { token, why } => {
                    if let Some((candidate, _)) = self.slab.release(Key::from_token(token)) {
                        tally.deduped(candidate.frame.kind).add(1);
                        tally.wait_time(why).observe(now.saturating_duration_since(candidate.since));
                    }
                }
                Decision::Send { token, ticket, why } => {
                    let gone = self
                        .slab
                        .find(Key::from_token(token))
                        .is_none_or(|(_, held)| matches!(held, Held::Gone));
                    // An owner that comes late asks again: a sibling may have taken over.
                    let asks = self.mutation != Some(Mutation::LateFrameSent);
                    if !gone && asks && !self.claims.may_send(now, ticket, || token) {
                        continue;
                    }
                    match self.slab.release(Key::from_token(token)) {
                        None | Some((_, Held::Gone)) => self.claims.sent(now, ticket),
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
    pub fn keep(&mut self, burst: &Burst, tally: &Tally, mut overflow: impl FnMut(Cleared)) {
        self.batch.clear();
        for key in self.in_burst.drain(..) {
            let Some((_, Held::InBurst(span))) = self.slab.find(key) else { continue };
            let span: Span = *span;
            if self.slab.keep(key, burst.bytes(span)) {
                continue;
            }
            tally.slab_overflow.add(1);
            // The ticket says how it went: a claim that settled although the kernel refused its frame would be a loss.
            let ticket = self.claims.let_through(key.token());
            if let Some((candidate, _)) = self.slab.find(key) {
                overflow(Cleared { candidate: candidate.clone(), held: Held::InBurst(span), ticket });
            }
            if ticket.is_some() {
                self.slab.release(key);
            } else {
                self.slab.mark_gone(key);
            }
        }
    }

    /// Reads the bytes of a copied frame. Its blocks are free already; call before anything else is kept.
    pub fn read(&self, first: u32, len: u32, out: &mut Vec<u8>) {
        self.slab.read(first, len, out);
    }

    /// Frames judged that were not taken by [`Gate::next`] yet.
    pub fn pending(&self) -> usize {
        self.asked.len() + self.present.len() + self.cleared.len()
    }

    /// Frames in the batch that are cleared and not taken.
    pub fn has_cleared(&self) -> bool {
        !(self.cleared.is_empty() && self.present.is_empty())
    }

    /// The store does not keep up.
    pub fn is_behind(&self) -> bool {
        self.claims.is_behind()
    }

    /// Waiting bytes and frames, parked ones included.
    pub fn load(&self) -> (usize, usize) {
        (self.slab.used_bytes(), self.slab.len())
    }
}
