//! The shell around the pipeline: sockets, threads, timers, streams.
//!
//! One thread per worker; nothing is shared between workers on the packet path but tier 1 of the claims (and, in
//! `standard` identity, the counters of flows).

pub mod state;
pub mod stream;

mod emit_links;
mod fabric;
mod sockets;
mod worker;

use crate::config::{Config, FlowIdentityArg};
use crate::metrics::{Proxy, WorkerCells};
use crate::pipeline::number::{Directory, Identity};
use crate::pipeline::{DropReason, IngressConfig};
use crate::stream_tally::{CloseReason, StreamTally};
use crate::tally::{KINDS, Tally};
use crate::variants::Variants;
use cache_backend::{Backend, Settings};
use link_watch::{Family, Need};
use service::codes::Code;
use service::config::Purpose;
use service::host::ports::Sign;
use service::links::{Demand, Demands};
use service::worker::Threads;
use service::{Deps, Lifecycle};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stream::StreamLimits;
use txidset::{Claims, LocalSet};
use worker::{Start, Worker};

/// How long after the drain timeout a worker may take to close its sockets.
const GRACE: Duration = Duration::from_secs(1);

/// Between two looks at how far back tier 1 remembers.
const LOOK: Duration = Duration::from_secs(10);
/// How often the age of unsettled claims is looked at.
const LOOK_AT_EPOCHS: Duration = Duration::from_secs(1);

/// Totals over all workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams taken from the UDP port.
    pub received: u64,
    /// Messages taken from TCP streams.
    pub tcp_messages: u64,
    /// Frames that passed every check.
    pub accepted: u64,
    /// Frames suppressed because their id was forwarded before.
    pub duplicates_suppressed: u64,
    /// Frames planned to leave; fragments count one by one.
    pub emitted: u64,
    /// Frames taken by the kernel, once for each interface.
    pub handed_over: u64,
    /// Trains.
    pub trains: u64,
    /// Bytes of padding.
    pub padding_bytes: u64,
    /// Datagrams that the kernel dropped because a receive queue was full.
    pub kernel_drops: u64,
    /// Frames that wait: in the slab or in a backlog (bytes).
    pub waiting_bytes: u64,
    /// Drops by reason, those that happened.
    pub dropped: BTreeMap<&'static str, u64>,
}

/// A proxy that runs.
pub struct Running {
    /// UDP port that was bound.
    pub udp: SocketAddr,
    /// TCP port that was bound.
    pub tcp: Option<SocketAddr>,
    cells: Vec<WorkerCells>,
    threads: Threads,
    drain_timeout: Duration,
    /// The store, where the proxy opened it itself.
    closes: Option<Arc<dyn Backend>>,
    saved: Option<(Arc<Directory>, state::StateFile)>,
    _signs: Vec<Sign>,
}

impl Running {
    /// Totals over all workers.
    pub fn counters(&self) -> Counters {
        totals(&self.cells)
    }

    /// TCP connections that ended, by reason, those that happened.
    pub fn closed_streams(&self) -> BTreeMap<&'static str, u64> {
        let count =
            |reason: CloseReason| self.cells.iter().map(|cells| cells.streams.closed(reason).get()).sum();
        let all = CloseReason::ALL.into_iter().map(|reason| (reason.name(), count(reason)));
        all.filter(|(_, count)| *count > 0).collect()
    }

    /// A way to read the totals later.
    pub fn counters_handle(&self) -> impl Fn() -> Counters + Send + Sync + 'static {
        let cells = self.cells.clone();
        move || totals(&cells)
    }

    /// Ends when the role has drained: all workers are done, counters saved, a store that it opened closed.
    pub async fn wait(self) {
        let left_behind = self.threads.ended_within(self.drain_timeout + GRACE).await;
        if left_behind > 0 {
            tracing::error!("{left_behind} threads did not stop within --drain-timeout and are left behind");
        }
        if let Some((directory, file)) = &self.saved
            && let Err(error) = file.save(&directory.snapshot())
        {
            tracing::error!("flow counters were not saved, flows start again at 1: {error:#}");
        }
        if let Some(backend) = self.closes {
            backend.close().await;
        }
        let totals = totals(&self.cells);
        tracing::info!(emitted = totals.emitted, suppressed = totals.duplicates_suppressed, dropped = ?totals.dropped, "proxy stopped");
    }
}

