//! The frame store of one worker: a byte log in segments, and an index of numbers in pages.
//!
//! Why: a listener that lost (HashKey, SeqNum) asks for it within seconds. The frame must still be here, and keeping it must
//! cost little more than one copy.
//!
//! * `log`: a ring of equal segments. When all are in use the oldest segment leaves as a whole. Only a full index makes
//!   a frame leave earlier; that is counted.
//! * `index`: maps (HashKey, SeqNum / 32) to a page with the log positions of 32 consecutive numbers. A flow remembers the
//!   page it used last, so a busy flow costs a table lookup for each 32nd frame. A number far away costs one page and not the
//!   distance. A position below the tail of the log means "not here", so nothing is cleaned when a segment leaves.
//! * `flows`: what is known of each flow. `silent_flows`: which of them fell silent.
//! * Placement is seeded: chosen HashKeys cannot pile up.
//!
//! Promises: the first frame of a (HashKey, SeqNum) stays. The one exception: verification is on, the payload of the first
//! does not hash to its id, and another frame claims the same number. What `get` returns has passed that verification.
//! Lifetimes are checked at `get`.
//!
//! Limits: memory is fixed by `StoreLimits`.
//!
//! Cost: put and get are O(1). Figures in `examples/store_cost.rs`.

mod flows;
mod index;
mod log;
mod silent_flows;

pub use flows::Coverage;
pub use log::LogPlace;

use super::admit::{Admitted, Class, payload_matches_id};
use crate::mutation::planted;
use flows::Flows;
use frame::digest::Entry;
use frame::{GroupIndex, HashKey, SeqNum};
use index::Index;
use log::{Header, Log};
use std::time::{Duration, Instant};

/// Numbers below a flow's highest that are looked at for one that can be served.
const FORGED_AT_MOST: u64 = 64;

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
pub struct StoreLimits {
    /// Bytes of log and index together. At least `StoreLimits::LEAST` is used.
    pub bytes: usize,
    /// Flows that are known, shown and announced (frames of more flows are stored all the same).
    pub flows: usize,
}

impl StoreLimits {
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

/// A frame that can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Where its bytes are.
    pub place: LogPlace,
    /// Group it arrived on: repairs go back there.
    pub group: GroupIndex,
    /// Time since it last left by multicast as a repair.
    pub repaired: Option<Duration>,
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
    unservable: u64,
    #[cfg(feature = "mutants")]
    mutation: Option<crate::mutation::Mutation>,
}

impl Store {
    /// `verify`: see the module text. `seed` must be unpredictable outside of tests; `now` is the start of its time.
    pub fn new(limits: StoreLimits, lifetimes: Lifetimes, verify: bool, seed: u64, now: Instant) -> Store {
        let bytes = limits.bytes.max(StoreLimits::LEAST);
        // An eighth for the index: full pages take 5 bytes a frame, and even frames that share no page fit
        // if they are longer than a kilobyte.
        let index_bytes = bytes / 8;
        Store {
            log: Log::new(bytes - index_bytes),
            index: Index::new(index_bytes / Index::PAGE_COST, seed),
            flows: Flows::new(limits.flows.max(1), seed),
            lifetimes,
            verify,
            epoch: now,
            hash_mismatches: 0,
            unservable: 0,
            #[cfg(feature = "mutants")]
            mutation: None,
        }
    }

    /// Plants a fault.
    #[cfg(feature = "mutants")]
    #[doc(hidden)]
    pub fn mutate(&mut self, mutation: crate::mutation::Mutation) {
        self.mutation = Some(mutation);
    }

