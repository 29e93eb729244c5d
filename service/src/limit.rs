//! Log lines limited per call site: a flood of bad packets must not become a flood of lines.
//!
//! [`limited!`](crate::limited) looks at no more than N lines a second from its place in the code; the rest is only counted.
//! The table of distinct errors ([`crate::errors`]) says which of those are written, and sums up the others.
//! Cost of a line that is only counted: one clock read and two atomic operations. The line's arguments are not evaluated.

use crate::codes::Code;
use crate::errors;
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
    held_back: AtomicU64,
    listed: AtomicBool,
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
            held_back: AtomicU64::new(0),
            listed: AtomicBool::new(false),
        }
    }

    /// Whether one more line may be looked at now. Threads that race at the turn of a second may pass a few lines more.
    pub fn pass(&'static self) -> bool {
        self.pass_at(now_ms())
    }

    /// Whether the log takes this text.
    pub fn takes(&self, code: Option<Code>, text: &str) -> bool {
        let taken = errors::table().seen(Instant::now(), self.site, code, text);
        if !taken {
            self.count_suppressed(1);
        }
        taken
    }

    fn pass_at(&'static self, now: u64) -> bool {
        let window = self.window.load(Ordering::Relaxed);
        let turned = now.saturating_sub(window) >= 1000
            && self.window.compare_exchange(window, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if turned {
            self.passed.store(0, Ordering::Relaxed);
        }
        if self.passed.fetch_add(1, Ordering::Relaxed) < u64::from(self.per_second) {
            return true;
        }
        self.held_back.fetch_add(1, Ordering::Relaxed);
        if !self.listed.swap(true, Ordering::Relaxed) {
            HELD.lock().unwrap_or_else(PoisonError::into_inner).push(self);
        }
        false
    }

    fn take_held_back(&self) -> u64 {
        self.held_back.swap(0, Ordering::Relaxed)
    }

    fn count_suppressed(&self, lines: u64) {
        ::metrics::counter!("oncecast_log_suppressed_total", "site" => self.site).increment(lines);
    }
}

/// Enters what was only counted into the table of errors, and writes the line of the minute when it is due. Called about
/// once a second.
pub fn sum_up() {
    let held = std::mem::take(&mut *HELD.lock().unwrap_or_else(PoisonError::into_inner));
    for limit in held {
        limit.listed.store(false, Ordering::Relaxed);
        let lines = limit.take_held_back();
        if lines > 0 {
            limit.count_suppressed(lines);
            errors::table().held_back(limit.site, lines);
        }
    }
    let line = errors::table().sum_up(Instant::now());
    if let Some(line) = line {
        tracing::warn!("repeated in the last minute: {line}");
    }
}

/// `limited!(warn, 5, "text {}", x)`: looks at no more than 5 such lines a second from here, and writes those that are news.
/// `limited!(warn, 5, code = Code::Losing, "text {}", x)`: the same about a trouble.
#[macro_export]
macro_rules! limited {
    ($level:ident, $per_second:expr, code = $code:expr, $($line:tt)+) => {{
        let code: $crate::Code = $code;
        $crate::limited!(@text text, Some(code), $per_second, [$($line)+] => {
            $crate::tracing::$level!(code = code.name(), "{text}");
        });
    }};
    ($level:ident, $per_second:expr, $($line:tt)+) => {{
        $crate::limited!(@text text, None, $per_second, [$($line)+] => {
            $crate::tracing::$level!("{text}");
        });
    }};
    (@text $text:ident, $code:expr, $per_second:expr, [$($line:tt)+] => { $($write:tt)+ }) => {
        static SITE: $crate::limit::Limit =
            $crate::limit::Limit::per_second($per_second, concat!(file!(), ":", line!()));
        if SITE.pass() {
            let $text = format!($($line)+);
            if SITE.takes($code, &$text) {
                $($write)+
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_passes_its_share_each_second_and_counts_what_it_held_back() {
        static SITE: Limit = Limit::per_second(2, "here");
        let passed = [5_000, 5_001, 5_002, 5_999].map(|ms| SITE.pass_at(ms));
        assert_eq!((passed, SITE.take_held_back()), ([true, true, false, false], 2));
        let passed = [6_000, 6_001, 6_002].map(|ms| SITE.pass_at(ms));
        assert_eq!((passed, SITE.take_held_back()), ([true, true, false], 1));
    }

    #[test]
    fn a_line_with_a_code_and_one_without_are_rows_of_the_table() {
        for _ in 0..3 {
            crate::limited!(warn, 5, code = Code::Losing, "lost {}", 1);
            crate::limited!(warn, 5, "odd {}", 2);
        }
        let rows = errors::table().json();
        let find =
            |text: &str| rows.as_array().unwrap().iter().find(|row| row["text"] == text).unwrap().clone();
        assert_eq!((&find("lost 1")["count"], &find("lost 1")["code"]), (&3.into(), &"node.losing".into()));
        assert_eq!((&find("odd 2")["count"], find("odd 2")["code"].is_null()), (&3.into(), true));
    }
}
