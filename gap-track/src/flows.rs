//! The flows of a tracker: a bounded table by key.
//!
//! A full table gives the place of the idlest of a sample to a newcomer, if that one has no gaps and was idle for a while;
//! otherwise the newcomer is refused. Cost: one hash lookup for a frame.

use crate::gaps::{GapId, Ranges};
use crate::hash::KeyedHash;
use crate::head::Head;
use crate::probe::Probe;
use crate::sighting::{FlowClass, Sighting};
use crate::slots::{Slot, Slots};
use frame::{GroupIndex, HashKey, Id};
use hashbrown::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Flows looked at to find an idle one when the table is full.
const SAMPLE: usize = 16;
/// A flow idle for less is never evicted for another.
const EVICTABLE_AFTER: Duration = Duration::from_secs(5);

/// Who a flow is.
pub(crate) struct Label {
    pub(crate) key: HashKey,
    pub(crate) subtree: Id,
    pub(crate) group: GroupIndex,
    pub(crate) class: FlowClass,
    pub(crate) source: IpAddr,
    /// A verified frame was seen: `subtree` is believed.
    pub(crate) trusted: bool,
}

/// When frames of a flow came.
pub(crate) struct Pace {
    pub(crate) last_seen: Instant,
    /// Running mean time between frames, ns.
    interval_ns: u64,
}

/// State of one flow.
pub(crate) struct Flow {
    pub(crate) label: Label,
    /// The filters admitted the last frame.
    pub(crate) wanted: bool,
    pub(crate) head: Head,
    pub(crate) gaps: Ranges,
    pub(crate) pace: Pace,
    /// The gap that later frames may hasten, and the number at which they do.
    pub(crate) young: Option<(GapId, u64)>,
    pub(crate) probe: Probe,
    /// Numbers below are from before this process.
    pub(crate) older_than_us: u64,
}

impl Flow {
    pub(crate) fn new(now: Instant, s: &Sighting<'_>, next: u64) -> Flow {
        Flow {
            label: Label {
                key: s.key,
                subtree: *s.subtree,
                group: s.group,
                class: s.class,
                source: s.source,
                trusted: s.trusted,
            },
            wanted: s.wanted,
            head: Head::at(next),
            gaps: Ranges::default(),
            pace: Pace { last_seen: now, interval_ns: 0 },
            young: None,
            probe: Probe::new(None),
            older_than_us: 0,
        }
    }

    /// Takes in what a frame says of the flow; `false`: nobody verified it and it contradicts what verified frames said.
    pub(crate) fn believes(&mut self, s: &Sighting<'_>) -> bool {
        let label = &mut self.label;
        if label.trusted && !s.trusted {
            return label.subtree == *s.subtree;
        }
        if s.trusted && !label.trusted {
            label.trusted = true;
            label.subtree = *s.subtree;
        }
        true
    }

    pub(crate) fn saw_traffic(&mut self, now: Instant) {
        let pause = now.saturating_duration_since(self.pace.last_seen).as_nanos();
        let pause = u64::try_from(pause).unwrap_or(u64::MAX);
        self.pace.interval_ns = self.pace.interval_ns - self.pace.interval_ns / 8 + pause / 8;
        self.pace.last_seen = now;
        self.probe.saw_traffic();
    }

    pub(crate) fn idle_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.pace.last_seen)
    }

    /// First number that has not come.
    pub(crate) fn position(&self) -> u64 {
        self.gaps.first().unwrap_or(self.head.next())
    }

    /// Idle for long enough that its last frames may be lost, and no digest spoke of it (wire 9.2, 15). A sender of
    /// `digests` has the first word; one that was killed sends none of its last frames.
    pub(crate) fn wants_probe(&self, now: Instant, digests: bool) -> bool {
        let least = Duration::from_millis(if digests { 2_000 } else { 500 });
        let pause = Duration::from_nanos(self.pace.interval_ns.saturating_mul(4)).max(least);
        self.wanted && self.gaps.is_empty() && self.probe.is_due(now, Some(self.pace.last_seen + pause))
    }
}

/// See the module text.
pub(crate) struct FlowTable {
    by_key: HashMap<HashKey, Slot, KeyedHash>,
    flows: Slots<Flow>,
    most: usize,
    random: u64,
    sweep_at: usize,
}

impl FlowTable {
    pub(crate) fn new(most: usize, hash: KeyedHash, seed: u64) -> FlowTable {
        let (by_key, flows) = (HashMap::with_hasher(hash), Slots::new());
        FlowTable { by_key, flows, most, random: seed, sweep_at: 0 }
    }

    pub(crate) fn find(&self, key: HashKey) -> Option<Slot> {
        self.by_key.get(&key).copied()
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&Flow> {
        self.flows.get(slot)
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut Flow> {
        self.flows.get_mut(slot)
    }

    pub(crate) fn of_key(&self, key: HashKey) -> Option<&Flow> {
        self.flows.get(self.find(key)?)
    }

    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.flows.len() >= self.most
    }

    pub(crate) fn insert(&mut self, flow: Flow) -> Slot {
        let key = flow.label.key;
        let slot = self.flows.insert(flow);
        self.by_key.insert(key, slot);
        slot
    }

    pub(crate) fn remove(&mut self, slot: Slot) -> Option<Flow> {
        let flow = self.flows.remove(slot)?;
        self.by_key.remove(&flow.label.key);
        Some(flow)
    }

    /// The idlest of a sample, if one may go.
    pub(crate) fn victim(&mut self, now: Instant) -> Option<Slot> {
        let mut victim: Option<(Slot, Instant)> = None;
        for _ in 0..SAMPLE {
            let place = self.place_at_random();
            if let Some((slot, flow)) = self.flows.at(place)
                && flow.gaps.is_empty()
                && !flow.head.holds()
                && flow.idle_for(now) >= EVICTABLE_AFTER
                && victim.is_none_or(|(_, seen)| flow.pace.last_seen < seen)
            {
                victim = Some((slot, flow.pace.last_seen));
            }
        }
        victim.map(|(slot, _)| slot)
    }

    /// SplitMix64: where to look must not be known to senders, and need not be better than that.
    #[allow(clippy::cast_possible_truncation, reason = "the remainder is below the number of places")]
    fn place_at_random(&mut self) -> usize {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.random;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((x ^ (x >> 31)) % self.flows.places().max(1) as u64) as usize
    }

    /// Places of the table, taken or free: the range for `at`.
    pub(crate) fn places(&self) -> usize {
        self.flows.places()
    }

    pub(crate) fn at(&self, place: usize) -> Option<(Slot, &Flow)> {
        self.flows.at(place)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Flow> {
        (0..self.flows.places()).filter_map(|place| self.flows.at(place)).map(|(_, flow)| flow)
    }

    /// The next place of a walk that never ends.
    pub(crate) fn sweep_next(&mut self) -> Option<(Slot, &Flow)> {
        self.sweep_at = if self.sweep_at + 1 >= self.flows.places() { 0 } else { self.sweep_at + 1 };
        self.flows.at(self.sweep_at)
    }
}
