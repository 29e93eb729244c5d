//! A store that is given up costs nothing: tier 1 alone decides, at full speed, until a few probes are answered.
//!
//! Why: behind an open breaker a claim is refused at once. But to ask costs a frame its way through the queue and the caller's
//! slab, several times what it costs to decide it. So answers in a row that say "breaker open" begin a *bypass*: new ids are
//! decided at once. It stands until a claim that was asked since then is answered. Now and then a few frames are asked about
//! all the same. One of their requests may become the breaker's own probe. All other frames go past them.
//!
//! Limits: `PROBE` frames every `PAUSE` wait, for one deadline at most. Claims that do not come from new ids (takeovers,
//! fences) are asked as always, and so are records.
//!
//! Cost: a look at one field a frame.

use crate::stats::ClaimStats;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Answers in a row that say "breaker open" before claims bypass tier 2: one of several servers may be down alone.
const REFUSALS: u32 = 8;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);
/// Frames of one try: few enough to cost nothing, enough to ask every server of a Cluster that is not large.
const PROBE: u32 = 32;

/// See the module text.
pub(super) struct Bypass {
    standing: Option<Standing>,
    /// Answers in a row that said that the breaker is open.
    refusals: u32,
    stats: Arc<ClaimStats>,
}

/// A bypass that stands.
struct Standing {
    since: Instant,
    probe_at: Instant,
    /// Frames of the try that may still be asked about.
    probes: u32,
}

impl Bypass {
    pub(super) fn new(stats: Arc<ClaimStats>) -> Bypass {
        Bypass { standing: None, refusals: 0, stats }
    }

    /// Tier 1 alone decides about new ids.
    pub(super) fn stands(&self) -> bool {
        self.standing.is_some()
    }

    /// New ids come: whether they bypass tier 2. Begins a try when its time has come.
    pub(super) fn stands_at(&mut self, now: Instant) -> bool {
        let Some(bypass) = &mut self.standing else { return false };
        if bypass.probe_at <= now {
            (bypass.probe_at, bypass.probes) = (now + PAUSE, PROBE);
        }
        true
    }

    /// Whether a frame that bypasses the store is asked about all the same.
    #[inline]
    pub(super) fn takes_probe(&mut self) -> bool {
        match &mut self.standing {
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
        match &mut self.standing {
            Some(bypass) => bypass.probes = 0,
            None => {
                self.standing = Some(Standing { since: now, probe_at: now + PAUSE, probes: 0 });
                self.stats.bypass.set(1);
            }
        }
    }

    /// The store has answered a claim that was built at `built`. What was asked before the bypass began says nothing about
    /// its end.
    pub(super) fn answered(&mut self, built: Instant) {
        self.refusals = 0;
        if self.standing.as_ref().is_some_and(|bypass| bypass.since <= built) {
            self.standing = None;
            self.stats.bypass.set(0);
        }
    }
}
