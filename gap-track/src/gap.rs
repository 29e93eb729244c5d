//! Gaps as whoever asks for them sees them.

use crate::gaps::GapId;
use crate::slots::Slot;
use std::time::Instant;

/// What a tracker keeps with a range of missing numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Missing<R> {
    pub(crate) flow: Slot,
    pub(crate) opened: Instant,
    pub(crate) expires: Instant,
    pub(crate) due: Instant,
    pub(crate) requested: bool,
    pub(crate) deferred: bool,
    pub(crate) repair: R,
}

/// A range of missing numbers, as it is now.
#[derive(Clone, Copy, Debug)]
pub struct Gap<R> {
    /// First number.
    pub first: u64,
    /// Last number, inclusive.
    pub last: u64,
    /// When its repair is given up.
    pub expires: Instant,
    /// When it may be asked for first.
    pub due: Instant,
    /// Somebody was asked for it (`Tracker::set_requested`).
    pub requested: bool,
    /// It came before and found no room: asked for when there is room.
    pub deferred: bool,
    /// What the owner keeps with it.
    pub repair: R,
}

impl<R> Gap<R> {
    /// How many numbers.
    pub fn numbers(&self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }
}

/// What an owner must know of gaps to ask for them. Names may be stale when they are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapEvent<R> {
    /// A gap is new, or later frames hastened it: see [`Gap::due`].
    Due(GapId),
    /// A gap was cut off from another, with the same state of repair.
    CutOff(GapId),
    /// So many numbers of one state of repair were given up, or their flow left.
    GivenUp(R, u64),
}
