//! The guard around every remote session. A server that is slow or dead must cost neither frames nor latency.
//!
//! Promises: No call waits longer than its deadline. While the breaker is open, or too much waits already, a batch is
//! answered at once and nothing is sent. One log line says that the breaker opened, and one that it closed.
//!
//! *Deadline*: a small multiple of the p99 of the last seconds. It is never below the floor, and never above the operation
//! timeout of the settings or the deadline of the caller. A batch that timed out counts as twice its deadline, so a server
//! that became slower as a whole gets more time instead of being cut off for good. The deadline runs anew from every answer
//! that the connection brings, also a late one, up to the operation timeout. A batch that waits behind others is as late
//! as they are, so a burst after a calm is not taken for a server that hangs.
//!
//! *Breaker*: one for each server, shared by the workers. Closed: a run of failures opens it, if the run lasts at least half
//! an operation timeout; one hiccup under several batches in flight is one event and not a run. Open: after a pause one
//! real batch goes as a probe (half-open). If it is answered the breaker closes, else it stays open for twice as long. A
//! batch failed when more than half of its keys have no answer.
//!
//! *Judged by writes*: a server that is full, read-only or cut off from its replicas goes on answering reads, and deletes
//! while it is full. So reads and deletes do not end a run in which a write failed, and do not close a breaker that such
//! a run opened: then only writes are probes. Some stores are worth something without writes (frames,
//! `RemoteSettings::reads_without_writes`). There reads and deletes pass an open breaker as long as the server refuses
//! writes and answers.
//!
//! *Lost connections*: each is one failure, however many batches waited on it and however many workers lost theirs at that
//! moment. A dial that failed is one failure too. A dial that saw a write and its read within one operation timeout closes
//! the breaker, as an answered probe does.
//!
//! *Down*: while a session has no connection its batches are refused at once, unsent, and nothing is judged.
//!
//! *Bounds*, for each session: batches and bytes that wait for their answer. Beyond them a batch is refused as overloaded.
//! That says nothing about the server and does not move the breaker.
//!
//! Cost: one uncontended lock and one timer a batch; nothing per key.
// Long because the rules of the guard are read together; half of it is what one breaker counts.

use crate::{Answers, Claimed, KeyValues, OpError, OpErrorKind, RemoteSettings, Session};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::{debug, info, warn};

/// Deadline = this multiple of the observed p99.
const DEADLINE_FACTOR: u32 = 4;
/// Until so many batches were seen the deadline is the operation timeout.
const WARM: u32 = 32;
/// The p99 is of the last one to two of these.
const WINDOW: Duration = Duration::from_secs(1);
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What the breaker of one server does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BreakerState {
    /// Batches go through.
    Closed,
    /// One batch is on its way to find out.
    HalfOpen,
    /// Batches are refused at once.
    Open,
}

impl BreakerState {
    /// All states, in the order of their gauge values 0, 1, 2.
    pub const ALL: [BreakerState; 3] = [BreakerState::Closed, BreakerState::HalfOpen, BreakerState::Open];

    /// Value of the metric label `state`.
    pub fn label(self) -> &'static str {
        match self {
            BreakerState::Closed => "closed",
            BreakerState::HalfOpen => "half_open",
            BreakerState::Open => "open",
        }
    }
}

/// What the roles export about one server. All sessions of a backend that talk to it share these counters.
#[derive(Debug)]
pub struct GuardStats {
    backend: &'static str,
    server: String,
    state: AtomicU8,
    transitions: [AtomicU64; 3],
    errors: [AtomicU64; OpErrorKind::ALL.len()],
    answered: AtomicU64,
    batches_in_flight: AtomicUsize,
    bytes_in_flight: AtomicUsize,
    deadline_us: AtomicU64,
    latency: Latency,
}

impl GuardStats {
    fn new(backend: &'static str, server: String, deadline: Duration) -> GuardStats {
        GuardStats {
            backend,
            server,
            state: AtomicU8::new(0),
            transitions: Default::default(),
            errors: Default::default(),
            answered: AtomicU64::new(0),
            batches_in_flight: AtomicUsize::new(0),
            bytes_in_flight: AtomicUsize::new(0),
            deadline_us: AtomicU64::new(micros(deadline)),
            latency: Latency::default(),
        }
    }
    /// `redis`, `aerospike`.
    pub fn backend(&self) -> &'static str {
        self.backend
    }
    /// Address of the server, or what stands for it (a Sentinel master, a set of hosts).
    pub fn server(&self) -> &str {
        &self.server
    }
    /// Now.
    pub fn state(&self) -> BreakerState {
        BreakerState::ALL[usize::from(self.state.load(Relaxed)).min(2)]
    }
    /// An error that names the server, unless its breaker is closed.
    pub(crate) fn closed(&self) -> Result<(), OpError> {
        let state = self.state();
        if state == BreakerState::Closed {
            return Ok(());
        }
        let detail = format!("the breaker of {} is {}", self.server, state.label());
        Err(OpError::not_done(self.backend, OpErrorKind::BreakerOpen, detail))
    }
    /// How often the breaker went into `state`.
    pub fn transitions(&self, state: BreakerState) -> u64 {
        self.transitions[state as usize].load(Relaxed)
    }
    /// Keys that got no answer, by class.
    pub fn errors(&self, kind: OpErrorKind) -> u64 {
        self.errors[kind.index()].load(Relaxed)
    }
    /// Keys that were answered.
    pub fn answered(&self) -> u64 {
        self.answered.load(Relaxed)
    }
    /// Batches that wait for their answer, over all sessions.
    pub fn batches_in_flight(&self) -> usize {
        self.batches_in_flight.load(Relaxed)
    }
    /// Bytes of keys and values that wait for their answer, over all sessions.
    pub fn bytes_in_flight(&self) -> usize {
        self.bytes_in_flight.load(Relaxed)
    }
    /// The deadline that the next batch gets.
    pub fn deadline(&self) -> Duration {
        Duration::from_micros(self.deadline_us.load(Relaxed))
    }
    /// Time from request to answer, of batches that were answered.
    pub fn latency(&self) -> &Latency {
        &self.latency
    }

    fn count<T>(&self, answers: &[Result<T, OpError>]) {
        let mut failed = 0;
        for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            failed += 1;
            self.errors[error.kind.index()].fetch_add(1, Relaxed);
        }
        self.answered.fetch_add((answers.len() - failed) as u64, Relaxed);
    }
}

