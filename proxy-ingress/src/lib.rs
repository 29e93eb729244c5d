//! Ingress role: takes frames by UDP and TCP, and sends each once, numbered, to its multicast group.
//!
//! [`pipeline`] is the path of a frame as pure decisions; `runtime` runs it: one thread per worker with its own
//! sockets, claims and counters, and one control task for admin and metrics.

pub mod pipeline;
pub mod tally;
