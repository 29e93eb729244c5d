//! Sockets, threads and timers around the pipeline.
//!
//! Threads: one for each worker (`worker`), one for the control groups (`control`), one for courtesy marks (`marks`) where they
//! are on. `layout` says which worker owns which
//! group; `before` is what an earlier process left in the shared store; `consumer` is the way out; `cells` are the numbers that others see.

mod before;
mod cells;
mod consumer;
mod control;
mod layout;
mod marks;
mod worker;

pub use cells::Counters;

use crate::config::{Config, Proto, resolve};
use crate::pipeline::Pipeline;
use crate::pipeline::position::MAX_WORKERS;
use anyhow::Context;
use before::Before;
use cache_backend::Backend;
use cells::Cells;
use consumer::{Datagrams, Stream};
use control::{Control, ControlCells};
use frame::GroupIndex;
use frame::flow::Origin;
use layout::{Layout, owner};
use marks::Marks;
use multicast_io::{Loss, wildcard};
use service::config::{BackendKind, Purpose};
use service::{Deps, Metric};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use txidset::LocalSet;
use txidset::node::ProcessPlace;
use worker::Start;

/// Messages that wait for a worker.
const INBOX: usize = 1024;

/// A started listener.
pub struct Running {
    workers: Vec<Arc<Cells>>,
    control: Arc<ControlCells>,
    threads: Vec<service::Worker>,
    /// Held until every thread has ended.
    node: Option<ProcessPlace>,
}

impl Running {
    /// Totals since the start, at most a tenth of a second old; exact once `wait` has completed.
    pub fn counters(&self) -> Counters {
        total(&self.workers, &self.control)
    }

    /// Reads the totals also after `wait` took this.
    pub fn counters_reader(&self) -> impl Fn() -> Counters + Clone + Send + Sync + use<> {
        let (workers, control) = (self.workers.clone(), self.control.clone());
        move || total(&workers, &control)
    }

    /// Completes when every thread has ended, some time after drain began.
    pub async fn wait(self) {
        for mut thread in self.threads {
            thread.ended().await;
        }
        drop(self.node);
    }
}

fn total(workers: &[Arc<Cells>], control: &ControlCells) -> Counters {
    let mut total = Counters {
        received: control.received.get(),
        dropped_on_purpose: control.dropped_on_purpose.get(),
        ..Counters::default()
    };
    workers.iter().for_each(|cells| total.add(&cells.shown()));
    total
}

/// The metrics of the role, for the documentation and its check.
pub fn metrics() -> impl Iterator<Item = &'static Metric> {
    cells::metrics().chain(ControlCells::TABLE.metrics()).chain(marks::MarkCells::TABLE.metrics())
}

/// Joins the groups and begins to deliver; everything that cannot work is an error here.
///
/// # Errors
/// Names the option, the address or the interface.
pub async fn start(config: Config, deps: Deps) -> anyhow::Result<Running> {
    config.validate()?;
    let kind = config.backend.kind_or(BackendKind::None)?;
    let backend = match (kind, &deps.memory) {
        (BackendKind::None | BackendKind::Memory, Some(memory)) => {
            Some(Arc::new(memory.clone()) as Arc<dyn Backend>)
        }
        _ => {
            let settings = config.backend.settings(kind, Purpose::Claims)?;
            cache_backend::open(settings).await.context("--cache-backend")?
        }
    };
    if let Some(backend) = &backend {
        service::store::watch(Purpose::Claims, backend, &deps.lifecycle, &deps.registry);
    }
    let before = Before::of(&config, backend.as_deref()).await?;
    let marks = Marks::open(&config, &deps.lifecycle, &deps.registry).await?;
    Starting::new(config, deps, backend, before, marks)?.start().await
}

/// What all workers are made from.
struct Starting {
    config: Config,
    deps: Deps,
    backend: Option<Arc<dyn Backend>>,
    layout: Layout,
    local: Option<Arc<LocalSet>>,
    consumer: SocketAddr,
    seed: u64,
    before: Before,
    marks: Option<Marks>,
}

