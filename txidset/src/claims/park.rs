//! Copies that another owner has claimed, until it is known whether that owner sent its own.
//!
//! A copy is judged only by a record whose read was answered after the copy was parked:
//! * its epoch is settled and nothing was released since: it was sent, let the copy go;
//! * settled, but something was released in that epoch or later: ask once more for the same key;
//! * otherwise wait; after at least three answered reads that span the lease take over, by claiming the key with owner
//!   and epoch appended. An owner whose process is known to have ended gets no lease: one read that was issued after
//!   this became known decides.
//!
//! The span runs from parking to the moment when the last of those reads was issued, on this worker's own monotonic clock.

use super::{Claims, Handle, Load, State, Trust, Why};
use crate::mutation::Mutation;
use crate::name::Holder;
use crate::value::{ClaimValue, Record, parse_ended};
use bytes::Bytes;
use cache_backend::{OpError, OpErrorKind};
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

/// Answered reads before a takeover.
const MIN_READS: u8 = 3;
/// Owners without a process that are remembered; of others it is asked again.
const MAX_ENDED: usize = 64;
/// A copy that waits for longer than so many epochs makes its owner's end worth asking about.
const LATE_EPOCHS: u32 = 2;

#[derive(Default)]
pub(super) struct Parked {
    pub(super) load: Load,
    pub(super) next_read: Option<Instant>,
    /// Copies by the owner they wait for.
    by_owner: BTreeMap<u64, Vec<Handle>>,
    /// In order of parking, with some that have left.
    order: VecDeque<Handle>,
    /// Owners up to this one were read last.
    cursor: u64,
    /// Owners whose process has ended, and when this became known.
    ended: VecDeque<(u64, Instant)>,
    /// Only for a planted fault: reads per owner that were answered since any copy was parked, and when the first was.
    earlier: BTreeMap<u64, (u8, Instant)>,
}

impl Parked {
    /// The next owners to read, at most `most`, in turn.
    pub(super) fn owners_to_read(&mut self, most: usize) -> Vec<u64> {
        let after = self.by_owner.range(self.cursor..).map(|(&owner, _)| owner);
        let before = self.by_owner.range(..self.cursor).map(|(&owner, _)| owner);
        let owners: Vec<u64> = after.chain(before).take(most.max(1)).collect();
        self.cursor = owners.last().map_or(0, |owner| owner.wrapping_add(1));
        owners
    }

    /// Since when it is known that the owner's process has ended.
    fn ended_since(&self, owner: u64) -> Option<Instant> {
        self.ended.iter().find(|(ended, _)| *ended == owner).map(|(_, at)| *at)
    }

    fn push(&mut self, owner: u64, handle: Handle) {
        self.by_owner.entry(owner).or_default().push(handle);
        self.order.push_back(handle);
    }
}

impl Claims {
    /// Another owner holds the entry's id: waits for its record.
    pub(super) fn park(&mut self, now: Instant, index: u32, holder: ClaimValue) {
        if self.draining {
            return self.decide_send(index, Why::Draining);
        }
        let bytes = self.entries[index as usize].bytes;
        while self.parked.load.bytes + bytes as usize > self.config.park_bytes {
            if self.mutation == Some(Mutation::ParkedCopyDropped) {
                return self.decide_suppress(index, Why::ParkingFull);
            }
            if !self.send_oldest_parked(now) {
                return self.decide_send(index, Why::ParkingFull);
            }
        }
        self.leave(index);
        let entry = &mut self.entries[index as usize];
        entry.state = State::Parked;
        entry.holder = Some(holder);
        entry.asked_again = false;
        entry.parked_at = now;
        entry.reads = 0;
        self.parked.load.add(bytes);
        self.stats.parked_total.add(1);
        let handle = self.handle(index);
        self.parked.push(holder.owner, handle);
        self.tidy_order();
        let next = now + self.read_interval();
        self.parked.next_read.get_or_insert(next);
        self.count_earlier_reads(index, holder);
    }

    /// Only for a planted fault.
    fn count_earlier_reads(&mut self, index: u32, holder: ClaimValue) {
        if self.mutation == Some(Mutation::EarlierReadsCount)
            && let Some(&(reads, since)) = self.parked.earlier.get(&holder.owner)
        {
            let entry = &mut self.entries[index as usize];
            (entry.reads, entry.parked_at) = (reads, since);
        }
    }

