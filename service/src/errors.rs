//! The table of distinct errors: each text once, with its code, how often it came, and when first and last.
//!
//! Lines that traffic can cause ([`limited!`](crate::limited)) pass here. A text is written to the log when it is new, or was
//! silent for a minute; and a place in the code writes at most [`LINES_A_MINUTE`]. What is not written is counted, and one
//! line a minute sums it up. `/status` shows the table (`errors`).
//!
//! Limit: [`ROWS`] texts; when they are used up, the one that was silent longest leaves. Cost: a lock, for at most a few
//! texts a second of a place.

use crate::codes::Code;
use crate::wall;
use serde_json::json;
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Texts that are kept.
pub const ROWS: usize = 256;
/// Lines that one place in the code writes in a minute.
pub const LINES_A_MINUTE: u32 = 10;
const MINUTE: Duration = Duration::from_secs(60);
/// Texts that the line of a minute names.
const NAMED: usize = 5;
/// Longer texts are cut in the table.
const TEXT_BYTES: usize = 512;

/// See the module text. The time is an argument.
#[derive(Debug)]
pub struct ErrorTable {
    rows: Vec<Row>,
    /// By place in the code.
    sites: HashMap<&'static str, Site>,
    /// Of texts that left, not written since the last sum.
    untold_of_others: u64,
    summed_at: Instant,
}

/// One text of one place.
#[derive(Debug)]
struct Row {
    site: &'static str,
    code: Option<Code>,
    text: String,
    count: u64,
    first_unix_ms: u64,
    last_unix_ms: u64,
    last: Instant,
    /// Not written to the log since the last sum.
    untold: u64,
}

/// Lines of one place in the minute that began then.
#[derive(Debug)]
struct Site {
    began: Instant,
    written: u32,
}

impl ErrorTable {
    /// Nothing happened.
    pub fn new(now: Instant) -> ErrorTable {
        ErrorTable { rows: Vec::new(), sites: HashMap::new(), untold_of_others: 0, summed_at: now }
    }

    /// A text came from a place in the code. `true`: the log takes it.
    pub fn seen(&mut self, now: Instant, site: &'static str, code: Option<Code>, text: &str) -> bool {
        let text = cut(text);
        let known = self.rows.iter().position(|row| row.site == site && row.text == text);
        let repeated = known
            .and_then(|at| self.rows.get(at))
            .is_some_and(|row| now.saturating_duration_since(row.last) < MINUTE);
        let written = !repeated && self.may_write(now, site);
        let at = known.unwrap_or_else(|| self.open(now, site, code, text));
        if let Some(row) = self.rows.get_mut(at) {
            row.count += 1;
            (row.last, row.last_unix_ms) = (now, wall::unix_ms(now));
            row.untold += u64::from(!written);
        }
        written
    }

    /// More lines came from the place than it may look at; they are taken for its last text.
    pub fn held_back(&mut self, site: &'static str, lines: u64) {
        let of_site = self.rows.iter_mut().filter(|row| row.site == site);
        if let Some(row) = of_site.max_by_key(|row| row.last) {
            row.count += lines;
            row.untold += lines;
        }
    }

    /// The line of the minute, if one is due and something was not written.
    pub fn sum_up(&mut self, now: Instant) -> Option<String> {
        if now.saturating_duration_since(self.summed_at) < MINUTE {
            return None;
        }
        self.summed_at = now;
        let mut untold: Vec<&mut Row> = self.rows.iter_mut().filter(|row| row.untold > 0).collect();
        untold.sort_by_key(|row| std::cmp::Reverse(row.untold));
        let more = untold.len().saturating_sub(NAMED);
        let mut line = String::new();
        for (at, row) in untold.iter_mut().enumerate() {
            let count = std::mem::take(&mut row.untold);
            if at >= NAMED {
                continue;
            }
            let comma = if at > 0 { "; " } else { "" };
            let code = row.code.map(|code| format!(" [{}]", code.name())).unwrap_or_default();
            // Writing to a string cannot fail.
            let _ = write!(line, "{comma}{count} × {}{code}", row.text);
        }
        if more > 0 {
            let _ = write!(line, "; {more} more texts, see errors in /status");
        }
        let others = std::mem::take(&mut self.untold_of_others);
        if others > 0 {
            let _ = write!(line, "; {others} × texts that are not kept");
        }
        (!line.is_empty()).then_some(line)
    }

