//! One worker: a thread that receives, judges, claims and sends in rounds, and nothing else.
//!
//! A round: receive until the queue is empty or the burst is full, then [`Ingress::commit`] until it is done. All waiting is
//! between rounds, for whatever comes first: a datagram, a message, an answer of the store, a timer. Within a round it waits
//! only for a full socket, and not for long.
//!
//! Where it stops reading: UDP when no interface has room in its backlog for another round (the kernel's queue keeps what
//! comes, and counts what it drops); TCP earlier, see [`Ingress::may_read_streams`].

use super::emit_links::EmitLinks;
use super::sockets::Sockets;
use super::stream::{Batch, QUEUE, StreamLimits, Streams, accept};
use crate::config::Config;
use crate::pipeline::{Cut, Ingress, IngressConfig, Lines, Next, RoundIo};
use crate::stream_tally::StreamTally;
use crate::tally::Tally;
use anyhow::Context;
use cache_backend::Backend;
use link_watch::Need;
use multicast_io::{Burst, writable};
use service::config::Purpose;
use service::links::EmitSocket;
use service::worker::{Drain, DrainRules, DrainStep, Gathered, InHand, Inlet, Intake, IntakeRules, Queue};
use service::{Condition, Lifecycle};
use std::cell::Cell;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use txidset::Claims;
use txidset::driver::Driver;

/// Receive slots: each takes a datagram or a train of up to 64 KiB.
const SLOTS: usize = 128;
/// Datagrams that one receive call should bring: they are judged while they are in the nearer caches.
const FRAMES: usize = 256;
/// Least time between two readings of the counts that the kernel keeps: each is a system call.
const SHOW: Duration = Duration::from_millis(10);
/// Datagrams after which a round makes no further receive call. With what the last call may bring that is about 2,048: trains
/// are the longer the more there is to choose from.
const ROUND: usize = 1_792;
/// Room for everything that a receive can make the pipeline copy (bare transactions, fragments), and then some.
const HEAP: usize = SLOTS * (80 << 10) + (8 << 20);
/// A draining worker stops reading UDP when its queue was empty for this long,
const DRAIN_QUIET: Duration = Duration::from_millis(50);
/// or when it is empty after this long, as senders that do not hear of the stop never fall silent.
const DRAIN_ACCEPT: Duration = Duration::from_millis(250);
/// So long after it left its ports it looks for what was on the way to them.
const DRAIN_LEFT: Duration = Duration::from_millis(20);

/// What a worker is born with.
pub(super) struct Start {
    pub(super) index: usize,
    pub(super) sockets: Sockets,
    pub(super) need: Need,
    pub(super) ingress: IngressConfig,
    pub(super) claims: Claims,
    pub(super) backend: Option<Arc<dyn Backend>>,
    pub(super) tally: Arc<Tally>,
    pub(super) streams: Arc<StreamTally>,
    pub(super) stream_limits: StreamLimits,
    pub(super) lifecycle: Lifecycle,
    pub(super) ready: Condition,
    pub(super) config: Arc<Config>,
}

/// The way out of a round: the store, and the sockets of the emit interfaces.
struct Outside {
    driver: Driver,
    senders: Vec<EmitSocket>,
    links: EmitLinks,
    /// When the store was asked last.
    pumped_at: Instant,
}

impl RoundIo for Outside {
    type Socket = EmitSocket;

    fn pump(&mut self, claims: &mut Claims, now: Instant) {
        self.pumped_at = Instant::now();
        self.driver.pump(claims, now);
    }

    fn sockets(&mut self) -> &mut [EmitSocket] {
        &mut self.senders
    }

    fn max_train(&self) -> usize {
        self.senders.iter().map(|socket| socket.sender().max_train()).min().unwrap_or(1)
    }

    fn look(&mut self, lines: &mut Lines) {
        self.links.look(&mut self.senders, lines);
    }
}

