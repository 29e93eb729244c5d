//! Sockets, threads and timers around the pipeline.
//!
//! Threads, each on the chassis of `service::worker`: one for each worker (`worker`), one for the control groups
//! (`control`), one for courtesy marks (`marks`) where they are on. `layout` says what is joined; `predecessor` is what an
//! earlier process left in the shared store; `io` is what stands around a round, `consumer` the way out of it; `report` and
//! `cells` are what others see.

mod cells;
mod consumer;
mod control;
mod io;
mod layout;
mod marks;
mod predecessor;
mod report;
mod worker;

pub use cells::Counters;

use crate::config::{Config, Proto};
use crate::pipeline::Pipeline;
use crate::pipeline::position::MAX_WORKERS;
use crate::resolve::resolve;
use anyhow::Context;
use cache_backend::Backend;
use cells::Cells;
use consumer::{CONSUMER_PORT, Datagrams, Stream};
use control::{Control, ControlCells, ControlMessage, Dispatcher};
use frame::GroupIndex;
use frame::flow::Origin;
use io::Io;
use link_watch::{Family, Need};
use marks::Marks;
use multicast_io::{Loss, wildcard};
use predecessor::Predecessor;
use report::{Conditions, Report};
use service::config::Purpose;
use service::links::{Demand, Demands, Feed};
use service::worker::{Layout, Mailbox, Mailboxes, Threads, owner};
use service::{Deps, Metric};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};
use txidset::LocalSet;
use txidset::node::ProcessPlace;
use worker::Start;

/// Control messages that wait for a worker, and their bytes.
const MAILBOX: usize = 1024;
const MAILBOX_BYTES: usize = 16 << 20;

/// A started listener.
pub struct Running {
    workers: Vec<Arc<Cells>>,
    control: Arc<ControlCells>,
    threads: Threads,
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
        self.threads.ended().await;
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
    config.check()?;
    let links = follow_links(&config, &deps).await?;
    let opened = service::store::open(config.backend_settings()?, deps.store.clone())
        .await
        .context("--cache-backend")?;
    let backend = opened.map(|(backend, _)| backend);
    if let Some(backend) = &backend {
        service::store::watch(Purpose::Claims, backend, &deps.lifecycle, &deps.registry);
    }
    let predecessor = Predecessor::of(&config, backend.as_deref()).await?;
    let marks = Marks::open(&config, &deps.lifecycle, &deps.registry).await?;
    let layout = layout::layout(&config)?;
    Starting::new(config, deps, layout, links, backend, predecessor, marks)?.start().await
}

/// What a listener needs of its interfaces: to hear. Requests leave by whatever route there is.
async fn follow_links(config: &Config, deps: &Deps) -> anyhow::Result<Feed> {
    let v4 = config.data_fabric()?.is_v4();
    let demand = Demand {
        option: "--iface",
        names: config.fabric.iface.0.clone(),
        need: Need::none_of(Family::of(v4)),
        waits: false,
    };
    Demands::new(vec![demand]).receive_v4(v4).follow(&deps.lifecycle).await
}

/// What all workers are made from.
struct Starting {
    config: Config,
    deps: Deps,
    links: Feed,
    backend: Option<Arc<dyn Backend>>,
    layout: Layout,
    local: Option<Arc<LocalSet>>,
    consumer: SocketAddr,
    seed: u64,
    predecessor: Predecessor,
    marks: Option<Marks>,
}

impl Starting {
    fn new(
        config: Config,
        deps: Deps,
        layout: Layout,
        links: Feed,
        backend: Option<Arc<dyn Backend>>,
        predecessor: Predecessor,
        marks: Option<Marks>,
    ) -> anyhow::Result<Starting> {
        let consumer = resolve(&config.delivery.egress_addr, CONSUMER_PORT, "egress-addr")?;
        let seed = rand::random();
        let capacity = config.gate.egress_dedup_local_cap;
        let local = (capacity > 0)
            .then(|| Arc::new(LocalSet::new(capacity, config.gate.egress_dedup_ttl_redis, seed)));
        Ok(Starting { config, deps, links, backend, layout, local, consumer, seed, predecessor, marks })
    }

    async fn start(mut self) -> anyhow::Result<Running> {
        let joins = self.deps.lifecycle.condition("groups");
        let control = Arc::new(ControlCells::default());
        let mut threads = Threads::of(&self.deps.lifecycle);
        let (mailboxes, ends) = Mailboxes::open(self.layout.workers, MAILBOX, MAILBOX_BYTES);
        let (mut workers, mut starts, mut owners) = (Vec::new(), Vec::new(), Vec::new());
        for (index, mailbox) in ends.into_iter().enumerate() {
            let cells = Cells::new(index.to_string());
            let mut start = self.worker(index, cells.clone(), mailbox)?;
            owners.extend(start.pipeline.claims_mut().map(|claims| claims.owner()));
            starts.push(start);
            workers.push(cells);
        }
        let node = self.predecessor.end(&owners).await;
        for (index, (start, cells)) in starts.into_iter().zip(&workers).enumerate() {
            threads.spawn(format!("listener-{index}"), move || worker::open(start))?;
            self.deps.registry.add(cells.clone());
            self.deps.registry.add_ledger(cells.clone());
            self.deps.registry.add_recent(index.to_string(), Arc::clone(&cells.recent));
        }
        threads.all_up().await?;
        let thread = self.control(mailboxes, workers.clone(), control.clone())?;
        threads.spawn("listener-control".to_owned(), async move || Ok(thread.open()?))?;
        if let Some(marks) = self.marks.take() {
            threads.spawn("listener-marks".to_owned(), async move || Ok(marks.run()))?;
        }
        threads.all_up().await?;
        self.deps.registry.add(control.clone());
        let books = workers.clone();
        self.deps.registry.add_sum(move || books.iter().map(|cells| cells.shown().counts.sum()).sum());
        let (groups, count) = (self.layout.groups.len(), self.layout.workers);
        joins.met(&format!("{groups} groups on {count} workers"));
        let way = match self.config.delivery.egress_proto {
            Proto::Udp => "udp",
            Proto::Tcp => "tcp",
        };
        tracing::info!(groups, workers = count, consumer = %format!("{way}://{}", self.consumer), "listener receives");
        Ok(Running { workers, control, threads, node })
    }

