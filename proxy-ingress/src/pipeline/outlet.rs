//! One emit interface: it is offered every emission, and has a backlog for what it refuses.
//!
//! A train that the kernel refuses is copied to the backlog and tried again, until `--send-deadline`. Then it is given up:
//! its flows are retired, its claims released. Only later trains of the same group wait behind it; those of other groups
//! leave. Where [`REFUSALS`] groups in a row are refused, it is the interface that refuses: until a pause is over, it is
//! *closed*, and everything goes to the backlog without being offered. So is a socket that stays full.
//!
//! Limits: the backlog is bounded in bytes. Overflow rule: a train that finds no room is dropped and counted, its flows are
//! retired, its claims released; so is what follows it to the same group in its emission. Before that happens the worker
//! stops reading ([`Outlet::room`]).
//!
//! Cost: nothing beside the send while nothing waits. While all is refused: a few calls a millisecond, and one copy.

use super::backlog::{Backlog, FIRST_RETRY, LONGEST_RETRY};
use super::emit::{Emission, OutletLimits, Stop, Transmit, push};
use super::hand_over::HandOvers;
#[cfg(feature = "mutants")]
use super::number::FlowTable;
use crate::drops::DropReason;
#[cfg(feature = "mutants")]
use crate::mutation::Mutation;
use multicast_io::Train;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Groups refused in a row, after which the interface is closed for a while.
const REFUSALS: u32 = 8;

/// How far the current batch got on one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OutletProgress {
    /// Nothing of the batch is left to offer: taken, in the backlog, or given up.
    Done,
    /// The socket is full: wait until it is writable, then offer from this frame on, or [`Outlet::defer`].
    Full(usize),
}

/// See the module text.
pub(super) struct Outlet {
    limits: OutletLimits,
    backlog: Backlog,
    /// Nothing is offered before then.
    closed_until: Option<Instant>,
    pause: Duration,
    /// Groups refused in this pass since something was taken.
    refusals: u32,
    /// Groups that lost a train of the current emission for want of room: what follows it is lost too.
    overflowed: Vec<SocketAddr>,
    #[cfg(feature = "mutants")]
    pub(super) mutation: Option<Mutation>,
}

impl Outlet {
    /// Nothing waits.
    pub(super) fn new(limits: OutletLimits) -> Outlet {
        Outlet {
            limits,
            backlog: Backlog::default(),
            closed_until: None,
            pause: FIRST_RETRY,
            refusals: 0,
            overflowed: Vec::new(),
            #[cfg(feature = "mutants")]
            mutation: None,
        }
    }

    /// A new emission.
    pub(super) fn begin(&mut self) {
        self.overflowed.clear();
    }

    /// Offers a batch from frame `taken` on.
    pub(super) fn send(
        &mut self,
        now: Instant,
        (batch, memory): (&Emission, &[u8]),
        taken: usize,
        socket: &mut impl Transmit,
        hand_overs: &mut HandOvers,
    ) -> OutletProgress {
        self.retry(now, socket, hand_overs);
        self.refusals = 0;
        let mut taken = taken;
        while let Some(train) = batch.next(taken) {
            if self.is_closed(now) {
                self.put_aside_all(now, (batch, memory), taken, hand_overs);
                break;
            }
            if self.must_wait(train.destination) {
                taken = self.put_aside(now, (batch, memory), &train, false, hand_overs);
                continue;
            }
            let (before, upto) = (taken, self.free_upto(batch, taken));
            let stop = push(batch, memory, (&mut taken, upto), socket, hand_overs);
            if taken > before {
                self.was_taken();
            }
            match stop {
                Stop::Done => {}
                Stop::Full => return OutletProgress::Full(taken),
                Stop::Refused => {
                    self.was_refused(now);
                    if let Some(train) = batch.next(taken) {
                        taken = self.put_aside(now, (batch, memory), &train, true, hand_overs);
                    }
                }
            }
        }
        OutletProgress::Done
    }

    /// The socket stays full: what is left of the batch goes to the backlog.
    pub(super) fn defer(
        &mut self,
        now: Instant,
        batch: (&Emission, &[u8]),
        taken: usize,
        hand_overs: &mut HandOvers,
    ) {
        self.close(now);
        self.put_aside_all(now, batch, taken, hand_overs);
    }

