//! Retry role: store, answer NACKs, advertise, fetch upstream.
//!
//! The path of a frame: `runtime::worker` receives it from its group, `pipeline::admit` looks at it, `pipeline::store`
//! keeps it.
//!
//! The path of a request: `runtime::nack_server` receives it, `pipeline::answer` and `pipeline::limit` check it,
//! `runtime::directory` knows the worker of its flow. The worker looks it up (`pipeline::endpoint`), sends the frame to the
//! group it came from (`pipeline::emit`) and hands the answer back. The NACK server sends the reply.

pub mod config;
#[doc(hidden)]
pub mod mutation;
mod needs;
pub mod pipeline;
pub mod runtime;

pub use config::{Config, ROLE};
pub use needs::needs;
pub use runtime::{Counters, Running, start};
