//! The frame store of one worker: a byte log in segments, and an index of numbers in pages.
//!
//! Why: a listener that lost (HashKey, SeqNum) asks for it within seconds; the frame must still be here, at the price of
//! little more than one copy per arriving frame.
//!
//! * The log is a ring of equal segments, allocated one by one as they are first needed. When all are in use the oldest
//!   segment leaves as a whole; nothing else ever makes a frame leave early, except a full index (counted).
//! * The index maps (HashKey, SeqNum / 8) to a page with the log positions of 8 consecutive numbers. Consecutive numbers
//!   of a flow share a page, so a busy flow costs one lookup in warm memory; a number far away costs one page and
//!   not the distance. Positions only grow, so a position below the tail of the log *is* "not here": nothing is
//!   cleaned when a segment leaves. Pages are reclaimed in the order of their creation, two for each new one.
//! * Placement is seeded: chosen HashKeys cannot pile up.
//!
//! Promises: the first frame of a (HashKey, SeqNum) stays, unless verification is on and its payload does not hash to
//! its id while another frame claims the same number; what `get` returns has passed that verification. Put and get are
//! O(1); memory is fixed by `Limits` and never grows past it. Lifetimes are checked at `get`.
//!
//! Cost: figures in `examples/store_cost.rs`.

use super::admit::{Admitted, Class, payload_matches_id};
use super::seeded;
use frame::{GroupIndex, HashKey, SeqNum};
use hashbrown::HashTable;
use multicast_io::Span;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long each class is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// V2.
    pub tx: Duration,
    /// V4.
    pub block: Duration,
    /// V5.
    pub subtree: Duration,
    /// V6.
    pub anchor: Duration,
}

impl Default for Lifetimes {
    fn default() -> Lifetimes {
        Lifetimes {
            tx: Duration::from_secs(60),
            block: Duration::from_secs(600),
            subtree: Duration::from_secs(300),
            anchor: Duration::from_secs(120),
        }
    }
}

impl Lifetimes {
    /// Lifetime of a class.
    pub fn of(&self, class: Class) -> Duration {
        match class {
            Class::Tx => self.tx,
            Class::Block => self.block,
            Class::Subtree => self.subtree,
            Class::Anchor => self.anchor,
        }
    }
}

/// What a store may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of log and index together. At least `Limits::LEAST` is used.
    pub bytes: usize,
    /// Flows whose coverage is known (frames of more flows are stored all the same).
    pub flows: usize,
}

impl Limits {
    /// The smallest store that makes sense: four of the smallest segments and their index.
    pub const LEAST: usize = 1 << 20;
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// Kept. `new_flow`: the first of its flow, as far as this store remembers.
    Stored {
        /// The flow was not known.
        new_flow: bool,
    },
    /// The same bytes are here already.
    Duplicate,
    /// Another frame has this number and stays.
    Conflict,
    /// Another frame had this number, but its payload did not hash to its id: this one took its place.
    Replaced,
    /// Longer than a segment takes (cannot happen to a UDP datagram).
    Oversize,
}

/// Where a stored frame lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    position: u64,
    /// Segment to hand to the sender (`Store::segment`).
    pub segment: usize,
    /// The frame within that segment.
    pub span: Span,
}

/// A frame that can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Where its bytes are.
    pub place: Place,
    /// Group it arrived on: repairs go back there.
    pub group: GroupIndex,
    /// Time since it last left by multicast as a repair.
    pub repaired: Option<Duration>,
}

/// What a store holds of one flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Coverage {
    /// The flow.
    pub hash_key: u64,
    /// Group of its last frame.
    pub group: u16,
    /// Lowest number seen.
    pub lowest: u64,
    /// Highest number seen.
    pub highest: u64,
    /// Frames taken, those that left since included.
    pub frames: u64,
    /// Bytes taken, those that left since included.
    pub bytes: u64,
}

