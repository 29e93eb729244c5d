//! The frames of the next emission, in the order in which they were loaded.

use super::hand_over::HandOverRef;
use super::number::{FlowHandle, Stamp};
use super::train::TrainFrame;
use multicast_io::Span;

/// A frame that is about to be numbered.
pub(super) struct LoadedFrame {
    /// Where its bytes are in the burst.
    pub(super) span: Span,
    /// Who numbers it.
    pub(super) flow: Option<FlowHandle>,
    /// How it is stamped.
    pub(super) stamp: Stamp,
    /// Who waits for it.
    pub(super) hand_over: HandOverRef,
}

/// See the module text. The two lists run in parallel: the planner sorts the one without touching the other.
#[derive(Default)]
pub(super) struct Loaded {
    pub(super) frames: Vec<LoadedFrame>,
    pub(super) for_trains: Vec<TrainFrame>,
}

impl Loaded {
    pub(super) fn push(&mut self, frame: LoadedFrame, for_train: TrainFrame) {
        self.frames.push(frame);
        self.for_trains.push(for_train);
    }

    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.frames.clear();
        self.for_trains.clear();
    }
}
