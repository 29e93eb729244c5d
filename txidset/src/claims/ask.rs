//! Requests out: what the worker wants from tier 2, as data.

use super::{Claims, Handle, Link, State};
use crate::Mode;
use crate::mutation::Mutation;
use crate::random::split_mix;
use crate::value::{ClaimValue, PLAIN, Record, one};
use bytes::Bytes;
use cache_backend::{Answers, Claimed, KeyValues};
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

/// A request under way.
pub(super) struct InFlight {
    pub(super) id: RequestId,
    pub(super) asked: Asked,
    /// When its frames have waited as long as they may.
    pub(super) until: Option<Instant>,
}

impl InFlight {
    /// Entries whose claims it asks for.
    pub(super) fn claims(&self) -> &[Handle] {
        match &self.asked {
            Asked::Claim(handles) => handles,
            _ => &[],
        }
    }
}

pub(super) enum Asked {
    Claim(Vec<Handle>),
    Read {
        owners: Vec<u64>,
        /// Of these it was also asked whether their processes have ended.
        late: Vec<u64>,
        issued: Instant,
    },
    Write(Record),
    /// What the caller keeps in the store (`Claims::keep`).
    Keep,
    /// Entries and how many keys of the request are theirs.
    Release(Vec<(Handle, usize)>),
}

impl Claims {
    /// The next request to carry out; each must be answered with `on_answer` or `on_failure`.
    pub fn poll_request(&mut self, now: Instant) -> Option<Request> {
        if !self.config.tier2 {
            return None;
        }
        self.ledger.close(now, false);
        let request = self
            .release_request()
            .or_else(|| self.write_request())
            .or_else(|| self.keep_request())
            .or_else(|| self.read_request(now))
            .or_else(|| self.claim_request(now));
        self.show_load();
        request
    }

