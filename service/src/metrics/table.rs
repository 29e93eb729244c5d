//! Tables: what is counted, under which name it is shown, and where its value stands.
//!
//! [`counters!`](crate::counters) writes a table. A row gives the field, its type, the metric's type, name and labels, and
//! the help; the help is the field's documentation too:
//!
//! ```
//! use service::metrics::{Counter, Gauge, Registry, Source};
//!
//! service::reasons! {
//!     /// Why a frame went no further.
//!     pub enum DropReason {
//!         /// No decoder took it.
//!         keeps DecodeError = "decode_error",
//!         /// Its id was seen before.
//!         keeps Seen = "seen",
//!     }
//! }
//!
//! service::counters! {
//!     /// What a worker counts.
//!     #[derive(Debug, Default)]
//!     pub struct Tally {
//!         // One field, one metric.
//!         pub received: Counter => counter("t_received_total", ["worker"], "Datagrams received.");
//!         // A field for each value of the last label.
//!         pub hits: Counter = "hit", pub misses: Counter = "miss"
//!             => counter("t_lookups_total", ["worker", "result"], "Numbers asked for.");
//!         // A field for each reason of a closed list of which none loses: those that do are counted by a `Ledger`.
//!         pub dropped: [Counter; DropReason::ALL]
//!             => counter("t_dropped_total", ["worker", "reason"], "Datagrams dropped, and why.");
//!         // A value that is made of fields.
//!         age_ms: Gauge => gauge("t_age_seconds", ["worker"], "Age of the oldest frame.")
//!             = |tally| tally.age_ms.get() as f64 / 1e3;
//!         => counter("t_lost_total", [], "Datagrams dropped for whatever reason.")
//!             = |tally| tally.dropped.iter().map(Counter::get).sum::<u64>();
//!     }
//! }
//!
//! let tally = std::sync::Arc::new(Tally::default());
//! tally.dropped[DropReason::Seen.index()].add(2);
//! let registry = Registry::default();
//! registry.add_labelled("worker", "0".to_owned(), tally);
//! assert!(registry.render().contains("t_dropped_total{worker=\"0\",reason=\"seen\"} 2\n"));
//! assert!(Tally::TABLE.metrics().any(|metric| metric.name == "t_age_seconds"));
//! ```
//!
//! The values of labels that the row does not give come from whoever collects: [`Sink::with`] names them.
//!
//! Four more forms:
//! * `[Counter; KINDS, name]`: a field for each value of a list that is none of reasons, labelled by its method `name`.
//! * `struct Counts { … }` with fields of type `u64` is a plain copy of numbers, in the same rows.
//! * `struct Tally { rows } and { fields }` has fields beside the rows that are no metrics. Where they have no default,
//!   `Tally::zero(fields)` makes one.
//! * `static CLAIMS: Table of ClaimStats { rows }` shows numbers that another crate counts: rows without fields.

use super::metric::Metric;
use super::sink::{Sink, Value};

/// A metric, and how its values are read from an `S`.
#[derive(Debug)]
pub struct Row<S: 'static> {
    metric: Metric,
    read: fn(&S, &mut Series<'_, '_>),
}

impl<S> Row<S> {
    /// See the fields.
    pub const fn new(metric: Metric, read: fn(&S, &mut Series<'_, '_>)) -> Row<S> {
        Row { metric, read }
    }
}

/// All rows of a source. Can be walked without one, for docs and checks.
#[derive(Debug)]
pub struct Table<S: 'static> {
    rows: &'static [Row<S>],
}

impl<S> Table<S> {
    /// A table of these rows.
    pub const fn new(rows: &'static [Row<S>]) -> Table<S> {
        Table { rows }
    }

    /// Every metric, in the order of the rows.
    pub fn metrics(&self) -> impl Iterator<Item = &'static Metric> + use<S> {
        self.rows.iter().map(|row| &row.metric)
    }

    /// Reports the values of `source`.
    pub fn collect(&self, source: &S, sink: &mut Sink<'_>) {
        for row in self.rows {
            (row.read)(source, &mut Series { metric: &row.metric, sink });
        }
    }
}

/// The series of one metric: where a row puts its values.
#[derive(Debug)]
pub struct Series<'s, 'a> {
    metric: &'static Metric,
    sink: &'s mut Sink<'a>,
}

