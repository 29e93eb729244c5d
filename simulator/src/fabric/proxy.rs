//! A proxy's worker: the round that ships, in a model of its runtime.
//!
//! What arrived is received in bursts of several datagrams, in one receive call or several; some frames come as messages of
//! a TCP stream. Whenever the round comes back (the store was asked, or a socket is full) it goes on at once or a while
//! later: meanwhile others act, and the process may be stopped. More may be received before it goes on.
//!
//! A link that is lost takes what it is given, and nobody gets it; the worker finds out at one of its looks. What it handed over
//! before, in the same call, is lost too: the link went in between.

use super::environment::Environment;
use super::event::Event;
use super::evidence::HandOver;
use super::kernel::{Kernel, Refusal};
use super::mutation::Mutation;
use super::node::Node;
use super::node_config::{FABRIC, NodeConfig, SHARD_BITS, TTL};
use super::worker::{Worker, undecided};
use crate::MS;
use crate::context::Context;
use crate::store_calls::ANSWER_TIMEOUT;
use bytes::Bytes;
use frame::{GroupIndex, Kind};
use multicast_io::Burst;
use proxy_ingress::pipeline::emit::OutletLimits;
use proxy_ingress::pipeline::number::{FlowLimits, Identity, MIN_FLOWS};
use proxy_ingress::pipeline::train::Order;
use proxy_ingress::pipeline::{DropReason, Ingress, IngressConfig, Lines, Message, Next, Policy, RoundIo};
use proxy_ingress::tally::Tally;
use std::collections::VecDeque;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::{Duration, Instant};
use txidset::{ClaimStats, Claims, ClaimsConfig, KeyStyle, LocalSet};

const WALLET: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0xf);
/// Percent of frames that come over TCP.
const STREAMED: u64 = 10;
const PREFIX: &[u8] = b"t:";
/// Longest time that a claim may be open: no world has so many faults, one behind the other.
const OPEN: Duration = Duration::from_secs(10);
/// Heap of a burst: what a large frame may reserve, and a little more.
const HEAP: usize = 192 << 10;

thread_local! {
    /// Where frames sent are noted; nobody looks.
    static RECENT: Arc<service::Recent> = Arc::new(service::Recent::new("sent"));
}

pub(super) struct Proxy {
    pub(super) worker: Worker,
    pub(super) ingress: Ingress,
    tally: Arc<Tally>,
    stats: Arc<ClaimStats>,
    burst: Burst,
    kernel: [Kernel; 1],
    address: SocketAddr,
    origin: [u8; 16],
    /// Frames in the kernel's receive queue.
    inbox: Vec<usize>,
    /// Frames that streams have read.
    messages: VecDeque<usize>,
    round_due: bool,
    /// Ids that this life of the worker received.
    pub(super) received: Vec<usize>,
    /// When the kernel last refused something.
    refused_at: Option<u64>,
    /// The worker looked at its links and found none.
    told_lost: bool,
}

/// What every proxy admits.
pub(super) fn policy() -> Policy {
    Policy {
        verify_payload_hash: true,
        verify_subtree_root: true,
        require_block_pow: false,
        min_pow_bits: 0,
        require_ef: false,
        allow_stamped_ingress: false,
        frag_mtu: super::frames::MTU,
        variants: true,
    }
}

/// Tier 1 of a process: its workers share it.
pub(super) fn local_set(environment: &mut Environment) -> Arc<LocalSet> {
    let Environment { context, config, .. } = environment;
    Arc::new(LocalSet::starting_at(64, config.proxy.horizon, context.random.next(), context.base()))
}

