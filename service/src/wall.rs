//! The wall clock as it was at the start of the process, and the steady clock since: times that are shown do not jump.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// `at` in ms since 1970.
pub(crate) fn unix_ms(at: Instant) -> u64 {
    static START: LazyLock<(Instant, Duration)> =
        LazyLock::new(|| (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()));
    let (began, wall) = *START;
    let since = wall.saturating_add(at.saturating_duration_since(began));
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