/// See the module text.
pub(super) struct Worker {
    ingress: Ingress,
    outside: Outside,
    burst: Burst,
    intake: Intake<()>,
    /// `None` once all streams have ended.
    messages: Option<mpsc::Receiver<Batch>>,
    tally: Arc<Tally>,
    draining: watch::Receiver<bool>,
    refusing: Refusing,
    emit_delay: Duration,
    busy_poll: Duration,
    /// Until then the worker looks for datagrams instead of sleeping.
    awake_until: Instant,
    drain_timeout: Duration,
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
    /// Opens everything that belongs to this worker, on its own runtime.
    pub(super) async fn open(start: Start) -> anyhow::Result<Worker> {
        let Sockets { receiver, listener, senders } = start.sockets;
        let links = EmitLinks::open(start.need, &senders).context("--iface: following the links")?;
        let refusing = Refusing { after: start.ingress.outlet.deadline, told: watch::Sender::new(false) };
        let Config { common, backend, receiving, sending, .. } = &*start.config;
        let op_timeout = backend.op_timeout(Purpose::Claims);
        let driver = Driver::open(start.backend).await?.with_op_timeout(op_timeout);
        let draining = start.lifecycle.drain_signal();
        let messages = match listener {
            None => None,
            Some(listener) => {
                let (to_worker, messages) = mpsc::channel(QUEUE);
                let streams = Streams {
                    limits: start.stream_limits,
                    policy: start.ingress.policy,
                    to_worker,
                    tally: start.streams,
                    draining: draining.clone(),
                    refusing: refusing.told.subscribe(),
                };
                tokio::task::spawn_local(accept(tokio::net::TcpListener::from_std(listener)?, streams));
                Some(messages)
            }
        };
        let rules = IntakeRules {
            messages: receiving.recv_batch,
            datagrams: FRAMES,
            round: ROUND,
            // A round that is to wait for others asks until the queue is empty.
            trust_short_calls: sending.emit_delay.is_zero(),
            ..IntakeRules::default()
        };
        let inlet = Inlet { tag: (), name: "--udp-listen-port", receiver, memberships: None };
        let intake = Intake::new(rules, vec![inlet])?;
        start.ready.met(&format!("worker {} takes frames", start.index));
        let now = Instant::now();
        let mut ingress = Ingress::new(now, start.ingress, start.claims, Arc::clone(&start.tally));
        ingress.start_with(links.lines());
        Ok(Worker {
            ingress,
            outside: Outside { driver, senders, links, pumped_at: now },
            burst: Burst::new(SLOTS, HEAP).touched(),
            intake,
            messages,
            tally: start.tally,
            draining,
            refusing,
            emit_delay: sending.emit_delay,
            busy_poll: receiving.busy_poll,
            awake_until: now,
            drain_timeout: common.drain_timeout,
            shown_at: now,
            stale: false,
        })
    }

    /// Runs until the role has drained.
    pub(super) async fn work(mut self) {
        while !*self.draining.borrow() {
            let batch = self.wait().await;
            self.round(batch).await;
        }
        self.drain().await;
    }

    /// Finishes what is in hand: the kernel's queue, the streams, waiting frames, backlogs, open claims.
    async fn drain(&mut self) {
        self.intake.trust_no_short_call();
        let timeout = self.drain_timeout;
        let rules = DrainRules { timeout, quiet: DRAIN_QUIET, accept: DRAIN_ACCEPT, read_at_most: timeout };
        let mut drain = Drain::begin(Instant::now(), rules);
        loop {
            self.round(None).await;
            let now = Instant::now();
            match drain.step(now, &self.in_hand()) {
                DrainStep::StopReading => {
                    self.leave_ports(timeout).await;
                    self.stop_reading();
                }
                DrainStep::Decide => self.ingress.decide_all(now),
                DrainStep::Wait(most) => {
                    if let Ok(Some(batch)) = tokio::time::timeout(most, self.wait()).await {
                        self.round(Some(batch)).await;
                    }
                }
                DrainStep::Done => break,
            }
        }
        self.send_undecided().await;
        self.ingress.close();
        self.commit().await;
    }

    /// Gives the ports to the process that takes over, if there is one, and takes what came before that: also what the kernel
    /// was about to queue.
    async fn leave_ports(&mut self, timeout: Duration) {
        self.intake.withdraw();
        let began = Instant::now();
        while began.elapsed() < timeout {
            let left = DRAIN_LEFT.saturating_sub(began.elapsed());
            let batch = match self.intake.queue() {
                Queue::Empty if left.is_zero() => return,
                Queue::Empty => tokio::time::timeout(left, self.wait()).await.unwrap_or_default(),
                _ => None,
            };
            self.round(batch).await;
        }
    }

