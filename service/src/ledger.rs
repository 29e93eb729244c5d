//! The ledger of losses: no frame is lost without a counter, a row in `/status`, a line in the log, and a reason.
//!
//! A [`Ledger`] has the counters of one closed list of reasons. They cannot be reached from outside: what counts goes through
//! [`Ledger::lose`] or [`Ledger::keep`], and both write the row of a reason that loses. So no code can count a loss and leave
//! the rest out.
//!
//! A table of counters with a cell for each reason does not compile where one of them loses:
//!
//! ```compile_fail
//! service::reasons! {
//!     /// Why.
//!     pub enum Why {
//!         /// Too late.
//!         loses Late = "late",
//!     }
//! }
//! service::counters! {
//!     /// Not through a ledger.
//!     #[derive(Default)]
//!     pub struct Tally {
//!         lost: [u64; Why::ALL] => counter("t_lost_total", ["why"], "Frames lost.");
//!     }
//! }
//! ```
//!
//! The worker only writes its own cells. Whoever reads makes the rest of it: `/status` shows the rows
//! (`losses`), and once a second [`LossWatch`] compares the counts, writes a line for each reason that grew (at once, then
//! at most once a minute), and keeps the condition `losses` (`node.losing`) for as long as it goes on.
//!
//! Limits: one writer for a ledger; one row for a reason, which names the last loss. Cost: a frame that is kept is one load
//! and one store; a loss a few more. No lock, no allocation.

use crate::codes::Code;
use crate::lifecycle::Condition;
pub use crate::losses::{Loss, LossRow, LossSource};
use crate::metrics::{Counter, Gauge, Registry, Series};
use crate::reasons::Reason;
use crate::wall;
use serde_json::json;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

/// A loss is *going on* for so long after it was last seen.
const GOES_ON: Duration = Duration::from_secs(3);
/// Lines about one reason that goes on are at least so far apart.
const LINE_EVERY: Duration = Duration::from_secs(60);

/// The counters of one list of reasons. One writer, any number of readers. A clone is a copy of the numbers.
pub struct Ledger<R: Reason> {
    counts: R::Array<Counter>,
    rows: R::Array<Row>,
}

/// What is known about a reason's losses. `version` is odd while a writer is at the last loss.
#[derive(Debug, Default)]
struct Row {
    bytes: Counter,
    first_at: Gauge,
    last_at: Gauge,
    version: AtomicU64,
    flow: Gauge,
    first: Gauge,
    last: Gauge,
}

impl<R: Reason> Default for Ledger<R> {
    fn default() -> Ledger<R> {
        Ledger { counts: R::array(|_| Counter::default()), rows: R::array(|_| Row::default()) }
    }
}

impl<R: Reason> Clone for Ledger<R> {
    fn clone(&self) -> Ledger<R> {
        let copy: Ledger<R> = Ledger::default();
        for (mine, theirs) in copy.counts.as_ref().iter().zip(self.counts.as_ref()) {
            mine.add(theirs.get());
        }
        for (mine, theirs) in copy.rows.as_ref().iter().zip(self.rows.as_ref()) {
            mine.bytes.add(theirs.bytes.get());
            mine.first_at.set(theirs.first_at.get());
            mine.last_at.set(theirs.last_at.get());
            let last = theirs.last_loss();
            mine.flow.set(last.flow);
            mine.first.set(last.first);
            mine.last.set(last.last);
        }
        copy
    }
}

impl<R: Reason> fmt::Debug for Ledger<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(R::LIST.iter().map(|reason| (reason.label(), self.count(*reason)))).finish()
    }
}

impl<R: Reason> Ledger<R> {
    /// Frames are lost.
    pub fn lose(&self, reason: R, lost: Loss) {
        let (Some(count), Some(row)) =
            (self.counts.as_ref().get(reason.place()), self.rows.as_ref().get(reason.place()))
        else {
            return;
        };
        if lost.frames == 0 {
            return;
        }
        row.note(&lost);
        count.add(lost.frames);
    }

    /// Something went no further, and nothing is lost by it. A reason that loses is a loss here too.
    pub fn keep(&self, reason: R, n: u64) {
        if reason.loses() {
            return self.lose(reason, Loss::frames(n));
        }
        if let Some(count) = self.counts.as_ref().get(reason.place()) {
            count.add(n);
        }
    }

    /// How often a reason was counted.
    pub fn count(&self, reason: R) -> u64 {
        self.counts.as_ref().get(reason.place()).map_or(0, Counter::get)
    }

    /// Frames lost for whatever reason.
    pub fn lost(&self) -> u64 {
        self.sum(R::loses)
    }

    /// What went no further without being lost.
    pub fn kept(&self) -> u64 {
        self.sum(|reason| !reason.loses())
    }

    /// All that was counted.
    pub fn total(&self) -> u64 {
        self.sum(|_| true)
    }

