//! One worker: a thread with its groups, its flows, its request sockets and its way to the consumer.
//!
//! A turn: take what the sockets hold, batch by batch, through the pipeline; hand frames to the consumer and requests to
//! the kernel; ask the claim store. All waiting is between turns, for whatever comes first.

use super::cells::Cells;
use super::consumer::{Consumer, Fates};
use super::marks::Marker;
use crate::pipeline::{
    BLOCK_HEADER_FRAME, Batch, Counts, Delivery, Door, DropReason, Handed, Lost, Pipeline, Request,
};
use cache_backend::Backend;
use frame::digest::Entry;
use frame::{Advert, HashKey, SubtreeGroupAnnounce};
use multicast_io::membership::REJOIN;
use multicast_io::{Burst, Interface, Joined, Loss, Memberships, Ready, Receiver};
use service::recent::Moment;
use service::{Condition, Lifecycle};
use std::future::{pending, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use txidset::driver::Driver;

/// Datagrams (or trains) of one receive call.
const BATCH: usize = 64;
/// Datagrams that a receive call should bring: several passes go over them, so they should still be in the nearer caches.
const FRAMES: usize = 256;
/// Bytes for the consumer that are handed over although more may be received at once: a write wakes whoever reads, and
/// trains are the longer the more there is to choose from.
const HANDFUL: usize = 256 << 10;
/// Receive calls of one socket before the others get their turn.
const TURNS: usize = 8;
/// How often totals are shown while there is work.
const SHOW: Duration = Duration::from_millis(10);
/// A draining worker stops reading when its queues were empty for this long.
const DRAIN_QUIET: Duration = Duration::from_millis(20);

/// What the control thread tells a worker.
pub(super) enum News {
    Advert(Advert),
    /// Entries whose groups this worker owns.
    Digest(IpAddr, Vec<Entry>),
    Announce(IpAddr, SubtreeGroupAnnounce),
}

/// What a worker is born with.
pub(super) struct Start {
    pub(super) pipeline: Pipeline,
    pub(super) data: Vec<Joined>,
    pub(super) requests: Vec<Receiver>,
    pub(super) interfaces: Vec<Interface>,
    pub(super) consumer: Consumer,
    pub(super) marker: Option<Marker>,
    pub(super) headers: Option<(UdpSocket, SocketAddr)>,
    pub(super) strip_header: bool,
    pub(super) loss: Loss,
    pub(super) backend: Option<Arc<dyn Backend>>,
    pub(super) op_timeout: Duration,
    pub(super) inbox: mpsc::Receiver<News>,
    pub(super) cells: Arc<Cells>,
    pub(super) lifecycle: Lifecycle,
    pub(super) connected: Condition,
    pub(super) drain_timeout: Duration,
    /// Told when the worker is up, or why not.
    pub(super) opened: oneshot::Sender<anyhow::Result<()>>,
}

/// Runs a worker until it has drained.
pub(super) async fn run(start: Start) {
    let (worker, opened, inbox) = match Worker::open(start).await {
        Ok(worker) => worker,
        Err((error, opened)) => {
            let _ = opened.send(Err(error));
            return;
        }
    };
    if opened.send(Ok(())).is_ok() {
        worker.work(inbox).await;
    }
}

/// A socket and the door that its datagrams come in by.
struct Inlet {
    socket: Ready<Receiver>,
    door: Door,
    /// None where replies come in.
    memberships: Option<Memberships>,
    /// Messages of the next receive call.
    messages: usize,
}

impl Inlet {
    /// The length of the last call's trains says how many messages bring as many datagrams as wanted.
    fn learn(&mut self, burst: &Burst) {
        let train = burst.arrivals().len() / burst.used_slots().max(1);
        self.messages = (FRAMES / train.max(1)).clamp(1, BATCH);
    }
}

struct Worker {
    pipeline: Pipeline,
    inlets: Vec<Inlet>,
    interfaces: Vec<Interface>,
    burst: Burst,
    loss: Loss,
    consumer: Consumer,
    marker: Option<Marker>,
    headers: Option<(UdpSocket, SocketAddr)>,
    strip_header: bool,
    driver: Driver,
    cells: Arc<Cells>,
    lifecycle: Lifecycle,
    connected: Condition,
    was_connected: Option<bool>,
    drain_timeout: Duration,
    deliveries: Vec<Delivery>,
    requests: Vec<Request>,
    fates: Fates,
    /// The consumer's queue holds what was not offered to it yet.
    held_back: bool,
    scratch: Scratch,
    shown_at: Instant,
    rejoin_at: Instant,
    /// A socket may hold more than was taken.
    more: bool,
    last_input: Instant,
}

/// Lists that are reused.
#[derive(Default)]
struct Scratch {
    losses: Vec<Lost>,
    unconfirmed: Vec<(HashKey, u64)>,
    recoveries: Vec<Duration>,
    headers: Vec<[u8; BLOCK_HEADER_FRAME]>,
}

impl Batch for Burst {
    fn len(&self) -> usize {
        self.arrivals().len()
    }
    fn source(&self, index: usize) -> SocketAddr {
        self.arrivals()[index].source
    }
    fn bytes(&self, index: usize) -> &[u8] {
        Burst::bytes(self, self.arrivals()[index].span)
    }
    fn bytes_on(&self, index: usize) -> &[u8] {
        let start = self.arrivals()[index].span.start as usize;
        self.memory().get(start..).unwrap_or_default()
    }
    fn destination(&self, index: usize) -> Option<IpAddr> {
        self.arrivals()[index].destination
    }
}

type Opened = oneshot::Sender<anyhow::Result<()>>;

impl Worker {
    async fn open(start: Start) -> Result<(Worker, Opened, mpsc::Receiver<News>), (anyhow::Error, Opened)> {
        let (opened, inbox, backend) = (start.opened, start.inbox, start.backend);
        let driver = match Driver::open(backend).await {
            Ok(driver) => driver.with_op_timeout(start.op_timeout),
            Err(error) => return Err((anyhow::Error::from(error).context("--cache-backend"), opened)),
        };
        let data = start.data.into_iter().map(|j| (j.receiver, Door::Groups, Some(j.memberships)));
        let replies = start.requests.into_iter().map(|receiver| (receiver, Door::Replies, None));
        let inlets = data.chain(replies).map(|(receiver, door, memberships)| {
            Ok(Inlet { socket: Ready::new(receiver)?, door, memberships, messages: BATCH })
        });
        let inlets = match inlets.collect::<io::Result<Vec<_>>>() {
            Ok(inlets) => inlets,
            Err(error) => return Err((anyhow::Error::from(error).context("registering a socket"), opened)),
        };
        let now = Instant::now();
        let worker = Worker {
            pipeline: start.pipeline,
            inlets,
            interfaces: start.interfaces,
            burst: Burst::new(BATCH, 0).touched(),
            loss: start.loss,
            consumer: start.consumer,
            marker: start.marker,
            headers: start.headers,
            strip_header: start.strip_header,
            driver,
            cells: start.cells,
            lifecycle: start.lifecycle,
            connected: start.connected,
            was_connected: None,
            drain_timeout: start.drain_timeout,
            deliveries: Vec::new(),
            requests: Vec::new(),
            fates: Fates::default(),
            held_back: false,
            scratch: Scratch::default(),
            shown_at: now,
            rejoin_at: now + REJOIN,
            more: true,
            last_input: now,
        };
        Ok((worker, opened, inbox))
    }

    async fn work(mut self, inbox: mpsc::Receiver<News>) {
        let mut inbox = Some(inbox);
        let lifecycle = self.lifecycle.clone();
        while !lifecycle.is_draining() {
            self.wait(&mut inbox, lifecycle.drain_began()).await;
            self.turn();
        }
        self.drain().await;
    }

    /// Finishes what is in hand: the kernel's queues, frames that wait for a claim, the consumer's queue.
    async fn drain(&mut self) {
        let began = Instant::now();
        let deadline = began + self.drain_timeout;
        let decide_by = began + self.drain_timeout / 2;
        let mut deciding = true;
        self.more = true;
        loop {
            self.turn();
            let now = Instant::now();
            let quiet = !self.more && now.duration_since(self.last_input.max(began)) >= DRAIN_QUIET;
            if quiet || now >= decide_by {
                self.inlets.clear();
            }
            let ended = self.inlets.is_empty();
            if deciding && ended && (now >= decide_by || !self.pipeline.is_waiting()) {
                deciding = false;
                self.pipeline.drain(now);
                continue;
            }
            let idle = self.pipeline.claims_mut().is_none_or(|claims| claims.is_idle());
            if ended && !deciding && idle && self.consumer.is_empty() || now >= deadline {
                break;
            }
            let pause = DRAIN_QUIET.min(deadline - now);
            let _ = tokio::time::timeout(pause, self.wait(&mut None, pending())).await;
        }
        self.inlets.clear();
        self.consumer.abandon(&mut self.fates);
        let now = Instant::now();
        self.settle_fates(now);
        self.pump(now, true);
        self.pipeline.stop();
        self.log_losses();
        self.show(now);
    }

    /// Waits for something to do.
    async fn wait(&mut self, inbox: &mut Option<mpsc::Receiver<News>>, drain: impl Future<Output = ()>) {
        let consumer_at = self.consumer.next_timeout();
        let timer = self.pipeline.next_timeout();
        let timer = consumer_at.map_or(timer, |at| at.min(timer));
        let (inlets, more) = (&self.inlets, self.more);
        let (driver, pipeline) = (&mut self.driver, &mut self.pipeline);
        let claims = async {
            match pipeline.claims_mut() {
                Some(claims) => driver.progress(claims).await,
                None => pending().await,
            }
        };
        let news = tokio::select! {
            biased;
            () = claims => None,
            news = next_news(inbox) => news,
            // Lets the reactor have a turn.
            () = tokio::task::yield_now(), if more => None,
            () = readable(inlets) => {
                self.more = true;
                None
            }
            () = self.consumer.ready() => None,
            () = tokio::time::sleep_until(timer.into()) => None,
            () = drain => None,
        };
        if let Some(news) = news {
            let now = Instant::now();
            self.take_news(now, news);
            while let Some(Ok(news)) = inbox.as_mut().map(mpsc::Receiver::try_recv) {
                self.take_news(now, news);
            }
        }
    }

    fn take_news(&mut self, now: Instant, news: News) {
        match news {
            News::Advert(advert) => self.pipeline.advert(now, &advert),
            News::Announce(source, announce) => self.pipeline.announce(now, source, &announce),
            News::Digest(source, entries) => {
                for entry in &entries {
                    self.pipeline.digest(now, source, entry);
                }
            }
        }
    }

    fn turn(&mut self) {
        self.receive();
        let now = Instant::now();
        self.pipeline.on_timeout(now);
        self.pump(now, true);
        self.send_requests();
        self.log_losses();
        if now.duration_since(self.shown_at) >= SHOW || !self.more {
            self.show(now);
        }
        if now >= self.rejoin_at {
            self.rejoin_at = now + REJOIN;
            self.rejoin();
        }
    }

    fn receive(&mut self) {
        if !self.more {
            return;
        }
        self.more = false;
        for index in 0..self.inlets.len() {
            for turn in 1..=TURNS {
                let Some(inlet) = self.inlets.get_mut(index) else { return };
                self.burst.clear();
                let (burst, messages) = (&mut self.burst, inlet.messages);
                match inlet.socket.try_read(|receiver| receiver.receive(burst, messages)) {
                    Ok(0) => break,
                    Ok(_) => inlet.learn(burst),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => {
                        service::limited!(error, 1, "receiving failed: {error}");
                        break;
                    }
                }
                let door = inlet.door;
                self.more |= turn == TURNS;
                self.last_input = self.take_burst(door);
            }
        }
    }

    /// One batch through the pipeline; what it lets through goes to the consumer's queue.
    fn take_burst(&mut self, door: Door) -> Instant {
        self.loss.apply(&mut self.burst, 0);
        let now = Instant::now();
        self.pipeline.take(now, door, &self.burst);
        self.pump(now, false);
        if let Some(marker) = &self.marker {
            marker.post(now, self.pipeline.sighted());
        }
        self.send_requests();
        now
    }

    /// Claims forward, frames out: to the consumer's queue, and from there once enough are together or `all` shall leave.
    fn pump(&mut self, now: Instant, all: bool) {
        if let Some(claims) = self.pipeline.claims_mut() {
            self.driver.pump(claims, now);
        }
        self.pipeline.decide(now);
        self.pipeline.take_deliveries(&mut self.deliveries);
        let mut deliveries = std::mem::take(&mut self.deliveries);
        // A stop of the process between claiming and delivering must not go unnoticed: the time is read again.
        let now = Instant::now();
        let moment = self.cells.recent.moment(now);
        for delivery in deliveries.drain(..) {
            self.deliver(now, moment, &delivery);
        }
        self.deliveries = deliveries;
        self.send_headers();
        if all || self.consumer.bytes() >= HANDFUL {
            self.flush(now);
        }
        if let Some(claims) = self.pipeline.claims_mut() {
            self.driver.pump(claims, now);
        }
    }

    fn flush(&mut self, now: Instant) {
        self.held_back = false;
        self.consumer.flush(now, &mut self.fates);
        self.settle_fates(now);
    }

    fn deliver(&mut self, now: Instant, moment: Moment, delivery: &Delivery) {
        if !self.pipeline.may_leave(now, delivery, &self.burst) {
            return;
        }
        let frame = self.pipeline.bytes(delivery, &self.burst);
        let skip = if self.strip_header { usize::from(delivery.header_len) } else { 0 };
        let record = frame.get(skip..).unwrap_or(&[]);
        let stamped = frame::datagram::stamped(frame);
        let handed = Handed { ticket: delivery.ticket, wire_len: delivery.wire_len };
        if record.len() > self.consumer.longest() {
            service::limited!(
                warn,
                1,
                "a frame of {} bytes is too long for a datagram: --egress-proto=tcp takes it",
                record.len()
            );
            self.pipeline.undelivered(now, delivery.ticket, DropReason::TooLongForUdp);
        } else if !queue(&mut self.consumer, &mut self.fates, &mut self.held_back, now, record, handed) {
            service::limited!(
                warn,
                1,
                "the consumer is slow and its queue is full (--egress-queue-bytes): frames are dropped, to be asked \
                 for again when there is room"
            );
            self.pipeline.no_room(now, delivery, &self.burst);
        } else if let Some((id, key, seq)) = stamped {
            self.cells.recent.note(moment, id, key.0, seq.0);
        }
        self.pipeline.release(delivery);
    }

    fn settle_fates(&mut self, now: Instant) {
        for handed in self.fates.delivered.drain(..) {
            self.pipeline.delivered(now, handed);
        }
        for (handed, reason) in self.fates.refused.drain(..) {
            self.pipeline.undelivered(now, handed.ticket, reason);
        }
        self.pipeline.set_room(self.consumer.has_room());
        let connection = self.consumer.connection();
        if self.was_connected != Some(connection.is_ok()) {
            self.was_connected = Some(connection.is_ok());
            match connection {
                Ok(()) => self.connected.met("reachable"),
                Err(reason) => self.connected.not_met(reason),
            }
        }
    }

    fn send_requests(&mut self) {
        self.pipeline.take_requests(&mut self.requests);
        for request in self.requests.drain(..) {
            let mut sockets = self.inlets.iter().filter(|inlet| inlet.door == Door::Replies);
            let v4 = request.to.is_ipv4();
            let fits =
                |inlet: &&Inlet| inlet.socket.get_ref().local_addr().is_ok_and(|local| local.is_ipv4() == v4);
            let Some(inlet) = sockets.find(fits) else {
                service::limited!(
                    warn,
                    1,
                    "no socket for requests to {}: its family is off here",
                    request.to
                );
                continue;
            };
            let to = scoped(request.to, &self.interfaces);
            // What the kernel refuses is asked for again when its timeout passes.
            if let Err(error) = inlet.socket.get_ref().send_to(&request.bytes, to, None) {
                service::limited!(warn, 1, "request to {to}: {error}");
            }
        }
    }

    fn send_headers(&mut self) {
        let Some((socket, to)) = &self.headers else { return };
        self.pipeline.take_headers(&mut self.scratch.headers);
        for header in self.scratch.headers.drain(..) {
            if let Err(error) = socket.send_to(&header, to) {
                service::limited!(warn, 1, "--header-egress-addr {to}: {error}");
            }
        }
    }

    fn log_losses(&mut self) {
        self.pipeline.take_losses(&mut self.scratch.losses);
        for lost in self.scratch.losses.drain(..) {
            service::limited!(
                warn,
                10,
                "lost: flow {:016x}, numbers {} to {} ({:?})",
                lost.key.0,
                lost.first,
                lost.last,
                lost.why
            );
        }
        self.pipeline.take_unconfirmed(&mut self.scratch.unconfirmed);
        for (key, next) in self.scratch.unconfirmed.drain(..) {
            service::limited!(
                warn,
                10,
                "flow {:016x}: no retry endpoint said whether numbers from {next} on were sent",
                key.0
            );
        }
        self.pipeline.take_recoveries(&mut self.scratch.recoveries);
        for open_for in self.scratch.recoveries.drain(..) {
            self.cells.recovery.observe(open_for);
        }
    }

    fn show(&mut self, now: Instant) {
        self.shown_at = now;
        if let Some(claims) = self.pipeline.claims_mut() {
            self.cells.recent.set_owner(claims.owner());
        }
        let data = || self.inlets.iter().map(|inlet| inlet.socket.get_ref());
        // After the sockets are gone their last counts stay.
        let sockets = (!self.inlets.is_empty()).then(|| {
            let sum = |of: fn(&Receiver) -> u64| data().map(of).sum();
            (sum(Receiver::kernel_drops), sum(Receiver::truncated), sum(Receiver::queued_errors))
        });
        let counts: Counts = self.pipeline.counts().clone();
        let (dropped, bytes) = (self.loss.dropped(), self.consumer.bytes() as u64);
        let reconnects = self.consumer.reconnects();
        self.cells.show(|shown| {
            shown.counts = counts;
            shown.dropped_on_purpose = dropped;
            shown.queue_bytes = bytes;
            shown.reconnects = reconnects;
            if let Some((kernel_drops, truncated, queued_errors)) = sockets {
                shown.kernel_drops = kernel_drops;
                shown.truncated = truncated;
                shown.queued_errors = queued_errors;
            }
        });
    }

    fn rejoin(&mut self) {
        for inlet in &self.inlets {
            let Some(memberships) = &inlet.memberships else { continue };
            if let Err(error) = memberships.assert(inlet.socket.get_ref()) {
                service::limited!(error, 1, "joining again failed: {error}");
            }
        }
    }
}

/// Queues a record; `false` if there is no room. What was held back leaves before a queue counts as full.
fn queue(
    consumer: &mut Consumer,
    fates: &mut Fates,
    held_back: &mut bool,
    now: Instant,
    record: &[u8],
    handed: Handed,
) -> bool {
    let mut queued = consumer.push(record, handed);
    if queued.is_err() && std::mem::take(held_back) {
        consumer.flush(now, fates);
        queued = consumer.push(record, handed);
    }
    *held_back |= queued.is_ok();
    queued.is_ok()
}

async fn next_news(inbox: &mut Option<mpsc::Receiver<News>>) -> Option<News> {
    match inbox {
        Some(open) => {
            let news = open.recv().await;
            if news.is_none() {
                *inbox = None;
            }
            news
        }
        None => pending().await,
    }
}

/// Ready when a socket may be readable.
async fn readable(inlets: &[Inlet]) {
    poll_fn(|context| {
        let mut ready = Poll::Pending;
        for inlet in inlets {
            // A socket in error is readable too: the read says what is wrong.
            if inlet.socket.poll_readable(context).is_ready() {
                ready = Poll::Ready(());
            }
        }
        ready
    })
    .await;
}

/// Link-local endpoints are reached by the first interface.
fn scoped(to: SocketAddr, interfaces: &[Interface]) -> SocketAddr {
    match to {
        SocketAddr::V6(mut v6) if v6.ip().is_unicast_link_local() => {
            v6.set_scope_id(interfaces.first().map_or(0, |interface| interface.index));
            SocketAddr::V6(v6)
        }
        to => to,
    }
}
