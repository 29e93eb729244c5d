//! Starts the threads. Everything is opened before the first of them starts, so an address or an interface that does not work
//! leaves nothing behind.

use super::beacon::{Beacon, BeaconConfig, Inputs};
use super::control::Control;
use super::counters::{ControlCells, NackServerCells, WorkerCells};
use super::mailboxes::{BYTES, MESSAGES, WorkerMailboxes};
use super::nack_server::{NackServer, Requests};
use super::round_io::WorkerIo;
use super::shared::{self, Shared, SharedLink, SharedMailboxes};
use super::sockets::Sockets;
use super::stop::Stop;
use super::upstream_client::UpstreamConfig;
use super::worker::Worker;
use crate::config::Config;
use crate::pipeline::answer::Answer;
use crate::pipeline::limit::{RepairLimits, Trusted};
use crate::pipeline::round::Message;
use crate::pipeline::store::Lifetimes;
use crate::pipeline::upstream::FrameKey;
use crate::pipeline::{Endpoint, EndpointConfig};
use anyhow::Context;
use cache_backend::Backend;
use frame::digest::Entry;
use multicast_io::{Joined, Receiver};
use service::Lifecycle;
use service::links::{EmitSocket, Feed};
use service::worker::{Inlet, Intake, IntakeRules, Mailbox, MailboxSender, Threads, mailbox};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{mpsc, watch};

/// Starts the threads of one endpoint; see the module text.
pub(super) struct Starter {
    pub(super) workers: Vec<Arc<WorkerCells>>,
    pub(super) nack_server: Arc<NackServerCells>,
    pub(super) control: Arc<ControlCells>,
    config: Arc<Config>,
    sockets: Sockets,
    links: Feed,
    stop: Stop,
    seed: u64,
}

/// Ends of the mailboxes that are sent to.
struct Senders {
    workers: WorkerMailboxes,
    answers: MailboxSender<Answer>,
    /// `None` without upstreams.
    wanted: Option<MailboxSender<FrameKey>>,
    /// `None` where no beacon is sent.
    silent: Option<mpsc::Sender<Vec<Entry>>>,
    /// One a worker, or none without a shared tier.
    shared: Vec<SharedLink>,
}

/// Ends of the mailboxes that are read.
struct Mailboxes {
    workers: Vec<Mailbox<Message>>,
    answers: Mailbox<Answer>,
    wanted: Mailbox<FrameKey>,
    silent: mpsc::Receiver<Vec<Entry>>,
    shared: SharedMailboxes,
}

/// Sockets of one worker.
struct WorkerSockets {
    data: Vec<Joined>,
    links: Vec<EmitSocket>,
}

/// Sockets of the control thread.
struct ControlSockets {
    beacon: Option<Vec<EmitSocket>>,
    digests: Vec<Joined>,
    upstream: Option<(Receiver, UpstreamConfig)>,
}

impl Starter {
    pub(super) fn new(config: Arc<Config>, sockets: Sockets, links: Feed, lifecycle: &Lifecycle) -> Starter {
        let cells =
            |index: usize| Arc::new(WorkerCells { name: index.to_string(), ..WorkerCells::default() });
        let nack_server: Arc<NackServerCells> = Arc::default();
        let stop = Stop {
            lifecycle: lifecycle.clone(),
            timeout: config.common.drain_timeout,
            nack_server: Arc::clone(&nack_server),
        };
        Starter {
            workers: (0..sockets.workers()).map(cells).collect(),
            nack_server,
            control: Arc::default(),
            config,
            sockets,
            links,
            stop,
            seed: rand::random(),
        }
    }

