//! The guard around every remote session. A server that is slow or dead must cost neither frames nor latency.
//!
//! Promises: No call waits longer than its deadline. While the breaker is open, or too much waits already, a batch is
//! answered at once and nothing is sent. One log line says that the breaker opened, and one that it closed.
//!
//! *Deadline*: a small multiple of the p99 of the last seconds. It is never below the floor, and never above the operation
//! timeout of the settings or the deadline of the caller. A batch that timed out counts as twice its deadline, so a server
//! that became slower as a whole gets more time instead of being cut off for good. The deadline runs anew from every answer
//! that the connection brings, also a late one, up to the operation timeout. A batch that waits behind others is as late
//! as they are, so a burst after a calm is not taken for a server that hangs.
//!
//! *Breaker*: one for each server, shared by the workers. Closed: a run of failures opens it, if the run lasts at least half
//! an operation timeout; one hiccup under several batches in flight is one event and not a run. Open: after a pause one
//! real batch goes as a probe (half-open). If it is answered the breaker closes, else it stays open for twice as long. A
//! batch failed when more than half of its keys have no answer.
//!
//! *Judged by writes*: a server that is full, read-only or cut off from its replicas goes on answering reads, and deletes
//! while it is full. So reads and deletes do not end a run in which a write failed, and do not close a breaker that such
//! a run opened: then only writes are probes. Some stores are worth something without writes (frames,
//! `RemoteSettings::reads_without_writes`). There reads and deletes pass an open breaker as long as the server refuses
//! writes and answers.
//!
//! *Lost connections*: each is one failure, however many batches waited on it and however many workers lost theirs at that
//! moment. A dial that failed is one failure too. A dial that saw a write and its read within one operation timeout closes
//! the breaker, as an answered probe does.
//!
//! *Down*: while a session has no connection its batches are refused at once, unsent, and nothing is judged.
//!
//! *Bounds*, for each session: batches and bytes that wait for their answer. Beyond them a batch is refused as overloaded.
//! That says nothing about the server and does not move the breaker.
//!
//! Cost: one uncontended lock and one timer a batch; nothing per key.
//!
//! *A backend of one's own*: one [`Breaker`] for each server, [`Guarded::new`] around each session. A dial tells the breaker
//! what it saw (`proved`, `dial_failed`), a degraded start begins with `begin_open`. A session that reads replies itself
//! notes each in its [`Heard`]. `examples/own_backend.rs` is such a backend.
//!
//! Order of the modules: `session` is what a batch passes, `breaker` judges it, `percentile` and `heard` are what the judge
//! knows of time, `stats` and `latency` what others see.

mod breaker;
mod heard;
mod latency;
mod percentile;
mod session;
mod stats;

pub use breaker::Breaker;
pub use heard::Heard;
pub use latency::Latency;
pub use session::Guarded;
pub(crate) use session::vec_of_errors;
pub use stats::{BreakerState, GuardStats};
