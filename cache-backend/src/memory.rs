//! `memory`: a store inside the process, shared by the roles that run in it.
//!
//! Why: roles of one process, tests and single-node set-ups need the contract of a shared backend without a server.
//!
//! Promises: It never holds more than its capacity in bytes, index included. A value is copied in and copied out. An
//! expired record is never answered. When room is needed, the oldest generation of a stripe leaves first, as a whole.
//!
//! How: each stripe is a ring of *generations* and a fixed index. A generation is an append-only byte log; all have one
//! size, are allocated on first use and then reused. The index has 8-way buckets with two choices for each key. An index entry
//! names the generation it points into, so a generation leaves by moving a counter: its entries are dead from then on, and
//! later inserts take their places. Nothing is ever swept.
//!
//! Limits: a record (16 bytes + key + value) must fit into one generation, else it is refused and counted. Records
//! shorter than `INDEX_GRAIN` may lose old entries early, because the index is full before the logs are.
//!
//! Cost: one lock of one stripe and about two cache misses a key; no allocation on claim and set, one on get.

use crate::{Answers, Backend, Claimed, Immediate, KeyValues, OpError, OpErrorKind, OpenError, Session};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const GENERATIONS: usize = 16;
const MAX_STRIPES: usize = 64;
/// Stripes are added only while each generation stays at least this long, so that large values fit.
const GENERATION_AIM: usize = 256 << 10;
/// Offsets are 24 bits of 8-byte units.
const GENERATION_MAX: usize = 8 << 24;
const WAYS: usize = 8;
/// One index entry of eight bytes for this many bytes of log.
const INDEX_GRAIN: usize = 64;
const HEADER: usize = 16;
const NEVER: u64 = u64::MAX;

/// See the module text. Clones share the store.
///
/// ```
/// use cache_backend::{Claimed, KeyValues, Memory};
/// use std::time::{Duration, Instant};
///
/// let store = Memory::new(64 << 20);
/// let (ttl, now) = (Duration::from_secs(600), Instant::now());
/// let mut batch = KeyValues::new();
/// batch.push(b"bsp:tx:one", b"mine");
/// batch.push(b"bsp:tx:one", b"yours");
///
/// let mut answers = Vec::new();
/// store.claim(&batch, ttl, now, &mut answers);
/// assert_eq!(answers, [Claimed::Created, Claimed::Exists(b"mine"[..].into())]);
///
/// // Once its time is over the key is free again.
/// store.claim(&batch, ttl, now + ttl, &mut answers);
/// assert_eq!(answers[2], Claimed::Created);
/// ```
#[derive(Clone)]
pub struct Memory {
    shared: Arc<Shared>,
}

struct Shared {
    stripes: Box<[Mutex<Stripe>]>,
    hasher: RandomState,
    /// Expiries are microseconds since this moment.
    base: Instant,
    capacity: usize,
    refused: AtomicU64,
}

impl Memory {
    /// Never holds more than `capacity` bytes, own overhead included.
    pub fn new(capacity: usize) -> Memory {
        // index : log = 8 : INDEX_GRAIN, and a fixed share per stripe for the structures themselves.
        let fixed = size_of::<Mutex<Stripe>>() + GENERATIONS * size_of::<Generation>();
        let logs = |stripes: usize| {
            let usable = (capacity / stripes).saturating_sub(fixed + 64 * WAYS);
            usable / (INDEX_GRAIN + 8) * INDEX_GRAIN
        };
        let mut stripes = 1;
        while stripes < MAX_STRIPES && logs(stripes * 2) / GENERATIONS >= GENERATION_AIM {
            stripes *= 2;
        }
        let generation = (logs(stripes) / GENERATIONS).min(GENERATION_MAX) & !7;
        let entries = generation * GENERATIONS / INDEX_GRAIN;
        let stripes = (0..stripes).map(|_| Mutex::new(Stripe::new(generation, entries))).collect();
        Memory {
            shared: Arc::new(Shared {
                stripes,
                hasher: RandomState::new(),
                base: Instant::now(),
                capacity,
                refused: AtomicU64::new(0),
            }),
        }
    }

