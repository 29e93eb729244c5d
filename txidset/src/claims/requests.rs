//! Requests out: what the worker wants from tier 2, as data, and what of it is under way.
//!
//! Order: deletes, the own record, what the caller keeps, records of others, claims. One request of each kind is under way at
//! once, but for deletes, and for claims: a few small batches, or more full ones.
//!
//! Cost: a buffer a request, which is used again where the caller gives it back (`recycle`).

use super::entries::{EntryHandle, EntryId, first_bytes};
use super::frames::Frames;
use super::parking::{Parking, Read};
use crate::config::{ClaimsConfig, Mode};
use crate::key::ClaimKey;
use crate::ledger::EpochPlace;
use crate::name::{Holder, Names};
use crate::random::split_mix;
use crate::stats::ClaimStats;
use crate::value::{ClaimValue, PLAIN, Record, one};
use bytes::Bytes;
use cache_backend::{Answers, Claimed, KeyValues};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Claim requests under way at once; further frames wait for the next batch. Full ones: enough that the store has work
/// while a worker is busy with a round of a thousand frames.
const MAX_CLAIM_REQUESTS: usize = 16;
/// Requests that are not full wait earlier and become fuller: fewer, larger batches cost both sides less.
const MAX_SMALL_REQUESTS: usize = 4;
/// Buffers kept for reuse.
const MAX_SPARE: usize = 32;

/// Names a request until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(u64);

/// One request to tier 2.
#[derive(Debug)]
pub struct Request {
    /// To be given back with the answer.
    pub id: RequestId,
    /// What to do.
    pub ask: Ask,
    /// Nobody waits for the answer any longer than this.
    pub until: Option<Instant>,
}

/// What a request asks.
#[derive(Debug)]
pub enum Ask {
    /// Create-only writes: `Session::claim`.
    Claim {
        /// Keys and our values.
        batch: KeyValues,
        /// Zero for ever.
        ttl: Duration,
    },
    /// Reads of other owners' records: `Session::get`.
    Read {
        /// Keys; no values.
        keys: KeyValues,
    },
    /// Our record, or what the caller keeps: `Session::set`.
    Write {
        /// One pair.
        batch: KeyValues,
        /// Zero for ever.
        ttl: Duration,
    },
    /// Deletes of claims whose frames could not be sent: `Session::del`.
    Release {
        /// Keys; no values.
        keys: KeyValues,
    },
}

/// Answer to a request of the same kind.
#[derive(Debug)]
pub enum Answer {
    /// To `Ask::Claim`.
    Claimed(Answers<Claimed>),
    /// To `Ask::Read`.
    Read(Answers<Option<Bytes>>),
    /// To `Ask::Write`.
    Written(Answers<()>),
    /// To `Ask::Release`.
    Released(Answers<bool>),
}

/// What a request is about.
pub(super) enum Subject {
    /// Frames whose claims it asks for.
    Claim(Vec<Asked>),
    /// Records of other owners.
    Read(Read),
    /// The own record.
    Write(Record),
    /// What the caller keeps in the store.
    Keep,
    /// Frames, and how many keys of the request are theirs.
    Release(Vec<(EntryHandle, usize)>),
}

/// A frame whose claim is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) handle: EntryHandle,
    /// The key before its own is its id, which is asked for beside its variant.
    pub(super) beside: bool,
}

/// A request under way.
struct InFlight {
    id: RequestId,
    subject: Subject,
    /// When its frames have waited as long as they may.
    until: Option<Instant>,
}

impl InFlight {
    /// Frames whose claims it asks for.
    fn frames(&self) -> &[Asked] {
        match &self.subject {
            Subject::Claim(asked) => asked,
            _ => &[],
        }
    }
}

/// See the module text.
pub(super) struct Requests {
    names: Names,
    /// State of the numbers that tell our values from any others.
    nonces: u64,
    in_flight: Vec<InFlight>,
    next_id: u64,
    /// Those of them that claim.
    claims: usize,
    writing: bool,
    /// A record could not be written: not before then again.
    write_after: Option<Instant>,
    reading: bool,
    keeping: bool,
    /// What the caller wants to be written.
    to_keep: Option<KeyValues>,
    to_release: VecDeque<EntryHandle>,
    spare: Vec<KeyValues>,
    stats: Arc<ClaimStats>,
}

impl Requests {
    pub(super) fn new(names: Names, nonces: u64, stats: Arc<ClaimStats>) -> Requests {
        Requests {
            names,
            nonces,
            in_flight: Vec::new(),
            next_id: 0,
            claims: 0,
            writing: false,
            write_after: None,
            reading: false,
            keeping: false,
            to_keep: None,
            to_release: VecDeque::new(),
            spare: Vec::new(),
            stats,
        }
    }

