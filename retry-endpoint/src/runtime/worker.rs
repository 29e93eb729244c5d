//! A worker: takes what its share of the groups brings, and what other threads hand over, in rounds.
//!
//! A round: datagrams or messages, then `Endpoint::commit` until it is done. All deciding is in `pipeline::Endpoint`; the thread
//! waits between rounds, and within one only for a full socket. Nothing here takes a lock on the path of a frame.

use super::counters::WorkerCells;
use super::round_io::WorkerIo;
use crate::pipeline::round::{Message, Next};
use crate::pipeline::{Endpoint, RoundCounts};
use multicast_io::Burst;
use multicast_io::receive::BATCH;
use service::links::Feed;
use service::worker::{Intake, Mailbox};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// Messages of one round: requests are answered together.
const MESSAGES: usize = 64;
/// Frames wait at most so long for the shared tier.
const FLUSH: Duration = Duration::from_millis(5);
/// Flows in the snapshot for `/status`.
const COVERAGE: usize = 256;

pub(super) struct Worker {
    endpoint: Endpoint,
    intake: Intake<()>,
    burst: Burst,
    messages: Mailbox<Message>,
    io: WorkerIo,
    links: Feed,
    cells: Arc<WorkerCells>,
}

impl Worker {
    pub(super) fn new(
        endpoint: Endpoint,
        intake: Intake<()>,
        messages: Mailbox<Message>,
        io: WorkerIo,
        links: Feed,
    ) -> Worker {
        let cells = Arc::clone(&io.cells);
        Worker { endpoint, intake, burst: Burst::new(BATCH, 0), messages, io, links, cells }
    }

    /// Runs until `stop` completes.
    pub(super) async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let mut second = tokio::time::interval(Duration::from_secs(1));
        let mut flush = tokio::time::interval(FLUSH);
        flush.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let shared = self.io.shared.is_some();
        let mut timeout = std::pin::pin!(tokio::time::sleep_until(Instant::now().into()));
        loop {
            // It is moved only where it changed: that costs a lock of the runtime's timers.
            let due = self.endpoint.next_timeout().map(tokio::time::Instant::from);
            if let Some(at) = due.filter(|at| *at != timeout.deadline()) {
                timeout.as_mut().reset(at);
            }
            tokio::select! {
                () = self.intake.ready() => self.take_arrivals().await,
                message = self.messages.next() => {
                    let Some(message) = message else { return };
                    self.take(message).await;
                }
                _ = flush.tick(), if shared => self.io.flush_shared(),
                () = &mut timeout, if due.is_some() => self.commit().await,
                () = self.links.changed() => self.io.follow(&self.links.seen()),
                _ = second.tick() => self.show(),
                () = &mut stop => break,
            }
        }
        self.io.flush_shared();
        self.show();
    }

    /// Takes what the sockets hold, a turn over all of them.
    async fn take_arrivals(&mut self) {
        while let Some(()) = self.intake.next(&mut self.burst) {
            self.endpoint.begin(self.intake.last_input(), &self.burst, &mut self.io);
        }
        self.commit().await;
    }

    /// Takes `message` and what waits behind it.
    async fn take(&mut self, message: Message) {
        self.endpoint.message(message);
        for _ in 1..MESSAGES {
            let Some(message) = self.messages.ready() else { break };
            self.endpoint.message(message);
        }
        self.commit().await;
    }

    /// Finishes the round.
    async fn commit(&mut self) {
        while let Next::Full { socket, until } = self.endpoint.commit(Instant::now(), &mut self.io) {
            self.io.wait(socket, until).await;
        }
        count(&self.cells, &self.endpoint.take_counts());
    }

    /// Once a second: joins again, and shows what only this thread knows.
    fn show(&mut self) {
        let now = Instant::now();
        self.intake.upkeep(now);
        let (stats, sockets, cells) = (self.endpoint.stats(now), self.intake.counts(), &self.cells);
        cells.log_bytes.set(stats.log_bytes);
        cells.log_capacity.set(stats.log_capacity);
        cells.pages.set(stats.pages);
        cells.pages_evicted.set(stats.pages_evicted);
        cells.segments_left.set(stats.segments_left);
        cells.mismatches.set(stats.hash_mismatches);
        cells.flows.set(stats.flows);
        cells.flows_forgotten.set(stats.flows_forgotten);
        cells.flows_unservable.set(stats.flows_unservable);
        cells.horizon_ms.set(u64::try_from(stats.horizon.as_millis()).unwrap_or(u64::MAX));
        cells.kernel_drops.set(sockets.kernel_drops);
        cells.truncated.set(sockets.truncated);
        cells.queued_errors.set(sockets.queued_errors + self.io.queued_errors());
        cells.gso_refused.set(self.io.gso_refused());
        cells.injected.set(self.intake.dropped_on_purpose());
        *cells.coverage.lock().unwrap_or_else(PoisonError::into_inner) = self.endpoint.coverage(COVERAGE);
    }
}

/// Adds the counts of a round to those that a scrape reads. It names every count: the compiler finds one that is not added.
fn count(cells: &WorkerCells, round: &RoundCounts) {
    let many = |cells: &[service::Counter], counts: &[u64]| {
        cells.iter().zip(counts).for_each(|(cell, count)| cell.add(*count));
    };
    let RoundCounts {
        received,
        received_bytes,
        cached,
        brought,
        hits,
        misses,
        forwarded,
        queue_dropped,
        retransmits,
        retransmit_bytes,
        retransmit_failed,
        dedup,
        limited,
        unproven,
    } = *round;
    cells.received.add(received);
    cells.received_bytes.add(received_bytes);
    cells.cached.add(cached);
    cells.brought.add(brought);
    cells.hits.add(hits);
    cells.misses.add(misses);
    cells.forwarded.add(forwarded);
    cells.queue_dropped.add(queue_dropped);
    cells.retransmits.add(retransmits);
    cells.retransmit_bytes.add(retransmit_bytes);
    cells.retransmit_failed.add(retransmit_failed);
    cells.dedup.add(dedup);
    many(&cells.limited, &limited);
    cells.unproven.add(unproven);
}