/// See the module text.
pub struct Store {
    log: Log,
    index: Index,
    flows: Flows,
    lifetimes: Lifetimes,
    verify: bool,
    epoch: Instant,
    hash_mismatches: u64,
}

impl Store {
    /// `verify`: see the module text. `seed` must be unpredictable outside of tests; `now` is the start of its time.
    pub fn new(limits: Limits, lifetimes: Lifetimes, verify: bool, seed: u64, now: Instant) -> Store {
        let bytes = limits.bytes.max(Limits::LEAST);
        // An eighth for the index: room for one page per 770 bytes of frames even if every frame had its own.
        let index_bytes = bytes / 8;
        Store {
            log: Log::new(bytes - index_bytes),
            index: Index::new(index_bytes / Index::PAGE_COST, seed),
            flows: Flows::new(limits.flows.max(1), seed),
            lifetimes,
            verify,
            epoch: now,
            hash_mismatches: 0,
        }
    }

    /// Keeps a frame that arrived on `group`.
    pub fn put(&mut self, frame: &Admitted<'_>, group: GroupIndex, now: Instant) -> Put {
        let arrival = self.micros(now);
        let page = self.index.page(frame.hash_key, frame.seq, self.log.oldest());
        let held = self.index.position(page, frame.seq);
        let mut replaced = false;
        if held >= self.log.oldest() && !self.expired(held, arrival) {
            let (header, stored) = self.log.record(held);
            if stored == frame.bytes {
                return Put::Duplicate;
            }
            if !self.verify || header.verified || payload_matches_id(stored) {
                return Put::Conflict;
            }
            self.hash_mismatches += 1;
            replaced = true;
        }
        let header = Header { len: 0, group, class: frame.class, verified: false, arrival, repaired: 0 };
        let Some(position) = self.log.append(header, frame.bytes) else { return Put::Oversize };
        self.index.set(page, frame.seq, position);
        let new_flow = self.flows.saw(frame, group, arrival);
        if replaced { Put::Replaced } else { Put::Stored { new_flow } }
    }

    /// Finds a frame that may be served at `now`.
    pub fn get(&mut self, hash_key: HashKey, seq: SeqNum, now: Instant) -> Option<Stored> {
        let page = self.index.find(hash_key, seq)?;
        let position = self.index.position(page, seq);
        let now = self.micros(now);
        if position < self.log.oldest() || self.expired(position, now) {
            return None;
        }
        let (header, bytes) = self.log.record(position);
        if self.verify && !header.verified {
            if !payload_matches_id(bytes) {
                self.hash_mismatches += 1;
                self.index.set(page, seq, 0);
                return None;
            }
            self.log.set_verified(position);
        }
        let repaired = header.repaired.checked_sub(1).map(|at| Duration::from_micros(now.saturating_sub(at)));
        Some(Stored { place: self.log.place(position, header.len), group: header.group, repaired })
    }

    /// Remembers that the frame left by multicast at `now`.
    pub fn mark_repaired(&mut self, place: &Place, now: Instant) {
        let now = self.micros(now);
        if place.position >= self.log.oldest() {
            self.log.set_repaired(place.position, now + 1);
        }
    }

    /// True while the bytes of `place` are still those of its frame.
    pub fn is_live(&self, place: &Place) -> bool {
        place.position >= self.log.oldest()
    }

    /// Bytes of a frame, empty if it left.
    pub fn bytes(&self, place: &Place) -> &[u8] {
        if self.is_live(place) { self.log.record(place.position).1 } else { &[] }
    }

    /// Memory of a segment, for the sender.
    pub fn segment(&self, segment: usize) -> &[u8] {
        self.log.segments.get(segment).map_or(&[], |segment| segment)
    }

    /// Flows with their numbers; stops at `most`.
    pub fn coverage(&self, most: usize) -> Vec<Coverage> {
        self.flows.flows.iter().take(most).map(Flow::coverage).collect()
    }

