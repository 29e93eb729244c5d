//! Frames that are not claimed, because no interface can emit.
//!
//! A proxy that cannot emit must not claim: its siblings win, and send. What it alone has waits here for an interface, within
//! `--send-deadline`; then it is dropped and counted (`no_carrier`). When an interface is there again, the frames are claimed
//! as if they had just come: those that a sibling sent meanwhile are suppressed.
//!
//! Limits: `--send-backlog-bytes`. Overflow rule: the newest is dropped and counted. Cost: a copy of each datagram; nothing
//! while an interface can emit.

use super::claim::Candidate;
use crate::drops::DropReason;
use crate::tally::Tally;
use bytes::Bytes;
use service::ledger::Loss;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// See the module text.
pub(super) struct Hold {
    frames: VecDeque<(Candidate, Bytes)>,
    bytes: usize,
    limit: usize,
    deadline: Duration,
}

impl Hold {
    /// Takes a frame, or drops it.
    pub(super) fn push(&mut self, candidate: Candidate, bytes: Bytes, tally: &Tally) {
        if self.bytes + bytes.len() > self.limit {
            return drop_one(bytes.len(), tally);
        }
        self.bytes += bytes.len();
        self.frames.push_back((candidate, bytes));
    }

    /// The frame that waits longest.
    pub(super) fn pop(&mut self) -> Option<(Candidate, Bytes)> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.1.len();
        Some(frame)
    }

    /// Drops what waited too long.
    pub(super) fn expire(&mut self, now: Instant, tally: &Tally) {
        while self.next_timeout().is_some_and(|at| at <= now) {
            if let Some((_, bytes)) = self.pop() {
                drop_one(bytes.len(), tally);
            }
        }
    }

    /// Drops everything.
    pub(super) fn abandon(&mut self, tally: &Tally) {
        while let Some((_, bytes)) = self.pop() {
            drop_one(bytes.len(), tally);
        }
    }

    /// When a frame waited too long.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.frames.front().map(|(candidate, _)| candidate.since + self.deadline)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// At most half of the room is taken.
    pub(super) fn may_read_streams(&self) -> bool {
        self.bytes <= self.limit / 2
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// What is known of the time without an interface that can emit.
pub(super) struct Outage {
    pub(super) hold: Hold,
    /// Since when; `None` while one can.
    pub(super) since: Option<Instant>,
    /// Not told to the runtime yet.
    pub(super) cut: Option<Cut>,
}

/// What became of frames when the last interface lost its carrier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Frames that were taken and not confirmed, counted for each interface.
    pub frames: u64,
    /// Claims of them, which are released.
    pub claims: u64,
}

impl Outage {
    /// None. `limit` and `deadline`: of the frames that wait.
    pub(super) fn new(limit: usize, deadline: Duration) -> Outage {
        let hold = Hold { frames: VecDeque::new(), bytes: 0, limit, deadline };
        Outage { hold, since: None, cut: None }
    }
}

fn drop_one(bytes: usize, tally: &Tally) {
    tally.ledger.lose(DropReason::NoCarrier, Loss::frames(1).with_bytes(bytes as u64));
}
