//! Tier 1: the ids that this process has seen.
//!
//! Why it exists: most duplicates reach the same process within seconds. They must cost nanoseconds, not a round trip.
//!
//! What it promises:
//! * Exact. An entry is found by all 32 bytes of its id and its class; nothing approximate ever says "seen".
//! * Fixed memory, allocated (and touched) once: at most 48 bytes an entry. Variants have room of their own on top, for an
//!   eighth of the ids: 54 bytes an id.
//! * Expiry is counted from first sight and never pushed forward; a repeat changes nothing.
//! * When room is needed the oldest entry leaves, never the newest, and `evicted_early` counts it.
//! * Chosen ids cannot degrade it: places come from a keyed universal hash, and a look-up reads at most five index lines.
//! * Each class has a budget of its own: a flood in one class evicts nothing of another.
//!
//! How: each shard has a ring of entries in order of first sight, and an index. An entry is the id (32 bytes), the time (4),
//! and the kind (1) where the class has kinds. The index has lines of 64 bytes with twelve slots each (`shard`). The ring is
//! the expiry queue: the oldest entry is at its tail.
//!
//! Cost: an insertion is one index line and the head of the ring. A repeat is one index line, one id and one time. A batch is
//! hashed first, and its lines are prefetched before any lock is taken, so the misses of a batch overlap. Each shard is
//! then locked once a batch; shards that another worker holds are left for last.
//!
//! Limits: horizon at most 10 days (32-bit milliseconds); 2^28 entries a shard.

mod hash;
mod shard;

use crate::key::{ClaimKey, Class};
use hash::Hasher;
use shard::{Clock, Order, Probe, Shard, kind_byte, words};
use std::time::{Duration, Instant};

/// Most bytes that one id costs, index, slack and its share of the variants included (sets of 64 Ki entries and more).
pub const BYTES_PER_ENTRY: usize = 54;

/// Longest horizon that the 32-bit clock of an entry can tell from "just now".
pub const MAX_HORIZON: Duration = Duration::from_secs(10 * 24 * 3600);

/// Budgets of the classes in 64ths of the capacity, by `Class::index`. Variants come on top: they take nothing from ids.
const SHARES: [usize; Class::COUNT] = [56, 2, 1, 2, 3, 8];
const MAX_SHARDS: usize = 8;
/// Below this a shard would be so small that chance fills one long before the others.
const MIN_SHARD: usize = 16384;
/// Least budget of a class.
const MIN_CLASS: usize = 64;
/// Keys handled together: hashed, touched, then inserted.
const CHUNK: usize = 64;

/// Shared by the workers of one role.
pub struct LocalSet {
    hasher: Hasher,
    base: Instant,
    horizon_ms: u32,
    capacity: usize,
    tables: [Table; Class::COUNT],
    /// Shards of all tables, those of one table side by side.
    shards: Box<[Shard]>,
}

/// Where the shards of a class lie.
struct Table {
    first_shard: usize,
    /// log2 of the number of shards.
    shard_bits: u32,
    capacity: usize,
}

/// How full one class is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// `Class::LABELS` entry.
    pub class: &'static str,
    /// Live entries.
    pub entries: usize,
    /// Budget of the class.
    pub capacity: usize,
    /// Entries that left before their horizon because room was needed.
    pub evicted_early: u64,
}

impl LocalSet {
    /// `capacity` entries over all classes, allocated once; `horizon` from first sight; `seed` places entries and must
    /// be unpredictable to senders.
    pub fn new(capacity: usize, horizon: Duration, seed: u64) -> LocalSet {
        LocalSet::starting_at(capacity, horizon, seed, Instant::now())
    }

