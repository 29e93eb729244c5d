//! A worker: receives its share of the groups, keeps the frames, answers requests for them.
//!
//! It owns its sockets, its store, its limits and its senders; nothing here takes a lock on the path of a frame. A repair
//! goes from the store's segment to the kernel without a copy.

use super::counters::WorkerCells;
use super::emit::{Emitter, Link};
use super::post::{Inlet, Outlet, Post, ToDoor, ToWorker};
use super::shared::{Lookup, SharedLink};
use crate::config::Config;
use crate::pipeline::admit::{Admitted, admit};
use crate::pipeline::answer::{Plan, Policy, Repair, Request};
use crate::pipeline::limit::{RepairLimits, Trusted};
use crate::pipeline::store::{Lifetimes, Limits, Put, Store};
use crate::pipeline::upstream::Wanted;
use bytes::Bytes;
use frame::flow::Route;
use frame::{DataFrame, Fabric, Fragment, GroupIndex, Kind, ShardBits};
use multicast_io::{Burst, Ready, Receiver, loss::Loss};
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

/// Datagrams a receive call takes.
const BATCH: usize = 64;
/// Receive calls of one socket before the others and the requests get their turn.
const TURNS: usize = 8;
/// Requests answered before the sockets get their turn.
const REQUESTS: usize = 64;
/// Flows in the snapshot for `/status`.
const COVERAGE: usize = 256;

/// Everything a worker is built from; travels to its thread.
pub(crate) struct Setup {
    pub(crate) index: usize,
    pub(crate) count: usize,
    pub(crate) config: Arc<Config>,
    pub(crate) fabric: Fabric,
    pub(crate) shard_bits: ShardBits,
    pub(crate) sockets: Vec<Receiver>,
    pub(crate) links: Vec<Link>,
    pub(crate) post: Post,
    pub(crate) inlet: Inlet<ToWorker>,
    pub(crate) door: Outlet<ToDoor>,
    pub(crate) upstream: Option<Outlet<Wanted>>,
    pub(crate) shared: Option<SharedLink>,
    pub(crate) cells: Arc<WorkerCells>,
    pub(crate) lifetimes: Lifetimes,
    pub(crate) seed: u64,
}

pub(crate) struct Worker {
    index: usize,
    count: usize,
    fabric: Fabric,
    shard_bits: ShardBits,
    sockets: Vec<Ready<Receiver>>,
    /// Out only while its datagrams are kept.
    burst: Option<Burst>,
    loss: Option<Loss>,
    store: Store,
    limits: RepairLimits,
    policy: Policy,
    plan: Plan,
    emitter: Emitter,
    post: Post,
    door: Outlet<ToDoor>,
    upstream: Option<Outlet<Wanted>>,
    shared: Option<SharedLink>,
    cells: Arc<WorkerCells>,
}

impl Worker {
    /// Must be called on the worker's runtime.
    pub(crate) fn new(setup: Setup) -> io::Result<(Worker, Inlet<ToWorker>)> {
        let Setup { config, index, count, seed, .. } = setup;
        let now = Instant::now();
        let percent = config.inject_loss.percent();
        let loss = (percent > 0.0).then(|| Loss::new(percent, config.inject_seed.wrapping_add(index as u64)));
        let limits =
            Limits { bytes: config.cache_bytes.as_usize() / count, flows: config.cache_flows / count };
        let trusted = Trusted::new(config.trusted_listeners.clone());
        let sockets = setup.sockets.into_iter();
        let worker = Worker {
            index,
            count,
            fabric: setup.fabric,
            shard_bits: setup.shard_bits,
            sockets: sockets.map(Ready::new).collect::<io::Result<_>>()?,
            burst: Some(Burst::new(BATCH, 0)),
            loss,
            store: Store::new(limits, setup.lifetimes, config.verify_payload_hash, seed, now),
            limits: RepairLimits::new(config.repair_rates(), trusted, seed, now),
            policy: config.policy(),
            plan: Plan::default(),
            emitter: Emitter::new(setup.links, &config, setup.fabric)?,
            post: setup.post,
            door: setup.door,
            upstream: setup.upstream,
            shared: setup.shared,
            cells: setup.cells,
        };
        Ok((worker, setup.inlet))
    }

    /// Runs until `stop` completes.
    pub(crate) async fn run(mut self, mut inlet: Inlet<ToWorker>, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        let mut second = tokio::time::interval(Duration::from_secs(1));
        let mut flush = tokio::time::interval(Duration::from_millis(5));
        flush.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let shared = self.shared.is_some();
        loop {
            tokio::select! {
                ready = readable(&self.sockets) => match ready {
                    Ok(()) => self.receive(),
                    Err(error) => {
                        // A worker without its socket loses frames: better to end the process.
                        panic!("retry worker {}: data socket: {error}", self.index);
                    }
                },
                message = inlet.next() => {
                    let Some(message) = message else { return };
                    self.handle(message).await;
                    for _ in 0..REQUESTS {
                        let Some(message) = inlet.ready() else { break };
                        self.handle(message).await;
                    }
                }
                _ = flush.tick(), if shared => self.flush_shared(),
                _ = second.tick() => self.publish(),
                () = &mut stop => break,
            }
        }
        self.flush_shared();
        self.publish();
    }

