//! Log lines limited per call site: a flood of bad packets must not become a flood of lines.
//!
//! [`limited!`](crate::limited) passes at most N lines per second from its place in the code; what was held back is
//! reported as one line when the next second begins, or by [`report_suppressed`], which the service calls every second.
//! Cost of a line held back: one clock read and two atomic operations. The line's arguments are not evaluated.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Instant;

/// Milliseconds since the first use of any limit.
fn now_ms() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// State of one call site; lives in a `static` that [`limited!`](crate::limited) makes.
#[derive(Debug)]
pub struct Limit {
    per_second: u32,
    site: &'static str,
    /// Start of the current second, in ms.
    window: AtomicU64,
    passed: AtomicU64,
    suppressed: AtomicU64,
    listed: AtomicBool,
}

/// Leave to write a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// Lines of the same place held back since the last report.
    pub suppressed: u64,
}

/// Sites that held lines back and have not reported it yet.
static HELD: Mutex<Vec<&'static Limit>> = Mutex::new(Vec::new());

impl Limit {
    /// At most `per_second` lines a second from `site` (file and line).
    pub const fn per_second(per_second: u32, site: &'static str) -> Limit {
        Limit {
            per_second,
            site,
            window: AtomicU64::new(0),
            passed: AtomicU64::new(0),
            suppressed: AtomicU64::new(0),
            listed: AtomicBool::new(false),
        }
    }

    /// Leave for one line now, or `None`. Threads that race at the turn of a second may pass a few lines more.
    pub fn pass(&'static self) -> Option<Pass> {
        self.pass_at(now_ms())
    }

    fn pass_at(&'static self, now: u64) -> Option<Pass> {
        let window = self.window.load(Ordering::Relaxed);
        let turned = now.saturating_sub(window) >= 1000
            && self.window.compare_exchange(window, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if turned {
            self.passed.store(0, Ordering::Relaxed);
        }
        if self.passed.fetch_add(1, Ordering::Relaxed) < u64::from(self.per_second) {
            return Some(Pass { suppressed: self.take_suppressed() });
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        if !self.listed.swap(true, Ordering::Relaxed) {
            HELD.lock().unwrap_or_else(PoisonError::into_inner).push(self);
        }
        None
    }

    fn take_suppressed(&self) -> u64 {
        let suppressed = self.suppressed.swap(0, Ordering::Relaxed);
        if suppressed > 0 {
            ::metrics::counter!("oncecast_log_suppressed_total", "site" => self.site).increment(suppressed);
        }
        suppressed
    }
}

/// Writes one summary line per site that held lines back. Called about once a second.
pub fn report_suppressed() {
    let held = std::mem::take(&mut *HELD.lock().unwrap_or_else(PoisonError::into_inner));
    for limit in held {
        limit.listed.store(false, Ordering::Relaxed);
        let suppressed = limit.take_suppressed();
        if suppressed > 0 {
            tracing::warn!("suppressed {suppressed} more lines from {}", limit.site);
        }
    }
}

/// `limited!(warn, 5, "text {}", x)`: at most 5 such lines a second from here; fields and format as in `tracing`.
#[macro_export]
macro_rules! limited {
    ($level:ident, $per_second:expr, $($line:tt)+) => {{
        static SITE: $crate::limit::Limit =
            $crate::limit::Limit::per_second($per_second, concat!(file!(), ":", line!()));
        if let Some(pass) = SITE.pass() {
            if pass.suppressed > 0 {
                $crate::tracing::$level!("suppressed {} lines like the next", pass.suppressed);
            }
            $crate::tracing::$level!($($line)+);
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_passes_its_share_each_second_and_says_how_much_it_held_back() {
        static SITE: Limit = Limit::per_second(2, "here");
        let at = |ms| SITE.pass_at(ms);
        assert_eq!(at(5_000), Some(Pass { suppressed: 0 }));
        assert_eq!(at(5_001), Some(Pass { suppressed: 0 }));
        assert_eq!(at(5_002), None);
        assert_eq!(at(5_999), None);
        assert_eq!(at(6_000), Some(Pass { suppressed: 2 }));
        assert_eq!(at(6_001), Some(Pass { suppressed: 0 }));
        assert_eq!(at(6_002), None);
    }
}
