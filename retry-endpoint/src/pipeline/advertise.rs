//! When to say where we are, and what: the ADVERT schedule (wire 1.14, 7), and how much is said about flows that fell silent.
//!
//! Why: a listener can ask nobody before it received an ADVERT. One ADVERT can be lost, and a listener that is started again has
//! frames to ask for at once. So an endpoint repeats its ADVERT every second, the first four within a second.
//!
//! The interval written into the datagram stays the configured one. Listeners keep the entry for three intervals, so it outlives
//! any plausible run of losses. A last ADVERT with the Draining bit says goodbye.
//!
//! Cost: one datagram of 56 bytes a second.

use frame::Advert;
use std::time::{Duration, Instant};

/// Flows that fell silent (`store`) are announced by digests so often.
pub const ANNOUNCE_EVERY: Duration = Duration::from_millis(100);
/// Flows of one digest, as of a proxy's: 1,366 bytes.
pub const FLOWS_OF_A_DIGEST: usize = 27;
/// Digests of a worker each time: 27 KB a second at most. What finds no place waits.
pub const DIGESTS_AT_ONCE: usize = 2;

/// Decides when the next ADVERT leaves.
#[derive(Clone, Debug)]
pub struct Schedule {
    started: Instant,
    next: Instant,
    settled: Duration,
}

impl Schedule {
    /// Longest pause between two ADVERTs.
    pub const SETTLED: Duration = Duration::from_secs(1);

    /// Begins at `now` with the first ADVERT due. `interval` is the configured one; shorter than ours, it wins.
    pub fn new(interval: Duration, now: Instant) -> Schedule {
        Schedule { started: now, next: now, settled: interval.min(Schedule::SETTLED) }
    }

    /// When the next one is due.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// True if an ADVERT is due at `now`; the next one is then planned.
    pub fn due(&mut self, now: Instant) -> bool {
        if now < self.next {
            return false;
        }
        let age = now.saturating_duration_since(self.started);
        let young = age < Duration::from_millis(900);
        let pause = if young { Duration::from_millis(300) } else { self.settled };
        self.next = now + pause;
        true
    }
}

/// What an endpoint says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdvertContent {
    /// The ADVERT without its state.
    pub advert: Advert,
}

impl AdvertContent {
    /// The ADVERT to send now.
    pub fn advert(&self, draining: bool) -> Advert {
        let mut advert = self.advert;
        if draining {
            advert.flags |= Advert::DRAINING;
        }
        advert
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_repeats_itself_so_that_no_single_loss_hides_it() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Duration::from_secs(60), start);
        let mut sent = Vec::new();
        for step in 0..12_000 {
            let now = start + Duration::from_millis(step * 10);
            if schedule.due(now) {
                sent.push(now - start);
            }
        }
        assert_eq!(sent[0], Duration::ZERO);
        assert_eq!(sent.iter().filter(|at| **at < Duration::from_secs(1)).count(), 4);
        let late: Vec<_> = sent.iter().filter(|at| **at > Duration::from_secs(1)).collect();
        assert!(late.windows(2).all(|pair| *pair[1] - *pair[0] == Schedule::SETTLED), "{late:?}");
    }

    #[test]
    fn the_pause_is_never_longer_than_the_interval() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Duration::from_millis(500), start);
        assert!(schedule.due(start + Duration::from_secs(100)));
        assert_eq!(schedule.next(), start + Duration::from_millis(100_500));
    }
}
