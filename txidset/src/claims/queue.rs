//! The frames that wait for room in a request, oldest first.
//!
//! Two lines: frames that are claimed for the first time, and frames that were asked about before. The second line goes
//! first into a request.
//!
//! Limits: the queue holds handles, some of them of frames that have left. Whoever takes one looks at its entry.

use super::entries::EntryHandle;
use std::collections::VecDeque;

/// Which of the two lines.
#[derive(Clone, Copy, Debug)]
pub(super) enum Line {
    /// Claimed for the first time.
    New,
    /// Asked about before.
    Again,
}

/// See the module text.
#[derive(Default)]
pub(super) struct Queue {
    new: VecDeque<EntryHandle>,
    again: VecDeque<EntryHandle>,
}

impl Queue {
    #[inline]
    pub(super) fn push(&mut self, line: Line, handle: EntryHandle) {
        self.line_mut(line).push_back(handle);
    }

    /// Handles in both lines.
    pub(super) fn len(&self) -> usize {
        self.new.len() + self.again.len()
    }

    /// The next for a request.
    #[inline]
    pub(super) fn pop_for_request(&mut self) -> Option<EntryHandle> {
        self.again.pop_front().or_else(|| self.new.pop_front())
    }

    /// The next to be let through for want of room.
    pub(super) fn pop_for_bypass(&mut self) -> Option<EntryHandle> {
        self.new.pop_front().or_else(|| self.again.pop_front())
    }

    pub(super) fn head(&self, line: Line) -> Option<EntryHandle> {
        match line {
            Line::New => self.new.front().copied(),
            Line::Again => self.again.front().copied(),
        }
    }

    pub(super) fn pop(&mut self, line: Line) {
        self.line_mut(line).pop_front();
    }

    /// Frames that are claimed for the first time, newest first.
    pub(super) fn newest_first(&self) -> impl Iterator<Item = EntryHandle> {
        self.new.iter().rev().copied()
    }

    fn line_mut(&mut self, line: Line) -> &mut VecDeque<EntryHandle> {
        match line {
            Line::New => &mut self.new,
            Line::Again => &mut self.again,
        }
    }
}
