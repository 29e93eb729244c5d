//! Last stage: trains are handed to the kernel, and this is what becomes of those that it does not take.
//!
//! *Handed over* means: the kernel took the frame on every emit interface. Only then is a claim `sent`.
//!
//! A train that the kernel refuses keeps its numbers. It is copied to the backlog of its interface and tried again, in
//! order, until `--send-deadline`. Then its flows are retired and its claims released. While an interface has a backlog,
//! later frames queue behind it, so that numbers stay in order. Other interfaces go on.
//!
//! Limits: the backlog of an interface is bounded in bytes. Overflow rule: the newest frames are dropped and counted, their
//! flows are retired, their claims released. When every interface is blocked, the worker stops reading before that happens.
//!
//! Cost: one pass over the frames of a round; memory is taken only while the kernel refuses.

use super::hand_over::{FrameOrigin, HandOvers};
use super::number::FlowHandle;
#[cfg(feature = "mutants")]
use super::number::FlowTable;
use crate::drops::DropReason;
use multicast_io::{Progress, Span, Train};
use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

const FIRST_RETRY: Duration = Duration::from_millis(1);
const LONGEST_RETRY: Duration = Duration::from_millis(16);

/// What takes trains: a socket, or a model of one.
pub trait Transmit {
    /// As [`multicast_io::Sender::send`].
    fn transmit(&mut self, memory: &[u8], trains: &[Train], frames: &[Span]) -> Progress;
}

impl Transmit for multicast_io::Sender {
    fn transmit(&mut self, memory: &[u8], trains: &[Train], frames: &[Span]) -> Progress {
        self.send(memory, trains, frames)
    }
}

/// A planned batch in send order: `frames` and `origins` run in parallel, `trains` cover them.
#[derive(Debug, Default)]
pub(super) struct Emission {
    /// Where the frames are.
    pub(super) frames: Vec<Span>,
    /// What leaves together.
    pub(super) trains: Vec<Train>,
    /// Who waits for each frame.
    pub(super) origins: Vec<FrameOrigin>,
}

impl Emission {
    /// Forgets the batch.
    pub(super) fn clear(&mut self) {
        self.frames.clear();
        self.trains.clear();
        self.origins.clear();
    }

    /// No frames.
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// What is left when `taken` frames are gone: the rest of a train that was cut, and the trains after it.
    fn rest(&self, taken: usize) -> (Option<Train>, &[Train]) {
        let taken = u32::try_from(taken).unwrap_or(u32::MAX);
        let at = self.trains.partition_point(|train| train.first + train.count <= taken);
        let rest = &self.trains[at..];
        match rest.split_first() {
            Some((train, after)) if train.first < taken => {
                let count = train.first + train.count - taken;
                (Some(Train { first: taken, count, ..*train }), after)
            }
            _ => (None, rest),
        }
    }
}

/// What stopped a send.
enum Stop {
    /// Nothing: all was taken.
    Done,
    /// The socket's own queue is full.
    Full,
    /// A queue behind it refuses.
    Refused,
}

/// Sends what is left of a batch, from frame `taken` on; frames that can never leave are given up.
fn push(
    batch: &Emission,
    memory: &[u8],
    taken: &mut usize,
    socket: &mut impl Transmit,
    hand_overs: &mut HandOvers,
) -> Stop {
    while *taken < batch.frames.len() {
        let (cut, after) = batch.rest(*taken);
        let trains = cut.as_ref().map_or(after, std::slice::from_ref);
        let progress = socket.transmit(memory, trains, &batch.frames);
        let upto = (*taken + progress.frames).min(batch.frames.len());
        hand_overs.hand_over(&batch.origins[*taken..upto]);
        hand_overs.handed_over_bytes +=
            batch.frames[*taken..upto].iter().map(|span| u64::from(span.len)).sum::<u64>();
        *taken = upto;
        match progress.error {
            None if progress.frames > 0 => {}
            None => return Stop::Refused,
            Some(error) if error.kind() == io::ErrorKind::WouldBlock => return Stop::Full,
            Some(error) if is_too_large(&error) => give_up_train(batch, taken, hand_overs),
            Some(_) => return Stop::Refused,
        }
    }
    Stop::Done
}

fn give_up_train(batch: &Emission, taken: &mut usize, hand_overs: &mut HandOvers) {
    let (cut, after) = batch.rest(*taken);
    let count = cut.or(after.first().copied()).map_or(1, |train| train.count as usize);
    let upto = (*taken + count).min(batch.origins.len());
    hand_overs.lose(&batch.origins[*taken..upto], DropReason::WriteError);
    *taken = upto;
}

