//! The claim protocol of one worker (design section 4), as a pure state machine.
//!
//! Why it exists: between "this id is new here" and "this frame has left" a process can die, wake up late, lose an
//! answer or be refused by the kernel. The protocol decides in each case who sends.
//!
//! What it promises: a frame that a living sibling also received is sent by someone, whatever happens to the owner of
//! the claim at whatever moment; while nobody is slower than half a lease it is sent once. In doubt a frame is sent.
//!
//! Path of a frame: `claim` (tier 1, then the queue of the unclaimed) → `poll_request` (`ask`: one batch of keys) →
//! `on_answer` (`judge`: ours, another's, or in doubt) → perhaps parked (`park`: until the other owner's record covers
//! it or its lease is over) → `next_decision` → `sent` or `failed` → the epoch in `ledger`.
//!
//! Limits: frames that wait for an answer are bounded in number and bytes; when full the oldest that was not asked about
//! is sent (`Bypassed`). While the store is given up, nothing waits but a few probes (`bypass`). Parked copies are bounded in bytes; when full the oldest is sent (`ParkingFull`).
//!
//! Cost: where tier 1 alone decides, the key of each frame in flight (`alone`) and no allocation; with tier 2, an entry a
//! frame and buffers that are reused.

mod alone;
mod ask;
mod bypass;
mod judge;
mod mark;
mod park;
mod patience;
mod refused;

pub use ask::{Answer, Ask, Request, RequestId};
pub use judge::Trust;
pub use mark::Mark;

use crate::ledger::{Ledger, Place};
use crate::mutation::Mutation;
use crate::name::{Holder, KeyStyle, Names};
use crate::random::split_mix;
use crate::stats::ClaimStats;
use crate::value::ClaimValue;
use crate::{ClaimKey, LocalSet};
use alone::Alone;
use ask::InFlight;
use bypass::Bypass;
use cache_backend::KeyValues;
use mark::Cohorts;
use park::Parked;
use patience::Patience;
use refused::Refused;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The caller's name for a frame that waits: opaque here.
pub type Token = u64;

/// A claim that was won (or failed open) and must be answered with `sent` or `failed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// A frame that asks: what it claims, and what it costs to keep it while it waits (parking is bounded in bytes).
pub trait Claimant {
    /// Its claim.
    fn key(&self) -> &ClaimKey;
    /// Its bytes.
    fn bytes(&self) -> u32;
}

/// What tier 1 says at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Seen before: suppress.
    Seen,
    /// Ours without asking (no tier 2, or it is bypassed): send.
    Won(Ticket),
    /// Tier 2 is being asked: keep the frame under its token until a `Decision` names it.
    Wait,
}

/// Why a frame is let through or held back; labels of the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// The claim is ours.
    Won,
    /// Another owner had it and did not settle it within its lease.
    TakenOver,
    /// No answer in time, error, or an answer that cannot be believed.
    InDoubt,
    /// The backend's breaker is open: tier 1 alone decides.
    BreakerOpen,
    /// Too many frames wait for an answer.
    Bypassed,
    /// Too many bytes are parked: the oldest copy is sent.
    ParkingFull,
    /// The worker is stopping: what waits is sent.
    Draining,
    /// Suppressed: another owner has it and it is settled.
    Settled,
    /// Suppressed: a plain value (Go node, or simple mode).
    Exists,
    /// Suppressed: a listener saw the frame on the fabric.
    Marked,
}

impl Why {
    /// All reasons, by `index`.
    pub const ALL: [Why; 10] = [
        Why::Won,
        Why::TakenOver,
        Why::InDoubt,
        Why::BreakerOpen,
        Why::Bypassed,
        Why::ParkingFull,
        Why::Draining,
        Why::Settled,
        Why::Exists,
        Why::Marked,
    ];
    /// Position in tables by reason.
    pub fn index(self) -> usize {
        self as usize
    }
    /// Label of the counters.
    pub fn label(self) -> &'static str {
        const LABELS: [&str; Why::ALL.len()] = [
            "won",
            "taken_over",
            "in_doubt",
            "breaker_open",
            "bypassed",
            "parking_full",
            "draining",
            "settled",
            "exists",
            "marked",
        ];
        LABELS[self.index()]
    }
    /// Whether the frame is let through.
    pub fn sends(self) -> bool {
        !matches!(self, Why::Settled | Why::Exists | Why::Marked)
    }
}

