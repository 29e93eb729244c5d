//! Sockets, threads and timers around the pipeline.
//!
//! Threads: one a worker (`worker`), one for the request port (`door`), one for what is slow (`beacon`, `upstream`,
//! `shared`). They talk through bounded queues (`post`); `directory` tells the door which worker holds a flow.

mod beacon;
mod counters;
mod directory;
mod door;
mod emit;
mod overhear;
mod post;
mod shared;
mod upstream;
mod worker;

pub use counters::{Counters, metrics};

use crate::config::Config;
use crate::pipeline::advertise::Offer;
use crate::pipeline::upstream::Fetches;
use anyhow::{Context, ensure};
use cache_backend::Backend;
use counters::{ControlCells, DoorCells, WorkerCells};
use emit::{Link, open_sender};
use frame::{Advert, Fabric, GroupIndex, ShardBits, SourceMode};
use multicast_io::{Interface, Joined, Membership, Receiver, SocketOptions, wildcard};
use post::{Post, queue};
use service::config::Purpose;
use service::{Deps, Lifecycle};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// A started endpoint.
pub struct Running {
    /// Where requests are taken: the bound address and port.
    pub nack: SocketAddr,
    workers: Vec<Arc<WorkerCells>>,
    door: Arc<DoorCells>,
    control: Arc<ControlCells>,
    threads: Vec<service::Worker>,
}

impl Running {
    /// Totals since the start.
    pub fn counters(&self) -> Counters {
        let mut total = Counters {
            adverts_sent: self.control.adverts.get(),
            digest_entries_heard: self.control.digest_entries.get(),
            ..Counters::default()
        };
        self.workers.iter().for_each(|cells| total.add_worker(cells));
        total.add_door(&self.door);
        total
    }

    /// Completes when every thread has ended, some time after drain began.
    pub async fn wait(self) {
        for mut thread in self.threads {
            thread.ended().await;
        }
    }
}

/// Joins the groups, opens the request port and begins to serve; everything that cannot work is an error here.
///
/// # Errors
/// Names the option, the address or the interface.
pub async fn start(config: Config, deps: Deps) -> anyhow::Result<Running> {
    let shared = cache_backend::open(config.shared_tier()?).await.context("--cache-backend")?;
    start_with(config, deps, shared).await
}

