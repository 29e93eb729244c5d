//! Ingress role: takes frames by UDP and TCP, and sends each once, numbered, to its multicast group.
//!
//! [`pipeline`] is the path of a frame as pure decisions; its [`round`](pipeline::round) is what a worker does. [`runtime`]
//! runs it: one thread per worker with its own sockets, claims and counters.

/// Whether a fault is planted into `$part`.
#[cfg(feature = "mutants")]
macro_rules! planted {
    ($part:expr, $fault:ident) => {
        $part.mutation == Some(crate::mutation::Mutation::$fault)
    };
}

/// No fault is ever planted, and none has a name in the binary.
#[cfg(not(feature = "mutants"))]
macro_rules! planted {
    ($part:expr, $fault:ident) => {
        false
    };
}

pub mod config;
pub mod drops;
pub mod metrics;
#[cfg(feature = "mutants")]
#[doc(hidden)]
pub mod mutation;
mod needs;
pub mod pipeline;
pub mod runtime;
pub mod stream_tally;
pub mod tally;
pub mod variants;

pub use config::{Config, ROLE};
pub use needs::needs;
pub use runtime::{Counters, Running, start};
