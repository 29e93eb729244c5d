//! One worker: a thread that receives and runs rounds, and nothing else.
//!
//! A round: receive until the queue is empty or the burst is full, then [`Ingress::commit`] until it is done. All other
//! waiting is between rounds, for whatever comes first: a datagram, a message, an answer of the store, a timer.
//!
//! Where it stops reading: UDP when every interface has a backlog (the kernel's queue keeps what comes, and counts what
//! it drops); TCP earlier, see [`Ingress::may_read_streams`].

use super::sockets::Sockets;
use super::stream::{Batch, QUEUE, StreamLimits, Streams, accept};
use crate::pipeline::{Ingress, IngressConfig, Next, RoundIo};
use crate::stream_tally::StreamTally;
use crate::tally::Tally;
use cache_backend::Backend;
use multicast_io::{Burst, Ready, Receiver, Sender, writable};
use service::Condition;
use std::cell::Cell;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use txidset::Claims;
use txidset::driver::Driver;

/// Receive slots: each takes a datagram or a train of up to 64 KiB.
const SLOTS: usize = 128;
/// Datagrams that one receive call should bring: they are judged while they are in the nearer caches.
const FRAMES: usize = 256;
/// Least time between two readings of the counts that the kernel keeps: each is a system call.
const SHOW: Duration = Duration::from_millis(10);
/// A round that has so many datagrams makes no further receive call, so that the first does not wait for the last. With what
/// the last call may bring that is about 2,048: trains are the longer the more there is to choose from.
const ROUND: usize = 1_792;
/// Room for everything that a receive can make the pipeline copy (bare transactions, fragments), and then some.
const HEAP: usize = SLOTS * (80 << 10) + (8 << 20);
/// A draining worker stops reading UDP when its queue was empty for this long,
const DRAIN_QUIET: Duration = Duration::from_millis(50);
/// or when it is empty after this long, as senders that do not hear of the stop never fall silent.
const DRAIN_ACCEPT: Duration = Duration::from_millis(250);

/// What a worker is born with.
pub(super) struct Start {
    pub(super) index: usize,
    pub(super) sockets: Sockets,
    pub(super) ingress: IngressConfig,
    pub(super) claims: Claims,
    pub(super) backend: Option<Arc<dyn Backend>>,
    pub(super) op_timeout: Duration,
    pub(super) tally: Arc<Tally>,
    pub(super) streams: Arc<StreamTally>,
    pub(super) stream_limits: StreamLimits,
    pub(super) draining: watch::Receiver<bool>,
    pub(super) ready: Condition,
    /// Told when the worker is up, or why not.
    pub(super) opened: Option<oneshot::Sender<anyhow::Result<()>>>,
    pub(super) recv_batch: usize,
    pub(super) emit_delay: Duration,
    pub(super) busy_poll: Duration,
    pub(super) drain_timeout: Duration,
}

/// Runs a worker until it has drained.
pub(super) async fn run(mut start: Start) {
    let opened = start.opened.take();
    let tell = |outcome| opened.map(|opened| opened.send(outcome));
    match Worker::open(start).await {
        Err(error) => {
            tell(Err(error));
        }
        Ok(worker) => {
            tell(Ok(()));
            worker.work().await;
        }
    }
}

struct Worker {
    ingress: Ingress,
    io: WorkerIo,
    burst: Burst,
    /// `None` once a drain has emptied it.
    receiver: Option<Ready<Receiver>>,
    /// `None` once all streams have ended.
    messages: Option<mpsc::Receiver<Batch>>,
    tally: Arc<Tally>,
    draining: watch::Receiver<bool>,
    recv_batch: usize,
    emit_delay: Duration,
    busy_poll: Duration,
    /// Until then the worker looks for datagrams instead of sleeping.
    awake_until: Instant,
    drain_timeout: Duration,
    ready: Condition,
    /// The kernel's queue may hold more than was taken.
    more: bool,
    /// The call that woke the worker took all there was.
    emptied: bool,
    /// The worker stops: what came must be seen to be all.
    drains: bool,
    /// When the last datagram or message came.
    last_input: Instant,
    /// Messages of the next receive call.
    messages_per_call: usize,
    /// Arrivals of the burst that the pipeline has seen.
    seen: usize,
    shown_at: Instant,
    /// Something was received since.
    stale: bool,
}

