//! When the threads of an endpoint stop: the drain began, and nobody asked for a while; `--drain-timeout` after it began at
//! the latest.

use super::counters::NackServerCells;
use service::Lifecycle;
use service::worker::quiet_after_drain;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone)]
pub(super) struct Stop {
    pub(super) lifecycle: Lifecycle,
    pub(super) timeout: Duration,
    /// They say how often somebody asked.
    pub(super) nack_server: Arc<NackServerCells>,
}

impl Stop {
    /// Completes then.
    pub(super) fn reached(&self) -> impl Future<Output = ()> + Send + use<> {
        let cells = Arc::clone(&self.nack_server);
        quiet_after_drain(&self.lifecycle, self.timeout, move || cells.requests.get())
    }
}