    // --------------------------------------------------------------------------------------------- frames arrive --

    fn receive(&mut self) {
        let Some(mut burst) = self.burst.take() else { return };
        for at in 0..self.sockets.len() {
            for _ in 0..TURNS {
                burst.clear();
                let socket = &mut self.sockets[at];
                match socket.try_read(|socket| socket.receive(&mut burst, BATCH)) {
                    Ok(0) => break,
                    Ok(_) => self.keep_burst(&mut burst),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => {
                        service::limited!(error, 1, "data socket: receive: {error}");
                        break;
                    }
                }
            }
        }
        self.burst = Some(burst);
    }

    fn keep_burst(&mut self, burst: &mut Burst) {
        if let Some(loss) = &mut self.loss {
            loss.apply(burst, 0);
        }
        let now = Instant::now();
        let mut bytes = 0;
        for arrival in burst.arrivals() {
            let datagram = burst.bytes(arrival.span);
            bytes += datagram.len() as u64;
            match arrival.destination.and_then(|group| self.fabric.index_of(group)) {
                Some(group) => self.keep(datagram, group, now),
                None => self.cells.foreign.add(1),
            }
        }
        self.cells.received.add(burst.arrivals().len() as u64);
        self.cells.received_bytes.add(bytes);
    }

    /// One datagram that arrived on `group`.
    fn keep(&mut self, datagram: &[u8], group: GroupIndex, now: Instant) {
        match admit(datagram) {
            Ok(frame) => {
                if self.put(&frame, group, now)
                    && let Some(shared) = &mut self.shared
                {
                    shared.keep(&frame, &self.cells);
                }
            }
            Err(refusal) => self.cells.refused[refusal.reason()].add(1),
        }
    }

    /// True if the frame is new here.
    fn put(&mut self, frame: &Admitted<'_>, group: GroupIndex, now: Instant) -> bool {
        match self.store.put(frame, group, now) {
            Put::Stored { new_flow } => {
                if new_flow && self.count > 1 {
                    #[allow(clippy::cast_possible_truncation, reason = "at most 254 workers")]
                    self.post.directory.learn(frame.hash_key.0, self.index as u8);
                }
                self.cells.cached.add(1);
                return true;
            }
            Put::Replaced => {
                self.cells.cached.add(1);
                return true;
            }
            Put::Duplicate => self.cells.duplicate.add(1),
            Put::Conflict => self.cells.conflict.add(1),
            Put::Oversize => self.cells.oversize.add(1),
        }
        false
    }

    // ------------------------------------------------------------------------------------------- requests arrive --

    async fn handle(&mut self, message: ToWorker) {
        match message {
            ToWorker::Ask { request, visited } => self.ask(request, visited, true).await,
            ToWorker::Looked { request, frames } => {
                let now = Instant::now();
                for frame in &frames {
                    if let Ok(frame) = admit(frame) {
                        let group = group_of(&frame, self.shard_bits);
                        self.put(&frame, group, now);
                    }
                }
                self.ask(request, self.count, false).await;
            }
            ToWorker::Fetched { frame } => self.replay(&frame).await,
        }
    }

    async fn ask(&mut self, request: Request, visited: usize, may_look: bool) {
        let now = Instant::now();
        self.plan.make(&request, &mut self.store, &mut self.limits, &self.policy, now);
        if self.plan.found_nothing(&request) && visited + 1 < self.count {
            self.cells.forwarded.add(1);
            if self.post.send(self.index + 1, ToWorker::Ask { request, visited: visited + 1 }) {
                return;
            }
            self.cells.queue_dropped.add(1);
        }
        let missing = self.plan.done.missing;
        self.count_plan(&request);
        let waits = may_look && !missing.is_empty() && self.look_up(&request);
        let sent = self.emitter.multicast(&self.store, &self.plan.multicast).await;
        self.plan.multicast_sent(sent, &mut self.store, now);
        self.count_sent(sent);
        if waits {
            // The answer to the lookup brings the request back; its reply covers both halves.
            return;
        }
        if !request.is_proxied()
            && let Some(upstream) = &self.upstream
        {
            for offset in missing.iter() {
                if !upstream.send((request.nack.hash_key, request.seq(offset))) {
                    self.cells.queue_dropped.add(1);
                }
            }
        }
        self.answer(request);
    }

