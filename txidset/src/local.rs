//! Tier 1: the ids that this process has seen.
//!
//! Why it exists: most duplicates reach the same process within seconds; they must cost nanoseconds, not a round trip.
//!
//! What it promises:
//! * Exact. An entry is found by all 32 bytes of its id and its class; nothing approximate ever says "seen".
//! * Fixed memory, allocated (and touched) once: at most 48 bytes an entry.
//! * Expiry is counted from first sight and never pushed forward; a repeat changes nothing.
//! * When room is needed the oldest entry leaves, never the newest, and `evicted_early` counts it.
//! * Chosen ids cannot degrade it: places come from a keyed hash that is strongly universal, and a look-up reads at
//!   most five index lines.
//! * Each class has a budget of its own: a flood in one class evicts nothing of another.
//!
//! How: per shard a ring of entries in order of first sight (id 32 bytes, time 4, kind 1 where the class has kinds) and
//! an index of 64-byte lines with 15 slots, each slot a tag and a ring position. A line that is full spills into up to
//! four lines of a second place and remembers that it did. The ring is the expiry queue: what is oldest is at its tail.
//!
//! Cost: an insertion is one index line and the head of the ring, a repeat one index line, one id and one time. A batch
//! is hashed first and its lines are read before any lock is taken, so that the misses of a batch overlap; each shard
//! is then locked once per batch, shards that another worker holds are left for last.
//!
//! Limits: horizon at most 10 days (32-bit milliseconds); 2^24 entries a shard.

use crate::{ClaimKey, Class};
use std::hint::black_box;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// Most bytes that one entry costs, index and slack included (sets of 64 Ki entries and more).
pub const BYTES_PER_ENTRY: usize = 48;

/// Longest horizon that the 32-bit clock of an entry can tell from "just now".
pub const MAX_HORIZON: Duration = Duration::from_secs(10 * 24 * 3600);

/// Budgets of the classes in 64ths of the capacity, by `Class::index`.
const SHARES: [usize; Class::COUNT] = [56, 2, 1, 2, 3];
const MAX_SHARDS: usize = 16;
/// Below this a shard would be so small that chance fills one long before the others.
const MIN_SHARD: usize = 4096;
const MAX_SHARD: usize = 1 << 24;
/// Least budget of a class.
const MIN_CLASS: usize = 64;
const SLOTS: usize = 15;
/// Mean entries of a line when the set is full.
const FILL: usize = 8;
/// Lines that a full line may spill into.
const SPILL_LINES: usize = 4;
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
            shards.extend((0..1 << shard_bits).map(|_| Shard::new(each + slack, has_kinds)));
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

    /// What a person should read at start when `rate` transactions a second do not fit for the whole of `horizon`.
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
        let now = self.millis(now);
        for (chunk_index, chunk) in items.chunks(CHUNK).enumerate() {
            let new = self.insert_chunk(chunk, &key, now);
            for i in 0..chunk.len() {
                told(chunk_index * CHUNK + i, new >> i & 1 == 1);
            }
        }
    }

    /// Forgets a key (released, or dropped after first sight).
    pub fn remove(&self, key: &ClaimKey) {
        let entry = Probe::new(key, &self.hasher);
        let shard = &self.shards[self.shard_of(key.class, entry.hash)];
        let mut order = shard.lock();
        shard.forget(&mut order, &entry);
    }

    /// Whether a key is held and has not expired.
    pub fn contains(&self, key: &ClaimKey, now: Instant) -> bool {
        let now = self.millis(now);
        let entry = Probe::new(key, &self.hasher);
        let shard = &self.shards[self.shard_of(key.class, entry.hash)];
        let mut order = shard.lock();
        shard.expire(&mut order, now, self.horizon_ms, &self.hasher);
        shard.find(&entry).is_some_and(|found| !shard.is_expired(found.position, now, self.horizon_ms))
    }

    /// Entries held, expired ones that have not left yet included. Cold path.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().live).sum()
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
                entries += order.live;
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

    /// Bit i is set where item i is new. At most `CHUNK` items.
    fn insert_chunk<T>(&self, items: &[T], key: &impl Fn(&T) -> &ClaimKey, now: u64) -> u64 {
        let mut hashes = [0u64; CHUNK];
        let mut shard_of = [0u8; CHUNK];
        for (i, item) in items.iter().enumerate() {
            let key = key(item);
            hashes[i] = self.hasher.hash(&words(&key.id), kind_byte(key.class));
            #[allow(clippy::cast_possible_truncation, reason = "5 tables of at most 16 shards")]
            let shard = self.shard_of(key.class, hashes[i]) as u8;
            shard_of[i] = shard;
        }
        self.touch(&hashes[..items.len()], &shard_of);
        let groups = ByShard::new(&shard_of[..items.len()]);
        let mut new = 0u64;
        groups.visit(&self.shards, |shard, order, i| {
            let key = key(&items[i]);
            let entry = Probe { hash: hashes[i], id: words(&key.id), kind: kind_byte(key.class) };
            new |= u64::from(shard.insert(order, &entry, now, self.horizon_ms, &self.hasher)) << i;
        });
        new
    }

    /// Reads what the insertions will need, without a lock and without waiting for one read before starting the next.
    fn touch(&self, hashes: &[u64], shard_of: &[u8; CHUNK]) {
        let shard = |i: usize| &self.shards[usize::from(shard_of[i])];
        let mut seen = 0u32;
        for (i, &hash) in hashes.iter().enumerate() {
            let shard = shard(i);
            seen ^= shard.lines[shard.home(hash)].spilled.load(Relaxed);
        }
        for (i, &hash) in hashes.iter().enumerate() {
            seen ^= shard(i).touch_match(hash);
        }
        black_box(seen);
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

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.base).as_millis()).unwrap_or(u64::MAX)
    }
}

