//! What single steps cost, each beside the crate that a user would take instead: `cargo bench -p bench`.
//!
//! Claim figures are per batch of the size named; bytes an entry are printed first.
#![allow(missing_docs, reason = "the names of benchmarks say what they are")]

use divan::Bencher;
use divan::counter::ItemsCount;
use frame::data::{DataFrame, HEADER, HeaderFields, encode_header};
use frame::flow::{Origin, hash_key};
use frame::{GroupIndex, HashKey, Kind, SeqNum, tx};
use retry_endpoint::pipeline::admit::admit;
use retry_endpoint::pipeline::store::{Lifetimes, Store, StoreLimits};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use txidset::{ClaimKey, Class, LocalSet};

const THREADS: [usize; 2] = [1, 0];

fn main() {
    for entries in [1 << 16, 1 << 20, 1 << 24] {
        let set = LocalSet::new(entries, Duration::from_secs(600), 1);
        println!("tier 1, {entries} entries: {:.1} bytes an entry", set.memory() as f64 / entries as f64);
    }
    divan::main();
}

/// Transactions of the block that fit one datagram, as frames.
fn frames() -> &'static [Vec<u8>] {
    static FRAMES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    FRAMES.get_or_init(|| {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/block413567.raw");
        let bytes = std::fs::read(path).unwrap_or_default();
        let Ok(block) = frame::block::Block::decode(&bytes) else { return Vec::new() };
        let short = block.transactions().flatten().filter(|tx| tx.len() <= 1_348);
        short.enumerate().map(|(index, tx)| frame_of(tx, index as u64 + 1)).collect()
    })
}

fn frame_of(payload: &[u8], number: u64) -> Vec<u8> {
    let mut frame = vec![0; HEADER];
    let fields = HeaderFields {
        kind: Kind::Tx,
        msg_type: 0,
        id: &tx::sha256d(payload),
        hash_key: HashKey(7),
        seq_num: SeqNum(number),
        second_id: &[0; 32],
        payload_len: u32::try_from(payload.len()).unwrap_or(0),
    };
    let _ = encode_header(&fields, &mut frame);
    frame.extend_from_slice(payload);
    frame
}

#[divan::bench]
fn decode(bencher: Bencher) {
    let frames = frames();
    bencher
        .counter(ItemsCount::new(frames.len()))
        .bench(|| frames.iter().filter(|frame| DataFrame::decode(divan::black_box(frame)).is_ok()).count());
}

#[divan::bench]
fn canonical_txid(bencher: Bencher) {
    let frames = frames();
    bencher.counter(ItemsCount::new(frames.len())).bench(|| {
        frames.iter().filter_map(|frame| tx::canonical_txid(&frame[HEADER..]).ok()).map(|id| id.0[0]).max()
    });
}

#[divan::bench]
fn parse_transaction(bencher: Bencher) {
    let frames = frames();
    bencher
        .counter(ItemsCount::new(frames.len()))
        .bench(|| frames.iter().filter(|frame| tx::parse(&frame[HEADER..]).is_ok()).count());
}

#[divan::bench]
fn flow_key() -> HashKey {
    hash_key(divan::black_box(Origin([7; 16])), GroupIndex(3), &[0; 32])
}

fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z ^ z >> 31
}

fn key(n: u64) -> ClaimKey {
    let mut id = [0; 32];
    for (i, word) in (0_u64..).zip(id.chunks_mut(8)) {
        word.copy_from_slice(&mix(n.wrapping_mul(4).wrapping_add(i)).to_le_bytes());
    }
    ClaimKey { class: Class::Tx, id }
}

/// Where the ids of the next batch begin: each batch of an `insert` has new ones.
static NEXT: AtomicU64 = AtomicU64::new(1 << 40);

fn batch(size: usize, fresh: bool, entries: usize) -> Vec<ClaimKey> {
    let first = NEXT.fetch_add(size as u64, Ordering::Relaxed);
    // A hit is one of the ids that the set was filled with.
    (0..size as u64)
        .map(|i| key(if fresh { first + i } else { mix(first + i) % (entries as u64 / 2) }))
        .collect()
}

trait Set: Send + Sync {
    fn claim(&self, keys: &[ClaimKey]) -> usize;
}

struct Own(LocalSet, Instant);

impl Set for Own {
    fn claim(&self, keys: &[ClaimKey]) -> usize {
        let mut new = 0;
        self.0.insert_each(keys, |key| key, self.1, |_, is_new| new += usize::from(is_new));
        new
    }
}

struct Lru(Vec<Mutex<lru::LruCache<[u8; 32], ()>>>);

impl Set for Lru {
    fn claim(&self, keys: &[ClaimKey]) -> usize {
        let new = |key: &&ClaimKey| {
            let shard = &self.0[usize::from(key.id[0]) % self.0.len()];
            shard.lock().unwrap_or_else(PoisonError::into_inner).put(key.id, ()).is_none()
        };
        keys.iter().filter(new).count()
    }
}

struct QuickCache(quick_cache::sync::Cache<[u8; 32], ()>);

impl Set for QuickCache {
    fn claim(&self, keys: &[ClaimKey]) -> usize {
        let new = |key: &&ClaimKey| {
            let known = self.0.get(&key.id).is_some();
            if !known {
                self.0.insert(key.id, ());
            }
            !known
        };
        keys.iter().filter(new).count()
    }
}

struct Moka(moka::sync::Cache<[u8; 32], ()>);

