//! How long a frame waits for tier 2.
//!
//! Promise: from the moment when a frame needs an answer about its claim it waits `ClaimsConfig::patience` at most, then it
//! is sent. A frame that waits for its place in a request gives up at half of that (`Bypassed`), because the rest is what
//! an answer needs; a request gets as much time as its oldest frame has left, and what it does not answer is in doubt. The
//! time that a parked copy waits for its owner is not part of it; the takeover that may follow is a wait of its own.
//!
//! A worker that comes late first reads the answers that came meanwhile: only what is still unanswered then is in doubt
//! (`give_up`, which the driver calls).
//!
//! What is measured: each wait that ended too late is counted under its cause. *Overdue*: the worker gave up others after the
//! end of this frame's patience and left it waiting, which is a fault of this module. *Late*: the worker itself came late, as
//! on a machine that is too busy, or after a stop of the process.
//!
//! Cost: two comparisons a frame, and a look at the heads of two queues and at the requests under way each turn.

use super::ask::Asked;
use super::{Claims, Handle, State, Why};
use cache_backend::OpErrorKind;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A turn that comes so much later than it was due is called late: timers and schedulers are no more exact.
const ALLOWANCE: Duration = Duration::from_millis(5);

/// The time as the worker told it last.
#[derive(Debug, Default)]
pub(super) struct Patience {
    now: Option<Instant>,
    /// When `give_up` was called last.
    gave_up: Option<Instant>,
}

impl Patience {
    pub(super) fn clock(&mut self, now: Instant) {
        self.now = self.now.max(Some(now));
    }

    pub(super) fn now(&self, fallback: Instant) -> Instant {
        self.now.unwrap_or(fallback)
    }
}

impl Claims {
    /// When a frame that came to the queue at `since` is no longer worth asking about.
    fn gives_up_at(&self, since: Instant) -> Option<Instant> {
        since.checked_add(self.config.patience / 2)
    }

    /// When the answer about a frame must be there.
    pub(super) fn answered_by(&self, since: Instant) -> Option<Instant> {
        since.checked_add(self.config.patience)
    }

    /// Every answer that had come by `now` was given to `on_answer`: what waits for one too long is in doubt.
    pub fn give_up(&mut self, now: Instant) {
        self.expire_queues(now);
        for flight in 0..self.in_flight.len() {
            let flight = &mut self.in_flight[flight];
            if flight.until.is_some_and(|until| until <= now)
                && let Asked::Claim(handles) = &mut flight.asked
            {
                flight.until = None;
                let handles = std::mem::take(handles);
                self.claims_in_doubt(now, &handles, OpErrorKind::Timeout);
            }
        }
        self.patience.gave_up = Some(now);
        self.show_load();
    }

    /// Lets go what waits for its place in a request too long.
    pub(super) fn expire_queues(&mut self, now: Instant) {
        self.patience.clock(now);
        let mut queue = std::mem::take(&mut self.unclaimed);
        self.expire_queue(now, &mut queue);
        self.unclaimed = queue;
        let mut queue = std::mem::take(&mut self.again);
        self.expire_queue(now, &mut queue);
        queue.append(&mut self.again);
        self.again = queue;
        self.show_load();
    }

    fn expire_queue(&mut self, now: Instant, queue: &mut VecDeque<Handle>) {
        while let Some(&handle) = queue.front() {
            if self.is(handle, State::Unclaimed) {
                let since = self.entries[handle.index as usize].since;
                if self.gives_up_at(since).is_none_or(|at| at > now) {
                    return;
                }
                self.decide_send(handle.index, Why::Bypassed);
            }
            queue.pop_front();
        }
    }

    /// When the next frame has waited as long as it may.
    pub(super) fn out_of_patience_at(&self) -> Option<Instant> {
        let requests = self.in_flight.iter().filter_map(|flight| flight.until);
        let queued = [&self.unclaimed, &self.again].into_iter().filter_map(|queue| queue.front());
        let queued = queued.filter_map(|head| self.gives_up_at(self.entries[head.index as usize].since));
        requests.chain(queued).min()
    }

    /// Frames wait for a place in a request for longer than a quarter of their patience: sources that can be told to wait
    /// should be.
    pub fn is_behind(&self) -> bool {
        let Some(head) = self.unclaimed.front() else { return false };
        let since = self.entries[head.index as usize].since;
        self.patience.now(since).saturating_duration_since(since) >= self.config.patience / 4
    }

    /// Measures the wait that ends now for an entry that waits for an answer.
    pub(super) fn observe_wait(&mut self, index: u32) {
        let entry = &self.entries[index as usize];
        if !matches!(entry.state, State::Unclaimed | State::Asked) {
            return;
        }
        let waited = self.patience.now(entry.since).saturating_duration_since(entry.since);
        self.stats.longest_wait.raise(u64::try_from(waited.as_micros()).unwrap_or(u64::MAX));
        let Some(due) = self.answered_by(entry.since) else { return };
        if waited <= self.config.patience.saturating_add(ALLOWANCE) {
            return;
        }
        let left_waiting = self.patience.gave_up.is_some_and(|at| at >= due);
        let cause = if left_waiting { &self.stats.overdue } else { &self.stats.late };
        cause.add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Answer, ClaimKey, ClaimsConfig, Class, Decision, LocalSet, Request, Trust, Verdict};
    use std::sync::Arc;

