//! Numbers: which flow a frame belongs to, and its number in that flow (docs/wire.md 3).
//!
//! Why after planning: frames of one round may leave in another order than they came. A frame takes its number when it
//! leaves, so numbers are in order for every receiver.
//!
//! Promises: within a flow, numbers leave in order, from 1, without a hole. No (HashKey, SeqNum) ever names two frames of
//! one process. With the identity `instance`, a flow that was evicted, or that lost frames to a refusal, comes back under a
//! new key. With `standard`, the sender's address gives the key, and the key cannot change: counters outlive eviction in a
//! shared directory, and a refusal leaves a hole, which is counted.
//!
//! Limits: a fixed number of flows. Idle flows leave after [`FlowLimits::idle`]. When the table is full, the longest idle
//! flow of a sample leaves, counted.
//!
//! Cost: one XXH64 of 52 bytes and one look-up in a table for a frame; no allocation in steady state.

use super::group::Route;
use frame::flow::{Origin, hash_key};
use frame::{GroupIndex, HashKey, Id, SeqNum};
use hashbrown::{HashMap, HashTable};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Fewest flows a table may hold: more than one emit batch can touch.
pub const MIN_FLOWS: usize = 8_192;
/// Groups whose last flow is remembered.
const RECENT: usize = 256;
/// Entries looked at to find a flow to evict.
const SAMPLE: usize = 16;

/// `--flow-identity`.
#[derive(Clone, Debug)]
pub enum Identity {
    /// Random bytes of this worker and start take the place of the sender's address.
    Instance([u8; 16]),
    /// The sender's address, as in the Go stack; the counters are shared by all workers.
    Standard(Arc<Directory>),
}

/// Bounds of a flow table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowLimits {
    /// Flows held at once; at least [`MIN_FLOWS`].
    pub flows: usize,
    /// A flow without frames for this long is forgotten.
    pub idle: Duration,
}

/// Handle of a flow in its table. It never names the successor of a forgotten or retired flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowHandle {
    index: u32,
    /// Changes when the entry is given to another flow.
    generation: u32,
    /// Changes when the flow gets another key.
    identity: u32,
}

/// A number that was given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbered {
    /// Key on the wire.
    pub hash_key: HashKey,
    /// Number in the flow.
    pub seq_num: SeqNum,
    /// The flow under the key that it has now.
    pub flow: FlowHandle,
}

/// What is done with bytes 40-55 of a frame (wire 3, "Stamping").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// Key and next number of the flow.
    Number,
    /// Key of the flow, number as it came.
    KeyOnly,
    /// As it came.
    Keep,
}

/// A flow as digests announce it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Key on the wire.
    pub hash_key: HashKey,
    /// Last number given out.
    pub highest: SeqNum,
    /// Group that carries the flow.
    pub group: GroupIndex,
    /// Subtree ingredient.
    pub subtree: Id,
    /// Grows whenever the flow woke from quiet; an older schedule entry is stale.
    pub woken: u32,
}

enum Numbers {
    Own(u64),
    Shared(Arc<AtomicU64>),
}

struct FlowEntry {
    generation: u32,
    identity: u32,
    woken: u32,
    live: bool,
    /// Hash of the ingredients that never change: the table finds the flow by it.
    route_hash: u64,
    hash_key: HashKey,
    last: Numbers,
    route: (GroupIndex, GroupIndex, Id),
    last_used: Instant,
    /// The next number wakes the digest schedule.
    quiet: bool,
}

/// What a table has done, for counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowTotals {
    /// Flows begun.
    pub begun: u64,
    /// Flows forgotten to make room.
    pub evicted: u64,
    /// Flows forgotten because they were idle.
    pub expired: u64,
    /// Flows that got a new key after a refusal.
    pub retired: u64,
    /// Flows with a hole, because their key cannot change.
    pub holes: u64,
}

/// See the module text.
pub struct FlowTable {
    identity: Identity,
    limits: FlowLimits,
    by_route: HashTable<u32>,
    entries: Vec<FlowEntry>,
    free: Vec<u32>,
    hand: usize,
    /// Grows with each flow that is forgotten or retired, so that its successor has another key.
    incarnation: u64,
    woken: Vec<FlowHandle>,
    /// Flows that were forgotten before their last number was announced for good.
    evicted: Vec<(FlowHandle, Announced)>,
    /// Where the last flow of a group was found: most frames of a group belong to one flow.
    recent: [u32; RECENT],
    totals: FlowTotals,
}