    /// Starts all threads; completes when they are up.
    pub(super) async fn start(
        &self,
        request_socket: Receiver,
        shared: Option<Arc<dyn Backend>>,
    ) -> anyhow::Result<Threads> {
        let lifetimes = self.config.store.lifetimes()?;
        let worker_sockets = self.open_worker_sockets()?;
        let control_sockets = self.open_control_sockets()?;
        let (mut senders, mailboxes) = self.open_mailboxes(&control_sockets, shared.is_some());
        let workers = senders.workers.clone();
        let Mailboxes { workers: of_workers, answers, wanted, silent, shared: of_shared } = mailboxes;
        let nack = request_socket.local_addr().context("--nack-port")?;
        let (told, nack_told) = watch::channel(Some(nack));
        let beacon = |links| self.beacon(links, silent, nack, nack_told);
        let control = Control {
            beacon: control_sockets.beacon.map(beacon).transpose()?,
            digest_sockets: control_sockets.digests,
            links: self.links.clone(),
            upstream: control_sockets.upstream.map(|(socket, config)| (socket, config, wanted)),
            shared: shared.map(|backend| (self.shared(backend, lifetimes, &workers), of_shared)),
            workers: workers.clone(),
            cells: Arc::clone(&self.control),
        };

        let mut threads = Threads::of(&self.stop.lifecycle);
        for (index, (sockets, messages)) in worker_sockets.into_iter().zip(of_workers).enumerate() {
            let io = self.worker_io(index, sockets.links, &mut senders);
            self.start_worker(&mut threads, sockets.data, messages, io, lifetimes)?;
        }
        let requests =
            Requests { address: self.sockets.request_address(nack), links: self.links.clone(), told };
        self.start_nack_server(&mut threads, (request_socket, requests), workers, answers)?;
        threads.all_up().await?;
        let stop = self.stop.clone();
        threads.spawn("retry-control".to_owned(), move || async move { control.open(stop) })?;
        threads.all_up().await?;
        Ok(threads)
    }

    fn open_worker_sockets(&self) -> anyhow::Result<Vec<WorkerSockets>> {
        let open = |index| {
            let (data, links) = (self.sockets.open_data_sockets(index)?, self.sockets.open_links()?);
            Ok(WorkerSockets { data, links })
        };
        let sockets: Vec<_> = (0..self.workers.len()).map(open).collect::<anyhow::Result<_>>()?;
        sockets.first().into_iter().for_each(WorkerSockets::warn);
        Ok(sockets)
    }

    fn open_control_sockets(&self) -> anyhow::Result<ControlSockets> {
        let (beacon, digests) = if self.config.beacon.beacon_enabled {
            (Some(self.sockets.open_links()?), self.sockets.open_beacon_sockets()?)
        } else {
            (None, Vec::new())
        };
        Ok(ControlSockets { beacon, digests, upstream: self.sockets.open_upstream()? })
    }

    fn open_mailboxes(&self, control: &ControlSockets, shared_tier: bool) -> (Senders, Mailboxes) {
        let count = self.workers.len();
        let (workers, of_workers) = WorkerMailboxes::open(count, self.seed);
        let (answers, of_nack_server) = mailbox(MESSAGES, BYTES);
        let (wanted, of_upstream) = mailbox(self.config.upstreams.most() * 4, usize::MAX / 2);
        let (silent, of_beacon) = mpsc::channel(4 * count);
        let (shared, of_shared) = shared::links(if shared_tier { count } else { 0 });
        let senders = Senders {
            workers,
            answers,
            wanted: control.upstream.is_some().then_some(wanted),
            silent: control.beacon.is_some().then_some(silent),
            shared,
        };
        let mailboxes = Mailboxes {
            workers: of_workers,
            answers: of_nack_server,
            wanted: of_upstream,
            silent: of_beacon,
            shared: of_shared,
        };
        (senders, mailboxes)
    }

    fn worker_io(&self, index: usize, links: Vec<EmitSocket>, senders: &mut Senders) -> WorkerIo {
        WorkerIo {
            index,
            senders: links,
            workers: senders.workers.clone(),
            answers: senders.answers.clone(),
            upstream: senders.wanted.clone(),
            shared: senders.shared.pop(),
            announcements: senders.silent.clone(),
            cells: Arc::clone(&self.workers[index]),
        }
    }

