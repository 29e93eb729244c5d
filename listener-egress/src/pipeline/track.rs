//! Gaps: which numbers of which flow are missing.
//!
//! Why: a frame lost in silence is the worst that can happen. Every datagram that carries a number passes `observe`
//! before any content filter; what it skips becomes a gap, and a gap closes when its frame arrives and for no other
//! reason. Flow digests (`digest`) show what no later frame would: the loss of a flow's last frames, or of all of them.
//!
//! Promises: a number is reported as missing once; numbers that are given up are counted by reason, never silent. A
//! single frame cannot move a flow further than `max_jump`: a longer jump is held until a second frame or a digest
//! confirms it, then the part that no endpoint could still hold is counted as lost and the rest is requested.
//!
//! Limits: flows are bounded in number (a full table drops the idlest of a sample, or refuses); missing numbers are kept
//! as ranges, bounded over all flows. A flow that left for its age leaves its next number in a bounded memory, so that
//! its return does not look like the loss of its whole history.
//!
//! Cost: a frame in order costs one hash lookup and a compare. A gap costs an entry in the table and one in the
//! flow's ordered map, whatever its length.
//!
//! A `Gap` also carries how far its repair is; `request` owns those fields.

mod probe;

pub use probe::Position;
pub(crate) use probe::{Asked, Question};

use super::counts::{Counts, Loss};
use super::slots::{Slot, Slots};
use crate::mutation::Mutation;
use frame::{GroupIndex, HashKey, Id, SeqNum};
use hashbrown::{HashMap, HashSet};
use lru::LruCache;
use probe::{AFTER_START, Probe, Resumed};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

/// Bounds and times of the tracker.
#[derive(Clone, Debug)]
pub struct TrackLimits {
    /// Flows at once.
    pub max_flows: usize,
    /// Ranges of missing numbers at once, over all flows.
    pub max_gaps: usize,
    /// Longest run of missing numbers that is requested; what lies before it is counted as lost.
    pub max_jump: u64,
    /// A flow first seen later than this after the start owes its numbers from 1 on.
    pub settle: Duration,
    /// A flow first seen at or below this number owes its numbers from 1 on at any time.
    pub small_head: u64,
    /// So many numbers from before its first sight are owed by a flow that is older than this process and of which no
    /// position was kept (`Tracker::resume`): what a process that died had claimed and not delivered comes back that way.
    pub catch_up: u64,
    /// A flow without traffic and gaps for this long is forgotten.
    pub idle: Duration,
    /// Wait before a gap that frames revealed is requested.
    pub reorder_delay: Duration,
    /// So many later frames end that wait; 0 = only the delay does.
    pub reorder_frames: u64,
    /// Wait before a gap that a digest revealed is requested: a digest may overtake frames that wait in another queue.
    pub digest_delay: Duration,
    /// How long a gap is repaired; `None` = by class.
    pub gap_ttl: Option<Duration>,
}

impl Default for TrackLimits {
    fn default() -> TrackLimits {
        TrackLimits {
            max_flows: 100_000,
            max_gaps: 500_000,
            // Five seconds of 50,000 frames/s: a pause of the process or a dead link in the order of seconds is repaired
            // in full, with 1,024 range requests; endpoints hold 60 s.
            max_jump: 1 << 18,
            settle: Duration::from_secs(2),
            small_head: 64,
            catch_up: 0,
            idle: Duration::from_secs(600),
            reorder_delay: Duration::from_millis(3),
            reorder_frames: 3,
            digest_delay: Duration::from_millis(10),
            gap_ttl: None,
        }
    }
}

/// What a flow carries: decides how long endpoints hold it (wire 6.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowClass {
    /// V2 and its fragments.
    Tx,
    /// V4 and its fragments.
    Block,
    /// V5 and its fragments.
    Subtree,
    /// V6.
    Anchor,
}

impl FlowClass {
    /// How long endpoints hold frames of this class.
    pub fn horizon(self) -> Duration {
        Duration::from_secs(match self {
            FlowClass::Tx => 60,
            FlowClass::Block => 600,
            FlowClass::Subtree => 300,
            FlowClass::Anchor => 120,
        })
    }
    /// What flows of a group carry, as far as the group says.
    pub fn of_group(group: GroupIndex) -> FlowClass {
        match group {
            GroupIndex::BLOCK_BROADCAST | GroupIndex::COINBASE_FLOW => FlowClass::Block,
            GroupIndex::ANCHOR_FLOW => FlowClass::Anchor,
            GroupIndex::SUBTREE_DATA => FlowClass::Subtree,
            _ => FlowClass::Tx,
        }
    }
}