    pub(super) fn send_all_parked(&mut self, now: Instant) {
        if self.mutation == Some(Mutation::DrainDropsParked) {
            while let Some(handle) = self.parked.order.pop_front() {
                if self.is(handle, State::Parked) {
                    self.decide_suppress(handle.index, Why::Draining);
                }
            }
        }
        while let Some(handle) = self.oldest_parked() {
            self.count_parking(now, handle.index, false);
            self.decide_send(handle.index, Why::Draining);
        }
        self.parked.by_owner.clear();
        self.parked.next_read = None;
    }

    fn send_oldest_parked(&mut self, now: Instant) -> bool {
        let Some(handle) = self.oldest_parked() else { return false };
        self.count_parking(now, handle.index, false);
        self.decide_send(handle.index, Why::ParkingFull);
        true
    }

    fn oldest_parked(&mut self) -> Option<Handle> {
        while let Some(handle) = self.parked.order.pop_front() {
            if self.is(handle, State::Parked) {
                return Some(handle);
            }
        }
        None
    }

    /// Keeps the order short: those that left are at most as many as those that wait.
    fn tidy_order(&mut self) {
        if self.parked.order.len() > 2 * self.parked.load.frames + 64 {
            let mut order = std::mem::take(&mut self.parked.order);
            order.retain(|&handle| self.is(handle, State::Parked));
            self.parked.order = order;
        }
    }

    /// The process of `owner` has ended, as its successor knows: its unsettled claims are taken over without a lease.
    pub fn has_ended(&mut self, now: Instant, owner: u64) {
        if self.parked.ended_since(owner).is_some() {
            return;
        }
        if self.parked.ended.len() == MAX_ENDED {
            self.parked.ended.pop_front();
        }
        self.parked.ended.push_back((owner, now));
    }

    /// Whether a copy waits for `owner` for so long that its process may have ended.
    pub(super) fn is_late(&self, now: Instant, owner: u64) -> bool {
        let oldest = self.parked.by_owner.get(&owner).and_then(|copies| copies.first());
        let Some(oldest) = oldest.filter(|handle| self.is(**handle, State::Parked)) else { return false };
        let waited = now.saturating_duration_since(self.entries[oldest.index as usize].parked_at);
        waited >= self.config.epoch * LATE_EPOCHS && self.parked.ended_since(owner).is_none()
    }

    /// Records were read, and words about the end of `late` owners; `issued` is when they were asked for.
    pub(super) fn records_read(
        &mut self,
        now: Instant,
        issued: Instant,
        owners: &[u64],
        late: &[u64],
        answers: Vec<Result<Option<Bytes>, OpError>>,
    ) -> Trust {
        let mut answers = answers.into_iter();
        let mut trust = Trust::Kept;
        for &owner in owners {
            let answer = if trust == Trust::Kept { answers.next() } else { None };
            match answer {
                Some(Ok(None)) => self.record_read(now, issued, owner, None),
                Some(Ok(Some(bytes))) => match Record::parse(&bytes) {
                    Some(record) if record.owner != owner && self.checks_record_owner() => {
                        trust = Trust::Lost;
                        self.read_failed(now, owner, OpErrorKind::Garbled);
                    }
                    record => self.record_read(now, issued, owner, record),
                },
                Some(Err(error)) => self.read_failed(now, owner, error.kind),
                None => self.read_failed(now, owner, OpErrorKind::Garbled),
            }
        }
        if trust == Trust::Kept { self.ends_read(now, late, answers) } else { trust }
    }

    fn ends_read(
        &mut self,
        now: Instant,
        late: &[u64],
        answers: impl Iterator<Item = Result<Option<Bytes>, OpError>>,
    ) -> Trust {
        for (&owner, answer) in late.iter().zip(answers) {
            let Some(ended) = answer.ok().flatten().and_then(|bytes| parse_ended(&bytes)) else { continue };
            if ended != owner && self.checks_record_owner() {
                return Trust::Lost;
            }
            self.has_ended(now, owner);
        }
        Trust::Kept
    }