impl Proxy {
    /// The first life of a worker; `number`: which of its process.
    pub(super) fn start(
        environment: &mut Environment,
        local: &Arc<LocalSet>,
        worker: Worker,
        number: u16,
    ) -> Proxy {
        let address = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0xa, u16::try_from(worker.node).unwrap_or(0));
        Proxy::new(environment, local, worker, SocketAddr::new(address.into(), 4000 + number), None)
    }

    /// Its process is back.
    pub(super) fn restart(&mut self, environment: &mut Environment, local: &Arc<LocalSet>) {
        let reused = environment.mutation == Some(Mutation::NumbersReusedAfterRestart);
        let (worker, origin) = (self.worker.reborn(), reused.then_some(self.origin));
        *self = Proxy::new(environment, local, worker, self.address, origin);
    }

    fn new(
        environment: &mut Environment,
        local: &Arc<LocalSet>,
        worker: Worker,
        address: SocketAddr,
        origin: Option<[u8; 16]>,
    ) -> Proxy {
        let Environment { context, config, mutation, .. } = environment;
        let mut fresh = [0; 16];
        fresh[..8].copy_from_slice(&context.random.next().to_le_bytes());
        fresh[8..].copy_from_slice(&context.random.next().to_le_bytes());
        let origin = origin.unwrap_or(fresh);
        let mut claims = Claims::new(claims_config(config), Arc::clone(local), context.random.next());
        if let Some(Mutation::Claims(mutation)) = *mutation {
            claims.mutate(mutation);
        }
        let stats = claims.stats();
        let tally = Arc::new(Tally::noting(SHARD_BITS, RECENT.with(Arc::clone)));
        let config = ingress_config(config, origin);
        let mut ingress = Ingress::new(context.instant(), config, claims, Arc::clone(&tally));
        if let Some(Mutation::Ingress(mutation)) = *mutation {
            ingress.mutate(mutation);
        }
        Proxy {
            worker,
            ingress,
            tally,
            stats,
            burst: Burst::new(0, HEAP),
            kernel: [Kernel::default()],
            address,
            origin,
            inbox: Vec::new(),
            messages: VecDeque::new(),
            round_due: false,
            received: Vec::new(),
            refused_at: None,
            told_lost: false,
        }
    }

    // The path of a frame.

    /// A wallet's frame comes to its socket, or by a stream.
    pub(super) fn receive(&mut self, context: &mut Context<Event>, node: &Node, id: usize) {
        if !node.accepting {
            return;
        }
        if context.random.percent(STREAMED) {
            self.messages.push_back(id);
        } else {
            self.inbox.push(id);
        }
        if !self.round_due {
            self.round_due = true;
            // A burst is taken together.
            let at = context.now + context.random.between(0, MS);
            self.worker.schedule(context, node, at, Event::Round);
        }
    }

    /// Takes what came: datagrams in one receive call or several, then the messages of streams.
    pub(super) fn begin(&mut self, environment: &mut Environment) {
        self.round_due = false;
        let Environment { context, evidence, .. } = environment;
        let now = context.instant();
        while !self.inbox.is_empty() && !self.ingress.is_blocked() {
            let all = self.inbox.len();
            let call = if context.random.percent(30) { 1 + context.random.below(all) } else { all };
            for id in self.inbox.drain(..call) {
                if self.burst.arrive(evidence.frame(id), SocketAddrV6::new(WALLET, 5_000, 0, 0).into(), None)
                {
                    self.received.push(id);
                }
            }
            self.ingress.begin(now, &self.burst);
        }
        while self.ingress.may_read_streams()
            && !self.ingress.is_batch_full()
            && let Some(id) = self.messages.pop_front()
        {
            let bytes = Bytes::from_static(evidence.frame(id));
            self.ingress.message(now, Message { bytes, sender: WALLET.into(), verdict: None });
            self.received.push(id);
        }
    }

    /// Goes on with the round until it is over (`true`), or until it is to go on later.
    pub(super) fn commit(&mut self, environment: &mut Environment, node: &Node) -> bool {
        loop {
            let now = environment.context.instant();
            match self.commit_once(environment, node, now) {
                Next::Done => break,
                Next::Asked => {
                    if !self.worker.goes_on(&mut environment.context, node) {
                        return false;
                    }
                }
                Next::Full { until, .. } => {
                    self.worker.goes_on_by(&mut environment.context, node, until);
                    return false;
                }
            }
        }
        self.check_bounds(environment);
        self.rest(&mut environment.context, node);
        true
    }

    fn commit_once(&mut self, environment: &mut Environment, node: &Node, now: Instant) -> Next {
        self.open_kernel(&mut environment.context, node);
        let (worker, kernel, told_lost) = (&mut self.worker, &mut self.kernel, &mut self.told_lost);
        let mut io = Io { worker, kernel, told_lost, environment, node };
        let next = self.ingress.commit(now, &mut self.burst, &mut io);
        self.close_kernel(environment, node);
        next
    }

    /// When the worker wants to be called again.
    fn rest(&mut self, context: &mut Context<Event>, node: &Node) {
        let more = self.ingress.is_busy() || !self.inbox.is_empty() && !self.ingress.is_blocked();
        if more && !self.round_due {
            self.round_due = true;
            self.worker.schedule(context, node, context.now, Event::Round);
        }
        let claims = self.ingress.claims().next_timeout();
        if let Some(at) = [claims, self.ingress.next_timeout()].into_iter().flatten().min() {
            self.worker.wake_at(context, node, at);
        }
    }

    /// The kernel as it is now: it takes all, or a few more frames.
    fn open_kernel(&mut self, context: &mut Context<Event>, node: &Node) {
        let ((until, refusal), (shaped_until, frames)) = (node.refusing, node.shaped);
        let shaped = (shaped_until > context.now).then_some((frames, Refusal::NoBuffers));
        let lost = (node.has_lost_link(context.now) && node.lost_link.1).then_some((0, Refusal::NoBuffers));
        let refused = (until > context.now).then(|| (context.random.below(4), refusal));
        self.kernel[0].room = lost.or(refused).or(shaped);
    }

    /// What it took goes to the network.
    fn close_kernel(&mut self, environment: &mut Environment, node: &Node) {
        let [kernel] = &mut self.kernel;
        let taken = std::mem::take(&mut kernel.taken);
        let Environment { context, network, evidence, .. } = environment;
        if std::mem::take(&mut kernel.refused) {
            self.refused_at = Some(context.now);
        }
        if node.has_lost_link(context.now) {
            let (who, frames) = (self.worker.who, taken.len());
            return context.trace(|| format!("{frames} datagrams of worker {who} vanish"));
        }
        for (destination, bytes) in taken {
            match FABRIC.index_of(destination.ip()) {
                Some(GroupIndex::BEACON) => {
                    evidence.check_digest(context, &bytes);
                    network.digest(context, self.address, &bytes);
                }
                Some(group) => {
                    evidence.left(context, &self.hand_over(), &bytes);
                    network.multicast(context, self.address, group, &bytes);
                }
                None => context.violation("a frame left for no group of the fabric"),
            }
        }
    }

    /// What a check asks about a frame that this worker hands over.
    fn hand_over(&self) -> HandOver<'_> {
        let Worker { who, node, gate, calls, .. } = &self.worker;
        let (who, node, gate) = (*who, *node, *gate);
        HandOver { who, node, gate, calls, undecided: self.undecided(), refused_at: self.refused_at }
    }

    // The end of its process.

    /// Half of the time of an orderly stop is over: what still waits for the store is sent by the next round.
    pub(super) fn decide(&mut self, now: Instant) {
        self.ingress.decide_all(now);
    }

    /// The end of an orderly stop: one more round, which nobody else sees in its middle.
    pub(super) fn farewell(&mut self, environment: &mut Environment, node: &Node) {
        self.ingress.close();
        let mut now = environment.context.instant();
        loop {
            match self.commit_once(environment, node, now) {
                Next::Done => break,
                Next::Asked => {}
                Next::Full { until, .. } => now = until,
            }
        }
    }

    // What the checks ask.

    fn check_bounds(&self, environment: &mut Environment) {
        let Environment { context, config, .. } = environment;
        let who = self.worker.who;
        let parked = self.stats.parked_bytes.value();
        let (slab, backlog) = (self.tally.slab_bytes.get(), self.tally.backlog_bytes.get());
        if parked > config.park_bytes as u64 {
            context.violation(&format!("worker {who} parks {parked} bytes"));
        } else if slab > (config.proxy.slab_bytes + config.park_bytes) as u64 {
            context.violation(&format!("worker {who} holds {slab} bytes for the store"));
        } else if backlog > config.proxy.backlog_bytes as u64 {
            context.violation(&format!("worker {who} holds {backlog} bytes for the kernel"));
        }
    }

    /// An orderly stop leaves nothing behind.
    pub(super) fn check_stopped(&mut self, context: &mut Context<Event>) {
        let waiting = self.ingress.claims().waiting();
        if waiting > 0 {
            let who = self.worker.who;
            context.violation(&format!("{waiting} frames still wait when worker {who} stops"));
        }
        self.check_books(context, false);
    }

    /// Nothing waits for ever.
    pub(super) fn check_rest(&mut self, context: &mut Context<Event>) {
        let waiting = self.ingress.claims().waiting();
        if waiting > 0 || !self.ingress.is_drained() {
            let who = self.worker.who;
            context.violation(&format!("{waiting} frames wait for ever at worker {who}, or its claims do"));
        } else {
            self.check_books(context, true);
        }
    }

    /// Nothing is under way in this worker.
    pub(super) fn is_idle(&mut self) -> bool {
        self.inbox.is_empty() && self.messages.is_empty() && self.ingress.is_drained()
    }

    /// No claim stays open longer than all faults of a world together explain.
    pub(super) fn check_open_claims(&mut self, context: &mut Context<Event>) {
        let (who, now) = (self.worker.who, context.instant());
        if let Some(open) = self.ingress.claims().unsettled(now).filter(|open| open.age > OPEN) {
            let (epoch, claims, age) = (open.epoch, open.claims, open.age);
            context
                .violation(&format!("worker {who}: {claims} claims of epoch {epoch} are open for {age:?}"));
        }
    }

    /// Frames accepted are frames sent, suppressed, or dropped and counted. At rest none was dropped before it was planned, but
    /// for want of a link.
    fn check_books(&self, context: &mut Context<Event>, at_rest: bool) {
        let (who, tally) = (self.worker.who, &self.tally);
        let (accepted, deduped) = (tally.accepted(Kind::Tx).get(), tally.deduped(Kind::Tx).get());
        let (fragmented, fragments) = (tally.fragmented.get(), tally.fragments.get());
        let frames = tally.emitted.get() + fragmented - fragments;
        let unplanned = accepted.abs_diff(deduped + frames);
        if at_rest && (deduped + frames > accepted || unplanned > tally.dropped(DropReason::NoCarrier)) {
            context.violation(&format!(
                "worker {who} accepted {accepted} frames, suppressed {deduped} and sent {frames}"
            ));
        } else if !tally.sum().holds() {
            context.violation(&format!("worker {who}: the sum does not hold: {}", tally.sum()));
        }
    }

    /// Frames dropped behind the claim, and counted.
    pub(super) fn dropped(&self) -> u64 {
        self.tally.ledger.lost()
    }

    /// Frames that it let through undecided. Those that found no place in the slab at all were never asked about.
    pub(super) fn undecided(&self) -> u64 {
        undecided(&self.stats) + self.tally.slab_overflow.get()
    }
}