/// One datagram with a number, as the tracker sees it.
#[derive(Clone, Copy, Debug)]
pub struct Sighting<'a> {
    /// Flow.
    pub key: HashKey,
    /// Number.
    pub seq: SeqNum,
    /// Group that carries the flow.
    pub group: GroupIndex,
    /// Subtree label of the flow: what a request names.
    pub subtree: &'a Id,
    /// What the flow carries.
    pub class: FlowClass,
    /// Where the datagram came from.
    pub source: IpAddr,
    /// The filters admit frames of this flow: gaps before this number are wanted.
    pub wanted: bool,
    /// The content was verified (or is a fragment, which is verified with its object).
    pub trusted: bool,
}

/// What `observe` made of a sighting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// No number, no room, or a contradiction: not tracked.
    Untracked,
    /// The highest number so far.
    Advanced,
    /// A missing number.
    Filled(Filled),
    /// A number that is not missing.
    Known,
    /// A jump that waits for confirmation.
    Held,
}

/// A missing number that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filled {
    /// It had been asked for.
    pub requested: bool,
    /// Since when it was missing.
    pub opened: Instant,
    /// The request that was under way for it.
    pub in_flight: Option<InFlight>,
}

/// A request under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// Who was asked.
    pub endpoint: u32,
    /// When.
    pub sent: Instant,
    /// First request for these numbers, and no time was taken from it yet: its answer times the endpoint (Karn).
    pub times: bool,
    /// An answer re-armed the timer already; a second one does not.
    pub answered: bool,
}

/// How far the repair of a gap is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Until `Gap::wake`.
    Waiting,
    /// In the queue of an endpoint; `Gap::wake` is the horizon.
    Queued(u32),
    /// Asked for; `Gap::wake` is the timeout.
    InFlight(InFlight),
}

/// A range of missing numbers in one state of repair.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gap {
    pub(crate) flow: Slot,
    pub(crate) first: u64,
    /// Inclusive.
    pub(crate) last: u64,
    pub(crate) opened: Instant,
    pub(crate) expires: Instant,
    pub(crate) phase: Phase,
    /// The one deadline that is valid.
    pub(crate) wake: Instant,
    pub(crate) requested: bool,
    /// It came before and found no room at the consumer: asked for when there is room.
    pub(crate) deferred: bool,
    /// Times all endpoints were asked in vain.
    pub(crate) round: u8,
    /// Which endpoint of the order is being asked.
    pub(crate) hop: u8,
    /// Times it was asked.
    pub(crate) tries: u8,
}

impl Gap {
    pub(crate) fn numbers(&self) -> u64 {
        self.last - self.first + 1
    }
    /// Factor on timeouts: doubles with every request in vain.
    pub(crate) fn backoff(&self) -> u32 {
        1 << u32::from(self.round.saturating_mul(2).saturating_add(self.tries)).min(9)
    }
}

/// A number too far ahead to be believed at first.
#[derive(Clone, Copy, Debug)]
struct Held {
    seq: u64,
    /// A frame came under it; otherwise a digest named it.
    arrived: bool,
}

/// State of one flow.
pub(crate) struct Flow {
    pub(crate) key: HashKey,
    pub(crate) subtree: Id,
    group: GroupIndex,
    class: FlowClass,
    source: IpAddr,
    /// A verified frame was seen: `subtree` is believed.
    trusted: bool,
    /// The filters admitted the last frame.
    wanted: bool,
    /// Lowest number not seen and not in `gaps`.
    next: u64,
    gaps: BTreeMap<u64, Slot>,
    last_seen: Instant,
    /// The gap that later frames may hasten, and the number at which they do.
    young: Option<(Slot, u64)>,
    /// A jump that waits for confirmation.
    held: Option<Held>,
    /// Consecutive novel frames behind `next`: (number expected next, how many).
    run: (u64, u8),
    /// Running mean time between frames, ns.
    interval_ns: u64,
    probe: Probe,
    /// Numbers below are from before this process.
    older_than_us: u64,
}

/// Numbers that were given up, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Flow.
    pub key: HashKey,
    /// First number.
    pub first: u64,
    /// Last number.
    pub last: u64,
    /// Why.
    pub why: Loss,
}

/// Hash of flow keys: keyed, because senders choose the keys; one multiplication.
#[derive(Clone)]
struct KeyedHash(u64);

struct KeyedState(u64);

impl BuildHasher for KeyedHash {
    type Hasher = KeyedState;
    fn build_hasher(&self) -> KeyedState {
        KeyedState(self.0)
    }
}