/// Fate of a frame that waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Send it, then answer the ticket.
    Send {
        /// The frame.
        token: Token,
        /// To be answered with `sent` or `failed`.
        ticket: Ticket,
        /// Label of the counter.
        why: Why,
    },
    /// Another node has sent it.
    Suppress {
        /// The frame.
        token: Token,
        /// Label of the counter.
        why: Why,
    },
}

/// `--claim-mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Mode {
    /// A node that is killed between claim and send loses no frame that a sibling also received.
    Settled,
    /// The Go behaviour: one create-only write, not released by a crash.
    Simple,
}

/// Settings of the protocol.
#[derive(Clone, Debug)]
pub struct ClaimsConfig {
    /// `--claim-mode`.
    pub mode: Mode,
    /// `--claim-epoch`: how often claims are closed into an epoch.
    pub epoch: Duration,
    /// `--claim-lease`: how long a copy waits for another owner to settle.
    pub lease: Duration,
    /// How long a claim is remembered in tier 2; zero for ever.
    pub ttl: Duration,
    /// `--claim-park-bytes`: most bytes of parked copies.
    pub park_bytes: usize,
    /// Most keys of one request.
    pub max_batch: usize,
    /// Prefix of the keys (`Names`).
    pub prefix: Vec<u8>,
    /// `--claim-keys`: how ids appear in them.
    pub keys: KeyStyle,
    /// Whether there is a tier 2.
    pub tier2: bool,
    /// Whether a listener's courtesy mark suppresses: it speaks about the fabric, so at the ingress gate alone.
    pub marks: bool,
    /// `--cache-op-timeout`: how long a frame waits for an answer about its claim, the wait for a place in a request
    /// included. The wait of a parked copy for its owner is not part of it.
    pub patience: Duration,
}

impl Default for ClaimsConfig {
    fn default() -> ClaimsConfig {
        ClaimsConfig {
            mode: Mode::Settled,
            epoch: Duration::from_millis(50),
            lease: Duration::from_millis(250),
            ttl: Duration::from_secs(600),
            park_bytes: 16 << 20,
            max_batch: 256,
            prefix: b"bsp:tx:".to_vec(),
            keys: KeyStyle::Hex,
            tier2: false,
            marks: true,
            patience: Duration::MAX,
        }
    }
}

impl ClaimsConfig {
    /// Longest deadline of a call under which siblings never take over from a healthy owner: an epoch, a send after
    /// half a lease and two calls (the record being written, and the one that covers the claim) fit into one lease.
    pub fn longest_deadline(&self) -> Duration {
        (self.lease / 2).saturating_sub(self.epoch) / 2
    }

    /// What is wrong with the settings, for a person.
    pub fn check(&self) -> Result<(), String> {
        let millis = |duration: Duration| duration.as_millis();
        if self.mode == Mode::Settled && self.tier2 && self.longest_deadline() < Duration::from_millis(5) {
            return Err(format!(
                "--claim-lease {} ms with --claim-epoch {} ms: half a lease must hold an epoch and two backend calls of \
                 5 ms; use a lease of at least {} ms",
                millis(self.lease),
                millis(self.epoch),
                2 * millis(self.epoch) + 20,
            ));
        }
        if self.epoch.is_zero() {
            return Err("--claim-epoch 0: must be at least 1 ms".into());
        }
        Ok(())
    }
}

/// Frames that may wait for an answer unless `limit_waiting` says otherwise.
const WAIT_FRAMES: usize = 1 << 16;
/// Longest chain of takeovers; beyond it the frame is sent in doubt.
const MAX_CHAIN: usize = 8;

