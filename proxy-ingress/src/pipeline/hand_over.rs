//! Claims between *won* and *handed over*: which frames they wait for, and what became of those.
//!
//! A claim is answered once. It was `sent` when every datagram of its frame was handed over on every emit interface, and it
//! `failed` when one of them was lost. Here it is only noted; [`Outcomes`](super::outcome::Outcomes) gives the answers.
//!
//! No claim is answered as `sent` before the links were looked at behind its last datagram ([`HandOvers::awaits_look`]): what the
//! kernel took before the last interface lost its carrier may not have left.
//!
//! Every claim gets its answer: each datagram of its frame is handed over, lost, or cut short on each interface, and a frame
//! waits for none of these longer than a backlog or the worker itself. [`HandOvers::oldest`] shows one that does.
//!
//! Limits: bounded by the frames in flight. Cost: one entry of a list for a claim, used again.

use super::number::FlowHandle;
use crate::drops::DropReason;
use std::time::{Duration, Instant};
use txidset::Ticket;

/// Handle of a claim that waits for its answer; `NONE` for frames without a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HandOverRef(u32);

impl HandOverRef {
    /// No claim.
    pub(super) const NONE: HandOverRef = HandOverRef(u32::MAX);
}

/// Who must hear what became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameOrigin {
    /// Flow that numbered the frame.
    pub(super) flow: Option<FlowHandle>,
    /// Claim that the frame was won under.
    pub(super) hand_over: HandOverRef,
}

/// A claim that was won, while its frame is on its way to the kernel.
struct HandOver {
    ticket: Ticket,
    outstanding: u64,
    failed: bool,
    /// When it was opened, in milliseconds since the first round.
    since: u32,
}

/// See the module text.
#[derive(Default)]
pub(super) struct HandOvers {
    open: Vec<HandOver>,
    free: Vec<u32>,
    began: Option<Instant>,
    /// Milliseconds from then to this round.
    now: u32,
    /// Claims whose frames were handed over everywhere.
    pub(super) sent: Vec<Ticket>,
    /// Claims of which at least one datagram was lost.
    pub(super) failed: Vec<Ticket>,
    /// Flows that lost numbered frames, and how many.
    pub(super) retired: Vec<(FlowHandle, u64)>,
    /// Frames taken by the kernel, counted for each interface.
    pub(super) handed_over: u64,
    /// Their bytes, without padding.
    pub(super) handed_over_bytes: u64,
    /// Frames not offered to an interface without carrier, while others took them.
    pub(super) left_out: u64,
    /// Frames lost, by reason, counted for each interface.
    pub(super) lost: Vec<(DropReason, u64)>,
    /// Flows of frames taken since the links were looked at last, and how many.
    unconfirmed: Vec<(FlowHandle, u64)>,
}

impl HandOvers {
    /// The time of this round.
    pub(super) fn tell(&mut self, now: Instant) {
        self.began.get_or_insert(now);
        self.now = self.millis(now);
    }

    /// Opens the hand-over of a won claim. It is over when `parts` datagrams were handed over or lost.
    pub(super) fn open(&mut self, ticket: Ticket, parts: u64) -> HandOverRef {
        let hand_over = HandOver { ticket, outstanding: parts, failed: false, since: self.now };
        if let Some(index) = self.free.pop() {
            self.open[index as usize] = hand_over;
            return HandOverRef(index);
        }
        self.open.push(hand_over);
        HandOverRef(u32::try_from(self.open.len() - 1).unwrap_or(u32::MAX))
    }

    /// Age of the claim that waits longest for its answer, if one waits. Looks at all of them.
    pub(super) fn oldest(&self, now: Instant) -> Option<Duration> {
        let now = self.millis(now);
        let open = self.open.iter().filter(|entry| entry.outstanding > 0);
        let age = open.map(|entry| now.wrapping_sub(entry.since)).max()?;
        Some(Duration::from_millis(age.into()))
    }

    #[allow(
        clippy::cast_possible_truncation,
        reason = "only differences count, and no claim is open for 49 days"
    )]
    fn millis(&self, now: Instant) -> u32 {
        self.began.map_or(0, |began| now.saturating_duration_since(began).as_millis() as u32)
    }

    /// Claims that wait for their answer.
    pub(super) fn outstanding(&self) -> usize {
        self.open.len() - self.free.len()
    }

    /// The kernel took these frames on one interface.
    pub(super) fn hand_over(&mut self, origins: &[FrameOrigin]) {
        self.handed_over += origins.len() as u64;
        for origin in origins {
            if let Some(flow) = origin.flow {
                add(&mut self.unconfirmed, flow);
            }
            self.finish(origin.hand_over, 1, false);
        }
    }

    /// These frames will not leave by one interface.
    pub(super) fn lose(&mut self, origins: &[FrameOrigin], reason: DropReason) {
        self.lost.push((reason, origins.len() as u64));
        for origin in origins {
            if let Some(flow) = origin.flow {
                add(&mut self.retired, flow);
            }
            self.finish(origin.hand_over, 1, true);
        }
    }

    /// These frames are not offered to one interface, because it has no carrier and others have.
    pub(super) fn leave_out(&mut self, origins: &[FrameOrigin]) {
        self.left_out += origins.len() as u64;
        for origin in origins {
            self.finish(origin.hand_over, 1, false);
        }
    }

    /// Something was handed over, or is to be answered as sent: the links must be looked at before it is told.
    pub(super) fn awaits_look(&self) -> bool {
        self.handed_over > 0 || !self.sent.is_empty()
    }

    /// The links were looked at, and an interface has its carrier: what was taken is on its way.
    pub(super) fn confirm(&mut self) {
        self.unconfirmed.clear();
    }

    /// Every interface was cut behind what it took since the last look. Nothing of that is sent: its claims have failed, its
    /// flows are retired. Returns frames and claims.
    pub(super) fn cut(&mut self, interfaces: usize) -> (u64, u64) {
        let frames = std::mem::take(&mut self.handed_over);
        self.handed_over_bytes = 0;
        self.lost.push((DropReason::NoCarrier, frames));
        let each = interfaces.max(1) as u64;
        self.retired.extend(self.unconfirmed.drain(..).map(|(flow, taken)| (flow, taken.div_ceil(each))));
        let claims = self.sent.len() as u64;
        self.failed.append(&mut self.sent);
        (frames, claims)
    }

    /// A datagram of it was lost, and others are on their way.
    pub(super) fn has_failed(&self, hand_over: HandOverRef) -> bool {
        self.open.get(hand_over.0 as usize).is_some_and(|entry| entry.failed && entry.outstanding > 0)
    }

    /// `parts` datagrams of a hand-over left, or (`lost`) will never be.
    pub(super) fn finish(&mut self, hand_over: HandOverRef, parts: u64, lost: bool) {
        let Some(entry) = self.open.get_mut(hand_over.0 as usize) else { return };
        entry.failed |= lost;
        entry.outstanding = entry.outstanding.saturating_sub(parts);
        if entry.outstanding == 0 {
            let verdict = if entry.failed { &mut self.failed } else { &mut self.sent };
            verdict.push(entry.ticket);
            self.free.push(hand_over.0);
        }
    }
}

/// One more frame of a flow; neighbours share a row.
fn add(rows: &mut Vec<(FlowHandle, u64)>, flow: FlowHandle) {
    match rows.last_mut() {
        Some((last, frames)) if *last == flow => *frames += 1,
        _ => rows.push((flow, 1)),
    }
}