impl Starting {
    fn new(
        config: Config,
        deps: Deps,
        backend: Option<Arc<dyn Backend>>,
        before: Before,
        marks: Option<Marks>,
    ) -> anyhow::Result<Starting> {
        let layout = Layout::new(&config)?;
        let consumer = resolve(&config.egress_addr, 9100, "egress-addr")?;
        let seed = rand::random();
        let capacity = config.egress_dedup_local_cap;
        let local =
            (capacity > 0).then(|| Arc::new(LocalSet::new(capacity, config.egress_dedup_ttl_redis, seed)));
        Ok(Starting { config, deps, backend, layout, local, consumer, seed, before, marks })
    }

    async fn start(mut self) -> anyhow::Result<Running> {
        let joins = self.deps.lifecycle.condition("groups");
        let control = Arc::new(ControlCells::default());
        let mut running =
            Running { workers: Vec::new(), control: control.clone(), threads: Vec::new(), node: None };
        let (mut inboxes, mut opened, mut starts, mut owners) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for index in 0..self.layout.workers {
            let cells = Cells::new(index.to_string());
            let (inbox, news) = mpsc::channel(INBOX);
            let (open, outcome) = oneshot::channel();
            let mut start = self.worker(index, cells.clone(), news, open)?;
            owners.extend(start.pipeline.claims_mut().map(|claims| claims.owner()));
            starts.push(start);
            inboxes.push((inbox, cells.clone()));
            running.workers.push(cells);
            opened.push(outcome);
        }
        running.node = self.before.end(&owners).await;
        for (index, (start, cells)) in starts.into_iter().zip(&running.workers).enumerate() {
            running
                .threads
                .push(service::spawn_worker(format!("listener-{index}"), move || worker::run(start))?);
            self.deps.registry.add(cells.clone());
            self.deps.registry.add_recent(index.to_string(), Arc::clone(&cells.recent));
        }
        for outcome in opened {
            if let Err(error) = outcome.await.context("a worker ended while it started").flatten() {
                self.deps.lifecycle.begin_drain();
                return Err(error);
            }
        }
        running.threads.push(self.control(inboxes, control.clone())?);
        if let Some(marks) = self.marks.take() {
            running.threads.push(service::spawn_worker("listener-marks".to_owned(), move || marks.run())?);
        }
        self.deps.registry.add(control);
        let (groups, workers) = (self.layout.groups.len(), self.layout.workers);
        joins.met(&format!("{groups} groups on {workers} workers"));
        let way = match self.config.egress_proto {
            Proto::Udp => "udp",
            Proto::Tcp => "tcp",
        };
        tracing::info!(groups, workers, consumer = %format!("{way}://{}", self.consumer), "listener receives");
        Ok(running)
    }

