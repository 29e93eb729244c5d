//! A retry endpoint: the round that ships, in a model of its runtime. The first endpoint of a world lives for ever; the
//! second, where there is one, may die and come back with nothing.
//!
//! Frames come in bursts, requests and digests as messages. In some worlds its kernel is nearly full now and then: a round
//! then waits, and may have to give repairs up.

use super::environment::Environment;
use super::event::Event;
use super::evidence::stamp_of;
use super::kernel::{Kernel, Refusal};
use super::mutation::Mutation;
use super::node_config::{FABRIC, NodeConfig, SHARD_BITS};
use crate::MS;
use crate::context::Context;
use crate::timeline::ANY;
use frame::digest::{Digest, ENTRY, Entry, HEADER, RELAYED, encode_flagged};
use frame::{Ack, Advert, GroupIndex, Nack, Response, SeqNum};
use hashbrown::HashSet;
use multicast_io::{Burst, Progress, Span, Train};
use proxy_ingress::pipeline::Transmit;
use retry_endpoint::pipeline::advertise::{FLOWS_OF_A_DIGEST, Schedule};
use retry_endpoint::pipeline::answer::{Answer, Policy, RepairPaths, Request};
use retry_endpoint::pipeline::emit::{EmitConfig, EmitInterface};
use retry_endpoint::pipeline::limit::{Rate, RepairLimits, RepairRates, Trusted};
use retry_endpoint::pipeline::round::{Message, Next, QueueResult, RoundIo};
use retry_endpoint::pipeline::store::{Lifetimes, StoreLimits};
use retry_endpoint::pipeline::{Endpoint as Pipeline, EndpointConfig};
use std::cell::RefCell;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

const PORT: u16 = 9300;
/// Longest range of a request.
const MAX_RANGE: u16 = 256;
/// Longest train of its socket.
const TRAIN: usize = 16;
/// Heap of a burst.
const HEAP: usize = 192 << 10;

/// More than any world asks for, so that what one world took from a bucket means nothing to the next.
const PLENTY: Rate = Rate { rate: 1e12, burst: 1e15 };

thread_local! {
    /// Tables of fixed size that are dear to make: one world hands them to the next.
    static LIMITS: RefCell<Vec<RepairLimits>> = const { RefCell::new(Vec::new()) };
}

/// Where an endpoint answers from.
pub(super) fn address_of(number: usize) -> SocketAddr {
    SocketAddr::new(ip_of(number).into(), PORT)
}

fn ip_of(number: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0xe, u16::try_from(number).unwrap_or(0))
}

pub(super) struct Endpoint {
    number: usize,
    alive: bool,
    /// Taken only when it ends.
    pipeline: Option<Pipeline>,
    burst: Burst,
    /// Frames that its socket holds, and messages of its other threads.
    inbox: Vec<(GroupIndex, Rc<[u8]>)>,
    messages: Vec<Message>,
    /// When its next round is due, or goes on.
    round_at: Option<u64>,
    /// A round waits for its kernel.
    waits: bool,
    kernel: Kernel,
    /// Flows and numbers of the repairs that the kernel took in this life.
    repaired: HashSet<(u64, u64)>,
    /// When it advertises, and when next.
    schedule: Schedule,
    advertises_at: Option<u64>,
    /// Flows that were announced.
    pub(super) announced: u64,
}

impl Endpoint {
    pub(super) fn new(
        number: usize,
        config: &NodeConfig,
        seed: u64,
        mutation: Option<Mutation>,
        now: Instant,
    ) -> Endpoint {
        let rates = RepairRates { group: PLENTY, bytes: PLENTY };
        let limits = LIMITS.with_borrow_mut(Vec::pop);
        let limits = limits.unwrap_or_else(|| RepairLimits::new(rates, Trusted::new(Vec::new()), 1, now));
        let mut pipeline = Pipeline::new(endpoint_config(config.endpoints.announces), limits, seed, now);
        if let Some(Mutation::Endpoint(mutation)) = mutation {
            pipeline.mutate(mutation);
        }
        Endpoint {
            number,
            alive: true,
            pipeline: Some(pipeline),
            burst: Burst::new(0, HEAP),
            inbox: Vec::new(),
            messages: Vec::new(),
            round_at: None,
            waits: false,
            kernel: Kernel::default(),
            repaired: HashSet::new(),
            schedule: Schedule::new(Duration::from_secs(60), now),
            advertises_at: None,
            announced: 0,
        }
    }

    // What comes.

    /// It hears a frame of a group.
    pub(super) fn receive(&mut self, context: &mut Context<Event>, group: GroupIndex, bytes: Rc<[u8]>) {
        if self.alive {
            self.inbox.push((group, bytes));
            self.round_soon(context);
        }
    }

