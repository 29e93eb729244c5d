//! Figures of tier 1: `cargo run --release -p txidset --example local [entries]`.
//!
//! A claim is one id looked up and, where it is new, inserted; 30 % of the ids are repeats of recent ones. The set is
//! filled first, so every insertion also evicts. Beside it the `lru` crate in 64 shards, which keeps no times.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};
use txidset::{ClaimKey, Class, LocalSet};

const BATCH: usize = 32;
const SHARDS: usize = 64;

fn main() {
    let entries = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1 << 20);
    let claims = (entries * 2).clamp(1 << 20, 1 << 23);
    println!("{entries} entries, batches of {BATCH}, 30 % repeats");
    let base = Instant::now();
    let set = LocalSet::starting_at(entries * 64 / 56, Duration::from_secs(600), 42, base);
    println!("own: {:.1} bytes an entry", set.memory() as f64 / (entries as f64 * 64.0 / 56.0));
    let own = |keys: &[ClaimKey]| {
        let mut new = Vec::with_capacity(BATCH);
        set.insert_batch(keys, base, &mut new);
        new.iter().filter(|&&new| new).count()
    };
    let lru = Lru::new(entries);
    let other = |keys: &[ClaimKey]| keys.iter().filter(|key| lru.insert(key)).count();

    warm(entries, &own);
    warm(entries, &other);
    let own_1 = best(|| run(1, claims, &own));
    let other_1 = best(|| run(1, claims, &other));
    println!("own, 1 thread:  {own_1:6.1} ns a claim");
    println!("lru, 1 thread:  {other_1:6.1} ns a claim, {:.2} times slower", other_1 / own_1);
    let single = |keys: &[ClaimKey]| keys.chunks(1).map(&own).sum();
    println!("own, batches of 1: {:.1} ns a claim", best(|| run(1, claims, &single)));
    for threads in [2, 4].into_iter().filter(|_| std::env::args().len() < 3) {
        let own_n = best(|| run(threads, claims, &own));
        let other_n = best(|| run(threads, claims, &other));
        println!("own, {threads} threads: {own_n:6.1} ns a claim, {:.2} times one thread", own_1 / own_n);
        println!(
            "lru, {threads} threads: {other_n:6.1} ns a claim, {:.2} times one thread",
            other_1 / other_n
        );
    }
}

/// Fills a set with ids that no run uses.
fn warm(entries: usize, claim: &(impl Fn(&[ClaimKey]) -> usize + Sync)) {
    let keys: Vec<_> = (0..entries as u64).map(|n| key(u64::MAX - n)).collect();
    keys.chunks(BATCH).for_each(|batch| {
        claim(batch);
    });
}

/// Nanoseconds a claim over all threads.
fn run(threads: usize, claims: usize, claim: &(impl Fn(&[ClaimKey]) -> usize + Sync)) -> f64 {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    static RUN: AtomicU64 = AtomicU64::new(0);
    let each = claims / threads;
    let barrier = Barrier::new(threads);
    let first = RUN.fetch_add(threads as u64, Relaxed);
    let slowest = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads as u64)
            .map(|thread| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let keys = traffic((first + thread) << 32, each);
                    barrier.wait();
                    let start = on_cpu();
                    let new: usize = keys.chunks(BATCH).map(claim).sum();
                    let took = on_cpu().saturating_sub(start);
                    assert!(new * 100 / each >= 65, "{new} of {each} were new");
                    took
                })
            })
            .collect();
        workers.into_iter().filter_map(|worker| worker.join().ok()).max()
    });
    slowest.unwrap_or_default().as_nanos() as f64 / claims as f64
}

/// Time that this thread has run: what other processes take does not count. Falls back to the wall clock.
fn on_cpu() -> Duration {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = statistics.and_then(|text| text.split_whitespace().next()?.parse().ok());
    nanos.map_or_else(|| START.get_or_init(Instant::now).elapsed(), Duration::from_nanos)
}

/// New ids, and in three of ten places a repeat of one of the last 64 Ki.
fn traffic(first: u64, n: usize) -> Vec<ClaimKey> {
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

fn key(n: u64) -> ClaimKey {
    let mut id = [0; 32];
    for (i, word) in id.chunks_mut(8).enumerate() {
        word.copy_from_slice(&mix(n.wrapping_mul(4).wrapping_add(i as u64)).to_le_bytes());
    }
    ClaimKey { class: Class::Tx, id }
}

fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ z >> 31
}

fn best(mut measure: impl FnMut() -> f64) -> f64 {
    let mut figures: Vec<f64> = (0..7).map(|_| measure()).collect();
    figures.sort_by(f64::total_cmp);
    figures[0]
}

/// What a user would take instead.
struct Lru {
    hasher: RandomState,
    shards: Vec<Mutex<lru::LruCache<[u8; 32], ()>>>,
}

impl Lru {
    fn new(entries: usize) -> Lru {
        let each = NonZeroUsize::new(entries / SHARDS).unwrap_or(NonZeroUsize::MIN);
        let shards = (0..SHARDS).map(|_| Mutex::new(lru::LruCache::new(each))).collect();
        Lru { hasher: RandomState::new(), shards }
    }
    fn insert(&self, key: &ClaimKey) -> bool {
        #[allow(clippy::cast_possible_truncation, reason = "any bits will do")]
        let shard = self.hasher.hash_one(key.id) as usize % SHARDS;
        let mut shard = self.shards[shard].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        shard.put(key.id, ()).is_none()
    }
}
