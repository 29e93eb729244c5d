//! How far a worker is: whether everything that came before a moment has its end, so that a successor need not look at it
//! again.
//!
//! A [`Watermark`] divides the frames: those that were claimed before it, and those after. It is passed when each frame before it
//! was handed over, suppressed, or failed, and the store knows that the worker's own claims among them are settled.
//!
//! Cost: one counter a frame. Limits: as many counters as watermarks that are not passed; the caller has one at a time.

use crate::ledger::{EpochPlace, Ledger};
use std::collections::VecDeque;

/// A moment in the stream of frames.
#[derive(Clone, Debug)]
pub struct Watermark {
    /// The last cohort before it.
    cohort: u64,
    /// Set when its frames are gone: what the record has to cover.
    covered_by: Option<EpochPlace>,
    gone: bool,
}

/// Frames on their way, by the watermarks between which they came.
#[derive(Debug)]
pub(super) struct Cohorts {
    /// Number of the first in `alive`.
    first: u64,
    alive: VecDeque<u32>,
}

impl Default for Cohorts {
    fn default() -> Cohorts {
        Cohorts { first: 0, alive: VecDeque::from([0]) }
    }
}

impl Cohorts {
    fn newest(&self) -> u64 {
        self.first + self.alive.len().saturating_sub(1) as u64
    }

    /// One more frame of the newest cohort.
    #[inline]
    pub(super) fn enter(&mut self) -> u64 {
        if let Some(alive) = self.alive.back_mut() {
            *alive += 1;
        }
        self.newest()
    }

    /// A frame has its end.
    #[inline]
    pub(super) fn leave(&mut self, cohort: u64) {
        let place = cohort.checked_sub(self.first).and_then(|place| usize::try_from(place).ok());
        if let Some(alive) = place.and_then(|place| self.alive.get_mut(place)) {
            *alive = alive.saturating_sub(1);
        }
        self.drop_ended();
    }

    /// Divides what came so far from what comes.
    pub(super) fn watermark(&mut self) -> Watermark {
        let cohort = self.newest();
        self.alive.push_back(0);
        self.drop_ended();
        Watermark { cohort, covered_by: None, gone: false }
    }

    /// Whether everything before the watermark has its end, and the store knows what `ledger` says about it.
    pub(super) fn is_passed(&self, watermark: &mut Watermark, ledger: &Ledger) -> bool {
        if self.first <= watermark.cohort {
            return false;
        }
        if !watermark.gone {
            (watermark.gone, watermark.covered_by) = (true, ledger.newest());
        }
        watermark.covered_by.is_none_or(|place| ledger.covers(place))
    }

    #[inline]
    fn drop_ended(&mut self) {
        while self.alive.len() > 1 && self.alive.front() == Some(&0) {
            self.alive.pop_front();
            self.first += 1;
        }
    }
}
