//! The life of a frame that tier 2 is asked about. Every change of state is here, with all that goes with it: queue, loads,
//! epochs, cohorts, decisions and counters.
//!
//! `Queued` → `Asked` → `Answered` → `Ours`, or `Parked`, or `Queued` again. A frame ends when its caller answers the ticket,
//! when it is suppressed, or when its claims were deleted.
//!
//! Limits: frames that wait for an answer are bounded in number and bytes. When full, the oldest that was not asked about is
//! let through (`Bypassed`).
//!
//! Cost: no allocation once the lists have their size. No pass over the entries but in `decide_all_waiting`.

use super::answer_timeout::AnswerTimeout;
use super::entries::{Entries, Entry, EntryHandle, EntryId, Parked, State};
use super::queue::{Line, Queue};
use super::waiting_load::WaitingLoad;
use super::watermark::{Cohorts, Watermark};
use crate::config::{ClaimsConfig, Mode};
use crate::decision::{Decision, Ticket, Token, Why};
use crate::key::ClaimKey;
use crate::ledger::{EpochPlace, Ledger};
#[cfg(feature = "mutants")]
use crate::mutation::Mutation;
use crate::name::Holder;
use crate::stats::ClaimStats;
use crate::value::{ClaimValue, Record};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest chain of takeovers; beyond it the frame is sent in doubt.
const MAX_CHAIN: usize = 8;

/// See the module text.
pub(super) struct Frames {
    entries: Entries,
    queue: Queue,
    /// Frames that wait for an answer, asked about or not, and how many may.
    waiting: WaitingLoad,
    limit: WaitingLoad,
    parked: WaitingLoad,
    ledger: Ledger,
    cohorts: Cohorts,
    timeout: AnswerTimeout,
    decisions: VecDeque<Decision>,
    stats: Arc<ClaimStats>,
    #[cfg(feature = "mutants")]
    pub(super) mutation: Option<Mutation>,
}

/// What frames wait for, and what the caller has not heard yet.
impl Frames {
    pub(super) fn new(
        config: &ClaimsConfig,
        limit: WaitingLoad,
        seed: u64,
        stats: Arc<ClaimStats>,
    ) -> Frames {
        Frames {
            entries: Entries::default(),
            queue: Queue::default(),
            waiting: WaitingLoad::default(),
            limit,
            parked: WaitingLoad::default(),
            ledger: Ledger::new(config.epoch, seed),
            cohorts: Cohorts::default(),
            timeout: AnswerTimeout::new(config.answer_timeout),
            decisions: VecDeque::new(),
            stats,
            #[cfg(feature = "mutants")]
            mutation: None,
        }
    }

    pub(super) fn limit_waiting(&mut self, limit: WaitingLoad) {
        self.limit = limit;
    }

    #[cfg(feature = "mutants")]
    pub(super) fn mutate(&mut self, mutation: Mutation) {
        self.mutation = Some(mutation);
        self.ledger.mutation = Some(mutation);
    }

    /// The worker told the time.
    pub(super) fn tell(&mut self, now: Instant) {
        self.timeout.tell(now);
    }

    /// Frames that wait for a decision, those that the caller has not taken yet included.
    pub(super) fn undecided(&self) -> usize {
        self.waiting.frames + self.parked.frames + self.decisions.len()
    }

    pub(super) fn parked(&self) -> WaitingLoad {
        self.parked
    }

    pub(super) fn next_decision(&mut self) -> Option<Decision> {
        self.decisions.pop_front()
    }

    /// Takes the decision to send the frame of `token` out of what the caller has not taken yet.
    pub(super) fn take_decided(&mut self, token: Token) -> Option<Ticket> {
        let decided =
            |decision: &Decision| matches!(decision, Decision::Send { token: of, .. } if *of == token);
        let at = self.decisions.iter().rposition(decided)?;
        match self.decisions.remove(at) {
            Some(Decision::Send { ticket, .. }) => Some(ticket),
            _ => None,
        }
    }

    /// The frame of `token` that waits for an answer: among those that were not asked about, newest first, then among
    /// `asked`.
    pub(super) fn waiting_under(
        &self,
        token: Token,
        asked: impl Iterator<Item = EntryHandle>,
    ) -> Option<EntryId> {
        let is_it = |entry: &Entry| entry.token == token && entry.waits_since().is_some();
        let mut handles = self.queue.newest_first().chain(asked);
        handles.find(|&handle| self.entries.find(handle).is_some_and(is_it)).map(|handle| handle.id)
    }

    pub(super) fn show_load(&self) {
        self.stats.waiting.set(self.waiting.frames as u64);
        self.stats.waiting_bytes.set(self.waiting.bytes as u64);
        self.stats.parked.set(self.parked.frames as u64);
        self.stats.parked_bytes.set(self.parked.bytes as u64);
    }
}