/// A key on its way through the set.
struct Probe {
    hash: u64,
    id: [u64; 4],
    kind: u8,
}

impl Probe {
    fn new(key: &ClaimKey, hasher: &Hasher) -> Probe {
        let (id, kind) = (words(&key.id), kind_byte(key.class));
        Probe { hash: hasher.hash(&id, kind), id, kind }
    }
}

fn kind_byte(class: Class) -> u8 {
    class.kind().unwrap_or(0)
}

fn words(id: &[u8; 32]) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(id.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
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
            }
            wait = left == before;
        }
    }
}

/// Fifteen slots of (tag, ring position) and the number of entries that found no room here. Zero is an empty slot.
#[repr(align(64))]
#[derive(Default)]
struct Line {
    slots: [AtomicU32; SLOTS],
    spilled: AtomicU32,
}

#[repr(align(32))]
#[derive(Default)]
struct Id([AtomicU64; 4]);

/// A ring of entries and its index. Written only with `order` locked; atomics because `touch` reads without it.
#[repr(align(64))]
struct Shard {
    order: Mutex<Order>,
    lines: Box<[Line]>,
    ids: Box<[Id]>,
    /// Milliseconds of first sight, modulo 2^32.
    times: Box<[AtomicU32]>,
    /// Empty where the class has no kinds.
    kinds: Box<[AtomicU8]>,
    /// Low bits of a slot that hold the ring position; the others are the tag.
    position_bits: u32,
}

/// The state of the ring.
#[derive(Default)]
struct Order {
    /// Oldest position in use.
    tail: usize,
    /// Positions in use from the tail on, forgotten ones included.
    used: usize,
    /// Entries that can be found.
    live: usize,
    /// Time of the newest entry and of the last sweep.
    newest: u64,
    swept: u64,
    evicted_early: u64,
    evicted_age: u32,
    evicted_at: u64,
}

/// Where an entry is.
struct Found {
    line: usize,
    slot: usize,
    position: usize,
}

impl Shard {
    fn new(capacity: usize, has_kinds: bool) -> Shard {
        let capacity = capacity.clamp(1, MAX_SHARD);
        // A small ring gets an emptier index, so that chance does not crowd its few lines.
        let fill = if capacity < 1024 { FILL / 2 } else { FILL };
        let lines = capacity.div_ceil(fill).max(2);
        Shard {
            order: Mutex::default(),
            lines: (0..lines).map(|_| Line::default()).collect(),
            ids: (0..capacity).map(|_| Id::default()).collect(),
            times: (0..capacity).map(|_| AtomicU32::new(0)).collect(),
            kinds: (0..if has_kinds { capacity } else { 0 }).map(|_| AtomicU8::new(0)).collect(),
            position_bits: capacity.next_power_of_two().ilog2(),
        }
    }

    fn memory(&self) -> usize {
        size_of::<Shard>()
            + self.lines.len() * size_of::<Line>()
            + self.ids.len() * (size_of::<Id>() + size_of::<AtomicU32>())
            + self.kinds.len()
    }

