//! Metrics: plain per-worker cells on the packet path, folded into Prometheus text at scrape.
//!
//! Every metric is one [`Metric`] constant in the table of its role; docs and dashboards are checked against the tables.
//! A worker owns its cells and writes them with a load and a store; a [`Source`] hands their values to a [`Sink`] when
//! somebody asks. Values that several sources report under one metric and the same labels are summed.
//!
//! Two ways in, one way out:
//! * the packet path and everything with a table: cells and sources, rendered here. `metrics-exporter-prometheus`
//!   cannot take a histogram that was counted elsewhere: it wants every observation again, one by one, and computes the
//!   sum from those, so a scrape would cost as much as the traffic and the sum would be wrong;
//! * cold code that has no cell (log suppression, admin requests, libraries): the macros of the `metrics` crate, one
//!   process-wide recorder ([`process_recorder`]), rendered by the exporter behind the tables.
//!
//! Limits: one writer per cell. Two writers lose counts, they do not corrupt.

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// A counter with one writer (its worker) and any number of readers. `add` is a load and a store, not a locked
/// instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts `n` more.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A value that goes up and down, one writer.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Replaces the value.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Latency histogram with fixed power-of-two buckets in nanoseconds, one writer. Bucket `i` holds observations of more
/// than 2^(i-1) and at most 2^i nanoseconds; the last one everything above.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; Histogram::BUCKETS],
    sum: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { buckets: [const { AtomicU64::new(0) }; Histogram::BUCKETS], sum: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Buckets kept, the overflow bucket included: up to 2^38 ns, 275 s.
    pub const BUCKETS: usize = 40;

    /// Counts one observation.
    pub fn observe(&self, value: Duration) {
        self.observe_many(value, 1);
    }

    /// Counts `n` observations of one value (the frames of one batch).
    pub fn observe_many(&self, value: Duration, n: u64) {
        let nanos = nanos(value);
        if let Some(bucket) = self.buckets.get(bucket_of(nanos)) {
            bucket.store(bucket.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
        }
        let sum = self.sum.load(Ordering::Relaxed).saturating_add(nanos.saturating_mul(n));
        self.sum.store(sum, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn snapshot(&self) -> Buckets {
        Buckets {
            counts: std::array::from_fn(|i| self.buckets.get(i).map_or(0, |b| b.load(Ordering::Relaxed))),
            sum_nanos: self.sum.load(Ordering::Relaxed),
        }
    }
}

fn nanos(value: Duration) -> u64 {
    u64::try_from(value.as_nanos()).unwrap_or(u64::MAX)
}

/// Index of the bucket for a value: the smallest `i` with `nanos <= 2^i`, at most the last one.
fn bucket_of(nanos: u64) -> usize {
    let bits = u64::BITS - nanos.saturating_sub(1).leading_zeros();
    (bits as usize).min(Histogram::BUCKETS - 1)
}

/// Counts of a [`Histogram`] at one moment; can be added up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets {
    counts: [u64; Histogram::BUCKETS],
    sum_nanos: u64,
}

impl Buckets {
    /// Buckets shown to Prometheus: `le` from 2^10 ns (1 µs) to 2^34 ns (17 s). What lies below is in the first, what lies
    /// above in `+Inf`.
    const SHOWN: std::ops::RangeInclusive<usize> = 10..=34;

    /// Observations counted elsewhere, by the upper bound of their bucket.
    pub fn of(counts: impl IntoIterator<Item = (Duration, u64)>, sum: Duration) -> Buckets {
        let mut buckets = Buckets { counts: [0; Histogram::BUCKETS], sum_nanos: nanos(sum) };
        for (bound, n) in counts {
            if let Some(count) = buckets.counts.get_mut(bucket_of(nanos(bound))) {
                *count = count.wrapping_add(n);
            }
        }
        buckets
    }

    fn add(&mut self, other: &Buckets) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine = mine.wrapping_add(theirs);
        }
        self.sum_nanos = self.sum_nanos.saturating_add(other.sum_nanos);
    }

    /// Number of observations.
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |total, n| total.wrapping_add(*n))
    }

    /// Sum of all observations.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_nanos)
    }

    /// Upper bound of the bucket that holds quantile `q` (0 to 1); `None` when nothing was observed.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let total = self.count();
        let mut below = 0u64;
        for (i, n) in self.counts.iter().enumerate() {
            below = below.wrapping_add(*n);
            if *n > 0 && below as f64 >= q.clamp(0.0, 1.0) * total as f64 {
                return Some(Duration::from_nanos(1 << i));
            }
        }
        None
    }

    /// (upper bound in seconds, observations at most that large).
    fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        Buckets::SHOWN.map(|last| {
            let at_most = self.counts.iter().take(last + 1).fold(0u64, |total, n| total.wrapping_add(*n));
            (Duration::from_nanos(1 << last).as_secs_f64(), at_most)
        })
    }
}