    fn start_worker(
        &self,
        threads: &mut Threads,
        sockets: Vec<Joined>,
        messages: Mailbox<Message>,
        io: WorkerIo,
        lifetimes: Lifetimes,
    ) -> anyhow::Result<()> {
        let (index, count, config) = (io.index, self.workers.len(), Arc::clone(&self.config));
        let endpoint = EndpointConfig {
            workers: count,
            shard_bits: self.sockets.shard_bits(),
            store: config.store.share(count),
            lifetimes,
            verify: config.store.verify_payload_hash,
            policy: config.policy(),
            emit: self.sockets.emit(),
            announces: config.beacon.beacon_enabled,
        };
        let (seed, stop) = (self.seed.wrapping_add(index as u64), self.stop.clone());
        let links = self.links.clone();
        threads.spawn(format!("retry-{index}"), move || async move {
            let now = Instant::now();
            let trusted = Trusted::new(config.requests.trusted_listeners.clone());
            let limits = RepairLimits::new(config.limits.repair_rates(), trusted, seed, now);
            let ledger = Arc::clone(&io.cells.ledger);
            let endpoint = Endpoint::new(endpoint, limits, seed, now).counting_in(ledger);
            let intake = open_intake(sockets, &config, index)?.follow(links.clone());
            let worker = Worker::new(endpoint, intake, messages, io, links);
            Ok(worker.run(stop.reached()))
        })
    }

    fn start_nack_server(
        &self,
        threads: &mut Threads,
        (socket, requests): (Receiver, Requests),
        workers: WorkerMailboxes,
        answers: Mailbox<Answer>,
    ) -> anyhow::Result<()> {
        let (config, cells) = (Arc::clone(&self.config), Arc::clone(&self.nack_server));
        let (seed, stop) = (self.seed, self.stop.clone());
        threads.spawn("retry-nack".to_owned(), move || async move {
            let server = NackServer::new(socket, requests, &config, workers, cells, seed)?;
            Ok(server.run(answers, stop.reached()))
        })
    }

    fn beacon(
        &self,
        links: Vec<EmitSocket>,
        silent: mpsc::Receiver<Vec<Entry>>,
        nack: SocketAddr,
        told: watch::Receiver<Option<SocketAddr>>,
    ) -> anyhow::Result<Beacon> {
        let config = BeaconConfig {
            content: self.sockets.advert(nack)?,
            fabrics: self.config.beacon_fabrics(),
            port: self.config.beacon.beacon_port,
            interval: self.config.beacon.beacon_interval,
            always_draining: self.config.beacon.beacon_flags_draining,
        };
        let inputs = Inputs { silent, nack: told, links: self.links.clone() };
        Ok(Beacon::new(config, links, inputs, Arc::clone(&self.control)))
    }

    fn shared(&self, backend: Arc<dyn Backend>, lifetimes: Lifetimes, workers: &WorkerMailboxes) -> Shared {
        Shared {
            backend,
            lifetimes,
            timeout: self.config.op_timeout(),
            verify: self.config.store.verify_payload_hash,
            workers: workers.clone(),
            cells: Arc::clone(&self.control),
        }
    }
}

impl WorkerSockets {
    /// Says once what holds for the sockets of every worker.
    fn warn(&self) {
        let receiving = self.data.first().into_iter().flat_map(|joined| joined.receiver.warnings());
        let sending = self.links.iter().flat_map(|link| link.sender().warnings());
        receiving.chain(sending).for_each(|warning| tracing::warn!("{warning}"));
    }
}

/// Must be called on the worker's runtime.
fn open_intake(sockets: Vec<Joined>, config: &Config, worker: usize) -> std::io::Result<Intake<()>> {
    let inlet = |Joined { receiver, memberships }| Inlet {
        tag: (),
        name: "--listen-port",
        receiver,
        memberships: Some(memberships),
    };
    let intake = Intake::new(IntakeRules::default(), sockets.into_iter().map(inlet).collect())?;
    Ok(match config.inject.loss(|seed| seed.wrapping_add(worker as u64)) {
        Some(loss) => intake.with_loss(loss),
        None => intake,
    })
}
