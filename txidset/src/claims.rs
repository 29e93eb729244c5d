//! The claim protocol of one worker, as a pure state machine: no socket, no clock, no task.
//!
//! Why it exists: between "this id is new here" and "this frame has left" a process can die, wake up late, lose an answer or
//! be refused by the kernel. The protocol decides in each case who sends.
//!
//! What it promises: a frame that a living sibling also received is sent by someone, whatever happens to the owner of the
//! claim at whatever moment. While nobody is slower than half a lease it is sent once. In doubt a frame is sent.
//!
//! [`Claims`] is the coordinator: the calls of the worker, and what an answer of the store means. The parts own the state:
//!
//! | Part | Owns |
//! |---|---|
//! | `local_tickets` | claims that tier 1 alone decided |
//! | `frames` | frames that tier 2 is asked about (`entries`), their `queue`, epochs (`ledger`), `cohorts`, `answer_timeout` |
//! | `requests` | what is asked, and what of it is under way |
//! | `parking` | copies that wait for the record of another owner |
//! | `bypass` | whether the store is given up |
//! | `failed_sends` | ids whose courtesy marks are not believed |
//!
//! Path of a frame: `claim` (tier 1, then the queue) → `poll_request` (one batch of keys) → `on_answer` (ours, another's, or
//! in doubt) → perhaps parked (until the other owner's record covers it or its lease is over) → `next_decision` → `sent` or
//! `failed` → the epoch in the ledger.
//!
//! Limits: frames that wait for an answer are bounded in number and bytes; when full the oldest that was not asked about is
//! sent (`Bypassed`). While the store is given up, nothing waits but a few probes. Parked copies are bounded in bytes; when
//! full the oldest is sent (`ParkingFull`).
//!
//! Cost: where tier 1 alone decides, the key of each frame in flight and no allocation; with tier 2, an entry a frame and
//! buffers that are used again.

mod answer_timeout;
mod bypass;
mod entries;
mod failed_sends;
mod frames;
mod local_tickets;
mod parking;
mod queue;
mod requests;
mod waiting_load;
mod watermark;

pub use requests::{Answer, Ask, Request, RequestId};
pub use watermark::Watermark;

use crate::config::{ClaimsConfig, Mode};
use crate::decision::{Claimant, Decision, Ticket, Token, Verdict, Why};
use crate::key::ClaimKey;
use crate::ledger::Unsettled;
use crate::local::LocalSet;
#[cfg(feature = "mutants")]
use crate::mutation::Mutation;
use crate::name::Names;
use crate::random::split_mix;
use crate::stats::ClaimStats;
use crate::value::{ClaimValue, CourtesyMark, Found};
use bypass::Bypass;
use bytes::Bytes;
use cache_backend::{Claimed, KeyValues, OpError, OpErrorKind};
use entries::{EntryHandle, EntryId, State, first_bytes};
use failed_sends::FailedSends;
use frames::Frames;
use local_tickets::{LocalTickets, is_local};
use parking::{Parking, Slipped};
use requests::{Asked, Requests, Subject};
use std::sync::Arc;
use std::time::Instant;
use waiting_load::WaitingLoad;

/// Frames that may wait for an answer unless `limit_waiting` says otherwise.
const WAIT_FRAMES: usize = 1 << 16;

/// Whether the connection that brought an answer can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Trust {
    /// Yes.
    Kept,
    /// An answer belonged to another question: drop the connection and fail what waits on it.
    Lost,
}

/// One worker's claims.
pub struct Claims {
    config: ClaimsConfig,
    stats: Arc<ClaimStats>,
    local: Arc<LocalSet>,
    tickets: LocalTickets,
    frames: Frames,
    requests: Requests,
    parking: Parking,
    bypass: Bypass,
    failed_sends: FailedSends,
}