/// What a metric is: its row in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Prometheus name; counters end in `_total`, histograms in `_seconds`.
    pub name: &'static str,
    /// Prometheus type.
    pub kind: Kind,
    /// Names of the labels, in the order in which a source gives their values.
    pub labels: &'static [&'static str],
    /// One sentence for people, units included.
    pub help: &'static str,
}

impl Metric {
    /// A row of kind counter.
    pub const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
        Metric { name, kind: Kind::Counter, labels, help }
    }

    /// A row of kind gauge.
    pub const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
        Metric { name, kind: Kind::Gauge, labels, help }
    }

    /// A row of kind histogram; values are in seconds.
    pub const fn histogram(
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Metric {
        Metric { name, kind: Kind::Histogram, labels, help }
    }

    /// What is wrong with the row under Prometheus' rules for names; `None` when it is fine. For tests over tables.
    pub fn fault(&self) -> Option<String> {
        let name_ok = |name: &str, colon: bool| {
            let mut chars = name.chars();
            chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
                && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || (colon && c == ':'))
        };
        let fault = |what: &str| Some(format!("{}: {what}", self.name));
        if !name_ok(self.name, true) {
            return fault("not a metric name");
        }
        if (self.kind == Kind::Counter) != self.name.ends_with("_total") {
            return fault("counters, and only counters, end in _total");
        }
        if self.kind == Kind::Histogram && !self.name.ends_with("_seconds") {
            return fault("histograms are in seconds and end in _seconds");
        }
        if self.help.is_empty() || self.help.contains('\n') {
            return fault("help must be one line");
        }
        let label_ok = |l: &&str| name_ok(l, false) && !l.starts_with("__") && *l != "le" && *l != "quantile";
        if !self.labels.iter().all(label_ok) {
            return fault("not a label name");
        }
        None
    }
}

