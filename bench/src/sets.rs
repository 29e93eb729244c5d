//! Tier 1 against what a user would take instead: `claim_batch`, `claim_scaling`, `claim_memory`.
//!
//! A claim is one id looked up and, where it is new, inserted; three of ten ids repeat a recent one. The sets are filled
//! first, so every insertion also evicts. Own set and `lru` take turns, so that drift of the machine cancels.

use crate::budget::Budget;
use crate::row::{Bar, Row, median};
use multicast_io::thread_time;
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::sync::{Barrier, Mutex, PoisonError};
use std::time::{Duration, Instant};
use txidset::{ClaimKey, Class, LocalSet};

const ENTRIES: usize = 1 << 20;
const BATCH: usize = 32;
const SHARDS: usize = 64;
/// Share of the capacity that transactions get.
const CAPACITY: usize = ENTRIES * 64 / 56;

/// `lru` in 64 shards: no times, no classes.
pub struct Lru {
    hasher: RandomState,
    shards: Vec<Mutex<lru::LruCache<[u8; 32], ()>>>,
}

impl Lru {
    /// Room for `entries`.
    pub fn new(entries: usize) -> Lru {
        let each = NonZeroUsize::new(entries / SHARDS).unwrap_or(NonZeroUsize::MIN);
        let shards = (0..SHARDS).map(|_| Mutex::new(lru::LruCache::new(each))).collect();
        Lru { hasher: RandomState::new(), shards }
    }

    /// True where the id is new.
    pub fn insert(&self, id: &[u8; 32]) -> bool {
        #[allow(clippy::cast_possible_truncation, reason = "any bits will do")]
        let shard = self.hasher.hash_one(id) as usize % SHARDS;
        let mut shard = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
        shard.put(*id, ()).is_none()
    }
}

/// A key that looks like an id.
pub fn key(n: u64) -> ClaimKey {
    let mut id = [0; 32];
    for (i, word) in (0_u64..).zip(id.chunks_mut(8)) {
        word.copy_from_slice(&mix(n.wrapping_mul(4).wrapping_add(i)).to_le_bytes());
    }
    ClaimKey { class: Class::Tx, id }
}

fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ z >> 31
}

/// New ids from `first` on, and in three of ten places a repeat of one of the last 64 Ki.
pub fn traffic(first: u64, n: usize) -> Vec<ClaimKey> {
    let mut fresh = first;
    (0..n as u64)
        .map(|i| {
            let random = mix(first ^ i);
            if random % 10 < 3 && fresh > first {
                let back = random / 10 % (fresh - first).min(1 << 16);
                return key(fresh - 1 - back);
            }
            fresh += 1;
            key(fresh - 1)
        })
        .collect()
}

/// CPU nanoseconds a claim in batches on this thread: who else uses the machine does not matter.
fn cpu(first: u64, claims: usize, claim: impl Fn(&[ClaimKey])) -> f64 {
    let keys = traffic(first, claims);
    let start = thread_time().unwrap_or_default();
    keys.chunks(BATCH).for_each(claim);
    let took = thread_time().unwrap_or_default().total().saturating_sub(start.total());
    took.as_nanos() as f64 / claims as f64
}

/// Nanoseconds a claim by the clock over all threads, in batches.
fn run(threads: usize, first: u64, claims: usize, claim: &(impl Fn(&[ClaimKey]) + Sync)) -> f64 {
    let each = claims / threads;
    let barrier = Barrier::new(threads);
    let cores = crate::machine::cores();
    let slowest = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let (barrier, cores) = (&barrier, &cores);
                scope.spawn(move || {
                    // Without a core of its own the figure is worse, not wrong.
                    let _ = multicast_io::pin_current_thread(cores[thread % cores.len()]);
                    let keys = traffic(first + ((thread as u64) << 40), each);
                    barrier.wait();
                    let start = Instant::now();
                    keys.chunks(BATCH).for_each(claim);
                    start.elapsed()
                })
            })
            .collect();
        workers.into_iter().filter_map(|worker| worker.join().ok()).max()
    });
    slowest.unwrap_or_default().as_nanos() as f64 / claims as f64
}

/// Measures the three rows.
pub fn rows(quick: bool, budget: &Budget) -> Vec<Row> {
    let (rounds, claims) = if quick { (3, 1 << 19) } else { (7, 1 << 21) };
    let base = Instant::now();
    let set = LocalSet::starting_at(CAPACITY, Duration::from_secs(600), 42, base);
    let own = |keys: &[ClaimKey]| set.insert_each(keys, |key| key, base, |_, _| {});
    let lru = Lru::new(ENTRIES);
    let other = |keys: &[ClaimKey]| {
        for key in keys {
            lru.insert(&key.id);
        }
    };
    let fill: Vec<ClaimKey> = (0..ENTRIES as u64).map(|n| key(u64::MAX - n)).collect();
    fill.chunks(BATCH).for_each(&own);
    fill.chunks(BATCH).for_each(other);
    let threads = crate::machine::cores().len().clamp(1, 4);
    let (mut own_cpu, mut lru_cpu, mut scaling) = (Vec::new(), Vec::new(), Vec::new());
    for (round, ()) in (0..).zip(budget.rounds("sets", 1..=rounds)) {
        let first = round << 44;
        own_cpu.push(cpu(first, claims, own));
        lru_cpu.push(cpu(first, claims, other));
        let one = run(1, first + (1 << 42), claims, &own);
        scaling.push(one / run(threads, first + (1 << 43), claims, &own));
    }
    let faster = median(own_cpu.iter().zip(&lru_cpu).map(|(own, lru)| lru / own));
    let scaling = median(scaling);
    let (own, lru) = (median(own_cpu), median(lru_cpu));
    let bytes = set.memory() as f64 / set.capacity() as f64;
    let note =
        format!("{own:.0} ns a claim (bar 80), lru in 64 shards {lru:.0} ns; batches of 32, 1 Mi entries");
    vec![
        Row::new("claim_batch", faster, "x", Bar::Least(3.0), note).and(own <= 80.0),
        Row::new("claim_scaling", scaling, "x", Bar::Least(2.0), format!("{threads} threads against one")),
        Row::new("claim_memory", bytes, "bytes", Bar::Most(48.0), "an entry, index and slack included"),
    ]
}
