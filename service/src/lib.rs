#![doc = include_str!("../README.md")]

pub mod admin;
pub mod causes;
pub mod codes;
pub mod config;
pub mod errors;
pub mod exposition;
pub mod host;
pub mod ledger;
pub mod lifecycle;
pub mod limit;
pub mod links;
pub mod logs;
pub mod losses;
pub mod metrics;
pub mod notify;
pub mod process;
pub mod reasons;
pub mod recent;
pub mod run;
pub mod store;
pub mod sums;
pub mod troubles;
mod wall;
pub mod worker;

pub use codes::Code;
pub use ledger::Ledger;
pub use lifecycle::{Condition, Lifecycle};
pub use metrics::{Buckets, Counter, Gauge, Histogram, Kind, Metric, Registry, Sink, Source};
pub use recent::Recent;
pub use run::Deps;
pub use sums::Sum;
#[doc(hidden)]
pub use tracing;
pub use worker::{Worker, spawn_worker, worker_count};
