//! How long a frame waits for an answer about its claim.
//!
//! Promise: a frame waits `ClaimsConfig::answer_timeout` at most, counted from the moment when it needs an answer. Then it is
//! sent. A frame that waits for room in a request gives up at half of that (`Bypassed`), because an answer needs the rest. A
//! request gets as much time as its oldest frame has left. What it does not answer is in doubt. The time that a parked copy
//! waits for its owner does not count. The takeover that may follow is a wait of its own.
//!
//! A worker that comes late first reads the answers that came meanwhile. Only what is still unanswered then is in doubt
//! (`Claims::give_up`, which the driver calls).
//!
//! What is measured: a wait that ended too late is counted under its cause. *Overdue*: the worker gave up others after this
//! frame's time was over and left it waiting, which is a fault of the protocol. *Late*: the worker itself came late, as on a
//! machine that is too busy, or after a stop of the process.
//!
//! Cost: two comparisons a frame.

use crate::stats::ClaimStats;
use std::time::{Duration, Instant};

/// A turn that comes so much later than it was due is called late: timers and schedulers are no more exact.
const ALLOWANCE: Duration = Duration::from_millis(5);

/// The bound, and the time as the worker told it last.
#[derive(Debug)]
pub(super) struct AnswerTimeout {
    timeout: Duration,
    now: Option<Instant>,
    /// When unanswered frames were given up last.
    gave_up: Option<Instant>,
}

impl AnswerTimeout {
    pub(super) fn new(timeout: Duration) -> AnswerTimeout {
        AnswerTimeout { timeout, now: None, gave_up: None }
    }

    /// The worker told the time.
    pub(super) fn tell(&mut self, now: Instant) {
        self.now = self.now.max(Some(now));
    }

    pub(super) fn now(&self, fallback: Instant) -> Instant {
        self.now.unwrap_or(fallback)
    }

    /// What waited too long by `now` was given up.
    pub(super) fn gave_up(&mut self, now: Instant) {
        self.gave_up = Some(now);
    }

    /// When a frame that came to the queue at `since` is no longer worth asking about.
    pub(super) fn queued_until(&self, since: Instant) -> Option<Instant> {
        since.checked_add(self.timeout / 2)
    }

    /// When the answer about a frame must be there.
    pub(super) fn answered_by(&self, since: Instant) -> Option<Instant> {
        since.checked_add(self.timeout)
    }

    /// A frame that came to the queue at `since` has waited there for a quarter of its time.
    pub(super) fn is_behind(&self, since: Instant) -> bool {
        self.waited(since) >= self.timeout / 4
    }

    /// Measures a wait that began at `since` and ends now.
    pub(super) fn observe(&self, since: Instant, stats: &ClaimStats) {
        let waited = self.waited(since);
        stats.longest_wait.raise(u64::try_from(waited.as_micros()).unwrap_or(u64::MAX));
        let Some(due) = self.answered_by(since) else { return };
        if waited <= self.timeout.saturating_add(ALLOWANCE) {
            return;
        }
        let left_waiting = self.gave_up.is_some_and(|at| at >= due);
        let cause = if left_waiting { &stats.overdue } else { &stats.late };
        cause.add(1);
    }

    fn waited(&self, since: Instant) -> Duration {
        self.now(since).saturating_duration_since(since)
    }
}
