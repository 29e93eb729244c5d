//! Metrics: plain per-worker cells on the packet path, folded into Prometheus text at scrape.
//!
//! Every metric is one `Metric` constant in the table of its role; docs and dashboards are checked against the tables.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter with one writer (its worker) and any number of readers. `add` is a load and a store, not a locked
/// instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A value that goes up and down, one writer.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Latency histogram with fixed power-of-two buckets in nanoseconds, one writer.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; Histogram::BUCKETS],
    sum: AtomicU64,
}

impl Histogram {
    pub const BUCKETS: usize = 40;
    pub fn observe(&self, _value: std::time::Duration) {
        let _ = (&self.buckets, &self.sum);
        unimplemented!()
    }
}

/// What a metric is: its row in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

/// Prometheus type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Something that reports metrics when it is scraped.
pub trait Source: Send + Sync {
    fn collect(&self, sink: &mut Sink<'_>);
}

/// Takes what a source reports. Label values are in the order of `Metric::labels`.
pub struct Sink<'a> {
    _registry: &'a Registry,
}

impl Sink<'_> {
    pub fn counter(&mut self, _metric: &'static Metric, _labels: &[&str], _value: u64) {
        unimplemented!()
    }
    pub fn gauge(&mut self, _metric: &'static Metric, _labels: &[&str], _value: f64) {
        unimplemented!()
    }
    pub fn histogram(&mut self, _metric: &'static Metric, _labels: &[&str], _value: &Histogram) {
        unimplemented!()
    }
}

/// All sources of one role instance (a process may hold several roles, each with its own registry).
#[derive(Default)]
pub struct Registry {}

impl Registry {
    pub fn add(&self, _source: std::sync::Arc<dyn Source>) {
        unimplemented!()
    }
    /// Prometheus text format 0.0.4.
    pub fn render(&self) -> String {
        unimplemented!()
    }
    /// The same as JSON, for `/status`.
    pub fn status(&self) -> serde_json::Value {
        unimplemented!()
    }
}
