//! The claim protocol of one worker (design section 4), as a pure state machine.

use crate::{ClaimKey, LocalSet};
use cache_backend::{KeyValues, Memory};
use std::collections::VecDeque;
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

/// One worker's claims. First cut: tier 1, and `memory` in simple mode.
pub struct Claims {
    config: ClaimsConfig,
    local: Arc<LocalSet>,
    slab: Vec<Option<ClaimKey>>,
    free: Vec<usize>,
    queue: VecDeque<(ClaimKey, Token)>,
    decisions: VecDeque<Decision>,
}

impl Claims {
    /// `seed`: random per worker and start.
    pub fn new(config: ClaimsConfig, local: Arc<LocalSet>, _seed: u64) -> Claims {
        Claims {
            config,
            local,
            slab: Vec::new(),
            free: Vec::new(),
            queue: VecDeque::new(),
            decisions: VecDeque::new(),
        }
    }

    fn ticket(&mut self, key: ClaimKey) -> Ticket {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slab.push(None);
            self.slab.len() - 1
        });
        self.slab[index] = Some(key);
        Ticket(index as u64)
    }

    fn take(&mut self, ticket: Ticket) -> Option<ClaimKey> {
        let index = usize::try_from(ticket.0).ok()?;
        let key = self.slab.get_mut(index)?.take()?;
        self.free.push(index);
        Some(key)
    }

    /// First sight or not, in one batch. `bytes` is what a waiting frame costs (parking is bounded in bytes).
    /// One verdict per entry is appended to `out`.
    pub fn claim(&mut self, now: Instant, batch: &[(ClaimKey, Token, u32)], out: &mut Vec<Verdict>) {
        let local = Arc::clone(&self.local);
        local.insert_each(
            batch,
            |(key, ..)| key,
            now,
            |i, is_new| {
                let (key, token, _) = batch[i];
                out.push(match (is_new, self.config.tier2) {
                    (false, _) => Verdict::Seen,
                    (true, false) => Verdict::Won(self.ticket(key)),
                    (true, true) => {
                        self.queue.push_back((key, token));
                        Verdict::Wait
                    }
                });
            },
        );
    }

    pub(crate) fn run(&mut self, memory: &Memory, now: Instant) {
        let mut batch = KeyValues::new();
        let waiting: Vec<_> = self.queue.drain(..).collect();
        for (key, _) in &waiting {
            let mut name = self.config.prefix.clone();
            name.extend_from_slice(key.class.label().as_bytes());
            name.extend_from_slice(&key.id);
            batch.push(&name, b"1");
        }
        let mut answers = Vec::new();
        if !batch.is_empty() {
            memory.claim(&batch, self.config.ttl, now, &mut answers);
        }
        for ((key, token), answer) in waiting.into_iter().zip(answers) {
            let decision = match answer {
                cache_backend::Claimed::Created => {
                    Decision::Send { token, ticket: self.ticket(key), why: Why::Won }
                }
                cache_backend::Claimed::Exists(_) => Decision::Suppress { token, why: Why::Exists },
            };
            self.decisions.push_back(decision);
        }
    }

    /// The frame of `ticket` was handed over (taken by the kernel on every emit interface).
    pub fn sent(&mut self, _now: Instant, ticket: Ticket) {
        self.take(ticket);
    }
    /// The frame of `ticket` cannot be sent: releases the claim in both tiers.
    pub fn failed(&mut self, _now: Instant, ticket: Ticket) {
        if let Some(key) = self.take(ticket) {
            self.local.remove(&key);
        }
    }
    /// Next decision about a waiting frame.
    pub fn next_decision(&mut self) -> Option<Decision> {
        self.decisions.pop_front()
    }
    /// When `on_timeout` wants to be called next.
    pub fn next_timeout(&self) -> Option<Instant> {
        None
    }
    /// Time has passed.
    pub fn on_timeout(&mut self, _now: Instant) {}
    /// From now on nothing is parked: what waits is sent.
    pub fn drain(&mut self, _now: Instant) {}
}