    fn checks_record_owner(&self) -> bool {
        self.mutation != Some(Mutation::RecordOwnerNotChecked)
    }

    fn record_read(&mut self, now: Instant, issued: Instant, owner: u64, record: Option<Record>) {
        let earlier = self.parked.earlier.entry(owner);
        if self.mutation == Some(Mutation::EarlierReadsCount) {
            let (reads, _) = earlier.or_insert((0, now));
            *reads = reads.saturating_add(1);
        }
        let ended = self.parked.ended_since(owner).is_some_and(|known| issued >= known);
        self.judge_copies(owner, |claims, index| claims.judge_copy(now, issued, index, record, ended));
    }

    /// Goes through the copies that wait for `owner` and keeps those that still do afterwards.
    fn judge_copies(&mut self, owner: u64, mut judge: impl FnMut(&mut Claims, u32)) {
        let Some(mut copies) = self.parked.by_owner.remove(&owner) else { return };
        copies.retain(|&handle| {
            if self.is(handle, State::Parked) {
                judge(self, handle.index);
            }
            self.is(handle, State::Parked)
        });
        if !copies.is_empty() {
            self.parked.by_owner.insert(owner, copies);
        } else if self.parked.by_owner.is_empty() {
            self.parked.next_read = None;
        }
    }

    fn judge_copy(&mut self, now: Instant, issued: Instant, index: u32, record: Option<Record>, ended: bool) {
        let lease = self.config.lease;
        let entry = &mut self.entries[index as usize];
        let Some(holder) = entry.holder else { return };
        entry.reads = entry.reads.saturating_add(1);
        let settled = match record {
            Some(record) => holder.epoch <= record.settled,
            None => self.mutation == Some(Mutation::MissingRecordSettles),
        };
        let released = record.is_some_and(|record| holder.epoch <= record.released);
        let span = issued.saturating_duration_since(entry.parked_at);
        let over = span >= lease || self.mutation == Some(Mutation::TakeoverWithoutLease);
        if settled && !released {
            self.count_parking(now, index, true);
            self.decide_suppress(index, Why::Settled);
        } else if settled {
            entry.asked_again = true;
            self.leave_parking(now, index);
        } else if ended || entry.reads >= MIN_READS && over {
            self.take_over(now, index, holder);
        }
    }

    /// The owner did not settle within its lease.
    fn take_over(&mut self, now: Instant, index: u32, holder: ClaimValue) {
        let entry = &mut self.entries[index as usize];
        if entry.chain.len() >= super::MAX_CHAIN || self.mutation == Some(Mutation::TakeoverWithoutClaim) {
            self.count_parking(now, index, false);
            return self.decide_send(index, Why::InDoubt);
        }
        entry.chain.push(Holder { owner: holder.owner, epoch: holder.epoch });
        entry.taking_over = true;
        self.leave_parking(now, index);
    }

    /// Back into the queue of what is to be claimed.
    fn leave_parking(&mut self, now: Instant, index: u32) {
        self.count_parking(now, index, false);
        let bytes = self.entries[index as usize].bytes;
        self.parked.load.remove(bytes);
        self.ask_first(index);
    }

    /// A copy leaves parking: let go for good, or not.
    fn count_parking(&self, now: Instant, index: u32, let_go: bool) {
        let parked = now.saturating_duration_since(self.entries[index as usize].parked_at);
        let times = if let_go { &self.stats.parked_let_go } else { &self.stats.parked_went_on };
        times.observe(parked);
    }

    /// A read has no answer. Copies are sent where the backend is gone, and where they have waited for a lease. One lost
    /// connection is not the end of a backend.
    pub(super) fn read_failed(&mut self, now: Instant, owner: u64, kind: OpErrorKind) {
        let gone = kind == OpErrorKind::BreakerOpen;
        let why = if kind == OpErrorKind::BreakerOpen { Why::BreakerOpen } else { Why::InDoubt };
        self.judge_copies(owner, |claims, index| {
            let waited = now.saturating_duration_since(claims.entries[index as usize].parked_at);
            if gone || waited >= claims.config.lease {
                claims.count_parking(now, index, false);
                claims.decide_send(index, why);
            }
        });
    }
}