    /// Create-only writes; one answer per pair is appended to `out`. A record that can never fit is answered
    /// `Created` and not stored: a claim that cannot be kept must not suppress.
    pub fn claim(&self, batch: &KeyValues, ttl: Duration, now: Instant, out: &mut Vec<Claimed>) {
        out.reserve(batch.len());
        self.claim_each(batch, ttl, now, |answer| out.push(answer));
    }

    fn claim_each(&self, batch: &KeyValues, ttl: Duration, now: Instant, mut answer: impl FnMut(Claimed)) {
        let (now, expires) = self.times(now, ttl);
        for (key, value) in batch.iter() {
            let hash = self.shared.hasher.hash_one(key);
            let mut stripe = self.stripe(hash);
            if let Some(found) = stripe.find(hash, key, now) {
                answer(Claimed::Exists(Bytes::copy_from_slice(stripe.value(found))));
                continue;
            }
            if !stripe.insert(hash, key, value, now, expires) {
                self.shared.refused.fetch_add(1, Relaxed);
            }
            answer(Claimed::Created);
        }
    }

    /// Overwrites. Records that can never fit are refused and counted.
    pub fn set(&self, batch: &KeyValues, ttl: Duration, now: Instant) {
        for (key, value) in batch.iter() {
            self.set_one(key, value, ttl, now);
        }
    }

    fn set_one(&self, key: &[u8], value: &[u8], ttl: Duration, now: Instant) -> bool {
        let (now, expires) = self.times(now, ttl);
        let hash = self.shared.hasher.hash_one(key);
        let mut stripe = self.stripe(hash);
        if let Some(found) = stripe.find(hash, key, now) {
            if stripe.overwrite(found, value, expires) {
                return true;
            }
            stripe.forget(found);
        }
        let stored = stripe.insert(hash, key, value, now, expires);
        if !stored {
            self.shared.refused.fetch_add(1, Relaxed);
        }
        stored
    }

    /// The value of `key` unless it is absent or expired.
    pub fn get(&self, key: &[u8], now: Instant) -> Option<Bytes> {
        let now = self.micros(now);
        let hash = self.shared.hasher.hash_one(key);
        let stripe = self.stripe(hash);
        let found = stripe.find(hash, key, now)?;
        Some(Bytes::copy_from_slice(stripe.value(found)))
    }

    /// True where a record was removed.
    pub fn del(&self, key: &[u8]) -> bool {
        let hash = self.shared.hasher.hash_one(key);
        let mut stripe = self.stripe(hash);
        let mut removed = false;
        // An expired record of the same key may still have its entry beside the live one.
        while let Some(found) = stripe.find(hash, key, 0) {
            stripe.forget(found);
            removed = true;
        }
        removed
    }

    /// The bound given at the start.
    pub fn capacity(&self) -> usize {
        self.shared.capacity
    }

    /// Bytes allocated now, own overhead included; never above `capacity`.
    pub fn allocated(&self) -> usize {
        self.shared.stripes.iter().map(|stripe| lock(stripe).allocated()).sum()
    }

    /// Generations that left with records that had not expired, because room was needed.
    pub fn evicted_generations(&self) -> u64 {
        self.shared.stripes.iter().map(|stripe| lock(stripe).evicted).sum()
    }

    /// Records that could not be stored because they are longer than a generation.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Relaxed)
    }

    fn stripe(&self, hash: u64) -> MutexGuard<'_, Stripe> {
        // The low bits choose the bucket, the high ones the tag; the stripe takes bits of its own.
        let index = (hash >> 48) as usize & (self.shared.stripes.len() - 1);
        lock(&self.shared.stripes[index])
    }

    fn micros(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.shared.base);
        u64::try_from(since.as_micros()).unwrap_or(NEVER - 1)
    }

    fn times(&self, now: Instant, ttl: Duration) -> (u64, u64) {
        let now = self.micros(now);
        if ttl.is_zero() {
            return (now, NEVER);
        }
        let ttl = u64::try_from(ttl.as_micros()).unwrap_or(NEVER).max(1);
        (now, now.saturating_add(ttl))
    }
}