impl Hasher for KeyedState {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    #[allow(clippy::cast_possible_truncation, reason = "the two halves of a product are folded")]
    fn write_u64(&mut self, value: u64) {
        let product = u128::from(value ^ self.0) * u128::from(0x9E37_79B9_7F4A_7C15_u64 | 1);
        let folded = (product as u64) ^ ((product >> 64) as u64);
        let again = u128::from(folded) * u128::from(self.0 | 1);
        self.0 = (again as u64) ^ ((again >> 64) as u64);
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

/// All flows of one worker.
pub struct Tracker {
    limits: TrackLimits,
    started: Instant,
    by_key: HashMap<HashKey, Slot, KeyedHash>,
    flows: Slots<Flow>,
    gaps: Slots<Gap>,
    /// Next number of flows that left for their age.
    departed: LruCache<HashKey, u64>,
    /// Positions that the consumer's listeners reached before this process, of flows that it has not seen yet.
    resumed: HashMap<HashKey, Resumed, KeyedHash>,
    /// Flows about which a question is due soon.
    hurried: VecDeque<HashKey>,
    /// Flows of which no endpoint spoke, for the log; bounded.
    unconfirmed: Vec<(HashKey, u64)>,
    /// Gaps that are new, or were split off, and have no deadline in the queue yet.
    fresh: Vec<Slot>,
    /// Numbers given up since the last `take_losses`, for the log; bounded, the counters have them all.
    losses: Vec<Lost>,
    /// How long requested numbers were missing, since the last `take_recoveries`.
    recoveries: Vec<Duration>,
    missing: u64,
    /// Numbers of removed gaps that were under way: (endpoint, how many).
    released: Vec<(u32, u64)>,
    /// Senders of digests: their flows are probed late.
    digest_sources: HashSet<IpAddr>,
    rng: SmallRng,
    sweep_at: usize,
    pub(crate) mutation: Option<Mutation>,
}

/// Losses kept for the log between two bursts.
const LOSS_NOTES: usize = 64;
/// First look whether a deferred number has room.
const DEFERRED_DELAY: Duration = Duration::from_millis(50);
/// Senders of digests that are remembered.
const DIGEST_SOURCES: usize = 1024;
/// Recovery times kept between two bursts.
const RECOVERY_NOTES: usize = 4096;
/// Novel frames in a row behind a flow's highest number that mean a restart (wire 9.1).
const RESTART_RUN: u8 = 4;
/// Flows looked at to find an idle one when the table is full.
const SAMPLE: usize = 16;
/// A flow idle for less is never evicted for another.
const EVICTABLE_AFTER: Duration = Duration::from_secs(5);

impl Tracker {
    /// An empty tracker. `seed` places flows and chooses victims.
    pub fn new(limits: TrackLimits, seed: u64, now: Instant) -> Tracker {
        let memory = NonZeroUsize::new(limits.max_flows.max(1)).unwrap_or(NonZeroUsize::MIN);
        Tracker {
            by_key: HashMap::with_hasher(KeyedHash(seed | 1)),
            flows: Slots::new(),
            gaps: Slots::new(),
            departed: LruCache::new(memory),
            resumed: HashMap::with_hasher(KeyedHash(seed | 1)),
            hurried: VecDeque::new(),
            unconfirmed: Vec::new(),
            fresh: Vec::new(),
            losses: Vec::new(),
            recoveries: Vec::new(),
            missing: 0,
            released: Vec::new(),
            digest_sources: HashSet::new(),
            rng: SmallRng::seed_from_u64(seed),
            sweep_at: 0,
            mutation: None,
            started: now,
            limits,
        }
    }

    /// Where the consumer's listeners were before this process: every number below the position has reached its end, and
    /// what comes from there on is owed. Endpoints are asked about flows that stay silent (`probe`).
    pub fn resume(&mut self, flows: impl IntoIterator<Item = Position>) {
        for Position { key, next, group } in flows.into_iter().take(self.limits.max_flows) {
            let probe = Probe::new(Some(self.started + AFTER_START));
            let resumed = self.resumed.entry(key).or_insert(Resumed { next, group, probe });
            resumed.next = next.max(resumed.next);
            self.hurry(key);
        }
    }

    /// The first number of each flow that has not come, of at most `most` flows, those that spoke last; what was resumed
    /// and not seen since keeps its position. Flows that the filters refuse have none. Returns how many flows found no
    /// place.
    pub fn positions(&self, most: usize, out: &mut Vec<Position>) -> usize {
        let flows = (0..self.flows.places()).filter_map(|place| self.flows.at(place)).map(|(_, flow)| flow);
        let next = |flow: &Flow| flow.gaps.keys().next().copied().unwrap_or(flow.next);
        let position = |flow: &Flow| Position { key: flow.key, next: next(flow), group: flow.group };
        let mut seen: Vec<_> =
            flows.filter(|flow| flow.wanted).map(|flow| (flow.last_seen, position(flow))).collect();
        let all = seen.len() + self.resumed.len();
        if seen.len() > most {
            seen.select_nth_unstable_by_key(most, |(at, _)| std::cmp::Reverse(*at));
            seen.truncate(most);
        }
        out.clear();
        out.extend(seen.iter().map(|&(_, position)| position));
        let resumed = self.resumed.iter().map(|(&key, r)| Position { key, next: r.next, group: r.group });
        out.extend(resumed.take(most - out.len()));
        all - out.len()
    }

    /// Takes one numbered datagram into account.
    pub fn observe(&mut self, now: Instant, s: &Sighting<'_>, counts: &mut Counts) -> Seen {
        if s.seq.0 == 0 {
            return Seen::Untracked;
        }
        let Some(&slot) = self.by_key.get(&s.key) else {
            return self.first_sight(now, s, counts);
        };
        let Some(flow) = self.flows.get_mut(slot) else { return Seen::Untracked };
        if !s.trusted && flow.trusted && flow.subtree != *s.subtree {
            counts.flow_mismatch += 1;
            return Seen::Untracked;
        }
        if s.trusted && !flow.trusted {
            flow.trusted = true;
            flow.subtree = *s.subtree;
        }
        let seq = s.seq.0;
        if seq < flow.next {
            return self.behind(now, slot, seq, s.trusted, counts);
        }
        let asked = flow.probe.covers(seq);
        flow.saw_traffic(now);
        flow.wanted = s.wanted;
        if seq == flow.next {
            flow.next = seq.saturating_add(1);
            flow.run.1 = 0;
            self.hasten_young(now, slot);
            if asked {
                self.question_met(now, s.key);
            }
            return Seen::Advanced;
        }
        if seq - flow.next > self.limits.max_jump && !flow.confirms(seq, self.limits.max_jump) {
            flow.held = Some(Held { seq, arrived: true });
            counts.jumps_held += 1;
            return Seen::Held;
        }
        self.jump(now, slot, seq, self.limits.reorder_delay, Some(seq), counts);
        Seen::Advanced
    }

    /// Takes one entry of a flow digest into account: all numbers up to `highest` were sent.
    #[allow(
        clippy::too_many_arguments,
        reason = "the fields of a digest entry and what the filters say of it"
    )]
    pub fn digest(
        &mut self,
        now: Instant,
        key: HashKey,
        highest: SeqNum,
        group: GroupIndex,
        subtree: &Id,
        source: IpAddr,
        wanted: bool,
        counts: &mut Counts,
    ) {
        counts.digest_entries += 1;
        if self.digest_sources.len() < DIGEST_SOURCES {
            self.digest_sources.insert(source);
        }
        let (Some(after), false) = (highest.0.checked_add(1), highest.0 == 0) else { return };
        let Some(&slot) = self.by_key.get(&key) else {
            let class = FlowClass::of_group(group);
            let s = Sighting { key, seq: highest, group, subtree, class, source, wanted, trusted: false };
            if self.resume_flow(now, &s, counts) {
                return self.digest(now, key, highest, group, subtree, source, wanted, counts);
            }
            let first = self.owed_from(now, &s, after, counts);
            if let Some(slot) = self.add_flow(now, &s, first, counts)
                && first < after
            {
                self.jump(now, slot, after, self.limits.digest_delay, None, counts);
            }
            return;
        };
        let Some(flow) = self.flows.get_mut(slot) else { return };
        if highest.0 < flow.next {
            return;
        }
        flow.wanted = wanted;
        if highest.0 - flow.next >= self.limits.max_jump && !flow.confirms(highest.0, self.limits.max_jump) {
            flow.held = Some(Held { seq: highest.0, arrived: false });
            counts.jumps_held += 1;
            return;
        }
        self.jump(now, slot, after, self.limits.digest_delay, None, counts);
    }

