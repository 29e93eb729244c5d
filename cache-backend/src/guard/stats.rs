//! What is counted of one server.

use super::latency::Latency;
use crate::{OpError, OpErrorKind};
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

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
    pub(super) fn new(backend: &'static str, server: String, deadline: Duration) -> GuardStats {
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
    ///
    /// # Errors
    /// [`OpErrorKind::BreakerOpen`]; for [`Backend::healthy`](crate::Backend::healthy).
    pub fn closed(&self) -> Result<(), OpError> {
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

    pub(super) fn enter(&self, state: BreakerState) {
        self.state.store(state as u8, Relaxed);
        self.transitions[state as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn set_deadline(&self, deadline: Duration) {
        self.deadline_us.store(micros(deadline), Relaxed);
    }

    pub(super) fn began(&self, bytes: usize) {
        self.batches_in_flight.fetch_add(1, Relaxed);
        self.bytes_in_flight.fetch_add(bytes, Relaxed);
    }

    pub(super) fn ended(&self, bytes: usize) {
        self.batches_in_flight.fetch_sub(1, Relaxed);
        self.bytes_in_flight.fetch_sub(bytes, Relaxed);
    }

    pub(super) fn refused(&self, keys: usize, kind: OpErrorKind) {
        self.errors[kind.index()].fetch_add(keys as u64, Relaxed);
    }

    pub(super) fn count<T>(&self, answers: &[Result<T, OpError>]) {
        let mut failed = 0;
        for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            failed += 1;
            self.errors[error.kind.index()].fetch_add(1, Relaxed);
        }
        self.answered.fetch_add((answers.len() - failed) as u64, Relaxed);
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