/// No code panics under the lock, so a poisoned stripe is still whole.
fn lock(stripe: &Mutex<Stripe>) -> MutexGuard<'_, Stripe> {
    stripe.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a record begins. Sequence 0 is the empty entry.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Entry {
    sequence: u32,
    /// Tag in the top 8 bits, offset in units of 8 bytes below.
    place: u32,
}

impl Entry {
    fn offset(self) -> usize {
        (self.place & 0x00ff_ffff) as usize * 8
    }
    fn tag(self) -> u32 {
        self.place >> 24
    }
}

/// One log: records of {expiry u64, key length u32, value length u32, key, value}, each padded to 8 bytes.
#[derive(Default)]
struct Generation {
    log: Vec<u8>,
    latest_expiry: u64,
}

/// A record that was found: its entry and where that entry is.
#[derive(Clone, Copy)]
struct Found {
    slot: usize,
    entry: Entry,
}

struct Stripe {
    index: Vec<Entry>,
    ring: Vec<Generation>,
    generation_bytes: usize,
    /// Sequence of the generation that is being written; it lives at `sequence % GENERATIONS`.
    sequence: u32,
    evicted: u64,
}

impl Stripe {
    fn new(generation_bytes: usize, entries: usize) -> Stripe {
        Stripe {
            index: vec![Entry::default(); entries / WAYS * WAYS],
            ring: (0..GENERATIONS).map(|_| Generation::default()).collect(),
            generation_bytes,
            sequence: 1,
            evicted: 0,
        }
    }

    fn allocated(&self) -> usize {
        size_of::<Mutex<Stripe>>()
            + self.index.capacity() * size_of::<Entry>()
            + self.ring.iter().map(|g| size_of::<Generation>() + g.log.capacity()).sum::<usize>()
    }

    fn is_live(&self, entry: Entry) -> bool {
        entry.sequence != 0 && (self.sequence.wrapping_sub(entry.sequence) as usize) < GENERATIONS
    }

    /// First slots of the two buckets of a hash.
    fn buckets(&self, hash: u64) -> [usize; 2] {
        let count = (self.index.len() / WAYS) as u64;
        let first = ((hash & 0xffff_ffff) * count) >> 32;
        let second = ((hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) * count) >> 32;
        [first as usize * WAYS, second as usize * WAYS]
    }

    fn tag(hash: u64) -> u32 {
        (hash >> 56) as u32
    }

    /// The record of `key` if it is live and expires after `now`.
    fn find(&self, hash: u64, key: &[u8], now: u64) -> Option<Found> {
        if self.index.is_empty() {
            return None;
        }
        let tag = Stripe::tag(hash);
        for bucket in self.buckets(hash) {
            for (way, &entry) in self.index[bucket..bucket + WAYS].iter().enumerate() {
                if entry.tag() != tag || !self.is_live(entry) {
                    continue;
                }
                let record = self.record(entry);
                if record.key == key && now < record.expires {
                    return Some(Found { slot: bucket + way, entry });
                }
            }
        }
        None
    }

