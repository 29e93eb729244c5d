//! A ring of entries in order of first sight, and the index into it.
//!
//! The index is made of 64-byte lines of twelve slots: a one-byte tag and a ring position each. An entry lives in its
//! home line, or, where that was full, in one of four lines elsewhere; the home line counts those.

use super::hash::Hasher;
use crate::{ClaimKey, Class};
use std::hint::black_box;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// Most entries of a shard.
pub(super) const MAX_SHARD: usize = 1 << 28;
const SLOTS: usize = 12;
/// Lines for 64 entries of a full set: 6.4 entries a line on average.
const LINES_PER_64: usize = 10;
/// Lines that a full line may spill into.
const SPILL_LINES: usize = 4;
const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;
/// Bytes of the second tag word that are tags; the others count what was spilled.
const SECOND: u64 = 0xFFFF_FFFF;

/// A key on its way through the set.
pub(super) struct Probe {
    pub(super) hash: u64,
    pub(super) id: [u64; 4],
    pub(super) kind: u8,
}

impl Probe {
    #[inline]
    pub(super) fn new(key: &ClaimKey, hasher: &Hasher) -> Probe {
        let (id, kind) = (words(&key.id), kind_byte(key.class));
        Probe { hash: hasher.hash(&id, kind), id, kind }
    }
}

#[inline]
pub(super) fn kind_byte(class: Class) -> u8 {
    class.kind().unwrap_or(0)
}

#[inline]
pub(super) fn words(id: &[u8; 32]) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(id.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

/// What time it is and how long an entry lives, in milliseconds.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    pub(super) now: u64,
    pub(super) horizon: u32,
}

/// Twelve tags (zero: free), the number of entries spilled from here, and twelve ring positions.
#[repr(align(64))]
#[derive(Default)]
struct Line {
    tags: [AtomicU64; 2],
    slots: [AtomicU32; SLOTS],
}

#[repr(align(32))]
#[derive(Default)]
struct Id([AtomicU64; 4]);

/// Written only with `order` locked; atomics because `touch` reads without it.
#[repr(align(64))]
pub(super) struct Shard {
    order: Mutex<Order>,
    lines: Box<[Line]>,
    ids: Box<[Id]>,
    /// Milliseconds of first sight, modulo 2^32.
    times: Box<[AtomicU32]>,
    /// Empty where the class has no kinds.
    kinds: Box<[AtomicU8]>,
}

/// The state of the ring.
#[derive(Default)]
pub(super) struct Order {
    /// Oldest position in use.
    tail: usize,
    /// Positions in use from the tail on, forgotten ones included.
    used: usize,
    /// Entries that can be found.
    pub(super) live: usize,
    /// Time of the newest entry and of the last sweep.
    newest: u64,
    swept: u64,
    /// Hash of the entry at the tail, if it was computed already.
    tail_hash: Option<u64>,
    pub(super) evicted_early: u64,
    /// Age of the entry that was evicted early last, and when that was.
    pub(super) evicted_age: u32,
    pub(super) evicted_at: u64,
}

/// Where an entry is.
#[derive(Clone, Copy)]
struct Found {
    line: usize,
    slot: usize,
    position: usize,
}

impl Line {
    /// Bit 8n+7 of each word is set where tag n of it is `tag`; perhaps also above such a one.
    #[inline]
    fn matches(&self, tag: u64) -> [u64; 2] {
        let wanted = tag * ONES;
        [zero_bytes(self.tag_word(0) ^ wanted), zero_bytes(self.tag_word(1) ^ wanted) & SECOND]
    }

    #[inline]
    fn tag_word(&self, word: usize) -> u64 {
        self.tags[word].load(Relaxed)
    }

    #[inline]
    fn free_slot(&self) -> Option<usize> {
        let [first, second] = self.matches(0);
        if first != 0 {
            return Some(byte_of(first));
        }
        (second != 0).then(|| 8 + byte_of(second))
    }

