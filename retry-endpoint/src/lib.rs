//! Retry role: store, answer NACKs, advertise, fetch upstream.
//!
//! The path of a frame: `runtime::worker` receives it from its group, `pipeline::admit` looks at it, `pipeline::store`
//! keeps it. The path of a request: `runtime::door` receives it, `pipeline::answer` and `pipeline::limit` check it,
//! `runtime::directory` knows the worker of its flow, the worker looks it up and sends the frame back to the group it
//! came from, and the door sends the reply.

pub mod config;
#[doc(hidden)]
pub mod mutation;
pub mod pipeline;
pub mod runtime;

pub use config::{Config, ROLE};
pub use runtime::{Counters, Running, start, start_with};
