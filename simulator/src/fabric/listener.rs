//! A listener: the round that ships, in a model of its runtime.
//!
//! What its socket holds goes through the pipeline in batches, those of one turn one behind the other. Whenever the round
//! comes back (the store was asked) it goes on at once or a while later: meanwhile others act, and the process may be stopped.

use super::consumer::Stream;
use super::environment::Environment;
use super::event::{Arrived, Event};
use super::evidence::{HandOver, stamp_of};
use super::frames::id_of;
use super::mutation::Mutation;
use super::node::Node;
use super::node_config::{NodeConfig, SHARD_BITS, TTL};
use super::worker::{Worker, undecided};
use crate::MS;
use crate::context::Context;
use crate::store_calls::ANSWER_TIMEOUT;
use frame::digest::Digest;
use frame::{Advert, HashKey};
use hashbrown::HashMap;
use listener_egress::pipeline::{
    DropReason, Fates, FilterRules, Handed, Next, Pipeline, Positions, ReassemblyLimits, Refused, Request,
    RoundIo, Settings, Sighted, TrackLimits, Turn, VerifyRules,
};
use multicast_io::Burst;
use std::collections::VecDeque;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use txidset::{ClaimStats, Claims, ClaimsConfig, KeyStyle, LocalSet, Names};

/// Datagrams of one batch.
const BATCH: usize = 64;
/// Heap of a batch.
const HEAP: usize = 192 << 10;

pub(super) struct Listener {
    pub(super) worker: Worker,
    /// Which of the listeners.
    number: usize,
    pub(super) consumer: usize,
    pub(super) pipeline: Pipeline,
    pub(super) stats: Option<Arc<ClaimStats>>,
    inbox: VecDeque<Arrived>,
    burst: Burst,
    turn: Turn,
    round_due: bool,
    pub(super) stream: Stream,
    /// Highest number of each flow that this life of the listener heard of, or that a position named.
    pub(super) heard: HashMap<u64, u64>,
    /// The end: what the consumer did not take is given up.
    gives_up: bool,
}

/// Where the listener of a node asks from.
pub(super) fn address_of(node: usize) -> SocketAddr {
    let address = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0xb, u16::try_from(node).unwrap_or(0));
    SocketAddr::new(address.into(), 5_000)
}

impl Listener {
    /// The first life of a listener.
    pub(super) fn start(
        environment: &mut Environment,
        node: &Node,
        worker: Worker,
        number: usize,
        consumer: usize,
    ) -> Listener {
        let listener = Listener::new(environment, node, worker, (number, consumer), 0);
        let now = environment.context.now;
        listener.worker.schedule(&mut environment.context, node, now, Event::Round);
        listener
    }

    /// Its process is back.
    pub(super) fn restart(&mut self, environment: &mut Environment, node: &Node) {
        let predecessor = self.pipeline.claims_mut().map(|claims| claims.owner());
        let (worker, connections) = (self.worker.reborn(), self.stream.connections());
        *self = Listener::new(environment, node, worker, (self.number, self.consumer), connections);
        // A process that cannot know whose place it takes leaves the others to their lease.
        if let Some(predecessor) = predecessor.filter(|_| environment.context.random.percent(70)) {
            self.say_ended(environment, predecessor);
        }
        let now = environment.context.now;
        self.worker.schedule(&mut environment.context, node, now, Event::Round);
    }

    /// The process of an owner has ended, says its successor.
    fn say_ended(&mut self, environment: &mut Environment, owner: u64) {
        let Environment { context, store, .. } = environment;
        let mut name = Vec::new();
        names(environment.mutation, self.consumer).end_notice(owner, &mut name);
        store.put_ended(context.now, &name, owner, TTL);
        if let Some(claims) = self.pipeline.claims_mut() {
            claims.has_ended(context.instant(), owner);
        }
    }