    fn record(&self, entry: Entry) -> Record<'_> {
        let log = &self.ring[entry.sequence as usize % GENERATIONS].log;
        Record::at(log.get(entry.offset()..).unwrap_or_default())
    }

    fn value(&self, found: Found) -> &[u8] {
        self.record(found.entry).value
    }

    fn forget(&mut self, found: Found) {
        self.index[found.slot] = Entry::default();
    }

    /// In place, if the record is in the generation that leaves last and the length is the same.
    fn overwrite(&mut self, found: Found, value: &[u8], expires: u64) -> bool {
        if found.entry.sequence != self.sequence {
            return false;
        }
        let record = self.record(found.entry);
        let (start, old) = (found.entry.offset() + HEADER + record.key.len(), record.value.len());
        if old != value.len() {
            return false;
        }
        let generation = &mut self.ring[self.sequence as usize % GENERATIONS];
        generation.log[start..start + old].copy_from_slice(value);
        generation.log[found.entry.offset()..][..8].copy_from_slice(&expires.to_le_bytes());
        generation.latest_expiry = generation.latest_expiry.max(expires);
        true
    }

    /// False if the record can never fit. The key must not be present.
    fn insert(&mut self, hash: u64, key: &[u8], value: &[u8], now: u64, expires: u64) -> bool {
        let (Ok(key_len), Ok(value_len)) = (u32::try_from(key.len()), u32::try_from(value.len())) else {
            return false;
        };
        let length = (HEADER + key.len() + value.len()).next_multiple_of(8);
        if length > self.generation_bytes || self.index.is_empty() {
            return false;
        }
        if self.ring[self.sequence as usize % GENERATIONS].log.len() + length > self.generation_bytes {
            self.next_generation(now);
        }
        let slot = self.free_slot(hash);
        let generation_bytes = self.generation_bytes;
        let generation = &mut self.ring[self.sequence as usize % GENERATIONS];
        if generation.log.capacity() == 0 {
            generation.log.reserve_exact(generation_bytes);
        }
        let offset = generation.log.len();
        generation.log.extend_from_slice(&expires.to_le_bytes());
        generation.log.extend_from_slice(&key_len.to_le_bytes());
        generation.log.extend_from_slice(&value_len.to_le_bytes());
        generation.log.extend_from_slice(key);
        generation.log.extend_from_slice(value);
        generation.log.resize(offset + length, 0);
        generation.latest_expiry = generation.latest_expiry.max(expires);
        #[allow(clippy::cast_possible_truncation, reason = "a generation is at most 24 bits of 8-byte units")]
        let place = Stripe::tag(hash) << 24 | (offset / 8) as u32;
        self.index[slot] = Entry { sequence: self.sequence, place };
        true
    }

    /// A dead entry in the emptier of the two buckets, else the oldest entry of both.
    fn free_slot(&self, hash: u64) -> usize {
        let buckets = self.buckets(hash);
        let [first, second] = buckets.map(|bucket| self.index[bucket..bucket + WAYS].iter());
        let dead =
            |bucket: std::slice::Iter<'_, Entry>| bucket.filter(|&&entry| !self.is_live(entry)).count();
        let emptier = if dead(second) > dead(first) { buckets[1] } else { buckets[0] };
        let slots = emptier..emptier + WAYS;
        if let Some(slot) = slots.clone().find(|&slot| !self.is_live(self.index[slot])) {
            return slot;
        }
        let age = |slot: &usize| self.sequence.wrapping_sub(self.index[*slot].sequence);
        buckets.into_iter().flat_map(|bucket| bucket..bucket + WAYS).max_by_key(age).unwrap_or(emptier)
    }

    fn next_generation(&mut self, now: u64) {
        self.sequence = match self.sequence.checked_add(1) {
            Some(next) => next,
            None => {
                // Sequences start anew, so entries of the old count must not look alive: once in 2^32 generations.
                self.index.fill(Entry::default());
                1
            }
        };
        let generation = &mut self.ring[self.sequence as usize % GENERATIONS];
        if generation.latest_expiry > now {
            self.evicted += 1;
        }
        generation.log.clear();
        generation.latest_expiry = 0;
    }
}

/// A view of one record.
#[derive(Default)]
struct Record<'a> {
    expires: u64,
    key: &'a [u8],
    value: &'a [u8],
}

impl<'a> Record<'a> {
    fn at(bytes: &'a [u8]) -> Record<'a> {
        Record::parse(bytes).unwrap_or_default()
    }

    fn parse(bytes: &'a [u8]) -> Option<Record<'a>> {
        let (expires, rest) = bytes.split_first_chunk::<8>()?;
        let (key_len, rest) = rest.split_first_chunk::<4>()?;
        let (value_len, rest) = rest.split_first_chunk::<4>()?;
        let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*key_len) as usize)?;
        let value = rest.get(..u32::from_le_bytes(*value_len) as usize)?;
        Some(Record { expires: u64::from_le_bytes(*expires), key, value })
    }
}

impl Backend for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }
    fn session(&self) -> BoxFuture<'_, Result<Box<dyn Session>, OpenError>> {
        let memory = self.clone();
        async move { Ok(Box::new(memory) as Box<dyn Session>) }.boxed()
    }
    fn immediate(&self) -> Option<Arc<dyn Immediate>> {
        Some(Arc::new(self.clone()))
    }
    fn healthy(&self) -> BoxFuture<'_, Result<(), OpError>> {
        ready(Ok(())).boxed()
    }
    fn close(&self) -> BoxFuture<'_, ()> {
        ready(()).boxed()
    }
}