/// Set-up.
impl Claims {
    /// `seed`: random per worker and start; the owner id and the nonces come from it.
    pub fn new(config: ClaimsConfig, local: Arc<LocalSet>, seed: u64) -> Claims {
        let mut nonces = seed;
        let owners = split_mix(&mut nonces);
        let stats: Arc<ClaimStats> = Arc::default();
        let limit = WaitingLoad { frames: WAIT_FRAMES, bytes: config.park_bytes };
        Claims {
            tickets: LocalTickets::default(),
            frames: Frames::new(&config, limit, owners, stats.clone()),
            requests: Requests::new(Names::new(&config.prefix, config.keys), nonces, stats.clone()),
            parking: Parking::default(),
            bypass: Bypass::new(stats.clone()),
            failed_sends: FailedSends::default(),
            config,
            stats,
            local,
        }
    }

    /// Most frames and bytes that wait for an answer; beyond it the oldest not yet asked about are sent.
    pub fn limit_waiting(mut self, frames: usize, bytes: usize) -> Claims {
        self.frames.limit_waiting(WaitingLoad { frames, bytes });
        self
    }

    /// Plants a fault.
    #[cfg(feature = "mutants")]
    #[doc(hidden)]
    pub fn mutate(&mut self, mutation: Mutation) {
        self.frames.mutate(mutation);
    }

    /// Counters, to be kept and exported.
    pub fn stats(&self) -> Arc<ClaimStats> {
        Arc::clone(&self.stats)
    }

    /// The settings.
    pub fn config(&self) -> &ClaimsConfig {
        &self.config
    }

    /// Owner id under which claims are built now; changes when a release cannot be trusted.
    pub fn owner(&self) -> u64 {
        self.frames.ledger().owner()
    }
}

/// Frames in, decisions out.
impl Claims {
    /// First sight or not, in one batch: key, token and bytes of each frame. One verdict a frame is appended to `out`.
    pub fn claim(&mut self, now: Instant, batch: &[(ClaimKey, Token, u32)], out: &mut Vec<Verdict>) {
        self.claim_each(now, batch, |at| Some(batch[at].1), |_, verdict| out.push(verdict));
    }

    /// First sight or not, in one batch. `token` names those frames only that will wait, by place in the batch. Where it has
    /// no name the frame is let through undecided. `told` gets each frame's place and verdict, in order.
    pub fn claim_each<T: Claimant>(
        &mut self,
        now: Instant,
        batch: &[T],
        mut token: impl FnMut(usize) -> Option<Token>,
        mut told: impl FnMut(usize, Verdict),
    ) {
        let Claims { config, stats, local, tickets, frames, bypass, .. } = self;
        let tier1_alone = match (config.tier2, bypass.stands_at(now)) {
            (false, _) => Some(Why::Won),
            (true, true) => Some(Why::BreakerOpen),
            (true, false) => None,
        };
        frames.tell(now);
        let (mut seen, mut at_once, mut of_several) = (0, 0, 0);
        local.insert_each(batch, T::key, now, |at, id_is_new| {
            let frame = &batch[at];
            // Bytes that were seen are let go, whatever became of their id; other bytes ask, beside their id if that is new.
            let (key, is_new, beside) = match frame.variant() {
                None => (frame.key(), id_is_new, None),
                Some(variant) => (variant, local.insert(variant, now), id_is_new.then_some(*frame.key())),
            };
            let verdict = if !is_new {
                seen += 1;
                Verdict::Seen
            } else if tier1_alone.is_some() && !bypass.takes_probe() {
                at_once += 1;
                of_several += u64::from(frame.variant().is_some() && !id_is_new);
                Verdict::Won(tickets.win(key, beside, frames.enter_cohort()))
            } else if frames.enqueue(now, (key, beside), frame.bytes(), || token(at)) {
                Verdict::Wait
            } else {
                // No room to wait: let through undecided.
                stats.by(Why::Bypassed).add(1);
                Verdict::Won(tickets.win(key, beside, frames.enter_cohort()))
            };
            told(at, verdict);
        });
        if let Some(why) = tier1_alone {
            let why_of_several = if why == Why::Won { Why::Variant } else { why };
            stats.by(why).add(at_once - of_several);
            stats.by(why_of_several).add(of_several);
        }
        stats.seen.add(seen);
        stats.novel.add(batch.len() as u64 - seen);
        frames.show_load();
    }

