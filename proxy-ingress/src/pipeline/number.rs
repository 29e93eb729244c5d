//! Numbers: which flow a frame belongs to, and its place in it (wire 3, design section 5).
//!
//! Why after planning: frames of a batch may leave in another order than they came; a number taken when a frame leaves
//! is in order for every receiver.
//!
//! Promises: within a flow numbers leave in order, from 1, without a hole; no (HashKey, SeqNum) ever names two frames
//! of one process. A flow that is evicted, or that lost frames to a refusal, comes back under a new key (`instance`).
//! In `standard` the key is given by the sender's address and cannot change: counters outlive eviction in a shared
//! directory, and a refusal leaves a hole, which is counted.
//!
//! Limits: a fixed number of flows, idle ones leave after [`FlowLimits::idle`]; when all are busy the longest idle of a
//! sample leaves, counted. Cost: one XXH64 of 52 bytes and one table look-up a frame, no allocation in steady state.

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
/// Slots looked at to find a flow to evict.
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

/// Name of a flow in its table; a forgotten or retired flow is never confused with its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowRef {
    index: u32,
    /// Changes when the slot is given to another flow.
    life: u32,
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
    pub flow: FlowRef,
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

struct Slot {
    life: u32,
    identity: u32,
    woken: u32,
    live: bool,
    /// Hash of the unchanging ingredients: where the table keeps the flow.
    place: u64,
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
    places: HashTable<u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    hand: usize,
    /// Grows with each flow that is forgotten or retired, so that its successor has another key.
    incarnation: u64,
    woken: Vec<FlowRef>,
    /// Flows that were forgotten before their last number was announced for good.
    evicted: Vec<(FlowRef, Announced)>,
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
            places: HashTable::with_capacity(flows),
            slots: Vec::new(),
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
    pub fn flow(&mut self, now: Instant, route: &Route<'_>, sender: IpAddr) -> FlowRef {
        let recent = usize::from(route.ingredient.0) % RECENT;
        // Under `instance` the route alone names the flow.
        if matches!(self.identity, Identity::Instance(_))
            && let index = self.recent[recent]
            && let Some(slot) = self.slots.get_mut(index as usize)
            && slot.live
            && (slot.route.0, slot.route.1, &slot.route.2)
                == (route.destination, route.ingredient, route.subtree)
        {
            slot.last_used = now;
            return slot.name(index);
        }
        let flow = self.find(now, route, sender);
        self.recent[recent] = flow.index;
        flow
    }

    fn find(&mut self, now: Instant, route: &Route<'_>, sender: IpAddr) -> FlowRef {
        let place = hash_key(self.origin(sender, 0), route.ingredient, route.subtree).0;
        let slots = &self.slots;
        if let Some(&index) = self.places.find(spread(place), |&i| slots[i as usize].place == place) {
            let slot = &mut self.slots[index as usize];
            slot.last_used = now;
            return slot.name(index);
        }
        self.begin(now, place, route, sender)
    }

    /// Key and number for the next frame of `flow`; `None` if the flow was forgotten since.
    pub fn next(&mut self, flow: FlowRef) -> Option<Numbered> {
        let slot = live(&mut self.slots, flow)?;
        let name = slot.name(flow.index);
        if slot.quiet {
            slot.quiet = false;
            slot.woken = slot.woken.wrapping_add(1);
            self.woken.push(name);
        }
        let number = match &mut slot.last {
            Numbers::Own(last) => {
                *last = last.checked_add(1).unwrap_or(1);
                *last
            }
            Numbers::Shared(last) => last.fetch_add(1, Ordering::Relaxed).checked_add(1).unwrap_or(1),
        };
        Some(Numbered { hash_key: slot.hash_key, seq_num: SeqNum(number), flow: name })
    }

    /// Key of `flow`.
    pub fn key(&mut self, flow: FlowRef) -> Option<HashKey> {
        live(&mut self.slots, flow).map(|slot| slot.hash_key)
    }

    /// Frames of `flow` were numbered and will never be sent: what follows goes on under a new key, from 1. `false` if
    /// the flow was already retired or forgotten.
    pub fn retire(&mut self, flow: FlowRef) -> bool {
        let Some(slot) = named(&mut self.slots, flow) else { return false };
        match &self.identity {
            Identity::Standard(_) => self.totals.holes += 1,
            Identity::Instance(origin) => {
                self.incarnation += 1;
                slot.hash_key = hash_key(incarnate(*origin, self.incarnation), slot.route.1, &slot.route.2);
                slot.last = Numbers::Own(0);
                slot.identity = slot.identity.wrapping_add(1);
                slot.quiet = true;
                self.totals.retired += 1;
            }
        }
        true
    }

