//! Which flows fell silent without a last word: a sender that dies before its next digest (docs/wire-extensions.md) can
//! tell nobody how far its flows went, and a listener that lost their last frames, or was started since, hears nothing of
//! them any more. Who holds the frames speaks for it.
//!
//! A flow of which nothing new came for [`FIRST`] is announced then, and after twice the silence each, [`TIMES`] times. An
//! announcement is left out where the sender announced that number itself in the last two thirds of the silence: a living
//! one does, at whatever point of its schedule (a digest is never later than three times the silence at the one before).
//! Announcements of other endpoints do not count: theirs may get lost where ours do not.
//!
//! Limits: the flows of the table, each with one valid entry in the queues and at most one stale one in each; who asks says
//! how many flows it takes. What is not taken waits, first announcements first. Cost: a compare for a frame, a queue
//! operation every `FIRST` for a flow with traffic.

use std::collections::VecDeque;

/// Silence before the first announcement, in microseconds: two of a sender's digests would have come.
const FIRST: u64 = 300_000;
/// Announcements of a flow; the last after 38 s, within the life of a transaction.
const TIMES: usize = 8;

/// How a flow goes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Course {
    /// When something new of it came, in microseconds.
    spoke: u64,
    /// When its sender last announced its highest number or a higher one.
    announced: u64,
    /// Tells its valid entry in the queues from others.
    turn: u32,
    /// That entry is in the first queue: it has not been silent yet.
    fresh: bool,
}

impl Course {
    pub(super) fn heard_of(&mut self, now: u64) {
        self.announced = now;
    }

    /// Of the flow that takes this one's place in the table.
    pub(super) fn of_successor(&self) -> Course {
        Course { turn: self.turn.wrapping_add(1), ..Course::default() }
    }

    fn is_covered(&self, now: u64) -> bool {
        let silence = now.saturating_sub(self.spoke);
        self.announced >= self.spoke + silence / 3
    }
}

#[derive(Clone, Copy, Debug)]
struct Look {
    at: u64,
    flow: u32,
    turn: u32,
}

/// See the module text.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// One queue a step; times within a queue ascend.
    queues: [VecDeque<Look>; TIMES],
}

impl Silence {
    /// A frame of a flow was kept.
    pub(super) fn spoke(&mut self, now: u64, flow: u32, course: &mut Course) {
        course.spoke = now;
        if !course.fresh {
            course.fresh = true;
            course.turn = course.turn.wrapping_add(1);
            self.queues[0].push_back(Look { at: now + FIRST, flow, turn: course.turn });
        }
    }

    /// A flow that is to be announced now.
    pub(super) fn next<F>(
        &mut self,
        now: u64,
        flows: &mut [F],
        course: fn(&mut F) -> &mut Course,
    ) -> Option<u32> {
        for step in 0..TIMES {
            while let Some(look) = self.queues[step].pop_front_if(|look| look.at <= now) {
                let Some(flow) = flows.get_mut(look.flow as usize) else { continue };
                let course = course(flow);
                if course.turn != look.turn {
                    continue;
                }
                if step == 0 && now < course.spoke + FIRST {
                    self.queues[0].push_back(Look { at: now + FIRST, ..look });
                    continue;
                }
                course.fresh = false;
                if let Some(later) = self.queues.get_mut(step + 1) {
                    later.push_back(Look { at: now + (FIRST << step), ..look });
                }
                if !course.is_covered(now) {
                    return Some(look.flow);
                }
            }
        }
        None
    }

    /// When `next` may have something.
    pub(super) fn next_look(&self) -> Option<u64> {
        self.queues.iter().filter_map(|queue| queue.front()).map(|look| look.at).min()
    }
}