    /// As `new`, for virtual time: `base` is not after any time that will be given.
    pub fn starting_at(capacity: usize, horizon: Duration, seed: u64, base: Instant) -> LocalSet {
        let mut shards = Vec::new();
        let tables = std::array::from_fn(|class| {
            let capacity = (capacity * SHARES[class]).div_ceil(64).max(MIN_CLASS);
            let shard_bits = (capacity / MIN_SHARD).clamp(1, MAX_SHARDS).ilog2();
            let first_shard = shards.len();
            let has_kinds = class >= Class::Block(0).index();
            let each = capacity.div_ceil(1 << shard_bits);
            // Chance gives shards unequal shares: room for four standard deviations.
            let slack = if shard_bits == 0 { 0 } else { 4 * each.isqrt() };
            shards.extend(Shard::row(1 << shard_bits, each + slack, has_kinds));
            Table { first_shard, shard_bits, capacity }
        });
        let horizon = horizon.clamp(Duration::from_millis(1), MAX_HORIZON);
        LocalSet {
            hasher: Hasher::new(seed),
            base,
            horizon_ms: u32::try_from(horizon.as_millis()).unwrap_or(u32::MAX / 4),
            capacity,
            tables,
            shards: shards.into_boxed_slice(),
        }
    }

    /// Entries that fit into `bytes` (`--dedup-memory`).
    pub fn entries_in(bytes: usize) -> usize {
        bytes / BYTES_PER_ENTRY
    }

    /// Most bytes that a set of so many entries takes.
    pub const fn bytes_of(entries: usize) -> usize {
        entries.saturating_mul(BYTES_PER_ENTRY)
    }

    /// What a person should read while ids leave before their time, at the rate that drives them out; `None` while the whole
    /// horizon fits. Cold path.
    pub fn shortfall(&self, now: Instant) -> Option<String> {
        let horizon = Duration::from_millis(self.horizon_ms.into());
        let held = self.effective_horizon(now);
        if held >= horizon {
            return None;
        }
        let budget = u128::try_from(self.capacity * SHARES[0] / 64).unwrap_or(u128::MAX);
        let rate = budget.saturating_mul(1000) / held.as_millis().max(1);
        LocalSet::sizing_warning(self.capacity, horizon, u64::try_from(rate).unwrap_or(u64::MAX))
    }

    /// What a person should read when `rate` transactions a second do not fit for the whole of `horizon`.
    pub fn sizing_warning(capacity: usize, horizon: Duration, rate: u64) -> Option<String> {
        let budget = capacity * SHARES[0] / 64;
        let wanted = u128::from(rate) * horizon.as_millis() / 1000;
        if rate == 0 || wanted <= budget as u128 {
            return None;
        }
        let entries = wanted * 64 / SHARES[0] as u128;
        let mebibytes = (entries * BYTES_PER_ENTRY as u128).div_ceil(1 << 20);
        let seconds = budget as u128 * 10 / u128::from(rate);
        Some(format!(
            "tier 1 holds {budget} transactions: {}.{} s at {rate}/s, but the horizon is {} s; older repeats are left to \
             the backend (or forwarded again without one). --txid-dedup-local-cap={entries} or \
             --dedup-memory={mebibytes}MiB would hold the whole horizon",
            seconds / 10,
            seconds % 10,
            horizon.as_secs(),
        ))
    }

    /// For each key, in order, appends `true` where it is new (and now inserted), `false` where it was there (or earlier
    /// in the same batch). Never pushes an expiry forward.
    pub fn insert_batch(&self, keys: &[ClaimKey], now: Instant, new: &mut Vec<bool>) {
        self.insert_each(keys, |key| key, now, |_, is_new| new.push(is_new));
    }

    /// As `insert_batch` over any items that hold a key; `told` gets each item's index, in order.
    pub fn insert_each<T>(
        &self,
        items: &[T],
        key: impl Fn(&T) -> &ClaimKey,
        now: Instant,
        mut told: impl FnMut(usize, bool),
    ) {
        let clock = self.clock(now);
        let mut chunks = items.chunks(CHUNK);
        let Some(mut chunk) = chunks.next() else { return };
        let mut places = self.places(chunk, &key);
        let mut first = 0;
        loop {
            // The lines of the next chunk are on their way while this one is inserted.
            let next = chunks.next().map(|chunk| (chunk, self.places(chunk, &key)));
            let new = self.insert_chunk(chunk, &places, &key, clock);
            for i in 0..chunk.len() {
                told(first + i, new >> i & 1 == 1);
            }
            first += chunk.len();
            match next {
                Some(next) => (chunk, places) = next,
                None => return,
            }
        }
    }