    /// Counts and sizes.
    pub fn stats(&self, now: Instant) -> Stats {
        let oldest = self.log.oldest_arrival();
        Stats {
            log_bytes: self.log.live_bytes(),
            log_capacity: self.log.capacity(),
            pages: self.index.used() as u64,
            pages_evicted: self.index.evicted,
            flows: self.flows.flows.len() as u64,
            segments_left: self.log.segments_left(),
            hash_mismatches: self.hash_mismatches,
            horizon: oldest
                .map_or(Duration::ZERO, |at| Duration::from_micros(self.micros(now).saturating_sub(at))),
        }
    }

    fn expired(&self, position: u64, now: u64) -> bool {
        let header = self.log.header(position);
        let age = Duration::from_micros(now.saturating_sub(header.arrival));
        age > self.lifetimes.of(header.class)
    }

    fn micros(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_micros()).unwrap_or(u64::MAX - 1)
    }
}

/// What a store says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Stats {
    /// Bytes of the log between its tail and its head.
    pub log_bytes: u64,
    /// Bytes the log may hold.
    pub log_capacity: u64,
    /// Index pages in use.
    pub pages: u64,
    /// Pages that left although their frames were still in the log.
    pub pages_evicted: u64,
    /// Flows known.
    pub flows: u64,
    /// Segments that left.
    pub segments_left: u64,
    /// Frames found not to hash to their id.
    pub hash_mismatches: u64,
    /// Age of the oldest segment.
    pub horizon: Duration,
}

// ------------------------------------------------------------------------------------------------------------- log --

/// What lies before each frame in the log.
#[derive(Clone, Copy, Debug)]
struct Header {
    len: u32,
    group: GroupIndex,
    class: Class,
    verified: bool,
    /// Microseconds since the store's epoch.
    arrival: u64,
    /// Microseconds + 1 since the epoch when it last left as a multicast repair; 0 = never.
    repaired: u64,
}

impl Header {
    const LEN: usize = 24;
    const VERIFIED_AT: usize = 7;
    const REPAIRED_AT: usize = 16;

    fn encode(&self) -> [u8; Header::LEN] {
        let mut out = [0; Header::LEN];
        out[0..4].copy_from_slice(&self.len.to_le_bytes());
        out[4..6].copy_from_slice(&self.group.0.to_le_bytes());
        out[6] = self.class.code();
        out[Header::VERIFIED_AT] = u8::from(self.verified);
        out[8..16].copy_from_slice(&self.arrival.to_le_bytes());
        out[Header::REPAIRED_AT..24].copy_from_slice(&self.repaired.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8; Header::LEN]) -> Header {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        Header {
            len: u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            group: GroupIndex(u16::from_le_bytes([bytes[4], bytes[5]])),
            class: Class::of_code(bytes[6]),
            verified: bytes[Header::VERIFIED_AT] != 0,
            arrival: word(8),
            repaired: word(Header::REPAIRED_AT),
        }
    }
}

/// Ring of segments. A position is segment number << shift | offset; segment numbers start at 1, so that position 0 is
/// below every tail.
struct Log {
    segments: Vec<Box<[u8]>>,
    /// Arrival of the first frame of each segment.
    started: Vec<u64>,
    shift: u32,
    ring: usize,
    /// Segment number being written.
    current: u64,
    offset: usize,
}

impl Log {
    fn new(capacity: usize) -> Log {
        // 16 segments where that gives 256 KiB to 16 MiB each: dropping one forgets at most a sixteenth.
        let shift = (capacity / 16).max(1).ilog2().clamp(18, 24);
        let ring = (capacity >> shift).max(2);
        Log {
            segments: Vec::with_capacity(ring),
            started: Vec::with_capacity(ring),
            shift,
            ring,
            current: 0,
            offset: usize::MAX,
        }
    }