/// One worker's claims.
pub struct Claims {
    config: ClaimsConfig,
    local: Arc<LocalSet>,
    stats: Arc<ClaimStats>,
    names: Names,
    random: u64,
    ledger: Ledger,
    /// Frames that tier 1 alone decided about.
    alone: Alone,
    /// Frames that tier 2 was, is or will be asked about.
    entries: Vec<Entry>,
    free: Vec<u32>,
    /// Entries to be claimed with the next request, oldest first.
    unclaimed: VecDeque<Handle>,
    /// The same, of those that were asked about before: they go first.
    again: VecDeque<Handle>,
    patience: Patience,
    waiting: Load,
    wait_limit: Load,
    parked: Parked,
    to_release: VecDeque<Handle>,
    refused: Refused,
    in_flight: Vec<InFlight>,
    flights: Flights,
    cohorts: Cohorts,
    /// What the caller wants to be written.
    to_keep: Option<KeyValues>,
    decisions: VecDeque<Decision>,
    /// Tier 1 alone decides about new ids.
    bypass: Option<Bypass>,
    /// Answers in a row that said that the breaker is open.
    refusals: u32,
    draining: bool,
    spare: Vec<KeyValues>,
    mutation: Option<Mutation>,
}

/// Frames and their bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    frames: usize,
    bytes: usize,
}

impl Load {
    fn add(&mut self, bytes: u32) {
        self.frames += 1;
        self.bytes += bytes as usize;
    }
    fn remove(&mut self, bytes: u32) {
        self.frames = self.frames.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes as usize);
    }
    fn would_exceed(&self, limit: &Load, bytes: u32) -> bool {
        self.frames >= limit.frames || self.bytes + bytes as usize > limit.bytes
    }
}

/// Requests of each kind that are under way, and what is due.
#[derive(Debug, Default)]
struct Flights {
    claims: usize,
    next_id: u64,
    writing: bool,
    write_after: Option<Instant>,
    reading: bool,
    keeping: bool,
}

/// An entry as it was when the handle was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Handle {
    index: u32,
    generation: u32,
}

/// A frame on its way through the protocol.
struct Entry {
    generation: u32,
    state: State,
    key: ClaimKey,
    token: Token,
    bytes: u32,
    /// Between which marks it came.
    cohort: u64,
    /// Since when it waits for an answer.
    since: Instant,
    nonce: u64,
    /// When the request of its latest claim was built.
    built: Instant,
    /// The claim that is being asked for.
    asked: Option<Place>,
    /// Claims that are ours, or may be.
    held: Vec<Link>,
    /// Claims taken over (or fenced) so far: the tail of the key.
    chain: Vec<Holder>,
    /// Whose value was found last.
    holder: Option<ClaimValue>,
    /// The holder released something in that epoch: asked once more.
    asked_again: bool,
    taking_over: bool,
    parked_at: Instant,
    reads: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    /// Waits for the next request.
    Unclaimed,
    /// Its claim is under way.
    Asked,
    /// Another owner has it.
    Parked,
    /// The caller sends it.
    Ours,
    /// Its claims are being deleted.
    Releasing,
}

/// A claim that is ours, or may be.
#[derive(Clone, Copy, Debug)]
struct Link {
    place: Place,
    /// The store said so.
    certain: bool,
    /// Length of the chain in its key.
    depth: usize,
}

impl Claims {
    /// `seed`: random per worker and start; the owner id and the nonces come from it.
    pub fn new(config: ClaimsConfig, local: Arc<LocalSet>, seed: u64) -> Claims {
        let mut random = seed;
        Claims {
            names: Names::new(&config.prefix, config.keys),
            ledger: Ledger::new(config.epoch, split_mix(&mut random)),
            wait_limit: Load { frames: WAIT_FRAMES, bytes: config.park_bytes },
            parked: Parked::default(),
            config,
            local,
            stats: Arc::default(),
            random,
            alone: Alone::default(),
            entries: Vec::new(),
            free: Vec::new(),
            unclaimed: VecDeque::new(),
            again: VecDeque::new(),
            patience: Patience::default(),
            waiting: Load::default(),
            to_release: VecDeque::new(),
            refused: Refused::default(),
            in_flight: Vec::new(),
            flights: Flights::default(),
            cohorts: Cohorts::default(),
            to_keep: None,
            decisions: VecDeque::new(),
            bypass: None,
            refusals: 0,
            draining: false,
            spare: Vec::new(),
            mutation: None,
        }
    }