    /// Before a frame leaves that its caller held for long: `true` to send it now. `false` when it is later than half a
    /// lease after its claim, as a sibling may have taken over. Its ticket is then void, the frame waits again under the
    /// `token` that is asked for, and a decision follows.
    pub fn may_send(&mut self, now: Instant, ticket: Ticket, token: impl FnOnce() -> Token) -> bool {
        if is_local(ticket) {
            return true;
        }
        let Some(id) = self.frames.ticketed(ticket) else { return true };
        let claimed = self.frames.entry(id).history.latest().is_some();
        if !claimed || !self.config.tier2 || self.bypass.stands() {
            return true;
        }
        self.frames.tell(now);
        if !self.frames.fence(&self.config, now, id) {
            return true;
        }
        self.frames.rename(id, token());
        self.frames.show_load();
        false
    }

    /// The caller has no room to keep the frame of `token` until it hears of its decision: it leaves now, under the ticket
    /// returned. `None` where it is parked or suppressed already. Cost: looks through the frames that wait, newest first.
    pub fn let_through(&mut self, token: Token) -> Option<Ticket> {
        if let Some(ticket) = self.frames.take_decided(token) {
            return Some(ticket);
        }
        let id = self.frames.waiting_under(token, self.requests.asked_newest_first())?;
        let ticket = self.frames.make_ours(id, Why::Bypassed);
        self.frames.show_load();
        Some(ticket)
    }

    /// The frame of `ticket` was handed over (taken by the kernel on every emit interface).
    pub fn sent(&mut self, _now: Instant, ticket: Ticket) {
        if is_local(ticket) {
            self.end_local(ticket);
        } else if let Some(id) = self.frames.ticketed(ticket) {
            self.frames.settle(id);
        }
    }

    /// The frame of `ticket` cannot be sent: releases the claim in both tiers.
    pub fn failed(&mut self, _now: Instant, ticket: Ticket) {
        if is_local(ticket) {
            if let Some((key, beside)) = self.end_local(ticket) {
                self.note_failed(key, beside);
            }
            return;
        }
        let Some(id) = self.frames.ticketed(ticket) else { return };
        let entry = self.frames.entry(id);
        self.note_failed(entry.key, entry.beside);
        let history = &self.frames.entry(id).history;
        let certain = history.is_certain()
            || self.config.mode == Mode::Simple
            || planted!(self.frames, DoubtfulReleaseDeleted);
        if history.held.is_empty() {
            self.frames.forget(id);
        } else if certain {
            self.requests.release(self.frames.begin_release(id));
        } else {
            // A claim that may still land cannot be deleted for certain: siblings must wait for its lease instead.
            self.frames.abandon(id);
        }
    }

    fn note_failed(&mut self, key: ClaimKey, beside: Option<ClaimKey>) {
        self.stats.failed.add(1);
        for key in [Some(key), beside].into_iter().flatten() {
            if self.config.marks && self.config.tier2 {
                self.failed_sends.note(key);
            }
            if !planted!(self.frames, Tier1KeptAfterRelease) {
                self.local.remove(&key);
            }
        }
    }

    fn end_local(&mut self, ticket: Ticket) -> Option<(ClaimKey, Option<ClaimKey>)> {
        let (key, beside, cohort) = self.tickets.end(ticket)?;
        self.frames.leave_cohort(cohort);
        Some((key, beside))
    }

    /// A frame was dropped after `claim` said that it is new, for a reason of the caller's own and without a ticket: the
    /// next copy is new again.
    pub fn forget(&mut self, key: &ClaimKey) {
        self.local.remove(key);
    }

