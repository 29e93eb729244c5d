//! Last stage: handing trains to the kernel, and what becomes of those that it does not take.
//!
//! *Handed over* means: taken by the kernel on every emit interface (design section 3). Only then is a claim `sent`.
//!
//! A train that the kernel refuses keeps its numbers: it is copied to the backlog of its interface and tried again, in
//! order, until `--send-deadline`. Then its flows are retired and its claims released. While an interface has a backlog,
//! later frames queue behind it, so that numbers stay in order; other interfaces go on.
//!
//! Limits: the backlog of an interface is bounded in bytes. Overflow rule: the newest frames are dropped, counted, their
//! flows retired, their claims released. With every interface blocked the worker stops reading before that happens.
//!
//! Cost: one pass over the frames of a batch; memory is taken only while the kernel refuses.

use super::drops::DropReason;
use super::number::{FlowRef, FlowTable};
use multicast_io::{Progress, Span, Train};
use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};
use txidset::Ticket;

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

/// Name of a claim that is owed an answer; `NONE` for frames without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DebtRef(u32);

impl DebtRef {
    /// No claim.
    pub const NONE: DebtRef = DebtRef(u32::MAX);
}

/// Who must hear what became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Flow that numbered the frame.
    pub flow: Option<FlowRef>,
    /// Claim that the frame was won under.
    pub debt: DebtRef,
}

struct Debt {
    ticket: Ticket,
    outstanding: u64,
    failed: bool,
}

/// Claims in flight between `won` and `sent` or `failed`. Bounded by the frames in flight.
#[derive(Default)]
pub struct Ledger {
    debts: Vec<Debt>,
    free: Vec<u32>,
    /// Claims whose frames were handed over everywhere.
    pub sent: Vec<Ticket>,
    /// Claims of which at least one datagram was lost.
    pub failed: Vec<Ticket>,
    /// Flows that lost numbered frames, and how many.
    pub holed: Vec<(FlowRef, u64)>,
    /// Frames taken by the kernel, counted for each interface.
    pub handed_over: u64,
    /// Frames lost, by reason, counted for each interface.
    pub lost: Vec<(DropReason, u64)>,
}

impl Ledger {
    /// Opens a claim that is settled when `parts` datagrams were handed over or lost.
    pub fn open(&mut self, ticket: Ticket, parts: u64) -> DebtRef {
        let debt = Debt { ticket, outstanding: parts, failed: false };
        if let Some(index) = self.free.pop() {
            self.debts[index as usize] = debt;
            return DebtRef(index);
        }
        self.debts.push(debt);
        DebtRef(u32::try_from(self.debts.len() - 1).unwrap_or(u32::MAX))
    }

    /// Claims that wait for their answer.
    pub fn outstanding(&self) -> usize {
        self.debts.len() - self.free.len()
    }

    /// The kernel took these frames on one interface.
    pub fn hand_over(&mut self, owners: &[Owner]) {
        self.handed_over += owners.len() as u64;
        for owner in owners {
            self.settle(owner.debt, 1, false);
        }
    }

    /// These frames will not leave by one interface.
    pub fn lose(&mut self, owners: &[Owner], reason: DropReason) {
        self.lost.push((reason, owners.len() as u64));
        for owner in owners {
            if let Some(flow) = owner.flow {
                match self.holed.last_mut() {
                    Some((last, lost)) if *last == flow => *lost += 1,
                    _ => self.holed.push((flow, 1)),
                }
            }
            self.settle(owner.debt, 1, true);
        }
    }

    /// `parts` datagrams of a claim were handed over, or (`lost`) will never be.
    pub fn settle(&mut self, debt: DebtRef, parts: u64, lost: bool) {
        let Some(entry) = self.debts.get_mut(debt.0 as usize) else { return };
        entry.failed |= lost;
        entry.outstanding = entry.outstanding.saturating_sub(parts);
        if entry.outstanding == 0 {
            let verdict = if entry.failed { &mut self.failed } else { &mut self.sent };
            verdict.push(entry.ticket);
            self.free.push(debt.0);
        }
    }
}

