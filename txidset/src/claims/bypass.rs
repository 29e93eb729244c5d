//! A store that is given up costs nothing: tier 1 alone decides, at full speed, until a few probes are answered.
//!
//! Why: behind an open breaker a claim is refused at once, but asking costs a frame its way through the queue and the
//! caller's slab, several times what deciding it costs. So answers in a row that say "breaker open" begin a *bypass*: new
//! ids are decided at once. It stands until a claim that was asked since then is answered. Now and then a few frames
//! are asked about nevertheless (one of their requests may become the breaker's own probe); all others go on past
//! them.
//!
//! Limits: `PROBE` frames every `PAUSE` wait, for one deadline at most. Claims that do not come from new ids (takeovers, fences)
//! are asked as always, and so are records.
//!
//! Cost: a look at one field a frame.

use super::{Claims, Why};
use std::time::{Duration, Instant};

/// Answers in a row that say "breaker open" before claims bypass tier 2: one of several servers may be down alone.
const REFUSALS: u32 = 8;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);
/// Frames of one try: few enough to cost nothing, enough to ask every server of a Cluster that is not large.
const PROBE: u32 = 32;

/// See the module text.
pub(super) struct Bypass {
    since: Instant,
    probe_at: Instant,
    /// Frames of the try that may still be asked about.
    probes: u32,
}

impl Claims {
    /// Why new ids do not go to tier 2, if so.
    pub(super) fn bypasses(&mut self, now: Instant) -> Option<Why> {
        if !self.config.tier2 {
            return Some(Why::Won);
        }
        let bypass = self.bypass.as_mut()?;
        if bypass.probe_at <= now {
            (bypass.probe_at, bypass.probes) = (now + PAUSE, PROBE);
        }
        Some(Why::BreakerOpen)
    }

    /// Whether a frame that bypasses the store is asked about all the same.
    #[inline]
    pub(super) fn is_probe(&mut self) -> bool {
        match &mut self.bypass {
            Some(bypass) if bypass.probes > 0 => {
                bypass.probes -= 1;
                true
            }
            _ => false,
        }
    }

    /// The breaker is open, says the answer to a claim.
    pub(super) fn refused(&mut self, now: Instant) {
        self.refusals += 1;
        if self.refusals < REFUSALS {
            return;
        }
        self.refusals = 0;
        match &mut self.bypass {
            Some(bypass) => bypass.probes = 0,
            None => {
                self.bypass = Some(Bypass { since: now, probe_at: now + PAUSE, probes: 0 });
                self.stats.bypass.set(1);
            }
        }
    }

    /// The store has answered an entry's claim. What was asked before the bypass began says nothing about its end.
    pub(super) fn answered(&mut self, index: u32) {
        self.refusals = 0;
        let built = self.entries[index as usize].built;
        if self.bypass.as_ref().is_some_and(|bypass| bypass.since <= built) {
            self.bypass = None;
            self.stats.bypass.set(0);
        }
    }
}