/// A histogram in powers of two of a nanosecond: bucket `i` holds what took more than 2^(i-1) and at most 2^i of them. These
/// are the buckets of the roles' own histograms, so counts can be added bucket by bucket.
#[derive(Debug)]
pub struct Latency {
    buckets: [AtomicU64; Latency::BUCKETS],
    sum: AtomicU64,
}

impl Default for Latency {
    fn default() -> Latency {
        Latency { buckets: [const { AtomicU64::new(0) }; Latency::BUCKETS], sum: AtomicU64::new(0) }
    }
}

impl Latency {
    /// The last bucket has no upper edge.
    pub const BUCKETS: usize = 40;

    /// Upper edge of a bucket; `None` for the last.
    pub fn edge(bucket: usize) -> Option<Duration> {
        (bucket + 1 < Latency::BUCKETS).then(|| Duration::from_nanos(1 << bucket))
    }
    /// Batches in each bucket (not cumulative).
    pub fn counts(&self) -> [u64; Latency::BUCKETS] {
        std::array::from_fn(|bucket| self.buckets[bucket].load(Relaxed))
    }
    /// Sum of all observations.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum.load(Relaxed))
    }
    /// Counts one observation.
    pub fn observe(&self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        // The smallest power of two that is not below the observation.
        let bucket = (64 - nanos.saturating_sub(1).leading_zeros()) as usize;
        self.buckets[bucket.min(Latency::BUCKETS - 1)].fetch_add(1, Relaxed);
        self.sum.fetch_add(nanos, Relaxed);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// How a batch ended, as far as the server is to blame.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Answered(Duration),
    TimedOut(Duration),
    /// And what was said about it.
    Failed(OpErrorKind, String),
    /// The caller dropped the future: nothing was learnt.
    Abandoned,
}

/// What a batch does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    /// Claims and sets: what a server must do to be worth asking.
    Write,
    /// A server that takes no writes may still do this.
    Delete,
    Read,
}

/// Leave to send one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Leave {
    since: Instant,
    deadline: Duration,
    probe: bool,
    does: Does,
}

/// Judges one server for all sessions of a backend.
#[derive(Debug)]
pub struct Breaker {
    stats: Arc<GuardStats>,
    floor: Duration,
    cap: Duration,
    threshold: u32,
    reads_without_writes: bool,
    judge: Mutex<Judge>,
}

#[derive(Debug)]
struct Judge {
    phase: Phase,
    pause: Duration,
    opened: Option<Instant>,
    /// When a lost connection (or a dial that failed) was last counted: what began before is the same event.
    lost: Option<Instant>,
    p99: Percentile,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Closed { run: u32, since: Option<Instant>, cause: Cause },
    Open { until: Instant, cause: Cause },
    HalfOpen { cause: Cause },
}

/// What is known of the failures of a run.
#[derive(Clone, Copy, Debug, Default)]
struct Cause {
    /// A write was among them: reads do not disprove it.
    writes: bool,
    /// The last was a refusal: the server answers, and takes no writes.
    refused: bool,
}

impl Cause {
    fn and(self, of_write: bool, kind: OpErrorKind) -> Cause {
        Cause { writes: self.writes || of_write, refused: kind == OpErrorKind::Refused }
    }
}

const NO_FAILURE: Phase =
    Phase::Closed { run: 0, since: None, cause: Cause { writes: false, refused: false } };

impl Breaker {
    /// For one server of a backend.
    pub fn new(backend: &'static str, server: impl Into<String>, settings: &RemoteSettings) -> Arc<Breaker> {
        let floor = settings.deadline_floor.min(settings.op_timeout);
        Arc::new(Breaker {
            stats: Arc::new(GuardStats::new(backend, server.into(), settings.op_timeout)),
            floor,
            cap: settings.op_timeout,
            threshold: settings.breaker_threshold.max(1),
            reads_without_writes: settings.reads_without_writes,
            judge: Mutex::new(Judge {
                phase: NO_FAILURE,
                pause: PAUSE_MIN,
                opened: None,
                lost: None,
                p99: Percentile::default(),
            }),
        })
    }

    /// Counters of this server.
    pub fn stats(&self) -> &Arc<GuardStats> {
        &self.stats
    }

