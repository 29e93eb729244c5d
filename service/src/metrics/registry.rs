//! All sources of one role, and the pages that are made of them.

use super::metric::Metric;
use super::recorder;
use super::sink::{Families, Sink, Source, Value};
use super::text;
use crate::losses::{LossRow, LossSource};
use crate::recent::Recent;
use crate::sums::Sum;
use serde_json::json;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A part of `/status` that is computed when asked.
type Detail = Box<dyn Fn() -> serde_json::Value + Send + Sync>;

/// What came and what went, over all workers.
type Books = Box<dyn Fn() -> Sum + Send + Sync>;

/// All sources of one role instance (a process may hold several roles, each with its own registry).
#[derive(Default)]
pub struct Registry {
    sources: Mutex<Vec<Arc<dyn Source>>>,
    details: Mutex<Vec<(&'static str, Detail)>>,
    recent: Mutex<Vec<(String, Arc<Recent>)>>,
    ledgers: Mutex<Vec<Arc<dyn LossSource>>>,
    sums: Mutex<Vec<Books>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

/// A source whose labels of one name have one value.
struct Labelled<S> {
    name: &'static str,
    value: String,
    source: Arc<S>,
}

impl<S: Source> Source for Labelled<S> {
    fn collect(&self, sink: &mut Sink<'_>) {
        self.source.collect(&mut sink.with(&[(self.name, &self.value)]));
    }
}

impl Registry {
    /// Adds a source for the life of the registry.
    pub fn add(&self, source: Arc<dyn Source>) {
        locked(&self.sources).push(source);
    }

    /// Adds a source whose labels `name` all have this value.
    pub fn add_labelled(&self, name: &'static str, value: String, source: Arc<impl Source + 'static>) {
        self.add(Arc::new(Labelled { name, value, source }));
    }

    /// Adds a part of `/status` under `details.<name>`; `view` runs on the control runtime and must not block.
    pub fn add_detail(
        &self,
        name: &'static str,
        view: impl Fn() -> serde_json::Value + Send + Sync + 'static,
    ) {
        locked(&self.details).push((name, Box::new(view)));
    }

    /// Adds what a worker remembers of its frames.
    pub fn add_recent(&self, worker: String, recent: Arc<Recent>) {
        locked(&self.recent).push((worker, recent));
    }

    /// Adds what a worker lost.
    pub fn add_ledger(&self, ledger: Arc<dyn LossSource>) {
        locked(&self.ledgers).push(ledger);
    }

    /// Adds a sum that holds when the role has ended.
    pub fn add_sum(&self, books: impl Fn() -> Sum + Send + Sync + 'static) {
        locked(&self.sums).push(Box::new(books));
    }

    /// Every sum, as it stands.
    pub fn sums(&self) -> Vec<Sum> {
        locked(&self.sums).iter().map(|books| books()).collect()
    }

    /// What was lost: a row for each worker and reason.
    pub fn losses(&self) -> Vec<LossRow> {
        let ledgers = locked(&self.ledgers).clone();
        let mut rows = Vec::new();
        ledgers.iter().for_each(|ledger| ledger.losses(&mut rows));
        rows
    }

    /// What the workers remember of the id that begins with `id`: one entry for each worker.
    pub fn find_recent(&self, id: u64) -> Vec<serde_json::Value> {
        let recent = locked(&self.recent).clone();
        recent.iter().map(|(worker, recent)| recent.find(worker, id)).collect()
    }

    /// What the role tells about itself beyond its metrics.
    pub fn details(&self) -> serde_json::Value {
        let details = locked(&self.details);
        details
            .iter()
            .map(|(name, view)| ((*name).to_owned(), view()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }

    fn fold(&self) -> Families {
        let sources = locked(&self.sources).clone();
        let mut families = Families::new();
        for source in sources {
            source.collect(&mut Sink::new(&mut families));
        }
        families.retain(|_, family| !family.series.is_empty());
        families
    }

    /// Prometheus text format 0.0.4: what the tables of this registry show, and what the process counted through the
    /// macros of the `metrics` crate.
    pub fn render(&self) -> String {
        let families = self.fold();
        let counted_by_macros = recorder::families(|name| families.contains_key(name));
        text::render(families.values().map(text::family).chain(counted_by_macros))
    }

    /// The same as JSON, for `/status`: per metric one value, or a list of `{labels, value}`; histograms as count, sum and
    /// quantiles in seconds.
    pub fn status(&self) -> serde_json::Value {
        let metrics = self.fold().into_iter().map(|(name, family)| {
            let mut series: Vec<_> = family
                .series
                .iter()
                .map(|(labels, value)| labelled_json(family.metric, labels, value_json(value)))
                .collect();
            let bare = family.metric.labels.is_empty();
            let value = if bare { series.pop().unwrap_or_default() } else { json!(series) };
            (name.to_owned(), value)
        });
        metrics.collect::<serde_json::Map<_, _>>().into()
    }
}

/// A poisoned list is still a list: metrics must be shown even after a panic elsewhere.
fn locked<T>(list: &Mutex<T>) -> MutexGuard<'_, T> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

fn labelled_json(metric: &Metric, labels: &[String], value: serde_json::Value) -> serde_json::Value {
    if labels.is_empty() {
        return value;
    }
    let names = metric.labels.iter().map(|&name| name.to_owned());
    let labels: serde_json::Map<_, _> = names.zip(labels.iter().map(|label| json!(label))).collect();
    json!({ "labels": labels, "value": value })
}

fn value_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Whole(n) => json!(n),
        Value::Time(time) => json!(time.as_secs_f64()),
        Value::Real(v) => json!(v),
        Value::Histogram(buckets) => {
            let seconds = |q: f64| buckets.quantile(q).map(|value| value.as_secs_f64());
            json!({
                "count": buckets.count(),
                "sum_seconds": buckets.sum().as_secs_f64(),
                "p50_seconds": seconds(0.5),
                "p99_seconds": seconds(0.99),
                "p999_seconds": seconds(0.999),
            })
        }
    }
}