    /// A frame behind the highest number, not missing, had an id that nobody had seen: several in a row, from a
    /// source that repairs nothing, mean that the sender began anew under its old key (wire 9.1).
    pub fn novel_behind(&mut self, now: Instant, key: HashKey, seq: SeqNum, counts: &mut Counts) {
        let Some(&slot) = self.by_key.get(&key) else { return };
        let Some(flow) = self.flows.get_mut(slot) else { return };
        let seq = seq.0;
        if seq < flow.older_than_us && now < self.started + flow.class.horizon() {
            // From before this process: new to us, and probably a repair that a sibling asked for.
            return;
        }
        counts.collisions += 1;
        flow.run = if flow.run.1 > 0 && flow.run.0 == seq { (seq + 1, flow.run.1 + 1) } else { (seq + 1, 1) };
        if flow.run.1 < RESTART_RUN || seq >= flow.next {
            return;
        }
        counts.restarts += 1;
        let wanted = flow.wanted;
        let head = (seq + 1).saturating_sub(u64::from(RESTART_RUN));
        self.give_up_flow(slot, Loss::Restart, counts);
        let Some(flow) = self.flows.get_mut(slot) else { return };
        flow.run = (0, 0);
        flow.held = None;
        flow.next = seq + 1;
        let first = (head + 1).saturating_sub(self.limits.max_jump).max(1);
        if wanted && first <= head {
            self.open(now, slot, first, head, self.limits.reorder_delay, counts);
        }
    }

