//! The phases of an orderly stop, for workers that hold frames.
//!
//! Reading: what the kernel's queues hold is taken. Deciding: frames wait for the store. Finishing: what was decided
//! leaves. Each phase has an end that does not depend on anybody else: a sender that never falls silent, a store that never
//! answers and a consumer that never reads cost a part of `--drain-timeout`, never more than all of it.
//!
//! The signal itself is [`crate::Lifecycle`]'s: there is one for a role.

use crate::Lifecycle;
use std::time::{Duration, Instant};

/// How long each phase may take.
#[derive(Clone, Copy, Debug)]
pub struct DrainRules {
    /// `--drain-timeout`: the end of everything.
    pub timeout: Duration,
    /// Reading ends when nothing came for this long,
    pub quiet: Duration,
    /// or when the queue is empty after this long, as senders that do not hear of the stop never fall silent,
    pub accept: Duration,
    /// or, whatever the queue holds, after this long.
    pub read_at_most: Duration,
}

/// What a worker holds.
#[derive(Clone, Copy, Debug)]
pub struct InHand {
    /// Its sockets are open.
    pub reading: bool,
    /// Something else still brings frames: streams.
    pub streams: bool,
    /// The kernel's queues were found empty.
    pub emptied: bool,
    /// When the last datagram or message came.
    pub last_input: Instant,
    /// Frames wait for the store.
    pub waiting: bool,
    /// Nothing is under way.
    pub idle: bool,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainStep {
    /// Close the sockets.
    StopReading,
    /// Nothing waits for the store any more: decide without it.
    Decide,
    /// Go on with rounds; wait at most so long for something to do.
    Wait(Duration),
    /// All is done, or the time is over.
    Done,
}

/// An orderly stop under way.
#[derive(Debug)]
pub struct Drain {
    rules: DrainRules,
    began: Instant,
    decided: bool,
}

impl Drain {
    /// A stop that begins now.
    pub fn begin(now: Instant, rules: DrainRules) -> Drain {
        Drain { rules, began: now, decided: false }
    }

    /// What comes next. Frames that wait for the store get half of the time to be decided.
    pub fn step(&mut self, now: Instant, hand: &InHand) -> DrainStep {
        let since = |at: Instant| now.saturating_duration_since(at);
        let took = since(self.began);
        if hand.reading {
            let quiet = since(hand.last_input.max(self.began)) >= self.rules.quiet;
            if hand.emptied && (quiet || took >= self.rules.accept) || took >= self.rules.read_at_most {
                return DrainStep::StopReading;
            }
        }
        let ended = !hand.reading && !hand.streams;
        if !self.decided && (took >= self.rules.timeout / 2 || (ended && !hand.waiting)) {
            self.decided = true;
            return DrainStep::Decide;
        }
        if (ended && self.decided && hand.idle) || took >= self.rules.timeout {
            return DrainStep::Done;
        }
        DrainStep::Wait(self.rules.quiet.min(self.rules.timeout.saturating_sub(took)))
    }
}

/// Completes when the drain began and nobody asked for a while, at the latest `timeout` after it began. `asked`: how often
/// somebody asked so far. For threads that serve requests.
pub fn quiet_after_drain<Asked: Fn() -> u64 + Send + Sync + 'static>(
    lifecycle: &Lifecycle,
    timeout: Duration,
    asked: Asked,
) -> impl Future<Output = ()> + Send + use<Asked> {
    const QUIET: Duration = Duration::from_millis(500);
    let lifecycle = lifecycle.clone();
    async move {
        lifecycle.drain_began().await;
        let quiet = async {
            loop {
                let before = asked();
                tokio::time::sleep(QUIET).await;
                if asked() == before {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(timeout, quiet).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn rules() -> DrainRules {
        DrainRules { timeout: 1_000 * MS, quiet: 50 * MS, accept: 250 * MS, read_at_most: 500 * MS }
    }

    fn reading(now: Instant) -> InHand {
        InHand { reading: true, streams: false, emptied: true, last_input: now, waiting: true, idle: false }
    }

    #[test]
    fn reading_ends_when_nothing_came_for_a_while() {
        let start = Instant::now();
        let mut drain = Drain::begin(start, rules());
        assert_eq!(drain.step(start, &reading(start)), DrainStep::Wait(50 * MS));
        assert_eq!(drain.step(start + 50 * MS, &reading(start)), DrainStep::StopReading);
    }

    #[test]
    fn reading_ends_although_senders_never_fall_silent() {
        let start = Instant::now();
        let mut drain = Drain::begin(start, rules());
        let now = start + 249 * MS;
        assert_eq!(drain.step(now, &reading(now)), DrainStep::Wait(50 * MS));
        let now = start + 250 * MS;
        assert_eq!(drain.step(now, &reading(now)), DrainStep::StopReading);
        let never_empty = InHand { emptied: false, ..reading(now) };
        assert_eq!(drain.step(start + 499 * MS, &never_empty), DrainStep::Wait(50 * MS));
        assert_eq!(drain.step(start + 500 * MS, &never_empty), DrainStep::StopReading);
    }

    #[test]
    fn what_waits_for_the_store_has_half_of_the_time_and_the_rest_all_of_it() {
        let start = Instant::now();
        let mut drain = Drain::begin(start, rules());
        let ended = InHand { reading: false, ..reading(start) };
        assert_eq!(drain.step(start + 499 * MS, &ended), DrainStep::Wait(50 * MS));
        assert_eq!(drain.step(start + 500 * MS, &ended), DrainStep::Decide);
        assert_eq!(drain.step(start + 990 * MS, &ended), DrainStep::Wait(10 * MS));
        assert_eq!(drain.step(start + 1_000 * MS, &ended), DrainStep::Done);
    }

    #[test]
    fn a_worker_with_nothing_in_hand_is_done_at_once() {
        let start = Instant::now();
        let mut drain = Drain::begin(start, rules());
        let nothing = InHand { reading: false, waiting: false, idle: true, ..reading(start) };
        assert_eq!(drain.step(start, &nothing), DrainStep::Decide);
        assert_eq!(drain.step(start, &nothing), DrainStep::Done);
    }
}