    fn sum(&self, which: impl Fn(R) -> bool) -> u64 {
        let those = R::LIST.iter().filter(|reason| which(**reason));
        those.fold(0, |sum, reason| sum.saturating_add(self.count(*reason)))
    }

    /// Shows the counters: one series for a reason, whose label is the last one that the collector does not know.
    pub fn put(&self, series: &mut Series<'_, '_>) {
        for reason in R::LIST {
            series.put(&[reason.label()], self.count(*reason));
        }
    }
}

impl<R: Reason> LossSource for Ledger<R>
where
    R::Array<Counter>: Send + Sync,
    R::Array<Row>: Send + Sync,
{
    fn losses(&self, rows: &mut Vec<LossRow>) {
        let losing = R::LIST.iter().filter(|reason| reason.loses() && self.count(**reason) > 0);
        rows.extend(losing.filter_map(|reason| {
            let row = self.rows.as_ref().get(reason.place())?;
            let lost = Loss { frames: self.count(*reason), bytes: row.bytes.get(), ..row.last_loss() };
            let (first_unix_ms, last_unix_ms) = (row.first_at.get(), row.last_at.get());
            Some(LossRow { reason: reason.label(), lost, first_unix_ms, last_unix_ms })
        }));
    }
}

impl Row {
    fn note(&self, lost: &Loss) {
        let now = wall::unix_ms(Instant::now());
        if self.first_at.get() == 0 {
            self.first_at.set(now);
        }
        self.last_at.set(now);
        self.bytes.add(lost.bytes);
        if lost.flow == 0 {
            return;
        }
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.flow.set(lost.flow);
        self.first.set(lost.first);
        self.last.set(lost.last);
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// Flow and numbers of the last loss; none while it is being written.
    fn last_loss(&self) -> Loss {
        let before = self.version.load(Ordering::Acquire);
        let (flow, first, last) = (self.flow.get(), self.first.get(), self.last.get());
        fence(Ordering::Acquire);
        let whole = before.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == before;
        if whole { Loss { flow, first, last, ..Loss::default() } } else { Loss::default() }
    }
}

/// The rows of several sources, those of one reason summed.
pub fn fold(rows: Vec<LossRow>) -> Vec<LossRow> {
    let mut folded: Vec<LossRow> = Vec::new();
    for row in rows {
        let Some(sum) = folded.iter_mut().find(|sum| sum.reason == row.reason) else {
            folded.push(row);
            continue;
        };
        let (frames, bytes) =
            (sum.lost.frames.saturating_add(row.lost.frames), sum.lost.bytes.saturating_add(row.lost.bytes));
        sum.first_unix_ms = sum.first_unix_ms.min(row.first_unix_ms);
        if row.last_unix_ms >= sum.last_unix_ms {
            (sum.lost, sum.last_unix_ms) = (row.lost, row.last_unix_ms);
        }
        (sum.lost.frames, sum.lost.bytes) = (frames, bytes);
    }
    folded
}

/// The rows for `/status`.
pub fn rows_json(rows: &[LossRow]) -> serde_json::Value {
    let row = |row: &LossRow| {
        let (flow, numbered) = (row.lost.flow != 0, row.lost.first != 0);
        json!({
            "reason": row.reason,
            "frames": row.lost.frames,
            "bytes": row.lost.bytes,
            "first_unix_ms": row.first_unix_ms,
            "last_unix_ms": row.last_unix_ms,
            "last_flow": flow.then(|| format!("{:016x}", row.lost.flow)),
            "last_numbers": numbered.then_some([row.lost.first, row.lost.last]),
        })
    };
    rows.iter().map(row).collect()
}

/// Looks once a second at what was lost: see the module text.
#[derive(Debug)]
pub struct LossWatch {
    condition: Condition,
    seen: HashMap<&'static str, Seen>,
}

/// What is known about a reason since the start.
#[derive(Debug)]
struct Seen {
    /// At the last look.
    lost: Loss,
    /// Since the last line.
    untold: Loss,
    grew_at: Instant,
    told_at: Option<Instant>,
}

impl LossWatch {
    /// `condition`: says *losing* while it goes on.
    pub fn new(condition: Condition) -> LossWatch {
        condition.met("nothing is lost");
        LossWatch { condition, seen: HashMap::new() }
    }

    /// Looks, and writes lines.
    pub fn look(&mut self, now: Instant, registry: &Registry) {
        for line in self.lines(now, fold(registry.losses())) {
            tracing::warn!(code = Code::Losing.name(), reason = line.reason, "lost: {line}");
        }
    }