    fn worker(
        &self,
        index: usize,
        cells: Arc<Cells>,
        inbox: mpsc::Receiver<worker::News>,
        opened: oneshot::Sender<anyhow::Result<()>>,
    ) -> anyhow::Result<Start> {
        let (config, layout) = (&self.config, &self.layout);
        let now = Instant::now();
        let seed = self.seed.wrapping_add((index as u64) << 32);
        let data = layout.open_data(config, index, self.marks.is_some())?;
        // What holds for the sockets of one worker holds for all.
        if let Some(joined) = data.first().filter(|_| index == 0) {
            joined.receiver.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
        }
        // Endpoints of the other family are asked too where the host has it.
        let requests: Vec<_> = [layout.open_requests(layout.fabric.is_v4())?]
            .into_iter()
            .chain(layout.open_requests(!layout.fabric.is_v4()).ok())
            .collect();
        let blocks = owner(GroupIndex::BLOCK_BROADCAST, layout.workers) == index;
        let headers = (config.header_egress_enabled && blocks).then(|| self.header_socket()).transpose()?;
        let origin = headers.as_ref().map(|_| Origin::from(self.emitter()));
        let mut settings = config.pipeline(layout.workers, self.backend.is_some(), origin)?;
        if self.before.keeps_positions() {
            settings.positions = u16::try_from(index).ok().filter(|index| *index < MAX_WORKERS);
        }
        let queue = (config.egress_queue_bytes.as_usize() / layout.workers).max(1 << 16);
        let consumer = match config.egress_proto {
            Proto::Udp => Datagrams::open(self.consumer, queue).context("--egress-addr")?,
            Proto::Tcp => Stream::open(self.consumer, queue, now),
        };
        let mut pipeline = Pipeline::new(settings, self.local.clone(), seed, now);
        pipeline.resume(now, self.before.positions(), |group| owner(group, layout.workers) == index);
        if let Some(claims) = pipeline.claims_mut() {
            let _ = cells.claims.set(claims.stats());
            self.before.ended().iter().for_each(|owner| claims.has_ended(now, *owner));
        }
        Ok(Start {
            pipeline,
            data,
            requests,
            interfaces: layout.interfaces.clone(),
            consumer,
            marker: self.marks.as_ref().map(Marks::marker),
            headers,
            strip_header: config.strip_header,
            loss: self.loss(index as u64),
            backend: self.backend.clone(),
            op_timeout: config.backend.op_timeout(Purpose::Claims),
            inbox,
            cells,
            lifecycle: self.deps.lifecycle.clone(),
            connected: self.deps.lifecycle.condition("consumer"),
            drain_timeout: config.drain_timeout.max(Duration::from_millis(100)) * 9 / 10,
            opened,
        })
    }

    fn control(
        &self,
        workers: Vec<(mpsc::Sender<worker::News>, Arc<Cells>)>,
        cells: Arc<ControlCells>,
    ) -> anyhow::Result<service::Worker> {
        let (config, layout) = (&self.config, &self.layout);
        let mut sockets = Vec::new();
        if config.beacon_enabled {
            let fabric = config.fabric_at(config.beacon_scope, "beacon-scope")?;
            let (port, sources) = (config.beacon_port, &config.ssm_bootstrap_beacon);
            sockets.extend(layout.open_control(config, fabric, GroupIndex::BEACON, port, sources)?);
        }
        if !config.subtree_groups.0.is_empty() {
            let fabric = config.fabric_at(config.announce_scope, "announce-scope")?;
            let (port, sources) = (config.listen_port, &config.ssm_bootstrap_subtree_announce);
            let group = GroupIndex::SUBTREE_GROUP_ANNOUNCE;
            sockets.extend(layout.open_control(config, fabric, group, port, sources)?);
        }
        let lifecycle = self.deps.lifecycle.clone();
        let loss = self.loss(u64::from(u32::MAX));
        let control = Control { sockets, workers, loss, cells, lifecycle };
        Ok(service::spawn_worker("listener-control".to_owned(), move || control.run())?)
    }

    fn loss(&self, stream: u64) -> Loss {
        let seed = self.config.inject_loss_seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(stream);
        Loss::new(self.config.inject_loss.percent(), seed)
    }

    fn header_socket(&self) -> anyhow::Result<(UdpSocket, SocketAddr)> {
        let to = resolve(&self.config.header_egress_addr, 9101, "header-egress-addr")?;
        let socket = UdpSocket::bind((wildcard(to.is_ipv4()), 0)).context("--header-egress-addr")?;
        socket.set_nonblocking(true)?;
        Ok((socket, to))
    }

    /// Emitter of V7 headers (wire 1.7): the first address of the interface that is not link-local, else link-local.
    fn emitter(&self) -> IpAddr {
        let first = self.layout.interfaces.first();
        let v6 = first.and_then(multicast_io::Interface::preferred_v6).map(IpAddr::V6);
        let v4 = first.and_then(|interface| interface.v4.first().copied()).map(IpAddr::V4);
        v6.or(v4).unwrap_or_else(|| wildcard(false))
    }
}
