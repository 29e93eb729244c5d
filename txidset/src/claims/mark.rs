//! How far a worker is: whether everything that came before a moment has its end, so that a successor need not look at
//! it again.
//!
//! A mark divides the frames into those that were claimed before it and those after. It is passed when each frame before
//! it was handed over, suppressed, or failed, and the store knows that the worker's own claims among them are settled.
//!
//! Cost: one counter a frame. Limits: as many counters as marks that are not passed; the caller has one at a time.

use super::Claims;
use crate::Mode;
use crate::ledger::Place;
use crate::value::one;
use std::collections::VecDeque;

/// A moment in the stream of frames.
#[derive(Clone, Debug)]
pub struct Mark {
    cohort: u64,
    /// Set when the frames are gone: what the record has to cover.
    covered_by: Option<Place>,
    gone: bool,
}

/// Frames on their way, by the marks between which they came.
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

    pub(super) fn enter(&mut self) -> u64 {
        if let Some(alive) = self.alive.back_mut() {
            *alive += 1;
        }
        self.newest()
    }

    pub(super) fn leave(&mut self, cohort: u64) {
        let place = cohort.checked_sub(self.first).and_then(|place| usize::try_from(place).ok());
        if let Some(alive) = place.and_then(|place| self.alive.get_mut(place)) {
            *alive = alive.saturating_sub(1);
        }
        while self.alive.len() > 1 && self.alive.front() == Some(&0) {
            self.alive.pop_front();
            self.first += 1;
        }
    }

    fn divide(&mut self) -> u64 {
        let before = self.newest();
        self.alive.push_back(0);
        while self.alive.len() > 1 && self.alive.front() == Some(&0) {
            self.alive.pop_front();
            self.first += 1;
        }
        before
    }
}

impl Claims {
    /// Divides what came so far from what comes.
    pub fn mark(&mut self) -> Mark {
        Mark { cohort: self.cohorts.divide(), covered_by: None, gone: false }
    }

    /// Whether everything before the mark has its end, and the store knows. Never in simple mode, which settles nothing.
    pub fn is_passed(&self, mark: &mut Mark) -> bool {
        if self.config.mode == Mode::Simple || self.cohorts.first <= mark.cohort {
            return false;
        }
        if !mark.gone {
            (mark.gone, mark.covered_by) = (true, self.ledger.newest());
        }
        mark.covered_by.is_none_or(|place| self.ledger.covers(place))
    }

    /// Writes the positions of the consumer's workers with this index; the latest value wins, an unanswered write is not
    /// repeated.
    pub fn keep_positions(&mut self, index: u16, value: &[u8]) {
        let mut key = Vec::with_capacity(64);
        self.names.positions(index, &mut key);
        self.to_keep = Some(one(&key, value));
    }
}
