//! A proxy's worker: its real pipeline in a model of its runtime.
//!
//! A round is that of the runtime: what arrived is judged and claimed, the store is asked; then (perhaps a while later, and
//! the time is read again) decided frames are loaded, planned, handed to the kernel, and the rest is kept.

use super::environment::Environment;
use super::event::Event;
use super::evidence::HandOver;
use super::kernel::Kernel;
use super::mutation::Mutation;
use super::node::Node;
use super::node_config::{FABRIC, NodeConfig, SHARD_BITS, TTL};
use super::worker::{Worker, undecided};
use crate::MS;
use crate::context::Context;
use crate::store_calls::ANSWER_TIMEOUT;
use frame::{GroupIndex, Kind};
use multicast_io::Burst;
use proxy_ingress::pipeline::emit::OutletLimits;
use proxy_ingress::pipeline::number::{FlowLimits, Identity, MIN_FLOWS};
use proxy_ingress::pipeline::train::Order;
use proxy_ingress::pipeline::{DropReason, Ingress, IngressConfig, Policy};
use proxy_ingress::tally::Tally;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use txidset::{ClaimStats, Claims, ClaimsConfig, KeyStyle, LocalSet};

const WALLET: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0xf));
const PREFIX: &[u8] = b"t:";
/// Rounds in a row before the worker has certainly caught up.
const ROUNDS: usize = 64;
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
    round_due: bool,
    /// Ids that this life of the worker received.
    pub(super) received: Vec<usize>,
    /// When the kernel last refused something.
    refused_at: Option<u64>,
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
    }
}