    /// Next decision about a waiting frame.
    pub fn next_decision(&mut self) -> Option<Decision> {
        self.frames.next_decision()
    }

    /// Frames that wait for a decision, those that `next_decision` would give now included.
    pub fn waiting(&self) -> usize {
        self.frames.undecided()
    }

    /// Frames wait for room in a request for longer than a quarter of the answer timeout: sources that can be told to wait
    /// should be.
    pub fn is_behind(&self) -> bool {
        self.frames.is_behind()
    }

    /// Nothing waits, nothing was left unanswered, and the store knows what was settled: the moment to stop at.
    pub fn is_idle(&self) -> bool {
        let ledger = self.frames.ledger();
        self.waiting() == 0
            && self.requests.is_idle()
            && (self.config.mode == Mode::Simple
                || !ledger.outstanding() && ledger.unwritten_record().is_none())
    }

    /// The oldest epoch that is not settled. In simple mode nobody asks.
    pub fn unsettled(&self, now: Instant) -> Option<Unsettled> {
        self.frames.ledger().unsettled(now).filter(|_| self.config.mode != Mode::Simple)
    }

    /// From now on nothing is parked: what waits is sent, at once. Claims under way are sent without their answer, so
    /// a caller with time first waits for `waiting` to come down.
    pub fn drain(&mut self, now: Instant) {
        self.frames.tell(now);
        self.frames.close_epoch(now, true);
        self.parking.close(&mut self.frames, now);
        self.frames.decide_all_waiting(Why::Draining);
        self.frames.show_load();
    }
}

/// What outlives a process.
impl Claims {
    /// Divides what came so far from what comes.
    pub fn watermark(&mut self) -> Watermark {
        self.frames.watermark()
    }

    /// Whether everything before the watermark has its end, and the store knows. Never in simple mode, which settles nothing.
    pub fn is_passed(&self, watermark: &mut Watermark) -> bool {
        self.config.mode != Mode::Simple && self.frames.is_passed(watermark)
    }

    /// Writes the positions of the consumer's workers with this index. The latest value wins. An unanswered write is not
    /// repeated.
    pub fn keep_positions(&mut self, index: u16, value: &[u8]) {
        self.requests.keep_positions(index, value);
    }

    /// The process of `owner` has ended, as its successor knows: its unsettled claims are taken over without a lease.
    pub fn has_ended(&mut self, now: Instant, owner: u64) {
        self.parking.has_ended(now, owner);
    }
}

/// Time, and requests out.
impl Claims {
    /// When `on_timeout` wants to be called next.
    pub fn next_timeout(&self) -> Option<Instant> {
        let epoch = self.frames.ledger().closes_at();
        let requests = self.requests.next_timeout(&self.parking);
        [epoch, requests, self.frames.queue_expires_at()].into_iter().flatten().min()
    }

    /// Time has passed: closes the epoch, and makes reads and writes due. `poll_request` afterwards.
    pub fn on_timeout(&mut self, now: Instant) {
        self.frames.close_epoch(now, false);
        self.requests.on_timeout(now);
        self.frames.expire_queue(now);
    }

    /// Every answer that had come by `now` was given to `on_answer`: what waits for one too long is in doubt.
    pub fn give_up(&mut self, now: Instant) {
        self.frames.expire_queue(now);
        while let Some(asked) = self.requests.next_overdue(now) {
            self.claims_in_doubt(now, &asked, OpErrorKind::Timeout);
        }
        self.frames.gave_up(now);
        self.frames.show_load();
    }

    /// The next request to carry out; each must be answered with `on_answer` or `on_failure`.
    pub fn poll_request(&mut self, now: Instant) -> Option<Request> {
        if !self.config.tier2 {
            return None;
        }
        self.frames.close_epoch(now, false);
        let request = self.requests.poll(&mut self.frames, &mut self.parking, &self.config, now);
        self.frames.show_load();
        request
    }