/// EMSGSIZE: trying again cannot help.
fn is_too_large(error: &io::Error) -> bool {
    const EMSGSIZE: i32 = 90;
    error.raw_os_error() == Some(EMSGSIZE)
}

/// The rest of a batch that was refused, copied out of the burst.
struct DeferredBatch {
    batch: Emission,
    memory: Vec<u8>,
    taken: usize,
    since: Instant,
}

impl DeferredBatch {
    fn copy(
        batch: &Emission,
        memory: &[u8],
        taken: usize,
        room: usize,
        since: Instant,
    ) -> (DeferredBatch, usize) {
        let mut copy = DeferredBatch { batch: Emission::default(), memory: Vec::new(), taken: 0, since };
        let (cut, after) = batch.rest(taken);
        let mut upto = taken;
        for train in cut.iter().chain(after) {
            if !copy.append(batch, memory, train, room) {
                break;
            }
            upto += train.count as usize;
        }
        (copy, upto)
    }

    /// `false`: no room for this train.
    fn append(&mut self, batch: &Emission, memory: &[u8], train: &Train, room: usize) -> bool {
        let range = train.first as usize..(train.first + train.count) as usize;
        let frames = &batch.frames[range.clone()];
        let bytes: usize = frames.iter().map(|span| span.len as usize).sum();
        if self.memory.len() + bytes > room {
            return false;
        }
        let first = u32::try_from(self.batch.frames.len()).unwrap_or(u32::MAX);
        for span in frames {
            let start = u32::try_from(self.memory.len()).unwrap_or(u32::MAX);
            self.memory.extend_from_slice(&memory[span.start as usize..][..span.len as usize]);
            self.batch.frames.push(Span { start, len: span.len });
        }
        self.batch.origins.extend_from_slice(&batch.origins[range]);
        self.batch.trains.push(Train { first, ..*train });
        true
    }

    fn left(&self) -> &[FrameOrigin] {
        &self.batch.origins[self.taken..]
    }

    /// Drops the frames of `flows`, which have been retired.
    fn purge(&mut self, flows: &[FlowHandle], hand_overs: &mut HandOvers) {
        let doomed = |origin: &FrameOrigin| origin.flow.is_some_and(|flow| flows.contains(&flow));
        if !self.left().iter().any(doomed) {
            return;
        }
        let (cut, after) = self.batch.rest(self.taken);
        let mut kept = Emission::default();
        for train in cut.iter().chain(after) {
            let first = u32::try_from(kept.frames.len()).unwrap_or(u32::MAX);
            for at in train.first as usize..(train.first + train.count) as usize {
                let origin = self.batch.origins[at];
                if doomed(&origin) {
                    hand_overs.lose(&[origin], DropReason::SendRefused);
                } else {
                    kept.frames.push(self.batch.frames[at]);
                    kept.origins.push(origin);
                }
            }
            let count = u32::try_from(kept.frames.len()).unwrap_or(u32::MAX) - first;
            if count > 0 {
                kept.trains.push(Train { first, count, ..*train });
            }
        }
        (self.batch, self.taken) = (kept, 0);
    }
}

/// How far the current batch got on one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OutletProgress {
    /// Nothing of the batch is left to offer: taken, in the backlog, or given up.
    Done,
    /// The socket is full: wait until it is writable, then offer from this frame on, or [`Outlet::defer`].
    Full(usize),
}

/// Bounds of a backlog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutletLimits {
    /// `--send-backlog-bytes`.
    pub bytes: usize,
    /// `--send-deadline`.
    pub deadline: Duration,
}

/// One emit interface.
pub(super) struct Outlet {
    limits: OutletLimits,
    waiting: VecDeque<DeferredBatch>,
    bytes: usize,
    retry_at: Instant,
    backoff: Duration,
}

impl Outlet {
    /// Nothing waits.
    pub(super) fn new(now: Instant, limits: OutletLimits) -> Outlet {
        Outlet { limits, waiting: VecDeque::new(), bytes: 0, retry_at: now, backoff: FIRST_RETRY }
    }

