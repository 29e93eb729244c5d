//! Copies that another owner has claimed, until it is known whether that owner sent its own.
//!
//! A copy is judged only by a record whose read was answered after the copy was parked:
//! * its epoch is settled and nothing was released since: it was sent, let the copy go;
//! * settled, but something was released in that epoch or later: ask once more for the same key;
//! * otherwise wait. After at least three answered reads that span the lease take over, by claiming the key with owner and
//!   epoch appended. An owner whose process is known to have ended gets no lease: one read that was issued after this
//!   became known decides.
//!
//! The span runs from parking to the moment when the last of those reads was issued, on this worker's own monotonic clock.
//!
//! Limits: parked copies are bounded in bytes; when full the oldest is sent (`ParkingFull`). Cost: nothing for a frame that
//! is not parked; a copy costs two handles and a look at each read of its owner's record.

use super::entries::{EntryHandle, EntryId};
use super::frames::Frames;
use crate::config::ClaimsConfig;
use crate::decision::Why;
use crate::value::{ClaimValue, Record, parse_end_notice};
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

/// See the module text.
#[derive(Default)]
pub(super) struct Parking {
    /// When records are read next, while there is something parked.
    next_read: Option<Instant>,
    /// Copies by the owner they wait for.
    by_owner: BTreeMap<u64, Vec<EntryHandle>>,
    /// In order of parking, with some that have left.
    order: VecDeque<EntryHandle>,
    /// Owners up to this one were read last.
    cursor: u64,
    /// Owners whose process has ended, and when this became known.
    ended: VecDeque<(u64, Instant)>,
    /// The worker is stopping: nothing is parked any more.
    closed: bool,
    /// Reads per owner that were answered since any copy was parked, and when the first was.
    #[cfg(feature = "mutants")]
    earlier: BTreeMap<u64, (u8, Instant)>,
}

/// Records that are read in one request.
pub(super) struct Read {
    pub(super) owners: Vec<u64>,
    /// Of these it is also asked whether their processes have ended.
    pub(super) late: Vec<u64>,
    pub(super) issued: Instant,
}

/// An answer belonged to another question.
pub(super) struct Slipped;

/// What the read of a record said.
struct Word {
    record: Option<Record>,
    issued: Instant,
    /// The owner's process had ended when the read was issued.
    ended: bool,
}

impl Parking {
    /// Another owner holds the frame's id: it waits for that owner's record.
    pub(super) fn park(
        &mut self,
        frames: &mut Frames,
        config: &ClaimsConfig,
        now: Instant,
        id: EntryId,
        holder: ClaimValue,
    ) {
        if self.closed {
            return frames.decide_send(id, Why::Draining);
        }
        let bytes = frames.entry(id).bytes;
        while frames.parked().bytes + bytes as usize > config.park_bytes {
            if planted!(frames, ParkedCopyDropped) {
                return frames.decide_suppress(id, Why::ParkingFull);
            }
            if !self.send_oldest(frames, now) {
                return frames.decide_send(id, Why::ParkingFull);
            }
        }
        let handle = frames.park(now, id, holder);
        self.by_owner.entry(holder.owner).or_default().push(handle);
        self.order.push_back(handle);
        self.tidy_order(frames);
        self.next_read.get_or_insert(now + config.read_interval());
        #[cfg(feature = "mutants")]
        if planted!(frames, EarlierReadsCount)
            && let Some(&earlier) = self.earlier.get(&holder.owner)
        {
            frames.count_earlier_reads(id, earlier);
        }
    }

    /// From now on nothing is parked. What is parked is sent.
    pub(super) fn close(&mut self, frames: &mut Frames, now: Instant) {
        self.closed = true;
        if planted!(frames, DrainDropsParked) {
            while let Some(handle) = self.pop_oldest(frames) {
                frames.decide_suppress(handle.id, Why::Draining);
            }
        }
        while let Some(handle) = self.pop_oldest(frames) {
            frames.observe_parking(now, handle.id, false);
            frames.decide_send(handle.id, Why::Draining);
        }
        self.by_owner.clear();
        self.next_read = None;
    }

