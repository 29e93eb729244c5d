//! Listens to the flow digests of senders on the beacon group, so that nothing is announced that its sender announces.
//!
//! What it hears goes to the worker that holds the group. A full queue drops it, counted: then a flow is announced once
//! more than needed. Digests of other endpoints say nothing about senders and are passed over, our own among them.

use super::counters::ControlCells;
use super::post::{Post, ToWorker};
use frame::digest::Digest;
use multicast_io::membership::REJOIN;
use multicast_io::{Burst, Joined, Ready};
use std::sync::Arc;

/// Datagrams of one receive call.
const BATCH: usize = 16;

pub(crate) struct Overhear {
    pub(crate) sockets: Vec<Joined>,
    pub(crate) post: Post,
    pub(crate) cells: Arc<ControlCells>,
}

impl Overhear {
    /// Runs until `stop` completes.
    pub(crate) async fn run(self, stop: impl Future<Output = ()>) {
        let Overhear { sockets, post, cells } = self;
        for socket in sockets {
            tokio::task::spawn_local(listen(socket, post.clone(), cells.clone()));
        }
        stop.await;
    }
}

async fn listen(joined: Joined, post: Post, cells: Arc<ControlCells>) {
    let Joined { receiver, memberships } = joined;
    let mut burst = Burst::new(BATCH, 0);
    let mut socket = match Ready::new(receiver) {
        Ok(socket) => socket,
        Err(error) => return tracing::error!("beacon socket: {error}: all silent flows are announced"),
    };
    let mut rejoin = tokio::time::interval(REJOIN);
    loop {
        burst.clear();
        tokio::select! {
            taken = socket.read_with(|socket| socket.receive(&mut burst, BATCH)) => {
                if let Err(error) = taken {
                    service::limited!(error, 1, "beacon socket: receive: {error}");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
            }
            _ = rejoin.tick() => {
                if let Err(error) = memberships.assert(socket.get_ref()) {
                    service::limited!(error, 1, "joining the beacon group again failed: {error}");
                }
            }
        }
        for arrival in burst.arrivals() {
            if let Ok(digest) = Digest::decode(burst.bytes(arrival.span))
                && !digest.is_relayed()
            {
                hand_over(&digest, &post, &cells);
            }
        }
    }
}

fn hand_over(digest: &Digest<'_>, post: &Post, cells: &ControlCells) {
    cells.digest_entries.add(digest.entries().len() as u64);
    for worker in 0..post.workers.len() {
        let mine = |entry: &frame::digest::Entry| usize::from(entry.group.0) % post.workers.len() == worker;
        let flows: Vec<_> =
            digest.entries().filter(mine).map(|entry| (entry.hash_key, entry.highest)).collect();
        if !flows.is_empty() && !post.send(worker, ToWorker::Heard { flows }) {
            cells.digests_dropped.add(1);
        }
    }
}