/// Why a worker woke.
enum Woken {
    Readable,
    Messages(Option<Batch>),
    Other,
}

impl Worker {
    async fn open(start: Start) -> anyhow::Result<Worker> {
        let Sockets { receiver, listener, senders } = start.sockets;
        let driver = Driver::open(start.backend).await?.with_op_timeout(start.op_timeout);
        let now = Instant::now();
        let messages = match listener {
            None => None,
            Some(listener) => {
                let (to_worker, messages) = mpsc::channel(QUEUE);
                let streams = Streams {
                    limits: start.stream_limits,
                    policy: start.ingress.policy,
                    to_worker,
                    tally: start.streams,
                    draining: start.draining.clone(),
                };
                tokio::task::spawn_local(accept(tokio::net::TcpListener::from_std(listener)?, streams));
                Some(messages)
            }
        };
        start.ready.met(&format!("worker {} takes frames", start.index));
        Ok(Worker {
            ingress: Ingress::new(now, start.ingress, start.claims, Arc::clone(&start.tally)),
            io: WorkerIo { driver, senders, pumped_at: now },
            burst: Burst::new(SLOTS, HEAP).at_once(),
            receiver: Some(Ready::new(receiver)?),
            messages,
            tally: start.tally,
            draining: start.draining,
            recv_batch: start.recv_batch,
            emit_delay: start.emit_delay,
            busy_poll: start.busy_poll,
            awake_until: now,
            drain_timeout: start.drain_timeout,
            ready: start.ready,
            more: true,
            emptied: false,
            drains: false,
            last_input: now,
            messages_per_call: start.recv_batch,
            seen: 0,
            shown_at: now,
            stale: false,
        })
    }

    async fn work(mut self) {
        while !*self.draining.borrow() {
            let batch = self.wait().await;
            self.round(batch).await;
        }
        self.drain().await;
    }

    /// Finishes what is in hand: the kernel's queue, the streams, waiting frames, backlogs, open claims.
    async fn drain(&mut self) {
        self.ready.not_met("draining");
        let began = Instant::now();
        let deadline = began + self.drain_timeout;
        // Frames that wait for the store get half of the time to be decided.
        let decide_by = began + self.drain_timeout / 2;
        let mut deciding = true;
        (self.more, self.drains) = (true, true);
        loop {
            self.round(None).await;
            let now = Instant::now();
            let quiet = now.duration_since(self.last_input.max(began)) >= DRAIN_QUIET;
            if !self.more && (quiet || now.duration_since(began) >= DRAIN_ACCEPT) {
                self.read_sockets();
                self.receiver = None;
            }
            let input_ended = self.receiver.is_none() && self.messages.is_none();
            if deciding && (now >= decide_by || (input_ended && self.ingress.claims().waiting() == 0)) {
                deciding = false;
                self.ingress.decide_all(now);
            }
            if (input_ended && !deciding && self.ingress.is_drained()) || now >= deadline {
                break;
            }
            let woken = tokio::time::timeout(DRAIN_QUIET.min(deadline - now), self.wait()).await;
            if let Ok(Some(batch)) = woken {
                self.round(Some(batch)).await;
            }
        }
        self.send_undecided().await;
        self.ingress.close();
        self.round(None).await;
    }

    /// The time of an orderly stop may end before that for decisions did: it was short, or the process slept. What still
    /// waits for the store leaves without it, as far as the kernel takes it.
    async fn send_undecided(&mut self) {
        (self.receiver, self.messages) = (None, None);
        self.ingress.decide_all(Instant::now());
        let mut before = usize::MAX;
        loop {
            self.round(None).await;
            let waiting = self.ingress.waiting_frames();
            if waiting == 0 || waiting >= before || self.ingress.is_blocked() {
                break;
            }
            before = waiting;
        }
    }