    fn append(&mut self, header: Header, bytes: &[u8]) -> Option<u64> {
        let need = Header::LEN + bytes.len();
        let len = u32::try_from(bytes.len()).ok().filter(|_| need <= 1 << self.shift)?;
        if self.offset.saturating_add(need) > 1 << self.shift {
            self.next_segment(header.arrival);
        }
        let at = self.offset;
        let slot = self.slot(self.current);
        let record = &mut self.segments[slot][at..at + need];
        let (head, body) = record.split_at_mut(Header::LEN);
        head.copy_from_slice(&Header { len, ..header }.encode());
        body.copy_from_slice(bytes);
        self.offset = at + need;
        Some(self.current << self.shift | at as u64)
    }

    /// Takes the next segment: a fresh one while the ring is not full, else the oldest, whose frames leave.
    fn next_segment(&mut self, arrival: u64) {
        self.current += 1;
        self.offset = 0;
        let slot = self.slot(self.current);
        if slot == self.segments.len() {
            self.segments.push(vec![0; 1 << self.shift].into_boxed_slice());
            self.started.push(arrival);
        } else {
            self.started[slot] = arrival;
        }
    }

    /// Place of a segment number in the ring.
    fn slot(&self, number: u64) -> usize {
        #[allow(clippy::cast_possible_truncation, reason = "less than `ring`, a usize")]
        let slot = (number.saturating_sub(1) % self.ring as u64) as usize;
        slot
    }

    /// First position that is still there.
    fn oldest(&self) -> u64 {
        self.oldest_segment() << self.shift
    }

    fn oldest_segment(&self) -> u64 {
        (self.current + 1).saturating_sub(self.ring as u64).max(1)
    }

    fn segments_left(&self) -> u64 {
        self.oldest_segment() - 1
    }

    fn oldest_arrival(&self) -> Option<u64> {
        self.started.get(self.slot(self.oldest_segment())).copied()
    }

    fn capacity(&self) -> u64 {
        (self.ring as u64) << self.shift
    }

    fn live_bytes(&self) -> u64 {
        if self.current == 0 { 0 } else { (self.current << self.shift) + self.offset as u64 - self.oldest() }
    }

    fn locate(&self, position: u64) -> (usize, usize) {
        #[allow(clippy::cast_possible_truncation, reason = "masked to less than a segment")]
        let offset = (position & ((1 << self.shift) - 1)) as usize;
        (self.slot(position >> self.shift), offset)
    }

    fn header(&self, position: u64) -> Header {
        let (slot, offset) = self.locate(position);
        self.segments[slot][offset..]
            .first_chunk()
            .map_or_else(|| Header::decode(&[0; Header::LEN]), Header::decode)
    }

    fn record(&self, position: u64) -> (Header, &[u8]) {
        let header = self.header(position);
        let (slot, offset) = self.locate(position);
        let bytes = &self.segments[slot][offset + Header::LEN..][..header.len as usize];
        (header, bytes)
    }

    fn place(&self, position: u64, len: u32) -> Place {
        let (segment, offset) = self.locate(position);
        #[allow(clippy::cast_possible_truncation, reason = "segments are at most 16 MiB")]
        let start = (offset + Header::LEN) as u32;
        Place { position, segment, span: Span { start, len } }
    }

    fn set_verified(&mut self, position: u64) {
        let (slot, offset) = self.locate(position);
        self.segments[slot][offset + Header::VERIFIED_AT] = 1;
    }

    fn set_repaired(&mut self, position: u64, at: u64) {
        let (slot, offset) = self.locate(position);
        self.segments[slot][offset + Header::REPAIRED_AT..][..8].copy_from_slice(&at.to_le_bytes());
    }
}

// ----------------------------------------------------------------------------------------------------------- index --

/// Positions of 8 consecutive numbers of a flow.
#[derive(Clone, Copy, Debug)]
struct Page {
    hash_key: u64,
    /// SeqNum / 8.
    base: u64,
    /// Highest position in `positions`.
    newest: u64,
    /// Tail of the log when the page took its place in the queue.
    queued: u64,
    positions: [u64; Index::NUMBERS],
}

