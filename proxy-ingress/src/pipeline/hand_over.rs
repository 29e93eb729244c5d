//! Claims between *won* and *handed over*: which frames they wait for, and what became of those.
//!
//! A claim is answered once. It was `sent` when every datagram of its frame was handed over on every emit interface, and it
//! `failed` when one of them was lost. Here it is only noted; [`Outcomes`](super::outcome::Outcomes) gives the answers.
//!
//! Limits: bounded by the frames in flight. Cost: one entry of a list for a claim, used again.

use super::number::FlowHandle;
use crate::drops::DropReason;
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
}

/// See the module text.
#[derive(Default)]
pub(super) struct HandOvers {
    open: Vec<HandOver>,
    free: Vec<u32>,
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
    /// Frames lost, by reason, counted for each interface.
    pub(super) lost: Vec<(DropReason, u64)>,
}

impl HandOvers {
    /// Opens the hand-over of a won claim. It is over when `parts` datagrams were handed over or lost.
    pub(super) fn open(&mut self, ticket: Ticket, parts: u64) -> HandOverRef {
        let hand_over = HandOver { ticket, outstanding: parts, failed: false };
        if let Some(index) = self.free.pop() {
            self.open[index as usize] = hand_over;
            return HandOverRef(index);
        }
        self.open.push(hand_over);
        HandOverRef(u32::try_from(self.open.len() - 1).unwrap_or(u32::MAX))
    }

    /// Claims that wait for their answer.
    pub(super) fn outstanding(&self) -> usize {
        self.open.len() - self.free.len()
    }

    /// The kernel took these frames on one interface.
    pub(super) fn hand_over(&mut self, origins: &[FrameOrigin]) {
        self.handed_over += origins.len() as u64;
        for origin in origins {
            self.finish(origin.hand_over, 1, false);
        }
    }

    /// These frames will not leave by one interface.
    pub(super) fn lose(&mut self, origins: &[FrameOrigin], reason: DropReason) {
        self.lost.push((reason, origins.len() as u64));
        for origin in origins {
            if let Some(flow) = origin.flow {
                match self.retired.last_mut() {
                    Some((last, lost)) if *last == flow => *lost += 1,
                    _ => self.retired.push((flow, 1)),
                }
            }
            self.finish(origin.hand_over, 1, true);
        }
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
