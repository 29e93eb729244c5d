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

/// The conditions of a worker.
pub(super) struct Conditions {
    /// The consumer is connected, and takes what waits.
    pub(super) connected: Condition,
    /// Somebody can be asked for what is missing.
    pub(super) endpoints: Condition,
    /// Endpoints announce themselves here, or are given.
    pub(super) expects_endpoints: bool,
}

/// See the module text.
pub(super) struct Report {
    cells: Arc<Cells>,
    conditions: Conditions,
    /// What the conditions were told last.
    consumer: Option<Result<(), Code>>,
    has_endpoints: Option<bool>,
    shown_at: Instant,
    losses: Vec<Lost>,
    unconfirmed: Vec<(HashKey, u64)>,
    recoveries: Vec<Duration>,
}

impl Report {
    pub(super) fn new(cells: Arc<Cells>, conditions: Conditions, now: Instant) -> Report {
        Report {
            cells,
            conditions,
            consumer: None,
            has_endpoints: None,
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

    /// Whether the consumer can be reached and takes what waits, where that changed.
    pub(super) fn consumer(&mut self, now: Instant, consumer: &Consumer) {
        let standing = consumer.standing(now);
        if self.consumer == Some(standing) {
            return;
        }
        self.consumer = Some(standing);
        let connected = &self.conditions.connected;
        match standing {
            Ok(()) => connected.met("reachable"),
            Err(Code::ConsumerStalled) => connected
                .fails(Code::ConsumerStalled, &format!("{} bytes wait, and it takes none", consumer.bytes())),
            Err(code) => connected.fails(code, "the consumer is not connected"),
        }
    }

    /// Whether somebody can be asked for what is missing.
    fn endpoints(&mut self, counts: &Counts) {
        let Conditions { endpoints, expects_endpoints, .. } = &self.conditions;
        let missing = counts.open_gaps > 0;
        if counts.endpoints == 0 && missing {
            service::limited!(
                warn,
                1,
                code = Code::EndpointNone,
                "numbers are missing, and no retry endpoint is known that could be asked: no ADVERT came to the beacon \
                 group (--beacon-port, --beacon-scope), and --retry-endpoints names none"
            );
        }
        let well = counts.endpoints > 0 || !(*expects_endpoints || missing);
        if self.has_endpoints.replace(well) == Some(well) {
            return;
        }
        match well {
            true => endpoints.met("known, or not needed"),
            false => endpoints
                .fails(Code::EndpointNone, "none announced itself on the beacon group, and none is given"),
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
        self.endpoints(&counts);
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
