//! The fold: values of many sources, summed by metric and labels.

use super::cells::{Buckets, Counter, Gauge, Histogram};
use super::metric::{Kind, Metric};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Something that reports metrics when it is scraped.
pub trait Source: Send + Sync {
    /// Reports the current values.
    fn collect(&self, sink: &mut Sink<'_>);
}

/// A value as a source reports it. Which of them fits is a matter of the metric's type.
#[derive(Clone, Debug)]
pub enum Value {
    /// Of a counter or a gauge.
    Whole(u64),
    /// Of a counter or a gauge of seconds.
    Time(Duration),
    /// Of a gauge.
    Real(f64),
    /// Of a histogram.
    Histogram(Box<Buckets>),
}

impl Value {
    fn fits(&self, kind: Kind) -> bool {
        match kind {
            Kind::Counter => matches!(self, Value::Whole(_) | Value::Time(_)),
            Kind::Gauge => matches!(self, Value::Whole(_) | Value::Time(_) | Value::Real(_)),
            Kind::Histogram => matches!(self, Value::Histogram(_)),
        }
    }

    /// As the type of the metric shows it: a gauge is a float.
    fn shown_as(self, kind: Kind) -> Value {
        match (kind, self) {
            (Kind::Gauge, Value::Whole(n)) => Value::Real(n as f64),
            (Kind::Gauge, Value::Time(time)) => Value::Real(time.as_secs_f64()),
            (_, value) => value,
        }
    }

    fn add(&mut self, more: Value) {
        match (self, more) {
            (Value::Whole(sum), Value::Whole(more)) => *sum = sum.wrapping_add(more),
            (Value::Time(sum), Value::Time(more)) => *sum = sum.saturating_add(more),
            (Value::Real(sum), Value::Real(more)) => *sum += more,
            (Value::Histogram(sum), Value::Histogram(more)) => sum.add(&more),
            (value, more) => *value = more,
        }
    }
}

impl From<u64> for Value {
    fn from(n: u64) -> Value {
        Value::Whole(n)
    }
}

impl From<usize> for Value {
    fn from(n: usize) -> Value {
        Value::Whole(n as u64)
    }
}

impl From<bool> for Value {
    fn from(yes: bool) -> Value {
        Value::Whole(u64::from(yes))
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Value {
        Value::Real(value)
    }
}

impl From<Duration> for Value {
    fn from(time: Duration) -> Value {
        Value::Time(time)
    }
}

impl From<Buckets> for Value {
    fn from(buckets: Buckets) -> Value {
        Value::Histogram(Box::new(buckets))
    }
}

impl From<&u64> for Value {
    fn from(n: &u64) -> Value {
        Value::Whole(*n)
    }
}

/// A number with many writers, counted by locked instructions.
impl From<&AtomicUsize> for Value {
    fn from(cell: &AtomicUsize) -> Value {
        cell.load(Ordering::Relaxed).into()
    }
}

impl From<&Counter> for Value {
    fn from(cell: &Counter) -> Value {
        Value::Whole(cell.get())
    }
}

impl From<&Gauge> for Value {
    fn from(cell: &Gauge) -> Value {
        Value::Whole(cell.get())
    }
}

impl From<&Histogram> for Value {
    fn from(cell: &Histogram) -> Value {
        cell.snapshot().into()
    }
}

/// What was reported of one metric.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) metric: &'static Metric,
    /// By the values of the labels.
    pub(super) series: BTreeMap<Vec<String>, Value>,
}

/// By the name of the metric.
pub(super) type Families = BTreeMap<&'static str, Family>;

/// Takes what a source reports.
#[derive(Debug)]
pub struct Sink<'a> {
    families: &'a mut Families,
    given: &'a [(&'static str, &'a str)],
}

impl<'a> Sink<'a> {
    pub(super) fn new(families: &'a mut Families) -> Sink<'a> {
        Sink { families, given: &[] }
    }

    /// The same sink where the labels of these names have these values: those of a worker, say.
    pub fn with<'b>(&'b mut self, given: &'b [(&'static str, &'b str)]) -> Sink<'b> {
        Sink { families: self.families, given }
    }

    /// Adds a value to what other sources reported for the same series. `labels` are the values of those labels that the
    /// sink was not given by name, in the order of the metric.
    ///
    /// A report that contradicts its metric (type, labels, or another metric of the same name) would make the whole page
    /// invalid. It is left out and said aloud.
    pub fn put(&mut self, metric: &'static Metric, labels: &[&str], value: impl Into<Value>) {
        let value = value.into();
        let series = series(metric, self.given, labels);
        let family =
            self.families.entry(metric.name).or_insert_with(|| Family { metric, series: BTreeMap::new() });
        let Some(series) = series.filter(|_| value.fits(metric.kind) && *family.metric == *metric) else {
            debug_assert!(false, "metric {} reported against its table", metric.name);
            crate::limited!(error, 1, "metric {} was reported against its table and left out", metric.name);
            return;
        };
        let value = value.shown_as(metric.kind);
        match family.series.get_mut(&series) {
            Some(sum) => sum.add(value),
            None => {
                family.series.insert(series, value);
            }
        }
    }
}

/// The value of each label: the given one of its name, else the next of `labels`; `None` where the two do not add up.
fn series(metric: &Metric, given: &[(&'static str, &str)], labels: &[&str]) -> Option<Vec<String>> {
    let mut labels = labels.iter();
    let values: Option<Vec<String>> = metric
        .labels
        .iter()
        .map(|name| {
            let known = given.iter().find_map(|(known, value)| (known == name).then_some(value));
            known.or_else(|| labels.next()).map(|value| (*value).to_owned())
        })
        .collect();
    values.filter(|_| labels.next().is_none())
}