impl Series<'_, '_> {
    /// Reports a value; `labels` are the values of the labels that the collector does not know.
    pub fn put(&mut self, labels: &[&str], value: impl Into<Value>) {
        self.sink.put(self.metric, labels, value);
    }

    /// The same where there may be none, such as a file of the kernel that cannot be read.
    pub fn put_some(&mut self, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.put(&[], value);
        }
    }
}

/// Declares what is counted and how it is shown, one row for each metric. See [`metrics::table`](crate::metrics::table).
#[macro_export]
macro_rules! counters {
    // The type of a field.
    (@type [$cell:ident; $all:expr $(, $name:ident)?]) => { [$cell; $all.len()] };
    (@type $cell:ident) => { $cell };

    // What a row reads: the expression that it gives, else its fields.
    (@read $cells:ident $series:ident [$($fields:tt)*] [[$source:ident] $value:expr]) => {{
        let $source = $cells;
        $series.put(&[], $value);
    }};
    (@read $cells:ident $series:ident [$($fields:tt)*] [[$source:ident, $out:ident] $read:expr]) => {{
        let ($source, $out) = ($cells, $series);
        $read
    }};
    (@read $cells:ident $series:ident [$([$field:ident $cell:tt $label:tt])*] []) => {{
        $($crate::counters! { @field $cells $series $field $cell $label })*
    }};
    (@field $cells:ident $series:ident $field:ident [$cell:ident; $all:expr] []) => {
        const _: () = {
            let (all, mut at) = ($all, 0);
            while at < all.len() {
                assert!(!all[at].loses(), "a reason that loses is counted by a service::Ledger");
                at += 1;
            }
        };
        $crate::counters! { @field $cells $series $field [$cell; $all, name] [] }
    };
    (@field $cells:ident $series:ident $field:ident [$cell:ident; $all:expr, $name:ident] []) => {
        for (reason, cell) in $all.iter().zip(&$cells.$field) {
            $series.put(&[reason.$name()], cell);
        }
    };
    (@field $cells:ident $series:ident $field:ident $cell:ident [$($label:literal)?]) => {
        $series.put(&[$($label)?], &$cells.$field);
    };

    // The rows as a table.
    (@table $source:ty;
        $($([$field:ident $cell:tt $label:tt])* => $kind:ident ($name:literal, [$($labels:literal),*], $help:literal) [$($read:tt)*];)*
    ) => {
        $crate::metrics::Table::new(&[$(
            $crate::metrics::Row::new(
                $crate::metrics::Metric::$kind($name, &[$($labels),*], $help),
                |cells: &$source, series: &mut $crate::metrics::Series<'_, '_>| {
                    $crate::counters! { @read cells series [$([$field $cell $label])*] [$($read)*] }
                },
            ),
        )*])
    };

    // Numbers of somebody else.
    (
        $(#[$meta:meta])*
        $visible:vis static $table:ident: Table of $source:ty {
            $(=> $kind:ident ($name:literal, [$($labels:literal),* $(,)?], $help:literal $(,)?)
                = |$this:ident $(, $out:ident)?| $read:expr;)*
        }
    ) => {
        $(#[$meta])*
        $visible static $table: $crate::metrics::Table<$source> = $crate::counters! { @table $source;
            $(=> $kind($name, [$($labels),*], $help) [[$this $(, $out)?] $read];)*
        };
    };

    // Own numbers.
    ($(#[$meta:meta])* $visible:vis struct $cells:ident { $($rows:tt)* }) => {
        $crate::counters! { $(#[$meta])* $visible struct $cells { $($rows)* } and {} }
    };
    (
        $(#[$meta:meta])*
        $visible:vis struct $cells:ident {
            $(
                $($(#[$about:meta])* $shown:vis $field:ident: $cell:tt $(= $label:literal)?),*
                => $kind:ident ($name:literal, [$($labels:literal),* $(,)?], $help:literal $(,)?)
                $(= |$this:ident $(, $out:ident)?| $read:expr)?;
            )*
        } and {
            $($(#[$beside_about:meta])* $beside_shown:vis $beside:ident: $beside_type:ty),* $(,)?
        }
    ) => {
        $(#[$meta])*
        $visible struct $cells {
            $($(
                #[doc = $help]
                $(#[doc = concat!("\n\n`", $label, "`.")])?
                $(#[$about])*
                $shown $field: $crate::counters!(@type $cell),
            )*)*
            $($(#[$beside_about])* $beside_shown $beside: $beside_type,)*
        }

        impl $cells {
            /// Every metric, and where its value stands.
            $visible const TABLE: $crate::metrics::Table<$cells> = $crate::counters! { @table $cells;
                $($([$field $cell [$($label)?]])* => $kind($name, [$($labels),*], $help) [$([$this $(, $out)?] $read)?];)*
            };

            /// All zero, with these fields beside the counters.
            #[allow(dead_code, clippy::too_many_arguments, reason = "most have a default; one for each field beside")]
            fn zero($($beside: $beside_type),*) -> $cells {
                $cells { $($($field: Default::default(),)*)* $($beside,)* }
            }
        }

        impl $crate::metrics::Source for $cells {
            fn collect(&self, sink: &mut $crate::metrics::Sink<'_>) {
                $cells::TABLE.collect(self, sink);
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use crate::metrics::{Buckets, Counter, Gauge, Histogram, Registry};
    use std::sync::Arc;
    use std::time::Duration;

    crate::reasons! {
        /// Why.
        enum Why {
            /// A.
            keeps Late = "late",
            /// B.
            keeps Full = "full",
        }
    }

    crate::counters! {
        /// Every form of a row.
        #[derive(Debug, Default)]
        struct Cells {
            sent: Counter => counter("t_sent_total", ["worker"], "Frames sent.");
            hits: Counter = "hit", misses: Counter = "miss" => counter("t_lookups_total", ["result"], "Numbers asked for.");
            lost: [u64; Why::ALL] => counter("t_lost_total", ["worker", "why"], "Frames lost.");
            wait: [Histogram; Why::ALL, name] => histogram("t_wait_seconds", ["why"], "Waits.");
            age_ms: Gauge => gauge("t_age_seconds", [], "Age.") = |cells| cells.age_ms.get() as f64 / 1e3;
            => gauge("t_lost_share", ["of"], "Two series of one row.") = |cells, series| {
                series.put(&["late"], cells.lost[0]);
                series.put(&["all"], cells.lost.iter().sum::<u64>());
            };
        } and {
            /// No metric.
            note: &'static str,
        }
    }

    crate::counters! {
        /// Numbers of a type that knows nothing of metrics.
        static LENGTHS: Table of Vec<u8> {
            => gauge("t_length_bytes", ["worker"], "Bytes.") = |bytes| bytes.len();
        }
    }

    #[test]
    fn a_row_is_a_field_and_a_metric() {
        let cells = Cells { lost: [3, 4], ..Cells::zero("beside") };
        assert_eq!(cells.note, "beside");
        cells.sent.add(1);
        cells.hits.add(5);
        cells.misses.add(6);
        cells.wait[Why::Full.index()].observe(Duration::from_millis(1));
        cells.age_ms.set(1500);
        let registry = Registry::default();
        registry.add_labelled("worker", "7".to_owned(), Arc::new(cells));
        let page = crate::exposition::parse(&registry.render()).unwrap();
        for (series, value) in [
            ("t_sent_total{worker=\"7\"}", 1.0),
            ("t_lookups_total{result=\"hit\"}", 5.0),
            ("t_lookups_total{result=\"miss\"}", 6.0),
            ("t_lost_total{worker=\"7\",why=\"late\"}", 3.0),
            ("t_lost_total{worker=\"7\",why=\"full\"}", 4.0),
            ("t_wait_seconds_count{why=\"full\"}", 1.0),
            ("t_wait_seconds_count{why=\"late\"}", 0.0),
            ("t_age_seconds", 1.5),
            ("t_lost_share{of=\"late\"}", 3.0),
            ("t_lost_share{of=\"all\"}", 7.0),
        ] {
            assert_eq!(page.get(series), Some(&value), "{series}");
        }
        let names: Vec<_> =
            Cells::TABLE.metrics().chain(LENGTHS.metrics()).map(|metric| metric.name).collect();
        assert_eq!(
            (names.len(), names.first(), names.last()),
            (7, Some(&"t_sent_total"), Some(&"t_length_bytes"))
        );
    }

    #[test]
    fn buckets_and_plain_numbers_are_values_too() {
        assert!(matches!(Buckets::default().into(), super::Value::Histogram(_)));
        assert!(matches!(3u64.into(), super::Value::Whole(3)));
    }
}