    fn in_hand(&mut self) -> InHand {
        InHand {
            reading: self.intake.is_open(),
            streams: self.messages.is_some(),
            emptied: self.intake.queue() == Queue::Empty,
            last_input: self.intake.last_input(),
            waiting: self.ingress.claims().waiting() > 0,
            idle: self.ingress.is_drained(),
        }
    }

    fn stop_reading(&mut self) {
        self.intake.close();
        self.read_sockets();
    }

    /// The time of an orderly stop may end before that for decisions did: it was short, or the process slept. What still
    /// waits for the store leaves without it, as far as the kernel takes it.
    async fn send_undecided(&mut self) {
        self.stop_reading();
        self.messages = None;
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
        if Instant::now() < self.awake_until {
            self.intake.look_again();
        }
        let blocked = self.ingress.is_blocked();
        let more = self.intake.is_open() && self.intake.queue() != Queue::Empty;
        let busy = self.ingress.is_busy() || more && !blocked;
        let take_messages = self.messages.is_some() && self.ingress.may_read_streams();
        let listening = self.intake.is_open() && !more && !blocked;
        let report = Instant::now() + Ingress::REPORT_EVERY;
        let report = if self.stale { report.min(self.shown_at + SHOW) } else { report };
        let timer = self.ingress.next_timeout().map_or(report, |at| at.min(report));
        let (intake, burst, messages) = (&mut self.intake, &mut self.burst, &mut self.messages);
        let asleep = Cell::new(false);
        let woken = tokio::select! {
            biased;
            () = self.outside.driver.progress(self.ingress.claims()) => Woken::Other,
            batch = next_batch(messages), if take_messages => Woken::Messages(batch),
            // Lets the other tasks of this thread, and the reactor, have a turn.
            () = tokio::task::yield_now(), if busy => Woken::Other,
            () = intake.first(burst), if listening => Woken::Readable,
            () = tokio::time::sleep_until(timer.into()) => Woken::Other,
            _ = self.draining.changed() => Woken::Other,
            () = self.outside.links.changed() => Woken::Other,
            // The last that is looked at.
            () = async { asleep.set(true); pending().await } => Woken::Other,
        };
        match woken {
            // A worker that is ahead of its senders asks once more when it wants to sleep, and not before. One that did not
            // come to sleep gives way first.
            Woken::Readable if asleep.get() => self.intake.slept(),
            Woken::Messages(Some(batch)) => return Some(batch),
            Woken::Messages(None) => self.messages = None,
            Woken::Readable | Woken::Other => {}
        }
        None
    }

    async fn round(&mut self, batch: Option<Batch>) {
        let began = Instant::now();
        self.ingress.begin(began, &self.burst);
        self.receive().await;
        let now = Instant::now();
        let udp = !self.burst.arrivals().is_empty();
        let tcp = self.take_messages(now, batch);
        if udp || tcp {
            self.intake.took_input(now);
        }
        let asked = self.commit().await;
        self.tell_links(now);
        // The last thing that a round does is to tell the store what left.
        let after = self.outside.pumped_at;
        if udp {
            self.tally.burst_time.observe(after.saturating_duration_since(asked));
            // Sleeping and waking cost about as much as a short round: it is not worth it where the next datagram comes
            // within that time, and where it does not, looking for it has at most doubled the cost.
            self.awake_until = after + self.busy_poll.min(after.saturating_duration_since(began));
        }
        if udp || self.stale {
            self.show_sockets(after);
        }
    }

    /// Says what a lost carrier cost, and whether streams are refused.
    fn tell_links(&mut self, now: Instant) {
        if let Some(cut) = self.ingress.take_cut() {
            let names: Vec<_> = self.outside.senders.iter().map(EmitSocket::name).collect();
            tracing::warn!("{}", cut_text(&names.join(","), cut, &self.tally));
        }
        self.refusing.tell(now, self.ingress.mute_since());
    }

    /// Claims, sends and keeps what the round has. Returns when the store had been asked.
    async fn commit(&mut self) -> Instant {
        let mut asked = None;
        loop {
            let now = Instant::now();
            match self.ingress.commit(now, &mut self.burst, &mut self.outside) {
                // A stop of the process between asking and sending must not go unnoticed: the time is read again.
                Next::Asked => asked = Some(Instant::now()),
                Next::Full { outlet, until } => self.wait_writable(outlet, until).await,
                Next::Done => return asked.unwrap_or(now),
            }
        }
    }

