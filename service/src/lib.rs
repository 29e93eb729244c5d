#![doc = include_str!("../README.md")]

pub mod admin;
pub mod causes;
pub mod config;
pub mod exposition;
pub mod host;
pub mod lifecycle;
pub mod limit;
pub mod logs;
pub mod metrics;
pub mod notify;
pub mod process;
mod reasons;
pub mod recent;
pub mod run;
pub mod store;
pub mod worker;

pub use lifecycle::{Condition, Lifecycle};
pub use metrics::{Buckets, Counter, Gauge, Histogram, Kind, Metric, Registry, Sink, Source};
pub use recent::Recent;
pub use run::Deps;
#[doc(hidden)]
pub use tracing;
pub use worker::{Worker, spawn_worker, worker_count};