    /// Waits for something to do; a batch of messages, if that was it.
    async fn wait(&mut self) -> Option<Batch> {
        self.more |= Instant::now() < self.awake_until;
        let blocked = self.ingress.is_blocked();
        let busy = (self.ingress.is_busy() || (self.more && self.receiver.is_some())) && !blocked;
        let take_messages = self.messages.is_some() && self.ingress.may_read_streams();
        let listening = self.receiver.is_some() && !self.more && !blocked;
        let (receiver, burst, batch) = (&mut self.receiver, &mut self.burst, self.messages_per_call);
        let report = Instant::now() + Ingress::REPORT_EVERY;
        let report = if self.stale { report.min(self.shown_at + SHOW) } else { report };
        let timer = self.ingress.next_timeout().map_or(report, |at| at.min(report));
        let messages = &mut self.messages;
        let asleep = Cell::new(false);
        let woken = tokio::select! {
            biased;
            () = self.io.driver.progress(self.ingress.claims()) => Woken::Other,
            batch = next_batch(messages), if take_messages => Woken::Messages(batch),
            // Lets the other tasks of this thread, and the reactor, have a turn.
            () = tokio::task::yield_now(), if busy => Woken::Other,
            _ = receive(receiver, burst, batch), if listening => Woken::Readable,
            () = tokio::time::sleep_until(timer.into()) => Woken::Other,
            _ = self.draining.changed() => Woken::Other,
            // The last that is looked at.
            () = async { asleep.set(true); pending().await } => Woken::Other,
        };
        match woken {
            Woken::Readable => {
                self.emptied = self.has_emptied(self.burst.used_slots(), self.messages_per_call);
                // A worker that is ahead of its senders asks once more when it wants to sleep, and not before. One that
                // did not come to sleep gives way first.
                self.more = !(self.emptied && asleep.get());
            }
            Woken::Messages(Some(batch)) => return Some(batch),
            Woken::Messages(None) => self.messages = None,
            Woken::Other => {}
        }
        None
    }

    async fn round(&mut self, batch: Option<Batch>) {
        let began = Instant::now();
        self.begin(began);
        self.receive().await;
        let mut now = Instant::now();
        let udp = !self.burst.arrivals().is_empty();
        let tcp = self.take_messages(now, batch);
        if udp || tcp {
            self.last_input = now;
        }
        let mut asked = now;
        loop {
            match self.ingress.commit(now, &mut self.burst, &mut self.io) {
                Next::Asked => {
                    now = Instant::now();
                    asked = now;
                    continue;
                }
                Next::Full { outlet, until } => self.wait_writable(outlet, until).await,
                Next::Done => break,
            }
            now = Instant::now();
        }
        self.seen = 0;
        let (now, after) = (asked, self.io.pumped_at);
        if udp {
            self.tally.burst_time.observe(after.saturating_duration_since(now));
            // Sleeping and waking cost about as much as a short round: it is not worth it where the next datagram comes
            // within that time, and where it does not, looking for it has at most doubled the cost.
            self.awake_until = after + self.busy_poll.min(after.saturating_duration_since(began));
        }
        if udp || self.stale {
            self.show_sockets(after);
        }
    }