/// A planned batch in send order: `frames` and `owners` run in parallel, `trains` cover them.
#[derive(Debug, Default)]
pub struct Emission {
    /// Where the frames are.
    pub frames: Vec<Span>,
    /// What leaves together.
    pub trains: Vec<Train>,
    /// Who waits for each frame.
    pub owners: Vec<Owner>,
}

impl Emission {
    /// Forgets the batch.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.trains.clear();
        self.owners.clear();
    }

    /// No frames.
    pub fn is_empty(&self) -> bool {
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
    ledger: &mut Ledger,
) -> Stop {
    while *taken < batch.frames.len() {
        let (cut, after) = batch.rest(*taken);
        let trains = cut.as_ref().map_or(after, std::slice::from_ref);
        let progress = socket.transmit(memory, trains, &batch.frames);
        let upto = (*taken + progress.frames).min(batch.frames.len());
        ledger.hand_over(&batch.owners[*taken..upto]);
        *taken = upto;
        match progress.error {
            None if progress.frames > 0 => {}
            None => return Stop::Refused,
            Some(error) if error.kind() == io::ErrorKind::WouldBlock => return Stop::Full,
            Some(error) if is_too_large(&error) => give_up_train(batch, taken, ledger),
            Some(_) => return Stop::Refused,
        }
    }
    Stop::Done
}

fn give_up_train(batch: &Emission, taken: &mut usize, ledger: &mut Ledger) {
    let (cut, after) = batch.rest(*taken);
    let count = cut.or(after.first().copied()).map_or(1, |train| train.count as usize);
    let upto = (*taken + count).min(batch.owners.len());
    ledger.lose(&batch.owners[*taken..upto], DropReason::WriteError);
    *taken = upto;
}

/// EMSGSIZE: trying again cannot help.
fn is_too_large(error: &io::Error) -> bool {
    const EMSGSIZE: i32 = 90;
    error.raw_os_error() == Some(EMSGSIZE)
}

/// The rest of a batch that was refused, copied out of the burst.
struct Waiting {
    batch: Emission,
    memory: Vec<u8>,
    taken: usize,
    since: Instant,
}

impl Waiting {
    fn copy(batch: &Emission, memory: &[u8], taken: usize, room: usize, since: Instant) -> (Waiting, usize) {
        let mut copy = Waiting { batch: Emission::default(), memory: Vec::new(), taken: 0, since };
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
        self.batch.owners.extend_from_slice(&batch.owners[range]);
        self.batch.trains.push(Train { first, ..*train });
        true
    }

    fn left(&self) -> &[Owner] {
        &self.batch.owners[self.taken..]
    }