/// Declares the metrics of a source from one table: a static for each row, and one that lists them all.
#[macro_export]
macro_rules! metric_table {
    (
        $(#[$doc:meta])* $visible:vis static $all:ident;
        $($row:ident = $kind:ident($name:literal, [$($label:literal),*], $help:literal);)*
    ) => {
        $(static $row: $crate::Metric = $crate::Metric::$kind($name, &[$($label),*], $help);)*
        $(#[$doc])*
        $visible static $all: &[&$crate::Metric] = &[$(&$row),*];
    };
}

/// Prometheus type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from zero at start.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Distribution of durations, in seconds.
    Histogram,
}

impl Kind {
    /// The word of the `# TYPE` line.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// Something that reports metrics when it is scraped.
pub trait Source: Send + Sync {
    /// Reports the current values.
    fn collect(&self, sink: &mut Sink<'_>);
}

/// Takes what a source reports. Label values are in the order of `Metric::labels`.
#[derive(Debug)]
pub struct Sink<'a> {
    families: &'a mut Families,
}

type Families = BTreeMap<&'static str, Family>;

#[derive(Debug)]
struct Family {
    metric: &'static Metric,
    series: BTreeMap<Vec<String>, Value>,
}

#[derive(Clone, Debug)]
enum Value {
    Counter(u64),
    Seconds(Duration),
    Gauge(f64),
    Histogram(Box<Buckets>),
}

impl Sink<'_> {
    /// A counter's value.
    pub fn counter(&mut self, metric: &'static Metric, labels: &[&str], value: u64) {
        self.put(metric, labels, Value::Counter(value));
    }

    /// A counter of time, shown in seconds.
    pub fn counter_seconds(&mut self, metric: &'static Metric, labels: &[&str], value: Duration) {
        self.put(metric, labels, Value::Seconds(value));
    }

    /// A gauge's value.
    pub fn gauge(&mut self, metric: &'static Metric, labels: &[&str], value: f64) {
        self.put(metric, labels, Value::Gauge(value));
    }

    /// A histogram's counts.
    pub fn histogram(&mut self, metric: &'static Metric, labels: &[&str], value: &Histogram) {
        self.buckets(metric, labels, value.snapshot());
    }

    /// The same for counts that a source has folded already.
    pub fn buckets(&mut self, metric: &'static Metric, labels: &[&str], value: Buckets) {
        self.put(metric, labels, Value::Histogram(Box::new(value)));
    }

    /// Adds to what other sources reported for the same series. A report that contradicts its table (kind, labels, or
    /// another row of the same name) would make the whole page invalid, so it is left out and said aloud.
    fn put(&mut self, metric: &'static Metric, labels: &[&str], value: Value) {
        let kind_fits = matches!(
            (metric.kind, &value),
            (Kind::Counter, Value::Counter(_) | Value::Seconds(_))
                | (Kind::Gauge, Value::Gauge(_))
                | (Kind::Histogram, Value::Histogram(_))
        );
        let family =
            self.families.entry(metric.name).or_insert_with(|| Family { metric, series: BTreeMap::new() });
        if !kind_fits || labels.len() != metric.labels.len() || *family.metric != *metric {
            debug_assert!(false, "metric {} reported against its table", metric.name);
            crate::limited!(error, 1, "metric {} was reported against its table and left out", metric.name);
            return;
        }
        let series: Vec<String> = labels.iter().map(|&label| label.to_owned()).collect();
        match (family.series.get_mut(&series), value) {
            (Some(Value::Counter(sum)), Value::Counter(more)) => *sum = sum.wrapping_add(more),
            (Some(Value::Seconds(sum)), Value::Seconds(more)) => *sum = sum.saturating_add(more),
            (Some(Value::Gauge(sum)), Value::Gauge(more)) => *sum += more,
            (Some(Value::Histogram(sum)), Value::Histogram(more)) => sum.add(&more),
            (_, value) => {
                family.series.insert(series, value);
            }
        }
    }
}

/// A part of `/status` that is computed when asked.
type Detail = Box<dyn Fn() -> serde_json::Value + Send + Sync>;

/// All sources of one role instance (a process may hold several roles, each with its own registry).
#[derive(Default)]
pub struct Registry {
    sources: Mutex<Vec<Arc<dyn Source>>>,
    details: Mutex<Vec<(&'static str, Detail)>>,
    recent: Mutex<Vec<(String, Arc<crate::Recent>)>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

impl Registry {
    /// Adds a source for the life of the registry.
    pub fn add(&self, source: Arc<dyn Source>) {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).push(source);
    }

    /// Adds a part of `/status` under `details.<name>`; `view` runs on the control runtime and must not block.
    pub fn add_detail(
        &self,
        name: &'static str,
        view: impl Fn() -> serde_json::Value + Send + Sync + 'static,
    ) {
        self.details.lock().unwrap_or_else(PoisonError::into_inner).push((name, Box::new(view)));
    }

    /// Adds what a worker remembers of its frames.
    pub fn add_recent(&self, worker: String, recent: Arc<crate::Recent>) {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).push((worker, recent));
    }

    /// What the workers remember of the id that begins with `id`: one entry for each worker.
    pub fn find_recent(&self, id: u64) -> Vec<serde_json::Value> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner).clone();
        recent.iter().map(|(worker, recent)| recent.find(worker, id)).collect()
    }

    /// What the role tells about itself beyond its metrics.
    pub fn details(&self) -> serde_json::Value {
        let details = self.details.lock().unwrap_or_else(PoisonError::into_inner);
        details
            .iter()
            .map(|(name, view)| ((*name).to_owned(), view()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }

    fn fold(&self) -> Families {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut families = Families::new();
        for source in sources {
            source.collect(&mut Sink { families: &mut families });
        }
        families.retain(|_, family| !family.series.is_empty());
        families
    }

    /// Prometheus text format 0.0.4: this registry's tables, then what the process recorded through the `metrics` macros.
    pub fn render(&self) -> String {
        let families = self.fold();
        let mut text = String::with_capacity(4096);
        for family in families.values() {
            render_family(&mut text, family);
        }
        if let Some(process) = PROCESS.get() {
            append_foreign(&mut text, &process.render(), &families);
        }
        text
    }

    /// The same as JSON, for `/status`: per metric one value, or a list of `{labels, value}`; histograms as count, sum and
    /// quantiles in seconds.
    pub fn status(&self) -> serde_json::Value {
        let families = self.fold();
        let metrics = families.into_iter().map(|(name, family)| {
            let bare = family.metric.labels.is_empty();
            let mut series: Vec<_> = family
                .series
                .iter()
                .map(|(labels, value)| match bare {
                    true => value_json(value),
                    false => {
                        let names = family.metric.labels.iter().map(|&name| name.to_owned());
                        let labels = names.zip(labels.iter().map(|label| json!(label)));
                        let labels: serde_json::Map<_, _> = labels.collect();
                        json!({ "labels": labels, "value": value_json(value) })
                    }
                })
                .collect();
            let value = if bare { series.pop().unwrap_or_default() } else { json!(series) };
            (name.to_owned(), value)
        });
        metrics.collect::<serde_json::Map<_, _>>().into()
    }
}

fn value_json(value: &Value) -> serde_json::Value {
    let seconds = |q: f64, buckets: &Buckets| buckets.quantile(q).map(|value| value.as_secs_f64());
    match value {
        Value::Counter(n) => json!(n),
        Value::Seconds(time) => json!(time.as_secs_f64()),
        Value::Gauge(v) => json!(v),
        Value::Histogram(buckets) => json!({
            "count": buckets.count(),
            "sum_seconds": buckets.sum().as_secs_f64(),
            "p50_seconds": seconds(0.5, buckets),
            "p99_seconds": seconds(0.99, buckets),
            "p999_seconds": seconds(0.999, buckets),
        }),
    }
}

fn render_family(text: &mut String, family: &Family) {
    let Metric { name, kind, labels, help } = *family.metric;
    // Writing to a String cannot fail.
    let _ = writeln!(text, "# HELP {name} {}\n# TYPE {name} {}", escape(help, false), kind.as_str());
    for (values, value) in &family.series {
        let line = |text: &mut String, suffix: &str, le: Option<String>, value: String| {
            let pairs = labels.iter().zip(values).map(|(&label, value)| (label, value.as_str()));
            let pairs = pairs.chain(le.as_deref().map(|le| ("le", le)));
            let _ = writeln!(text, "{name}{suffix}{} {value}", braces(pairs));
        };
        match value {
            Value::Counter(n) => line(text, "", None, n.to_string()),
            Value::Seconds(time) => line(text, "", None, number(time.as_secs_f64())),
            Value::Gauge(v) => line(text, "", None, number(*v)),
            Value::Histogram(buckets) => {
                for (le, n) in buckets.cumulative() {
                    line(text, "_bucket", Some(number(le)), n.to_string());
                }
                line(text, "_bucket", Some("+Inf".to_owned()), buckets.count().to_string());
                line(text, "_sum", None, number(buckets.sum().as_secs_f64()));
                line(text, "_count", None, buckets.count().to_string());
            }
        }
    }
}

/// `{a="1",b="2"}`, or nothing where there is no label.
fn braces<'v>(pairs: impl Iterator<Item = (&'v str, &'v str)>) -> String {
    let pairs: Vec<_> = pairs.map(|(name, value)| format!("{name}=\"{}\"", escape(value, true))).collect();
    if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) }
}