    /// Takes datagrams until the queue is empty, the burst is full, or the round is.
    async fn receive(&mut self) {
        let emptied = std::mem::take(&mut self.emptied);
        if emptied || !self.more || self.ingress.is_blocked() {
            return;
        }
        let mut until = None;
        while let Some(receiver) = &mut self.receiver {
            if self.burst.free_slots() == 0 || self.burst.arrivals().len() >= ROUND {
                break;
            }
            let (before, asked) =
                (self.burst.used_slots(), self.messages_per_call.min(self.burst.free_slots()));
            match receiver.get_mut().receive(&mut self.burst, asked) {
                Ok(0) => break,
                Ok(_) => {
                    let emptied = self.has_emptied(self.burst.used_slots() - before, asked);
                    self.begin(Instant::now());
                    if emptied {
                        self.more = false;
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.more = false;
                    if !self.linger(&mut until).await {
                        break;
                    }
                    self.begin(Instant::now());
                }
                Err(error) => {
                    self.more = false;
                    service::limited!(error, 1, "receiving on the UDP port failed: {error}");
                    break;
                }
            }
        }
    }

    /// A call that took fewer messages than it could has emptied the queue: what it took leaves before another call is made,
    /// which belongs to the next round. Unless it is to wait for others.
    fn has_emptied(&self, taken: usize, asked: usize) -> bool {
        taken < asked && self.emit_delay.is_zero() && !self.drains
    }

    /// Begins the round with what has arrived since the last time.
    fn begin(&mut self, now: Instant) {
        let arrivals = self.burst.arrivals().len();
        if arrivals == self.seen {
            return;
        }
        let train = arrivals / self.burst.used_slots().max(1);
        self.messages_per_call = (FRAMES / train.max(1)).clamp(1, self.recv_batch);
        self.ingress.begin(now, &self.burst);
        self.seen = arrivals;
    }

    fn show_sockets(&mut self, now: Instant) {
        if now.saturating_duration_since(self.shown_at) < SHOW {
            self.stale = true;
            return;
        }
        (self.shown_at, self.stale) = (now, false);
        self.read_sockets();
    }

    fn read_sockets(&self) {
        let Some(receiver) = self.receiver.as_ref().map(Ready::get_ref) else { return };
        let queued: u64 = self.io.senders.iter().map(Sender::queued_errors).sum();
        self.tally.kernel_drops.set(receiver.kernel_drops());
        self.tally.truncated.set(receiver.truncated());
        self.tally.queued_errors.set(receiver.queued_errors() + queued);
        self.tally
            .gso_refused
            .set(self.io.senders.iter().map(|sender| u64::from(sender.gso_refused())).sum());
    }

    /// `--emit-delay`: waits for more frames after the first. `false`: the time is up.
    async fn linger(&mut self, until: &mut Option<tokio::time::Instant>) -> bool {
        if self.emit_delay.is_zero() || self.burst.arrivals().is_empty() {
            return false;
        }
        let until = *until.get_or_insert_with(|| tokio::time::Instant::now() + self.emit_delay);
        let more = receive(&mut self.receiver, &mut self.burst, self.messages_per_call);
        matches!(tokio::time::timeout_at(until, more).await, Ok(Ok(_)))
    }

    /// Takes messages that streams have ready, as long as they may be read.
    fn take_messages(&mut self, now: Instant, first: Option<Batch>) -> bool {
        let mut next = first;
        let mut any = false;
        while let Some(batch) = next.take() {
            any = true;
            for message in batch {
                self.ingress.message(now, message);
            }
            if self.ingress.may_read_streams() && !self.ingress.is_batch_full() {
                next = self.messages.as_mut().and_then(|messages| messages.try_recv().ok());
            }
        }
        any
    }

    /// Waits until a socket that was just found full has room again, or until the time is over.
    async fn wait_writable(&self, outlet: usize, until: Instant) {
        let Some(socket) = self.io.senders.get(outlet) else { return };
        let _ = tokio::time::timeout_at(until.into(), writable(socket)).await;
    }
}

/// What a round reaches through.
struct WorkerIo {
    driver: Driver,
    senders: Vec<Sender>,
    /// When the claims were pumped last: in a round that is over, the end of its emission.
    pumped_at: Instant,
}

impl RoundIo for WorkerIo {
    type Socket = Sender;

    fn pump(&mut self, claims: &mut Claims, _: Instant) {
        self.pumped_at = Instant::now();
        self.driver.pump(claims, self.pumped_at);
    }

    fn sockets(&mut self) -> &mut [Sender] {
        &mut self.senders
    }

    fn max_train(&self) -> usize {
        self.senders.iter().map(Sender::max_train).min().unwrap_or(1)
    }
}

async fn next_batch(messages: &mut Option<mpsc::Receiver<Batch>>) -> Option<Batch> {
    match messages {
        Some(messages) => messages.recv().await,
        None => None,
    }
}

/// Waits for datagrams and takes the first of them.
async fn receive(
    receiver: &mut Option<Ready<Receiver>>,
    burst: &mut Burst,
    batch: usize,
) -> io::Result<usize> {
    match receiver {
        Some(receiver) => receiver.read_with(|socket| socket.receive(burst, batch)).await,
        None => pending().await,
    }
}