    /// A number that was taken as arrived turned out to be worthless (a fragment of an object that failed its hash): it
    /// is missing again.
    pub fn reopen(&mut self, now: Instant, key: HashKey, seq: SeqNum, counts: &mut Counts) {
        if let Some(slot) = self.arrived_before(key, seq) {
            self.open(now, slot, seq.0, seq.0, self.limits.reorder_delay, counts);
        }
    }

    /// A frame that arrived found no room at the consumer. Endpoints still hold it: its number is missing again, and is
    /// asked for when there is room (`Requester::set_room`).
    pub fn defer(&mut self, now: Instant, key: HashKey, seq: SeqNum, counts: &mut Counts) {
        let Some(slot) = self.arrived_before(key, seq) else { return };
        // Those before it found no room either, as a rule: one range.
        if let Some(before) = self.gap_at(slot, seq.0 - 1)
            && let Some(gap) = self.gaps.get_mut(before)
            && gap.deferred
            && gap.phase == Phase::Waiting
        {
            gap.last = seq.0;
            self.missing += 1;
            counts.gaps_detected += 1;
            return;
        }
        let Some(name) = self.open(now, slot, seq.0, seq.0, DEFERRED_DELAY, counts) else { return };
        if let Some(gap) = self.gaps.get_mut(name) {
            gap.deferred = true;
        }
    }

    fn arrived_before(&self, key: HashKey, seq: SeqNum) -> Option<Slot> {
        let slot = *self.by_key.get(&key)?;
        let known = self.flows.get(slot).is_some_and(|flow| seq.0 != 0 && seq.0 < flow.next);
        (known && self.gap_at(slot, seq.0).is_none()).then_some(slot)
    }

    /// True if `seq` is missing, or is the number that a probe asks for.
    pub fn is_missing(&self, key: HashKey, seq: SeqNum) -> bool {
        let Some(&slot) = self.by_key.get(&key) else {
            return self.resumed.get(&key).is_some_and(|resumed| resumed.probe.covers(seq.0));
        };
        let probed = self.flows.get(slot).is_some_and(|flow| flow.next <= seq.0 && flow.probe.covers(seq.0));
        probed || self.gap_at(slot, seq.0).is_some()
    }

    /// True if frames of the flow were seen here, or by the consumer's listeners before this process.
    pub(crate) fn knows(&self, key: HashKey) -> bool {
        self.by_key.contains_key(&key) || self.resumed.contains_key(&key)
    }

    /// Group and label of a flow of which a verified frame was seen.
    pub(crate) fn label(&self, key: HashKey) -> Option<(GroupIndex, Id)> {
        let flow = self.flows.get(*self.by_key.get(&key)?)?;
        flow.trusted.then_some((flow.group, flow.subtree))
    }

    /// Numbers missing now.
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// Flows known now.
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    /// What was given up since the last call (at most 64 notes; the counters have all).
    pub fn take_losses(&mut self, out: &mut Vec<Lost>) {
        out.append(&mut self.losses);
    }

    /// How long requested numbers were missing that came since the last call.
    pub fn take_recoveries(&mut self, out: &mut Vec<Duration>) {
        out.append(&mut self.recoveries);
    }

    /// Gives up every open gap: the process stops.
    pub fn stop(&mut self, counts: &mut Counts) {
        for place in 0..self.flows.places() {
            if let Some((slot, _)) = self.flows.at(place) {
                self.give_up_flow(slot, Loss::Stop, counts);
            }
        }
    }

    fn first_sight(&mut self, now: Instant, s: &Sighting<'_>, counts: &mut Counts) -> Seen {
        let seq = s.seq.0;
        if self.resume_flow(now, s, counts) {
            return self.observe(now, s, counts);
        }
        let first = self.owed_from(now, s, seq, counts);
        let Some(slot) = self.add_flow(now, s, first, counts) else { return Seen::Untracked };
        if seq < first {
            return self.behind(now, slot, seq, s.trusted, counts);
        }
        self.jump(now, slot, seq, self.limits.reorder_delay, Some(seq), counts);
        Seen::Advanced
    }

