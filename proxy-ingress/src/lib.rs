//! Ingress role: takes frames by UDP and TCP, and sends each once, numbered, to its multicast group.
//!
//! [`pipeline`] is the path of a frame as pure decisions; [`runtime`] runs it: one thread per worker with its own
//! sockets, claims and counters.

pub mod config;
pub mod metrics;
#[cfg_attr(not(feature = "mutants"), allow(dead_code, reason = "only the simulator plants faults"))]
#[doc(hidden)]
pub mod mutation;
pub mod pipeline;
pub mod runtime;
pub mod tally;

pub use config::{Config, ROLE};
pub use runtime::{Counters, Running, start};