    /// The lines that are due.
    fn lines(&mut self, now: Instant, rows: Vec<LossRow>) -> Vec<LossRow> {
        let mut lines = Vec::new();
        for row in rows {
            let seen = self.seen.entry(row.reason).or_insert_with(|| Seen {
                lost: Loss::default(),
                untold: Loss::default(),
                grew_at: now,
                told_at: None,
            });
            if row.lost.frames > seen.lost.frames {
                seen.untold.frames += row.lost.frames - seen.lost.frames;
                seen.untold.bytes += row.lost.bytes.saturating_sub(seen.lost.bytes);
                (seen.lost, seen.grew_at) = (row.lost, now);
            }
            let told_lately =
                seen.told_at.is_some_and(|told| now.saturating_duration_since(told) < LINE_EVERY);
            if seen.untold.frames > 0 && !told_lately {
                let Loss { frames, bytes, .. } = std::mem::take(&mut seen.untold);
                lines.push(LossRow { lost: Loss { frames, bytes, ..row.lost }, ..row });
                seen.told_at = Some(now);
            }
        }
        let going_on = |seen: &Seen| now.saturating_duration_since(seen.grew_at) < GOES_ON;
        let mut going_on: Vec<String> = self
            .seen
            .iter()
            .filter(|(_, seen)| going_on(seen))
            .map(|(reason, seen)| format!("{reason}: {} frames since the start", seen.lost.frames))
            .collect();
        going_on.sort_unstable();
        match going_on.as_slice() {
            [] => self.condition.met("nothing is lost"),
            some => self.condition.fails(Code::Losing, &some.join("; ")),
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Lifecycle;
    use std::sync::Arc;

    crate::reasons! {
        /// Why.
        enum Why {
            /// Nothing is lost.
            keeps Seen = "seen",
            /// A frame is.
            loses Refused = "refused",
            /// Another is.
            loses Late = "late",
        }
    }

    fn rows(ledger: &Ledger<Why>) -> Vec<LossRow> {
        let mut rows = Vec::new();
        ledger.losses(&mut rows);
        rows
    }

    #[test]
    fn a_loss_has_a_counter_and_a_row_that_names_it() {
        let ledger = Ledger::default();
        ledger.keep(Why::Seen, 3);
        ledger.lose(Why::Refused, Loss::numbers(0xAB, 1, 4).with_bytes(400));
        ledger.lose(Why::Refused, Loss::numbers(0xAB, 7, 7).with_bytes(100));
        assert_eq!((ledger.count(Why::Seen), ledger.count(Why::Refused)), (3, 5));
        assert_eq!((ledger.lost(), ledger.kept(), ledger.total()), (5, 3, 8));
        let shown = rows(&ledger);
        let lost = Loss { frames: 5, bytes: 500, flow: 0xAB, first: 7, last: 7 };
        assert_eq!((shown.len(), shown[0].reason, shown[0].lost), (1, "refused", lost));
        assert!(shown[0].first_unix_ms > 0 && shown[0].first_unix_ms <= shown[0].last_unix_ms);
        assert_eq!(rows(&ledger.clone()), shown, "a clone is a copy");
        assert_eq!(
            shown[0].to_string(),
            "refused: 5 frames, 500 bytes; the last of flow 00000000000000ab, numbers 7 to 7"
        );
    }

    #[test]
    fn no_way_of_counting_leaves_the_row_of_a_loss_out() {
        let ledger = Ledger::default();
        ledger.keep(Why::Refused, 2);
        assert_eq!(rows(&ledger)[0].lost, Loss::frames(2));
    }

    #[test]
    fn the_rows_of_all_workers_are_one_for_each_reason() {
        let (one, other) = (Ledger::default(), Ledger::default());
        one.lose(Why::Refused, Loss::numbers(1, 1, 2));
        other.lose(Why::Refused, Loss::numbers(2, 5, 5));
        other.lose(Why::Late, Loss::frames(1));
        let folded = fold([rows(&one), rows(&other)].concat());
        let brief: Vec<_> = folded.iter().map(|row| (row.reason, row.lost.frames)).collect();
        assert_eq!(brief, [("refused", 3), ("late", 1)]);
        assert_eq!(rows_json(&folded)[1]["last_flow"], serde_json::Value::Null);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_lost_is_told_at_once_then_once_a_minute_and_is_a_reason_while_it_goes_on() {
        let (lifecycle, registry) = (Lifecycle::new("proxy"), Registry::default());
        let mut watch = LossWatch::new(lifecycle.condition("losses"));
        let ledger = Arc::new(Ledger::default());
        registry.add_ledger(ledger.clone());
        let (mut told, mut reasons) = (Vec::new(), 0);
        for second in 0..130 {
            if second < 100 {
                ledger.lose(Why::Refused, Loss::frames(2));
            }
            let now = tokio::time::Instant::now().into_std();
            let lines = watch.lines(now, fold(registry.losses()));
            told.extend(lines.iter().map(|line| (second, line.lost.frames)));
            reasons += u32::from(lifecycle.stands(Code::Losing));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(told, [(0, 2), (60, 120), (120, 78)]);
        // From two seconds after the first to eight after the last.
        assert_eq!(reasons, 105, "of 100 s with losses");
        assert!(lifecycle.is_ready(), "a node that loses stays in service");
    }
}