/// Pages by (HashKey, SeqNum / 8). Fixed room; see the module text.
struct Index {
    table: HashTable<u32>,
    pages: Vec<Page>,
    free: Vec<u32>,
    /// Pages in the order in which they will be looked at again.
    queue: VecDeque<u32>,
    most: usize,
    seed: u64,
    evicted: u64,
}

impl Index {
    /// Numbers a page; one cache line of positions.
    const NUMBERS: usize = 8;
    /// A page, its place in the queue and its share of a hash table that is at worst half full.
    const PAGE_COST: usize = size_of::<Page>() + 4 + 10;

    fn new(pages: usize, seed: u64) -> Index {
        let most = pages.clamp(64, u32::MAX as usize);
        Index {
            table: HashTable::with_capacity(most),
            pages: Vec::with_capacity(most),
            free: Vec::new(),
            queue: VecDeque::with_capacity(most),
            most,
            seed,
            evicted: 0,
        }
    }

    fn used(&self) -> usize {
        self.queue.len()
    }

    fn find(&self, hash_key: HashKey, seq: SeqNum) -> Option<u32> {
        let base = seq.0 / Index::NUMBERS as u64;
        let hash = seeded(self.seed, hash_key.0, base);
        self.table
            .find(hash, |&page| {
                let page = &self.pages[page as usize];
                page.hash_key == hash_key.0 && page.base == base
            })
            .copied()
    }

    /// The page of a number, made if there is none. `oldest` is the tail of the log.
    fn page(&mut self, hash_key: HashKey, seq: SeqNum, oldest: u64) -> u32 {
        if let Some(page) = self.find(hash_key, seq) {
            return page;
        }
        self.reclaim(oldest);
        let base = seq.0 / Index::NUMBERS as u64;
        let fresh =
            Page { hash_key: hash_key.0, base, newest: 0, queued: oldest, positions: [0; Index::NUMBERS] };
        let page = match self.free.pop() {
            Some(page) => {
                self.pages[page as usize] = fresh;
                page
            }
            None => {
                self.pages.push(fresh);
                #[allow(clippy::cast_possible_truncation, reason = "`most` fits a u32")]
                let page = (self.pages.len() - 1) as u32;
                page
            }
        };
        let (pages, seed) = (&self.pages, self.seed);
        self.table.insert_unique(seeded(seed, hash_key.0, base), page, |&page| {
            let page = &pages[page as usize];
            seeded(seed, page.hash_key, page.base)
        });
        self.queue.push_back(page);
        page
    }

    /// Frees pages whose frames have left; looks at two for each page that is made, so the queue never falls behind.
    /// With no room at all the oldest page goes although its frames are still there.
    fn reclaim(&mut self, oldest: u64) {
        for _ in 0..2 {
            let Some(&front) = self.queue.front() else { break };
            let page = &mut self.pages[front as usize];
            if page.newest < oldest && page.queued < oldest {
                self.queue.pop_front();
                self.release(front);
            } else if page.queued < oldest {
                page.queued = oldest;
                self.queue.rotate_left(1);
            } else {
                break;
            }
        }
        if self.free.is_empty()
            && self.pages.len() >= self.most
            && let Some(front) = self.queue.pop_front()
        {
            self.evicted += 1;
            self.release(front);
        }
    }

    fn release(&mut self, page: u32) {
        let Page { hash_key, base, .. } = self.pages[page as usize];
        if let Ok(entry) = self.table.find_entry(seeded(self.seed, hash_key, base), |&other| other == page) {
            entry.remove();
        }
        self.free.push(page);
    }

    fn position(&self, page: u32, seq: SeqNum) -> u64 {
        self.pages[page as usize].positions[offset(seq)]
    }