    /// Most frames and bytes that wait for an answer; beyond it the oldest not yet asked about are sent.
    pub fn limit_waiting(mut self, frames: usize, bytes: usize) -> Claims {
        self.wait_limit = Load { frames, bytes };
        self
    }

    /// Plants a fault.
    #[cfg(feature = "mutants")]
    #[doc(hidden)]
    pub fn mutate(&mut self, mutation: Mutation) {
        self.mutation = Some(mutation);
        self.ledger.mutation = Some(mutation);
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
        self.ledger.owner()
    }

    /// First sight or not, in one batch: key, token and bytes of each frame. One verdict a frame is appended to `out`.
    pub fn claim(&mut self, now: Instant, batch: &[(ClaimKey, Token, u32)], out: &mut Vec<Verdict>) {
        self.claim_each(now, batch, |at| Some(batch[at].1), |_, verdict| out.push(verdict));
    }

    /// First sight or not, in one batch. `token` is asked for a name of those frames only that will wait, by place in the
    /// batch; where the caller has none the frame is let through undecided. `told` gets each frame's place and verdict, in
    /// order.
    pub fn claim_each<T: Claimant>(
        &mut self,
        now: Instant,
        batch: &[T],
        mut token: impl FnMut(usize) -> Option<Token>,
        mut told: impl FnMut(usize, Verdict),
    ) {
        let local = Arc::clone(&self.local);
        let bypass = self.bypasses(now);
        self.patience.clock(now);
        let (mut seen, mut at_once) = (0, 0);
        local.insert_each(batch, T::key, now, |at, is_new| {
            let verdict = match bypass {
                _ if !is_new => {
                    seen += 1;
                    Verdict::Seen
                }
                Some(_) if !self.is_probe() => {
                    at_once += 1;
                    Verdict::Won(self.alone.win(batch[at].key(), self.cohorts.enter()))
                }
                _ => self.queue(now, &batch[at], || token(at)),
            };
            told(at, verdict);
        });
        if let Some(why) = bypass {
            self.stats.by(why).add(at_once);
        }
        self.stats.seen.add(seen);
        self.stats.novel.add(batch.len() as u64 - seen);
        self.show_load();
    }

    /// Before a frame leaves that its caller held for long: `true` to send it now. `false` when it is later than half a
    /// lease after its claim: a sibling may have taken over, so the frame waits again under the `token` that is then asked
    /// for (its ticket is void) and a decision follows.
    pub fn may_send(&mut self, now: Instant, ticket: Ticket, token: impl FnOnce() -> Token) -> bool {
        if alone::is_alone(ticket) {
            return true;
        }
        let Some(handle) = self.ticketed(ticket) else { return true };
        let entry = &self.entries[handle.index as usize];
        if entry.held.is_empty() || !self.config.tier2 || self.bypass.is_some() {
            return true;
        }
        self.patience.clock(now);
        if !self.fence(now, handle.index) {
            return true;
        }
        self.entries[handle.index as usize].token = token();
        self.show_load();
        false
    }

    /// The caller has no room to keep the frame of `token` until it hears of its decision: it leaves now, under the ticket
    /// returned. `None` where it is parked or suppressed already. Cost: looks through the frames that wait, newest first.
    pub fn let_through(&mut self, token: Token) -> Option<Ticket> {
        let decided =
            |decision: &Decision| matches!(decision, Decision::Send { token: of, .. } if *of == token);
        if let Some(at) = self.decisions.iter().rposition(decided) {
            return match self.decisions.remove(at) {
                Some(Decision::Send { ticket, .. }) => Some(ticket),
                _ => None,
            };
        }
        let asked = self.in_flight.iter().rev().flat_map(|flight| flight.claims().iter().rev());
        let mut waiting = self.unclaimed.iter().rev().chain(asked);
        let is_waiting = |handle: &Handle| {
            self.entries[handle.index as usize].token == token
                && (self.is(*handle, State::Unclaimed) || self.is(*handle, State::Asked))
        };
        let index = waiting.find(|handle| is_waiting(handle))?.index;
        let ticket = self.make_ours(index, Why::Bypassed);
        self.show_load();
        Some(ticket)
    }