    /// Gives back the buffer of a request that was carried out, for the next one.
    pub fn recycle(&mut self, buffer: KeyValues) {
        self.requests.recycle(buffer);
    }
}

/// Answers in: what each of them means for the frames that waited for it.
impl Claims {
    /// A request was answered.
    pub fn on_answer(&mut self, now: Instant, id: RequestId, answer: Answer) -> Trust {
        self.frames.tell(now);
        let trust = match (self.requests.take_in_flight(id), answer) {
            (Some(Subject::Claim(asked)), Answer::Claimed(answers)) => self.claimed(now, &asked, answers),
            (Some(Subject::Read(read)), Answer::Read(answers)) => {
                match self.parking.end_read(&mut self.frames, &self.config, now, &read, answers) {
                    Ok(()) => Trust::Kept,
                    Err(Slipped) => Trust::Lost,
                }
            }
            (Some(Subject::Keep), Answer::Written(_)) => Trust::Kept,
            (Some(Subject::Write(record)), Answer::Written(answers)) => {
                if answers.first().is_some_and(Result::is_ok) {
                    self.frames.record_written(record);
                } else {
                    self.write_later(now);
                }
                Trust::Kept
            }
            (Some(Subject::Release(entries)), Answer::Released(answers)) => {
                self.released(&entries, &answers);
                Trust::Kept
            }
            (Some(subject), _) => {
                self.unanswered(now, subject, OpErrorKind::Garbled);
                Trust::Lost
            }
            (None, _) => Trust::Kept,
        };
        if trust == Trust::Lost {
            self.stats.slipped.add(1);
        }
        self.frames.show_load();
        trust
    }

    /// A request has no answer: every key of it failed in this way.
    pub fn on_failure(&mut self, now: Instant, id: RequestId, kind: OpErrorKind) {
        self.frames.tell(now);
        if let Some(subject) = self.requests.take_in_flight(id) {
            self.unanswered(now, subject, kind);
        }
        self.frames.show_load();
    }

    fn unanswered(&mut self, now: Instant, subject: Subject, kind: OpErrorKind) {
        match subject {
            Subject::Claim(asked) => self.claims_in_doubt(now, &asked, kind),
            Subject::Read(read) => {
                for &owner in &read.owners {
                    self.parking.read_failed(&mut self.frames, &self.config, now, owner, kind);
                }
            }
            Subject::Write(_) => self.write_later(now),
            // The next one says more.
            Subject::Keep => {}
            Subject::Release(entries) => self.released(&entries, &[]),
        }
    }

    fn write_later(&mut self, now: Instant) {
        self.requests.write_later(now + self.config.epoch);
    }

    fn claimed(&mut self, now: Instant, asked: &[Asked], answers: Vec<Result<Claimed, OpError>>) -> Trust {
        let mut answers = answers.into_iter();
        for (i, &Asked { handle, beside }) in asked.iter().enumerate() {
            let beside = beside.then(|| answers.next());
            let answer = answers.next();
            if !self.frames.is_asked(handle) {
                continue;
            }
            let beside = beside.map_or(Ok(()), |answer| self.answered_beside(handle.id, answer));
            let judged = beside.and_then(|()| match answer {
                Some(Ok(Claimed::Created)) => {
                    self.ours(now, handle.id);
                    Ok(())
                }
                Some(Ok(Claimed::Exists(value))) => self.exists(now, handle.id, &value),
                Some(Err(error)) => {
                    self.claim_in_doubt(now, handle.id, error.kind);
                    Ok(())
                }
                None => {
                    self.claim_in_doubt(now, handle.id, OpErrorKind::Garbled);
                    Ok(())
                }
            });
            if let Err(Slipped) = judged {
                self.claims_in_doubt(now, &asked[i..], OpErrorKind::Garbled);
                return Trust::Lost;
            }
        }
        Trust::Kept
    }