    /// Hands unicast repairs and the reply to the door.
    fn answer(&mut self, request: Request) {
        let mut frames = Vec::with_capacity(self.plan.unicast.len());
        let mut memory = Vec::new();
        for repair in &self.plan.unicast {
            memory.extend_from_slice(self.store.bytes(&repair.place));
            frames.push((repair.offset, memory.len()));
        }
        if !self.door.send(ToDoor { request, done: self.plan.done, frames, memory }) {
            self.cells.queue_dropped.add(1);
        }
    }

    /// Asks the shared tier for what is missing here; false: there is none, or it is too busy.
    fn look_up(&mut self, request: &Request) -> bool {
        let Some(shared) = &self.shared else { return false };
        let numbers = self.plan.done.missing;
        if shared.look_up(Lookup { request: *request, numbers, worker: self.index }) {
            return true;
        }
        self.cells.queue_dropped.add(1);
        false
    }

    /// A frame that an upstream sent: kept, and multicast for all who asked.
    async fn replay(&mut self, datagram: &Bytes) {
        let now = Instant::now();
        let Ok(frame) = admit(datagram) else { return };
        let group = group_of(&frame, self.shard_bits);
        if !self.put(&frame, group, now) {
            return;
        }
        if let Some(stored) = self.store.get(frame.hash_key, frame.seq, now) {
            let repair = Repair { offset: 0, place: stored.place, group };
            self.plan.clear();
            self.plan.multicast.push(repair);
            let sent = self.emitter.multicast(&self.store, &self.plan.multicast).await;
            self.plan.multicast_sent(sent, &mut self.store, now);
            self.count_sent(sent);
        }
    }

    fn flush_shared(&mut self) {
        if let Some(shared) = &mut self.shared {
            shared.flush(&self.cells);
        }
    }

    // ---------------------------------------------------------------------------------------------------- counts --

    fn count_plan(&self, request: &Request) {
        let missing = self.plan.done.missing.len() as u64;
        self.cells.misses.add(missing);
        self.cells.hits.add(request.count().saturating_sub(missing));
        self.cells.dedup.add(self.plan.repeated as u64);
        self.cells.unproven.add(self.plan.unproven as u64);
        for (cell, limited) in self.cells.limited.iter().zip(self.plan.limited) {
            cell.add(limited);
        }
    }

    fn count_sent(&self, sent: usize) {
        let repairs = self.plan.multicast.iter().take(sent);
        self.cells.retransmits.add(sent as u64);
        self.cells.retransmit_bytes.add(repairs.map(|repair| u64::from(repair.place.span.len)).sum());
        self.cells.retransmit_failed.add((self.plan.multicast.len() - sent) as u64);
    }

    /// Copies what only this thread knows into the cells.
    fn publish(&self) {
        let stats = self.store.stats(Instant::now());
        let cells = &self.cells;
        cells.log_bytes.set(stats.log_bytes);
        cells.log_capacity.set(stats.log_capacity);
        cells.pages.set(stats.pages);
        cells.pages_evicted.set(stats.pages_evicted);
        cells.segments_left.set(stats.segments_left);
        cells.mismatches.set(stats.hash_mismatches);
        cells.flows.set(stats.flows);
        cells.horizon_ms.set(u64::try_from(stats.horizon.as_millis()).unwrap_or(u64::MAX));
        cells.kernel_drops.set(self.sockets.iter().map(|socket| socket.get_ref().kernel_drops()).sum());
        cells.truncated.set(self.sockets.iter().map(|socket| socket.get_ref().truncated()).sum());
        cells.injected.set(self.loss.as_ref().map_or(0, Loss::dropped));
        let coverage = self.store.coverage(COVERAGE);
        *cells.coverage.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = coverage;
    }
}

/// Completes when one of the sockets has something.
async fn readable(sockets: &[Ready<Receiver>]) -> io::Result<()> {
    std::future::poll_fn(|context| {
        let mut any = false;
        for socket in sockets {
            match socket.poll_readable(context) {
                Poll::Ready(Ok(_)) => any = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
        }
        if any { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

/// Group of a frame that did not come from one (wire 2).
pub(crate) fn group_of(frame: &Admitted<'_>, bits: ShardBits) -> GroupIndex {
    let route = match Kind::of(frame.bytes) {
        Ok(Kind::Fragment) => Fragment::decode(frame.bytes)
            .ok()
            .and_then(|fragment| Route::of_fragment(&fragment, bits, bits).map(|route| route.destination)),
        _ => DataFrame::decode(frame.bytes)
            .ok()
            .and_then(|data| Route::of(&data, bits, bits).map(|route| route.destination)),
    };
    route.unwrap_or(GroupIndex(0))
}