/// What a round needs from the world around it.
struct Io<'a> {
    worker: &'a mut Worker,
    kernel: &'a mut [Kernel; 1],
    told_lost: &'a mut bool,
    environment: &'a mut Environment,
    node: &'a Node,
}

impl RoundIo for Io<'_> {
    type Socket = Kernel;

    fn pump(&mut self, claims: &mut Claims, _now: Instant) {
        self.worker.pump(self.environment, self.node, claims);
    }

    fn sockets(&mut self) -> &mut [Kernel] {
        self.kernel
    }

    fn max_train(&self) -> usize {
        self.environment.config.proxy.train
    }

    fn look(&mut self, lines: &mut Lines) {
        let Context { now, random, .. } = &mut self.environment.context;
        let lost = self.node.has_lost_link(*now);
        if lost == *self.told_lost {
            return;
        }
        // A link may be there at the look before a hand-over, and not behind it.
        if lost && self.kernel[0].taken.is_empty() && random.percent(50) {
            return;
        }
        *self.told_lost = lost;
        lines.set(0, !lost, lost);
    }
}

fn claims_config(config: &NodeConfig) -> ClaimsConfig {
    ClaimsConfig {
        ttl: TTL,
        lease: Duration::from_micros(config.proxy.lease),
        park_bytes: config.park_bytes,
        max_batch: config.max_batch,
        prefix: PREFIX.to_vec(),
        keys: KeyStyle::Compact,
        tier2: true,
        answer_timeout: Duration::from_micros(ANSWER_TIMEOUT),
        ..ClaimsConfig::default()
    }
}

fn ingress_config(config: &NodeConfig, origin: [u8; 16]) -> IngressConfig {
    IngressConfig {
        policy: policy(),
        fabric: FABRIC,
        shard_bits: SHARD_BITS,
        egress_port: 9_001,
        beacon_port: 9_300,
        identity: Identity::Instance(origin),
        stamp_source: true,
        flows: FlowLimits { flows: MIN_FLOWS, idle: Duration::from_secs(300) },
        digests: true,
        max_segment: 1_452,
        padding_percent: 15,
        train_order: Order::Length,
        outlets: 1,
        outlet: OutletLimits {
            bytes: config.proxy.backlog_bytes,
            deadline: Duration::from_micros(config.proxy.send_deadline),
        },
        chunk: config.proxy.chunk,
        full_timeout: Duration::from_micros(config.proxy.full_timeout),
        claims: true,
        variants: None,
        slab_bytes: config.proxy.slab_bytes,
        slab_entries: config.proxy.slab_entries,
    }
}
