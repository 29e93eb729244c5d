//! Egress role: filter, track gaps, repair, reassemble, deliver.
//!
//! `pipeline` holds the decisions, in the order of a frame's path; `runtime` the sockets, threads and timers around it.

pub mod config;
#[cfg_attr(not(feature = "mutants"), allow(dead_code, reason = "only the simulator plants faults"))]
#[doc(hidden)]
pub mod mutation;
pub mod pipeline;
mod runtime;

pub use config::{Config, ROLE};
pub use runtime::{Counters, Running, metrics, start};