    fn send_oldest(&mut self, frames: &mut Frames, now: Instant) -> bool {
        let Some(handle) = self.pop_oldest(frames) else { return false };
        frames.observe_parking(now, handle.id, false);
        frames.decide_send(handle.id, Why::ParkingFull);
        true
    }

    fn pop_oldest(&mut self, frames: &Frames) -> Option<EntryHandle> {
        while let Some(handle) = self.order.pop_front() {
            if frames.is_parked(handle) {
                return Some(handle);
            }
        }
        None
    }

    /// Keeps the order short: those that left are at most as many as those that wait.
    fn tidy_order(&mut self, frames: &Frames) {
        if self.order.len() > 2 * frames.parked().frames + 64 {
            self.order.retain(|&handle| frames.is_parked(handle));
        }
    }

    /// When records are to be read.
    pub(super) fn next_read(&self) -> Option<Instant> {
        self.next_read
    }

    /// The records to read now, if it is time. The next are due half an epoch later.
    pub(super) fn begin_read(
        &mut self,
        frames: &Frames,
        config: &ClaimsConfig,
        now: Instant,
    ) -> Option<Read> {
        if self.next_read.is_none_or(|at| at > now) {
            return None;
        }
        let owners = self.next_owners(config.max_batch);
        if owners.is_empty() {
            self.next_read = None;
            return None;
        }
        let is_late = |owner: &u64| self.is_late(frames, config, now, *owner);
        let late = owners.iter().copied().filter(is_late).collect();
        self.next_read = Some(now + config.read_interval());
        Some(Read { owners, late, issued: now })
    }

    /// The next owners to read, at most `most`, in turn.
    fn next_owners(&mut self, most: usize) -> Vec<u64> {
        let after = self.by_owner.range(self.cursor..).map(|(&owner, _)| owner);
        let before = self.by_owner.range(..self.cursor).map(|(&owner, _)| owner);
        let owners: Vec<u64> = after.chain(before).take(most.max(1)).collect();
        self.cursor = owners.last().map_or(0, |owner| owner.wrapping_add(1));
        owners
    }

    /// Whether a copy waits for `owner` for so long that its process may have ended.
    fn is_late(&self, frames: &Frames, config: &ClaimsConfig, now: Instant, owner: u64) -> bool {
        let oldest = self.by_owner.get(&owner).and_then(|copies| copies.first());
        let Some(oldest) = oldest.filter(|&&handle| frames.is_parked(handle)) else { return false };
        let Some(parked) = frames.entry(oldest.id).parked() else { return false };
        let waited = now.saturating_duration_since(parked.since);
        waited >= config.epoch * LATE_EPOCHS && self.ended_since(owner).is_none()
    }

    /// The process of `owner` has ended, as its successor knows.
    pub(super) fn has_ended(&mut self, now: Instant, owner: u64) {
        if self.ended_since(owner).is_some() {
            return;
        }
        if self.ended.len() == MAX_ENDED {
            self.ended.pop_front();
        }
        self.ended.push_back((owner, now));
    }

    /// Since when it is known that the owner's process has ended.
    fn ended_since(&self, owner: u64) -> Option<Instant> {
        self.ended.iter().find(|(ended, _)| *ended == owner).map(|(_, at)| *at)
    }

