//! Large frames: each is kept aside and leaves in fragments, a chunk a round.
//!
//! Limits: [`CHUNK`] bytes a round, so that a 64 MiB frame does not hold up small ones, and what the heap of the burst has
//! left above a reserve. Fragments leave in index order, frame by frame.

use super::admit::Admitted;
use super::fragment::cut;
use super::hand_over::HandOverRef;
use super::loaded::{Loaded, LoadedFrame};
use super::number::{FlowHandle, Stamp};
use super::train::TrainFrame;
use crate::tally::Tally;
use bytes::Bytes;
use frame::GroupIndex;
use frame::fragment::FragmentPlan;
use multicast_io::Burst;
use std::collections::VecDeque;

/// Bytes that are cut in one round.
const CHUNK: usize = 256 << 10;

/// A frame that is cut over several rounds.
pub(super) struct LargeFrame {
    frame: Admitted,
    payload: Bytes,
    plan: FragmentPlan,
    next: u32,
    flow: FlowHandle,
    group: GroupIndex,
    hand_over: HandOverRef,
}

impl LargeFrame {
    /// Nothing of it is cut yet.
    pub(super) fn new(
        frame: Admitted,
        payload: Bytes,
        plan: FragmentPlan,
        flow: FlowHandle,
        group: GroupIndex,
        hand_over: HandOverRef,
    ) -> LargeFrame {
        LargeFrame { frame, payload, plan, next: 0, flow, group, hand_over }
    }

    /// Fragments that were not cut, and who waits for them.
    pub(super) fn left(&self) -> (HandOverRef, u64) {
        (self.hand_over, u64::from(self.plan.total).saturating_sub(u64::from(self.next)))
    }

    /// Cuts as far as `floor` bytes of heap stay free; `true`: the last fragment was cut.
    fn cut(
        &mut self,
        burst: &mut Burst,
        floor: usize,
        loaded: &mut Loaded,
        scratch: &mut Vec<u8>,
        tally: &Tally,
    ) -> bool {
        let largest = u16::try_from(frame::fragment::HEADER).unwrap_or(0) + self.plan.data_len;
        while let Ok(index) = u16::try_from(self.next)
            && index < self.plan.total
        {
            if burst.heap_free() < floor + usize::from(largest) {
                return false;
            }
            let data = self.payload.get(self.plan.range(index)).unwrap_or_default();
            let Some(span) = cut(burst, &self.frame, &self.plan, index, data, scratch) else {
                return false;
            };
            let len = u16::try_from(span.len).unwrap_or(u16::MAX);
            loaded.push(
                LoadedFrame { span, flow: Some(self.flow), stamp: Stamp::Number, hand_over: self.hand_over },
                TrainFrame { group: self.group, len, sort_len: largest.max(len) },
            );
            tally.fragments.add(1);
            self.next += 1;
        }
        true
    }
}

/// See the module text.
#[derive(Default)]
pub(super) struct LargeFrames {
    waiting: VecDeque<LargeFrame>,
    /// Heap that cutting leaves free in this round.
    floor: usize,
}

impl LargeFrames {
    /// A new round: another chunk may be cut. `reserve` bytes of heap are for other frames.
    pub(super) fn begin(&mut self, burst: &Burst, reserve: usize) {
        self.floor = burst.heap_free().saturating_sub(CHUNK).max(reserve);
    }

    pub(super) fn push(&mut self, frame: LargeFrame) {
        self.waiting.push_back(frame);
    }

    /// Cuts large frames, in order, while the round's chunk and the heap last.
    pub(super) fn cut(
        &mut self,
        burst: &mut Burst,
        loaded: &mut Loaded,
        scratch: &mut Vec<u8>,
        tally: &Tally,
    ) {
        while let Some(frame) = self.waiting.front_mut() {
            if !frame.cut(burst, self.floor, loaded, scratch, tally) {
                return;
            }
            self.waiting.pop_front();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Gives up all of them.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = LargeFrame> + '_ {
        self.waiting.drain(..)
    }
}