    const MS: Duration = Duration::from_millis(1);
    const PATIENCE: Duration = Duration::from_millis(50);

    fn claims(now: Instant, max_batch: usize) -> Claims {
        let config = ClaimsConfig { tier2: true, patience: PATIENCE, max_batch, ..ClaimsConfig::default() };
        Claims::new(config, Arc::new(LocalSet::starting_at(4096, Duration::from_secs(60), 1, now)), 1)
    }

    fn claim(claims: &mut Claims, now: Instant, ids: std::ops::Range<u8>) {
        let batch: Vec<_> =
            ids.map(|n| (ClaimKey { class: Class::Tx, id: [n; 32] }, n.into(), 100)).collect();
        let mut verdicts = Vec::new();
        claims.claim(now, &batch, &mut verdicts);
        assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Wait));
    }

    fn requests(claims: &mut Claims, now: Instant) -> Vec<Request> {
        claims.give_up(now);
        claims.on_timeout(now);
        std::iter::from_fn(|| claims.poll_request(now)).collect()
    }

    fn one_request(claims: &mut Claims, now: Instant, n: u8) -> Vec<Request> {
        claim(claims, now, n..n + 1);
        requests(claims, now)
    }

    fn decided(claims: &mut Claims) -> Vec<(u64, Why)> {
        let decisions = std::iter::from_fn(|| claims.next_decision());
        let decided = decisions.map(|decision| match decision {
            Decision::Send { token, why, .. } | Decision::Suppress { token, why } => (token, why),
        });
        decided.collect()
    }

    #[test]
    fn no_frame_waits_longer_than_its_patience_behind_requests_that_nobody_answers() {
        let now = Instant::now();
        let mut claims = claims(now, 8);
        let asked: Vec<Request> = (0..4).flat_map(|n| one_request(&mut claims, now, n)).collect();
        assert!(asked.iter().all(|request| request.until == Some(now + PATIENCE)));
        claim(&mut claims, now + 10 * MS, 4..6);
        assert!(requests(&mut claims, now + 10 * MS).is_empty(), "four requests are under way");
        assert!(claims.next_timeout().is_some_and(|at| at <= now + 35 * MS));
        assert!(requests(&mut claims, now + 35 * MS).is_empty());
        assert_eq!(
            decided(&mut claims),
            [(4, Why::Bypassed), (5, Why::Bypassed)],
            "no time left for an answer"
        );
        claim(&mut claims, now + 45 * MS, 6..7);
        assert!(requests(&mut claims, now + PATIENCE).is_empty(), "their places are taken until they end");
        let mut four = decided(&mut claims);
        four.sort_unstable_by_key(|(token, _)| *token);
        assert_eq!(four, [0, 1, 2, 3].map(|token| (token, Why::InDoubt)));
        for request in asked {
            claims.on_failure(now + PATIENCE, request.id, OpErrorKind::Timeout);
        }
        let next = requests(&mut claims, now + PATIENCE);
        assert_eq!(next[0].until, Some(now + 45 * MS + PATIENCE));
        let stats = claims.stats();
        assert_eq!((stats.overdue.value(), stats.late.value()), (0, 0));
        assert_eq!(stats.longest_wait.value(), 50_000);
    }

    #[test]
    fn a_worker_that_comes_late_is_counted_as_that_and_not_as_a_fault() {
        let now = Instant::now();
        let mut claims = claims(now, 8);
        claim(&mut claims, now, 0..3);
        let asked = requests(&mut claims, now);
        let answer = Answer::Claimed(vec![Ok(cache_backend::Claimed::Created); 3]);
        assert_eq!(claims.on_answer(now + 70 * MS, asked[0].id, answer), Trust::Kept);
        let stats = claims.stats();
        assert_eq!((stats.overdue.value(), stats.late.value()), (0, 3), "no turn since their time was up");
        assert_eq!(stats.by(Why::Won).value(), 3, "an answer that is there counts");
    }

    #[test]
    fn a_queue_that_grows_old_asks_its_sources_to_pause() {
        let now = Instant::now();
        let mut claims = claims(now, 8);
        (0..4).for_each(|n| drop(one_request(&mut claims, now, n)));
        claim(&mut claims, now, 4..6);
        requests(&mut claims, now + 12 * MS);
        assert!(!claims.is_behind());
        requests(&mut claims, now + 13 * MS);
        assert!(claims.is_behind());
        requests(&mut claims, now + 25 * MS);
        assert!(!claims.is_behind(), "they were let go");
    }
}
