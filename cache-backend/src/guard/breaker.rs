//! Judges one server.

use super::percentile::Percentile;
use super::stats::{BreakerState, GuardStats, micros};
use crate::{OpErrorKind, RemoteSettings};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::{debug, info, warn};

/// Deadline = this multiple of the observed p99.
const DEADLINE_FACTOR: u32 = 4;
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How a batch ended, as far as the server is to blame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Answered(Duration),
    TimedOut(Duration),
    /// And what was said about it.
    Failed(OpErrorKind, String),
    /// The caller dropped the future: nothing was learnt.
    Abandoned,
}

/// What a batch does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Does {
    /// Claims and sets: what a server must do to be worth asking.
    Write,
    /// A server that takes no writes may still do this.
    Delete,
    Read,
}

/// Leave to send one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leave {
    since: Instant,
    pub(super) deadline: Duration,
    pub(super) probe: bool,
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
    /// For one server of a backend: `server` is what metrics and logs call it. Sessions of all workers share it.
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

    /// The longest that any batch may wait.
    pub(super) fn longest(&self) -> Duration {
        self.cap
    }

    fn judge(&self) -> MutexGuard<'_, Judge> {
        self.judge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` while the breaker is open.
    pub(super) fn admit(&self, now: Instant, does: Does) -> Option<Leave> {
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
        self.stats.enter(BreakerState::HalfOpen);
        debug!(backend = self.stats.backend(), server = self.stats.server(), "breaker sends a probe");
        Some(Leave { deadline: self.cap, probe: true, ..leave })
    }

    /// A start without this server ([`BootPolicy::Degraded`](crate::BootPolicy::Degraded)): it is not asked until it was seen
    /// to work.
    pub fn begin_open(&self) {
        let (mut judge, now) = (self.judge(), Instant::now());
        judge.opened = Some(now);
        self.open(&mut judge, now, PAUSE_MIN, Cause::default());
    }

    /// A dial that began at `began` failed: one failure, however many workers dialled meanwhile.
    pub fn dial_failed(&self, began: Instant) {
        let leave = Leave { since: began, deadline: self.cap, probe: false, does: Does::Read };
        let outcome = Outcome::Failed(OpErrorKind::Disconnected, "no connection".to_owned());
        self.record(Instant::now(), leave, outcome);
    }

    /// A dial saw the server take a write and answer it, all within `took`: closes the breaker where that is no longer than an
    /// operation timeout, else lets a probe go at once.
    pub fn proved(&self, took: Duration) {
        let (mut judge, now) = (self.judge(), Instant::now());
        match judge.phase {
            Phase::Closed { .. } => {}
            Phase::Open { .. } | Phase::HalfOpen { .. } if took <= self.cap => self.close(&mut judge, now),
            Phase::Open { cause, .. } => judge.phase = Phase::Open { until: now, cause },
            Phase::HalfOpen { .. } => {}
        }
    }

    pub(super) fn record(&self, now: Instant, leave: Leave, outcome: Outcome) {
        let mut judge = self.judge();
        match outcome {
            Outcome::Answered(latency) => {
                self.stats.latency().observe(latency);
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
            self.stats.set_deadline(deadline);
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
        self.stats.enter(BreakerState::Closed);
        let open = judge.opened.take().map_or(Duration::ZERO, |opened| now.duration_since(opened));
        info!(
            backend = self.stats.backend(),
            server = self.stats.server(),
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
                    backend = self.stats.backend(),
                    server = self.stats.server(),
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
        self.stats.enter(BreakerState::Open);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