    #[inline]
    fn set(&self, slot: usize, tag: u64, position: usize) {
        #[allow(clippy::cast_possible_truncation, reason = "rings are shorter than 2^28")]
        self.slots[slot].store(position as u32, Relaxed);
        self.set_tag(slot, tag);
    }

    #[inline]
    fn set_tag(&self, slot: usize, tag: u64) {
        let (word, shift) = (&self.tags[slot / 8], slot % 8 * 8);
        word.store(word.load(Relaxed) & !(0xFF << shift) | tag << shift, Relaxed);
    }

    #[inline]
    fn spilled(&self) -> u64 {
        self.tag_word(1) >> 32
    }

    fn count_spilled(&self, more: bool) {
        let word = self.tag_word(1);
        let step = 1 << 32;
        self.tags[1].store(if more { word.wrapping_add(step) } else { word.wrapping_sub(step) }, Relaxed);
    }

    #[inline]
    fn position(&self, slot: usize) -> usize {
        self.slots[slot].load(Relaxed) as usize
    }
}

/// The high bit of each zero byte; the lowest one set is exact.
#[inline]
fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGHS
}

#[inline]
fn byte_of(mask: u64) -> usize {
    (mask.trailing_zeros() / 8) as usize
}

impl Shard {
    pub(super) fn new(capacity: usize, has_kinds: bool) -> Shard {
        let capacity = capacity.clamp(1, MAX_SHARD);
        // A small ring gets an emptier index, so that chance does not crowd its few lines.
        let share = if capacity < 1024 { 2 * LINES_PER_64 } else { LINES_PER_64 };
        let lines = (capacity * share).div_ceil(64).max(2);
        Shard {
            order: Mutex::default(),
            lines: (0..lines).map(|_| Line::default()).collect(),
            ids: (0..capacity).map(|_| Id::default()).collect(),
            times: (0..capacity).map(|_| AtomicU32::new(0)).collect(),
            kinds: (0..if has_kinds { capacity } else { 0 }).map(|_| AtomicU8::new(0)).collect(),
        }
    }