    /// One key: `true` where it is new (and now inserted).
    pub fn insert(&self, key: &ClaimKey, now: Instant) -> bool {
        let entry = Probe::new(key, &self.hasher);
        let shard = &self.shards[self.shard_of(key.class, entry.hash)];
        let mut order = shard.lock();
        let new = shard.insert(&mut order, &entry, self.clock(now));
        shard.leave_off(&order);
        new
    }

    /// Forgets a key (released, or dropped after first sight).
    pub fn remove(&self, key: &ClaimKey) {
        let entry = Probe::new(key, &self.hasher);
        let shard = &self.shards[self.shard_of(key.class, entry.hash)];
        let mut order = shard.lock();
        shard.forget(&mut order, &entry, self.horizon_ms);
    }

    /// Whether a key is held and has not expired.
    pub fn contains(&self, key: &ClaimKey, now: Instant) -> bool {
        let now = self.clock(now);
        let entry = Probe::new(key, &self.hasher);
        let shard = &self.shards[self.shard_of(key.class, entry.hash)];
        let mut order = shard.lock();
        shard.holds(&mut order, &entry, now)
    }

    /// Entries held, expired ones that have not left yet included. Cold path.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().live()).sum()
    }

    /// No entry at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries it was made for, over all classes.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes taken at start: the whole cost.
    pub fn memory(&self) -> usize {
        self.shards.iter().map(Shard::memory).sum()
    }

    /// History that the transactions' part holds at the recent rate: min(horizon, age of the entry evicted early last).
    pub fn effective_horizon(&self, now: Instant) -> Duration {
        self.effective_horizon_of(Class::Tx, now)
    }

    /// The same for one class.
    pub fn effective_horizon_of(&self, class: Class, now: Instant) -> Duration {
        let now = self.millis(now);
        let recent = |shard: &Shard| {
            let order = shard.lock();
            let still_true = now.saturating_sub(order.evicted_at) < u64::from(self.horizon_ms);
            (order.evicted_early > 0 && still_true).then_some(order.evicted_age)
        };
        let age = self.shards_of(class.index()).iter().filter_map(recent).min();
        Duration::from_millis(age.unwrap_or(self.horizon_ms).min(self.horizon_ms).into())
    }

    /// Entries that left before their horizon because room was needed, over all classes.
    pub fn evicted_early(&self) -> u64 {
        self.shards.iter().map(|shard| shard.lock().evicted_early).sum()
    }

    /// How full each class is. Cold path.
    pub fn occupancy(&self) -> [Occupancy; Class::COUNT] {
        std::array::from_fn(|class| {
            let (mut entries, mut evicted_early) = (0, 0);
            for shard in self.shards_of(class) {
                let order = shard.lock();
                entries += order.live();
                evicted_early += order.evicted_early;
            }
            Occupancy {
                class: Class::LABELS[class],
                entries,
                capacity: self.tables[class].capacity,
                evicted_early,
            }
        })
    }

    /// Where the items of a chunk go; starts loading the lines there.
    fn places<T>(&self, items: &[T], key: &impl Fn(&T) -> &ClaimKey) -> Places {
        let mut places = Places { hashes: [0; CHUNK], shard_of: [0; CHUNK] };
        for ((item, hash), shard_of) in items.iter().zip(&mut places.hashes).zip(&mut places.shard_of) {
            let key = key(item);
            *hash = self.hasher.hash(&words(&key.id), kind_byte(key.class));
            let shard = self.shard_of(key.class, *hash);
            self.shards[shard].prefetch_line(*hash);
            #[allow(clippy::cast_possible_truncation, reason = "6 tables of at most 8 shards")]
            let shard = shard as u8;
            *shard_of = shard;
        }
        places
    }

    /// Bit i is set where item i is new. At most `CHUNK` items.
    fn insert_chunk<T>(
        &self,
        items: &[T],
        places: &Places,
        key: &impl Fn(&T) -> &ClaimKey,
        clock: Clock,
    ) -> u64 {
        let Places { hashes, shard_of } = places;
        for (&hash, &shard) in hashes.iter().zip(shard_of).take(items.len()) {
            self.shards[usize::from(shard)].prefetch_match(hash);
        }
        let groups = ByShard::new(&shard_of[..items.len()]);
        let mut new = 0u64;
        groups.visit(&self.shards, |shard, order, i| {
            let key = key(&items[i]);
            let entry = Probe { hash: hashes[i], id: words(&key.id), kind: kind_byte(key.class) };
            new |= u64::from(shard.insert(order, &entry, clock)) << i;
        });
        new
    }

    fn shard_of(&self, class: Class, hash: u64) -> usize {
        let table = &self.tables[class.index()];
        // The top bits choose the shard; `home` uses the 32 below them.
        let within = (hash >> 60) as usize >> (4 - table.shard_bits);
        table.first_shard + within
    }

    fn shards_of(&self, class: usize) -> &[Shard] {
        let table = &self.tables[class];
        &self.shards[table.first_shard..][..1 << table.shard_bits]
    }

    fn clock(&self, now: Instant) -> Clock {
        Clock { now: self.millis(now), horizon: self.horizon_ms }
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.base).as_millis()).unwrap_or(u64::MAX)
    }
}

