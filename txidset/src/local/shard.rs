//! A ring of entries in order of first sight, and the index into it.
//!
//! The index is made of 64-byte lines of twelve slots: a one-byte tag and the sequence number of an entry. An entry lives
//! in its home line, or, where that was full, in one of four lines elsewhere; the home line remembers the last one that
//! did. Entries leave at the tail of the ring without a visit to the index: a slot whose number is no longer in the ring
//! is free. Numbers come round after 2^32 entries; a slot so old may look taken for a while, but what it names is still
//! compared by all 32 bytes.

use super::hash::Hasher;
use crate::key::{ClaimKey, Class};
use huge_pages::{HugeTable, prefetch};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// Most entries of a shard.
pub(super) const MAX_SHARD: usize = 1 << 28;
const SLOTS: usize = 12;
/// The id of a position whose entry was forgotten.
const FORGOTTEN: [u64; 4] = [0; 4];
/// Lines for 64 entries of a full set: 6.4 entries a line on average.
const LINES_PER_64: usize = 10;
/// Lines that a full line may spill into.
const SPILL_LINES: usize = 4;
const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;
/// Entries whose places are loaded before they come: what one chunk may bring to a shard.
const AHEAD: usize = 8;
const IDS_PER_LINE: usize = 2;
/// Bytes of the second tag word that are tags; the others are the number of the entry spilled last.
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

/// Twelve tags, the number of the entry that was spilled last, and twelve sequence numbers.
#[repr(align(64))]
#[derive(Default)]
struct Line {
    tags: [AtomicU64; 2],
    slots: [AtomicU32; SLOTS],
}

#[repr(align(32))]
#[derive(Default)]
struct Id([AtomicU64; 4]);

/// Written only with `order` locked; atomics because `prefetch_match` reads without it.
#[repr(align(64))]
pub(super) struct Shard {
    order: Mutex<Order>,
    /// The tail's number and position, for `prefetch_match`.
    tail: AtomicU64,
    lines: HugeTable<Line>,
    ids: HugeTable<Id>,
    /// Milliseconds of first sight, modulo 2^32.
    times: HugeTable<AtomicU32>,
    /// Empty where the class has no kinds.
    kinds: HugeTable<AtomicU8>,
}

/// The state of the ring.
#[derive(Default)]
pub(super) struct Order {
    /// Oldest position in use, and the number of the entry there.
    tail: usize,
    tail_number: u32,
    /// Positions in use from the tail on.
    used: usize,
    /// Those of them whose entry was forgotten.
    forgotten: usize,
    /// Time of the newest entry and of the last sweep.
    newest: u64,
    swept: u64,
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

impl Order {
    /// Entries that can be found.
    pub(super) fn live(&self) -> usize {
        self.used.saturating_sub(self.forgotten)
    }

    /// Whether no entry of the ring has this number.
    #[inline]
    fn has_left(&self, number: u32) -> bool {
        number.wrapping_sub(self.tail_number) as usize >= self.used
    }

    /// How far behind the tail the entry of this number is, if it is in the ring.
    #[inline]
    fn offset(&self, number: u32) -> Option<usize> {
        let offset = number.wrapping_sub(self.tail_number) as usize;
        (offset < self.used).then_some(offset)
    }
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
    fn set(&self, slot: usize, tag: u64, number: u32) {
        self.slots[slot].store(number, Relaxed);
        let (word, shift) = (&self.tags[slot / 8], slot % 8 * 8);
        word.store(word.load(Relaxed) & !(0xFF << shift) | tag << shift, Relaxed);
    }

    #[inline]
    fn number(&self, slot: usize) -> u32 {
        self.slots[slot].load(Relaxed)
    }

    #[inline]
    fn last_spilled(&self) -> u32 {
        #[allow(clippy::cast_possible_truncation, reason = "the upper half")]
        let number = (self.tag_word(1) >> 32) as u32;
        number
    }

    fn set_last_spilled(&self, number: u32) {
        self.tags[1].store(self.tag_word(1) & SECOND | u64::from(number) << 32, Relaxed);
    }
}

/// The high bit of each zero byte; perhaps also of bytes above one.
#[inline]
fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGHS
}

#[inline]
fn byte_of(mask: u64) -> usize {
    (mask.trailing_zeros() / 8) as usize
}