impl FlowTable {
    /// An empty table; all memory is taken now.
    pub fn new(identity: Identity, limits: FlowLimits) -> FlowTable {
        let flows = limits.flows.clamp(MIN_FLOWS, u32::MAX as usize / 2);
        FlowTable {
            identity,
            limits: FlowLimits { flows, ..limits },
            by_route: HashTable::with_capacity(flows),
            entries: Vec::new(),
            free: Vec::new(),
            hand: 0,
            incarnation: 0,
            woken: Vec::with_capacity(64),
            evicted: Vec::new(),
            recent: [0; RECENT],
            totals: FlowTotals::default(),
        }
    }

    /// The flow of a frame; begins it where it is new. `sender` counts in `standard` identity only.
    pub fn flow(&mut self, now: Instant, route: &Route<'_>, sender: IpAddr) -> FlowHandle {
        let recent = usize::from(route.ingredient.0) % RECENT;
        // Under `instance` the route alone names the flow.
        if matches!(self.identity, Identity::Instance(_))
            && let index = self.recent[recent]
            && let Some(entry) = self.entries.get_mut(index as usize)
            && entry.live
            && (entry.route.0, entry.route.1, &entry.route.2)
                == (route.destination, route.ingredient, route.subtree)
        {
            entry.last_used = now;
            return entry.name(index);
        }
        let flow = self.find(now, route, sender);
        self.recent[recent] = flow.index;
        flow
    }

    fn find(&mut self, now: Instant, route: &Route<'_>, sender: IpAddr) -> FlowHandle {
        let route_hash = hash_key(self.origin(sender, 0), route.ingredient, route.subtree).0;
        let entries = &self.entries;
        if let Some(&index) =
            self.by_route.find(spread(route_hash), |&i| entries[i as usize].route_hash == route_hash)
        {
            let entry = &mut self.entries[index as usize];
            entry.last_used = now;
            return entry.name(index);
        }
        self.begin(now, route_hash, route, sender)
    }

    /// Key and number for the next frame of `flow`; `None` if the flow was forgotten since.
    pub fn next(&mut self, flow: FlowHandle) -> Option<Numbered> {
        let entry = live(&mut self.entries, flow)?;
        let name = entry.name(flow.index);
        if entry.quiet {
            entry.quiet = false;
            entry.woken = entry.woken.wrapping_add(1);
            self.woken.push(name);
        }
        let number = match &mut entry.last {
            Numbers::Own(last) => {
                *last = last.checked_add(1).unwrap_or(1);
                *last
            }
            Numbers::Shared(last) => last.fetch_add(1, Ordering::Relaxed).checked_add(1).unwrap_or(1),
        };
        Some(Numbered { hash_key: entry.hash_key, seq_num: SeqNum(number), flow: name })
    }

    /// Key of `flow`.
    pub fn key(&mut self, flow: FlowHandle) -> Option<HashKey> {
        live(&mut self.entries, flow).map(|entry| entry.hash_key)
    }

    /// Frames of `flow` were numbered and will never be sent: what follows goes on under a new key, from 1. `false` if
    /// the flow was already retired or forgotten.
    pub fn retire(&mut self, flow: FlowHandle) -> bool {
        let Some(entry) = named(&mut self.entries, flow) else { return false };
        match &self.identity {
            Identity::Standard(_) => self.totals.holes += 1,
            Identity::Instance(origin) => {
                self.incarnation += 1;
                entry.hash_key =
                    hash_key(incarnate(*origin, self.incarnation), entry.route.1, &entry.route.2);
                entry.last = Numbers::Own(0);
                entry.identity = entry.identity.wrapping_add(1);
                entry.quiet = true;
                self.totals.retired += 1;
            }
        }
        true
    }

    /// The flow as a digest announces it; `None` if it was forgotten or retired since.
    pub fn announced(&self, flow: FlowHandle) -> Option<Announced> {
        let entry = self.entries.get(flow.index as usize).filter(|entry| entry.name(flow.index) == flow)?;
        if !entry.live {
            return None;
        }
        let highest = match &entry.last {
            Numbers::Own(last) => *last,
            Numbers::Shared(last) => last.load(Ordering::Relaxed),
        };
        Some(Announced {
            hash_key: entry.hash_key,
            highest: SeqNum(highest),
            group: entry.route.0,
            subtree: entry.route.2,
            woken: entry.woken,
        })
    }