/// `start` with an opened second tier.
///
/// # Errors
/// As `start`.
pub async fn start_with(
    config: Config,
    deps: Deps,
    shared: Option<Arc<dyn Backend>>,
) -> anyhow::Result<Running> {
    config.validate()?;
    if let Some(shared) = &shared {
        service::store::watch(Purpose::Frames, shared, &deps.lifecycle, &deps.registry);
    }
    let plan = Layout::new(config)?;
    let Layout { config, fabric, shard_bits, egress, .. } = &plan;
    let seed: u64 = rand::random();
    let count = plan.workers;

    let request_socket = plan.open_request_socket()?;
    let nack = request_socket.local_addr().context("request socket")?;
    request_socket.warnings().iter().for_each(|warning| tracing::warn!("--nack-port: {warning}"));
    let (outlets, inlets): (Vec<_>, Vec<_>) = (0..count).map(|_| queue(Post::MESSAGES, Post::BYTES)).unzip();
    let post = Post { workers: outlets.into(), directory: Arc::new(directory::Directory::new(seed)) };
    let (door_out, door_in) = queue(Post::MESSAGES, Post::BYTES);
    let (wishes_out, wishes_in) = queue(config.proxy_queue.max(1) * 4, usize::MAX / 2);
    let lifetimes = config.lifetimes()?;
    let upstreams = config.upstreams()?;
    let upstream = (!upstreams.is_empty()).then_some(wishes_out);
    let (silent_out, silent) = tokio::sync::mpsc::channel(4 * count);
    let (mut shared_links, shared_inlets) = shared::links(if shared.is_some() { count } else { 0 });

    let control = Arc::new(ControlCells::default());
    let door_cells = Arc::new(DoorCells::default());
    let mut worker_cells = Vec::new();
    let mut threads = Vec::new();
    let (started, mut all_started) = tokio::sync::mpsc::channel::<anyhow::Result<()>>(count + 1);

    for (index, inlet) in inlets.into_iter().enumerate() {
        let cells = Arc::new(WorkerCells { name: index.to_string(), ..WorkerCells::default() });
        let (sockets, links) = (plan.open_data_sockets(index)?, plan.open_links(fabric)?);
        if index == 0 {
            warn(&sockets, &links);
        }
        let setup = worker::Setup {
            index,
            count,
            config: config.clone(),
            fabric: *fabric,
            shard_bits: *shard_bits,
            sockets,
            links,
            post: post.clone(),
            inlet,
            door: door_out.clone(),
            upstream: upstream.clone(),
            shared: shared_links.pop(),
            announcements: config.beacon_enabled.then(|| silent_out.clone()),
            cells: cells.clone(),
            lifetimes,
            seed: seed.wrapping_add(index as u64),
        };
        deps.registry.add_labelled("worker", cells.name.clone(), cells.clone());
        worker_cells.push(cells);
        let (stop, started) = (stop(&deps.lifecycle, config.drain_timeout, &door_cells), started.clone());
        let main = move || async move {
            match worker::Worker::new(setup) {
                Ok((worker, inlet)) => {
                    let _ = started.send(Ok(())).await;
                    worker.run(inlet, stop).await;
                }
                Err(error) => drop(started.send(Err(error.into())).await),
            }
        };
        threads.push(service::spawn_worker(format!("retry-{index}"), main).context("worker thread")?);
    }

    let door = (config.clone(), post.clone(), door_cells.clone());
    let door_stop = stop(&deps.lifecycle, config.drain_timeout, &door_cells);
    let main = move || async move {
        let (config, post, cells) = door;
        match door::Door::new(request_socket, &config, post, cells, seed) {
            Ok(door) => {
                let _ = started.send(Ok(())).await;
                door.run(door_in, door_stop).await;
            }
            Err(error) => drop(started.send(Err(error.into())).await),
        }
    };
    threads.push(service::spawn_worker("retry-nack".to_owned(), main).context("request thread")?);
    for _ in 0..count + 1 {
        if let Some(Err(error)) = all_started.recv().await {
            deps.lifecycle.begin_drain();
            return Err(error);
        }
    }

    let beacon = config.beacon_enabled.then(|| -> anyhow::Result<_> {
        Ok(beacon::Beacon {
            offer: plan.offer(nack)?,
            fabrics: config.beacon_fabrics(),
            port: config.beacon_port,
            links: plan.open_links(fabric)?,
            interval: config.beacon_interval,
            always_draining: config.beacon_flags_draining,
            silent,
            cells: control.clone(),
        })
    });
    let beacon = beacon.transpose()?;
    let sockets = if beacon.is_some() { plan.open_beacon_sockets()? } else { Vec::new() };
    let overhear = overhear::Overhear { sockets, post: post.clone(), cells: control.clone() };
    let fetcher = upstream.is_some().then(|| plan.open_upstream(upstreams, &post, &control)).transpose()?;
    let tier = shared.map(|backend| shared::Shared {
        backend,
        lifetimes,
        timeout: config.op_timeout(),
        verify: config.verify_payload_hash,
        post: post.clone(),
        cells: control.clone(),
    });
    let lifecycle = deps.lifecycle.clone();
    let (drain_timeout, asked) = (config.drain_timeout, door_cells.clone());
    let main = move || async move {
        let beacon = async {
            if let Some(beacon) = beacon {
                beacon.run(lifecycle.clone()).await;
            }
        };
        let fetcher = async {
            if let Some((fetcher, socket)) = fetcher {
                fetcher.run(socket, wishes_in, stop(&lifecycle, drain_timeout, &asked)).await;
            }
        };
        let tier = async {
            if let Some(tier) = tier {
                tier.run(shared_inlets, stop(&lifecycle, drain_timeout, &asked)).await;
            }
        };
        let overhear = overhear.run(stop(&lifecycle, drain_timeout, &asked));
        tokio::join!(beacon, fetcher, tier, overhear);
    };
    threads.push(service::spawn_worker("retry-control".to_owned(), main).context("control thread")?);

    deps.registry.add(door_cells.clone());
    deps.registry.add(control.clone());
    deps.registry.add_detail("coverage", coverage(&worker_cells));
    deps.lifecycle.condition("groups").met(&format!("{} groups on {} workers", plan.groups.len(), count));
    deps.lifecycle.condition("requests").met(&format!("taken on {nack}"));
    let ways: Vec<&str> = egress.iter().map(|interface| interface.name.as_str()).collect();
    tracing::info!(%nack, workers = count, groups = plan.groups.len(), egress = ?ways, "retry endpoint serves");
    Ok(Running { nack, workers: worker_cells, door: door_cells, control, threads })
}