impl Shard {
    /// `shards` shards of `capacity` entries each, their tables side by side: a look-up goes to a random place, and on small
    /// pages would wait for the address before it waits for the line.
    pub(super) fn row(shards: usize, capacity: usize, has_kinds: bool) -> impl Iterator<Item = Shard> {
        let capacity = capacity.clamp(1, MAX_SHARD);
        // A small ring gets an emptier index, so that chance does not crowd its few lines.
        let share = if capacity < 1024 { 2 * LINES_PER_64 } else { LINES_PER_64 };
        let lines = HugeTable::row(shards, (capacity * share).div_ceil(64).max(2));
        let ids = HugeTable::row(shards, capacity);
        let times = HugeTable::row(shards, capacity);
        let kinds = HugeTable::row(shards, if has_kinds { capacity } else { 0 });
        lines.into_iter().zip(ids).zip(times).zip(kinds).map(|(((lines, ids), times), kinds)| Shard {
            // Slots start with number 0, which is not in the ring.
            order: Mutex::new(Order { tail_number: 1, ..Order::default() }),
            tail: AtomicU64::new(1 << 32),
            lines,
            ids,
            times,
            kinds,
        })
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
    pub(super) fn prefetch_line(&self, hash: u64) {
        prefetch(&self.lines[self.home(hash)]);
    }

    /// Starts loading the entries that a look-up would compare, once the line is here.
    #[inline]
    pub(super) fn prefetch_match(&self, hash: u64) {
        let line = &self.lines[self.home(hash)];
        let [first, second] = line.matches(tag(hash));
        for (mask, base) in [(first, 0), (second, 8)] {
            if mask != 0 {
                self.prefetch_entry(line.number(base + byte_of(mask)));
            }
        }
    }

    #[inline]
    fn prefetch_entry(&self, number: u32) {
        let tail = self.tail.load(Relaxed);
        #[allow(clippy::cast_possible_truncation, reason = "the two halves")]
        let (tail_number, tail) = ((tail >> 32) as u32, tail as u32);
        // Read without the lock: any number.
        let position = self.wrap(tail as usize + number.wrapping_sub(tail_number) as usize);
        if let (Some(id), Some(time)) = (self.ids.get(position), self.times.get(position)) {
            prefetch(id);
            prefetch(time);
        }
    }

    /// Ends a visit: tells `prefetch_match` where the ring stands, and starts loading what the next entries will overwrite.
    #[inline]
    pub(super) fn leave_off(&self, order: &Order) {
        self.tail.store(u64::from(order.tail_number) << 32 | order.tail as u64, Relaxed);
        let head = self.wrap(order.tail + order.used);
        for ahead in (0..AHEAD).step_by(IDS_PER_LINE) {
            self.ids.get(self.wrap(head + ahead)).inspect(|id| prefetch(*id));
        }
        self.times.get(self.wrap(head + AHEAD)).inspect(|time| prefetch(*time));
    }

    /// True where the entry is new.
    #[inline]
    pub(super) fn insert(&self, order: &mut Order, entry: &Probe, clock: Clock) -> bool {
        self.expire(order, clock);
        if let Some(found) = self.find(order, entry) {
            if !self.is_expired(found.position, clock) {
                return false;
            }
            self.drop_entry(order, found, clock.horizon);
        }
        if order.used == self.ids.len() {
            self.pop(order, clock);
        }
        let position = self.wrap(order.tail + order.used);
        #[allow(clippy::cast_possible_truncation, reason = "rings are shorter than 2^28")]
        let number = order.tail_number.wrapping_add(order.used as u32);
        self.index(order, entry.hash, number, clock);
        order.used += 1;
        order.newest = order.newest.max(clock.now);
        self.write(position, entry, clock.now);
        true
    }

    pub(super) fn forget(&self, order: &mut Order, entry: &Probe, horizon: u32) {
        if let Some(found) = self.find(order, entry) {
            self.drop_entry(order, found, horizon);
        }
    }

    pub(super) fn holds(&self, order: &mut Order, entry: &Probe, clock: Clock) -> bool {
        self.expire(order, clock);
        self.find(order, entry).is_some_and(|found| !self.is_expired(found.position, clock))
    }

    /// Lets expired entries go from the tail: a few at a time while there is traffic, more in proportion to the time
    /// since the last sweep, and all at once when nothing is younger than the horizon. So no entry outlives its horizon
    /// by long enough for its 32-bit clock to come round.
    #[inline]
    fn expire(&self, order: &mut Order, clock: Clock) {
        let tail_is_fresh = order.used > 0 && !self.is_expired(order.tail, clock);
        if tail_is_fresh && clock.now < order.newest + u64::from(clock.horizon) {
            order.swept = clock.now;
        } else {
            self.sweep(order, clock);
        }
    }

    fn sweep(&self, order: &mut Order, clock: Clock) {
        let elapsed = clock.now.saturating_sub(order.swept);
        order.swept = order.swept.max(clock.now);
        if clock.now.saturating_sub(order.newest) >= u64::from(clock.horizon) {
            return self.leave(order, order.used);
        }
        let share = elapsed.saturating_mul(2 * self.ids.len() as u64) / u64::from(clock.horizon);
        let mut budget = 2 + share;
        while budget > 0 && order.used > 0 && self.is_expired(order.tail, clock) {
            self.pop(order, clock);
            budget -= 1;
        }
    }

    /// The oldest position leaves.
    #[inline]
    fn pop(&self, order: &mut Order, clock: Clock) {
        if order.forgotten > 0 && self.id_at(order.tail) == FORGOTTEN {
            order.forgotten -= 1;
        } else {
            self.count_if_early(order, order.tail, clock);
        }
        self.leave(order, 1);
    }

    /// The `n` oldest positions leave. The index needs no visit.
    #[inline]
    fn leave(&self, order: &mut Order, n: usize) {
        order.tail = self.wrap(order.tail + n);
        #[allow(clippy::cast_possible_truncation, reason = "rings are shorter than 2^28")]
        let numbers = n as u32;
        order.tail_number = order.tail_number.wrapping_add(numbers);
        order.used -= n;
        if order.used == 0 {
            order.forgotten = 0;
        }
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
    fn index(&self, order: &mut Order, hash: u64, number: u32, clock: Clock) {
        let home = self.home(hash);
        match self.free_slot(order, home) {
            Some(slot) => self.lines[home].set(slot, tag(hash), number),
            None => self.spill(order, hash, number, clock),
        }
    }

    /// A slot whose entry has left the ring.
    #[inline]
    fn free_slot(&self, order: &Order, line: usize) -> Option<usize> {
        let line = &self.lines[line];
        // All are looked at: which is the first is random, and a wrong guess costs more than the whole line.
        let free =
            (0..SLOTS).fold(0, |free, slot| free | u32::from(order.has_left(line.number(slot))) << slot);
        (free != 0).then_some(free.trailing_zeros() as usize)
    }

    #[cold]
    fn spill(&self, order: &mut Order, hash: u64, number: u32, clock: Clock) {
        let home = self.home(hash);
        for line in self.spill_lines(hash) {
            if let Some(slot) = self.free_slot(order, line) {
                self.lines[home].set_last_spilled(number);
                return self.lines[line].set(slot, tag(hash), number);
            }
        }
        let offset = |slot: usize| order.offset(self.lines[home].number(slot)).unwrap_or(0);
        let slot = (0..SLOTS).min_by_key(|&slot| offset(slot)).unwrap_or(0);
        let position = self.wrap(order.tail + offset(slot));
        self.count_if_early(order, position, clock);
        self.drop_entry(order, Found { line: home, slot, position }, clock.horizon);
        self.lines[home].set(slot, tag(hash), number);
    }

    /// The entry is there no more; its position stays in the ring until its turn comes.
    fn drop_entry(&self, order: &mut Order, found: Found, horizon: u32) {
        self.lines[found.line].set(found.slot, 0, order.tail_number.wrapping_sub(1));
        for (word, value) in self.ids[found.position].0.iter().zip(FORGOTTEN) {
            word.store(value, Relaxed);
        }
        #[allow(clippy::cast_possible_truncation, reason = "the entry's clock is modulo 2^32")]
        let long_ago = (order.newest as u32).wrapping_sub(horizon);
        self.times[found.position].store(long_ago, Relaxed);
        order.forgotten += 1;
    }

    #[inline]
    fn find(&self, order: &Order, entry: &Probe) -> Option<Found> {
        let home = self.home(entry.hash);
        let found = self.search_line(order, home, entry);
        if found.is_some() || order.offset(self.lines[home].last_spilled()).is_none() {
            return found;
        }
        self.spill_lines(entry.hash).find_map(|line| self.search_line(order, line, entry))
    }

    #[inline(always)]
    fn search_line(&self, order: &Order, line: usize, entry: &Probe) -> Option<Found> {
        let [first, second] = self.lines[line].matches(tag(entry.hash));
        for (mut mask, base) in [(first, 0), (second, 8)] {
            while mask != 0 {
                let slot = base + byte_of(mask);
                mask &= mask - 1;
                let Some(offset) = order.offset(self.lines[line].number(slot)) else { continue };
                let position = self.wrap(order.tail + offset);
                if self.id_at(position) == entry.id && self.kind_at(position) == entry.kind {
                    return Some(Found { line, slot, position });
                }
            }
        }
        None
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