fn totals(cells: &[WorkerCells]) -> Counters {
    let mut totals = Counters::default();
    for tally in cells.iter().map(|cells| &cells.tally) {
        totals.received += tally.packets_received.get();
        totals.tcp_messages += tally.tcp_messages.get();
        totals.accepted += KINDS.iter().map(|kind| tally.accepted(*kind).get()).sum::<u64>();
        totals.duplicates_suppressed += KINDS.iter().map(|kind| tally.deduped(*kind).get()).sum::<u64>();
        totals.emitted += tally.emitted.get();
        totals.handed_over += tally.handed_over.get();
        totals.trains += tally.trains.get();
        totals.padding_bytes += tally.padding.get();
        totals.kernel_drops += tally.kernel_drops.get();
        totals.waiting_bytes += tally.slab_bytes.get() + tally.backlog_bytes.get();
        for reason in DropReason::ALL {
            let count = tally.dropped(reason);
            if count > 0 {
                *totals.dropped.entry(reason.name()).or_default() += count;
            }
        }
    }
    totals
}

/// Brings the proxy up: everything that can be wrong is found here, before a frame is taken.
///
/// # Errors
/// [`service::config::Invalid`] for options that cannot work; an interface, port or store that is not there.
pub async fn start(config: Config, deps: Deps) -> anyhow::Result<Running> {
    config.check()?;
    let config = Arc::new(config);
    let need = Need::address_of(Family::of(config.fabric()?.is_v4())).from_source(config.fabric.bind_source);
    let names = config.fabric.iface.0.clone();
    let demand = Demand { option: "--iface", names, need, waits: false };
    Demands::new(vec![demand]).follow(&deps.lifecycle).await?;
    let count = service::worker_count(config.receiving.workers);
    let opened = sockets::open(&config, count)?;
    let (udp, tcp) = (opened.udp, opened.tcp);
    let (backend, ours) = open_backend(&config, deps.store).await?.unzip();
    if let Some(backend) = &backend {
        service::store::watch(Purpose::Claims, backend, &deps.lifecycle, &deps.registry);
    }
    let mut threads = Threads::of(&deps.lifecycle);
    fabric::watch(&config, backend.as_ref(), &deps.lifecycle, &mut threads).await?;
    let local = local_set(&config);
    let limits = StreamLimits::new(&config.streams);
    let saved = saved_counters(&config)?;
    let variants = config.claims.variants();
    let mut cells = Vec::new();
    for (index, sockets) in opened.workers.into_iter().enumerate() {
        let identity = match &saved {
            Some((directory, _)) => Identity::Standard(Arc::clone(directory)),
            None => Identity::Instance(rand::random()),
        };
        let outlets = sockets.senders.len();
        let ingress = ingress_config(&config, identity, opened.max_segment, outlets, variants.clone())?;
        let tally = Arc::new(Tally::new(config.shard_bits()?));
        deps.registry.add_recent(index.to_string(), Arc::clone(&tally.recent));
        deps.registry.add_ledger(tally.clone());
        let streams = Arc::new(StreamTally::default());
        let claims = Claims::new(config.claims_config(backend.is_some()), Arc::clone(&local), rand::random());
        cells.push(WorkerCells {
            tally: Arc::clone(&tally),
            streams: Arc::clone(&streams),
            claims: claims.stats(),
        });
        let start = Start {
            index,
            sockets,
            need,
            ingress,
            claims,
            backend: backend.clone(),
            tally,
            streams,
            stream_limits: limits.clone(),
            lifecycle: deps.lifecycle.clone(),
            ready: deps.lifecycle.condition("worker"),
            config: Arc::clone(&config),
        };
        threads
            .spawn(format!("proxy-{index}"), move || async move { Ok(Worker::open(start).await?.work()) })?;
    }
    threads.all_up().await?;
    let local = config.claims.enabled().then_some(local);
    local.iter().for_each(|local| watch_claims(local, &cells, &deps.lifecycle));
    deps.registry.add(Arc::new(Proxy {
        workers: cells.clone(),
        local,
        prefix: config.claims.txid_dedup_prefix.clone(),
    }));
    let books = cells.clone();
    deps.registry.add_sum(move || books.iter().map(|worker| worker.tally.sum()).sum());
    let store = backend.as_ref().map_or("none", |backend| backend.name());
    let closes = backend.clone().filter(|_| ours == Some(true));
    tracing::info!(%udp, ?tcp, workers = count, store, "proxy takes frames");
    Ok(Running {
        udp,
        tcp,
        cells,
        threads,
        drain_timeout: config.common.drain_timeout,
        closes,
        saved,
        _signs: opened.signs,
    })
}