    /// Makes the flow where it was left before this process, if its position is known.
    fn resume_flow(&mut self, now: Instant, s: &Sighting<'_>, counts: &mut Counts) -> bool {
        if !s.wanted {
            return false;
        }
        let Some(Resumed { next, probe, .. }) = self.resumed.remove(&s.key) else { return false };
        let Some(slot) = self.add_flow(now, s, next, counts) else { return false };
        counts.flows_resumed += 1;
        counts.catch_up = counts.catch_up.saturating_add(s.seq.0.saturating_sub(next));
        if let Some(flow) = self.flows.get_mut(slot) {
            flow.older_than_us = s.seq.0.max(next);
            flow.probe = probe;
        }
        true
    }

    /// The start rule: the first number that a flow seen for the first time at `s.seq` owes us; `baseline` where it
    /// owes nothing from before.
    fn owed_from(&mut self, now: Instant, s: &Sighting<'_>, baseline: u64, counts: &mut Counts) -> u64 {
        let seq = s.seq.0;
        if let Some(next) = self.departed.pop(&s.key) {
            return next;
        }
        if s.wanted && (self.is_settled(now) || seq <= self.limits.small_head) {
            // What is older than the longest jump is no loss of ours: it may be from before the flow's last rest.
            seq.saturating_sub(self.limits.max_jump).max(1)
        } else if s.wanted && self.limits.catch_up > 0 {
            let first = seq.saturating_sub(self.limits.catch_up.min(self.limits.max_jump)).max(1);
            counts.flows_without_position += 1;
            counts.catch_up = counts.catch_up.saturating_add(seq - first);
            first
        } else {
            baseline
        }
    }