/// Entries, as others may see them.
impl Frames {
    pub(super) fn entry(&self, id: EntryId) -> &Entry {
        &self.entries[id]
    }

    pub(super) fn rename(&mut self, id: EntryId, token: Token) {
        self.entries[id].token = token;
    }

    pub(super) fn ticketed(&self, ticket: Ticket) -> Option<EntryId> {
        self.entries.ticketed(ticket)
    }

    pub(super) fn is_asked(&self, handle: EntryHandle) -> bool {
        self.entries.find(handle).is_some_and(|entry| matches!(entry.state, State::Asked { .. }))
    }

    pub(super) fn is_parked(&self, handle: EntryHandle) -> bool {
        self.entries.find(handle).is_some_and(|entry| entry.parked().is_some())
    }

    pub(super) fn is_releasing(&self, handle: EntryHandle) -> bool {
        self.entries.find(handle).is_some_and(|entry| entry.state == State::Releasing)
    }

    fn is_queued(&self, handle: EntryHandle) -> bool {
        self.entries.find(handle).is_some_and(|entry| entry.state == State::Queued)
    }
}

/// Epochs and cohorts.
impl Frames {
    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(super) fn close_epoch(&mut self, now: Instant, at_once: bool) {
        self.ledger.close(now, at_once);
        let age = self.ledger.unsettled(now).map_or(Duration::ZERO, |unsettled| unsettled.age);
        self.stats.unsettled_age.set(u64::try_from(age.as_micros()).unwrap_or(u64::MAX));
        if self.ledger.becomes_late(now) {
            self.stats.unsettled_late.add(1);
        }
    }

    /// The store acknowledged this record.
    pub(super) fn record_written(&mut self, record: Record) {
        self.ledger.written(record);
    }

    /// A frame comes that tier 1 alone decides about.
    #[inline]
    pub(super) fn enter_cohort(&mut self) -> u64 {
        self.cohorts.enter()
    }

    /// Such a frame has its end.
    #[inline]
    pub(super) fn leave_cohort(&mut self, cohort: u64) {
        self.cohorts.leave(cohort);
    }

    pub(super) fn watermark(&mut self) -> Watermark {
        self.cohorts.watermark()
    }

    pub(super) fn is_passed(&self, watermark: &mut Watermark) -> bool {
        self.cohorts.is_passed(watermark, &self.ledger)
    }
}

/// The queue.
impl Frames {
    /// Puts a frame into the queue under the token that is then asked for. `keys`: the one that decides, and the one beside it. `false`: there is no room, or no token.
    pub(super) fn enqueue(
        &mut self,
        now: Instant,
        keys: (&ClaimKey, Option<ClaimKey>),
        bytes: u32,
        token: impl FnOnce() -> Option<Token>,
    ) -> bool {
        while self.waiting.would_exceed(&self.limit, bytes) {
            if !self.bypass_oldest() {
                return false;
            }
        }
        let Some(token) = token() else { return false };
        let cohort = self.cohorts.enter();
        let id = self.entries.admit(now, keys, token, bytes, cohort);
        self.waiting.add(bytes);
        self.queue.push(Line::New, self.entries.handle(id));
        true
    }

    /// Sends the oldest frame that was not asked about; `false` where there is none.
    fn bypass_oldest(&mut self) -> bool {
        while let Some(handle) = self.queue.pop_for_bypass() {
            if self.is_queued(handle) {
                self.decide_send(handle.id, Why::Bypassed);
                return true;
            }
        }
        false
    }

    /// Handles in the queue.
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// The next frame for a request, and since when it needs an answer.
    pub(super) fn next_queued(&mut self) -> Option<(EntryHandle, Instant)> {
        while let Some(handle) = self.queue.pop_for_request() {
            if self.is_queued(handle) {
                return Some((handle, self.entries[handle.id].since));
            }
        }
        None
    }

    /// Sends what waits for room in a request too long.
    pub(super) fn expire_queue(&mut self, now: Instant) {
        self.timeout.tell(now);
        for line in [Line::New, Line::Again] {
            while let Some(handle) = self.queue.head(line) {
                if self.is_queued(handle) {
                    let until = self.timeout.queued_until(self.entries[handle.id].since);
                    if until.is_none_or(|at| at > now) {
                        break;
                    }
                    self.decide_send(handle.id, Why::Bypassed);
                }
                self.queue.pop(line);
            }
        }
        self.show_load();
    }

    /// When `expire_queue` finds something to do.
    pub(super) fn queue_expires_at(&self) -> Option<Instant> {
        let heads = [Line::New, Line::Again].into_iter().filter_map(|line| self.queue.head(line));
        heads.filter_map(|head| self.timeout.queued_until(self.entries[head.id].since)).min()
    }