    /// The table for `/status`, the latest first.
    pub fn json(&self) -> serde_json::Value {
        let mut rows: Vec<&Row> = self.rows.iter().collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.last));
        let row = |row: &&Row| {
            json!({
                "text": row.text,
                "code": row.code.map(Code::name),
                "count": row.count,
                "first_unix_ms": row.first_unix_ms,
                "last_unix_ms": row.last_unix_ms,
            })
        };
        rows.iter().map(row).collect()
    }

    /// The place has lines left in this minute; takes one.
    fn may_write(&mut self, now: Instant, site: &'static str) -> bool {
        let of_site = self.sites.entry(site).or_insert(Site { began: now, written: 0 });
        if now.saturating_duration_since(of_site.began) >= MINUTE {
            (of_site.began, of_site.written) = (now, 0);
        }
        of_site.written += 1;
        of_site.written <= LINES_A_MINUTE
    }

    /// A new row; returns its place.
    fn open(&mut self, now: Instant, site: &'static str, code: Option<Code>, text: &str) -> usize {
        let at = wall::unix_ms(now);
        let row = Row {
            site,
            code,
            text: text.to_owned(),
            count: 0,
            first_unix_ms: at,
            last_unix_ms: at,
            last: now,
            untold: 0,
        };
        let silent = self.rows.iter().enumerate().min_by_key(|(_, row)| row.last).map(|(at, _)| at);
        match silent.filter(|_| self.rows.len() >= ROWS) {
            Some(at) => {
                self.untold_of_others += std::mem::replace(&mut self.rows[at], row).untold;
                at
            }
            None => {
                self.rows.push(row);
                self.rows.len() - 1
            }
        }
    }
}

fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(TEXT_BYTES)).unwrap_or(text)
}

/// The table of this process.
pub fn table() -> MutexGuard<'static, ErrorTable> {
    static TABLE: LazyLock<Mutex<ErrorTable>> = LazyLock::new(|| Mutex::new(ErrorTable::new(Instant::now())));
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: &str = "consumer.rs:1";
    const SECOND: Duration = Duration::from_secs(1);

    fn refused(table: &mut ErrorTable, now: Instant) -> bool {
        table.seen(now, SITE, Some(Code::ConsumerRefused), "10.0.0.9:9100: refused")
    }

    #[test]
    fn a_consumer_that_is_absent_for_a_day_is_one_line_and_one_more_a_minute() {
        let start = Instant::now() + SECOND;
        let mut table = ErrorTable::new(start);
        let (mut lines, mut sums) = (0, Vec::new());
        // Dialled every two seconds.
        for second in 0..86_400u32 {
            let now = start + second * SECOND;
            if second % 2 == 0 {
                lines += u32::from(refused(&mut table, now));
            }
            sums.extend(table.sum_up(now));
        }
        assert_eq!((lines, sums.len()), (1, 1439));
        assert_eq!(sums[1], "30 × 10.0.0.9:9100: refused [consumer.refused]");
        let rows = table.json();
        assert_eq!((rows.as_array().unwrap().len(), &rows[0]["count"]), (1, &json!(43_200)));
        assert_eq!(rows[0]["code"], "consumer.refused");
        let (first, last) = (rows[0]["first_unix_ms"].as_u64(), rows[0]["last_unix_ms"].as_u64());
        assert_eq!(last.unwrap() - first.unwrap(), 86_398_000);
    }

    #[test]
    fn what_was_silent_for_a_minute_is_news_and_so_is_another_text() {
        let start = Instant::now();
        let mut table = ErrorTable::new(start);
        assert!(refused(&mut table, start));
        assert!(!refused(&mut table, start + SECOND));
        assert!(table.seen(start + SECOND, SITE, None, "10.0.0.9:9100: timed out"));
        assert!(refused(&mut table, start + 61 * SECOND));
        assert_eq!(table.json().as_array().unwrap().len(), 2);
    }

    #[test]
    fn texts_that_all_differ_do_not_flood_the_log_and_the_table_is_bounded() {
        let start = Instant::now();
        let mut table = ErrorTable::new(start);
        let text = |n: u32| (start + n * Duration::from_millis(1), format!("flow {n}"));
        let lines = (0..1_000).map(text).filter(|(at, text)| table.seen(*at, SITE, None, text)).count();
        assert_eq!(lines, LINES_A_MINUTE as usize);
        table.held_back(SITE, 500);
        assert_eq!(table.json().as_array().unwrap().len(), ROWS);
        let sum = table.sum_up(start + MINUTE).unwrap();
        // Of the 744 that left, ten were written.
        let (told, rest) = ("501 × flow 999; 1 × flow ", "; 734 × texts that are not kept");
        assert!(sum.starts_with(told) && sum.contains("; 251 more texts") && sum.ends_with(rest), "{sum}");
        assert_eq!(table.sum_up(start + 2 * MINUTE), None, "nothing since");
    }
}