    fn worker(
        &self,
        index: usize,
        cells: Arc<Cells>,
        mailbox: Mailbox<ControlMessage>,
    ) -> anyhow::Result<Start> {
        let (config, layout) = (&self.config, &self.layout);
        let now = Instant::now();
        let seed = self.seed.wrapping_add((index as u64) << 32);
        let data = layout::open_data(layout, config, index, self.marks.is_some())?;
        // What holds for the sockets of one worker holds for all.
        if let Some(joined) = data.first().filter(|_| index == 0) {
            joined.receiver.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
        }
        // Endpoints of the other family are asked too where the host has it.
        let requests: Vec<_> = [layout::open_requests(layout.fabric.is_v4())?]
            .into_iter()
            .chain(layout::open_requests(!layout.fabric.is_v4()).ok())
            .collect();
        let blocks = owner(GroupIndex::BLOCK_BROADCAST, layout.workers) == index;
        let headers =
            (config.delivery.header_egress_enabled && blocks).then(|| self.header_socket()).transpose()?;
        let origin = headers.as_ref().map(|_| Origin::from(self.emitter()));
        let mut settings = config.pipeline(layout.workers, self.backend.is_some(), origin)?;
        if self.predecessor.keeps_positions() {
            settings.positions = u16::try_from(index).ok().filter(|index| *index < MAX_WORKERS);
        }
        let queue = (config.delivery.egress_queue_bytes.as_usize() / layout.workers).max(1 << 16);
        let consumer = match config.delivery.egress_proto {
            Proto::Udp => Datagrams::open(self.consumer, queue).context("--egress-addr")?,
            Proto::Tcp => Stream::open(config.delivery.egress_addr.clone(), queue, now),
        };
        let mut pipeline = Pipeline::new(settings, self.local.clone(), seed, now);
        pipeline.resume(now, self.predecessor.positions(), |group| owner(group, layout.workers) == index);
        if let Some(claims) = pipeline.claims_mut() {
            let _ = cells.claims.set(claims.stats());
            self.predecessor.ended().iter().for_each(|owner| claims.has_ended(now, *owner));
        }
        let connected = self.deps.lifecycle.condition("consumer");
        let endpoints = self.deps.lifecycle.condition("endpoints");
        endpoints.met("not looked for yet");
        let expects_endpoints = config.repair.beacon_enabled || config.repair.retry_endpoints.is_some();
        Ok(Start {
            pipeline,
            data,
            requests,
            loss: self.loss(index as u64),
            backend: self.backend.clone(),
            op_timeout: config.backend.op_timeout(Purpose::Claims),
            io: Io {
                consumer,
                marker: self.marks.as_ref().map(Marks::marker),
                headers,
                links: self.links.clone(),
                interface: layout.interfaces.first().map(|on| on.name.clone()),
                strip_header: config.delivery.strip_header,
                recent: cells.recent.clone(),
                noted_at: None,
                gives_up: false,
            },
            report: Report::new(cells, Conditions { connected, endpoints, expects_endpoints }, now),
            mailbox,
            links: self.links.clone(),
            lifecycle: self.deps.lifecycle.clone(),
            drain_timeout: config.common.drain_timeout.max(Duration::from_millis(100)) * 9 / 10,
        })
    }

    fn control(
        &self,
        mailboxes: Mailboxes<ControlMessage>,
        shown: Vec<Arc<Cells>>,
        cells: Arc<ControlCells>,
    ) -> anyhow::Result<Control> {
        let (config, layout) = (&self.config, &self.layout);
        let mut sockets = Vec::new();
        if config.repair.beacon_enabled {
            let fabric = config.fabric_at(config.repair.beacon_scope, "beacon-scope")?;
            let (port, sources) = (config.repair.beacon_port, &config.receiving.ssm_bootstrap_beacon);
            sockets.extend(layout::open_control(layout, config, fabric, GroupIndex::BEACON, port, sources)?);
        }
        if !config.filters.subtree_groups.0.is_empty() {
            let fabric = config.fabric_at(config.filters.announce_scope, "announce-scope")?;
            let (port, sources) =
                (config.receiving.listen_port, &config.receiving.ssm_bootstrap_subtree_announce);
            let group = GroupIndex::SUBTREE_GROUP_ANNOUNCE;
            sockets.extend(layout::open_control(layout, config, fabric, group, port, sources)?);
        }
        let dispatcher = Dispatcher { workers: mailboxes, shown, cells };
        Ok(Control {
            sockets,
            dispatcher,
            loss: self.loss(u64::from(u32::MAX)),
            links: self.links.clone(),
            lifecycle: self.deps.lifecycle.clone(),
        })
    }

    fn loss(&self, stream: u64) -> Loss {
        let seed =
            self.config.inject.inject_loss_seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(stream);
        Loss::new(self.config.inject.inject_loss.percent(), seed)
    }

    fn header_socket(&self) -> anyhow::Result<(UdpSocket, SocketAddr)> {
        let to = resolve(&self.config.delivery.header_egress_addr, 9101, "header-egress-addr")?;
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