    /// The frame of `ticket` was handed over (taken by the kernel on every emit interface).
    pub fn sent(&mut self, _now: Instant, ticket: Ticket) {
        if alone::is_alone(ticket) {
            self.end_alone(ticket);
            return;
        }
        let Some(handle) = self.ticketed(ticket) else { return };
        self.resolve_held(handle.index);
        self.forget_entry(handle.index);
    }

    /// The frame of `ticket` cannot be sent: releases the claim in both tiers.
    pub fn failed(&mut self, _now: Instant, ticket: Ticket) {
        if alone::is_alone(ticket) {
            let Some(key) = self.end_alone(ticket) else { return };
            self.stats.failed.add(1);
            self.note_refused(key);
            if self.mutation != Some(Mutation::Tier1KeptAfterRelease) {
                self.local.remove(&key);
            }
            return;
        }
        let Some(Handle { index, .. }) = self.ticketed(ticket) else { return };
        self.stats.failed.add(1);
        self.note_refused(self.entries[index as usize].key);
        let entry = &mut self.entries[index as usize];
        if self.mutation != Some(Mutation::Tier1KeptAfterRelease) {
            self.local.remove(&entry.key);
        }
        let certain = entry.held.iter().all(|link| link.certain)
            || self.config.mode == Mode::Simple
            || self.mutation == Some(Mutation::DoubtfulReleaseDeleted);
        if entry.held.is_empty() {
            self.forget_entry(index);
        } else if certain {
            entry.state = State::Releasing;
            let generation = entry.generation;
            self.to_release.push_back(Handle { index, generation });
        } else {
            // A claim that may still land cannot be deleted for certain: siblings must wait for its lease instead.
            self.abandon(index);
        }
    }

    fn note_refused(&mut self, key: ClaimKey) {
        if self.config.marks && self.config.tier2 {
            self.refused.note(key);
        }
    }

    /// A frame was dropped after `claim` said that it is new, for a reason of the caller's own and without a ticket: the
    /// next copy is new again.
    pub fn forget(&mut self, key: &ClaimKey) {
        self.local.remove(key);
    }

    /// Next decision about a waiting frame.
    pub fn next_decision(&mut self) -> Option<Decision> {
        self.decisions.pop_front()
    }

    /// Frames that wait for a decision, those that `next_decision` would give now included.
    pub fn waiting(&self) -> usize {
        self.waiting.frames + self.parked.load.frames + self.decisions.len()
    }

    /// Nothing waits, nothing was left unanswered, and the store knows what was settled: the moment to stop at.
    pub fn is_idle(&self) -> bool {
        self.waiting() == 0
            && self.to_release.is_empty()
            && self.in_flight.is_empty()
            && (self.config.mode == Mode::Simple
                || !self.ledger.outstanding() && self.ledger.news().is_none())
    }

    /// When `on_timeout` wants to be called next.
    pub fn next_timeout(&self) -> Option<Instant> {
        let write = self.flights.write_after.filter(|_| !self.flights.writing);
        let read = self.parked.next_read.filter(|_| !self.flights.reading);
        [self.ledger.closes_at(), write, read, self.out_of_patience_at()].into_iter().flatten().min()
    }

    /// Time has passed: closes the epoch, and makes reads and writes due. `poll_request` afterwards.
    pub fn on_timeout(&mut self, now: Instant) {
        self.ledger.close(now, false);
        if self.flights.write_after.is_some_and(|at| at <= now) {
            self.flights.write_after = None;
        }
        self.expire_queues(now);
    }

