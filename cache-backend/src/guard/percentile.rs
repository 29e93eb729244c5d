//! The p99 of the last seconds.

use super::stats::micros;
use std::time::{Duration, Instant};

/// Until so many batches were seen nothing is said.
const WARM: u32 = 32;
/// The p99 is of the last one to two of these.
const WINDOW: Duration = Duration::from_secs(1);

/// A running p99 over the last one to two windows, in steps of a quarter of an octave.
#[derive(Debug)]
pub(super) struct Percentile {
    halves: [[u32; Percentile::STEPS]; 2],
    counts: [u32; 2],
    rotated: Option<Instant>,
}

impl Default for Percentile {
    fn default() -> Percentile {
        Percentile { halves: [[0; Percentile::STEPS]; 2], counts: [0; 2], rotated: None }
    }
}

impl Percentile {
    const STEPS: usize = 112;

    /// The p99 where it was computed anew (every 16 observations) and enough was seen.
    pub(super) fn observe(&mut self, now: Instant, latency: Duration) -> Option<Duration> {
        let rotated = *self.rotated.get_or_insert(now);
        if now.saturating_duration_since(rotated) >= WINDOW && self.counts[0] >= WARM {
            self.halves.swap(0, 1);
            self.counts.swap(0, 1);
            self.halves[0] = [0; Percentile::STEPS];
            self.counts[0] = 0;
            self.rotated = Some(now);
        }
        self.halves[0][Percentile::step(micros(latency))] += 1;
        self.counts[0] += 1;
        let total = self.counts[0] + self.counts[1];
        (total >= WARM && self.counts[0].is_multiple_of(16)).then(|| self.p99(total))
    }

    fn p99(&self, total: u32) -> Duration {
        let mut above = total / 100;
        for step in (0..Percentile::STEPS).rev() {
            let here = self.halves[0][step] + self.halves[1][step];
            if here > above {
                return Duration::from_micros(Percentile::edge(step));
            }
            above -= here;
        }
        Duration::ZERO
    }

    fn step(us: u64) -> usize {
        let us = us.max(4);
        let octave = us.ilog2();
        let quarter = (us >> (octave - 2)) & 3;
        ((octave as usize - 2) * 4 + quarter as usize).min(Percentile::STEPS - 1)
    }

    /// Upper edge of a step.
    fn edge(step: usize) -> u64 {
        (5 + (step as u64 & 3)) << (step / 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_lies_below_the_edge_of_its_step_and_not_far() {
        for us in (1..100_000).chain([1 << 24, (1 << 24) + 1]) {
            assert!(Percentile::edge(Percentile::step(us)) > us);
            assert!(us < 4 || Percentile::edge(Percentile::step(us)) <= us + us / 4 + 1);
        }
    }
}