    /// When the answer about a frame must be there that needs it since then.
    pub(super) fn answered_by(&self, since: Instant) -> Option<Instant> {
        self.timeout.answered_by(since)
    }

    /// What waited for an answer too long by `now` was given up.
    pub(super) fn gave_up(&mut self, now: Instant) {
        self.timeout.gave_up(now);
    }

    /// New frames wait for room in a request for a quarter of their time.
    pub(super) fn is_behind(&self) -> bool {
        let head = self.queue.head(Line::New);
        head.is_some_and(|head| self.timeout.is_behind(self.entries[head.id].since))
    }
}

/// Changes of state.
impl Frames {
    /// The frame's claim is built, in the epoch that is open now; and that on its id, if it is asked for beside it.
    pub(super) fn ask(&mut self, now: Instant, id: EntryId, nonce: u64) -> (EpochPlace, Option<EpochPlace>) {
        let asks_beside = self.entries[id].asks_beside().is_some();
        let beside = asks_beside.then(|| self.ledger.open_claim(now));
        let place = self.ledger.open_claim(now);
        let entry = &mut self.entries[id];
        entry.state = State::Asked { place, nonce, beside };
        entry.history.built = now;
        (place, beside)
    }

    /// The claim on the id that was asked for beside the variant is ours, or may be (where it is not `certain`).
    pub(super) fn hold_beside(&mut self, id: EntryId, certain: bool) {
        let place = self.answered_beside(id);
        self.entries[id].history.hold_beside(place, certain);
    }

    /// That claim is another's.
    pub(super) fn lose_beside(&mut self, id: EntryId) {
        if let Some(place) = self.answered_beside(id) {
            self.ledger.resolve(place);
        }
    }

    fn answered_beside(&mut self, id: EntryId) -> Option<EpochPlace> {
        match &mut self.entries[id].state {
            State::Asked { beside, .. } => beside.take(),
            _ => None,
        }
    }

    /// The variant is another's, and the id is ours or may be: from now on the id decides.
    pub(super) fn turn_to_id(&mut self, id: EntryId) {
        self.entries[id].turn_to_id();
    }

    /// The frame's claim is ours, or may be (where it is not `certain`).
    pub(super) fn hold(&mut self, id: EntryId, certain: bool) {
        if let Some(place) = self.answered(id) {
            self.entries[id].history.hold(place, certain);
        }
    }

    /// The claim that was asked for is another's: nothing of ours stands under that key.
    pub(super) fn lose(&mut self, id: EntryId) {
        if let Some(place) = self.answered(id) {
            self.ledger.resolve(place);
        }
        if planted!(self, LostFenceSettles) {
            self.resolve_held(id);
        }
    }

    fn answered(&mut self, id: EntryId) -> Option<EpochPlace> {
        let entry = &mut self.entries[id];
        let State::Asked { place, beside, .. } = entry.state else { return None };
        entry.history.hold_beside(beside, false);
        entry.state = State::Answered;
        Some(place)
    }

    /// Claims the frame's own takeover key first, if it is later than half a lease after its claim.
    pub(super) fn fence(&mut self, config: &ClaimsConfig, now: Instant, id: EntryId) -> bool {
        let history = &mut self.entries[id].history;
        let Some(link) = history.latest() else { return false };
        let late = now.saturating_duration_since(history.built) > config.lease / 2;
        if !late
            || config.mode == Mode::Simple
            || history.chain.len() >= MAX_CHAIN
            || planted!(self, FenceLeftOut)
        {
            return false;
        }
        history.chain.truncate(link.depth);
        history.chain.push(Holder { owner: link.place.owner, epoch: link.place.epoch });
        self.stats.fenced.add(1);
        self.ask_first(now, id);
        true
    }

    /// Puts the frame (back) into the queue, ahead of new frames.
    fn ask_first(&mut self, now: Instant, id: EntryId) {
        let entry = &mut self.entries[id];
        if entry.waits_since().is_none() {
            self.waiting.add(entry.bytes);
        }
        entry.outdate();
        entry.state = State::Queued;
        entry.since = self.timeout.now(now);
        self.queue.push(Line::Again, self.entries.handle(id));
    }

    /// Another owner holds the frame's id.
    pub(super) fn park(&mut self, now: Instant, id: EntryId, holder: ClaimValue) -> EntryHandle {
        self.leave(id);
        let entry = &mut self.entries[id];
        entry.state = State::Parked(Parked { holder, since: now, reads: 0 });
        entry.history.second_ask = None;
        self.parked.add(entry.bytes);
        self.stats.parked_total.add(1);
        self.entries.handle(id)
    }

    /// A read of the record of a copy's owner was answered. Returns how the copy is parked.
    pub(super) fn count_read(&mut self, id: EntryId) -> Option<Parked> {
        let State::Parked(parked) = &mut self.entries[id].state else { return None };
        parked.reads = parked.reads.saturating_add(1);
        Some(*parked)
    }