fn watch_claims(local: &Arc<LocalSet>, cells: &[WorkerCells], lifecycle: &Lifecycle) {
    tokio::spawn(watch_tier1(Arc::clone(local), lifecycle.clone()));
    tokio::spawn(watch_epochs(cells.to_vec(), lifecycle.clone()));
}

/// Says that tier 1 forgets ids before their time, once each time that it begins to.
async fn watch_tier1(local: Arc<LocalSet>, lifecycle: Lifecycle) {
    let mut look = tokio::time::interval(LOOK);
    let mut short = false;
    loop {
        tokio::select! {
            () = lifecycle.drain_began() => return,
            _ = look.tick() => {}
        }
        let warning = local.shortfall(Instant::now());
        if let (Some(warning), false) = (&warning, short) {
            tracing::warn!("{warning}");
        }
        short = warning.is_some();
    }
}

/// A reason while claims do not settle: siblings take over what they cover.
async fn watch_epochs(cells: Vec<WorkerCells>, lifecycle: Lifecycle) {
    let condition = lifecycle.condition("claims");
    condition.met("claims settle");
    let mut look = tokio::time::interval(LOOK_AT_EPOCHS);
    loop {
        tokio::select! {
            () = lifecycle.drain_began() => return,
            _ = look.tick() => {}
        }
        let oldest = cells.iter().map(|worker| worker.claims.unsettled_age.value()).max();
        let oldest = Duration::from_micros(oldest.unwrap_or_default());
        match oldest < txidset::UNSETTLED_LATE {
            true => condition.met("claims settle"),
            false => {
                condition.fails(Code::Epoch, &format!("the oldest claims wait for {} s", oldest.as_secs()))
            }
        }
    }
}

async fn open_backend(
    config: &Config,
    ready: Option<Arc<dyn Backend>>,
) -> anyhow::Result<Option<(Arc<dyn Backend>, bool)>> {
    if !config.claims.enabled() {
        return Ok(None);
    }
    let settings = match config.backend_settings()? {
        // A store that no other role shares knows nothing that tier 1 does not know, and ends with it.
        Settings::Memory { .. } => Settings::None,
        settings => settings,
    };
    Ok(service::store::open(settings, ready).await?)
}

/// Tier 1. Where it is the only tier it also gets the room of the memory store.
fn local_set(config: &Config) -> Arc<LocalSet> {
    let capacity = crate::needs::tier1_entries(config);
    Arc::new(LocalSet::new(capacity.max(1), config.claims.txid_dedup_ttl, rand::random()))
}

fn saved_counters(config: &Config) -> anyhow::Result<Option<(Arc<Directory>, state::StateFile)>> {
    if config.flows.flow_identity == FlowIdentityArg::Instance {
        return Ok(None);
    }
    let directory = Directory::new(config.flows.flow_capacity.saturating_mul(4));
    let file = state::StateFile::new(config.flows.state_dir.clone());
    directory.restore(file.take()?);
    Ok(Some((Arc::new(directory), file)))
}

fn ingress_config(
    config: &Config,
    identity: Identity,
    max_segment: u16,
    outlets: usize,
    variants: Option<Arc<Variants>>,
) -> anyhow::Result<IngressConfig> {
    let slab_bytes = config.claims.slab_bytes.as_usize();
    Ok(IngressConfig {
        policy: config.verification.policy(config.sending.frag_mtu, variants.is_some()),
        fabric: config.fabric()?,
        shard_bits: config.shard_bits()?,
        egress_port: config.sending.egress_port,
        beacon_port: config.sending.beacon_port,
        identity,
        stamp_source: config.flows.stamp_source,
        flows: config.flows.limits(),
        digests: config.flows.flow_digests,
        max_segment,
        padding_percent: config.sending.train_padding,
        train_order: config.sending.train_order.into(),
        outlets,
        outlet: config.sending.outlet_limits(),
        chunk: IngressConfig::CHUNK,
        full_timeout: IngressConfig::FULL_TIMEOUT,
        claims: config.claims.enabled(),
        variants,
        slab_bytes,
        // A frame of the real mix takes about two blocks.
        slab_entries: (slab_bytes / 256).max(4_096),
    })
}