    fn judge(&self) -> MutexGuard<'_, Judge> {
        self.judge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` while the breaker is open.
    fn admit(&self, now: Instant, does: Does) -> Option<Leave> {
        let mut judge = self.judge();
        let leave = Leave { since: now, deadline: self.stats.deadline(), probe: false, does };
        let cause = match judge.phase {
            Phase::Closed { .. } => return Some(leave),
            Phase::Open { cause, .. } | Phase::HalfOpen { cause } => cause,
        };
        if does != Does::Write && cause.writes {
            return (cause.refused && self.reads_without_writes).then_some(leave);
        }
        if !matches!(judge.phase, Phase::Open { until, .. } if until <= now) {
            return None;
        }
        judge.phase = Phase::HalfOpen { cause };
        self.enter(BreakerState::HalfOpen);
        debug!(backend = self.stats.backend, server = %self.stats.server, "breaker sends a probe");
        Some(Leave { deadline: self.cap, probe: true, ..leave })
    }

    /// The role starts without this server: it is not asked until it was seen to work.
    pub(crate) fn begin_open(&self) {
        let (mut judge, now) = (self.judge(), Instant::now());
        judge.opened = Some(now);
        self.open(&mut judge, now, PAUSE_MIN, Cause::default());
    }

    /// A dial that began at `began` failed.
    pub(crate) fn dial_failed(&self, began: Instant) {
        let leave = Leave { since: began, deadline: self.cap, probe: false, does: Does::Read };
        let outcome = Outcome::Failed(OpErrorKind::Disconnected, "no connection".to_owned());
        self.record(Instant::now(), leave, outcome);
    }

    /// A dial saw the server take a write and answer it, all within `took`.
    pub(crate) fn proved(&self, took: Duration) {
        let (mut judge, now) = (self.judge(), Instant::now());
        match judge.phase {
            Phase::Closed { .. } => {}
            Phase::Open { .. } | Phase::HalfOpen { .. } if took <= self.cap => self.close(&mut judge, now),
            Phase::Open { cause, .. } => judge.phase = Phase::Open { until: now, cause },
            Phase::HalfOpen { .. } => {}
        }
    }

    fn record(&self, now: Instant, leave: Leave, outcome: Outcome) {
        let mut judge = self.judge();
        match outcome {
            Outcome::Answered(latency) => {
                self.stats.latency.observe(latency);
                self.learn(&mut judge, now, latency);
                self.succeeded(&mut judge, now, leave);
            }
            Outcome::TimedOut(deadline) => {
                self.learn(&mut judge, now, (deadline * 2).min(self.cap));
                self.failed(&mut judge, now, leave, OpErrorKind::Timeout, "");
            }
            Outcome::Failed(kind, said) => self.failed(&mut judge, now, leave, kind, &said),
            Outcome::Abandoned => {
                if let Phase::HalfOpen { cause } = judge.phase
                    && leave.probe
                {
                    self.open(&mut judge, now, Duration::ZERO, cause);
                }
            }
        }
    }

    fn learn(&self, judge: &mut Judge, now: Instant, latency: Duration) {
        if let Some(p99) = judge.p99.observe(now, latency) {
            let deadline = (p99 * DEADLINE_FACTOR).clamp(self.floor, self.cap);
            self.stats.deadline_us.store(micros(deadline), Relaxed);
        }
    }

    fn succeeded(&self, judge: &mut Judge, now: Instant, leave: Leave) {
        match judge.phase {
            Phase::Closed { cause, .. } if cause.writes && leave.does != Does::Write => {}
            Phase::Closed { .. } => judge.phase = NO_FAILURE,
            // A late answer of a batch from before says less than the probe that is under way.
            Phase::Open { .. } | Phase::HalfOpen { .. } if !leave.probe => {}
            Phase::Open { .. } | Phase::HalfOpen { .. } => self.close(judge, now),
        }
    }

    fn close(&self, judge: &mut Judge, now: Instant) {
        judge.phase = NO_FAILURE;
        judge.pause = PAUSE_MIN;
        self.enter(BreakerState::Closed);
        let open = judge.opened.take().map_or(Duration::ZERO, |opened| now.duration_since(opened));
        info!(
            backend = self.stats.backend,
            server = %self.stats.server,
            open_ms = micros(open) / 1000,
            "breaker closed: the server answers again"
        );
    }

    fn failed(&self, judge: &mut Judge, now: Instant, leave: Leave, kind: OpErrorKind, said: &str) {
        if !leave.probe && matches!(kind, OpErrorKind::Disconnected | OpErrorKind::Garbled) {
            if judge.lost.is_some_and(|lost| leave.since <= lost) {
                return;
            }
            judge.lost = Some(now);
        }
        // A connection that broke says nothing about writes.
        let of_write =
            leave.does == Does::Write && matches!(kind, OpErrorKind::Timeout | OpErrorKind::Refused);
        match judge.phase {
            Phase::Closed { run, since, cause } => {
                let (run, since) = (run.saturating_add(1), since.unwrap_or(now));
                let cause = cause.and(of_write, kind);
                if run < self.threshold || now.saturating_duration_since(since) < self.cap / 2 {
                    judge.phase = Phase::Closed { run, since: Some(since), cause };
                    return;
                }
                judge.pause = PAUSE_MIN;
                judge.opened = Some(now);
                self.open(judge, now, PAUSE_MIN, cause);
                warn!(
                    backend = self.stats.backend,
                    server = %self.stats.server,
                    failures = run,
                    last = kind.label(),
                    said,
                    "breaker opened: this server is not asked until a probe is answered"
                );
            }
            Phase::HalfOpen { cause } if leave.probe => {
                judge.pause = (judge.pause * 2).min(PAUSE_MAX);
                let pause = judge.pause.mul_f64(rand::random_range(0.75..1.25));
                let cause = cause.and(of_write, kind);
                self.open(judge, now, pause, cause);
            }
            Phase::HalfOpen { .. } | Phase::Open { .. } => {}
        }
    }

    fn open(&self, judge: &mut Judge, now: Instant, pause: Duration, cause: Cause) {
        judge.phase = Phase::Open { until: now + pause, cause };
        self.enter(BreakerState::Open);
    }

    fn enter(&self, state: BreakerState) {
        self.stats.state.store(state as u8, Relaxed);
        self.stats.transitions[state as usize].fetch_add(1, Relaxed);
    }
}

/// A running p99 over the last one to two windows, in steps of a quarter of an octave.
#[derive(Debug)]
struct Percentile {
    halves: [[u32; Percentile::STEPS]; 2],
    counts: [u32; 2],
    rotated: Option<Instant>,
}

impl Default for Percentile {
    fn default() -> Percentile {
        Percentile { halves: [[0; Percentile::STEPS]; 2], counts: [0; 2], rotated: None }
    }
}

impl Percentile {
    const STEPS: usize = 112;

    /// The p99 where it was computed anew (every 16 observations) and enough was seen.
    fn observe(&mut self, now: Instant, latency: Duration) -> Option<Duration> {
        let rotated = *self.rotated.get_or_insert(now);
        if now.saturating_duration_since(rotated) >= WINDOW && self.counts[0] >= WARM {
            self.halves.swap(0, 1);
            self.counts.swap(0, 1);
            self.halves[0] = [0; Percentile::STEPS];
            self.counts[0] = 0;
            self.rotated = Some(now);
        }
        self.halves[0][Percentile::step(micros(latency))] += 1;
        self.counts[0] += 1;
        let total = self.counts[0] + self.counts[1];
        (total >= WARM && self.counts[0].is_multiple_of(16)).then(|| self.p99(total))
    }

    fn p99(&self, total: u32) -> Duration {
        let mut above = total / 100;
        for step in (0..Percentile::STEPS).rev() {
            let here = self.halves[0][step] + self.halves[1][step];
            if here > above {
                return Duration::from_micros(Percentile::edge(step));
            }
            above -= here;
        }
        Duration::ZERO
    }

    fn step(us: u64) -> usize {
        let us = us.max(4);
        let octave = us.ilog2();
        let quarter = (us >> (octave - 2)) & 3;
        ((octave as usize - 2) * 4 + quarter as usize).min(Percentile::STEPS - 1)
    }

    /// Upper edge of a step.
    fn edge(step: usize) -> u64 {
        (5 + (step as u64 & 3)) << (step / 4)
    }
}

/// A session behind a breaker, a deadline and bounds.
pub struct Guarded<S> {
    session: S,
    breaker: Arc<Breaker>,
    max_batches: usize,
    max_bytes: usize,
    waiting: Arc<Waiting>,
    heard: Arc<Heard>,
}

#[derive(Debug, Default)]
struct Waiting {
    batches: AtomicUsize,
    bytes: AtomicUsize,
}

/// When a server was heard last, also with answers that nobody waited for any more: after a hiccup these come first, and a
/// batch behind them is not late for want of them.
#[derive(Debug, Default)]
pub struct Heard(Mutex<Option<Instant>>);

impl Heard {
    /// Something came.
    pub(crate) fn note(&self, now: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    fn last(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Session> Guarded<S> {
    /// Guards `session`; its server is judged by `breaker`.
    pub fn new(session: S, breaker: Arc<Breaker>, settings: &RemoteSettings) -> Guarded<S> {
        Guarded {
            heard: session.heard().unwrap_or_default(),
            session,
            breaker,
            max_batches: settings.max_batches.max(1),
            max_bytes: settings.max_bytes,
            waiting: Arc::default(),
        }
    }

    fn run<T: Send + 'static>(
        &self,
        batch: KeyValues,
        deadline: Instant,
        does: Does,
        start: impl FnOnce(&S, KeyValues, Instant) -> BoxFuture<'static, Answers<T>>,
    ) -> BoxFuture<'static, Answers<T>> {
        let keys = batch.len();
        if keys == 0 {
            return ready(Vec::new()).boxed();
        }
        let now = Instant::now();
        if self.session.is_down() {
            let closed = self.breaker.stats.state() == BreakerState::Closed;
            return self
                .refuse(keys, if closed { OpErrorKind::Disconnected } else { OpErrorKind::BreakerOpen });
        }
        let Some(place) = self.take_place(batch.bytes()) else {
            return self.refuse(keys, OpErrorKind::Overloaded);
        };
        let Some(leave) = self.breaker.admit(now, does) else {
            return self.refuse(keys, OpErrorKind::BreakerOpen);
        };
        // A session that answers in parts gives what it has at its deadline.
        let longest = if self.session.answers_in_parts() { leave.deadline } else { self.breaker.cap };
        let end = deadline.min(now + longest);
        let mut flight = Flight {
            breaker: self.breaker.clone(),
            heard: self.heard.clone(),
            leave,
            _place: place,
            judged: false,
        };
        let answers = start(&self.session, batch, end);
        async move {
            let answers = match flight.wait(answers, now, end).await {
                Ok(mut answers) => {
                    flight.judge(judge_answers(&answers, now.elapsed()));
                    if leave.probe {
                        tell_of_the_breaker(&mut answers);
                    }
                    answers
                }
                Err(waited) => {
                    flight.judge(Outcome::TimedOut(waited));
                    let backend = flight.breaker.stats.backend;
                    let error = OpError {
                        backend,
                        kind: OpErrorKind::Timeout,
                        in_doubt: does != Does::Read,
                        detail: String::new(),
                    };
                    vec_of_errors(keys, &error)
                }
            };
            flight.breaker.stats.count(&answers);
            answers
        }
        .boxed()
    }

    fn refuse<T: Send + 'static>(&self, keys: usize, kind: OpErrorKind) -> BoxFuture<'static, Answers<T>> {
        let stats = &self.breaker.stats;
        stats.errors[kind.index()].fetch_add(keys as u64, Relaxed);
        ready(vec_of_errors(keys, &OpError::not_done(stats.backend, kind, String::new()))).boxed()
    }

    /// One batch always fits, however long, when nothing else waits.
    fn take_place(&self, bytes: usize) -> Option<Place> {
        let batches = self.waiting.batches.load(Relaxed);
        let waiting = self.waiting.bytes.load(Relaxed);
        if batches > 0 && (batches >= self.max_batches || waiting.saturating_add(bytes) > self.max_bytes) {
            return None;
        }
        Some(Place::take(self.waiting.clone(), self.breaker.stats.clone(), bytes))
    }
}

/// A probe that could not even be sent: what its keys met is the open breaker.
fn tell_of_the_breaker<T>(answers: &mut Answers<T>) {
    let errors = answers.iter_mut().filter_map(|answer| answer.as_mut().err());
    for error in errors.filter(|error| error.kind == OpErrorKind::Disconnected && !error.in_doubt) {
        error.kind = OpErrorKind::BreakerOpen;
    }
}

/// One error for every key.
pub(crate) fn vec_of_errors<T>(keys: usize, error: &OpError) -> Answers<T> {
    (0..keys).map(|_| Err(error.clone())).collect()
}

fn judge_answers<T>(answers: &Answers<T>, latency: Duration) -> Outcome {
    let blamed = answers.iter().filter_map(|answer| answer.as_ref().err().filter(|e| e.blames_server()));
    let last = blamed.clone().last().filter(|_| blamed.count() * 2 > answers.len());
    match last {
        Some(OpError { kind: OpErrorKind::Timeout, .. }) => Outcome::TimedOut(latency),
        Some(error) => Outcome::Failed(error.kind, error.detail.clone()),
        _ if answers.iter().all(|answer| matches!(answer, Err(e) if e.kind == OpErrorKind::Overloaded)) => {
            Outcome::Abandoned
        }
        _ => Outcome::Answered(latency),
    }
}

/// The deadline that takes the place of `until`, where the session got an answer meanwhile; `None`: it is over.
fn extended(until: Instant, answered: Option<Instant>, patience: Duration, end: Instant) -> Option<Instant> {
    let later = end.min(answered? + patience);
    (later > until).then_some(later)
}

/// A batch that was admitted; dropping it unjudged gives a probe back.
struct Flight {
    breaker: Arc<Breaker>,
    heard: Arc<Heard>,
    leave: Leave,
    _place: Place,
    judged: bool,
}

impl Flight {
    /// Waits for the answers until the deadline, and as long again from each answer that the session gets meanwhile; not
    /// beyond `end`. The error is how long that was.
    async fn wait<T>(
        &self,
        mut answers: BoxFuture<'static, Answers<T>>,
        began: Instant,
        end: Instant,
    ) -> Result<Answers<T>, Duration> {
        let mut until = end.min(began + self.leave.deadline);
        loop {
            if let Ok(answers) = tokio::time::timeout_at(until.into(), &mut answers).await {
                return Ok(answers);
            }
            // Where this thread was busy elsewhere, the answer may be there and not have been read.
            tokio::task::yield_now().await;
            if let Some(answers) = (&mut answers).now_or_never() {
                return Ok(answers);
            }
            match extended(until, self.heard.last(), self.leave.deadline, end) {
                Some(later) => until = later,
                None => return Err(until.saturating_duration_since(began)),
            }
        }
    }

    fn judge(&mut self, outcome: Outcome) {
        self.judged = true;
        let now = Instant::now();
        if matches!(outcome, Outcome::Answered(_)) {
            self.heard.note(now);
        }
        self.breaker.record(now, self.leave, outcome);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.judged {
            self.judge(Outcome::Abandoned);
        }
    }
}

/// Batches and bytes of one batch in flight, given back on drop.
struct Place {
    waiting: Arc<Waiting>,
    stats: Arc<GuardStats>,
    bytes: usize,
}

impl Place {
    fn take(waiting: Arc<Waiting>, stats: Arc<GuardStats>, bytes: usize) -> Place {
        waiting.batches.fetch_add(1, Relaxed);
        waiting.bytes.fetch_add(bytes, Relaxed);
        stats.batches_in_flight.fetch_add(1, Relaxed);
        stats.bytes_in_flight.fetch_add(bytes, Relaxed);
        Place { waiting, stats, bytes }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiting.batches.fetch_sub(1, Relaxed);
        self.waiting.bytes.fetch_sub(self.bytes, Relaxed);
        self.stats.batches_in_flight.fetch_sub(1, Relaxed);
        self.stats.bytes_in_flight.fetch_sub(self.bytes, Relaxed);
    }
}

impl<S: Session> Session for Guarded<S> {
    fn claim(
        &self,
        batch: KeyValues,
        ttl: Duration,
        deadline: Instant,
    ) -> BoxFuture<'static, Answers<Claimed>> {
        self.run(batch, deadline, Does::Write, |session, batch, deadline| session.claim(batch, ttl, deadline))
    }
    fn set(&self, batch: KeyValues, ttl: Duration, deadline: Instant) -> BoxFuture<'static, Answers<()>> {
        self.run(batch, deadline, Does::Write, |session, batch, deadline| session.set(batch, ttl, deadline))
    }
    fn get(&self, keys: KeyValues, deadline: Instant) -> BoxFuture<'static, Answers<Option<Bytes>>> {
        self.run(keys, deadline, Does::Read, |session, keys, deadline| session.get(keys, deadline))
    }
    fn del(&self, keys: KeyValues, deadline: Instant) -> BoxFuture<'static, Answers<bool>> {
        self.run(keys, deadline, Does::Delete, |session, keys, deadline| session.del(keys, deadline))
    }
    fn distrust(&self) {
        self.session.distrust();
    }
    fn is_down(&self) -> bool {
        self.session.is_down()
    }
    fn heard(&self) -> Option<Arc<Heard>> {
        Some(self.heard.clone())
    }
    fn answers_in_parts(&self) -> bool {
        self.session.answers_in_parts()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::pending;

    fn settings() -> RemoteSettings {
        RemoteSettings { max_batches: 2, max_bytes: 100, ..RemoteSettings::for_claims() }
    }

    fn breaker() -> Arc<Breaker> {
        Breaker::new("test", "server", &settings())
    }

    const MS: Duration = Duration::from_millis(1);
    const TIMED_OUT: Outcome = Outcome::TimedOut(MS);

    fn answered(breaker: &Breaker, now: Instant, latency: Duration, times: u32) {
        for _ in 0..times {
            let leave = breaker.admit(now, Does::Write).expect("closed");
            breaker.record(now, leave, Outcome::Answered(latency));
        }
    }

    /// Opens at `now`, after failures that began some time before.
    fn open(breaker: &Breaker, now: Instant) {
        for before in [60, 30, 0] {
            let then = now - before * MS;
            let leave = breaker.admit(then, Does::Write).expect("closed");
            breaker.record(then, leave, TIMED_OUT);
        }
        assert_eq!(breaker.stats.state(), BreakerState::Open);
    }

    #[test]
    fn a_run_of_failures_opens_and_an_answer_between_them_starts_the_run_anew() {
        let (breaker, now) = (breaker(), Instant::now());
        for _ in 0..10 {
            for _ in 0..2 {
                let leave = breaker.admit(now, Does::Write).unwrap();
                breaker.record(now, leave, Outcome::Failed(OpErrorKind::Refused, String::new()));
            }
            answered(&breaker, now, MS, 1);
        }
        assert_eq!(breaker.stats.state(), BreakerState::Closed);
        open(&breaker, now);
        assert_eq!(breaker.admit(now, Does::Write), None);
        assert_eq!(breaker.stats.transitions(BreakerState::Open), 1);
    }

    #[test]
    fn one_hiccup_under_many_batches_does_not_open() {
        let (breaker, now) = (breaker(), Instant::now());
        let leaves: Vec<_> = (0..20).map(|_| breaker.admit(now, Does::Write).unwrap()).collect();
        for (at, leave) in leaves.into_iter().enumerate() {
            breaker.record(now + MS * u32::try_from(at).unwrap(), leave, TIMED_OUT);
        }
        assert_eq!(breaker.stats.state(), BreakerState::Closed);
        let leave = breaker.admit(now, Does::Write).unwrap();
        breaker.record(now + 25 * MS, leave, TIMED_OUT);
        assert_eq!(breaker.stats.state(), BreakerState::Open);
    }

    #[test]
    fn the_loss_of_connections_is_one_failure_however_many_batches_waited() {
        let (breaker, now) = (breaker(), Instant::now());
        let lost = Outcome::Failed(OpErrorKind::Disconnected, String::new());
        for cut in 0..2 {
            let began = now + cut * 200 * MS;
            let leaves: Vec<_> = (0..20).map(|_| breaker.admit(began, Does::Write).unwrap()).collect();
            for (at, leave) in (0..).zip(leaves) {
                breaker.record(began + 30 * MS + at * MS, leave, lost.clone());
            }
        }
        assert_eq!(breaker.stats.state(), BreakerState::Closed, "two cuts");
        let leave = breaker.admit(now + 400 * MS, Does::Write).unwrap();
        breaker.record(now + 401 * MS, leave, lost);
        assert_eq!(breaker.stats.state(), BreakerState::Open, "the third in a row");
    }

    #[test]
    fn a_dial_that_saw_a_quick_write_closes_and_a_slow_one_asks_for_a_probe() {
        let (breaker, now) = (breaker(), Instant::now());
        open(&breaker, now);
        breaker.proved(51 * MS);
        assert_eq!(breaker.stats.state(), BreakerState::Open);
        assert!(breaker.admit(Instant::now(), Does::Write).is_some_and(|leave| leave.probe));
        breaker.proved(50 * MS);
        assert_eq!(breaker.stats.state(), BreakerState::Closed);
    }

    #[test]
    fn after_a_pause_one_probe_goes_and_its_answer_closes() {
        let (breaker, now) = (breaker(), Instant::now());
        open(&breaker, now);
        let later = now + PAUSE_MIN;
        let probe = breaker.admit(later, Does::Write).unwrap();
        assert!(probe.probe);
        assert_eq!(breaker.admit(later, Does::Write), None, "one probe at a time");
        breaker.record(later, probe, Outcome::Answered(MS));
        assert_eq!(breaker.stats.state(), BreakerState::Closed);
        assert!(breaker.admit(later, Does::Write).is_some());
    }

    #[test]
    fn pauses_grow_while_probes_fail_and_stay_bounded() {
        let (breaker, mut now) = (breaker(), Instant::now());
        open(&breaker, now);
        for _ in 0..20 {
            now += PAUSE_MAX.mul_f64(1.25);
            let probe = breaker.admit(now, Does::Write).expect("a pause is never longer than the bound");
            breaker.record(now, probe, TIMED_OUT);
            assert_eq!(breaker.admit(now + PAUSE_MIN, Does::Write), None);
        }
    }

    #[test]
    fn a_probe_that_its_caller_dropped_is_given_back_at_once() {
        let (breaker, now) = (breaker(), Instant::now());
        open(&breaker, now);
        let later = now + PAUSE_MIN;
        let probe = breaker.admit(later, Does::Write).unwrap();
        breaker.record(later, probe, Outcome::Abandoned);
        assert!(breaker.admit(later, Does::Write).is_some_and(|leave| leave.probe));
    }

    #[test]
    fn late_answers_of_old_batches_do_not_close_an_open_breaker() {
        let (breaker, now) = (breaker(), Instant::now());
        let old = breaker.admit(now, Does::Write).unwrap();
        open(&breaker, now);
        breaker.record(now, old, Outcome::Answered(MS));
        assert_eq!(breaker.stats.state(), BreakerState::Open);
    }

    /// A server that takes no writes and answers everything else.
    fn refuses(breaker: &Breaker, now: Instant) {
        for before in [60, 30, 0] {
            let then = now - before * MS;
            let write = breaker.admit(then, Does::Write).expect("closed");
            breaker.record(then, write, Outcome::Failed(OpErrorKind::Refused, String::new()));
            for does in [Does::Read, Does::Delete] {
                let Some(other) = breaker.admit(then, does) else { continue };
                breaker.record(then, other, Outcome::Answered(MS));
            }
        }
    }

    #[test]
    fn a_server_that_refuses_writes_is_given_up_although_it_answers_reads_and_deletes() {
        let (breaker, now) = (breaker(), Instant::now());
        refuses(&breaker, now);
        assert_eq!(breaker.stats.state(), BreakerState::Open);
        let later = now + PAUSE_MIN;
        assert_eq!(breaker.admit(later, Does::Read), None, "no read is a probe");
        assert_eq!(breaker.admit(later, Does::Delete), None);
        let probe = breaker.admit(later, Does::Write).unwrap();
        assert!(probe.probe);
        breaker.record(later, probe, Outcome::Answered(MS));
        assert_eq!(breaker.stats.state(), BreakerState::Closed);
    }

    #[test]
    fn where_reads_are_of_use_they_go_on_while_writes_are_refused() {
        let settings = RemoteSettings { op_timeout: 50 * MS, ..RemoteSettings::for_frames() };
        let (breaker, now) = (Breaker::new("test", "server", &settings), Instant::now());
        refuses(&breaker, now);
        assert_eq!(breaker.stats.state(), BreakerState::Open);
        assert!(breaker.admit(now, Does::Read).is_some_and(|leave| !leave.probe));
        let later = now + PAUSE_MIN;
        let probe = breaker.admit(later, Does::Write).unwrap();
        assert!(breaker.admit(later, Does::Read).is_some_and(|leave| !leave.probe));
        breaker.record(later, probe, TIMED_OUT);
        assert_eq!(breaker.admit(later, Does::Read), None, "now it does not answer at all");
    }

    #[test]
    fn a_server_that_failed_reads_only_is_proved_by_a_read() {
        let (breaker, now) = (breaker(), Instant::now());
        for before in [60, 30, 0] {
            let then = now - before * MS;
            let read = breaker.admit(then, Does::Read).expect("closed");
            breaker.record(then, read, TIMED_OUT);
        }
        let later = now + PAUSE_MIN;
        let probe = breaker.admit(later, Does::Read).unwrap();
        breaker.record(later, probe, Outcome::Answered(MS));
        assert_eq!(breaker.stats.state(), BreakerState::Closed);
    }

    #[test]
    fn the_deadline_follows_the_p99_between_floor_and_cap() {
        let (breaker, now) = (breaker(), Instant::now());
        let deadline = || breaker.stats.deadline();
        assert_eq!(deadline(), 50 * MS, "nothing known yet");
        answered(&breaker, now, MS / 10, 64);
        assert_eq!(deadline(), 5 * MS, "the floor");
        answered(&breaker, now, 3 * MS, 64);
        assert!((12 * MS..16 * MS).contains(&deadline()), "{:?}", deadline());
        answered(&breaker, now, 40 * MS, 64);
        assert_eq!(deadline(), 50 * MS, "the cap");
        for second in 1..4 {
            answered(&breaker, now + Duration::from_secs(second), MS / 10, 64);
        }
        assert_eq!(deadline(), 5 * MS, "what was slow is forgotten");
    }

    #[test]
    fn a_server_that_became_slower_gets_more_time_instead_of_timing_out_for_ever() {
        let (breaker, now) = (breaker(), Instant::now());
        answered(&breaker, now, MS / 10, 64);
        let mut rounds = 0;
        // It now needs 12 ms. The breaker may open meanwhile; its probes get the whole cap.
        while breaker.stats.deadline() < 12 * MS {
            rounds += 1;
            assert!(rounds < 1000, "the deadline stays at {:?}", breaker.stats.deadline());
            let now = now + rounds * PAUSE_MAX * 2;
            let Some(leave) = breaker.admit(now, Does::Write) else { continue };
            let outcome = match leave.deadline < 12 * MS {
                true => Outcome::TimedOut(leave.deadline),
                false => Outcome::Answered(12 * MS),
            };
            breaker.record(now, leave, outcome);
        }
    }

    #[test]
    fn every_latency_lies_below_the_edge_of_its_step_and_bucket() {
        for us in (1..100_000).chain([1 << 24, (1 << 24) + 1]) {
            assert!(Percentile::edge(Percentile::step(us)) > us);
            assert!(us < 4 || Percentile::edge(Percentile::step(us)) <= us + us / 4 + 1);
            let latency = Latency::default();
            latency.observe(Duration::from_micros(us));
            let bucket = latency.counts().iter().position(|&count| count == 1).unwrap();
            assert!(Latency::edge(bucket).is_none_or(|edge| edge >= Duration::from_micros(us)));
            assert!(
                bucket == 0 || Latency::edge(bucket - 1).is_some_and(|edge| edge < Duration::from_micros(us))
            );
        }
    }

    /// Never answers.
    struct Stopped;
    impl Session for Stopped {
        fn claim(&self, _: KeyValues, _: Duration, _: Instant) -> BoxFuture<'static, Answers<Claimed>> {
            pending().boxed()
        }
        fn set(&self, _: KeyValues, _: Duration, _: Instant) -> BoxFuture<'static, Answers<()>> {
            pending().boxed()
        }
        fn get(&self, _: KeyValues, _: Instant) -> BoxFuture<'static, Answers<Option<Bytes>>> {
            pending().boxed()
        }
        fn del(&self, _: KeyValues, _: Instant) -> BoxFuture<'static, Answers<bool>> {
            pending().boxed()
        }
    }

    fn keys(count: usize) -> KeyValues {
        let mut keys = KeyValues::new();
        (0..count).for_each(|i| keys.push(format!("key-{i:06}").as_bytes(), b""));
        keys
    }

    fn kinds<T>(answers: &Answers<T>) -> Vec<(OpErrorKind, bool)> {
        answers.iter().filter_map(|answer| answer.as_ref().err().map(|e| (e.kind, e.in_doubt))).collect()
    }

    #[tokio::test]
    async fn a_stopped_server_costs_a_few_deadlines_and_then_nothing() {
        let breaker = breaker();
        let session = Guarded::new(Stopped, breaker.clone(), &settings());
        let far = Instant::now() + Duration::from_secs(3600);
        for _ in 0..3 {
            let answers = session.claim(keys(2), Duration::ZERO, far).await;
            assert_eq!(kinds(&answers), [(OpErrorKind::Timeout, true); 2]);
        }
        let answers = session.get(keys(2), far).now_or_never().expect("answered at once");
        assert_eq!(kinds(&answers), [(OpErrorKind::BreakerOpen, false); 2]);
        assert_eq!(breaker.stats.errors(OpErrorKind::Timeout), 6);
        assert_eq!(breaker.stats.batches_in_flight(), 0);
    }

    #[test]
    fn a_batch_behind_others_is_late_only_if_they_are() {
        let (began, patience) = (Instant::now(), 5 * MS);
        let end = began + 50 * MS;
        let mut until = began + patience;
        // One answer every three milliseconds: a burst after a calm.
        for answer in 1..20 {
            let answered = began + answer * 3 * MS;
            if answered < until {
                until = extended(until, Some(answered), patience, end).unwrap_or(until);
            }
        }
        assert_eq!(until, end, "the operation timeout is the end of all patience");
        assert_eq!(extended(until, Some(until), patience, end), None);
        assert_eq!(extended(began + patience, None, patience, end), None, "nothing was answered");
        assert_eq!(extended(began + patience, Some(began), patience, end), None, "or not lately");
    }

    #[tokio::test]
    async fn what_waits_is_bounded_in_batches_and_bytes() {
        let breaker = breaker();
        let session = Guarded::new(Stopped, breaker.clone(), &settings());
        let far = Instant::now() + Duration::from_secs(3600);
        let first = session.claim(keys(20), Duration::ZERO, far);
        assert_eq!(breaker.stats.bytes_in_flight(), 200, "one batch always fits");
        let refused = session.claim(keys(1), Duration::ZERO, far).now_or_never().unwrap();
        assert_eq!(kinds(&refused), [(OpErrorKind::Overloaded, false)]);
        drop(first);
        let _first = session.claim(keys(1), Duration::ZERO, far);
        let _second = session.claim(keys(1), Duration::ZERO, far);
        let refused = session.claim(keys(1), Duration::ZERO, far).now_or_never().unwrap();
        assert_eq!(kinds(&refused), [(OpErrorKind::Overloaded, false)]);
        assert_eq!(breaker.stats.state(), BreakerState::Closed);
    }
}
