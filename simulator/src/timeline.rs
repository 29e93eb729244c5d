//! Virtual time: what will happen, and to whom. Equal times keep the order in which they were scheduled, so that a seed
//! is one world.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Whatever process serves the address then, not the one that does now.
pub(crate) const ANY: u32 = u32::MAX;

pub(crate) struct Timeline<E> {
    queue: BinaryHeap<Scheduled<E>>,
    sequence: u64,
}

pub(crate) struct Scheduled<E> {
    /// Microseconds since the world began.
    pub(crate) at: u64,
    sequence: u64,
    /// A worker or a node, as the event has it.
    pub(crate) who: usize,
    /// Which life of its process is meant.
    pub(crate) incarnation: u32,
    pub(crate) event: E,
}

impl<E> Timeline<E> {
    pub(crate) fn new() -> Timeline<E> {
        Timeline { queue: BinaryHeap::new(), sequence: 0 }
    }

    pub(crate) fn push(&mut self, at: u64, who: usize, incarnation: u32, event: E) {
        self.sequence += 1;
        self.queue.push(Scheduled { at, sequence: self.sequence, who, incarnation, event });
    }

    /// What waited comes before all else of that time, in the order of its coming.
    pub(crate) fn push_first(&mut self, at: u64, waited: Scheduled<E>) {
        self.queue.push(Scheduled { at, ..waited });
    }

    pub(crate) fn pop(&mut self) -> Option<Scheduled<E>> {
        self.queue.pop()
    }
}

impl<E> PartialEq for Scheduled<E> {
    fn eq(&self, other: &Scheduled<E>) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Scheduled<E> {}

impl<E> PartialOrd for Scheduled<E> {
    fn partial_cmp(&self, other: &Scheduled<E>) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Scheduled<E> {
    /// The earliest is the greatest: a `BinaryHeap` gives the greatest first.
    fn cmp(&self, other: &Scheduled<E>) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}