    /// From now on nothing is parked: what waits is sent, at once. Claims under way are sent without their answer, so
    /// a caller with time first waits for `waiting` to come down.
    pub fn drain(&mut self, now: Instant) {
        self.draining = true;
        self.patience.clock(now);
        self.ledger.close(now, true);
        self.send_all_parked(now);
        for index in 0..self.entries.len() {
            #[allow(clippy::cast_possible_truncation, reason = "entries are numbered by u32")]
            let index = index as u32;
            if matches!(self.entries[index as usize].state, State::Unclaimed | State::Asked) {
                self.decide_send(index, Why::Draining);
            }
        }
        self.show_load();
    }

    fn end_alone(&mut self, ticket: Ticket) -> Option<ClaimKey> {
        let (key, cohort) = self.alone.end(ticket)?;
        self.cohorts.leave(cohort);
        Some(key)
    }

    fn queue(
        &mut self,
        now: Instant,
        frame: &impl Claimant,
        token: impl FnOnce() -> Option<Token>,
    ) -> Verdict {
        let (key, bytes) = (frame.key(), frame.bytes());
        while self.waiting.would_exceed(&self.wait_limit, bytes) {
            if !self.bypass_oldest() {
                return self.pass(key);
            }
        }
        let Some(token) = token() else { return self.pass(key) };
        let index = self.admit(now, *key, token, bytes, State::Unclaimed);
        self.waiting.add(bytes);
        let handle = self.handle(index);
        self.unclaimed.push_back(handle);
        Verdict::Wait
    }

    /// No room to wait: let through undecided.
    fn pass(&mut self, key: &ClaimKey) -> Verdict {
        self.stats.by(Why::Bypassed).add(1);
        Verdict::Won(self.alone.win(key, self.cohorts.enter()))
    }

    /// Sends the oldest frame that was not asked about; `false` where there is none.
    fn bypass_oldest(&mut self) -> bool {
        while let Some(handle) = self.unclaimed.pop_front().or_else(|| self.again.pop_front()) {
            if self.is(handle, State::Unclaimed) {
                self.decide_send(handle.index, Why::Bypassed);
                return true;
            }
        }
        false
    }

    /// Claims the entry's own takeover key first, if it is later than half a lease after its claim.
    fn fence(&mut self, now: Instant, index: u32) -> bool {
        let entry = &mut self.entries[index as usize];
        let Some(link) = entry.held.last() else { return false };
        let late = now.saturating_duration_since(entry.built) > self.config.lease / 2;
        if !late
            || self.config.mode == Mode::Simple
            || entry.chain.len() >= MAX_CHAIN
            || self.mutation == Some(Mutation::FenceLeftOut)
        {
            return false;
        }
        entry.chain.truncate(link.depth);
        entry.chain.push(Holder { owner: link.place.owner, epoch: link.place.epoch });
        self.stats.fenced.add(1);
        self.ask_first(index);
        true
    }

    /// Puts the entry (back) into the queue, ahead of new frames.
    fn ask_first(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        if !matches!(entry.state, State::Unclaimed | State::Asked) {
            self.waiting.add(entry.bytes);
        }
        // Tickets and handles of before are void.
        entry.generation = entry.generation.wrapping_add(1);
        entry.state = State::Unclaimed;
        entry.since = self.patience.now(entry.since);
        let handle = self.handle(index);
        self.again.push_back(handle);
    }

    /// The caller is told to send.
    fn decide_send(&mut self, index: u32, why: Why) {
        let token = self.entries[index as usize].token;
        let ticket = self.make_ours(index, why);
        self.decisions.push_back(Decision::Send { token, ticket, why });
    }

    /// The caller sends the entry's frame.
    fn make_ours(&mut self, index: u32, why: Why) -> Ticket {
        self.leave(index);
        let entry = &mut self.entries[index as usize];
        if let Some(place) = entry.asked.take() {
            // The answer is not waited for: the claim may be ours.
            entry.held.push(Link { place, certain: false, depth: entry.chain.len() });
        }
        entry.state = State::Ours;
        self.stats.by(why).add(1);
        self.ticket(index)
    }