    pub(super) fn memory(&self) -> usize {
        size_of::<Shard>()
            + self.lines.len() * size_of::<Line>()
            + self.ids.len() * (size_of::<Id>() + size_of::<AtomicU32>())
            + self.kinds.len()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Order> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock_or_skip(&self, wait: bool) -> Option<MutexGuard<'_, Order>> {
        if wait {
            return Some(self.lock());
        }
        match self.order.try_lock() {
            Ok(order) => Some(order),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Starts loading the line that a look-up reads first.
    #[inline]
    pub(super) fn touch_line(&self, hash: u64) -> u64 {
        self.lines[self.home(hash)].tag_word(1)
    }

    /// Starts loading the entries that a look-up would compare, once the line is here.
    #[inline]
    pub(super) fn touch_match(&self, hash: u64) -> u64 {
        let line = &self.lines[self.home(hash)];
        let [first, second] = line.matches(tag(hash));
        let mut seen = 0;
        for (mask, base) in [(first, 0), (second, 8)] {
            if mask != 0
                && let position = line.position(base + byte_of(mask))
                && let Some(id) = self.ids.get(position)
            {
                seen ^= id.0[0].load(Relaxed) ^ u64::from(self.times[position].load(Relaxed));
            }
        }
        seen
    }

    /// True where the entry is new.
    #[inline]
    pub(super) fn insert(&self, order: &mut Order, entry: &Probe, clock: Clock, hasher: &Hasher) -> bool {
        self.expire(order, clock, hasher);
        if let Some(found) = self.find(entry) {
            if !self.is_expired(found.position, clock) {
                return false;
            }
            self.clear_slot(order, found, entry.hash);
        }
        if order.used == self.ids.len() {
            self.pop(order, clock, hasher);
        }
        let position = self.wrap(order.tail + order.used);
        order.used += 1;
        order.newest = order.newest.max(clock.now);
        self.write(position, entry, clock.now);
        self.index(order, entry.hash, position, clock);
        true
    }

    pub(super) fn forget(&self, order: &mut Order, entry: &Probe) {
        if let Some(found) = self.find(entry) {
            self.clear_slot(order, found, entry.hash);
        }
    }

    pub(super) fn holds(&self, order: &mut Order, entry: &Probe, clock: Clock, hasher: &Hasher) -> bool {
        self.expire(order, clock, hasher);
        self.find(entry).is_some_and(|found| !self.is_expired(found.position, clock))
    }

    /// Lets expired entries go from the tail: a few at a time while there is traffic, more in proportion to the time
    /// since the last sweep, and all at once when nothing is younger than the horizon. So no entry outlives its horizon
    /// by long enough for its 32-bit clock to come round.
    #[inline]
    fn expire(&self, order: &mut Order, clock: Clock, hasher: &Hasher) {
        if order.used > 0
            && !self.is_expired(order.tail, clock)
            && clock.now < order.newest + u64::from(clock.horizon)
        {
            order.swept = clock.now;
            return;
        }
        self.sweep(order, clock, hasher);
    }

    #[cold]
    fn sweep(&self, order: &mut Order, clock: Clock, hasher: &Hasher) {
        let elapsed = clock.now.saturating_sub(order.swept);
        order.swept = order.swept.max(clock.now);
        if order.used > 0 && clock.now.saturating_sub(order.newest) >= u64::from(clock.horizon) {
            return self.clear(order);
        }
        let share = u128::from(elapsed) * 2 * self.ids.len() as u128 / u128::from(clock.horizon);
        let mut budget = 2 + usize::try_from(share).unwrap_or(usize::MAX - 2);
        while budget > 0 && order.used > 0 && self.is_expired(order.tail, clock) {
            self.pop(order, clock, hasher);
            budget -= 1;
        }
    }

    fn clear(&self, order: &mut Order) {
        for line in &self.lines {
            line.tags.iter().for_each(|word| word.store(0, Relaxed));
        }
        order.used = 0;
        order.live = 0;
        order.tail_hash = None;
    }

    /// The oldest position leaves, with its entry unless that was forgotten before.
    #[inline]
    fn pop(&self, order: &mut Order, clock: Clock, hasher: &Hasher) {
        let position = order.tail;
        let hash = order.tail_hash.unwrap_or_else(|| self.hash_at(position, hasher));
        order.tail = self.wrap(order.tail + 1);
        order.used -= 1;
        order.tail_hash = (order.used > 0).then(|| self.hash_at(order.tail, hasher));
        // The line of the next to leave is on its way by then.
        black_box(self.touch_line(order.tail_hash.unwrap_or(hash)));
        let Some(found) = self.search(hash, |at| at == position) else { return };
        self.clear_slot(order, found, hash);
        self.count_if_early(order, position, clock);
    }

    #[inline]
    fn count_if_early(&self, order: &mut Order, position: usize, clock: Clock) {
        let age = self.age(position, clock.now);
        if age < clock.horizon {
            order.evicted_early += 1;
            order.evicted_age = age;
            order.evicted_at = clock.now;
        }
    }

    /// Gives the entry a slot: at home, else in its second place, else in the slot of the oldest entry at home.
    #[inline]
    fn index(&self, order: &mut Order, hash: u64, position: usize, clock: Clock) {
        order.live += 1;
        let home = &self.lines[self.home(hash)];
        if let Some(slot) = home.free_slot() {
            return home.set(slot, tag(hash), position);
        }
        self.spill(order, hash, position, clock);
    }

    #[cold]
    fn spill(&self, order: &mut Order, hash: u64, position: usize, clock: Clock) {
        let home = &self.lines[self.home(hash)];
        for line in self.spill_lines(hash) {
            if let Some(slot) = self.lines[line].free_slot() {
                home.count_spilled(true);
                return self.lines[line].set(slot, tag(hash), position);
            }
        }
        let age = |slot: &usize| self.wrap(home.position(*slot) + self.ids.len() - order.tail);
        let Some(oldest) = (0..SLOTS).min_by_key(age) else { return };
        let leaving = home.position(oldest);
        home.set(oldest, tag(hash), position);
        order.live -= 1;
        self.count_if_early(order, leaving, clock);
    }

    #[inline]
    fn clear_slot(&self, order: &mut Order, found: Found, hash: u64) {
        self.lines[found.line].set_tag(found.slot, 0);
        order.live -= 1;
        let home = self.home(hash);
        if found.line != home {
            self.lines[home].count_spilled(false);
        }
    }

    #[inline]
    fn find(&self, entry: &Probe) -> Option<Found> {
        self.search(entry.hash, |position| self.is_at(position, entry))
    }

    #[inline]
    fn search(&self, hash: u64, wanted: impl Fn(usize) -> bool) -> Option<Found> {
        let home = self.home(hash);
        let found = self.search_line(home, hash, &wanted);
        if found.is_some() || self.lines[home].spilled() == 0 {
            return found;
        }
        self.spill_lines(hash).find_map(|line| self.search_line(line, hash, &wanted))
    }

    #[inline]
    fn search_line(&self, line: usize, hash: u64, wanted: &impl Fn(usize) -> bool) -> Option<Found> {
        let [first, second] = self.lines[line].matches(tag(hash));
        for (mut mask, base) in [(first, 0), (second, 8)] {
            while mask != 0 {
                let slot = base + byte_of(mask);
                mask &= mask - 1;
                let position = self.lines[line].position(slot);
                // A match above another may be a free slot with an old position.
                if wanted(position) && self.tag_at(line, slot) == tag(hash) {
                    return Some(Found { line, slot, position });
                }
            }
        }
        None
    }

    #[inline]
    fn tag_at(&self, line: usize, slot: usize) -> u64 {
        self.lines[line].tag_word(slot / 8) >> (slot % 8 * 8) & 0xFF
    }

    #[inline]
    fn is_at(&self, position: usize, entry: &Probe) -> bool {
        self.id_at(position) == entry.id && self.kind_at(position) == entry.kind
    }

    #[inline]
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

    #[inline]
    fn id_at(&self, position: usize) -> [u64; 4] {
        let id = &self.ids[position].0;
        std::array::from_fn(|i| id[i].load(Relaxed))
    }

    #[inline]
    fn kind_at(&self, position: usize) -> u8 {
        self.kinds.get(position).map_or(0, |kind| kind.load(Relaxed))
    }

    #[inline]
    fn hash_at(&self, position: usize, hasher: &Hasher) -> u64 {
        hasher.hash(&self.id_at(position), self.kind_at(position))
    }

    /// Milliseconds since first sight; zero where another worker's clock reading was a little later than ours.
    #[inline]
    fn age(&self, position: usize, now: u64) -> u32 {
        #[allow(clippy::cast_possible_truncation, reason = "the entry's clock is modulo 2^32")]
        let age = (now as u32).wrapping_sub(self.times[position].load(Relaxed));
        if age > u32::MAX / 2 { 0 } else { age }
    }

    #[inline]
    fn is_expired(&self, position: usize, clock: Clock) -> bool {
        self.age(position, clock.now) >= clock.horizon
    }

    /// A ring position that ran over the end at most once.
    #[inline]
    fn wrap(&self, position: usize) -> usize {
        if position >= self.ids.len() { position - self.ids.len() } else { position }
    }

    /// The first line to look in: bits 28 to 59 of the hash.
    #[inline]
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
}

/// What a slot says about its entry: the low bits of the hash, never zero.
#[inline]
fn tag(hash: u64) -> u64 {
    (hash & 0xFF).max(1)
}

/// `bits` as a fraction of 2^32, times `n`.
#[inline]
fn scale(bits: u32, n: usize) -> usize {
    ((u64::from(bits) * n as u64) >> 32) as usize
}