    fn new(
        environment: &mut Environment,
        node: &Node,
        worker: Worker,
        (number, consumer): (usize, usize),
        connections: u32,
    ) -> Listener {
        let Environment { context, config, mutation, .. } = environment;
        let (seed, now) = (context.random.next(), context.instant());
        // At least the longest repair, as the configuration has it.
        let local = Arc::new(LocalSet::starting_at(1_024, TTL, context.random.next(), context.base()));
        let mut pipeline = Pipeline::new(settings(config, *mutation, consumer), Some(local), seed, now);
        let (queue_bytes, planted) = (config.listener.queue_bytes, *mutation);
        let positions = positions(environment, node, consumer);
        pipeline.resume(now, positions.as_ref(), |_| true);
        match planted {
            Some(Mutation::Egress(mutation)) => pipeline.mutate(mutation),
            Some(Mutation::Claims(mutation)) => {
                if let Some(claims) = pipeline.claims_mut() {
                    claims.mutate(mutation);
                }
            }
            _ => {}
        }
        Listener {
            worker,
            number,
            consumer,
            stats: pipeline.claims_mut().map(|claims| claims.stats()),
            pipeline,
            inbox: VecDeque::new(),
            burst: Burst::new(0, HEAP),
            turn: Turn::Last,
            round_due: false,
            stream: Stream::new(queue_bytes, connections),
            heard: positions.iter().flat_map(|p| &p.flows).map(|left| (left.key.0, left.next)).collect(),
            gives_up: false,
        }
    }

    // The path of a frame.

    /// A datagram comes to its socket.
    pub(super) fn receive(&mut self, context: &mut Context<Event>, node: &Node, arrived: Arrived) {
        if !node.accepting {
            return;
        }
        if let Some((key, seq)) = stamp_of(&arrived.bytes).filter(|_| !arrived.forged) {
            context.trace(|| format!("listener {} hears {:016x}:{seq}", self.number, key.0));
            self.note_heard(key, seq);
        }
        self.inbox.push_back(arrived);
        if !self.round_due {
            self.round_due = true;
            let at = context.now + context.random.between(0, MS / 2);
            self.worker.schedule(context, node, at, Event::Round);
        }
    }

    /// A digest comes; `false`: it is none.
    pub(super) fn receive_digest(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) -> bool {
        let Ok(digest) = Digest::decode(bytes) else { return false };
        for entry in digest.entries() {
            self.note_heard(entry.hash_key, entry.highest.0);
            self.pipeline.digest(now, from.ip(), &entry);
        }
        true
    }

    pub(super) fn receive_advert(&mut self, now: Instant, advert: &Advert) {
        self.pipeline.advert(now, advert);
    }

    /// Takes what came.
    pub(super) fn begin(&mut self, context: &Context<Event>) {
        self.round_due = false;
        self.take_batch(context);
    }

    fn take_batch(&mut self, context: &Context<Event>) {
        self.burst.clear();
        if let Some(socket) = self.inbox.front().map(|arrived| arrived.door) {
            let same = self.inbox.iter().take(BATCH).take_while(|arrived| arrived.door == socket).count();
            for Arrived { bytes, from, .. } in self.inbox.drain(..same) {
                self.burst.arrive(&bytes, from, None);
            }
            self.pipeline.begin(context.instant(), socket, &self.burst);
        }
        self.turn = if self.inbox.is_empty() { Turn::Last } else { Turn::More };
    }

    /// Goes on with the round until all batches have passed (`true`), or until it is to go on later.
    pub(super) fn commit(&mut self, environment: &mut Environment, node: &Node) -> bool {
        loop {
            match self.commit_once(environment, node) {
                Next::Asked => {
                    if !self.worker.goes_on(&mut environment.context, node) {
                        return false;
                    }
                }
                Next::Done if self.turn == Turn::More => self.take_batch(&environment.context),
                Next::Done => break,
            }
        }
        let Environment { context, config, .. } = environment;
        self.check_bounds(context, config);
        let mut at = self.pipeline.next_timeout();
        if let Some(look) = self.stream.look_at {
            at = at.min(context.instant() + Duration::from_micros(look.saturating_sub(context.now)));
        }
        self.worker.wake_at(context, node, at);
        true
    }