    /// Drops the frames of `flows`, which have been retired.
    fn purge(&mut self, flows: &[FlowRef], ledger: &mut Ledger) {
        let doomed = |owner: &Owner| owner.flow.is_some_and(|flow| flows.contains(&flow));
        if !self.left().iter().any(doomed) {
            return;
        }
        let (cut, after) = self.batch.rest(self.taken);
        let mut kept = Emission::default();
        for train in cut.iter().chain(after) {
            let first = u32::try_from(kept.frames.len()).unwrap_or(u32::MAX);
            for at in train.first as usize..(train.first + train.count) as usize {
                let owner = self.batch.owners[at];
                if doomed(&owner) {
                    ledger.lose(&[owner], DropReason::SendRefused);
                } else {
                    kept.frames.push(self.batch.frames[at]);
                    kept.owners.push(owner);
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
pub enum Offer {
    /// Nothing of the batch is left to offer: taken, in the backlog, or given up.
    Done,
    /// The socket is full: wait until it is writable, then offer from this frame on, or [`Outlet::defer`].
    Blocked(usize),
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
pub struct Outlet {
    limits: OutletLimits,
    waiting: VecDeque<Waiting>,
    bytes: usize,
    retry_at: Instant,
    backoff: Duration,
}

impl Outlet {
    /// Nothing waits.
    pub fn new(now: Instant, limits: OutletLimits) -> Outlet {
        Outlet { limits, waiting: VecDeque::new(), bytes: 0, retry_at: now, backoff: FIRST_RETRY }
    }

    /// Offers a batch from frame `taken` on.
    pub fn offer(
        &mut self,
        now: Instant,
        batch: &Emission,
        memory: &[u8],
        taken: usize,
        socket: &mut impl Transmit,
        ledger: &mut Ledger,
    ) -> Offer {
        self.retry(now, socket, ledger);
        let mut taken = taken;
        if self.is_blocked() {
            self.defer(now, batch, memory, taken, ledger);
            return Offer::Done;
        }
        match push(batch, memory, &mut taken, socket, ledger) {
            Stop::Done => Offer::Done,
            Stop::Full => Offer::Blocked(taken),
            Stop::Refused => {
                self.defer(now, batch, memory, taken, ledger);
                Offer::Done
            }
        }
    }

    /// Copies what is left of the batch to the backlog; what does not fit is dropped.
    pub fn defer(
        &mut self,
        now: Instant,
        batch: &Emission,
        memory: &[u8],
        taken: usize,
        ledger: &mut Ledger,
    ) {
        if taken >= batch.frames.len() {
            return;
        }
        let room = self.limits.bytes.saturating_sub(self.bytes);
        let (copy, upto) = Waiting::copy(batch, memory, taken, room, now);
        if !copy.batch.is_empty() {
            if self.waiting.is_empty() {
                self.backoff = FIRST_RETRY;
                self.retry_at = now + self.backoff;
            }
            self.bytes += copy.memory.len();
            self.waiting.push_back(copy);
        }
        if upto < batch.owners.len() {
            self.drop_flows(&batch.owners[upto..], DropReason::BacklogFull, ledger);
        }
    }

    /// Tries again what waits, if it is time; gives up what waited too long.
    pub fn retry(&mut self, now: Instant, socket: &mut impl Transmit, ledger: &mut Ledger) {
        if now < self.retry_at || self.waiting.is_empty() {
            return;
        }
        while let Some(head) = self.waiting.front_mut() {
            match push(&head.batch, &head.memory, &mut head.taken, socket, ledger) {
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
        self.expire(now, ledger);
    }

    /// Only ever planted: what waits takes new numbers.
    pub(super) fn number_again(&mut self, flows: &mut FlowTable) {
        for waiting in &mut self.waiting {
            for (span, owner) in waiting.batch.frames.iter().zip(&waiting.batch.owners).skip(waiting.taken) {
                if let Some(numbered) = owner.flow.and_then(|flow| flows.next(flow)) {
                    let frame = &mut waiting.memory[span.range()];
                    frame::datagram::stamp(frame, numbered.hash_key, numbered.seq_num);
                }
            }
        }
    }

    /// Gives up everything that waits (end of an orderly stop).
    pub fn abandon(&mut self, ledger: &mut Ledger) {
        for waiting in self.waiting.drain(..) {
            ledger.lose(waiting.left(), DropReason::SendRefused);
        }
        self.bytes = 0;
    }

    /// Something waits: nothing may overtake it.
    pub fn is_blocked(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// When [`Outlet::retry`] wants to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.is_blocked().then_some(self.retry_at)
    }

    /// Bytes that wait.
    pub fn backlog_bytes(&self) -> usize {
        self.bytes
    }

    fn expire(&mut self, now: Instant, ledger: &mut Ledger) {
        while let Some(head) = self.waiting.front() {
            if now.saturating_duration_since(head.since) < self.limits.deadline {
                break;
            }
            let Some(head) = self.waiting.pop_front() else { break };
            self.bytes -= head.memory.len();
            self.drop_flows(head.left(), DropReason::SendRefused, ledger);
        }
    }

    /// Loses frames, and with them what else of their flows waits: it has numbers after the hole.
    fn drop_flows(&mut self, owners: &[Owner], reason: DropReason, ledger: &mut Ledger) {
        ledger.lose(owners, reason);
        let mut flows: Vec<FlowRef> = owners.iter().filter_map(|owner| owner.flow).collect();
        flows.sort_unstable();
        flows.dedup();
        for waiting in &mut self.waiting {
            waiting.purge(&flows, ledger);
        }
        self.waiting.retain(|waiting| !waiting.left().is_empty());
        self.bytes = self.waiting.iter().map(|waiting| waiting.memory.len()).sum();
    }
}