    /// The schedule wants to hear of the next number of `flow`.
    pub fn set_quiet(&mut self, flow: FlowHandle) {
        if let Some(entry) = live(&mut self.entries, flow) {
            entry.quiet = true;
        }
    }

    /// Flows that took a number after they were new or quiet.
    pub fn drain_woken(&mut self) -> impl Iterator<Item = FlowHandle> + '_ {
        self.woken.drain(..)
    }

    /// Flows that were evicted while digests still had something to say of them.
    pub fn drain_evicted(&mut self) -> impl Iterator<Item = (FlowHandle, Announced)> + '_ {
        self.evicted.drain(..)
    }

    /// Forgets `flow` if it is idle since longer than the limit; `true` if it is gone.
    pub fn expire(&mut self, now: Instant, flow: FlowHandle) -> bool {
        let idle = self.limits.idle;
        match live(&mut self.entries, flow) {
            None => true,
            Some(entry) if now.saturating_duration_since(entry.last_used) < idle => false,
            Some(_) => {
                self.forget(flow.index);
                self.totals.expired += 1;
                true
            }
        }
    }

    /// Flows held.
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// No flow is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the table.
    pub fn bytes(&self) -> usize {
        self.entries.capacity() * size_of::<FlowEntry>() + self.by_route.capacity() * size_of::<u32>()
    }

    /// What has happened so far.
    pub fn totals(&self) -> FlowTotals {
        self.totals
    }

    fn origin(&self, sender: IpAddr, incarnation: u64) -> Origin {
        match &self.identity {
            Identity::Instance(origin) => incarnate(*origin, incarnation),
            Identity::Standard(_) => Origin::from(sender),
        }
    }

    fn begin(&mut self, now: Instant, route_hash: u64, route: &Route<'_>, sender: IpAddr) -> FlowHandle {
        let key = hash_key(self.origin(sender, self.incarnation), route.ingredient, route.subtree);
        let last = match &self.identity {
            Identity::Instance(_) => Numbers::Own(0),
            Identity::Standard(directory) => Numbers::Shared(directory.counter(key)),
        };
        let index = self.room(now);
        let entry = &mut self.entries[index as usize];
        entry.live = true;
        entry.route_hash = route_hash;
        entry.hash_key = key;
        entry.last = last;
        entry.route = (route.destination, route.ingredient, *route.subtree);
        entry.last_used = now;
        entry.quiet = true;
        let flow = entry.name(index);
        let entries = &self.entries;
        self.by_route.insert_unique(spread(route_hash), index, |&i| spread(entries[i as usize].route_hash));
        self.totals.begun += 1;
        flow
    }

    /// A free entry; when there is none, that of the longest idle flow of a sample.
    fn room(&mut self, now: Instant) -> u32 {
        if let Some(index) = self.free.pop() {
            return index;
        }
        if self.entries.len() < self.limits.flows {
            self.entries.push(FlowEntry {
                generation: 0,
                identity: 0,
                woken: 0,
                live: false,
                route_hash: 0,
                hash_key: HashKey(0),
                last: Numbers::Own(0),
                route: (GroupIndex(0), GroupIndex(0), [0; 32]),
                last_used: now,
                quiet: true,
            });
            return u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX);
        }
        let victim = self.longest_idle(now);
        let entry = &self.entries[victim as usize];
        let name = entry.name(victim);
        if !entry.quiet
            && let Some(announced) = self.announced(name)
        {
            self.evicted.push((name, announced));
        }
        self.forget(victim);
        self.totals.evicted += 1;
        self.free.pop().unwrap_or(victim)
    }

    /// The longest idle flow of a sample, never one that this batch has touched: its frames are yet to be numbered.
    fn longest_idle(&mut self, now: Instant) -> u32 {
        let count = self.entries.len();
        let mut victim = 0;
        for _ in 0..count.div_ceil(SAMPLE) {
            let sample = (0..SAMPLE).map(|step| (self.hand + step) % count);
            victim = sample.min_by_key(|&at| self.entries[at].last_used).unwrap_or(0);
            self.hand = (self.hand + SAMPLE) % count;
            if self.entries[victim].last_used < now {
                break;
            }
        }
        u32::try_from(victim).unwrap_or(0)
    }

    fn forget(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        let route_hash = entry.route_hash;
        entry.live = false;
        entry.generation = entry.generation.wrapping_add(1);
        entry.last = Numbers::Own(0);
        if let Ok(found) = self.by_route.find_entry(spread(route_hash), |&i| i == index) {
            found.remove();
        }
        self.free.push(index);
        self.incarnation += 1;
    }
}

