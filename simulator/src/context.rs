//! What all parts of a world share while it runs: virtual time, what will happen, random numbers, and the first promise that
//! was broken. One per world; the parts get it as an argument and keep nothing of it.

use crate::random::Random;
use crate::timeline::{Scheduled, Timeline};
use std::time::{Duration, Instant};

/// See the module text. `E`: what can happen in this kind of world.
pub(crate) struct Context<E> {
    /// Microseconds since the world began.
    pub(crate) now: u64,
    pub(crate) timeline: Timeline<E>,
    pub(crate) random: Random,
    base: Instant,
    trace: bool,
    violation: Option<String>,
}

impl<E> Context<E> {
    pub(crate) fn new(random: Random, trace: bool) -> Context<E> {
        Context { now: 0, timeline: Timeline::new(), random, base: Instant::now(), trace, violation: None }
    }

    /// The next event; its time is now.
    pub(crate) fn advance(&mut self) -> Option<Scheduled<E>> {
        let next = self.timeline.pop()?;
        self.now = next.at;
        Some(next)
    }

    /// When the world began, as the product counts time.
    pub(crate) fn base(&self) -> Instant {
        self.base
    }

    /// Now, as the product counts time.
    pub(crate) fn instant(&self) -> Instant {
        self.base + Duration::from_micros(self.now)
    }

    /// Virtual time of an instant, rounded up: nothing comes before it is due.
    pub(crate) fn micros(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.base).as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX)
    }

    /// Notes a broken promise; only the first counts.
    pub(crate) fn violation(&mut self, what: &str) {
        self.violation.get_or_insert_with(|| format!("{what} (at {:.3} ms)", self.now as f64 / 1000.0));
    }

    /// The first promise that was broken, if any was.
    pub(crate) fn verdict(&mut self) -> Result<(), String> {
        self.violation.take().map_or(Ok(()), Err)
    }

    /// Prints what happens, where that was asked for.
    pub(crate) fn trace(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>9.3} ms  {}", self.now as f64 / 1000.0, what());
        }
    }
}
