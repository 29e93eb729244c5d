//! A listener: its real pipeline in a model of its runtime.
//!
//! A turn is that of the runtime: a batch goes through the pipeline, the store is asked; then (perhaps a while later, and
//! the time is read again) what passed the gate goes to the consumer's queue, and requests to the endpoint.

use super::consumer::Stream;
use super::mutation::Mutation;
use super::proxy::{SHARD_BITS, TTL};
use super::world::{Event, World};
use crate::MS;
use crate::way::{Calls, PATIENCE};
use frame::digest::Digest;
use frame::{HashKey, Kind};
use hashbrown::HashMap;
use listener_egress::pipeline::{
    Batch, Delivery, Door, DropReason, FilterRules, Handed, Pipeline, Positions, ReassemblyLimits, Request,
    Settings, TrackLimits, VerifyRules,
};
use std::collections::VecDeque;
use std::net::{Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use txidset::{ClaimStats, ClaimsConfig, KeyStyle, LocalSet, Names};

/// Datagrams of one batch.
const BATCH: usize = 64;

/// A datagram that a listener's socket holds.
pub(super) struct Arrived {
    pub(super) door: Door,
    pub(super) from: SocketAddr,
    pub(super) bytes: Rc<[u8]>,
    /// Nobody of ours sent it.
    pub(super) forged: bool,
}

/// What a turn works on.
struct Datagrams(Vec<Arrived>);

impl Batch for Datagrams {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn source(&self, index: usize) -> SocketAddr {
        self.0[index].from
    }
    fn bytes(&self, index: usize) -> &[u8] {
        &self.0[index].bytes
    }
}

pub(super) struct Listener {
    pub(super) node: usize,
    pub(super) consumer: usize,
    pub(super) address: SocketAddr,
    pub(super) pipeline: Pipeline,
    pub(super) stats: Option<Arc<ClaimStats>>,
    inbox: VecDeque<Arrived>,
    batch: Datagrams,
    turn_due: bool,
    pub(super) calls: Calls,
    pub(super) timer: Option<u64>,
    /// In the middle of a round, until then.
    pub(super) busy_until: Option<u64>,
    pub(super) stream: Stream,
    /// Highest number of each flow that this life of the listener heard of, or that a position named.
    pub(super) heard: HashMap<u64, u64>,
    deliveries: Vec<Delivery>,
    delivered: Vec<Handed>,
    requests: Vec<Request>,
}

impl World {
    pub(super) fn start_listener(&mut self, node: usize, consumer: usize) {
        let address = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0xb, u16::try_from(node).unwrap_or(0));
        let listener = self.listener(node, consumer, SocketAddr::new(address.into(), 5_000), 0);
        self.listeners.push(listener);
        self.nodes[node].born = self.now;
        let who = self.proxies.len() + self.listeners.len() - 1;
        self.schedule(self.now, who, Event::Turn);
    }

    pub(super) fn restart_listener(&mut self, node: usize) {
        for number in 0..self.listeners.len() {
            let old = &self.listeners[number];
            if old.node == node {
                let (consumer, address, after) = (old.consumer, old.address, old.stream.connections());
                let before = self.listeners[number].pipeline.claims_mut().map(|claims| claims.owner());
                self.listeners[number] = self.listener(node, consumer, address, after);
                // A process that cannot know whose place it takes leaves the others to their lease.
                if let Some(before) = before.filter(|_| self.random.percent(70)) {
                    self.say_ended(number, before);
                }
                self.schedule(self.now, self.proxies.len() + number, Event::Turn);
            }
        }
    }

    /// The process of an owner has ended, says its successor.
    fn say_ended(&mut self, number: usize, owner: u64) {
        let mut name = Vec::new();
        self.names(self.listeners[number].consumer).end_notice(owner, &mut name);
        self.store.put_ended(self.now, &name, owner, TTL);
        let now = self.instant();
        if let Some(claims) = self.listeners[number].pipeline.claims_mut() {
            claims.has_ended(now, owner);
        }
    }

    /// Where the consumer's listeners were, as far as the store says.
    fn positions(&mut self, node: usize, consumer: usize) -> Option<Positions> {
        let trouble = self.nodes[node].trouble;
        if self.store_down_until > self.now || trouble.reply(self.now, &mut self.random).is_none() {
            return None;
        }
        let mut name = Vec::new();
        self.names(consumer).positions(0, &mut name);
        let found = self.store.get(self.now, &name);
        Some(Positions::join(found.as_deref().and_then(Positions::decode)))
    }

    fn names(&self, consumer: usize) -> Names {
        Names::new(&self.prefix(consumer), KeyStyle::Compact)
    }

    fn prefix(&self, consumer: usize) -> Vec<u8> {
        let named = self.options.mutation != Some(Mutation::ConsumerNotNamed);
        format!("e{}:", if named { consumer } else { 0 }).into_bytes()
    }

    fn listener(&mut self, node: usize, consumer: usize, address: SocketAddr, connections: u32) -> Listener {
        let seed = self.random.next();
        let start = self.instant() - Duration::from_micros(self.now);
        // At least the longest repair, as the configuration has it.
        let local = Arc::new(LocalSet::starting_at(1_024, TTL, self.random.next(), start));
        let settings = self.settings(consumer);
        let mut pipeline = Pipeline::new(settings, Some(local), seed, self.instant());
        let positions = self.positions(node, consumer);
        pipeline.resume(self.instant(), positions.as_ref(), |_| true);
        match self.options.mutation {
            Some(Mutation::Egress(mutation)) => pipeline.mutate(mutation),
            Some(Mutation::Claims(mutation)) => {
                if let Some(claims) = pipeline.claims_mut() {
                    claims.mutate(mutation);
                }
            }
            _ => {}
        }
        Listener {
            node,
            consumer,
            address,
            stats: pipeline.claims_mut().map(|claims| claims.stats()),
            pipeline,
            inbox: VecDeque::new(),
            batch: Datagrams(Vec::new()),
            turn_due: false,
            calls: Calls::default(),
            timer: None,
            busy_until: None,
            stream: Stream::new(self.terms.queue_bytes, connections),
            heard: positions.iter().flat_map(|p| &p.flows).map(|left| (left.key.0, left.next)).collect(),
            deliveries: Vec::new(),
            delivered: Vec::new(),
            requests: Vec::new(),
        }
    }

    fn settings(&self, consumer: usize) -> Settings {
        Settings {
            shard_bits: SHARD_BITS,
            subtree_data: true,
            filter: FilterRules { announce_ttl: Duration::from_secs(900), ..FilterRules::default() },
            verify: VerifyRules { block_pow: false, ..VerifyRules::default() },
            track: TrackLimits {
                max_flows: 256,
                catch_up: self.terms.catch_up,
                small_head: self.terms.small_head,
                ..TrackLimits::default()
            },
            reassembly: ReassemblyLimits { memory: 64, slots: 64, ..ReassemblyLimits::default() },
            claims: ClaimsConfig {
                ttl: TTL,
                lease: Duration::from_micros(self.terms.egress_lease),
                park_bytes: self.terms.park_bytes,
                max_batch: self.terms.max_batch,
                prefix: self.prefix(consumer),
                keys: KeyStyle::Compact,
                tier2: true,
                answer_timeout: Duration::from_micros(PATIENCE),
                ..ClaimsConfig::default()
            },
            waiting_bytes: self.terms.waiting_bytes,
            endpoints: Vec::new(),
            single_rate: 90.0,
            header_origin: None,
            marks: None,
            positions: Some(0),
        }
    }

    // The path of a frame.

    pub(super) fn hear(&mut self, who: usize, arrived: Arrived) {
        let number = who - self.proxies.len();
        if !self.nodes[self.listeners[number].node].accepting {
            return;
        }
        if let Some((key, seq)) = stamp_of(&arrived.bytes).filter(|_| !arrived.forged) {
            self.trace(|| format!("listener {number} hears {:016x}:{seq}", key.0));
            self.listeners[number].heard(key, seq);
        }
        let listener = &mut self.listeners[number];
        listener.inbox.push_back(arrived);
        if !listener.turn_due {
            listener.turn_due = true;
            let at = self.now + self.random.between(0, MS / 2);
            self.schedule(at, who, Event::Turn);
        }
    }

    pub(super) fn hear_digest(&mut self, who: usize, from: SocketAddr, bytes: &[u8]) {
        let now = self.instant();
        let listener = &mut self.listeners[who - self.proxies.len()];
        let Ok(digest) = Digest::decode(bytes) else { return };
        for entry in digest.entries() {
            listener.heard(entry.hash_key, entry.highest.0);
            listener.pipeline.digest(now, from.ip(), &entry);
        }
        self.turn(who);
    }

    /// First half: a batch through the pipeline, the store is asked.
    pub(super) fn listen(&mut self, number: usize) {
        let now = self.instant();
        let listener = &mut self.listeners[number];
        listener.turn_due = false;
        listener.batch.0.clear();
        if let Some(door) = listener.inbox.front().map(|arrived| arrived.door) {
            let same = listener.inbox.iter().take(BATCH).take_while(|arrived| arrived.door == door).count();
            listener.batch.0.extend(listener.inbox.drain(..same));
            listener.pipeline.take(now, door, &listener.batch);
        }
        listener.pipeline.on_timeout(now);
        self.pump(self.proxies.len() + number);
        self.go_on(self.proxies.len() + number);
    }

    /// Second half: what passed goes to the consumer, requests go out.
    pub(super) fn end_turn(&mut self, number: usize) {
        let who = self.proxies.len() + number;
        self.send_requests(number);
        let now = self.instant();
        let listener = &mut self.listeners[number];
        listener.pipeline.decide(now);
        let mut deliveries = std::mem::take(&mut listener.deliveries);
        listener.pipeline.take_deliveries(&mut deliveries);
        for delivery in deliveries.drain(..) {
            self.deliver(number, &delivery);
        }
        self.listeners[number].deliveries = deliveries;
        self.flush_and_settle(number);
        self.pump(who);
        self.check_listener(number);
        let listener = &mut self.listeners[number];
        let mut at = listener.pipeline.next_timeout();
        if let Some(look) = listener.stream.look_at {
            at = at.min(now + Duration::from_micros(look.saturating_sub(self.now)));
        }
        if !self.listeners[number].inbox.is_empty() {
            self.schedule(self.now, who, Event::Turn);
        }
        self.wake_at(who, at);
    }

    fn deliver(&mut self, number: usize, delivery: &Delivery) {
        let now = self.instant();
        let asks = self.options.mutation != Some(Mutation::LateFrameDelivered);
        let listener = &mut self.listeners[number];
        if asks && !listener.pipeline.may_leave(now, delivery, &listener.batch) {
            return;
        }
        let frame = listener.pipeline.bytes(delivery, &listener.batch);
        let id = super::frames::id_of(frame);
        let ticket = delivery.ticket;
        let mut handed = Handed { ticket: delivery.ticket, wire_len: delivery.wire_len };
        if self.options.mutation == Some(Mutation::SettledBeforeAcknowledged) {
            handed.ticket = None;
        }
        let refused = listener.stream.queue.push(frame, handed).is_err();
        let what = if refused { "has no room for" } else { "queues" };
        self.trace(|| format!("listener {number} {what} {:?} under {ticket:?}", self.id_at(id)));
        let listener = &mut self.listeners[number];
        if refused {
            listener.pipeline.no_room(now, delivery, &listener.batch);
        } else {
            if handed != (Handed { ticket: delivery.ticket, wire_len: delivery.wire_len }) {
                let early = Handed { ticket: delivery.ticket, wire_len: 0 };
                listener.pipeline.delivered(now, early);
            }
            self.check_late_delivery(number, id, delivery.ticket.is_some());
        }
        self.listeners[number].pipeline.release(delivery);
    }

    pub(super) fn flush_and_settle(&mut self, number: usize) {
        let now = self.instant();
        let mut delivered = std::mem::take(&mut self.listeners[number].delivered);
        self.flush(number, &mut delivered);
        self.trace(|| format!("listener {number} has {} records acknowledged", delivered.len()));
        let listener = &mut self.listeners[number];
        for handed in delivered.drain(..) {
            listener.pipeline.delivered(now, handed);
        }
        listener.delivered = delivered;
        let queue = &listener.stream.queue;
        let room = queue.len() <= queue.capacity() / 2;
        listener.pipeline.set_room(room);
    }

    fn send_requests(&mut self, number: usize) {
        let mut requests = std::mem::take(&mut self.listeners[number].requests);
        self.listeners[number].pipeline.take_requests(&mut requests);
        let sent = self.options.mutation != Some(Mutation::RequestsNotSent);
        for request in requests.drain(..).filter(|_| sent) {
            self.request(number, request.to, Box::new(request.bytes));
        }
        self.listeners[number].requests = requests;
    }

    /// Half of the time of an orderly stop is over.
    pub(super) fn decide_listener(&mut self, number: usize) {
        let now = self.instant();
        self.listeners[number].pipeline.drain(now);
        self.listen(number);
    }

    /// The end of an orderly stop: what the consumer did not take is given up.
    pub(super) fn abandon(&mut self, number: usize) {
        let now = self.instant();
        let listener = &mut self.listeners[number];
        let mut lost = Vec::new();
        listener.stream.queue.abandon(|handed| lost.push(handed));
        for handed in lost {
            listener.pipeline.undelivered(now, handed.ticket, DropReason::ConsumerGone);
        }
        self.pump(self.proxies.len() + number);
        self.listeners[number].pipeline.stop();
    }
}

impl Listener {
    fn heard(&mut self, key: HashKey, seq: u64) {
        let highest = self.heard.entry(key.0).or_default();
        *highest = seq.max(*highest);
    }

    /// Nothing is under way in this process.
    pub(super) fn is_idle(&mut self) -> bool {
        self.inbox.is_empty()
            && !self.pipeline.is_waiting()
            && self.stream.queue.is_empty()
            && self.pipeline.counts().open_gaps == 0
            && self.pipeline.claims_mut().is_none_or(|claims| claims.is_idle())
    }
}

/// Flow and number of a frame or fragment.
pub(super) fn stamp_of(bytes: &[u8]) -> Option<(HashKey, u64)> {
    let kind = Kind::of(bytes).ok()?;
    if !matches!(kind, Kind::Tx | Kind::Fragment) {
        return None;
    }
    let at = |at: usize| bytes.get(at..)?.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
    Some((HashKey(at(40)?), at(48)?))
}