    /// Flows that begin now are new, and not only to us.
    fn is_settled(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.started) >= self.limits.settle
    }

    /// Where the numbers end that a flow had before this process, if it catches up with them.
    fn head_before_us(&self, now: Instant, seq: u64) -> u64 {
        let catches_up = self.limits.catch_up > 0 && seq > self.limits.small_head && !self.is_settled(now);
        if catches_up { seq } else { 0 }
    }

    fn add_flow(&mut self, now: Instant, s: &Sighting<'_>, next: u64, counts: &mut Counts) -> Option<Slot> {
        if self.flows.len() >= self.limits.max_flows && !self.evict_one(now, counts) {
            counts.flows_refused += 1;
            return None;
        }
        let slot = self.flows.insert(Flow {
            key: s.key,
            subtree: *s.subtree,
            group: s.group,
            class: s.class,
            source: s.source,
            trusted: s.trusted,
            wanted: s.wanted,
            next,
            gaps: BTreeMap::new(),
            last_seen: now,
            young: None,
            held: None,
            run: (0, 0),
            interval_ns: 0,
            probe: Probe::new(None),
            older_than_us: self.head_before_us(now, s.seq.0),
        });
        self.by_key.insert(s.key, slot);
        Some(slot)
    }

    /// Moves `next` to `seq` over a run of missing numbers, and past `seq` if that is what `arrived`.
    fn jump(
        &mut self,
        now: Instant,
        slot: Slot,
        seq: u64,
        delay: Duration,
        arrived: Option<u64>,
        counts: &mut Counts,
    ) {
        let Some(flow) = self.flows.get_mut(slot) else { return };
        let (from, wanted, key) = (flow.next, flow.wanted, flow.key);
        let held = flow.held.take_if(|held| held.seq < seq);
        flow.next = seq.saturating_add(u64::from(arrived.is_some()));
        flow.run.1 = 0;
        if !wanted || from >= seq {
            return;
        }
        let first = from.max(seq.saturating_sub(self.limits.max_jump));
        if first > from {
            counts.gaps_detected = counts.gaps_detected.saturating_add(first - from);
            self.lose(key, from, first - 1, Loss::Jump, counts);
        }
        let gap = self.open(now, slot, first, seq - 1, delay, counts);
        if let Some(held) = held
            && held.arrived
        {
            self.fill(slot, held.seq);
        }
        if let Some(gap) = gap
            && arrived.is_some()
            && self.limits.reorder_frames > 0
            && let Some(flow) = self.flows.get_mut(slot)
        {
            // The frame that revealed the gap is the first of the later ones.
            flow.young = Some((gap, seq.saturating_add(self.limits.reorder_frames)));
        }
    }

    fn open(
        &mut self,
        now: Instant,
        slot: Slot,
        first: u64,
        last: u64,
        delay: Duration,
        counts: &mut Counts,
    ) -> Option<Slot> {
        let flow = self.flows.get_mut(slot)?;
        let numbers = last.checked_sub(first)?.saturating_add(1);
        counts.gaps_detected = counts.gaps_detected.saturating_add(numbers);
        if self.gaps.len() >= self.limits.max_gaps {
            let key = flow.key;
            self.lose(key, first, last, Loss::TableFull, counts);
            return None;
        }
        let horizon = self.limits.gap_ttl.unwrap_or(flow.class.horizon());
        let gap = self.gaps.insert(Gap {
            flow: slot,
            first,
            last,
            opened: now,
            expires: now + horizon,
            phase: Phase::Waiting,
            wake: now + delay.min(horizon),
            requested: false,
            deferred: false,
            round: 0,
            hop: 0,
            tries: 0,
        });
        flow.gaps.insert(first, gap);
        self.missing += numbers;
        self.fresh.push(gap);
        Some(gap)
    }

    fn behind(&mut self, now: Instant, slot: Slot, seq: u64, trusted: bool, counts: &mut Counts) -> Seen {
        // A frame that nobody verified may not close a gap that is wanted.
        if trusted && let Some(filled) = self.fill(slot, seq) {
            if filled.requested {
                counts.recovered += 1;
                if self.recoveries.len() < RECOVERY_NOTES {
                    self.recoveries.push(now.saturating_duration_since(filled.opened));
                }
            } else {
                counts.reordered += 1;
            }
            return Seen::Filled(filled);
        }
        counts.duplicates += 1;
        Seen::Known
    }

    /// Takes one number out of its gap; the gap shrinks, splits or goes.
    fn fill(&mut self, slot: Slot, seq: u64) -> Option<Filled> {
        let name = self.gap_at(slot, seq)?;
        let flow = self.flows.get_mut(slot)?;
        let gap = self.gaps.get_mut(name)?;
        let filled = Filled {
            requested: gap.requested,
            opened: gap.opened,
            in_flight: if let Phase::InFlight(request) = gap.phase { Some(request) } else { None },
        };
        if let Phase::InFlight(request) = &mut gap.phase {
            request.times = false;
        }
        self.missing -= 1;
        match (gap.first == seq, gap.last == seq) {
            (true, true) => {
                flow.gaps.remove(&seq);
                self.gaps.remove(name);
            }
            (true, false) => {
                gap.first += 1;
                flow.gaps.remove(&seq);
                flow.gaps.insert(seq + 1, name);
            }
            (false, true) => gap.last -= 1,
            (false, false) => {
                let mut rest = *gap;
                gap.last = seq - 1;
                rest.first = seq + 1;
                let rest = self.gaps.insert(rest);
                flow.gaps.insert(seq + 1, rest);
                self.fresh.push(rest);
            }
        }
        Some(filled)
    }

    fn gap_at(&self, slot: Slot, seq: u64) -> Option<Slot> {
        let (_, &name) = self.flows.get(slot)?.gaps.range(..=seq).next_back()?;
        (self.gaps.get(name)?.last >= seq).then_some(name)
    }

    fn hasten_young(&mut self, now: Instant, slot: Slot) {
        let Some(flow) = self.flows.get_mut(slot) else { return };
        if let Some((name, at)) = flow.young
            && flow.next >= at
        {
            flow.young = None;
            if let Some(gap) = self.gaps.get_mut(name)
                && gap.phase == Phase::Waiting
                && !gap.requested
                && gap.wake > now
            {
                gap.wake = now;
                self.fresh.push(name);
            }
        }
    }

    fn release(&mut self, gap: &Gap) {
        self.missing -= gap.numbers();
        if let Phase::InFlight(request) = gap.phase {
            self.released.push((request.endpoint, gap.numbers()));
        }
    }

    fn lose(&mut self, key: HashKey, first: u64, last: u64, why: Loss, counts: &mut Counts) {
        counts.lose(why, (last - first).saturating_add(1));
        if self.losses.len() < LOSS_NOTES {
            self.losses.push(Lost { key, first, last, why });
        }
    }

    fn give_up_flow(&mut self, slot: Slot, why: Loss, counts: &mut Counts) {
        let Some(flow) = self.flows.get_mut(slot) else { return };
        let gaps = std::mem::take(&mut flow.gaps);
        let key = flow.key;
        for name in gaps.into_values() {
            if let Some(gap) = self.gaps.remove(name) {
                self.release(&gap);
                self.lose(key, gap.first, gap.last, why, counts);
            }
        }
    }

    fn remove_flow(&mut self, slot: Slot, counts: &mut Counts) {
        self.give_up_flow(slot, Loss::FlowEvicted, counts);
        if let Some(flow) = self.flows.remove(slot) {
            self.by_key.remove(&flow.key);
            self.departed.put(flow.key, flow.next);
            counts.flows_evicted += 1;
        }
    }

    /// Makes room for a flow: the idlest of a sample that has no gaps and has been idle for a while goes.
    fn evict_one(&mut self, now: Instant, counts: &mut Counts) -> bool {
        let places = self.flows.places().max(1);
        let mut victim: Option<(Slot, Instant)> = None;
        for _ in 0..SAMPLE {
            let place = self.rng.random_range(0..places);
            if let Some((slot, flow)) = self.flows.at(place)
                && flow.gaps.is_empty()
                && flow.held.is_none()
                && now.saturating_duration_since(flow.last_seen) >= EVICTABLE_AFTER
                && victim.is_none_or(|(_, seen)| flow.last_seen < seen)
            {
                victim = Some((slot, flow.last_seen));
            }
        }
        victim.is_some_and(|(slot, _)| {
            self.remove_flow(slot, counts);
            true
        })
    }

    /// Flows that were resumed and are still not seen after `idle` are forgotten like others.
    fn forget_resumed(&mut self, now: Instant) {
        if now.saturating_duration_since(self.started) >= self.limits.idle {
            self.resumed = HashMap::with_hasher(self.resumed.hasher().clone());
        }
    }

    /// Looks at some flows: forgets those that are idle for too long, and names those that a probe should ask.
    pub(crate) fn sweep(
        &mut self,
        now: Instant,
        flows: usize,
        mut ask: impl FnMut(&Question) -> Asked,
        counts: &mut Counts,
    ) {
        self.forget_resumed(now);
        self.probe_hurried(now, &mut ask, counts);
        let places = self.flows.places();
        for _ in 0..flows.min(places) {
            self.sweep_at = if self.sweep_at + 1 >= places { 0 } else { self.sweep_at + 1 };
            let Some((slot, flow)) = self.flows.at(self.sweep_at) else { continue };
            let idle = now.saturating_duration_since(flow.last_seen);
            if idle >= self.limits.idle && flow.gaps.is_empty() {
                if let Some(held) = flow.held {
                    let (key, next) = (flow.key, flow.next);
                    self.lose(key, next, (held.seq - 1).max(next), Loss::Jump, counts);
                }
                self.remove_flow(slot, counts);
            } else {
                let key = flow.key;
                self.probe(now, key, &mut ask, counts);
            }
        }
    }

    // What `request` needs.

    pub(crate) fn take_released(&mut self) -> Option<(u32, u64)> {
        self.released.pop()
    }
    pub(crate) fn take_fresh(&mut self) -> Option<Slot> {
        self.fresh.pop()
    }
    pub(crate) fn gap(&self, name: Slot) -> Option<&Gap> {
        self.gaps.get(name)
    }
    pub(crate) fn gap_mut(&mut self, name: Slot) -> Option<&mut Gap> {
        self.gaps.get_mut(name)
    }
    pub(crate) fn flow(&self, slot: Slot) -> Option<&Flow> {
        self.flows.get(slot)
    }
    /// The gap that holds the first missing number of `first..=last`.
    pub(crate) fn next_gap(&self, key: HashKey, first: u64, last: u64) -> Option<Slot> {
        let slot = *self.by_key.get(&key)?;
        if let Some(name) = self.gap_at(slot, first) {
            return Some(name);
        }
        let (&start, &name) = self.flows.get(slot)?.gaps.range(first..).next()?;
        (start <= last).then_some(name)
    }
    /// Cuts a gap so that it ends before `at`; the rest becomes a gap of its own in the same state.
    pub(crate) fn split(&mut self, name: Slot, at: u64) -> Option<Slot> {
        let gap = self.gaps.get_mut(name)?;
        if at <= gap.first || at > gap.last {
            return None;
        }
        let mut rest = *gap;
        gap.last = at - 1;
        rest.first = at;
        let flow = gap.flow;
        let rest = self.gaps.insert(rest);
        self.flows.get_mut(flow)?.gaps.insert(at, rest);
        Some(rest)
    }
    /// The horizon of a gap passed.
    pub(crate) fn give_up(&mut self, name: Slot, counts: &mut Counts) {
        let Some(gap) = self.gaps.remove(name) else { return };
        self.release(&gap);
        let Some(flow) = self.flows.get_mut(gap.flow) else { return };
        flow.gaps.remove(&gap.first);
        let key = flow.key;
        let why = if gap.last < flow.older_than_us { Loss::BeforeStart } else { Loss::Horizon };
        self.lose(key, gap.first, gap.last, why, counts);
    }
}

impl Flow {
    fn saw_traffic(&mut self, now: Instant) {
        let gap = now.saturating_duration_since(self.last_seen).as_nanos();
        let gap = u64::try_from(gap).unwrap_or(u64::MAX);
        self.interval_ns = self.interval_ns - self.interval_ns / 8 + gap / 8;
        self.last_seen = now;
        self.probe.saw_traffic();
    }

    /// A jump to `seq` is near one that waits: two sightings agree.
    fn confirms(&self, seq: u64, max_jump: u64) -> bool {
        self.held.is_some_and(|held| held.seq.abs_diff(seq) <= max_jump)
    }
}
