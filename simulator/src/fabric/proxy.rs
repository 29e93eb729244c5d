//! A proxy's worker: its real pipeline in a model of its runtime.
//!
//! A round is that of the runtime: what arrived is judged and claimed, the store is asked; then (perhaps a while later, and
//! the time is read again) decided frames are loaded, planned, handed to the kernel, and the rest is kept.

use super::kernel::{Kernel, Refusal};
use super::mutation::Mutation;
use super::world::{Event, FABRIC, World};
use crate::MS;
use crate::way::{Calls, PATIENCE};
use frame::{GroupIndex, ShardBits};
use multicast_io::Burst;
use proxy_ingress::pipeline::emit::OutletLimits;
use proxy_ingress::pipeline::number::{FlowLimits, Identity, MIN_FLOWS};
use proxy_ingress::pipeline::train::Order;
use proxy_ingress::pipeline::{DropReason, Ingress, IngressConfig, Policy};
use proxy_ingress::tally::Tally;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use txidset::{ClaimStats, Claims, ClaimsConfig, KeyStyle, LocalSet};

/// Shards of all worlds.
pub(super) const SHARD_BITS: ShardBits = match ShardBits::new(1) {
    Some(bits) => bits,
    None => panic!("within 15 bits"),
};
/// How long claims are remembered: longer than any world lasts.
pub(super) const TTL: Duration = Duration::from_secs(120);
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
    pub(super) node: usize,
    pub(super) ingress: Ingress,
    pub(super) tally: Arc<Tally>,
    pub(super) stats: Arc<ClaimStats>,
    burst: Burst,
    kernel: [Kernel; 1],
    address: SocketAddr,
    origin: [u8; 16],
    /// Frames in the kernel's receive queue.
    pub(super) inbox: Vec<usize>,
    turn_due: bool,
    pub(super) calls: Calls,
    pub(super) timer: Option<u64>,
    /// In the middle of a round, until then.
    pub(super) busy_until: Option<u64>,
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