    /// Offers a batch from frame `taken` on.
    pub(super) fn send(
        &mut self,
        now: Instant,
        batch: &Emission,
        memory: &[u8],
        taken: usize,
        socket: &mut impl Transmit,
        hand_overs: &mut HandOvers,
    ) -> OutletProgress {
        self.retry(now, socket, hand_overs);
        let mut taken = taken;
        if self.is_blocked() {
            self.defer(now, batch, memory, taken, hand_overs);
            return OutletProgress::Done;
        }
        match push(batch, memory, &mut taken, socket, hand_overs) {
            Stop::Done => OutletProgress::Done,
            Stop::Full => OutletProgress::Full(taken),
            Stop::Refused => {
                self.defer(now, batch, memory, taken, hand_overs);
                OutletProgress::Done
            }
        }
    }

    /// Copies what is left of the batch to the backlog; what does not fit is dropped.
    pub(super) fn defer(
        &mut self,
        now: Instant,
        batch: &Emission,
        memory: &[u8],
        taken: usize,
        hand_overs: &mut HandOvers,
    ) {
        if taken >= batch.frames.len() {
            return;
        }
        let room = self.limits.bytes.saturating_sub(self.bytes);
        let (copy, upto) = DeferredBatch::copy(batch, memory, taken, room, now);
        if !copy.batch.is_empty() {
            if self.waiting.is_empty() {
                self.backoff = FIRST_RETRY;
                self.retry_at = now + self.backoff;
            }
            self.bytes += copy.memory.len();
            self.waiting.push_back(copy);
        }
        if upto < batch.origins.len() {
            self.drop_flows(&batch.origins[upto..], DropReason::BacklogFull, hand_overs);
        }
    }

    /// Tries again what waits, if it is time; gives up what waited too long.
    pub(super) fn retry(&mut self, now: Instant, socket: &mut impl Transmit, hand_overs: &mut HandOvers) {
        if now < self.retry_at || self.waiting.is_empty() {
            return;
        }
        while let Some(head) = self.waiting.front_mut() {
            match push(&head.batch, &head.memory, &mut head.taken, socket, hand_overs) {
                Stop::Done => {
                    self.bytes -= head.memory.len();
                    self.waiting.pop_front();
                    self.backoff = FIRST_RETRY;
                }
                Stop::Full | Stop::Refused => {
                    self.retry_at = now + self.backoff;
                    self.backoff = (self.backoff * 2).min(LONGEST_RETRY);
                    break;
                }
            }
        }
        self.expire(now, hand_overs);
    }

    /// Only ever planted: what waits takes new numbers.
    #[cfg(feature = "mutants")]
    pub(super) fn number_again(&mut self, flows: &mut FlowTable) {
        for waiting in &mut self.waiting {
            for (span, origin) in waiting.batch.frames.iter().zip(&waiting.batch.origins).skip(waiting.taken)
            {
                if let Some(numbered) = origin.flow.and_then(|flow| flows.next(flow)) {
                    let frame = &mut waiting.memory[span.range()];
                    frame::datagram::stamp(frame, numbered.hash_key, numbered.seq_num);
                }
            }
        }
    }

    /// Gives up everything that waits (end of an orderly stop).
    pub(super) fn abandon(&mut self, hand_overs: &mut HandOvers) {
        for waiting in self.waiting.drain(..) {
            hand_overs.lose(waiting.left(), DropReason::SendRefused);
        }
        self.bytes = 0;
    }

    /// Something waits: nothing may overtake it.
    pub(super) fn is_blocked(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// When [`Outlet::retry`] wants to be called.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.is_blocked().then_some(self.retry_at)
    }

    /// Bytes that wait.
    pub(super) fn backlog_bytes(&self) -> usize {
        self.bytes
    }

    fn expire(&mut self, now: Instant, hand_overs: &mut HandOvers) {
        while let Some(head) = self.waiting.front() {
            if now.saturating_duration_since(head.since) < self.limits.deadline {
                break;
            }
            let Some(head) = self.waiting.pop_front() else { break };
            self.bytes -= head.memory.len();
            self.drop_flows(head.left(), DropReason::SendRefused, hand_overs);
        }
    }

    /// Loses frames, and with them what else of their flows waits: it has numbers after the hole.
    fn drop_flows(&mut self, origins: &[FrameOrigin], reason: DropReason, hand_overs: &mut HandOvers) {
        hand_overs.lose(origins, reason);
        let mut flows: Vec<FlowHandle> = origins.iter().filter_map(|origin| origin.flow).collect();
        flows.sort_unstable();
        flows.dedup();
        for waiting in &mut self.waiting {
            waiting.purge(&flows, hand_overs);
        }
        self.waiting.retain(|waiting| !waiting.left().is_empty());
        self.bytes = self.waiting.iter().map(|waiting| waiting.memory.len()).sum();
    }
}