    /// Tries again what waits, if it is time.
    pub(super) fn retry(&mut self, now: Instant, socket: &mut impl Transmit, hand_overs: &mut HandOvers) {
        if self.backlog.is_empty() || self.is_closed(now) {
            return;
        }
        self.refusals = 0;
        for group in self.backlog.due(now) {
            let offered = self.backlog.offer(now, group, socket, hand_overs);
            if offered.some {
                self.was_taken();
            }
            match offered.stop {
                Stop::Done => {}
                Stop::Full => self.close(now),
                Stop::Refused => self.was_refused(now),
            }
            if self.is_closed(now) {
                break;
            }
        }
    }

    /// Gives up what waited too long. Not while an emission is under way: it may hold numbers after the hole.
    pub(super) fn expire(&mut self, now: Instant, hand_overs: &mut HandOvers) {
        if !self.backlog.is_empty() {
            self.backlog.expire(now, self.limits.deadline, hand_overs);
        }
    }

    /// Gives up everything that waits (end of an orderly stop, no carrier).
    pub(super) fn abandon(&mut self, reason: DropReason, hand_overs: &mut HandOvers) {
        self.backlog.abandon(|left| hand_overs.lose(left, reason));
    }

    /// Nothing waits any more, and nothing is lost: others have it.
    pub(super) fn leave_out(&mut self, hand_overs: &mut HandOvers) {
        self.backlog.abandon(|left| hand_overs.leave_out(left));
    }

    /// Only ever planted: what waits takes new numbers.
    #[cfg(feature = "mutants")]
    pub(super) fn number_again(&mut self, flows: &mut FlowTable) {
        self.backlog.number_again(flows);
    }

    /// What waits.
    pub(super) fn backlog(&self) -> &Backlog {
        &self.backlog
    }

    /// Bytes of room in the backlog.
    pub(super) fn room(&self) -> usize {
        self.limits.bytes.saturating_sub(self.backlog.bytes())
    }

    /// When [`Outlet::retry`] and [`Outlet::expire`] want to be called.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let due = self.backlog.next_timeout()?;
        Some(self.closed_until.map_or(due, |until| until.max(due)))
    }

    fn is_closed(&self, now: Instant) -> bool {
        self.closed_until.is_some_and(|until| now < until)
    }

    fn close(&mut self, now: Instant) {
        self.closed_until = Some(now + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_RETRY);
    }

    fn was_taken(&mut self) {
        (self.pause, self.refusals) = (FIRST_RETRY, 0);
    }

    fn was_refused(&mut self, now: Instant) {
        self.refusals += 1;
        if self.refusals >= REFUSALS {
            self.close(now);
        }
    }

    /// Frames for this group wait, or were dropped: others must not overtake them.
    fn must_wait(&self, group: SocketAddr) -> bool {
        let waits = self.backlog.holds(group) || self.overflowed.contains(&group);
        waits && !planted!(self, WaitingTrainOvertaken)
    }

    /// End of the trains from frame `taken` on that need not wait.
    fn free_upto(&self, batch: &Emission, taken: usize) -> usize {
        if self.backlog.is_empty() && self.overflowed.is_empty() {
            return batch.frames.len();
        }
        let (cut, after) = batch.rest(taken);
        let waits = cut.iter().chain(after).find(|train| self.must_wait(train.destination));
        waits.map_or(batch.frames.len(), |train| train.first as usize)
    }

    fn put_aside_all(
        &mut self,
        now: Instant,
        batch: (&Emission, &[u8]),
        mut taken: usize,
        hand_overs: &mut HandOvers,
    ) {
        while let Some(train) = batch.0.next(taken) {
            taken = self.put_aside(now, batch, &train, false, hand_overs);
        }
    }

    /// Copies a train to the backlog, or drops it where there is no room. Returns its end.
    fn put_aside(
        &mut self,
        now: Instant,
        batch: (&Emission, &[u8]),
        train: &Train,
        refused: bool,
        hand_overs: &mut HandOvers,
    ) -> usize {
        let upto = (train.first + train.count) as usize;
        let overflowed = self.overflowed.contains(&train.destination);
        if overflowed || !self.backlog.push(now, batch, train, refused, self.limits.bytes) {
            hand_overs.lose(&batch.0.origins[train.first as usize..upto], DropReason::BacklogFull);
            if !overflowed {
                self.overflowed.push(train.destination);
            }
        }
        upto
    }
}