/// Says once what holds for the sockets of every worker.
fn warn(sockets: &[Joined], links: &[Link]) {
    let receiving = sockets.first().into_iter().flat_map(|joined| joined.receiver.warnings());
    let sending = links.iter().flat_map(|link| link.sender.warnings());
    receiving.chain(sending).for_each(|warning| tracing::warn!("{warning}"));
}

/// Completes when drain began and nobody asked for a while, at the latest after `timeout`.
fn stop(
    lifecycle: &Lifecycle,
    timeout: Duration,
    door: &Arc<DoorCells>,
) -> impl Future<Output = ()> + Send + use<> {
    const QUIET: Duration = Duration::from_millis(500);
    let (lifecycle, door) = (lifecycle.clone(), door.clone());
    async move {
        lifecycle.drain_began().await;
        let quiet = async {
            loop {
                let before = door.requests.get();
                tokio::time::sleep(QUIET).await;
                if door.requests.get() == before {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(timeout, quiet).await;
    }
}

/// `/status`: what is held, by worker.
fn coverage(workers: &[Arc<WorkerCells>]) -> impl Fn() -> serde_json::Value + Send + Sync + use<> {
    let workers = workers.to_vec();
    move || {
        let snapshot = |cells: &Arc<WorkerCells>| {
            let flows = cells.coverage.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
            serde_json::json!({
                "worker": cells.name,
                "log_bytes": cells.log_bytes.get(),
                "log_capacity_bytes": cells.log_capacity.get(),
                "horizon_seconds": cells.horizon_ms.get() / 1000,
                "flows_known": cells.flows.get(),
                "flows": flows,
            })
        };
        serde_json::Value::Array(workers.iter().map(snapshot).collect())
    }
}

/// Options turned into interfaces, groups and addresses.
struct Layout {
    config: Arc<Config>,
    fabric: Fabric,
    shard_bits: ShardBits,
    groups: Vec<GroupIndex>,
    workers: usize,
    ingress: Vec<Interface>,
    egress: Vec<Interface>,
    nack_addr: IpAddr,
}

impl Layout {
    /// The directory has a byte for the worker.
    const MOST_WORKERS: usize = 254;

    fn new(config: Config) -> anyhow::Result<Layout> {
        let fabric = config.data_fabric()?;
        let shard_bits = config.shard_bits()?;
        let by_name = |names: &[String], option: &str| -> anyhow::Result<Vec<Interface>> {
            let look =
                |name: &String| Interface::by_name(name.trim()).with_context(|| format!("{option} {name}"));
            names.iter().map(look).collect()
        };
        let ingress = by_name(&config.fabric.iface.0, "--iface")?;
        let egress = by_name(config.egress_interfaces(), "--egress-iface")?;
        #[allow(clippy::cast_possible_truncation, reason = "at most 32768 groups")]
        let mut groups: Vec<_> = (0..shard_bits.groups()).map(|index| GroupIndex(index as u16)).collect();
        groups.push(GroupIndex::BLOCK_BROADCAST);
        if config.subtree_data_enabled {
            groups.push(GroupIndex::SUBTREE_DATA);
        }
        let most = groups.len().min(Layout::MOST_WORKERS);
        let workers = service::worker_count(config.workers).clamp(1, most);
        let nack_addr = nack_addr(&config, &fabric, &egress)?;
        Ok(Layout {
            config: Arc::new(config),
            fabric,
            shard_bits,
            groups,
            workers,
            ingress,
            egress,
            nack_addr,
        })
    }

    fn open_request_socket(&self) -> anyhow::Result<Receiver> {
        let bind = SocketAddr::new(self.nack_addr, self.config.nack_port);
        let options = SocketOptions {
            packet_info: true,
            dual_stack: self.nack_addr == IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            receive_buffer: Some(4 << 20),
            send_buffer: Some(4 << 20),
            ..SocketOptions::new(bind)
        };
        Receiver::open(&options)
            .with_context(|| format!("--nack-addr {}, --nack-port {}", bind.ip(), bind.port()))
    }

    /// The sockets of one worker, joined to its groups.
    fn open_data_sockets(&self, worker: usize) -> anyhow::Result<Vec<Joined>> {
        let sources = self.sources();
        let mine = self.groups.iter().filter(|group| usize::from(group.0) % self.workers == worker);
        let joins: Vec<Membership> = mine
            .flat_map(|group| {
                let group = self.fabric.address(*group);
                sources.iter().map(move |source| Membership { group, source: *source })
            })
            .collect();
        let options = SocketOptions {
            packet_info: true,
            receive_buffer: Some(self.config.recv_buf_bytes.as_usize()),
            ..SocketOptions::new(SocketAddr::new(wildcard(self.fabric.is_v4()), self.config.listen_port))
        };
        Joined::open(&options, &self.ingress, &joins).context("--listen-port")
    }

    /// Sockets that take nothing but the beacon group, one for each interface that frames come from.
    fn open_beacon_sockets(&self) -> anyhow::Result<Vec<Joined>> {
        let group = self.fabric.address(GroupIndex::BEACON);
        let joins: Vec<_> = self.sources().into_iter().map(|source| Membership { group, source }).collect();
        let options = SocketOptions::new(SocketAddr::new(group, self.config.beacon_port));
        Joined::open(&options, &self.ingress, &joins).context("--beacon-port")
    }

    /// Sources of every join; `None` is any.
    fn sources(&self) -> Vec<Option<IpAddr>> {
        match self.config.source_mode() {
            SourceMode::Asm => vec![None],
            SourceMode::Ssm => self.config.ssm_sources.iter().copied().map(Some).collect(),
        }
    }

    fn open_links(&self, fabric: &Fabric) -> anyhow::Result<Vec<Link>> {
        let open = |interface: &Interface| {
            let sender = open_sender(&self.config, fabric, interface)
                .with_context(|| format!("--egress-iface {}", interface.name))?;
            Ok(Link { sender, interface: interface.clone() })
        };
        self.egress.iter().map(open).collect()
    }

    fn open_upstream(
        &self,
        endpoints: Vec<SocketAddr>,
        post: &Post,
        cells: &Arc<ControlCells>,
    ) -> anyhow::Result<(upstream::Upstream, std::net::UdpSocket)> {
        let v4 = endpoints.iter().all(SocketAddr::is_ipv4);
        let bind = SocketAddr::new(wildcard(v4), 0);
        let socket = std::net::UdpSocket::bind(bind).with_context(|| format!("upstream socket on {bind}"))?;
        socket.set_nonblocking(true).context("upstream socket")?;
        let fetches =
            Fetches::new(self.config.proxy_queue.max(1), endpoints.len(), self.config.proxy_timeout);
        let upstream = upstream::Upstream {
            endpoints,
            fetches,
            shard_bits: self.shard_bits,
            post: post.clone(),
            cells: cells.clone(),
        };
        Ok((upstream, socket))
    }

    fn offer(&self, nack: SocketAddr) -> anyhow::Result<Offer> {
        let config = &self.config;
        let nack_addr = match nack.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        ensure!(
            !nack.ip().is_unspecified(),
            "--nack-addr {}: an ADVERT needs an address that listeners can reach",
            config.nack_addr
        );
        let mut flags = Advert::RANGES;
        for (set, flag) in [
            (config.beacon_flags_multicast, Advert::MULTICAST),
            (config.beacon_flags_unicast, Advert::UNICAST),
            (config.upstream.is_some(), Advert::HAS_PARENT),
        ] {
            if set {
                flags |= flag;
            }
        }
        let advert = Advert {
            scope: config.beacon_scope.code(),
            nack_addr,
            nack_port: nack.port(),
            tier: config.beacon_tier,
            preference: config.beacon_preference,
            interval_secs: u16::try_from(config.beacon_interval.as_secs()).unwrap_or(u16::MAX),
            flags,
            instance_id: Advert::instance_id_of(&config.instance),
            max_range: config.nack_max_range,
        };
        Ok(Offer { advert })
    }
}

/// `--nack-addr`, or the first address of the first egress interface in the fabric's family.
fn nack_addr(config: &Config, fabric: &Fabric, egress: &[Interface]) -> anyhow::Result<IpAddr> {
    if config.nack_addr != "auto" {
        let parsed = config.nack_addr.parse();
        return parsed
            .with_context(|| format!("--nack-addr {}: expected auto or an address", config.nack_addr));
    }
    let first = egress.first().context("--egress-iface: at least one interface is needed")?;
    let address = match fabric {
        Fabric::V4 { .. } => first.v4.first().copied().map(IpAddr::V4),
        Fabric::V6 { .. } => first.preferred_v6().map(IpAddr::V6),
    };
    address.with_context(|| format!("--nack-addr auto: {} has no address of the fabric's family", first.name))
}
