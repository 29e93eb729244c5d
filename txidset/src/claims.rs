//! The claim protocol of one worker (design section 4), as a pure state machine.

use crate::{ClaimKey, LocalSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The caller's name for a frame that waits: opaque here.
pub type Token = u64;

/// A claim that was won (or failed open) and must be answered with `sent` or `failed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// What tier 1 says at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Seen before: suppress.
    Seen,
    /// Ours without asking (no tier 2, or it is bypassed): send.
    Won(Ticket),
    /// Tier 2 is being asked: keep the frame under its token until a `Decision` names it.
    Wait,
}

/// Why a frame is let through or held back; labels of the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    Won,
    TakenOver,
    /// No answer in time, error, or an answer that cannot be believed.
    InDoubt,
    BreakerOpen,
    Bypassed,
    ParkingFull,
    Draining,
    /// Suppressed: another owner has it and it is settled.
    Settled,
    /// Suppressed: a plain value (Go node, or simple mode).
    Exists,
}

/// Fate of a frame that waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Send { token: Token, ticket: Ticket, why: Why },
    Suppress { token: Token, why: Why },
}

/// `--claim-mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Settled claims.
    Settled,
    /// The Go behaviour: one SETNX, never released by a crash.
    Simple,
}

/// Settings of the protocol.
#[derive(Clone, Debug)]
pub struct ClaimsConfig {
    pub mode: Mode,
    pub epoch: Duration,
    pub lease: Duration,
    pub ttl: Duration,
    pub park_bytes: usize,
    pub max_batch: usize,
    pub prefix: Vec<u8>,
    pub tier2: bool,
}

/// One worker's claims.
pub struct Claims {
    _local: Arc<LocalSet>,
}

impl Claims {
    pub fn new(_config: ClaimsConfig, _local: Arc<LocalSet>, _seed: u64) -> Claims {
        unimplemented!()
    }
    /// First sight or not, in one batch. `bytes` is what a waiting frame costs (parking is bounded in bytes).
    /// One verdict per entry is appended to `out`.
    pub fn claim(&mut self, _now: Instant, _batch: &[(ClaimKey, Token, u32)], _out: &mut Vec<Verdict>) {
        unimplemented!()
    }
    /// The frame of `ticket` was handed over (taken by the kernel on every emit interface).
    pub fn sent(&mut self, _now: Instant, _ticket: Ticket) {
        unimplemented!()
    }
    /// The frame of `ticket` cannot be sent: releases the claim in both tiers.
    pub fn failed(&mut self, _now: Instant, _ticket: Ticket) {
        unimplemented!()
    }
    /// Next decision about a waiting frame.
    pub fn next_decision(&mut self) -> Option<Decision> {
        unimplemented!()
    }
    /// When `on_timeout` wants to be called next.
    pub fn next_timeout(&self) -> Option<Instant> {
        unimplemented!()
    }
    pub fn on_timeout(&mut self, _now: Instant) {
        unimplemented!()
    }
    /// From now on nothing is parked: what waits is sent.
    pub fn drain(&mut self, _now: Instant) {
        unimplemented!()
    }
}