    /// Gives back the buffer of a request that was carried out, for the next one.
    pub fn recycle(&mut self, mut buffer: KeyValues) {
        if self.spare.len() < MAX_SPARE {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    /// Removes and returns a request that was answered.
    pub(super) fn landed(&mut self, id: RequestId) -> Option<Asked> {
        let at = self.in_flight.iter().position(|flight| flight.id == id)?;
        let asked = self.in_flight.swap_remove(at).asked;
        match asked {
            Asked::Claim(_) => self.flights.claims -= 1,
            Asked::Read { .. } => self.flights.reading = false,
            Asked::Write(_) => self.flights.writing = false,
            Asked::Keep => self.flights.keeping = false,
            Asked::Release(_) => {}
        }
        Some(asked)
    }

    fn start(&mut self, asked: Asked, ask: Ask) -> Request {
        let id = RequestId(self.flights.next_id);
        self.flights.next_id += 1;
        self.in_flight.push(InFlight { id, asked, until: None });
        Request { id, ask, until: None }
    }

    fn claim_request(&mut self, now: Instant) -> Option<Request> {
        let queued = self.unclaimed.len() + self.again.len();
        let full = queued >= self.config.max_batch;
        let most = if full { MAX_CLAIM_REQUESTS } else { MAX_SMALL_REQUESTS };
        if queued == 0 || self.flights.claims >= most {
            return None;
        }
        let mut batch = self.spare.pop().unwrap_or_default();
        let mut handles = Vec::with_capacity(queued.min(self.config.max_batch));
        let mut oldest: Option<Instant> = None;
        let mut key = Vec::with_capacity(128);
        while handles.len() < self.config.max_batch
            && let Some(handle) = self.again.pop_front().or_else(|| self.unclaimed.pop_front())
        {
            if self.is(handle, State::Unclaimed) {
                let since = self.entries[handle.index as usize].since;
                oldest = Some(oldest.map_or(since, |oldest| oldest.min(since)));
                self.build_claim(now, handle.index, &mut key, &mut batch);
                handles.push(handle);
            }
        }
        if handles.is_empty() {
            return None;
        }
        self.flights.claims += 1;
        self.stats.claims.add(handles.len() as u64);
        self.stats.claim_requests.add(1);
        let ttl = self.config.ttl;
        let until = oldest.and_then(|since| self.answered_by(since));
        let mut request = self.start(Asked::Claim(handles), Ask::Claim { batch, ttl });
        request.until = until;
        if let Some(flight) = self.in_flight.last_mut() {
            flight.until = until;
        }
        Some(request)
    }

    /// Appends key and value of an entry's claim, in the epoch that is open now.
    fn build_claim(&mut self, now: Instant, index: u32, key: &mut Vec<u8>, batch: &mut KeyValues) {
        let place = self.ledger.open_claim(now);
        let entry = &mut self.entries[index as usize];
        entry.state = State::Asked;
        entry.built = now;
        entry.nonce = split_mix(&mut self.random);
        entry.asked = Some(place);
        key.clear();
        self.names.claim(&entry.key, &entry.chain, key);
        if self.config.mode == Mode::Simple {
            return batch.push(key, PLAIN);
        }
        let id = *entry.key.id.first_chunk().unwrap_or(&[0; 8]);
        let value = ClaimValue { owner: place.owner, epoch: place.epoch, nonce: entry.nonce, id };
        batch.push(key, &value.encode());
    }

    fn read_request(&mut self, now: Instant) -> Option<Request> {
        if self.flights.reading || self.parked.next_read.is_none_or(|at| at > now) {
            return None;
        }
        let owners = self.parked.owners_to_read(self.config.max_batch);
        if owners.is_empty() {
            self.parked.next_read = None;
            return None;
        }
        let mut keys = self.spare.pop().unwrap_or_default();
        let mut key = Vec::with_capacity(64);
        for &owner in &owners {
            key.clear();
            self.names.record(owner, &mut key);
            keys.push(&key, b"");
        }
        let late: Vec<u64> = owners.iter().copied().filter(|&owner| self.is_late(now, owner)).collect();
        for &owner in &late {
            key.clear();
            self.names.ended(owner, &mut key);
            keys.push(&key, b"");
        }
        self.flights.reading = true;
        self.parked.next_read = Some(now + self.read_interval());
        self.stats.records_read.add(keys.len() as u64);
        Some(self.start(Asked::Read { owners, late, issued: now }, Ask::Read { keys }))
    }

    /// Often enough that a copy is let go within two epochs of its owner's record.
    pub(super) fn read_interval(&self) -> Duration {
        (self.config.epoch / 2).max(Duration::from_millis(1))
    }

    fn write_request(&mut self) -> Option<Request> {
        if self.flights.writing || self.flights.write_after.is_some() || self.config.mode == Mode::Simple {
            return None;
        }
        let record = self.ledger.news()?;
        let mut key = Vec::with_capacity(64);
        self.names.record(record.owner, &mut key);
        self.flights.writing = true;
        self.stats.records_written.add(1);
        let ttl = self.record_ttl();
        let batch = one(&key, &record.encode());
        Some(self.start(Asked::Write(record), Ask::Write { batch, ttl }))
    }

    fn keep_request(&mut self) -> Option<Request> {
        if self.flights.keeping {
            return None;
        }
        let batch = self.to_keep.take()?;
        self.flights.keeping = true;
        let ttl = self.record_ttl();
        Some(self.start(Asked::Keep, Ask::Write { batch, ttl }))
    }

    /// A record outlives every claim that it covers, also one whose sibling looks at the last moment.
    fn record_ttl(&self) -> Duration {
        if self.config.ttl.is_zero() {
            return Duration::ZERO;
        }
        if self.mutation == Some(Mutation::RecordExpiresEarly) {
            return self.config.ttl / 4;
        }
        self.config.ttl + 2 * self.config.lease
    }

    fn release_request(&mut self) -> Option<Request> {
        if self.to_release.is_empty() {
            return None;
        }
        let mut keys = self.spare.pop().unwrap_or_default();
        let mut released = Vec::new();
        let mut key = Vec::with_capacity(128);
        while keys.len() < self.config.max_batch
            && let Some(handle) = self.to_release.pop_front()
        {
            let entry = &self.entries[handle.index as usize];
            for link in &entry.held {
                let Link { depth, .. } = *link;
                key.clear();
                self.names.claim(&entry.key, &entry.chain[..depth.min(entry.chain.len())], &mut key);
                keys.push(&key, b"");
            }
            released.push((handle, entry.held.len()));
        }
        if self.mutation == Some(Mutation::ReleaseNotAwaited) {
            for &(handle, _) in &released {
                self.release_held(handle.index);
            }
        }
        Some(self.start(Asked::Release(released), Ask::Release { keys }))
    }
}
