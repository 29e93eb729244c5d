//! The recorder behind the macros of the `metrics` crate: for cold code that has no cells, and for programs that embed a
//! role and count through the facade. Every registry shows what it holds, by the same encoder as the tables.
//!
//! Not for a packet path: a first use takes a lock, and each count is a locked instruction. A histogram is one of
//! durations in seconds, with the buckets of all others. Who counts through the macros bounds its own label values.

use super::cells::Buckets;
use super::metric::{Kind, Metric};
use super::sink::Value;
use super::text;
use ::metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use prometheus::proto::MetricFamily;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// What the service itself counts through the macros.
pub static METRICS: [Metric; 2] = [
    Metric::counter("oncecast_log_dropped_total", &[], "Log lines dropped because stderr was not read."),
    Metric::counter(
        "oncecast_log_suppressed_total",
        &["site"],
        "Log lines not written because they said what was said before, or their place in the code logged too often. /status has their texts under errors.",
    ),
];

static PROCESS: OnceLock<Process> = OnceLock::new();

/// Installs the recorder behind the `metrics` macros, once per process; every registry renders it. For cold paths only.
pub fn process_recorder() {
    PROCESS.get_or_init(Process::default);
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let installed = PROCESS.get().map(::metrics::set_global_recorder);
        if !matches!(installed, Some(Ok(()))) {
            tracing::warn!(
                "another recorder was installed first: metrics of cold paths are missing on /metrics"
            );
        }
    });
}

/// What was counted through the macros, without the names that a table has already.
pub(super) fn families(taken: impl Fn(&str) -> bool) -> Vec<MetricFamily> {
    let Some(process) = PROCESS.get() else { return Vec::new() };
    let names = process.names();
    let shown = names.iter().filter(|(name, recorded)| !taken(name) && !recorded.series.is_empty());
    shown.filter_map(|(name, recorded)| recorded.family(name)).collect()
}

/// Everything that this process counts through the macros.
#[derive(Debug, Default)]
struct Process {
    names: Mutex<BTreeMap<String, Recorded>>,
}

/// One name.
#[derive(Debug, Default)]
struct Recorded {
    /// That of the first use; a later use as another kind counts nothing.
    kind: Option<Kind>,
    help: String,
    /// By labels.
    series: BTreeMap<Vec<(String, String)>, Cell>,
}

/// A value with many writers.
#[derive(Clone, Debug)]
enum Cell {
    Counter(Arc<AtomicU64>),
    /// The bits of a double.
    Gauge(Arc<AtomicU64>),
    Histogram(Arc<Durations>),
}

#[derive(Debug, Default)]
struct Durations(Mutex<Buckets>);

impl HistogramFn for Durations {
    fn record(&self, seconds: f64) {
        let value = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).add(&Buckets::of([(value, 1)], value));
    }
}

impl Recorded {
    fn family(&self, name: &str) -> Option<MetricFamily> {
        let kind = self.kind?;
        let series = self.series.iter().map(|(labels, cell)| {
            let labels = labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            text::series(labels, kind, &cell.value())
        });
        Some(text::named(name, kind, &self.help, series.collect()))
    }
}

impl Cell {
    fn new(kind: Kind) -> Cell {
        match kind {
            Kind::Counter => Cell::Counter(Arc::default()),
            Kind::Gauge => Cell::Gauge(Arc::default()),
            Kind::Histogram => Cell::Histogram(Arc::default()),
        }
    }

    fn value(&self) -> Value {
        match self {
            Cell::Counter(cell) => cell.load(Ordering::Relaxed).into(),
            Cell::Gauge(cell) => f64::from_bits(cell.load(Ordering::Relaxed)).into(),
            Cell::Histogram(cell) => cell.0.lock().unwrap_or_else(PoisonError::into_inner).clone().into(),
        }
    }
}

impl Process {
    fn names(&self) -> MutexGuard<'_, BTreeMap<String, Recorded>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn describe(&self, name: &KeyName, help: SharedString) {
        self.names().entry(allowed(name.as_str())).or_default().help = help.into_owned();
    }

    /// The cell of a series; `None` where its name is of another kind.
    fn cell(&self, key: &Key, kind: Kind) -> Option<Cell> {
        let mut names = self.names();
        let recorded = names.entry(allowed(key.name())).or_default();
        if recorded.help.is_empty() {
            let known = METRICS.iter().find(|metric| metric.name == key.name());
            known.map(|metric| metric.help).unwrap_or_default().clone_into(&mut recorded.help);
        }
        if *recorded.kind.get_or_insert(kind) != kind {
            return None;
        }
        let mut labels: Vec<_> =
            key.labels().map(|label| (allowed(label.key()), label.value().to_owned())).collect();
        labels.dedup_by(|a, b| a.0 == b.0);
        Some(recorded.series.entry(labels).or_insert_with(|| Cell::new(kind)).clone())
    }
}

/// A name as Prometheus allows it.
fn allowed(name: &str) -> String {
    let fits = |(place, c): (usize, char)| match c {
        '0'..='9' if place == 0 => '_',
        'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | ':' => c,
        _ => '_',
    };
    name.chars().enumerate().map(fits).collect()
}

impl Recorder for &'static Process {
    fn describe_counter(&self, key: KeyName, _unit: Option<Unit>, description: SharedString) {
        self.describe(&key, description);
    }

    fn describe_gauge(&self, key: KeyName, _unit: Option<Unit>, description: SharedString) {
        self.describe(&key, description);
    }

    fn describe_histogram(&self, key: KeyName, _unit: Option<Unit>, description: SharedString) {
        self.describe(&key, description);
    }

    fn register_counter(&self, key: &Key, _metadata: &Metadata<'_>) -> Counter {
        match self.cell(key, Kind::Counter) {
            Some(Cell::Counter(cell)) => Counter::from_arc(cell),
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, key: &Key, _metadata: &Metadata<'_>) -> Gauge {
        match self.cell(key, Kind::Gauge) {
            Some(Cell::Gauge(cell)) => Gauge::from_arc(cell),
            _ => Gauge::noop(),
        }
    }

    fn register_histogram(&self, key: &Key, _metadata: &Metadata<'_>) -> Histogram {
        match self.cell(key, Kind::Histogram) {
            Some(Cell::Histogram(cell)) => Histogram::from_arc(cell),
            _ => Histogram::noop(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_prometheus_would_refuse_is_made_fit() {
        assert_eq!(allowed("a.b-c:d_9"), "a_b_c:d_9");
        assert_eq!(allowed("9lives"), "_lives");
        assert!(METRICS.iter().all(|metric| metric.fault().is_none()));
    }

    #[test]
    fn a_name_keeps_the_kind_of_its_first_use() {
        let process: &'static Process = Box::leak(Box::default());
        let key = Key::from_name("t_first_total");
        assert!(matches!(process.cell(&key, Kind::Counter), Some(Cell::Counter(_))));
        assert!(process.cell(&key, Kind::Gauge).is_none());
    }
}