    /// The caller is told that another node has sent the frame.
    fn decide_suppress(&mut self, index: u32, why: Why) {
        self.leave(index);
        self.stats.by(why).add(1);
        self.resolve_held(index);
        let token = self.entries[index as usize].token;
        self.decisions.push_back(Decision::Suppress { token, why });
        self.forget_entry(index);
    }

    /// Takes the entry out of what waits.
    fn leave(&mut self, index: u32) {
        self.observe_wait(index);
        let entry = &mut self.entries[index as usize];
        match entry.state {
            State::Unclaimed | State::Asked => self.waiting.remove(entry.bytes),
            State::Parked => self.parked.load.remove(entry.bytes),
            State::Free | State::Ours | State::Releasing => {}
        }
        // Handles in queues and lists no longer mean this entry.
        entry.generation = entry.generation.wrapping_add(1);
    }

    fn resolve_held(&mut self, index: u32) {
        for link in self.entries[index as usize].held.drain(..) {
            self.ledger.resolve(link.place);
        }
    }

    /// The entry's claims can be neither settled nor released.
    fn abandon(&mut self, index: u32) {
        self.stats.renewed.add(1);
        for link in self.entries[index as usize].held.drain(..) {
            self.ledger.abandon(link.place);
        }
        self.forget_entry(index);
    }

    fn admit(&mut self, now: Instant, key: ClaimKey, token: Token, bytes: u32, state: State) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            #[allow(clippy::cast_possible_truncation, reason = "frames in flight are bounded far below 2^32")]
            let index = self.entries.len() as u32;
            self.entries.push(Entry::empty(now, key));
            index
        });
        let entry = &mut self.entries[index as usize];
        (entry.state, entry.key, entry.token, entry.bytes, entry.built) = (state, key, token, bytes, now);
        entry.cohort = self.cohorts.enter();
        entry.since = now;
        index
    }

    fn forget_entry(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        entry.generation = entry.generation.wrapping_add(1);
        entry.state = State::Free;
        entry.asked = None;
        entry.held.clear();
        entry.chain.clear();
        entry.holder = None;
        entry.asked_again = false;
        entry.taking_over = false;
        self.cohorts.leave(entry.cohort);
        self.free.push(index);
    }

    fn handle(&self, index: u32) -> Handle {
        Handle { index, generation: self.entries[index as usize].generation }
    }

    fn is(&self, handle: Handle, state: State) -> bool {
        let entry = &self.entries[handle.index as usize];
        entry.generation == handle.generation && entry.state == state
    }

    fn ticket(&self, index: u32) -> Ticket {
        let generation = self.entries[index as usize].generation;
        Ticket(u64::from(generation) << 32 | u64::from(index))
    }

    fn ticketed(&self, ticket: Ticket) -> Option<Handle> {
        #[allow(clippy::cast_possible_truncation, reason = "the two halves")]
        let handle = Handle { index: ticket.0 as u32, generation: (ticket.0 >> 32) as u32 };
        ((handle.index as usize) < self.entries.len() && self.is(handle, State::Ours)).then_some(handle)
    }

    fn show_load(&self) {
        self.stats.waiting.set(self.waiting.frames as u64);
        self.stats.waiting_bytes.set(self.waiting.bytes as u64);
        self.stats.parked.set(self.parked.load.frames as u64);
        self.stats.parked_bytes.set(self.parked.load.bytes as u64);
    }
}

impl Claimant for (ClaimKey, Token, u32) {
    fn key(&self) -> &ClaimKey {
        &self.0
    }
    fn bytes(&self) -> u32 {
        self.2
    }
}

impl Entry {
    fn empty(now: Instant, key: ClaimKey) -> Entry {
        Entry {
            generation: 0,
            state: State::Free,
            key,
            token: 0,
            bytes: 0,
            cohort: 0,
            since: now,
            nonce: 0,
            built: now,
            asked: None,
            held: Vec::new(),
            chain: Vec::new(),
            holder: None,
            asked_again: false,
            taking_over: false,
            parked_at: now,
            reads: 0,
        }
    }
}

#[cfg(test)]
mod tests;