impl Set for Moka {
    fn claim(&self, keys: &[ClaimKey]) -> usize {
        let new = |key: &&ClaimKey| self.0.entry(key.id).or_insert(()).is_fresh();
        keys.iter().filter(new).count()
    }
}

fn own(entries: usize) -> Arc<dyn Set> {
    let now = Instant::now();
    Arc::new(Own(LocalSet::starting_at(entries * 64 / 56, Duration::from_secs(600), 1, now), now))
}

fn lru(entries: usize) -> Arc<dyn Set> {
    let each = NonZeroUsize::new(entries / 64).unwrap_or(NonZeroUsize::MIN);
    Arc::new(Lru((0..64).map(|_| Mutex::new(lru::LruCache::new(each))).collect()))
}

fn quick(entries: usize) -> Arc<dyn Set> {
    Arc::new(QuickCache(quick_cache::sync::Cache::new(entries)))
}

fn moka(entries: usize) -> Arc<dyn Set> {
    Arc::new(Moka(moka::sync::Cache::builder().max_capacity(entries as u64).build()))
}

fn claims(bencher: Bencher, make: fn(usize) -> Arc<dyn Set>, entries: usize, size: usize, fresh: bool) {
    let set = make(entries);
    let fill: Vec<ClaimKey> = (0..entries as u64).map(key).collect();
    fill.chunks(32).for_each(|keys| {
        set.claim(keys);
    });
    drop(fill);
    bencher
        .counter(ItemsCount::new(size))
        .with_inputs(|| batch(size, fresh, entries))
        .bench_refs(|keys| set.claim(keys));
}

#[divan::bench_group(sample_count = 50)]
mod claim {
    use super::*;

    const SIZES: [(usize, usize); 6] =
        [(1 << 16, 1), (1 << 16, 32), (1 << 20, 1), (1 << 20, 32), (1 << 24, 1), (1 << 24, 32)];

    #[divan::bench(args = SIZES, threads = THREADS)]
    fn own_insert(bencher: Bencher, (entries, size): (usize, usize)) {
        claims(bencher, own, entries, size, true);
    }

    #[divan::bench(args = SIZES, threads = THREADS)]
    fn own_hit(bencher: Bencher, (entries, size): (usize, usize)) {
        claims(bencher, own, entries, size, false);
    }

    #[divan::bench(args = SIZES[..4].to_vec(), threads = THREADS)]
    fn lru_64_shards_insert(bencher: Bencher, (entries, size): (usize, usize)) {
        claims(bencher, lru, entries, size, true);
    }

    #[divan::bench(args = SIZES[..4].to_vec(), threads = THREADS)]
    fn lru_64_shards_hit(bencher: Bencher, (entries, size): (usize, usize)) {
        claims(bencher, lru, entries, size, false);
    }

    #[divan::bench(args = SIZES[..4].to_vec(), threads = THREADS)]
    fn quick_cache_insert(bencher: Bencher, (entries, size): (usize, usize)) {
        claims(bencher, quick, entries, size, true);
    }

    #[divan::bench(args = SIZES[..4].to_vec(), threads = THREADS)]
    fn moka_insert(bencher: Bencher, (entries, size): (usize, usize)) {
        claims(bencher, moka, entries, size, true);
    }
}

#[divan::bench_group(sample_count = 50)]
mod store {
    use super::*;

    fn store() -> Store {
        let limits = StoreLimits { bytes: 256 << 20, flows: 1024 };
        Store::new(limits, Lifetimes::default(), true, 1, Instant::now())
    }

    #[divan::bench]
    fn put(bencher: Bencher) {
        let (mut store, mut number) = (store(), 0_u64);
        let mut frames = frames().to_vec();
        let now = Instant::now();
        bencher.counter(ItemsCount::new(frames.len())).bench_local(|| {
            for frame in &mut frames {
                number += 1;
                frame[48..56].copy_from_slice(&number.to_be_bytes());
                if let Ok(admitted) = admit(frame) {
                    divan::black_box(store.put(&admitted, GroupIndex(0), now));
                }
            }
        });
    }

    #[divan::bench]
    fn get(bencher: Bencher) {
        let mut store = store();
        let now = Instant::now();
        for frame in frames() {
            if let Ok(admitted) = admit(frame) {
                store.put(&admitted, GroupIndex(0), now);
            }
        }
        let count = frames().len();
        bencher.counter(ItemsCount::new(count)).bench_local(|| {
            (1..=count as u64).filter(|&number| store.get(HashKey(7), SeqNum(number), now).is_some()).count()
        });
    }
}

mod tracker {
    use super::*;
    use gap_track::{FlowClass, Sighting, TrackLimits, Tracker};

    /// Frames in order, of one flow or of 1,024 in turn.
    #[divan::bench(args = [1, 1024])]
    fn observe(bencher: Bencher, flows: u64) {
        let now = Instant::now();
        let mut tracker: Tracker<()> = Tracker::new(TrackLimits::default(), 1, now);
        let mut number = 0;
        bencher.counter(ItemsCount::new(1024_usize)).bench_local(|| {
            for _ in 0..1024 {
                let sighting = Sighting {
                    key: HashKey(1 + number % flows),
                    seq: SeqNum(1 + number / flows),
                    group: GroupIndex(1),
                    subtree: &[0; 32],
                    class: FlowClass::Tx,
                    source: std::net::Ipv6Addr::LOCALHOST.into(),
                    wanted: true,
                    trusted: true,
                };
                number += 1;
                divan::black_box(tracker.observe(now, &sighting));
            }
        });
    }
}
