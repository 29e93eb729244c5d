//! Large frames: each is kept aside and leaves in fragments, a chunk a round.
//!
//! Limits: [`IngressConfig::chunk`](super::settings::IngressConfig::chunk) bytes a round, so that a 64 MiB frame does not hold up
//! small ones, and what the heap of the burst has left above a reserve. Where fragments of its group wait because the kernel
//! refuses them, a frame is not cut beyond a chunk: it waits here, where no deadline runs. Fragments leave in index order.
//!
//! A frame of which a fragment was lost is *cut short*: what is left of it would be of use to nobody, and its claim is
//! released the sooner. (With several interfaces it goes on, because the others have it whole.)

use super::admit::Admitted;
use super::fragment::cut;
use super::group::route;
use super::hand_over::{HandOverRef, HandOvers};
use super::loaded::{Loaded, LoadedFrame};
use super::number::{FlowTable, Stamp};
use super::outlets::Outlets;
use super::train::TrainFrame;
use crate::drops::DropReason;
use crate::tally::Tally;
use bytes::Bytes;
use frame::fragment::FragmentPlan;
use frame::{GroupIndex, ShardBits};
use multicast_io::Burst;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

/// A frame that is cut over several rounds.
pub(super) struct LargeFrame {
    pub(super) frame: Admitted,
    pub(super) sender: IpAddr,
    pub(super) payload: Bytes,
    /// The payload was copied out of the burst or the slab: nothing else bounds its bytes.
    pub(super) copied: bool,
    pub(super) plan: FragmentPlan,
    pub(super) group: GroupIndex,
    pub(super) hand_over: HandOverRef,
    /// The fragment that is cut next.
    pub(super) next: u32,
}

/// What fragments are cut into, and with whom they leave.
pub(super) struct Cutting<'a> {
    pub(super) now: Instant,
    pub(super) burst: &'a mut Burst,
    pub(super) loaded: &'a mut Loaded,
    pub(super) scratch: &'a mut Vec<u8>,
    pub(super) flows: &'a mut FlowTable,
    pub(super) outlets: &'a Outlets,
    pub(super) tally: &'a Tally,
}

impl LargeFrame {
    fn copied_bytes(&self) -> usize {
        if self.copied { self.payload.len() } else { 0 }
    }

    /// Fragments that were not cut.
    fn left(&self) -> u64 {
        u64::from(self.plan.total).saturating_sub(u64::from(self.next))
    }

    /// Cuts about `most` bytes, as far as `reserve` bytes of heap stay free. Returns how many bytes.
    fn cut(&mut self, bits: ShardBits, reserve: usize, most: usize, with: &mut Cutting<'_>) -> usize {
        let LargeFrame { frame, payload, plan, next, .. } = self;
        let largest = u16::try_from(frame::fragment::HEADER).unwrap_or(0) + plan.data_len;
        // Looked for again in each round: it may have been forgotten meanwhile.
        let route = route(frame.kind, frame.msg_type, &frame.id, &frame.second_id, bits);
        let flow = with.flows.flow(with.now, &route, self.sender);
        let mut bytes = 0;
        while bytes < most
            && let Ok(index) = u16::try_from(*next)
            && index < plan.total
        {
            if with.burst.heap_free() < reserve + usize::from(largest) {
                break;
            }
            let data = payload.get(plan.range(index)).unwrap_or_default();
            let Some(span) = cut(with.burst, frame, plan, index, data, with.scratch) else { break };
            let len = u16::try_from(span.len).unwrap_or(u16::MAX);
            with.loaded.push(
                LoadedFrame { span, flow: Some(flow), stamp: Stamp::Number, hand_over: self.hand_over },
                TrainFrame { group: self.group, len, sort_len: largest.max(len) },
            );
            with.tally.fragments.add(1);
            *next += 1;
            bytes += usize::from(len);
        }
        bytes
    }

    /// What was not cut yet never will be.
    fn cut_short(&self, outlets: u64, hand_overs: &mut HandOvers, tally: &Tally) {
        let left = self.left() * outlets;
        hand_overs.finish(self.hand_over, left, true);
        hand_overs.lost.push((DropReason::SendRefused, left));
        tally.cut_short.add(1);
    }
}

/// See the module text.
pub(super) struct LargeFrames {
    waiting: VecDeque<LargeFrame>,
    bits: ShardBits,
    /// Bytes a round.
    chunk: usize,
    /// Bytes that may still be cut in this round.
    left: usize,
    /// Heap that cutting leaves free.
    reserve: usize,
    /// Bytes of the frames that were copied.
    copied: usize,
}

impl LargeFrames {
    /// Chunks of `chunk` bytes; `reserve` bytes of heap are for other frames.
    pub(super) fn new(bits: ShardBits, chunk: usize, reserve: usize) -> LargeFrames {
        LargeFrames { waiting: VecDeque::new(), bits, chunk, left: 0, reserve, copied: 0 }
    }

    /// A new round: another chunk may be cut, where there is `room`. Frames that lost a fragment on the only interface are cut
    /// short.
    pub(super) fn begin(&mut self, room: bool, outlets: u64, hand_overs: &mut HandOvers, tally: &Tally) {
        self.left = if room { self.chunk } else { 0 };
        if outlets > 1 {
            return;
        }
        let copied = &mut self.copied;
        self.waiting.retain(|frame| {
            let failed = hand_overs.has_failed(frame.hand_over);
            if failed {
                frame.cut_short(outlets, hand_overs, tally);
                *copied -= frame.copied_bytes();
            }
            !failed
        });
    }

    pub(super) fn push(&mut self, frame: LargeFrame) {
        self.copied += frame.copied_bytes();
        self.waiting.push_back(frame);
    }

    /// Cuts large frames, in order, `from` one of them on, while the round's chunk and the heap last. Those whose fragments
    /// wait are passed over.
    pub(super) fn cut(&mut self, from: usize, with: &mut Cutting<'_>) {
        let mut at = from;
        while self.left > 0
            && let Some(frame) = self.waiting.get_mut(at)
        {
            let most = self.chunk.saturating_sub(with.outlets.least_waiting(frame.group)).min(self.left);
            self.left -= frame.cut(self.bits, self.reserve, most, with).min(self.left);
            if frame.left() > 0 {
                at += 1;
            } else if let Some(frame) = self.waiting.remove(at) {
                self.copied -= frame.copied_bytes();
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes that nothing bounds but the worker, which stops reading.
    pub(super) fn copied_bytes(&self) -> usize {
        self.copied
    }

    /// A frame waits whose fragments would find room.
    pub(super) fn may_go_on(&self, outlets: &Outlets) -> bool {
        self.waiting.iter().any(|frame| outlets.least_waiting(frame.group) < self.chunk)
    }

    /// Gives up all of them.
    pub(super) fn abandon(&mut self, outlets: u64, hand_overs: &mut HandOvers, tally: &Tally) {
        for frame in self.waiting.drain(..) {
            frame.cut_short(outlets, hand_overs, tally);
        }
        self.copied = 0;
    }
}