    fn set(&mut self, page: u32, seq: SeqNum, position: u64) {
        let page = &mut self.pages[page as usize];
        page.positions[offset(seq)] = position;
        page.newest = page.newest.max(position);
    }
}

/// Place of a number in its page.
fn offset(seq: SeqNum) -> usize {
    #[allow(clippy::cast_possible_truncation, reason = "less than 8")]
    let offset = (seq.0 % Index::NUMBERS as u64) as usize;
    offset
}

// ----------------------------------------------------------------------------------------------------------- flows --

/// What is known of one flow.
struct Flow {
    hash_key: u64,
    group: GroupIndex,
    lowest: u64,
    highest: u64,
    frames: u64,
    bytes: u64,
    last: u64,
}

impl Flow {
    fn coverage(&self) -> Coverage {
        Coverage {
            hash_key: self.hash_key,
            group: self.group.0,
            lowest: self.lowest,
            highest: self.highest,
            frames: self.frames,
            bytes: self.bytes,
        }
    }
}

/// Flows for `/status` and for the directory. Full: of eight flows at the hand the one silent for longest is forgotten.
struct Flows {
    table: HashTable<u32>,
    flows: Vec<Flow>,
    most: usize,
    hand: usize,
    /// The flow of the last frame: frames of one train share their flow.
    recent: u32,
    seed: u64,
}

impl Flows {
    fn new(most: usize, seed: u64) -> Flows {
        let most = most.min(u32::MAX as usize);
        Flows {
            table: HashTable::new(),
            flows: Vec::new(),
            most,
            hand: 0,
            recent: 0,
            seed: seed.rotate_left(17),
        }
    }

    /// Counts a stored frame; true if its flow was not known.
    fn saw(&mut self, frame: &Admitted<'_>, group: GroupIndex, now: u64) -> bool {
        let known = self.find(frame.hash_key.0);
        let index = known.unwrap_or_else(|| self.add(frame.hash_key.0));
        self.recent = index;
        let flow = &mut self.flows[index as usize];
        flow.group = group;
        flow.lowest = flow.lowest.min(frame.seq.0);
        flow.highest = flow.highest.max(frame.seq.0);
        flow.frames += 1;
        flow.bytes += frame.bytes.len() as u64;
        flow.last = now;
        known.is_none()
    }

    fn find(&self, hash_key: u64) -> Option<u32> {
        if self.flows.get(self.recent as usize).is_some_and(|flow| flow.hash_key == hash_key) {
            return Some(self.recent);
        }
        self.table
            .find(seeded(self.seed, hash_key, 0), |&flow| self.flows[flow as usize].hash_key == hash_key)
            .copied()
    }

    fn add(&mut self, hash_key: u64) -> u32 {
        let fresh = Flow {
            hash_key,
            group: GroupIndex(0),
            lowest: u64::MAX,
            highest: 0,
            frames: 0,
            bytes: 0,
            last: 0,
        };
        let index = if self.flows.len() < self.most {
            self.flows.push(fresh);
            self.flows.len() - 1
        } else {
            let index = self.forget();
            self.flows[index] = fresh;
            index
        };
        #[allow(clippy::cast_possible_truncation, reason = "`most` fits a u32")]
        let index = index as u32;
        let (flows, seed) = (&self.flows, self.seed);
        self.table.insert_unique(seeded(seed, hash_key, 0), index, |&flow| {
            seeded(seed, flows[flow as usize].hash_key, 0)
        });
        index
    }

    fn forget(&mut self) -> usize {
        let len = self.flows.len();
        let candidates = (0..8).map(|step| (self.hand + step) % len);
        let victim = candidates.min_by_key(|&index| self.flows[index].last).unwrap_or(0);
        self.hand = (self.hand + 8) % len;
        let hash = seeded(self.seed, self.flows[victim].hash_key, 0);
        if let Ok(entry) = self.table.find_entry(hash, |&flow| flow as usize == victim) {
            entry.remove();
        }
        victim
    }
}
