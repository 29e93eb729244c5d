//! Egress role: filter, track gaps, repair, reassemble, deliver.
//!
//! `pipeline` holds the decisions, in the order of a frame's path; `runtime` the sockets, threads and timers around it.

#[macro_use]
mod planted;
pub mod config;
#[cfg(feature = "mutants")]
#[doc(hidden)]
pub mod mutation;
mod needs;
pub mod pipeline;
mod resolve;
mod runtime;

pub use config::{Config, ROLE};
pub use needs::needs;
pub use runtime::{Counters, Running, metrics, start};
