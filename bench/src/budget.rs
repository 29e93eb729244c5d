//! The time of a whole run, dealt out to its measurements, so that it ends when it should on any machine.
//!
//! Each measurement asks for rounds under its name, a least and a most. It gets more than the least while its share of what
//! is left lasts; a round that would not end in time is not begun. On a machine with cores enough all get all their rounds.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// What is measured round by round, and seconds that its rounds take on a machine with four cores.
const SHARES: [(&str, f64); 12] = [
    ("sets", 20.0),
    ("saturated", 80.0),
    ("ingest", 75.0),
    ("latency", 45.0),
    ("workers", 35.0),
    ("redis_claims", 18.0),
    ("redis_pipeline", 9.0),
    ("redis_latency", 18.0),
    ("redis_stopped", 30.0),
    ("settled", 30.0),
    ("settled_memory", 20.0),
    ("takeover", 8.0),
];

/// See the module text.
pub struct Budget {
    end: Instant,
    /// Not begun yet.
    left: RefCell<Vec<(&'static str, f64)>>,
}

impl Budget {
    /// Time from now on, for the measurements that `wanted` names.
    pub fn new(time: Duration, wanted: impl Fn(&str) -> bool) -> Budget {
        let left = SHARES.into_iter().filter(|(name, _)| wanted(name)).collect();
        Budget { end: Instant::now() + time, left: RefCell::new(left) }
    }

    /// Rounds of a measurement.
    pub fn rounds(&self, name: &str, count: RangeInclusive<usize>) -> Rounds {
        let now = Instant::now();
        let mut left = self.left.borrow_mut();
        let all: f64 = left.iter().map(|(_, share)| share).sum();
        let mine: f64 = left.iter().filter(|(other, _)| *other == name).map(|(_, share)| share).sum();
        left.retain(|(other, _)| *other != name);
        let share = if all > 0.0 { mine / all } else { 0.0 };
        let until = now + self.end.saturating_duration_since(now).mul_f64(share);
        Rounds { count, done: 0, until, began: None, longest: Duration::ZERO }
    }
}

/// An iterator over the rounds of a measurement.
pub struct Rounds {
    count: RangeInclusive<usize>,
    done: usize,
    until: Instant,
    began: Option<Instant>,
    longest: Duration,
}

impl Iterator for Rounds {
    type Item = ();

    fn next(&mut self) -> Option<()> {
        let now = Instant::now();
        if let Some(began) = self.began {
            self.longest = self.longest.max(now.duration_since(began));
        }
        let late = self.done >= *self.count.start() && now + self.longest > self.until;
        if self.done == *self.count.end() || late {
            return None;
        }
        self.done += 1;
        self.began = Some(now);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_time_there_are_the_least_rounds_and_with_time_the_most() {
        let none = Budget::new(Duration::ZERO, |_| true);
        assert_eq!(none.rounds("sets", 2..=5).count(), 2);
        let much = Budget::new(Duration::from_secs(3600), |name| name != "sets");
        assert_eq!(much.rounds("ingest", 1..=5).count(), 5);
    }

    #[test]
    fn a_measurement_gets_its_share_of_what_is_left() {
        let budget = Budget::new(Duration::from_secs(100), |name| ["sets", "saturated"].contains(&name));
        let share = |rounds: &Rounds| rounds.until.duration_since(Instant::now()).as_secs_f64().round();
        assert_eq!(share(&budget.rounds("sets", 1..=1)), 20.0);
        assert_eq!(share(&budget.rounds("saturated", 1..=1)), 100.0);
    }
}
