//! Decisions of the retry role: slices and time in, verdicts out. No socket, no clock, no task.
//!
//! `endpoint` is the whole of one worker, and `round` says how it is called. The other modules follow the path of a frame:
//! `admit` looks at what arrived, `store` keeps it, `limit` says who may ask for how much, `answer` decides what a request
//! gets, `emit` hands repairs to the kernel, `upstream` fetches what is missing here, `advertise` tells listeners where to
//! ask.

pub mod admit;
pub mod advertise;
pub mod answer;
mod counts;
pub mod emit;
mod endpoint;
pub mod limit;
pub mod numbers;
pub mod round;
pub(crate) mod seeded;
pub mod store;
pub mod upstream;

pub use counts::RoundCounts;
pub use endpoint::{Endpoint, EndpointConfig};