    /// The flow as a digest announces it; `None` if it was forgotten or retired since.
    pub fn announced(&self, flow: FlowRef) -> Option<Announced> {
        let slot = self.slots.get(flow.index as usize).filter(|slot| slot.name(flow.index) == flow)?;
        if !slot.live {
            return None;
        }
        let highest = match &slot.last {
            Numbers::Own(last) => *last,
            Numbers::Shared(last) => last.load(Ordering::Relaxed),
        };
        Some(Announced {
            hash_key: slot.hash_key,
            highest: SeqNum(highest),
            group: slot.route.0,
            subtree: slot.route.2,
            woken: slot.woken,
        })
    }

    /// The schedule wants to hear of the next number of `flow`.
    pub fn mark_quiet(&mut self, flow: FlowRef) {
        if let Some(slot) = live(&mut self.slots, flow) {
            slot.quiet = true;
        }
    }

    /// Flows that took a number after they were new or quiet.
    pub fn drain_woken(&mut self) -> impl Iterator<Item = FlowRef> + '_ {
        self.woken.drain(..)
    }

    /// Flows that were evicted while digests still had something to say of them.
    pub fn drain_evicted(&mut self) -> impl Iterator<Item = (FlowRef, Announced)> + '_ {
        self.evicted.drain(..)
    }

    /// Forgets `flow` if it is idle since longer than the limit; `true` if it is gone.
    pub fn expire(&mut self, now: Instant, flow: FlowRef) -> bool {
        let idle = self.limits.idle;
        match live(&mut self.slots, flow) {
            None => true,
            Some(slot) if now.saturating_duration_since(slot.last_used) < idle => false,
            Some(_) => {
                self.forget(flow.index);
                self.totals.expired += 1;
                true
            }
        }
    }

    /// Flows held.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// No flow is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the table.
    pub fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>() + self.places.capacity() * size_of::<u32>()
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

    fn begin(&mut self, now: Instant, place: u64, route: &Route<'_>, sender: IpAddr) -> FlowRef {
        let key = hash_key(self.origin(sender, self.incarnation), route.ingredient, route.subtree);
        let last = match &self.identity {
            Identity::Instance(_) => Numbers::Own(0),
            Identity::Standard(directory) => Numbers::Shared(directory.counter(key)),
        };
        let index = self.room(now);
        let slot = &mut self.slots[index as usize];
        slot.live = true;
        slot.place = place;
        slot.hash_key = key;
        slot.last = last;
        slot.route = (route.destination, route.ingredient, *route.subtree);
        slot.last_used = now;
        slot.quiet = true;
        let flow = slot.name(index);
        let slots = &self.slots;
        self.places.insert_unique(spread(place), index, |&i| spread(slots[i as usize].place));
        self.totals.begun += 1;
        flow
    }

    /// A free slot; when there is none, that of the longest idle flow of a sample.
    fn room(&mut self, now: Instant) -> u32 {
        if let Some(index) = self.free.pop() {
            return index;
        }
        if self.slots.len() < self.limits.flows {
            self.slots.push(Slot {
                life: 0,
                identity: 0,
                woken: 0,
                live: false,
                place: 0,
                hash_key: HashKey(0),
                last: Numbers::Own(0),
                route: (GroupIndex(0), GroupIndex(0), [0; 32]),
                last_used: now,
                quiet: true,
            });
            return u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX);
        }
        let victim = self.longest_idle(now);
        let slot = &self.slots[victim as usize];
        let name = slot.name(victim);
        if !slot.quiet
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
        let count = self.slots.len();
        let mut victim = 0;
        for _ in 0..count.div_ceil(SAMPLE) {
            let sample = (0..SAMPLE).map(|step| (self.hand + step) % count);
            victim = sample.min_by_key(|&at| self.slots[at].last_used).unwrap_or(0);
            self.hand = (self.hand + SAMPLE) % count;
            if self.slots[victim].last_used < now {
                break;
            }
        }
        u32::try_from(victim).unwrap_or(0)
    }

    fn forget(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let place = slot.place;
        slot.live = false;
        slot.life = slot.life.wrapping_add(1);
        slot.last = Numbers::Own(0);
        if let Ok(found) = self.places.find_entry(spread(place), |&i| i == index) {
            found.remove();
        }
        self.free.push(index);
        self.incarnation += 1;
    }
}

impl Slot {
    fn name(&self, index: u32) -> FlowRef {
        FlowRef { index, life: self.life, identity: self.identity }
    }
}

/// The flow, whatever its key is now.
fn live(slots: &mut [Slot], flow: FlowRef) -> Option<&mut Slot> {
    slots.get_mut(flow.index as usize).filter(|slot| slot.live && slot.life == flow.life)
}

/// The flow, if it still has the key it had under this name.
fn named(slots: &mut [Slot], flow: FlowRef) -> Option<&mut Slot> {
    live(slots, flow).filter(|slot| slot.identity == flow.identity)
}

/// The origin of a later life of the same worker.
fn incarnate(mut origin: [u8; 16], incarnation: u64) -> Origin {
    for (byte, change) in origin[8..].iter_mut().zip(incarnation.to_be_bytes()) {
        *byte ^= change;
    }
    Origin(origin)
}

/// XXH64 output is even; the table wants its top bits too.
fn spread(place: u64) -> u64 {
    place.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(26)
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