    /// Takes datagrams until the queue is empty, the burst is full, or the round is.
    async fn receive(&mut self) {
        if self.ingress.is_blocked() {
            return;
        }
        let mut until = None;
        loop {
            match self.intake.gather(&mut self.burst) {
                Gathered::Some => {}
                Gathered::Lull if self.linger(&mut until).await => {}
                Gathered::Lull | Gathered::Enough => break,
            }
            self.ingress.begin(Instant::now(), &self.burst);
            if self.ingress.has_backlog() {
                break;
            }
        }
    }

    /// `--emit-delay`: waits for more frames after the first. `false`: the time is up.
    async fn linger(&mut self, until: &mut Option<tokio::time::Instant>) -> bool {
        if self.emit_delay.is_zero() || self.burst.arrivals().is_empty() {
            return false;
        }
        let until = *until.get_or_insert_with(|| tokio::time::Instant::now() + self.emit_delay);
        tokio::time::timeout_at(until, self.intake.first(&mut self.burst)).await.is_ok()
    }

    /// Takes messages that streams have ready, as long as they may be read.
    fn take_messages(&mut self, now: Instant, first: Option<Batch>) -> bool {
        let mut next = first;
        let any = next.is_some();
        while let Some(batch) = next.take() {
            for message in batch {
                self.ingress.message(now, message);
            }
            if self.ingress.may_read_streams() && !self.ingress.is_batch_full() {
                next = self.messages.as_mut().and_then(|messages| messages.try_recv().ok());
            }
        }
        any
    }

    /// Waits until a socket that was just found full has room again, not longer than `until`.
    async fn wait_writable(&self, outlet: usize, until: Instant) {
        let Some(socket) = self.outside.senders.get(outlet) else { return };
        // Late, or an error: the next commit finds out.
        let _ = tokio::time::timeout_at(until.into(), writable(socket.sender())).await;
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
        let counts = self.intake.counts();
        let senders = || self.outside.senders.iter();
        self.tally.kernel_drops.set(counts.kernel_drops);
        self.tally.truncated.set(counts.truncated);
        let queued: u64 = senders().map(EmitSocket::queued_errors).sum();
        self.tally.queued_errors.set(counts.queued_errors + queued);
        self.tally.gso_refused.set(senders().map(|sender| u64::from(sender.sender().gso_refused())).sum());
    }
}

async fn next_batch(messages: &mut Option<mpsc::Receiver<Batch>>) -> Option<Batch> {
    match messages {
        Some(messages) => messages.recv().await,
        None => None,
    }
}

/// Whether streams are refused: no interface can emit, for longer than frames may wait.
struct Refusing {
    /// `--send-deadline`.
    after: Duration,
    told: watch::Sender<bool>,
}

impl Refusing {
    fn tell(&self, now: Instant, mute_since: Option<Instant>) {
        let mute = mute_since.is_some_and(|since| now >= since + self.after);
        self.told.send_if_modified(|told| std::mem::replace(told, mute) != mute);
    }
}

/// Flows that a line names.
const NAMED: usize = 8;
/// The kernel may tell of a lost carrier so long after the cut.
const NEWS_WITHIN: Duration = Duration::from_secs(1);

/// What is known about the frames around a lost carrier, for the log.
fn cut_text(interfaces: &str, cut: Cut, tally: &Tally) -> String {
    let lately = tally.recent.lately(NEWS_WITHIN);
    let numbered: u64 = lately.iter().map(|run| run.frames).sum();
    let settled = numbered.saturating_sub(cut.frames);
    let runs =
        lately.iter().take(NAMED).map(|run| format!("{:016x}: {} to {}", run.flow, run.first, run.last));
    let mut runs: Vec<_> = runs.collect();
    if lately.len() > NAMED {
        runs.push(format!("and {} flows more", lately.len() - NAMED));
    }
    let named = if runs.is_empty() { String::new() } else { format!(" ({})", runs.join(", ")) };
    format!(
        "--iface {interfaces}: no carrier: {} frames that had not settled are not sent, their {} claims are released; \
         {settled} frames settled within the second before and are lost if the cut was before them{named}",
        cut.frames, cut.claims
    )
}