impl World {
    /// Starts the workers of a proxy.
    pub(super) fn start_proxy(&mut self, node: usize, workers: usize) {
        let local = self.local();
        for number in 0..workers {
            let address = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0xa, u16::try_from(node).unwrap_or(0));
            let port = 4000 + u16::try_from(number).unwrap_or(0);
            let proxy = self.proxy(node, &local, SocketAddr::new(address.into(), port), None);
            self.proxies.push(proxy);
        }
    }

    /// Starts them again, after their process died.
    pub(super) fn restart_proxy(&mut self, node: usize) {
        let local = self.local();
        for who in 0..self.proxies.len() {
            if self.proxies[who].node == node {
                let reused = self.options.mutation == Some(Mutation::NumbersReusedAfterRestart);
                let origin = reused.then_some(self.proxies[who].origin);
                self.proxies[who] = self.proxy(node, &local, self.proxies[who].address, origin);
            }
        }
    }

    fn local(&mut self) -> Arc<LocalSet> {
        Arc::new(LocalSet::starting_at(64, self.terms.horizon, self.random.next(), self.start_of_time()))
    }

    fn proxy(
        &mut self,
        node: usize,
        local: &Arc<LocalSet>,
        address: SocketAddr,
        origin: Option<[u8; 16]>,
    ) -> Proxy {
        let mut fresh = [0; 16];
        fresh[..8].copy_from_slice(&self.random.next().to_le_bytes());
        fresh[8..].copy_from_slice(&self.random.next().to_le_bytes());
        let origin = origin.unwrap_or(fresh);
        let mut claims = Claims::new(self.claims_of_proxies(), Arc::clone(local), self.random.next());
        if let Some(Mutation::Claims(mutation)) = self.options.mutation {
            claims.mutate(mutation);
        }
        let stats = claims.stats();
        let tally = Arc::new(Tally::noting(SHARD_BITS, RECENT.with(Arc::clone)));
        let config = self.ingress_config(origin);
        let mut ingress = Ingress::new(self.instant(), config, claims, Arc::clone(&tally));
        if let Some(Mutation::Ingress(mutation)) = self.options.mutation {
            ingress.mutate(mutation);
        }
        Proxy {
            node,
            ingress,
            tally,
            stats,
            burst: Burst::new(0, HEAP),
            kernel: [Kernel::default()],
            address,
            origin,
            inbox: Vec::new(),
            turn_due: false,
            calls: Calls::default(),
            timer: None,
            busy_until: None,
            received: Vec::new(),
            refused_at: None,
        }
    }

    fn claims_of_proxies(&self) -> ClaimsConfig {
        ClaimsConfig {
            ttl: TTL,
            lease: Duration::from_micros(self.terms.lease),
            park_bytes: self.terms.park_bytes,
            max_batch: self.terms.max_batch,
            prefix: PREFIX.to_vec(),
            keys: KeyStyle::Compact,
            tier2: true,
            answer_timeout: Duration::from_micros(PATIENCE),
            ..ClaimsConfig::default()
        }
    }

    fn ingress_config(&self, origin: [u8; 16]) -> IngressConfig {
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
                bytes: self.terms.backlog_bytes,
                deadline: Duration::from_micros(self.terms.send_deadline),
            },
            claims: true,
            slab_bytes: self.terms.slab_bytes,
            slab_entries: self.terms.slab_entries,
        }
    }

    // The path of a frame.

    pub(super) fn arrive(&mut self, who: usize, id: usize) {
        if !self.nodes[self.proxies[who].node].accepting {
            return;
        }
        let proxy = &mut self.proxies[who];
        proxy.inbox.push(id);
        if !proxy.turn_due {
            proxy.turn_due = true;
            // A burst is taken together.
            let at = self.now + self.random.between(0, MS);
            self.schedule(at, who, Event::Turn);
        }
    }

    /// First half: receive, judge, claim, ask the store.
    pub(super) fn round(&mut self, who: usize) {
        let now = self.instant();
        let first = self.first;
        let proxy = &mut self.proxies[who];
        proxy.turn_due = false;
        if !proxy.ingress.is_blocked() {
            for id in std::mem::take(&mut proxy.inbox) {
                let Some(span) = proxy.burst.push(super::frames::frames().of(first + id)) else { continue };
                proxy.ingress.receive_datagram(now, &proxy.burst, span, WALLET);
                proxy.received.push(id);
            }
            proxy.ingress.ask(now);
        }
        self.pump(who);
        self.go_on(who);
    }

    /// Second half: load, plan, send, keep what waits.
    pub(super) fn end_round(&mut self, who: usize) {
        let now = self.instant();
        self.open_kernel(who);
        let proxy = &mut self.proxies[who];
        for _ in 0..ROUNDS {
            proxy.ingress.load(now, &mut proxy.burst);
            proxy.send(now);
            if proxy.ingress.finish(now, &mut proxy.burst) {
                proxy.send(now);
                proxy.ingress.finish(now, &mut proxy.burst);
            }
            proxy.burst.clear();
            if !proxy.ingress.is_busy() {
                break;
            }
        }
        self.pump(who);
        let proxy = &mut self.proxies[who];
        proxy.ingress.tick(now, &mut proxy.kernel);
        self.close_kernel(who);
        self.pump(who);
        self.check_bounds(who);
        self.rest(who);
    }

    /// When the worker wants to be called again.
    fn rest(&mut self, who: usize) {
        let proxy = &mut self.proxies[who];
        let claims = proxy.ingress.claims().next_timeout();
        let ingress = proxy.ingress.next_timeout();
        if let Some(at) = [claims, ingress].into_iter().flatten().min() {
            self.wake_at(who, at);
        }
    }

    /// The kernel as it is now: it takes all, or a few more frames.
    fn open_kernel(&mut self, who: usize) {
        let (until, refusal) = self.nodes[self.proxies[who].node].refusing;
        let room = (until > self.now).then(|| (self.random.below(4), refusal));
        self.proxies[who].kernel[0].room = room;
    }

    /// What it took goes to the network.
    fn close_kernel(&mut self, who: usize) {
        let kernel = &mut self.proxies[who].kernel[0];
        let taken = std::mem::take(&mut kernel.taken);
        if std::mem::take(&mut kernel.refused) {
            self.proxies[who].refused_at = Some(self.now);
        }
        for (destination, bytes) in taken {
            self.leave_proxy(who, destination, &bytes);
        }
    }

    fn leave_proxy(&mut self, who: usize, destination: SocketAddr, bytes: &Rc<[u8]>) {
        let from = self.proxies[who].address;
        match super::endpoint::group_of(destination) {
            Some(GroupIndex::BEACON) => self.send_digest(from, bytes),
            Some(group) => {
                self.note_sent(who, bytes);
                self.reach_endpoints(group, bytes);
                self.multicast(from, bytes);
            }
            None => self.broken("a frame left for no group of the fabric"),
        }
    }

    /// Whether the kernel has refused something of this worker since `at`: what it sends then may be late.
    pub(super) fn was_refused_since(&self, who: usize, at: u64) -> bool {
        self.proxies[who].refused_at.is_some_and(|refused| refused >= at)
    }

    /// Half of the time of an orderly stop is over: what still waits for the store is sent.
    pub(super) fn decide_proxy(&mut self, who: usize) {
        let now = self.instant();
        self.proxies[who].ingress.claims().drain(now);
        self.round(who);
    }

    /// The end of an orderly stop.
    pub(super) fn farewell(&mut self, who: usize) {
        let now = self.instant();
        self.open_kernel(who);
        let proxy = &mut self.proxies[who];
        proxy.ingress.farewell(now, &mut proxy.kernel);
        proxy.ingress.abandon(now);
        self.close_kernel(who);
        self.pump(who);
    }

    fn start_of_time(&self) -> std::time::Instant {
        self.instant() - Duration::from_micros(self.now)
    }
}

impl Proxy {
    /// Plans what was loaded and hands it to the kernel; what a full socket does not take goes to its backlog at once
    /// (the runtime waits for 5 ms first).
    fn send(&mut self, now: std::time::Instant) {
        if self.ingress.plan(now, &mut self.burst, 16)
            && self.ingress.emit(now, self.burst.memory(), &mut self.kernel)
        {
            self.ingress.defer(now, self.burst.memory());
        }
    }

    /// Frames dropped behind the claim, and counted.
    pub(super) fn dropped(&self) -> u64 {
        [DropReason::SendRefused, DropReason::BacklogFull, DropReason::WriteError]
            .iter()
            .map(|reason| self.tally.dropped(*reason).get())
            .sum()
    }
}

impl Refusal {
    pub(super) const BOTH: [Refusal; 2] = [Refusal::NoBuffers, Refusal::WouldBlock];
}