    fn commit_once(&mut self, environment: &mut Environment, node: &Node) -> Next {
        let Listener { worker, stream, stats, .. } = self;
        let (number, gives_up, stats) = (self.number, self.gives_up, stats.as_deref());
        let now = environment.context.instant();
        let mut io = Io { worker, stream, stats, number, gives_up, environment, node };
        self.pipeline.commit(now, &self.burst, self.turn, &mut io)
    }

    // Its consumer.

    /// Bytes come to the consumer.
    pub(super) fn consume(&mut self, environment: &mut Environment) {
        let Environment { context, evidence, .. } = environment;
        let (number, consumer) = (self.number, self.consumer);
        for record in self.stream.consume(context, number) {
            let id = evidence.consumed(context, self.worker.gate, self.worker.node, &record);
            context.trace(|| format!("consumer {consumer} has {id:?} of listener {number}"));
        }
    }

    /// The connection to the consumer breaks.
    pub(super) fn break_connection(&mut self, environment: &mut Environment, node: &Node) {
        let Environment { context, mutation, .. } = environment;
        self.stream.break_connection(context, *mutation == Some(Mutation::UnacknowledgedForgotten));
        self.worker.schedule(context, node, context.now, Event::Round);
    }

    // The end of its process.

    /// Half of the time of an orderly stop is over: the next round leaves nothing undecided.
    pub(super) fn decide(&mut self, now: Instant) {
        self.pipeline.decide_all(now);
    }

    /// The end of an orderly stop: a last round gives up what the consumer did not take.
    pub(super) fn abandon(&mut self, environment: &mut Environment, node: &Node) {
        self.gives_up = true;
        self.burst.clear();
        self.turn = Turn::Last;
        while self.commit_once(environment, node) == Next::Asked {}
        self.pipeline.stop();
    }

    // What the checks ask.

    fn check_bounds(&mut self, context: &mut Context<Event>, config: &NodeConfig) {
        let number = self.number;
        let parked = self.stats.as_ref().map_or(0, |stats| stats.parked_bytes.value());
        let counts = self.pipeline.counts();
        let sum = counts.sum();
        let (waiting, lost) = (counts.waiting_bytes, counts.lost.clone());
        // Rebuilt frames, and those that came late, are bounded by the claims and not by the table.
        let most = (config.listener.waiting_bytes + 2 * config.park_bytes + 4_096) as u64;
        if parked > config.park_bytes as u64 {
            context.violation(&format!("listener {number} parks {parked} bytes"));
        } else if !sum.holds() {
            context.violation(&format!("the sum of listener {number} does not hold: {sum}"));
        } else if waiting > most {
            context.violation(&format!("listener {number} holds {waiting} bytes for the store"));
        } else if lost.lost() > 0 {
            context
                .violation(&format!("listener {number} gave up numbers that the endpoint holds: {lost:?}"));
        }
    }

    /// Frames that it let through undecided.
    pub(super) fn undecided(&self) -> u64 {
        self.stats.as_ref().map_or(0, |stats| undecided(stats))
    }

    /// Flows whose position it did not find.
    pub(super) fn without_position(&mut self) -> u64 {
        self.pipeline.counts().flows_without_position
    }

    fn note_heard(&mut self, key: HashKey, seq: u64) {
        let highest = self.heard.entry(key.0).or_default();
        *highest = seq.max(*highest);
    }

    /// Nothing waits for ever.
    pub(super) fn check_rest(&mut self, context: &mut Context<Event>) {
        if !self.is_idle() {
            let gaps = self.pipeline.counts().open_gaps;
            let (waits, queued) = (self.pipeline.is_waiting(), self.stream.queue.len());
            context.violation(&format!(
                "listener {} does not come to rest: {gaps} gaps, frames wait for a claim: {waits}, {queued} bytes for the \
                 consumer",
                self.number
            ));
        }
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

/// What a round needs from the world around it.
struct Io<'a> {
    worker: &'a mut Worker,
    stream: &'a mut Stream,
    stats: Option<&'a ClaimStats>,
    number: usize,
    gives_up: bool,
    environment: &'a mut Environment,
    node: &'a Node,
}

impl RoundIo for Io<'_> {
    fn pump(&mut self, claims: &mut Claims, _now: Instant) {
        self.worker.pump(self.environment, self.node, claims);
    }