    /// It hears a digest.
    pub(super) fn receive_digest(&mut self, context: &mut Context<Event>, bytes: &[u8]) {
        if let Ok(digest) = Digest::decode(bytes)
            && self.alive
            && !digest.is_relayed()
        {
            let flows = digest.entries().map(|entry| (entry.hash_key, entry.highest)).collect();
            self.messages.push(Message::DigestHeard { flows });
            self.round_soon(context);
        }
    }

    /// A listener's request comes.
    pub(super) fn receive_request(
        &mut self,
        context: &mut Context<Event>,
        source: SocketAddr,
        nack: &[u8; Nack::LEN],
    ) {
        if let Ok(request) = Request::read(nack, source, None, u64::from(MAX_RANGE))
            && self.alive
        {
            self.messages.push(Message::Request { request, visited: 0 });
            self.round_soon(context);
        }
    }

    // Rounds.

    fn round_soon(&mut self, context: &mut Context<Event>) {
        let at = context.now + context.random.between(0, MS / 5);
        self.round_by(context, at);
    }

    /// A round is due then; a round that waits goes on when it planned to.
    fn round_by(&mut self, context: &mut Context<Event>, at: u64) {
        if !self.waits && self.round_at.is_none_or(|due| due > at) {
            self.round_at = Some(at);
            context.timeline.push(at, self.number, ANY, Event::EndpointRound { at });
        }
    }

    /// A round, if it is the one that was planned last.
    pub(super) fn round(&mut self, environment: &mut Environment, at: u64) {
        if self.round_at != Some(at) || !self.alive {
            return;
        }
        self.round_at = None;
        let now = environment.context.instant();
        let Some(mut pipeline) = self.pipeline.take() else { return };
        if !std::mem::take(&mut self.waits) {
            self.begin(environment, now, &mut pipeline);
        }
        let next = pipeline.commit(now, &mut Io { endpoint: self, environment });
        let due = pipeline.next_timeout();
        self.pipeline = Some(pipeline);
        let context = &mut environment.context;
        match next {
            Next::Full { until, .. } => {
                let most = context.micros(until).max(context.now + 2);
                let at = context.random.between(context.now + 1, most + 1);
                self.round_by(context, at);
                self.waits = true;
            }
            Next::Done => {
                if !self.inbox.is_empty() || !self.messages.is_empty() {
                    self.round_by(context, context.now);
                }
                if let Some(due) = due {
                    let at = context.micros(due).max(context.now + MS);
                    self.round_by(context, at);
                }
            }
        }
    }

    fn begin(&mut self, environment: &mut Environment, now: Instant, pipeline: &mut Pipeline) {
        let mut burst = std::mem::replace(&mut self.burst, Burst::new(0, 0));
        for (group, bytes) in std::mem::take(&mut self.inbox) {
            let to = FABRIC.address(group);
            if !burst.arrive(&bytes, address_of(self.number), Some(to)) {
                self.inbox.push((group, bytes));
            }
        }
        pipeline.begin(now, &burst, &mut Io { endpoint: self, environment });
        burst.clear();
        self.burst = burst;
        self.messages.drain(..).for_each(|message| pipeline.message(message));
    }

    /// What its kernel takes goes to the network.
    fn transmit(
        &mut self,
        environment: &mut Environment,
        memory: &[u8],
        trains: &[Train],
        frames: &[Span],
    ) -> Progress {
        let Environment { context, network, config, .. } = environment;
        let full = context.random.percent(config.endpoints.refusing);
        let refusal = Refusal::FULL[context.random.below(2)];
        self.kernel.room = full.then(|| (context.random.below(4), refusal));
        let progress = self.kernel.transmit(memory, trains, frames);
        for (destination, bytes) in std::mem::take(&mut self.kernel.taken) {
            let (Some((key, seq)), Some(group)) = (stamp_of(&bytes), FABRIC.index_of(destination.ip()))
            else {
                context.violation("a repair that is no frame of a group");
                continue;
            };
            self.repaired.insert((key.0, seq));
            network.multicast(context, address_of(self.number), group, &bytes);
        }
        progress
    }

    /// A reply leaves: it may speak only of repairs that the kernel took before.
    fn answer(&mut self, environment: &mut Environment, answer: &Answer) {
        let Environment { context, network, .. } = environment;
        let Some(reply) = answer.reply(true) else { return };
        let (number, key) = (self.number, answer.request.nack.hash_key);
        context.trace(|| format!("endpoint {number} answers {:016x}: {reply:?}", key.0));
        let lies = |seq: &SeqNum| !self.repaired.contains(&(key.0, seq.0));
        if let Some(SeqNum(seq)) = acknowledged(&answer.request, &reply).find(lies) {
            context.violation(&format!(
                "endpoint {number} acknowledges {:016x}:{seq}, which did not leave",
                key.0
            ));
        }
        let mut bytes = [0; Response::MAX_LEN];
        let len = reply.encode(&mut bytes);
        network.reply(context, answer.request.source, address_of(number), &bytes[..len].into());
    }

