//! A process and its workers, each with its claims and its calls to the store.

use crate::random::Random;
use crate::store_calls::{Calls, StoreLink};
use std::sync::Arc;
use std::time::Duration;
use txidset::mutation::Mutation;
use txidset::{ClaimKey, Claims, ClaimsConfig, Class, KeyStyle, LocalSet, Names};

pub(super) const LEASE: Duration = Duration::from_millis(250);
/// Longer than any world lasts.
pub(super) const TTL: Duration = Duration::from_secs(5);
pub(super) const FRAME_BYTES: u32 = 100;
const PREFIX: &[u8] = b"t:";

/// A process.
pub(super) struct Node {
    pub(super) alive: bool,
    pub(super) accepting: bool,
    pub(super) incarnation: u32,
    pub(super) paused_until: u64,
    pub(super) refusing_until: u64,
    pub(super) link: StoreLink,
    /// Added to what its clock shows; means something only where the lease is measured with it.
    pub(super) clock_step: u64,
}

impl Node {
    pub(super) fn new(incarnation: u32) -> Node {
        Node {
            alive: true,
            accepting: true,
            incarnation,
            paused_until: 0,
            refusing_until: 0,
            link: StoreLink::default(),
            clock_step: 0,
        }
    }

    /// This life of the process is over.
    pub(super) fn leave(&mut self) {
        self.alive = false;
        self.incarnation += 1;
        self.paused_until = 0;
    }
}

/// A worker of a process, with its connection to the store.
pub(super) struct Worker {
    pub(super) node: usize,
    pub(super) claims: Claims,
    frames: Vec<Copied>,
    pub(super) calls: Calls,
    pub(super) timer: Option<u64>,
    pub(super) seed: u64,
}

/// A copy of an id, in the worker's hands.
#[derive(Clone, Copy)]
pub(super) struct Copied {
    pub(super) id: usize,
    /// Which of the id's copies.
    pub(super) copy: usize,
}

impl Worker {
    /// `seed`: the one of its former life, where it is to come back as the same owner.
    pub(super) fn new(
        node: usize,
        local: &Arc<LocalSet>,
        park_bytes: usize,
        seed: Option<u64>,
        mutation: Option<Mutation>,
        random: &mut Random,
    ) -> Worker {
        let seed = seed.unwrap_or_else(|| random.next());
        let config = ClaimsConfig {
            ttl: TTL,
            lease: LEASE,
            park_bytes,
            max_batch: if random.percent(20) { 3 } else { 64 },
            prefix: PREFIX.to_vec(),
            keys: KeyStyle::Compact,
            tier2: true,
            ..ClaimsConfig::default()
        };
        let mut claims = Claims::new(config, Arc::clone(local), seed).limit_waiting(30, 1 << 20);
        if let Some(mutation) = mutation {
            claims.mutate(mutation);
        }
        Worker { node, claims, frames: Vec::new(), calls: Calls::default(), timer: None, seed }
    }

    /// The token of the next copy.
    pub(super) fn next_token(&self) -> u64 {
        self.frames.len() as u64
    }

    /// Keeps a copy under the next token.
    pub(super) fn keep(&mut self, copied: Copied) {
        self.frames.push(copied);
    }

    /// The copy of a token.
    #[allow(clippy::cast_possible_truncation, reason = "tokens number the frames of a worker")]
    pub(super) fn copied(&self, token: u64) -> Copied {
        self.frames[token as usize]
    }
}

/// How claims and records are named in the store.
pub(super) fn names() -> Names {
    Names::new(PREFIX, KeyStyle::Compact)
}

/// A transaction whose first eight bytes are its number.
pub(super) fn key(id: usize) -> ClaimKey {
    let mut bytes = [0xA5; 32];
    bytes[..8].copy_from_slice(&first_bytes(id));
    ClaimKey { class: Class::Tx, id: bytes }
}

/// The name of its claim in the store.
pub(super) fn name_of(id: usize) -> Vec<u8> {
    let mut name = Vec::new();
    names().claim(&key(id), &[], &mut name);
    name
}

pub(super) fn first_bytes(id: usize) -> [u8; 8] {
    (id as u64).to_le_bytes()
}

#[allow(clippy::cast_possible_truncation, reason = "ids are numbered from zero")]
pub(super) fn id_of(first: [u8; 8]) -> usize {
    u64::from_le_bytes(first) as usize
}