/// Where the items of a chunk go.
struct Places {
    hashes: [u64; CHUNK],
    shard_of: [u8; CHUNK],
}

/// The items of a chunk as one list per shard.
struct ByShard {
    /// Bit s: shard s has items.
    shards: u128,
    first: [u8; 128],
    /// Next item of the same shard; itself at the end.
    next: [u8; CHUNK],
    start: u32,
}

impl ByShard {
    #[allow(clippy::cast_possible_truncation, reason = "item numbers are below CHUNK = 64")]
    fn new(shard_of: &[u8]) -> ByShard {
        let mut groups = ByShard { shards: 0, first: [0; 128], next: [0; CHUNK], start: 0 };
        // Backwards, so that each list runs in the order of the batch.
        for (i, &shard) in shard_of.iter().enumerate().rev() {
            let known = groups.shards >> shard & 1 == 1;
            groups.next[i] = if known { groups.first[usize::from(shard)] } else { i as u8 };
            groups.first[usize::from(shard)] = i as u8;
            groups.shards |= 1 << shard;
        }
        // Workers start at different shards.
        groups.start = shard_of.first().copied().unwrap_or(0).into();
        groups
    }

    /// Calls `each` for every item with its shard locked: free shards first, those of other workers when nothing else is
    /// left to do.
    fn visit(&self, shards: &[Shard], mut each: impl FnMut(&Shard, &mut Order, usize)) {
        let mut left = self.shards.rotate_right(self.start);
        let mut wait = false;
        while left != 0 {
            let before = left;
            let mut todo = left;
            while todo != 0 {
                let bit = todo.trailing_zeros();
                todo &= todo - 1;
                let number = ((bit + self.start) & 127) as usize;
                let shard = &shards[number];
                let Some(mut order) = shard.lock_or_skip(wait) else { continue };
                wait = false;
                left &= !(1 << bit);
                let mut i = self.first[number];
                loop {
                    each(shard, &mut order, i.into());
                    let next = self.next[usize::from(i)];
                    if next == i {
                        break;
                    }
                    i = next;
                }
                shard.leave_off(&order);
            }
            wait = left == before;
        }
    }
}

#[cfg(test)]
mod tests;