    /// Records were read, and words about the end of the late owners.
    pub(super) fn end_read(
        &mut self,
        frames: &mut Frames,
        config: &ClaimsConfig,
        now: Instant,
        read: &Read,
        answers: Vec<Result<Option<Bytes>, OpError>>,
    ) -> Result<(), Slipped> {
        let mut answers = answers.into_iter();
        let mut slipped = false;
        for &owner in &read.owners {
            let answer = if slipped { None } else { answers.next() };
            match answer {
                Some(Ok(None)) => self.record_read(frames, config, now, owner, (None, read.issued)),
                Some(Ok(Some(bytes))) => match Record::parse(&bytes) {
                    Some(record) if record.owner != owner && !planted!(frames, RecordOwnerNotChecked) => {
                        slipped = true;
                        self.read_failed(frames, config, now, owner, OpErrorKind::Garbled);
                    }
                    record => self.record_read(frames, config, now, owner, (record, read.issued)),
                },
                Some(Err(error)) => self.read_failed(frames, config, now, owner, error.kind),
                None => self.read_failed(frames, config, now, owner, OpErrorKind::Garbled),
            }
        }
        if slipped {
            return Err(Slipped);
        }
        for (&owner, answer) in read.late.iter().zip(answers) {
            let Some(ended) = answer.ok().flatten().and_then(|bytes| parse_end_notice(&bytes)) else {
                continue;
            };
            if ended != owner && !planted!(frames, RecordOwnerNotChecked) {
                return Err(Slipped);
            }
            self.has_ended(now, owner);
        }
        Ok(())
    }

    fn record_read(
        &mut self,
        frames: &mut Frames,
        config: &ClaimsConfig,
        now: Instant,
        owner: u64,
        (record, issued): (Option<Record>, Instant),
    ) {
        #[cfg(feature = "mutants")]
        if planted!(frames, EarlierReadsCount) {
            let (reads, _) = self.earlier.entry(owner).or_insert((0, now));
            *reads = reads.saturating_add(1);
        }
        let ended = self.ended_since(owner).is_some_and(|known| issued >= known);
        let word = Word { record, issued, ended };
        self.judge_copies(frames, owner, |frames, id| judge_copy(frames, config, now, id, &word));
    }

    /// A read has no answer. Copies are sent where the backend is gone, and where they have waited for a lease. One lost
    /// connection is not the end of a backend.
    pub(super) fn read_failed(
        &mut self,
        frames: &mut Frames,
        config: &ClaimsConfig,
        now: Instant,
        owner: u64,
        kind: OpErrorKind,
    ) {
        let gone = kind == OpErrorKind::BreakerOpen;
        let why = if gone { Why::BreakerOpen } else { Why::InDoubt };
        self.judge_copies(frames, owner, |frames, id| {
            let Some(parked) = frames.entry(id).parked() else { return };
            if gone || now.saturating_duration_since(parked.since) >= config.lease {
                frames.observe_parking(now, id, false);
                frames.decide_send(id, why);
            }
        });
    }

    /// Goes through the copies that wait for `owner` and keeps those that still do afterwards.
    fn judge_copies(&mut self, frames: &mut Frames, owner: u64, mut judge: impl FnMut(&mut Frames, EntryId)) {
        let Some(mut copies) = self.by_owner.remove(&owner) else { return };
        copies.retain(|&handle| {
            if frames.is_parked(handle) {
                judge(frames, handle.id);
            }
            frames.is_parked(handle)
        });
        if !copies.is_empty() {
            self.by_owner.insert(owner, copies);
        } else if self.by_owner.is_empty() {
            self.next_read = None;
        }
    }
}

/// What the record of its owner means for one copy.
fn judge_copy(frames: &mut Frames, config: &ClaimsConfig, now: Instant, id: EntryId, word: &Word) {
    let Some(parked) = frames.count_read(id) else { return };
    let holder = parked.holder;
    let settled = match word.record {
        Some(record) => holder.epoch <= record.settled,
        None => planted!(frames, MissingRecordSettles),
    };
    let released = word.record.is_some_and(|record| holder.epoch <= record.released);
    let span = word.issued.saturating_duration_since(parked.since);
    let over = span >= config.lease || planted!(frames, TakeoverWithoutLease);
    if settled && !released {
        frames.observe_parking(now, id, true);
        frames.decide_suppress(id, Why::Settled);
    } else if settled {
        frames.ask_again(now, id, holder);
    } else if word.ended || parked.reads >= MIN_READS && over {
        frames.take_over(now, id, holder);
    }
}