    /// What became of the claim on the id beside the variant. Nobody waits for who holds it: it is ours, may be, or is not.
    fn answered_beside(
        &mut self,
        id: EntryId,
        answer: Option<Result<Claimed, OpError>>,
    ) -> Result<(), Slipped> {
        let value = match answer {
            Some(Ok(Claimed::Created)) => {
                self.frames.hold_beside(id, true);
                return Ok(());
            }
            Some(Ok(Claimed::Exists(value))) => value,
            Some(Err(_)) | None => {
                self.frames.hold_beside(id, false);
                return Ok(());
            }
        };
        if self.config.mode == Mode::Settled {
            let entry = self.frames.entry(id);
            let expected = entry.beside.as_ref().map(first_bytes);
            let (found, nonce) = match Found::parse(&value) {
                Found::Claim(claim) => (Some(claim.id), Some(claim.nonce)),
                Found::Marked(mark) => (Some(mark.id), None),
                Found::Plain | Found::Unknown => (expected, None),
            };
            if found != expected && !planted!(self.frames, IdBytesNotChecked) {
                return Err(Slipped);
            }
            if let State::Asked { nonce: ours, .. } = entry.state
                && nonce == Some(ours)
            {
                self.frames.hold_beside(id, true);
                return Ok(());
            }
        }
        self.frames.lose_beside(id);
        Ok(())
    }

    fn claims_in_doubt(&mut self, now: Instant, asked: &[Asked], kind: OpErrorKind) {
        for &Asked { handle, .. } in asked {
            if self.frames.is_asked(handle) {
                self.claim_in_doubt(now, handle.id, kind);
            }
        }
    }

    /// The store holds our value.
    fn ours(&mut self, now: Instant, id: EntryId) {
        self.bypass.answered(self.frames.entry(id).history.built);
        self.frames.hold(id, true);
        let entry = self.frames.entry(id);
        let why = match (entry.history.taking_over, entry.is_one_of_several()) {
            (true, _) => Why::TakenOver,
            (false, true) => Why::Variant,
            (false, false) => Why::Won,
        };
        if !self.frames.fence(&self.config, now, id) {
            self.frames.decide_send(id, why);
        }
    }

    /// No answer: the claim may be ours, and the frame is sent.
    fn claim_in_doubt(&mut self, now: Instant, id: EntryId, kind: OpErrorKind) {
        self.frames.hold(id, false);
        if planted!(self.frames, DoubtSuppresses) {
            self.frames.decide_suppress(id, Why::InDoubt);
        } else if kind == OpErrorKind::BreakerOpen {
            self.bypass.refused(now);
            self.frames.decide_send(id, Why::BreakerOpen);
        } else if !self.frames.fence(&self.config, now, id) {
            self.frames.decide_send(id, Why::InDoubt);
        }
    }

    /// The key is there, with this value.
    fn exists(&mut self, now: Instant, id: EntryId, value: &Bytes) -> Result<(), Slipped> {
        self.bypass.answered(self.frames.entry(id).history.built);
        if self.config.mode == Mode::Simple {
            self.exists_plainly(now, id);
            return Ok(());
        }
        match Found::parse(value) {
            Found::Claim(value) => return self.taken(now, id, value),
            Found::Marked(mark) => return self.marked(now, id, mark),
            Found::Plain if planted!(self.frames, PlainValueParks) => {
                let id_bytes = first_bytes(&self.frames.entry(id).key);
                let never_settles = ClaimValue { owner: 0, epoch: 1, nonce: 0, id: id_bytes };
                return self.taken(now, id, never_settles);
            }
            Found::Plain => self.exists_plainly(now, id),
            Found::Unknown => self.claim_in_doubt(now, id, OpErrorKind::Garbled),
        }
        Ok(())
    }