    fn announce(&mut self, environment: &mut Environment, entries: &[Entry]) {
        let Environment { context, network, evidence, .. } = environment;
        self.announced += entries.len() as u64;
        for entries in entries.chunks(FLOWS_OF_A_DIGEST) {
            let mut datagram = [0; HEADER + FLOWS_OF_A_DIGEST * ENTRY];
            let (length, _) = encode_flagged(RELAYED, entries, &mut datagram);
            context.trace(|| format!("endpoint {} announces {entries:?}", self.number));
            let bytes = &datagram[..length];
            evidence.check_digest(context, bytes);
            network.digest(context, address_of(self.number), &bytes.into());
        }
    }

    /// Says where it is, if it was planned to do so now.
    pub(super) fn advertise_at(&mut self, environment: &mut Environment, at: u64) {
        if self.advertises_at == Some(at) && self.alive {
            self.advertise(environment);
        }
    }

    /// Says where it is, and plans when it does so again.
    pub(super) fn advertise(&mut self, environment: &mut Environment) {
        let Environment { context, network, .. } = environment;
        if self.schedule.due(context.instant()) {
            let advert = advert_of(self.number);
            network.announce(context, || Event::Advert(advert));
        }
        let at = context.micros(self.schedule.next()).max(context.now + MS);
        self.advertises_at = Some(at);
        context.timeline.push(at, self.number, ANY, Event::Advertise { at });
    }

    // Its end.

    /// It dies; what it held is gone.
    pub(super) fn die(&mut self, context: &mut Context<Event>, restart: Option<u64>) {
        context.trace(|| format!("endpoint {} dies", self.number));
        self.alive = false;
        if let Some(after) = restart {
            context.timeline.push(context.now + after, self.number, ANY, Event::EndpointReturns);
        }
    }

    /// It is back, with nothing.
    pub(super) fn restart(&mut self, environment: &mut Environment) {
        let Environment { context, config, mutation, .. } = environment;
        context.trace(|| format!("endpoint {} is back", self.number));
        let (seed, now) = (context.random.next(), context.instant());
        let next = Endpoint::new(self.number, config, seed, *mutation, now);
        let before = std::mem::replace(self, next);
        self.announced = before.announced;
        self.advertise(environment);
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let limits = self.pipeline.take().map(Pipeline::into_limits);
        LIMITS.with_borrow_mut(|pool| pool.extend(limits));
    }
}

/// What a round needs from the world around it.
struct Io<'a> {
    endpoint: &'a mut Endpoint,
    environment: &'a mut Environment,
}

impl RoundIo for Io<'_> {
    fn transmit(&mut self, _: usize, memory: &[u8], trains: &[Train], frames: &[Span]) -> Progress {
        self.endpoint.transmit(self.environment, memory, trains, frames)
    }

    fn max_train(&self, _: usize) -> usize {
        TRAIN
    }

    fn refused(&mut self, _: usize, error: &io::Error) {
        let number = self.endpoint.number;
        self.environment.context.trace(|| format!("endpoint {number} gives repairs up: {error}"));
    }

    fn answer(&mut self, answer: Answer) -> QueueResult {
        self.endpoint.answer(self.environment, &answer);
        QueueResult::Queued
    }

    fn announce(&mut self, entries: Vec<Entry>) -> QueueResult {
        self.endpoint.announce(self.environment, &entries);
        QueueResult::Queued
    }
}

/// Numbers that a reply says were repaired.
fn acknowledged(request: &Request, reply: &Response) -> impl Iterator<Item = SeqNum> {
    let ack = matches!(reply.verdict, Ack::Ack { .. });
    let (first, extended) = (reply.seq_num, &reply.extended);
    let said =
        move |seq: &SeqNum| ack && extended.as_ref().map_or(*seq == first, |listed| !listed.is_missing(*seq));
    (0..request.count()).map(|offset| request.seq(offset)).filter(said)
}

fn endpoint_config(announces: bool) -> EndpointConfig {
    EndpointConfig {
        workers: 1,
        shard_bits: SHARD_BITS,
        store: StoreLimits { bytes: StoreLimits::LEAST, flows: 1_024 },
        lifetimes: Lifetimes::default(),
        verify: true,
        policy: Policy {
            paths: RepairPaths { multicast: true, unicast: false },
            dedup_window: Duration::from_millis(10),
        },
        emit: EmitConfig {
            fabric: FABRIC,
            port: 9_001,
            padding: 15,
            full_timeout: Duration::from_millis(5),
            interfaces: vec![EmitInterface { index: 1, frame_bytes: 1_452 }],
        },
        announces,
    }
}

/// What it says.
fn advert_of(number: usize) -> Advert {
    Advert {
        scope: 5,
        nack_addr: ip_of(number),
        nack_port: PORT,
        tier: 0,
        preference: 128,
        interval_secs: 60,
        flags: Advert::MULTICAST | Advert::RANGES,
        instance_id: 7 + u32::try_from(number).unwrap_or(0),
        max_range: MAX_RANGE,
    }
}