    /// The claims of this frame are to be deleted.
    pub(super) fn release(&mut self, handle: EntryHandle) {
        self.to_release.push_back(handle);
    }

    /// Positions of the consumer's workers with this index are to be written; the latest value wins.
    pub(super) fn keep_positions(&mut self, index: u16, value: &[u8]) {
        let mut key = Vec::with_capacity(64);
        self.names.positions(index, &mut key);
        self.to_keep = Some(one(&key, value));
    }

    /// A record could not be written.
    pub(super) fn write_later(&mut self, after: Instant) {
        self.write_after = Some(after);
    }

    /// Time has passed.
    pub(super) fn on_timeout(&mut self, now: Instant) {
        if self.write_after.is_some_and(|at| at <= now) {
            self.write_after = None;
        }
    }

    /// When a write or a read is due, or a claim request has waited as long as it may.
    pub(super) fn next_timeout(&self, parking: &Parking) -> Option<Instant> {
        let write = self.write_after.filter(|_| !self.writing);
        let read = parking.next_read().filter(|_| !self.reading);
        let answers = self.in_flight.iter().filter_map(|request| request.until);
        write.into_iter().chain(read).chain(answers).min()
    }

    /// Nothing is under way and nothing is to be deleted.
    pub(super) fn is_idle(&self) -> bool {
        self.to_release.is_empty() && self.in_flight.is_empty()
    }

    /// Frames whose claims are under way, newest request first.
    pub(super) fn asked_newest_first(&self) -> impl Iterator<Item = EntryHandle> {
        self.in_flight
            .iter()
            .rev()
            .flat_map(|request| request.frames().iter().rev().map(|asked| asked.handle))
    }

    /// Frames of one claim request that has waited as long as it may; it is not named again.
    pub(super) fn next_overdue(&mut self, now: Instant) -> Option<Vec<Asked>> {
        self.in_flight.iter_mut().find_map(|request| match &mut request.subject {
            Subject::Claim(asked) if request.until.is_some_and(|until| until <= now) => {
                request.until = None;
                Some(std::mem::take(asked))
            }
            _ => None,
        })
    }

    /// The next request to carry out.
    pub(super) fn poll(
        &mut self,
        frames: &mut Frames,
        parking: &mut Parking,
        config: &ClaimsConfig,
        now: Instant,
    ) -> Option<Request> {
        self.poll_release(frames, config)
            .or_else(|| self.poll_write(frames, config))
            .or_else(|| self.poll_keep(config))
            .or_else(|| self.poll_read(frames, parking, config, now))
            .or_else(|| self.poll_claim(frames, config, now))
    }

