//! What a worker shows: its totals a few times a second, whether its consumer is reachable, and what it lost, in the log.

use super::cells::Cells;
use super::consumer::Consumer;
use crate::pipeline::{Counts, Door, Lost, Pipeline};
use frame::HashKey;
use service::worker::Intake;
use service::{Code, Condition};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often totals are shown while there is work.
const SHOW: Duration = Duration::from_millis(10);

/// See the module text.
pub(super) struct Report {
    cells: Arc<Cells>,
    connected: Condition,
    was_connected: Option<bool>,
    shown_at: Instant,
    losses: Vec<Lost>,
    unconfirmed: Vec<(HashKey, u64)>,
    recoveries: Vec<Duration>,
}

impl Report {
    pub(super) fn new(cells: Arc<Cells>, connected: Condition, now: Instant) -> Report {
        Report {
            cells,
            connected,
            was_connected: None,
            shown_at: now,
            losses: Vec::new(),
            unconfirmed: Vec::new(),
            recoveries: Vec::new(),
        }
    }

    /// Totals are to be shown.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        now.duration_since(self.shown_at) >= SHOW
    }

    /// Whether the consumer can be reached, where that changed.
    pub(super) fn connection(&mut self, consumer: &Consumer) {
        let connection = consumer.connection();
        if self.was_connected == Some(connection.is_ok()) {
            return;
        }
        self.was_connected = Some(connection.is_ok());
        match connection {
            Ok(()) => self.connected.met("reachable"),
            Err(reason) => self.connected.fails(Code::ConsumerRefused, reason),
        }
    }

    /// What was lost and recovered since the last call.
    pub(super) fn log(&mut self, pipeline: &mut Pipeline) {
        pipeline.take_losses(&mut self.losses);
        for lost in self.losses.drain(..) {
            service::limited!(
                warn,
                10,
                "lost: flow {:016x}, numbers {} to {} ({:?})",
                lost.key.0,
                lost.first,
                lost.last,
                lost.why
            );
        }
        pipeline.take_unconfirmed(&mut self.unconfirmed);
        for (key, next) in self.unconfirmed.drain(..) {
            service::limited!(
                warn,
                10,
                "flow {:016x}: no retry endpoint said whether numbers from {next} on were sent",
                key.0
            );
        }
        pipeline.take_recoveries(&mut self.recoveries);
        for open_for in self.recoveries.drain(..) {
            self.cells.recovery.observe(open_for);
        }
    }

    /// Totals.
    pub(super) fn show(
        &mut self,
        now: Instant,
        pipeline: &mut Pipeline,
        intake: &Intake<Door>,
        consumer: &Consumer,
    ) {
        self.shown_at = now;
        if let Some(claims) = pipeline.claims_mut() {
            self.cells.recent.set_owner(claims.owner());
        }
        let sockets = intake.counts();
        let counts: Counts = pipeline.counts().clone();
        self.cells.show(|shown| {
            shown.counts = counts;
            shown.dropped_on_purpose = intake.dropped_on_purpose();
            shown.queue_bytes = consumer.bytes() as u64;
            shown.reconnects = consumer.reconnects();
            shown.kernel_drops = sockets.kernel_drops;
            shown.truncated = sockets.truncated;
            shown.queued_errors = sockets.queued_errors;
        });
    }
}