impl FlowEntry {
    fn name(&self, index: u32) -> FlowHandle {
        FlowHandle { index, generation: self.generation, identity: self.identity }
    }
}

/// The flow, whatever its key is now.
fn live(entries: &mut [FlowEntry], flow: FlowHandle) -> Option<&mut FlowEntry> {
    entries.get_mut(flow.index as usize).filter(|entry| entry.live && entry.generation == flow.generation)
}

/// The flow, if it still has the key it had under this name.
fn named(entries: &mut [FlowEntry], flow: FlowHandle) -> Option<&mut FlowEntry> {
    live(entries, flow).filter(|entry| entry.identity == flow.identity)
}

/// The origin of a later incarnation of the same worker.
fn incarnate(mut origin: [u8; 16], incarnation: u64) -> Origin {
    for (byte, change) in origin[8..].iter_mut().zip(incarnation.to_be_bytes()) {
        *byte ^= change;
    }
    Origin(origin)
}

/// XXH64 output is even; the table wants its top bits too.
fn spread(route_hash: u64) -> u64 {
    route_hash.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(26)
}

/// Counters of `standard` flows: shared by the workers of a role, saved on an orderly stop.
///
/// Bounded in entries: when it is full, a counter that no worker holds is dropped; its flow starts again at 1, counted.
/// A lock is taken when a flow begins, never for a frame.
#[derive(Debug)]
pub struct Directory {
    counters: Mutex<HashMap<u64, Arc<AtomicU64>>>,
    capacity: usize,
    dropped: AtomicU64,
}

impl Directory {
    /// Room for `capacity` counters.
    pub fn new(capacity: usize) -> Directory {
        Directory {
            counters: Mutex::new(HashMap::new()),
            capacity: capacity.max(1),
            dropped: AtomicU64::new(0),
        }
    }

    /// Continues flows that were saved: (key, last number given out).
    pub fn restore(&self, saved: impl IntoIterator<Item = (HashKey, SeqNum)>) {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, last) in saved.into_iter().take(self.capacity) {
            counters.insert(key.0, Arc::new(AtomicU64::new(last.0)));
        }
    }

    /// Every flow and its last number.
    pub fn snapshot(&self) -> Vec<(HashKey, SeqNum)> {
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        counters.iter().map(|(&key, last)| (HashKey(key), SeqNum(last.load(Ordering::Relaxed)))).collect()
    }

    /// Counters dropped to make room.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn counter(&self, key: HashKey) -> Arc<AtomicU64> {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counter) = counters.get(&key.0) {
            return Arc::clone(counter);
        }
        if counters.len() >= self.capacity {
            let unused = counters.iter().find(|(_, last)| Arc::strong_count(last) == 1).map(|(&key, _)| key);
            if let Some(unused) = unused {
                counters.remove(&unused);
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        let counter = Arc::new(AtomicU64::new(0));
        counters.insert(key.0, Arc::clone(&counter));
        counter
    }
}

/// Which stamp a frame gets (wire 3). A preset number means something only under the sender's own key: in `instance`
/// identity a frame with both set keeps them, any other is numbered afresh.
pub fn stamp_of(
    identity_is_standard: bool,
    stamp_source: bool,
    may_keep: bool,
    preset: (HashKey, SeqNum),
) -> Stamp {
    let (key, number) = preset;
    match (number.0, key.0) {
        (0, _) => Stamp::Number,
        _ if !may_keep => Stamp::Number,
        (_, 0) if identity_is_standard => Stamp::KeyOnly,
        (_, 0) => Stamp::Number,
        _ if identity_is_standard && stamp_source => Stamp::KeyOnly,
        _ => Stamp::Keep,
    }
}