impl Immediate for Memory {
    fn claim(&self, batch: &KeyValues, ttl: Duration, now: Instant) -> Answers<Claimed> {
        let mut answers = Vec::with_capacity(batch.len());
        self.claim_each(batch, ttl, now, |answer| answers.push(Ok(answer)));
        answers
    }
    fn set(&self, batch: &KeyValues, ttl: Duration, now: Instant) -> Answers<()> {
        let store = |(key, value): (&[u8], &[u8])| {
            if self.set_one(key, value, ttl, now) {
                return Ok(());
            }
            let detail = format!("a value of {} bytes does not fit", value.len());
            Err(OpError::not_done("memory", OpErrorKind::Refused, detail))
        };
        batch.iter().map(store).collect()
    }
    fn get(&self, keys: &KeyValues, now: Instant) -> Answers<Option<Bytes>> {
        keys.iter().map(|(key, _)| Ok(Memory::get(self, key, now))).collect()
    }
    fn del(&self, keys: &KeyValues, _: Instant) -> Answers<bool> {
        keys.iter().map(|(key, _)| Ok(Memory::del(self, key))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const TTL: Duration = Duration::from_secs(60);

    fn one(key: &[u8], value: &[u8]) -> KeyValues {
        let mut batch = KeyValues::new();
        batch.push(key, value);
        batch
    }

    fn claim(memory: &Memory, key: &[u8], value: &[u8], ttl: Duration, now: Instant) -> Claimed {
        let mut out = Vec::new();
        memory.claim(&one(key, value), ttl, now, &mut out);
        out.remove(0)
    }

    #[test]
    fn the_first_claim_creates_and_the_second_gets_the_value_of_the_first() {
        let memory = Memory::new(1 << 20);
        let now = Instant::now();
        assert_eq!(claim(&memory, b"k", b"mine", TTL, now), Claimed::Created);
        assert_eq!(claim(&memory, b"k", b"theirs", TTL, now), Claimed::Exists(Bytes::from_static(b"mine")));
        assert!(memory.del(b"k"));
        assert!(!memory.del(b"k"));
        assert_eq!(claim(&memory, b"k", b"theirs", TTL, now), Claimed::Created);
    }

    #[test]
    fn a_record_is_gone_when_its_time_is_over_and_never_with_a_ttl_of_zero() {
        let memory = Memory::new(1 << 20);
        let now = Instant::now();
        memory.set(&one(b"short", b"1"), Duration::from_millis(10), now);
        memory.set(&one(b"forever", b"2"), Duration::ZERO, now);
        assert_eq!(memory.get(b"short", now + Duration::from_millis(9)).as_deref(), Some(&b"1"[..]));
        assert_eq!(memory.get(b"short", now + Duration::from_millis(10)), None);
        assert_eq!(claim(&memory, b"short", b"3", TTL, now + Duration::from_millis(10)), Claimed::Created);
        assert_eq!(memory.get(b"forever", now + Duration::from_secs(1 << 40)).as_deref(), Some(&b"2"[..]));
    }

    #[test]
    fn a_set_replaces_value_and_expiry_whatever_their_length() {
        let memory = Memory::new(1 << 20);
        let now = Instant::now();
        for (value, ttl) in [(&b"abc"[..], 1), (b"xyz", 2), (b"longer than before", 3), (b"", 4)] {
            memory.set(&one(b"k", value), Duration::from_secs(ttl), now);
            assert_eq!(memory.get(b"k", now + Duration::from_millis(ttl * 1000 - 1)).as_deref(), Some(value));
            assert_eq!(memory.get(b"k", now + Duration::from_secs(ttl)), None);
        }
        assert!(memory.del(b"k"));
        assert_eq!(memory.get(b"k", now), None);
    }

    #[test]
    fn memory_stays_below_its_bound_and_the_newest_records_survive() {
        for capacity in [64 << 10, 1 << 20, 24 << 20] {
            let memory = Memory::new(capacity);
            let now = Instant::now();
            let count = capacity / 32;
            for i in 0..count {
                let key = format!("bsp:tx:{i:064x}");
                assert_eq!(claim(&memory, key.as_bytes(), &[7; 33], TTL, now), Claimed::Created);
            }
            assert!(memory.allocated() <= capacity, "{} of {capacity}", memory.allocated());
            assert!(memory.allocated() >= capacity / 10 * 9, "{} of {capacity}", memory.allocated());
            assert!(memory.evicted_generations() > 0);
            // 120 bytes a record; the bound leaves room for the last third of those that fit, for certain.
            let newest = capacity / 120 * 2 / 3;
            for i in count - newest..count {
                let key = format!("bsp:tx:{i:064x}");
                assert!(memory.get(key.as_bytes(), now).is_some(), "record {i} of {count} is gone");
            }
            assert!(memory.get(format!("bsp:tx:{:064x}", 0).as_bytes(), now).is_none());
        }
    }

    #[test]
    fn what_can_never_fit_is_refused_and_a_claim_of_it_never_suppresses() {
        let memory = Memory::new(1 << 20);
        let now = Instant::now();
        let huge = vec![0; 1 << 20];
        assert_eq!(claim(&memory, b"k", &huge, TTL, now), Claimed::Created);
        assert_eq!(claim(&memory, b"k", &huge, TTL, now), Claimed::Created);
        assert_eq!(memory.refused(), 2);
        let nothing = Memory::new(0);
        assert_eq!(claim(&nothing, b"k", b"v", TTL, now), Claimed::Created);
        assert_eq!(
            nothing.allocated(),
            nothing.shared.stripes.len() * (size_of::<Mutex<Stripe>>() + 16 * size_of::<Generation>())
        );
    }

    #[test]
    fn values_are_copied_in_and_out() {
        let memory = Memory::new(1 << 20);
        let now = Instant::now();
        memory.set(&one(b"k", b"first"), TTL, now);
        let held = memory.get(b"k", now).unwrap();
        memory.set(&one(b"k", b"other"), TTL, now);
        assert_eq!(&held[..], b"first");
    }

    #[test]
    fn one_winner_among_threads_that_race_for_a_key() {
        let memory = Memory::new(8 << 20);
        let winners = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let now = Instant::now();
                    for i in 0..1000u32 {
                        if claim(&memory, &i.to_le_bytes(), b"me", TTL, now) == Claimed::Created {
                            winners.fetch_add(1, Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(winners.load(Relaxed), 1000);
    }

    proptest::proptest! {
        #[test]
        fn it_answers_as_a_map_does_while_nothing_is_evicted(
            steps in proptest::collection::vec((0u8..4, 0u8..12, 0usize..40, 1u64..50), 1..300)
        ) {
            let memory = Memory::new(4 << 20);
            let start = Instant::now();
            let mut model: HashMap<u8, (Vec<u8>, Instant)> = HashMap::new();
            for (at, (what, key, length, ttl)) in steps.into_iter().enumerate() {
                let now = start + Duration::from_millis(at as u64);
                let ttl = Duration::from_millis(ttl);
                model.retain(|_, (_, expires)| now < *expires);
                let value = vec![u8::try_from(at % 251).unwrap(); length];
                match what {
                    0 => {
                        let expected = match model.get(&key) {
                            Some((old, _)) => Claimed::Exists(Bytes::copy_from_slice(old)),
                            None => Claimed::Created,
                        };
                        assert_eq!(claim(&memory, &[key], &value, ttl, now), expected);
                        model.entry(key).or_insert((value, now + ttl));
                    }
                    1 => {
                        memory.set(&one(&[key], &value), ttl, now);
                        model.insert(key, (value, now + ttl));
                    }
                    2 => {
                        let expected = model.get(&key).map(|(value, _)| Bytes::copy_from_slice(value));
                        assert_eq!(memory.get(&[key], now), expected);
                    }
                    _ => {
                        // An expired record may be removed, which nobody can tell from a miss afterwards.
                        let removed = memory.del(&[key]);
                        assert!(removed || !model.contains_key(&key));
                        model.remove(&key);
                    }
                }
            }
        }
    }
}
