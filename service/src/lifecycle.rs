//! Start, readiness, drain, stop: one `Lifecycle` per role instance, shared by its threads.

use std::time::Duration;

/// Clones share the state.
#[derive(Clone)]
pub struct Lifecycle {}

impl Lifecycle {
    pub fn new(_role: &'static str) -> Lifecycle {
        unimplemented!()
    }
    /// A named reason for not being ready; starts as not met. Ready = all conditions met and not draining.
    pub fn condition(&self, _name: &'static str) -> Condition {
        unimplemented!()
    }
    pub fn is_draining(&self) -> bool {
        unimplemented!()
    }
    /// Completes when drain begins (SIGTERM, SIGINT, or `begin_drain`).
    pub async fn drain_began(&self) {
        unimplemented!()
    }
    /// Idempotent. `readyz` says draining at once.
    pub fn begin_drain(&self) {
        unimplemented!()
    }
    /// (name, met, detail) of every condition, and whether draining: the body of `/readyz`.
    pub fn readiness(&self) -> serde_json::Value {
        unimplemented!()
    }
    pub fn is_ready(&self) -> bool {
        unimplemented!()
    }
}

/// Setter of one condition.
#[derive(Clone)]
pub struct Condition {}

impl Condition {
    pub fn met(&self, _detail: &str) {
        unimplemented!()
    }
    pub fn not_met(&self, _reason: &str) {
        unimplemented!()
    }
}

/// Spawns a worker thread with its own single-threaded tokio runtime. A panic in it ends the process (siblings take
/// over; a process that lives on with a dead worker loses frames).
pub fn spawn_worker<F>(_name: String, _main: impl FnOnce() -> F + Send + 'static) -> std::io::Result<Worker>
where
    F: Future<Output = ()> + 'static,
{
    unimplemented!()
}

/// A running worker thread.
pub struct Worker {}

impl Worker {
    /// Waits for the end of the worker; `false` if it did not end in time.
    pub fn join_within(self, _limit: Duration) -> bool {
        unimplemented!()
    }
}