    /// Only for a planted fault: reads of before count.
    #[cfg(feature = "mutants")]
    pub(super) fn count_earlier_reads(&mut self, id: EntryId, earlier: (u8, Instant)) {
        if let State::Parked(parked) = &mut self.entries[id].state {
            (parked.reads, parked.since) = earlier;
        }
    }

    /// A parked copy asks for the same key once more: its holder's claim may have been released.
    pub(super) fn ask_again(&mut self, now: Instant, id: EntryId, holder: ClaimValue) {
        self.entries[id].history.second_ask = Some(holder);
        self.unpark(now, id);
    }

    /// The owner of a parked copy did not settle within its lease.
    pub(super) fn take_over(&mut self, now: Instant, id: EntryId, holder: ClaimValue) {
        let history = &mut self.entries[id].history;
        if history.chain.len() >= MAX_CHAIN || planted!(self, TakeoverWithoutClaim) {
            self.observe_parking(now, id, false);
            return self.decide_send(id, Why::InDoubt);
        }
        history.chain.push(Holder { owner: holder.owner, epoch: holder.epoch });
        history.taking_over = true;
        self.unpark(now, id);
    }

    fn unpark(&mut self, now: Instant, id: EntryId) {
        self.observe_parking(now, id, false);
        self.parked.remove(self.entries[id].bytes);
        self.ask_first(now, id);
    }

    /// A copy leaves parking: let go for good, or not.
    pub(super) fn observe_parking(&self, now: Instant, id: EntryId, let_go: bool) {
        let Some(parked) = self.entries[id].parked() else { return };
        let times = if let_go { &self.stats.parked_let_go } else { &self.stats.parked_went_on };
        times.observe(now.saturating_duration_since(parked.since));
    }

    /// The caller is told to send.
    pub(super) fn decide_send(&mut self, id: EntryId, why: Why) {
        let token = self.entries[id].token;
        let ticket = self.make_ours(id, why);
        self.decisions.push_back(Decision::Send { token, ticket, why });
    }

    /// The caller sends the frame.
    pub(super) fn make_ours(&mut self, id: EntryId, why: Why) -> Ticket {
        self.leave(id);
        let entry = &mut self.entries[id];
        entry.hold_unanswered();
        entry.state = State::Ours;
        self.stats.by(why).add(1);
        self.entries.ticket(id)
    }

    /// The caller is told that another node has sent the frame.
    pub(super) fn decide_suppress(&mut self, id: EntryId, why: Why) {
        self.leave(id);
        self.stats.by(why).add(1);
        let token = self.entries[id].token;
        self.decisions.push_back(Decision::Suppress { token, why });
        self.settle(id);
    }

    /// The caller is told to send all that waits for an answer.
    pub(super) fn decide_all_waiting(&mut self, why: Why) {
        for id in self.entries.ids() {
            if self.entries[id].waits_since().is_some() {
                self.decide_send(id, why);
            }
        }
    }

    /// Takes the frame out of what waits.
    fn leave(&mut self, id: EntryId) {
        let entry = &mut self.entries[id];
        if let Some(since) = entry.waits_since() {
            self.timeout.observe(since, &self.stats);
            self.waiting.remove(entry.bytes);
        } else if entry.parked().is_some() {
            self.parked.remove(entry.bytes);
        }
        entry.outdate();
    }
}

/// The end of a frame.
impl Frames {
    /// The frame was handed over, or another node sent it: its claims are of no consequence any more.
    pub(super) fn settle(&mut self, id: EntryId) {
        self.resolve_held(id);
        self.forget(id);
    }

    /// The frame was not sent, and its claims are to be deleted.
    pub(super) fn begin_release(&mut self, id: EntryId) -> EntryHandle {
        self.entries[id].state = State::Releasing;
        self.entries.handle(id)
    }

    /// Its claims were deleted.
    pub(super) fn end_release(&mut self, id: EntryId) {
        self.release_held(id);
        self.forget(id);
    }

    /// Its claims can be neither settled nor released.
    pub(super) fn abandon(&mut self, id: EntryId) {
        self.stats.renewed.add(1);
        for link in self.entries[id].history.held.drain(..) {
            self.ledger.abandon(link.place);
        }
        self.forget(id);
    }

    pub(super) fn release_held(&mut self, id: EntryId) {
        for link in self.entries[id].history.held.drain(..) {
            self.stats.released.add(1);
            self.ledger.release(link.place);
        }
    }

    /// No claim of the frame needs an end any more.
    pub(super) fn forget(&mut self, id: EntryId) {
        let cohort = self.entries.free(id);
        self.cohorts.leave(cohort);
    }

    fn resolve_held(&mut self, id: EntryId) {
        for link in self.entries[id].history.held.drain(..) {
            self.ledger.resolve(link.place);
        }
    }
}