/// Tier 1 of a process: its workers share it.
pub(super) fn local_set(environment: &mut Environment) -> Arc<LocalSet> {
    let Environment { context, config, .. } = environment;
    Arc::new(LocalSet::starting_at(64, config.horizon, context.random.next(), context.base()))
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
            round_due: false,
            received: Vec::new(),
            refused_at: None,
        }
    }

    // The path of a frame.

    /// A wallet's frame comes to its socket.
    pub(super) fn receive(&mut self, context: &mut Context<Event>, node: &Node, id: usize) {
        if !node.accepting {
            return;
        }
        self.inbox.push(id);
        if !self.round_due {
            self.round_due = true;
            // A burst is taken together.
            let at = context.now + context.random.between(0, MS);
            self.worker.schedule(context, node, at, Event::Round);
        }
    }

    /// First half of a round: receive, judge, claim, ask the store.
    pub(super) fn begin(&mut self, environment: &mut Environment, node: &Node) {
        let now = environment.context.instant();
        self.round_due = false;
        if !self.ingress.is_blocked() {
            for id in std::mem::take(&mut self.inbox) {
                let Some(span) = self.burst.push(environment.evidence.frame(id)) else { continue };
                self.ingress.receive_datagram(now, &self.burst, span, WALLET);
                self.received.push(id);
            }
            self.ingress.ask(now);
        }
        self.worker.pump(environment, node, self.ingress.claims());
    }

    /// Second half: load, plan, send, keep what waits.
    pub(super) fn commit(&mut self, environment: &mut Environment, node: &Node) {
        let now = environment.context.instant();
        self.open_kernel(&mut environment.context, node);
        for _ in 0..ROUNDS {
            self.ingress.load(now, &mut self.burst);
            self.send(now);
            if self.ingress.finish(now, &mut self.burst) {
                self.send(now);
                self.ingress.finish(now, &mut self.burst);
            }
            self.burst.clear();
            if !self.ingress.is_busy() {
                break;
            }
        }
        self.worker.pump(environment, node, self.ingress.claims());
        self.ingress.tick(now, &mut self.kernel);
        self.close_kernel(environment);
        self.worker.pump(environment, node, self.ingress.claims());
        self.check_bounds(environment);
        // When the worker wants to be called again.
        let claims = self.ingress.claims().next_timeout();
        if let Some(at) = [claims, self.ingress.next_timeout()].into_iter().flatten().min() {
            self.worker.wake_at(&mut environment.context, node, at);
        }
    }

    /// Plans what was loaded and hands it to the kernel; what a full socket does not take goes to its backlog at once
    /// (the runtime waits for 5 ms first).
    fn send(&mut self, now: Instant) {
        if self.ingress.plan(now, &mut self.burst, 16)
            && self.ingress.emit(now, self.burst.memory(), &mut self.kernel)
        {
            self.ingress.defer(now, self.burst.memory());
        }
    }

    /// The kernel as it is now: it takes all, or a few more frames.
    fn open_kernel(&mut self, context: &mut Context<Event>, node: &Node) {
        let (until, refusal) = node.refusing;
        self.kernel[0].room = (until > context.now).then(|| (context.random.below(4), refusal));
    }

    /// What it took goes to the network.
    fn close_kernel(&mut self, environment: &mut Environment) {
        let [kernel] = &mut self.kernel;
        let taken = std::mem::take(&mut kernel.taken);
        let Environment { context, network, evidence, .. } = environment;
        if std::mem::take(&mut kernel.refused) {
            self.refused_at = Some(context.now);
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
        self.ingress.claims().drain(now);
    }

    /// The end of an orderly stop.
    pub(super) fn farewell(&mut self, environment: &mut Environment, node: &Node) {
        let now = environment.context.instant();
        self.open_kernel(&mut environment.context, node);
        self.ingress.farewell(now, &mut self.kernel);
        self.ingress.abandon(now);
        self.close_kernel(environment);
        self.worker.pump(environment, node, self.ingress.claims());
    }

    // What the checks ask.

    fn check_bounds(&self, environment: &mut Environment) {
        let Environment { context, config, .. } = environment;
        let who = self.worker.who;
        let parked = self.stats.parked_bytes.value();
        let (slab, backlog) = (self.tally.slab_bytes.get(), self.tally.backlog_bytes.get());
        if parked > config.park_bytes as u64 {
            context.violation(&format!("worker {who} parks {parked} bytes"));
        } else if slab > (config.slab_bytes + config.park_bytes) as u64 {
            context.violation(&format!("worker {who} holds {slab} bytes for the store"));
        } else if backlog > config.backlog_bytes as u64 {
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
        self.check_books(context);
    }

    /// Nothing waits for ever.
    pub(super) fn check_rest(&mut self, context: &mut Context<Event>) {
        let waiting = self.ingress.claims().waiting();
        if waiting > 0 || !self.ingress.is_drained() {
            let who = self.worker.who;
            context.violation(&format!("{waiting} frames wait for ever at worker {who}, or its claims do"));
        } else {
            self.check_books(context);
        }
    }

    /// Nothing is under way in this worker.
    pub(super) fn is_idle(&mut self) -> bool {
        self.inbox.is_empty() && self.ingress.is_drained()
    }

    /// Frames accepted are frames sent, suppressed, or dropped and counted.
    fn check_books(&self, context: &mut Context<Event>) {
        let (who, tally) = (self.worker.who, &self.tally);
        let (accepted, deduped) = (tally.accepted(Kind::Tx).get(), tally.deduped(Kind::Tx).get());
        let planned = tally.emitted.get();
        let frames = planned + tally.fragmented.get() - tally.fragments.get();
        let (handed_over, dropped) = (tally.handed_over.get(), self.dropped());
        if accepted != deduped + frames {
            context.violation(&format!(
                "worker {who} accepted {accepted} frames, suppressed {deduped} and sent {frames}"
            ));
        } else if planned != handed_over + dropped {
            context.violation(&format!(
                "worker {who} planned {planned} datagrams, handed over {handed_over} and counted {dropped} as dropped"
            ));
        }
    }

    /// Frames dropped behind the claim, and counted.
    pub(super) fn dropped(&self) -> u64 {
        [DropReason::SendRefused, DropReason::BacklogFull, DropReason::WriteError]
            .iter()
            .map(|reason| self.tally.dropped(*reason).get())
            .sum()
    }

    /// Frames that it let through undecided. Those that found no place in the slab at all were never asked about.
    pub(super) fn undecided(&self) -> u64 {
        undecided(&self.stats) + self.tally.slab_overflow.get()
    }
}

fn claims_config(config: &NodeConfig) -> ClaimsConfig {
    ClaimsConfig {
        ttl: TTL,
        lease: Duration::from_micros(config.lease),
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
            bytes: config.backlog_bytes,
            deadline: Duration::from_micros(config.send_deadline),
        },
        claims: true,
        slab_bytes: config.slab_bytes,
        slab_entries: config.slab_entries,
    }
}