    fn queue(&mut self, _now: Instant, frame: &[u8], _: usize, handed: Handed) -> Result<(), Refused> {
        let Environment { context, evidence, .. } = self.environment;
        let queued = self.stream.queue.push(frame, handed).is_ok();
        let (what, id) = (if queued { "queues" } else { "has no room for" }, id_of(frame));
        context.trace(|| {
            format!("listener {} {what} {:?} under {:?}", self.number, evidence.id_at(id), handed.ticket)
        });
        if !queued {
            return Err(Refused::NoRoom);
        }
        if handed.ticket.is_some() {
            let Worker { who, node, gate, calls, .. } = &*self.worker;
            let (who, node, gate, undecided) = (*who, *node, *gate, self.stats.map_or(0, undecided));
            evidence.delivered(
                context,
                &HandOver { who, node, gate, calls, undecided, refused_at: None },
                id,
            );
        }
        Ok(())
    }

    fn flush(&mut self, _now: Instant, fates: &mut Fates) {
        if self.gives_up {
            let lost = |handed| fates.refused.push((handed, DropReason::ConsumerGone));
            return self.stream.queue.abandon(lost);
        }
        let context = &mut self.environment.context;
        self.stream.flush(context, self.number, &mut fates.delivered);
        let (number, records) = (self.number, fates.delivered.len());
        context.trace(|| format!("listener {number} has {records} records acknowledged"));
    }

    fn has_room(&self) -> bool {
        self.stream.queue.len() <= self.stream.queue.capacity() / 2
    }

    fn queued_bytes(&self) -> usize {
        self.stream.queue.len()
    }

    fn request(&mut self, request: &Request) {
        let Environment { context, network, .. } = self.environment;
        network.request(context, self.number, request.to, request.bytes);
    }

    fn header(&mut self, _frame: &[u8]) {}

    fn sighted(&mut self, _came: Instant, _sighted: &[Sighted]) {}
}

/// Where the consumer's listeners were, as far as the store says.
fn positions(environment: &mut Environment, node: &Node, consumer: usize) -> Option<Positions> {
    let Environment { context, store, .. } = environment;
    if store.is_down(context.now) || node.link.reply(context.now, &mut context.random).is_none() {
        return None;
    }
    let mut name = Vec::new();
    names(environment.mutation, consumer).positions(0, &mut name);
    let found = store.get(context.now, &name);
    Some(Positions::join(found.as_deref().and_then(Positions::decode)))
}

fn names(mutation: Option<Mutation>, consumer: usize) -> Names {
    Names::new(&prefix(mutation, consumer), KeyStyle::Compact)
}

fn prefix(mutation: Option<Mutation>, consumer: usize) -> Vec<u8> {
    let named = mutation != Some(Mutation::ConsumerNotNamed);
    format!("e{}:", if named { consumer } else { 0 }).into_bytes()
}

fn settings(config: &NodeConfig, mutation: Option<Mutation>, consumer: usize) -> Settings {
    Settings {
        shard_bits: SHARD_BITS,
        subtree_data: true,
        filter: FilterRules { announce_ttl: Duration::from_secs(900), ..FilterRules::default() },
        verify: VerifyRules { block_pow: false, ..VerifyRules::default() },
        track: TrackLimits {
            max_flows: 256,
            catch_up: config.listener.catch_up,
            small_head: config.listener.small_head,
            ..TrackLimits::default()
        },
        reassembly: ReassemblyLimits { memory: 64, slots: 64, ..ReassemblyLimits::default() },
        claims: ClaimsConfig {
            ttl: TTL,
            lease: Duration::from_micros(config.listener.lease),
            park_bytes: config.park_bytes,
            max_batch: config.max_batch,
            prefix: prefix(mutation, consumer),
            keys: KeyStyle::Compact,
            tier2: true,
            answer_timeout: Duration::from_micros(ANSWER_TIMEOUT),
            ..ClaimsConfig::default()
        },
        variants: true,
        waiting_bytes: config.listener.waiting_bytes,
        endpoints: Vec::new(),
        single_rate: 90.0,
        header_origin: None,
        marks: None,
        positions: Some(0),
    }
}
