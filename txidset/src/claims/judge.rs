//! Answers in: what each of them means for the frames that waited for it.

use super::ask::{Answer, Asked, RequestId};
use super::{Claims, Handle, Link, State, Why};
use crate::Mode;
use crate::mutation::Mutation;
use crate::value::{ClaimValue, CourtesyMark, Found};
use bytes::Bytes;
use cache_backend::{Claimed, OpError, OpErrorKind};
use std::time::Instant;

/// Whether the connection that brought an answer can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Trust {
    /// Yes.
    Kept,
    /// An answer belonged to another question: drop the connection and fail what waits on it.
    Lost,
}

impl Claims {
    /// A request was answered.
    pub fn on_answer(&mut self, now: Instant, id: RequestId, answer: Answer) -> Trust {
        self.patience.clock(now);
        let trust = match (self.landed(id), answer) {
            (Some(Asked::Claim(handles)), Answer::Claimed(answers)) => self.claimed(now, &handles, answers),
            (Some(Asked::Read { owners, late, issued }), Answer::Read(answers)) => {
                self.records_read(now, issued, &owners, &late, answers)
            }
            (Some(Asked::Keep), Answer::Written(_)) => Trust::Kept,
            (Some(Asked::Write(record)), Answer::Written(answers)) => {
                if answers.first().is_some_and(Result::is_ok) {
                    self.ledger.written(record);
                } else {
                    self.write_later(now);
                }
                Trust::Kept
            }
            (Some(Asked::Release(entries)), Answer::Released(answers)) => {
                self.released(&entries, &answers);
                Trust::Kept
            }
            (Some(asked), _) => {
                self.unanswered(now, asked, OpErrorKind::Garbled);
                Trust::Lost
            }
            (None, _) => Trust::Kept,
        };
        if trust == Trust::Lost {
            self.stats.slipped.add(1);
        }
        self.show_load();
        trust
    }

    /// A request has no answer: every key of it failed in this way.
    pub fn on_failure(&mut self, now: Instant, id: RequestId, kind: OpErrorKind) {
        self.patience.clock(now);
        if let Some(asked) = self.landed(id) {
            self.unanswered(now, asked, kind);
        }
        self.show_load();
    }

    fn unanswered(&mut self, now: Instant, asked: Asked, kind: OpErrorKind) {
        match asked {
            Asked::Claim(handles) => self.claims_in_doubt(now, &handles, kind),
            Asked::Read { owners, .. } => owners.iter().for_each(|&owner| self.read_failed(now, owner, kind)),
            Asked::Write(_) => self.write_later(now),
            // The next one says more.
            Asked::Keep => {}
            Asked::Release(entries) => self.released(&entries, &[]),
        }
    }

    fn write_later(&mut self, now: Instant) {
        self.flights.write_after = Some(now + self.config.epoch);
    }

    fn claimed(&mut self, now: Instant, handles: &[Handle], answers: Vec<Result<Claimed, OpError>>) -> Trust {
        let mut answers = answers.into_iter();
        for (i, &handle) in handles.iter().enumerate() {
            let answer = answers.next();
            if !self.is(handle, State::Asked) {
                continue;
            }
            let trust = match answer {
                Some(Ok(Claimed::Created)) => self.ours(now, handle.index),
                Some(Ok(Claimed::Exists(value))) => self.exists(now, handle.index, &value),
                Some(Err(error)) => self.claim_in_doubt(now, handle.index, error.kind),
                None => self.claim_in_doubt(now, handle.index, OpErrorKind::Garbled),
            };
            if trust == Trust::Lost {
                self.claims_in_doubt(now, &handles[i..], OpErrorKind::Garbled);
                return Trust::Lost;
            }
        }
        Trust::Kept
    }

    pub(super) fn claims_in_doubt(&mut self, now: Instant, handles: &[Handle], kind: OpErrorKind) {
        for &handle in handles {
            if self.is(handle, State::Asked) {
                let _ = self.claim_in_doubt(now, handle.index, kind);
            }
        }
    }

    /// The store holds our value.
    fn ours(&mut self, now: Instant, index: u32) -> Trust {
        self.answered(index);
        self.hold(index, true);
        let why = if self.entries[index as usize].taking_over { Why::TakenOver } else { Why::Won };
        if !self.fence(now, index) {
            self.decide_send(index, why);
        }
        Trust::Kept
    }

    /// No answer: the claim may be ours, and the frame is sent.
    fn claim_in_doubt(&mut self, now: Instant, index: u32, kind: OpErrorKind) -> Trust {
        self.hold(index, false);
        if self.mutation == Some(Mutation::DoubtSuppresses) {
            self.decide_suppress(index, Why::InDoubt);
        } else if kind == OpErrorKind::BreakerOpen {
            self.refused(now);
            self.decide_send(index, Why::BreakerOpen);
        } else if !self.fence(now, index) {
            self.decide_send(index, Why::InDoubt);
        }
        Trust::Kept
    }