    fn lock(&self) -> MutexGuard<'_, Order> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_or_skip(&self, wait: bool) -> Option<MutexGuard<'_, Order>> {
        if wait {
            return Some(self.lock());
        }
        match self.order.try_lock() {
            Ok(order) => Some(order),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// True where the entry is new.
    fn insert(&self, order: &mut Order, entry: &Probe, now: u64, horizon: u32, hasher: &Hasher) -> bool {
        self.expire(order, now, horizon, hasher);
        if let Some(found) = self.find(entry) {
            if !self.is_expired(found.position, now, horizon) {
                return false;
            }
            self.clear_slot(order, &found, entry.hash);
        }
        if order.used == self.ids.len() {
            self.pop(order, now, horizon, hasher);
        }
        let position = (order.tail + order.used) % self.ids.len();
        order.used += 1;
        order.newest = order.newest.max(now);
        self.write(position, entry, now);
        self.index(order, entry.hash, position, now, horizon);
        true
    }

    fn forget(&self, order: &mut Order, entry: &Probe) {
        if let Some(found) = self.find(entry) {
            self.clear_slot(order, &found, entry.hash);
        }
    }

    /// Lets expired entries go from the tail: a few at a time while there is traffic, in proportion to the time since
    /// the last call, and all at once when nothing is younger than the horizon. So no entry outlives its horizon by
    /// long enough for the 32-bit clock to come round.
    fn expire(&self, order: &mut Order, now: u64, horizon: u32, hasher: &Hasher) {
        if order.used == 0 {
            order.swept = now;
            return;
        }
        if now.saturating_sub(order.newest) >= u64::from(horizon) {
            return self.clear(order, now);
        }
        let elapsed = now.saturating_sub(order.swept);
        order.swept = order.swept.max(now);
        let share = u128::from(elapsed) * 2 * self.ids.len() as u128 / u128::from(horizon);
        let mut budget = 2 + usize::try_from(share).unwrap_or(usize::MAX - 2);
        while budget > 0 && order.used > 0 && self.is_expired(order.tail, now, horizon) {
            self.pop(order, now, horizon, hasher);
            budget -= 1;
        }
    }

    fn clear(&self, order: &mut Order, now: u64) {
        for line in &self.lines {
            line.slots.iter().for_each(|slot| slot.store(0, Relaxed));
            line.spilled.store(0, Relaxed);
        }
        order.used = 0;
        order.live = 0;
        order.swept = now;
    }

    /// The oldest position leaves, with its entry unless that was forgotten before.
    fn pop(&self, order: &mut Order, now: u64, horizon: u32, hasher: &Hasher) {
        let position = order.tail;
        order.tail = (order.tail + 1) % self.ids.len();
        order.used -= 1;
        let hash = self.hash_at(position, hasher);
        // The next one to leave: have its line on the way by then.
        let next = self.hash_at(order.tail, hasher);
        black_box(self.lines[self.home(next)].spilled.load(Relaxed));
        let Some(found) = self.find_word(hash, self.word(hash, position)) else { return };
        self.clear_slot(order, &found, hash);
        self.count_if_early(order, position, now, horizon);
    }

    fn count_if_early(&self, order: &mut Order, position: usize, now: u64, horizon: u32) {
        if self.is_expired(position, now, horizon) {
            return;
        }
        order.evicted_early += 1;
        order.evicted_age = self.age(position, now);
        order.evicted_at = now;
    }

    /// Gives the entry a slot: at home, else in its second place, else in the slot of the oldest entry at home.
    fn index(&self, order: &mut Order, hash: u64, position: usize, now: u64, horizon: u32) {
        let word = self.word(hash, position);
        order.live += 1;
        let home = self.home(hash);
        if self.put(home, word) {
            return;
        }
        if self.spill_lines(hash).any(|line| self.put(line, word)) {
            add(&self.lines[home].spilled, 1);
            return;
        }
        let oldest = (0..SLOTS).min_by_key(|&slot| {
            let position = self.position(self.lines[home].slots[slot].load(Relaxed));
            (position + self.ids.len() - order.tail) % self.ids.len()
        });
        if let Some(slot) = oldest {
            let leaving = self.position(self.lines[home].slots[slot].load(Relaxed));
            self.lines[home].slots[slot].store(word, Relaxed);
            order.live -= 1;
            self.count_if_early(order, leaving, now, horizon);
        }
    }

    fn put(&self, line: usize, word: u32) -> bool {
        let free = self.lines[line].slots.iter().find(|slot| slot.load(Relaxed) == 0);
        free.inspect(|slot| slot.store(word, Relaxed)).is_some()
    }

    fn clear_slot(&self, order: &mut Order, found: &Found, hash: u64) {
        self.lines[found.line].slots[found.slot].store(0, Relaxed);
        order.live -= 1;
        let home = self.home(hash);
        if found.line != home {
            add(&self.lines[home].spilled, u32::MAX);
        }
    }

    fn find(&self, entry: &Probe) -> Option<Found> {
        let tag = self.word(entry.hash, 0);
        self.search(entry.hash, |word| {
            (word ^ tag) >> self.position_bits == 0 && self.holds(self.position(word), entry)
        })
    }

    fn find_word(&self, hash: u64, wanted: u32) -> Option<Found> {
        self.search(hash, |word| word == wanted)
    }

    fn search(&self, hash: u64, wanted: impl Fn(u32) -> bool) -> Option<Found> {
        let home = self.home(hash);
        let in_line = |line: usize| {
            let slots = &self.lines[line].slots;
            let slot = slots.iter().position(|slot| wanted(slot.load(Relaxed)))?;
            Some(Found { line, slot, position: self.position(slots[slot].load(Relaxed)) })
        };
        in_line(home).or_else(|| {
            if self.lines[home].spilled.load(Relaxed) == 0 {
                return None;
            }
            self.spill_lines(hash).find_map(in_line)
        })
    }

    /// Starts loading the entry that a look-up of `hash` would compare.
    fn touch_match(&self, hash: u64) -> u32 {
        let tag = self.word(hash, 0);
        let mut seen = 0;
        for slot in &self.lines[self.home(hash)].slots {
            let word = slot.load(Relaxed);
            if (word ^ tag) >> self.position_bits == 0 {
                let position = self.position(word);
                #[allow(clippy::cast_possible_truncation, reason = "any bits will do")]
                let id = self.ids[position].0[0].load(Relaxed) as u32;
                seen ^= id ^ self.times[position].load(Relaxed);
            }
        }
        seen
    }

    fn holds(&self, position: usize, entry: &Probe) -> bool {
        self.id_at(position) == entry.id && self.kind_at(position) == entry.kind
    }

    fn write(&self, position: usize, entry: &Probe, now: u64) {
        for (word, value) in self.ids[position].0.iter().zip(entry.id) {
            word.store(value, Relaxed);
        }
        #[allow(clippy::cast_possible_truncation, reason = "the entry's clock is modulo 2^32")]
        self.times[position].store(now as u32, Relaxed);
        if let Some(kind) = self.kinds.get(position) {
            kind.store(entry.kind, Relaxed);
        }
    }

    fn id_at(&self, position: usize) -> [u64; 4] {
        std::array::from_fn(|i| self.ids[position].0[i].load(Relaxed))
    }

    fn kind_at(&self, position: usize) -> u8 {
        self.kinds.get(position).map_or(0, |kind| kind.load(Relaxed))
    }

    fn hash_at(&self, position: usize, hasher: &Hasher) -> u64 {
        hasher.hash(&self.id_at(position), self.kind_at(position))
    }

    /// Milliseconds since first sight; zero where another worker's clock reading was a little later than ours.
    fn age(&self, position: usize, now: u64) -> u32 {
        #[allow(clippy::cast_possible_truncation, reason = "the entry's clock is modulo 2^32")]
        let age = (now as u32).wrapping_sub(self.times[position].load(Relaxed));
        if age > u32::MAX / 2 { 0 } else { age }
    }

    fn is_expired(&self, position: usize, now: u64, horizon: u32) -> bool {
        self.age(position, now) >= horizon
    }

    /// The first line to look in: bits 28 to 59 of the hash.
    fn home(&self, hash: u64) -> usize {
        #[allow(clippy::cast_possible_truncation, reason = "these 32 bits")]
        let bits = (hash >> 28) as u32;
        scale(bits, self.lines.len())
    }

    /// Where entries go that found no room at home.
    fn spill_lines(&self, hash: u64) -> impl Iterator<Item = usize> {
        let home = self.home(hash);
        #[allow(clippy::cast_possible_truncation, reason = "the low half")]
        let first = scale((hash as u32).wrapping_mul(0x9E37_79B1), self.lines.len());
        let lines = self.lines.len();
        (0..SPILL_LINES).map(move |i| (first + i) % lines).filter(move |&line| line != home)
    }

    /// A slot's content: tag from the low half of the hash, never zero, and ring position.
    #[allow(clippy::cast_possible_truncation, reason = "the low half; positions are below 2^24")]
    fn word(&self, hash: u64, position: usize) -> u32 {
        let tag = (hash as u32) >> self.position_bits;
        tag.max(1) << self.position_bits | position as u32
    }

    fn position(&self, word: u32) -> usize {
        (word & ((1 << self.position_bits) - 1)) as usize
    }
}

/// Single writer under the lock: no atomic addition needed.
fn add(counter: &AtomicU32, by: u32) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

/// `bits` as a fraction of 2^32, times `n`.
fn scale(bits: u32, n: usize) -> usize {
    ((u64::from(bits) * n as u64) >> 32) as usize
}

/// Keyed hash of an id and a kind.
///
/// Two multilinear hashes with independent 64-bit keys over the 32-bit words of the id: the upper half of each is
/// strongly universal, so two ids chosen without knowledge of the keys agree in all 64 bits with probability 2^-64 and
/// a set of chosen ids spreads as a random one does. The mixing after that is a bijection; it only breaks up the linear
/// structure of sets such as counters.
struct Hasher {
    keys: [[u64; 10]; 2],
}

impl Hasher {
    fn new(seed: u64) -> Hasher {
        let mut state = seed;
        let mut next = || crate::random::split_mix(&mut state);
        Hasher { keys: std::array::from_fn(|_| std::array::from_fn(|_| next())) }
    }

    fn hash(&self, id: &[u64; 4], kind: u8) -> u64 {
        let half = |keys: &[u64; 10]| {
            let mut sum = keys[9].wrapping_add(keys[8].wrapping_mul(kind.into()));
            for (i, &word) in id.iter().enumerate() {
                sum = sum.wrapping_add(keys[2 * i].wrapping_mul(word & 0xFFFF_FFFF));
                sum = sum.wrapping_add(keys[2 * i + 1].wrapping_mul(word >> 32));
            }
            sum
        };
        let mut hash = half(&self.keys[0]) & !0xFFFF_FFFF | half(&self.keys[1]) >> 32;
        hash = (hash ^ hash >> 32).wrapping_mul(0x9FB2_1C65_1E98_DF25);
        hash = (hash ^ hash >> 29).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        hash ^ hash >> 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const HORIZON: Duration = Duration::from_secs(60);

    struct World {
        set: LocalSet,
        start: Instant,
    }

    impl World {
        fn new(capacity: usize) -> World {
            let start = Instant::now();
            World { set: LocalSet::starting_at(capacity, HORIZON, 7, start), start }
        }
        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }
        fn insert(&self, seconds: u64, keys: &[ClaimKey]) -> Vec<bool> {
            let mut new = Vec::new();
            self.set.insert_batch(keys, self.at(seconds), &mut new);
            new
        }
    }

    fn id(n: u64) -> [u8; 32] {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&n.to_le_bytes());
        id
    }

    fn tx(n: u64) -> ClaimKey {
        ClaimKey { class: Class::Tx, id: id(n) }
    }

    #[test]
    fn a_repeat_is_seen_until_the_horizon_of_its_first_sight() {
        let world = World::new(1000);
        assert_eq!(world.insert(0, &[tx(1), tx(2), tx(1)]), [true, true, false]);
        assert_eq!(world.insert(30, &[tx(1)]), [false]);
        assert_eq!(world.insert(59, &[tx(1)]), [false]);
        assert_eq!(world.insert(60, &[tx(1)]), [true], "a repeat must not push the expiry forward");
        assert_eq!(world.insert(61, &[tx(1)]), [false]);
    }

    #[test]
    fn classes_and_kinds_are_different_keys() {
        let world = World::new(1000);
        let classes =
            [Class::Tx, Class::Anchor, Class::Block(1), Class::Block(2), Class::Subtree(1), Class::Object(0)];
        let keys = classes.map(|class| ClaimKey { class, id: id(9) });
        assert_eq!(world.insert(0, &keys), [true; 6]);
        assert_eq!(world.insert(0, &keys), [false; 6]);
    }

    #[test]
    fn what_was_removed_is_new_again() {
        let world = World::new(1000);
        world.insert(0, &[tx(1), tx(2)]);
        world.set.remove(&tx(1));
        assert!(!world.set.contains(&tx(1), world.at(1)));
        assert_eq!(world.insert(1, &[tx(1), tx(2)]), [true, false]);
        // The first place of tx 1 leaves the ring without taking the new entry with it.
        assert_eq!(world.insert(60, &[tx(2), tx(1)]), [true, false]);
    }

    #[test]
    fn the_oldest_leaves_when_room_is_needed() {
        let world = World::new(200_000);
        let budget = world.set.occupancy()[0].capacity;
        let keys: Vec<_> = (0..2 * budget as u64).map(tx).collect();
        for (second, part) in keys.chunks(keys.len() / 20 + 1).enumerate() {
            world.insert(second as u64, part);
        }
        let now = world.at(20);
        let newest = &keys[keys.len() - budget * 97 / 100..];
        let lost = newest.iter().filter(|key| !world.set.contains(key, now)).count();
        assert_eq!(lost, 0, "newest entries were evicted");
        assert!(world.set.evicted_early() >= budget as u64 * 9 / 10);
        let held = world.set.effective_horizon(now).as_secs();
        assert!((8..=11).contains(&held), "{held} s");
    }

    #[test]
    fn a_set_that_is_not_full_evicts_nothing() {
        let world = World::new(200_000);
        let keys: Vec<_> = (0..world.set.occupancy()[0].capacity as u64).map(tx).collect();
        assert!(world.insert(0, &keys).iter().all(|&new| new));
        assert!(world.insert(59, &keys).iter().all(|&new| !new));
        assert_eq!(world.set.evicted_early(), 0);
        assert_eq!(world.set.effective_horizon(world.at(59)), HORIZON);
    }

    #[test]
    fn a_flood_in_one_class_evicts_nothing_of_another() {
        let world = World::new(10_000);
        world.insert(0, &[tx(1)]);
        let flood: Vec<_> = (0..50_000).map(|n| ClaimKey { class: Class::Object(1), id: id(n) }).collect();
        world.insert(1, &flood);
        assert_eq!(world.insert(2, &[tx(1)]), [false]);
    }

    #[test]
    fn entries_that_lay_idle_for_weeks_are_expired() {
        let world = World::new(1000);
        world.insert(0, &[tx(1)]);
        // 2^32 ms later the clock of the entry shows the same time.
        assert_eq!(world.insert((1 << 32) / 1000, &[tx(1)]), [true]);
    }

    #[test]
    fn an_entry_costs_at_most_48_bytes() {
        for capacity in [1 << 16, 1 << 20, (1 << 20) + 77] {
            let set = LocalSet::new(capacity, HORIZON, 1);
            assert!(set.memory() <= capacity * BYTES_PER_ENTRY, "{} for {capacity}", set.memory());
        }
    }

    #[test]
    fn workers_that_race_for_an_id_get_one_winner() {
        let world = World::new(100_000);
        let keys: Vec<_> = (0..20_000).map(tx).collect();
        let wins: usize = std::thread::scope(|scope| {
            let race = || keys.chunks(32).flat_map(|batch| world.insert(0, batch)).filter(|&new| new).count();
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(race)).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(wins, keys.len());
    }

    #[test]
    fn a_start_that_does_not_fit_its_horizon_says_so() {
        let warning = LocalSet::sizing_warning(1 << 20, Duration::from_secs(600), 100_000).unwrap();
        assert!(warning.contains("9.1 s at 100000/s"), "{warning}");
        assert!(warning.contains("--dedup-memory"), "{warning}");
        assert_eq!(LocalSet::sizing_warning(1 << 20, Duration::from_secs(600), 1500), None);
    }

    proptest! {
        /// Against a plain map: whatever the order of insertions, removals and pauses.
        #[test]
        fn it_agrees_with_a_map(steps in proptest::collection::vec((0u64..60, 0u8..10, 0u64..8), 1..400)) {
            let world = World::new(4000);
            let mut model: HashMap<u64, u64> = HashMap::new();
            let mut now = 0;
            for (n, what, pause) in steps {
                now += if pause == 0 { 9 } else { 0 };
                if what == 0 {
                    world.set.remove(&tx(n));
                    model.remove(&n);
                    continue;
                }
                let fresh = model.get(&n).is_none_or(|&first| now - first >= 60);
                if fresh {
                    model.insert(n, now);
                }
                prop_assert_eq!(world.insert(now, &[tx(n)]), [fresh]);
            }
        }
    }
}
