//! What every role shares: configuration, admin HTTP, metrics, logs, signals, drain.

pub mod admin;
pub mod config;
pub mod lifecycle;
pub mod limit;
pub mod logs;
pub mod metrics;

pub use lifecycle::{Condition, Lifecycle};
pub use metrics::{Counter, Gauge, Histogram, Metric, Registry, Sink, Source};
