//! Bounds and times of a tracker.

use std::time::Duration;

/// See the module text.
#[derive(Clone, Debug)]
pub struct TrackLimits {
    /// Flows at once.
    pub max_flows: usize,
    /// Ranges of missing numbers at once, over all flows.
    pub max_gaps: usize,
    /// Longest run of missing numbers that is requested; what lies before it is counted as lost.
    pub max_jump: u64,
    /// A flow first seen later than this after the start owes its numbers from 1 on.
    pub settle: Duration,
    /// A flow first seen at or below this number owes its numbers from 1 on at any time.
    pub small_head: u64,
    /// So many numbers from before its first sight are owed by a flow that is older than this process and of which no
    /// position was kept (`Tracker::resume`): what a process that died had claimed and not delivered comes back that way.
    pub catch_up: u64,
    /// A flow without traffic and gaps for this long is forgotten.
    pub idle: Duration,
    /// Wait before a gap that frames revealed is requested.
    pub reorder_delay: Duration,
    /// So many later frames end that wait; 0 = only the delay does.
    pub reorder_frames: u64,
    /// Wait before a gap that a digest revealed is requested: a digest may overtake frames that wait in another queue.
    pub digest_delay: Duration,
    /// How long a gap is repaired; `None` = by class.
    pub gap_ttl: Option<Duration>,
}

impl Default for TrackLimits {
    fn default() -> TrackLimits {
        TrackLimits {
            max_flows: 100_000,
            max_gaps: 500_000,
            // Five seconds of 50,000 frames/s: a pause of the process or a dead link in the order of seconds is repaired
            // in full, with 1,024 range requests; endpoints hold 60 s.
            max_jump: 1 << 18,
            settle: Duration::from_secs(2),
            small_head: 64,
            catch_up: 0,
            idle: Duration::from_secs(600),
            reorder_delay: Duration::from_millis(3),
            reorder_frames: 3,
            digest_delay: Duration::from_millis(10),
            gap_ttl: None,
        }
    }
}