    /// Keeps a frame that arrived on `group`.
    pub fn put(&mut self, frame: &Admitted<'_>, group: GroupIndex, now: Instant) -> Put {
        let arrival = self.micros(now);
        let (flow, new_flow) = self.flows.find_or_add(frame);
        let page = self.index.page(frame.hash_key, frame.seq, self.log.oldest(), self.flows.page(flow));
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
        self.flows.stored(flow, frame, group, arrival, page);
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
                self.index.clear(page, seq);
                return None;
            }
            self.log.set_verified(position);
        }
        let repaired = header.repaired.checked_sub(1).map(|at| Duration::from_micros(now.saturating_sub(at)));
        Some(Stored { place: self.log.place(position, header.len), group: header.group, repaired })
    }

    /// Remembers that the frame left by multicast at `now`.
    pub fn note_repaired(&mut self, place: &LogPlace, now: Instant) {
        self.log.set_repaired(place, self.micros(now) + 1);
    }

    /// Takes the memory of a repair back: it did not leave after all.
    pub fn forget_repaired(&mut self, place: &LogPlace) {
        self.log.set_repaired(place, 0);
    }

    /// True if the frame left by multicast within `window` before `now`.
    pub fn repaired_within(&self, hash_key: HashKey, seq: SeqNum, window: Duration, now: Instant) -> bool {
        let Some(page) = self.index.find(hash_key, seq) else { return false };
        let position = self.index.position(page, seq);
        if position < self.log.oldest() {
            return false;
        }
        let at = self.log.header(position).repaired.checked_sub(1);
        at.is_some_and(|at| Duration::from_micros(self.micros(now).saturating_sub(at)) < window)
    }

    /// True while the bytes of `place` are still those of its frame.
    pub fn is_live(&self, place: &LogPlace) -> bool {
        self.log.is_live(place)
    }

    /// Bytes of a frame, empty if it left.
    pub fn bytes(&self, place: &LogPlace) -> &[u8] {
        self.log.bytes(place)
    }

    /// Memory of a segment, for the sender.
    pub fn segment(&self, segment: usize) -> &[u8] {
        self.log.segment(segment)
    }

    /// Flows with their numbers; stops at `most`.
    pub fn coverage(&self, most: usize) -> Vec<Coverage> {
        self.flows.coverage(most)
    }

    /// A sender's own digest: numbers of the flow up to `highest` left it.
    pub fn on_digest(&mut self, hash_key: HashKey, highest: SeqNum, now: Instant) {
        let now = self.micros(now);
        let (highest, now) =
            if planted!(self, OldDigestCovers) { (SeqNum(u64::MAX), u64::MAX) } else { (highest, now) };
        self.flows.on_digest(hash_key, highest, now);
    }

    /// Adds flows that fell silent and whose sender says nothing (`silent_flows`), until `entries` has `most`: each with the
    /// highest number that can be served.
    pub fn announce(&mut self, now: Instant, most: usize, entries: &mut Vec<Entry>) {
        if planted!(self, SilenceNotAnnounced) {
            return;
        }
        let at = self.micros(now);
        while entries.len() < most
            && let Some(silent) = self.flows.next_silent(at)
        {
            // The highest may be a forgery that is not served: the genuine one lies near below it.
            let lowest = silent.highest.0.saturating_sub(FORGED_AT_MOST).max(1);
            let mut numbers = (lowest..=silent.highest.0).rev().map(SeqNum);
            if let Some(highest) = numbers.find(|seq| self.get(silent.hash_key, *seq, now).is_some()) {
                let (hash_key, group, subtree_id) = (silent.hash_key, silent.group, silent.label);
                entries.push(Entry { hash_key, highest, group, subtree_id });
            } else {
                self.unservable += 1;
            }
        }
    }

    /// When `announce` may have something to say.
    pub fn next_announcement(&self) -> Option<Instant> {
        self.flows.next_check().map(|at| self.epoch + Duration::from_micros(at))
    }

    /// Counts and sizes.
    pub fn stats(&self, now: Instant) -> Stats {
        let oldest = self.log.oldest_arrival();
        Stats {
            log_bytes: self.log.live_bytes(),
            log_capacity: self.log.capacity(),
            pages: self.index.used() as u64,
            pages_evicted: self.index.evicted(),
            flows: self.flows.len() as u64,
            flows_forgotten: self.flows.forgotten(),
            flows_unservable: self.unservable,
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
    /// Flows forgotten to know others: their frames are served, but nobody will announce them.
    pub flows_forgotten: u64,
    /// Silent flows that were not announced, because their last frames had left or are forgeries.
    pub flows_unservable: u64,
    /// Segments that left.
    pub segments_left: u64,
    /// Frames found not to hash to their id.
    pub hash_mismatches: u64,
    /// Age of the oldest segment.
    pub horizon: Duration,
}