    fn hold(&mut self, index: u32, certain: bool) {
        let entry = &mut self.entries[index as usize];
        if let Some(place) = entry.asked.take() {
            entry.held.push(Link { place, certain, depth: entry.chain.len() });
        }
    }

    /// The key is there, with this value.
    fn exists(&mut self, now: Instant, index: u32, value: &Bytes) -> Trust {
        self.answered(index);
        if self.config.mode == Mode::Simple {
            self.lose(index);
            self.decide_suppress(index, Why::Exists);
            return Trust::Kept;
        }
        match Found::parse(value) {
            Found::Claim(value) => self.taken(now, index, value),
            Found::Plain if self.mutation == Some(Mutation::PlainValueParks) => {
                self.taken(now, index, self.stranger(index))
            }
            Found::Plain => {
                self.lose(index);
                self.decide_suppress(index, Why::Exists);
                Trust::Kept
            }
            Found::Marked(mark) => self.marked(index, mark),
            Found::Unknown => self.claim_in_doubt(now, index, OpErrorKind::Garbled),
        }
    }

    /// A listener saw a frame of this id on the fabric.
    fn marked(&mut self, index: u32, mark: CourtesyMark) -> Trust {
        let entry = &self.entries[index as usize];
        if entry.key.id[..8] != mark.id && self.mutation != Some(Mutation::IdBytesNotChecked) {
            return Trust::Lost;
        }
        // Asked again because claims of that epoch were released: the mark may be of the very frame that its owner took
        // back, since it did not leave by every interface.
        let taken_back = entry.asked_again || self.refused.has(&entry.key);
        let believed = self.config.marks && !taken_back;
        self.lose(index);
        if believed {
            // The next copy asks again: a wrong mark does no harm beyond its own life, or once it was deleted.
            self.local.remove(&self.entries[index as usize].key);
            self.decide_suppress(index, Why::Marked);
        } else {
            self.decide_send(index, Why::InDoubt);
        }
        Trust::Kept
    }

    /// Only for a planted fault: an owner that never settles.
    fn stranger(&self, index: u32) -> ClaimValue {
        let id = *self.entries[index as usize].key.id.first_chunk().unwrap_or(&[0; 8]);
        ClaimValue { owner: 0, epoch: 1, nonce: 0, id }
    }

    /// Somebody's claim stands under the key.
    fn taken(&mut self, now: Instant, index: u32, value: ClaimValue) -> Trust {
        let entry = &self.entries[index as usize];
        if entry.key.id[..8] != value.id && self.mutation != Some(Mutation::IdBytesNotChecked) {
            return Trust::Lost;
        }
        let same_owner = entry.asked.is_some_and(|place| place.owner == value.owner);
        if entry.nonce == value.nonce || self.mutation == Some(Mutation::NonceIgnored) && same_owner {
            return self.ours(now, index);
        }
        let same_as_before = entry.asked_again && entry.holder == Some(value);
        self.lose(index);
        if same_as_before {
            // The release in that epoch was of another claim: this one was sent.
            self.decide_suppress(index, Why::Settled);
        } else {
            self.park(now, index, value);
        }
        Trust::Kept
    }

    /// The claim that was asked for is another's: nothing of ours stands under that key.
    fn lose(&mut self, index: u32) {
        if let Some(place) = self.entries[index as usize].asked.take() {
            self.ledger.resolve(place);
        }
        if self.mutation == Some(Mutation::LostFenceSettles) {
            self.resolve_held(index);
        }
    }

    /// Deletes were answered: each entry is released if all its keys were, else its claims stay unsettled for ever.
    fn released(&mut self, entries: &[(Handle, usize)], answers: &[Result<bool, OpError>]) {
        let mut answers = answers.iter();
        for &(handle, keys) in entries {
            let acknowledged = answers.by_ref().take(keys).filter(|answer| answer.is_ok()).count() == keys;
            if !self.is(handle, State::Releasing) {
                continue;
            }
            if acknowledged || self.config.mode == Mode::Simple {
                self.release_held(handle.index);
                self.forget_entry(handle.index);
            } else if self.mutation == Some(Mutation::UnackedReleaseForgotten) {
                self.resolve_held(handle.index);
                self.forget_entry(handle.index);
            } else {
                self.abandon(handle.index);
            }
        }
    }

    pub(super) fn release_held(&mut self, index: u32) {
        for link in self.entries[index as usize].held.drain(..) {
            self.stats.released.add(1);
            self.ledger.release(link.place);
        }
    }
}