    /// Gives back the buffer of a request that was carried out, for the next one.
    pub(super) fn recycle(&mut self, mut buffer: KeyValues) {
        if self.spare.len() < MAX_SPARE {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    /// A request was answered. Returns what it was about.
    pub(super) fn take_in_flight(&mut self, id: RequestId) -> Option<Subject> {
        let at = self.in_flight.iter().position(|request| request.id == id)?;
        let subject = self.in_flight.swap_remove(at).subject;
        match subject {
            Subject::Claim(_) => self.claims -= 1,
            Subject::Read(_) => self.reading = false,
            Subject::Write(_) => self.writing = false,
            Subject::Keep => self.keeping = false,
            Subject::Release(_) => {}
        }
        Some(subject)
    }

    fn start(&mut self, subject: Subject, ask: Ask, until: Option<Instant>) -> Request {
        let id = RequestId(self.next_id);
        self.next_id += 1;
        self.in_flight.push(InFlight { id, subject, until });
        Request { id, ask, until }
    }

    fn poll_claim(&mut self, frames: &mut Frames, config: &ClaimsConfig, now: Instant) -> Option<Request> {
        let queued = frames.queued();
        let full = queued >= config.max_batch;
        let most = if full { MAX_CLAIM_REQUESTS } else { MAX_SMALL_REQUESTS };
        if queued == 0 || self.claims >= most {
            return None;
        }
        let mut batch = self.spare.pop().unwrap_or_default();
        let mut asked = Vec::with_capacity(queued.min(config.max_batch));
        let mut oldest: Option<Instant> = None;
        let mut key = Vec::with_capacity(128);
        while batch.len() < config.max_batch
            && let Some((handle, since)) = frames.next_queued()
        {
            oldest = Some(oldest.map_or(since, |oldest| oldest.min(since)));
            let beside = self.push_claim(frames, config, now, handle.id, (&mut key, &mut batch));
            asked.push(Asked { handle, beside });
        }
        if asked.is_empty() {
            return None;
        }
        self.claims += 1;
        self.stats.claims.add(batch.len() as u64);
        self.stats.claim_requests.add(1);
        let until = oldest.and_then(|since| frames.answered_by(since));
        Some(self.start(Subject::Claim(asked), Ask::Claim { batch, ttl: config.ttl }, until))
    }

    /// Appends key and value of a frame's claim, in the epoch that is open now; before them those of its id, if that is asked
    /// for beside its variant (`true`). `key` is scratch space.
    fn push_claim(
        &mut self,
        frames: &mut Frames,
        config: &ClaimsConfig,
        now: Instant,
        id: EntryId,
        (key, batch): (&mut Vec<u8>, &mut KeyValues),
    ) -> bool {
        let nonce = split_mix(&mut self.nonces);
        let (place, place_beside) = frames.ask(now, id, nonce);
        let entry = frames.entry(id);
        let mut push = |of: &ClaimKey, chain: &[Holder], place: EpochPlace| {
            key.clear();
            self.names.claim(of, chain, key);
            if config.mode == Mode::Simple {
                return batch.push(key, PLAIN);
            }
            let value = ClaimValue { owner: place.owner, epoch: place.epoch, nonce, id: first_bytes(of) };
            batch.push(key, &value.encode());
        };
        if let (Some(of), Some(place)) = (&entry.beside, place_beside) {
            push(of, &[], place);
        }
        push(&entry.key, &entry.history.chain, place);
        place_beside.is_some()
    }

    fn poll_read(
        &mut self,
        frames: &Frames,
        parking: &mut Parking,
        config: &ClaimsConfig,
        now: Instant,
    ) -> Option<Request> {
        if self.reading {
            return None;
        }
        let read = parking.begin_read(frames, config, now)?;
        let mut keys = self.spare.pop().unwrap_or_default();
        let mut key = Vec::with_capacity(64);
        for &owner in &read.owners {
            key.clear();
            self.names.record(owner, &mut key);
            keys.push(&key, b"");
        }
        for &owner in &read.late {
            key.clear();
            self.names.end_notice(owner, &mut key);
            keys.push(&key, b"");
        }
        self.reading = true;
        self.stats.records_read.add(keys.len() as u64);
        Some(self.start(Subject::Read(read), Ask::Read { keys }, None))
    }

    fn poll_write(&mut self, frames: &Frames, config: &ClaimsConfig) -> Option<Request> {
        if self.writing || self.write_after.is_some() || config.mode == Mode::Simple {
            return None;
        }
        let record = frames.ledger().unwritten_record()?;
        let mut key = Vec::with_capacity(64);
        self.names.record(record.owner, &mut key);
        self.writing = true;
        self.stats.records_written.add(1);
        let ttl = if planted!(frames, RecordExpiresEarly) { config.ttl / 4 } else { config.record_ttl() };
        let batch = one(&key, &record.encode());
        Some(self.start(Subject::Write(record), Ask::Write { batch, ttl }, None))
    }

    fn poll_keep(&mut self, config: &ClaimsConfig) -> Option<Request> {
        if self.keeping {
            return None;
        }
        let batch = self.to_keep.take()?;
        self.keeping = true;
        Some(self.start(Subject::Keep, Ask::Write { batch, ttl: config.record_ttl() }, None))
    }

    fn poll_release(&mut self, frames: &mut Frames, config: &ClaimsConfig) -> Option<Request> {
        if self.to_release.is_empty() {
            return None;
        }
        let mut keys = self.spare.pop().unwrap_or_default();
        let mut released = Vec::new();
        let mut key = Vec::with_capacity(128);
        while keys.len() < config.max_batch
            && let Some(handle) = self.to_release.pop_front()
        {
            let entry = frames.entry(handle.id);
            let history = &entry.history;
            for link in &history.held {
                key.clear();
                let depth = link.depth.min(history.chain.len());
                let of = entry.beside.as_ref().filter(|_| link.beside).unwrap_or(&entry.key);
                self.names.claim(of, &history.chain[..depth], &mut key);
                keys.push(&key, b"");
            }
            released.push((handle, history.held.len()));
        }
        if planted!(frames, ReleaseNotAwaited) {
            for &(handle, _) in &released {
                frames.release_held(handle.id);
            }
        }
        Some(self.start(Subject::Release(released), Ask::Release { keys }, None))
    }
}