    fn exists_plainly(&mut self, now: Instant, id: EntryId) {
        if !self.goes_by_id(now, id) {
            self.suppress(id, Why::Exists);
        }
    }

    /// The variant is another's. Where the id beside it is ours, or may be, the frame goes on under its id alone. It does not
    /// wait for the variant's owner: an epoch that holds the id would then wait for an epoch of that owner, and that one
    /// perhaps for this.
    fn goes_by_id(&mut self, now: Instant, id: EntryId) -> bool {
        let Some(certain) = self.frames.entry(id).may_go_by_id() else { return false };
        self.frames.lose(id);
        self.frames.turn_to_id(id);
        if !self.frames.fence(&self.config, now, id) {
            self.frames.decide_send(id, if certain { Why::Won } else { Why::InDoubt });
        }
        true
    }

    /// A listener saw a frame of this id on the fabric.
    fn marked(&mut self, now: Instant, id: EntryId, mark: CourtesyMark) -> Result<(), Slipped> {
        self.check_id(id, mark.id)?;
        if self.goes_by_id(now, id) {
            return Ok(());
        }
        let entry = self.frames.entry(id);
        let (key, beside) = (entry.key, entry.beside);
        // Asked again because claims of that epoch were released: the mark may be of the very frame that its owner took
        // back, since it did not leave by every interface.
        let taken_back = entry.history.second_ask.is_some() || self.failed_sends.has(&key);
        if self.config.marks && !taken_back {
            // The next copy asks again: a wrong mark does no harm beyond its own life, or once it was deleted.
            [Some(key), beside].iter().flatten().for_each(|key| self.local.remove(key));
            self.suppress(id, Why::Marked);
        } else {
            self.frames.lose(id);
            self.frames.decide_send(id, Why::InDoubt);
        }
        Ok(())
    }

    /// Somebody's claim stands under the key.
    fn taken(&mut self, now: Instant, id: EntryId, value: ClaimValue) -> Result<(), Slipped> {
        self.check_id(id, value.id)?;
        let entry = self.frames.entry(id);
        if let State::Asked { nonce, place, .. } = entry.state
            && (nonce == value.nonce || planted!(self.frames, NonceIgnored) && place.owner == value.owner)
        {
            self.ours(now, id);
            return Ok(());
        }
        if entry.history.second_ask == Some(value) {
            // The release in that epoch was of another claim: this one was sent.
            self.suppress(id, Why::Settled);
        } else if !self.goes_by_id(now, id) {
            self.frames.lose(id);
            self.parking.park(&mut self.frames, &self.config, now, id, value);
        }
        Ok(())
    }

    /// A value whose id bytes are not those asked for belongs to another question.
    fn check_id(&self, id: EntryId, found: [u8; 8]) -> Result<(), Slipped> {
        if first_bytes(&self.frames.entry(id).key) == found || planted!(self.frames, IdBytesNotChecked) {
            Ok(())
        } else {
            Err(Slipped)
        }
    }

    /// The claim is another's, and that node has sent the frame.
    fn suppress(&mut self, id: EntryId, why: Why) {
        self.frames.lose(id);
        self.frames.decide_suppress(id, why);
    }

    /// Deletes were answered: each frame is released if all its keys were, else its claims stay unsettled for ever.
    fn released(&mut self, entries: &[(EntryHandle, usize)], answers: &[Result<bool, OpError>]) {
        let mut answers = answers.iter();
        for &(handle, keys) in entries {
            let acknowledged = answers.by_ref().take(keys).filter(|answer| answer.is_ok()).count() == keys;
            if !self.frames.is_releasing(handle) {
                continue;
            }
            if acknowledged || self.config.mode == Mode::Simple {
                self.frames.end_release(handle.id);
            } else if planted!(self.frames, UnackedReleaseForgotten) {
                self.frames.settle(handle.id);
            } else {
                self.frames.abandon(handle.id);
            }
        }
    }
}

#[cfg(test)]
mod tests;
