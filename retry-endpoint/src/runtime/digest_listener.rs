//! Takes the flow digests of senders from the beacon group, so that nothing is announced that its sender announces.
//!
//! An entry goes to the worker that owns its group. A full mailbox drops it, counted: then a flow is announced once more than
//! needed. Digests of other endpoints, our own among them, say nothing about senders and are passed over.

use super::counters::ControlCells;
use super::mailboxes::WorkerMailboxes;
use crate::pipeline::round::Message;
use frame::digest::{Digest, Entry};
use multicast_io::{Burst, Joined};
use service::links::Feed;
use service::worker::{Inlet, Intake, IntakeRules, owner};
use std::io;
use std::sync::Arc;

/// Datagrams of one receive call.
const BATCH: usize = 16;

pub(super) struct DigestListener {
    intake: Intake<()>,
    workers: WorkerMailboxes,
    cells: Arc<ControlCells>,
}

impl DigestListener {
    /// Must be called on the runtime of its thread.
    pub(super) fn new(
        sockets: Vec<Joined>,
        links: Feed,
        workers: WorkerMailboxes,
        cells: Arc<ControlCells>,
    ) -> io::Result<DigestListener> {
        let inlet = |Joined { receiver, memberships }| Inlet {
            tag: (),
            name: "--beacon-port",
            receiver,
            memberships: Some(memberships),
        };
        let rules = IntakeRules { messages: BATCH, ..IntakeRules::default() };
        let intake = Intake::new(rules, sockets.into_iter().map(inlet).collect())?.follow(links);
        Ok(DigestListener { intake, workers, cells })
    }

    /// Runs until `stop` completes.
    pub(super) async fn run(self, stop: impl Future<Output = ()>) {
        let DigestListener { intake, workers, cells } = self;
        let take = |(), burst: &Burst| {
            for arrival in burst.arrivals() {
                if let Ok(digest) = Digest::decode(burst.bytes(arrival.span))
                    && !digest.is_relayed()
                {
                    hand_over(&digest, &workers, &cells);
                }
            }
        };
        intake.run(Burst::new(BATCH, 0), stop, take).await;
    }
}

fn hand_over(digest: &Digest<'_>, workers: &WorkerMailboxes, cells: &ControlCells) {
    cells.digest_entries.add(digest.entries().len() as u64);
    for worker in 0..workers.workers() {
        let mine = |entry: &Entry| owner(entry.group, workers.workers()) == worker;
        let flows: Vec<_> =
            digest.entries().filter(mine).map(|entry| (entry.hash_key, entry.highest)).collect();
        if !flows.is_empty() && !workers.send(worker, Message::DigestHeard { flows }) {
            cells.digests_dropped.add(1);
        }
    }
}
