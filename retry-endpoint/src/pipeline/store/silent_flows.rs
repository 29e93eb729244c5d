//! Which flows fell silent without a last word.
//!
//! Why: a sender that dies before its next digest (docs/wire-extensions.md) can tell nobody how far its flows went. A listener
//! that lost their last frames, or was started since, hears nothing of them any more. Who holds the frames speaks for the
//! sender.
//!
//! A flow is announced when nothing new came for [`FIRST`], and again after twice the silence each, [`TIMES`] times.
//! An announcement is left out where the sender announced that number itself in the last two thirds of the silence. A living
//! sender does, at whatever point of its schedule: a digest is never later than three times the silence at the one before.
//! Announcements of other endpoints do not count: theirs may get lost where ours do not.
//!
//! Limits: the flows of the table. Each has one valid entry in the queues, and at most one stale entry in each queue. The
//! caller says how many flows it takes. The rest waits, first announcements first.
//!
//! Cost: a compare for a frame, and a queue operation every `FIRST` for a flow with traffic.

use std::collections::VecDeque;

/// Silence before the first announcement, in microseconds: two of a sender's digests would have come.
const FIRST: u64 = 300_000;
/// Announcements of a flow; the last after 38 s, within the life of a transaction.
const TIMES: usize = 8;

/// When a flow was last heard of.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Activity {
    /// When something new of it came, in microseconds.
    active_at: u64,
    /// When its sender last announced its highest number or a higher one.
    announced: u64,
    /// Tells its valid entry in the queues from others.
    generation: u32,
    /// That entry is in the first queue: it has not been silent yet.
    fresh: bool,
}

impl Activity {
    pub(super) fn on_digest(&mut self, now: u64) {
        self.announced = now;
    }

    /// Of the flow that takes this one's place in the table.
    pub(super) fn of_successor(&self) -> Activity {
        Activity { generation: self.generation.wrapping_add(1), ..Activity::default() }
    }

    fn is_covered(&self, now: u64) -> bool {
        let silence = now.saturating_sub(self.active_at);
        self.announced >= self.active_at + silence / 3
    }
}

#[derive(Clone, Copy, Debug)]
struct DueCheck {
    at: u64,
    flow: u32,
    generation: u32,
}

/// See the module text.
#[derive(Debug, Default)]
pub(super) struct SilentFlows {
    /// One queue a step; times within a queue ascend.
    queues: [VecDeque<DueCheck>; TIMES],
}

impl SilentFlows {
    /// A frame of a flow was kept.
    pub(super) fn activity(&mut self, now: u64, flow: u32, activity: &mut Activity) {
        activity.active_at = now;
        if !activity.fresh {
            activity.fresh = true;
            activity.generation = activity.generation.wrapping_add(1);
            self.queues[0].push_back(DueCheck { at: now + FIRST, flow, generation: activity.generation });
        }
    }

    /// A flow that is to be announced now.
    pub(super) fn next<F>(
        &mut self,
        now: u64,
        flows: &mut [F],
        activity: fn(&mut F) -> &mut Activity,
    ) -> Option<u32> {
        for step in 0..TIMES {
            while let Some(check) = self.queues[step].pop_front_if(|check| check.at <= now) {
                let Some(flow) = flows.get_mut(check.flow as usize) else { continue };
                let activity = activity(flow);
                if activity.generation != check.generation {
                    continue;
                }
                if step == 0 && now < activity.active_at + FIRST {
                    self.queues[0].push_back(DueCheck { at: now + FIRST, ..check });
                    continue;
                }
                activity.fresh = false;
                if let Some(later) = self.queues.get_mut(step + 1) {
                    later.push_back(DueCheck { at: now + (FIRST << step), ..check });
                }
                if !activity.is_covered(now) {
                    return Some(check.flow);
                }
            }
        }
        None
    }

    /// When `next` may have something.
    pub(super) fn next_check(&self) -> Option<u64> {
        self.queues.iter().filter_map(|queue| queue.front()).map(|check| check.at).min()
    }
}
