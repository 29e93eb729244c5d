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
use crate::pipeline::advertise::{ANNOUNCE_EVERY, DIGESTS_AT_ONCE, FLOWS_OF_A_DIGEST};
use crate::pipeline::answer::{Done, Plan, Policy, Repair, Request};
use crate::pipeline::limit::{RepairLimits, Trusted};
use crate::pipeline::store::{Lifetimes, Limits, Put, Store};
use crate::pipeline::upstream::Wanted;
use bytes::Bytes;
use frame::digest::Entry;
use frame::flow::Route;
use frame::{DataFrame, Fabric, Fragment, GroupIndex, HashKey, Kind, SeqNum, ShardBits};
use multicast_io::membership::REJOIN;
use multicast_io::{Burst, Joined, Memberships, Ready, Receiver, loss::Loss};
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Datagrams a receive call takes.
const BATCH: usize = 64;
/// Receive calls of one socket before the others and the requests get their turn.
const TURNS: usize = 8;
/// Requests answered together.
const REQUESTS: usize = 64;
/// Flows in the snapshot for `/status`.
const COVERAGE: usize = 256;

/// An answer on its way: what leaves by multicast is on the common list.
struct Answer {
    request: Request,
    done: Done,
    unicast: Vec<Repair>,
}

/// Everything a worker is built from; travels to its thread.
pub(crate) struct Setup {
    pub(crate) index: usize,
    pub(crate) count: usize,
    pub(crate) config: Arc<Config>,
    pub(crate) fabric: Fabric,
    pub(crate) shard_bits: ShardBits,
    pub(crate) sockets: Vec<Joined>,
    pub(crate) links: Vec<Link>,
    pub(crate) post: Post,
    pub(crate) inlet: Inlet<ToWorker>,
    pub(crate) door: Outlet<ToDoor>,
    pub(crate) upstream: Option<Outlet<Wanted>>,
    pub(crate) shared: Option<SharedLink>,
    pub(crate) announcements: Option<mpsc::Sender<Vec<Entry>>>,
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
    /// Of each socket.
    memberships: Vec<Memberships>,
    /// Out only while its datagrams are kept.
    burst: Option<Burst>,
    loss: Option<Loss>,
    store: Store,
    limits: RepairLimits,
    policy: Policy,
    plan: Plan,
    /// Repairs that leave together, and the answers that wait for them.
    repairs: Vec<Repair>,
    answers: Vec<Answer>,
    emitter: Emitter,
    post: Post,
    door: Outlet<ToDoor>,
    upstream: Option<Outlet<Wanted>>,
    shared: Option<SharedLink>,
    /// To the beacon.
    announcements: Option<mpsc::Sender<Vec<Entry>>>,
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
        let (sockets, memberships): (Vec<_>, Vec<_>) =
            setup.sockets.into_iter().map(|joined| (joined.receiver, joined.memberships)).unzip();
        let worker = Worker {
            index,
            count,
            fabric: setup.fabric,
            shard_bits: setup.shard_bits,
            sockets: sockets.into_iter().map(Ready::new).collect::<io::Result<_>>()?,
            memberships,
            burst: Some(Burst::new(BATCH, 0)),
            loss,
            store: Store::new(limits, setup.lifetimes, config.verify_payload_hash, seed, now),
            limits: RepairLimits::new(config.repair_rates(), trusted, seed, now),
            policy: config.policy(),
            plan: Plan::default(),
            repairs: Vec::new(),
            answers: Vec::new(),
            emitter: Emitter::new(setup.links, &config, setup.fabric)?,
            post: setup.post,
            door: setup.door,
            upstream: setup.upstream,
            shared: setup.shared,
            announcements: setup.announcements,
            cells: setup.cells,
        };
        Ok((worker, setup.inlet))
    }

    /// Runs until `stop` completes.
    pub(crate) async fn run(mut self, mut inlet: Inlet<ToWorker>, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        let mut second = tokio::time::interval(Duration::from_secs(1));
        let mut rejoin = tokio::time::interval(REJOIN);
        let mut flush = tokio::time::interval(Duration::from_millis(5));
        flush.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut announce = tokio::time::interval(ANNOUNCE_EVERY);
        announce.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (shared, announces) = (self.shared.is_some(), self.announcements.is_some());
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
                    self.handle(message, &mut inlet).await;
                }
                _ = flush.tick(), if shared => self.flush_shared(),
                _ = announce.tick(), if announces => self.announce(),
                _ = second.tick() => self.publish(),
                _ = rejoin.tick() => self.rejoin(),
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

    /// Memberships lapse after changes of routes and interfaces.
    fn rejoin(&self) {
        for (socket, memberships) in self.sockets.iter().zip(&self.memberships) {
            if let Err(error) = memberships.assert(socket.get_ref()) {
                service::limited!(error, 1, "joining again failed: {error}");
            }
        }
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
            Err(refusal) => self.cells.refused[refusal.index()].add(1),
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

    /// Takes `message` and what waits behind it, sends all repairs together (so that single requests ride in trains), then
    /// answers.
    async fn handle(&mut self, message: ToWorker, inlet: &mut Inlet<ToWorker>) {
        let now = Instant::now();
        self.plan_for(message, now);
        for _ in 1..REQUESTS {
            let Some(message) = inlet.ready() else { break };
            self.plan_for(message, now);
        }
        self.send_repairs(now).await;
        let mut answers = std::mem::take(&mut self.answers);
        for answer in answers.drain(..) {
            self.answer(answer);
        }
        self.answers = answers;
    }

    fn plan_for(&mut self, message: ToWorker, now: Instant) {
        match message {
            ToWorker::Ask { request, visited } => self.ask(request, visited, true, now),
            ToWorker::Looked { request, frames } => {
                for frame in &frames {
                    self.put_foreign(frame, now);
                }
                self.ask(request, self.count, false, now);
            }
            ToWorker::Fetched { frame } => self.replay(&frame, now),
            ToWorker::Heard { flows } => {
                for (hash_key, highest) in flows {
                    self.store.heard_of(hash_key, highest, now);
                }
            }
        }
    }

    fn ask(&mut self, request: Request, visited: usize, may_look: bool, now: Instant) {
        self.plan.make(&request, &mut self.store, &mut self.limits, &self.policy, now);
        if self.plan.found_nothing(&request) && visited + 1 < self.count {
            self.cells.forwarded.add(1);
            if self.post.send(self.index + 1, ToWorker::Ask { request, visited: visited + 1 }) {
                return;
            }
            self.cells.queue_dropped.add(1);
        }
        self.count_plan(&request);
        let missing = self.plan.done.missing;
        let waits = may_look && !missing.is_empty() && self.look_up(&request);
        self.plan.multicast_presumed(&mut self.store, now);
        self.repairs.extend_from_slice(&self.plan.multicast);
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
        self.answers.push(Answer { request, done: self.plan.done, unicast: self.plan.unicast.clone() });
    }

    /// Sends what the plans collected; what the kernel refuses is taken back from every answer.
    async fn send_repairs(&mut self, now: Instant) {
        let planned = self.repairs.len();
        // A frame kept meanwhile (fetched, looked up) may have pushed a segment out.
        self.repairs.retain(|repair| self.store.is_live(&repair.place));
        let mut all_left = self.repairs.len() == planned;
        self.repairs.sort_by_key(|repair| (repair.place.segment, repair.group));
        let sent = self.emitter.multicast(&self.store, &self.repairs).await;
        let (left, refused) = self.repairs.split_at(sent);
        self.cells.retransmits.add(left.len() as u64);
        self.cells.retransmit_bytes.add(left.iter().map(|repair| u64::from(repair.place.span.len)).sum());
        self.cells.retransmit_failed.add(refused.len() as u64);
        for repair in refused {
            self.store.unmark_repaired(&repair.place);
        }
        all_left &= refused.is_empty();
        if !all_left {
            for answer in &mut self.answers {
                answer.done.recheck(&answer.request, &self.store, &self.policy, now);
            }
        }
        self.repairs.clear();
    }

    /// Hands unicast repairs and the reply to the door.
    fn answer(&mut self, answer: Answer) {
        let Answer { request, done, unicast } = answer;
        let mut frames = Vec::with_capacity(unicast.len());
        let mut memory = Vec::new();
        for repair in &unicast {
            let bytes = self.store.bytes(&repair.place);
            if !bytes.is_empty() {
                memory.extend_from_slice(bytes);
                frames.push((repair.offset, memory.len()));
            }
        }
        if !self.door.send(ToDoor { request, done, frames, memory }) {
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
    fn replay(&mut self, datagram: &Bytes, now: Instant) {
        let Some((hash_key, seq, group)) = self.put_foreign(datagram, now) else { return };
        if let Some(stored) = self.store.get(hash_key, seq, now) {
            self.store.mark_repaired(&stored.place, now);
            self.repairs.push(Repair { offset: 0, place: stored.place, group });
        }
    }

    /// Keeps a frame that did not come from its group; `None` if it is no frame or was here already.
    fn put_foreign(&mut self, datagram: &Bytes, now: Instant) -> Option<(HashKey, SeqNum, GroupIndex)> {
        let frame = admit(datagram).ok()?;
        let group = group_of(&frame, self.shard_bits);
        self.put(&frame, group, now).then_some((frame.hash_key, frame.seq, group))
    }

    /// Hands flows that fell silent to the beacon.
    fn announce(&mut self) {
        let (now, mut entries) = (Instant::now(), Vec::new());
        if self.store.next_announcement().is_none_or(|at| at > now) {
            return;
        }
        self.store.announce(now, DIGESTS_AT_ONCE * FLOWS_OF_A_DIGEST, &mut entries);
        if let Some(announcements) = &self.announcements
            && !entries.is_empty()
            && announcements.try_send(entries).is_err()
        {
            self.cells.queue_dropped.add(1);
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
        cells.flows_forgotten.set(stats.flows_forgotten);
        cells.flows_unservable.set(stats.flows_unservable);
        cells.horizon_ms.set(u64::try_from(stats.horizon.as_millis()).unwrap_or(u64::MAX));
        cells.kernel_drops.set(self.sockets.iter().map(|socket| socket.get_ref().kernel_drops()).sum());
        cells.truncated.set(self.sockets.iter().map(|socket| socket.get_ref().truncated()).sum());
        let queued: u64 = self.sockets.iter().map(|socket| socket.get_ref().queued_errors()).sum();
        cells.queued_errors.set(queued + self.emitter.queued_errors());
        cells.gso_refused.set(self.emitter.gso_refused());
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