fn escape(text: &str, quotes: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '"' if quotes => escaped.push_str("\\\""),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A float as Prometheus writes it.
fn number(value: f64) -> String {
    match value {
        v if v.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        v => v.to_string(),
    }
}

/// Appends a page of the exporter without the families that a table already gave: HELP and TYPE may stand once only.
fn append_foreign(text: &mut String, page: &str, own: &Families) {
    let mut skip = false;
    for line in page.lines().filter(|line| !line.is_empty()) {
        let header = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
        if let Some(name) = header.and_then(|rest| rest.split(' ').next()) {
            skip = own.contains_key(name);
        }
        if !skip {
            text.push_str(line);
            text.push('\n');
        }
    }
}

static PROCESS: OnceLock<PrometheusHandle> = OnceLock::new();

/// Installs the recorder behind the `metrics` macros, once per process; every registry renders it. For cold paths only.
pub fn process_recorder() {
    PROCESS.get_or_init(|| {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!(
                "another recorder was installed first: metrics of cold paths are missing on /metrics"
            );
        }
        handle
    });
}

/// A table as Markdown, for `docs/`.
pub fn markdown(table: &[&Metric]) -> String {
    let mut text = String::from("| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n");
    for metric in table {
        let Metric { name, kind, labels, help } = *metric;
        let _ = writeln!(text, "| `{name}` | {} | {} | {help} |", kind.as_str(), labels.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    static SENT: Metric = Metric::counter("t_sent_total", &["worker", "reason"], "Frames sent.");
    static DEPTH: Metric = Metric::gauge("t_depth_bytes", &[], "Bytes queued. A \\ and a \"quote\".");
    static STAGE: Metric = Metric::histogram("t_stage_seconds", &["stage"], "Time in a stage.");

    #[derive(Default)]
    struct Worker {
        sent: Counter,
        depth: Gauge,
        stage: Histogram,
        reason: &'static str,
    }

    impl Source for Worker {
        fn collect(&self, sink: &mut Sink<'_>) {
            sink.counter(&SENT, &["0", self.reason], self.sent.get());
            sink.gauge(&DEPTH, &[], self.depth.get() as f64);
            sink.histogram(&STAGE, &["claim"], &self.stage);
        }
    }

    fn two_workers() -> (Registry, Arc<Worker>, Arc<Worker>) {
        let (a, b) = (Arc::new(Worker::default()), Arc::new(Worker::default()));
        let registry = Registry::default();
        registry.add(a.clone());
        registry.add(b.clone());
        (registry, a, b)
    }

    fn parse(page: &str) -> crate::exposition::Page {
        crate::exposition::parse(page).unwrap()
    }

    #[test]
    fn series_of_several_sources_are_summed_and_the_page_is_valid() {
        let (registry, a, b) = two_workers();
        a.sent.add(3);
        b.sent.add(4);
        a.depth.set(10);
        b.depth.set(5);
        a.stage.observe(Duration::from_micros(3));
        b.stage.observe(Duration::from_millis(3));
        let series = parse(&registry.render());
        assert_eq!(series["t_sent_total{worker=\"0\",reason=\"\"}"], 7.0);
        assert_eq!(series["t_depth_bytes"], 15.0);
        assert_eq!(series["t_stage_seconds_count{stage=\"claim\"}"], 2.0);
        assert_eq!(series["t_stage_seconds_bucket{stage=\"claim\",le=\"+Inf\"}"], 2.0);
        assert_eq!(series["t_stage_seconds_bucket{stage=\"claim\",le=\"0.000004096\"}"], 1.0);
        assert_eq!(series["t_stage_seconds_bucket{stage=\"claim\",le=\"0.000002048\"}"], 0.0);
        assert!((series["t_stage_seconds_sum{stage=\"claim\"}"] - 0.003003).abs() < 1e-12);
    }

    #[test]
    fn hostile_label_values_are_escaped() {
        let registry = Registry::default();
        registry.add(Arc::new(Worker { reason: "a\"b\\c\nd,e=\"f", ..Worker::default() }));
        let page = registry.render();
        parse(&page);
        assert!(page.contains(r#"reason="a\"b\\c\nd,e=\"f""#), "{page}");
        assert!(page.contains(r#"# HELP t_depth_bytes Bytes queued. A \\ and a "quote"."#), "{page}");
    }

    #[test]
    fn buckets_are_cumulative_with_inclusive_bounds() {
        let histogram = Histogram::default();
        for nanos in [0, 1, 1024, 1025, 1 << 34, (1 << 34) + 1, u64::MAX] {
            histogram.observe(Duration::from_nanos(nanos));
        }
        let buckets = histogram.snapshot();
        let shown: Vec<_> = buckets.cumulative().collect();
        assert_eq!(shown.first(), Some(&(0.000001024, 3)));
        assert_eq!(shown.get(1).unwrap().1, 4);
        assert_eq!(shown.last().unwrap().1, 5);
        assert_eq!(buckets.count(), 7);
        assert_eq!(buckets.quantile(0.5), Some(Duration::from_nanos(2048)));
        assert_eq!(Histogram::default().snapshot().quantile(0.5), None);
    }

    #[test]
    fn status_tells_the_same_as_json() {
        let (registry, a, _) = two_workers();
        a.sent.add(2);
        a.depth.set(9);
        a.stage.observe(Duration::from_micros(1));
        registry.add_detail("flows", || json!([1, 2]));
        let status = registry.status();
        assert_eq!(status["t_sent_total"][0]["labels"]["worker"], "0");
        assert_eq!(status["t_sent_total"][0]["value"], 2);
        assert_eq!(status["t_depth_bytes"], 9.0);
        assert_eq!(status["t_stage_seconds"][0]["value"]["count"], 1);
        assert_eq!(registry.details()["flows"], json!([1, 2]));
    }

    #[test]
    fn cold_paths_use_the_macros_and_cannot_double_a_table() {
        process_recorder();
        metrics::describe_counter!("t_cold_total", "Cold.");
        metrics::counter!("t_cold_total", "site" => "x").increment(2);
        metrics::counter!("t_sent_total", "worker" => "9").increment(1);
        let (registry, ..) = two_workers();
        let series = parse(&registry.render());
        assert_eq!(series["t_cold_total{site=\"x\"}"], 2.0);
        assert!(!series.contains_key("t_sent_total{worker=\"9\"}"));
    }

    #[test]
    fn a_row_that_breaks_the_naming_rules_is_found() {
        for row in [&SENT, &DEPTH, &STAGE] {
            assert_eq!(row.fault(), None);
        }
        assert!(Metric::counter("t_sent", &[], "x").fault().is_some());
        assert!(Metric::gauge("t-depth", &[], "x").fault().is_some());
        assert!(Metric::histogram("t_seconds", &["le"], "x").fault().is_some());
        assert!(markdown(&[&SENT]).contains("| `t_sent_total` | counter | worker, reason | Frames sent. |"));
    }
}
