//! Where a flow begins for this process.
//!
//! Three sources, the first that has an answer counts: the position that an earlier process kept ([`Positions`]); the
//! place where the flow was when this process forgot it for its age ([`Departed`]); the start rule ([`first_owed`]).
//!
//! Limits: positions are bounded by the flow table, departed flows by the same number; the one that left first goes.

use crate::hash::KeyedHash;
use crate::limits::TrackLimits;
use crate::probe::{AFTER_START, Probe};
use frame::{GroupIndex, HashKey};
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::time::Instant;

/// Where a flow was left: every number below has reached its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Flow.
    pub key: HashKey,
    /// First number that has not reached its end.
    pub next: u64,
    /// Group that carries the flow.
    pub group: GroupIndex,
}

/// A flow that only a position names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unheard {
    pub(crate) next: u64,
    pub(crate) group: GroupIndex,
    pub(crate) probe: Probe,
}

/// Positions that an earlier process reached, of flows that were not heard since.
pub(crate) struct Positions {
    flows: HashMap<HashKey, Unheard, KeyedHash>,
}

impl Positions {
    pub(crate) fn new(hash: KeyedHash) -> Positions {
        Positions { flows: HashMap::with_hasher(hash) }
    }

    /// Takes a position in; the highest of a flow holds.
    pub(crate) fn add(&mut self, Position { key, next, group }: Position, started: Instant) {
        let probe = Probe::new(Some(started + AFTER_START));
        let unheard = self.flows.entry(key).or_insert(Unheard { next, group, probe });
        unheard.next = next.max(unheard.next);
    }

    pub(crate) fn get(&self, key: HashKey) -> Option<&Unheard> {
        self.flows.get(&key)
    }

    pub(crate) fn get_mut(&mut self, key: HashKey) -> Option<&mut Unheard> {
        self.flows.get_mut(&key)
    }

    /// The flow is heard.
    pub(crate) fn remove(&mut self, key: HashKey) -> Option<Unheard> {
        self.flows.remove(&key)
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        if !self.flows.is_empty() {
            *self = Positions::new(self.flows.hasher().clone());
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Position> {
        self.flows.iter().map(|(&key, left)| Position { key, next: left.next, group: left.group })
    }

    /// Flows about which nobody gave up asking.
    pub(crate) fn asked_about(&self) -> usize {
        self.flows.values().filter(|left| !left.probe.rests()).count()
    }
}

/// Next number of flows that left for their age, so that their return does not look like the loss of their whole history.
pub(crate) struct Departed {
    next: HashMap<HashKey, (u64, u64), KeyedHash>,
    /// Who left when, oldest first; an entry whose departure is not the flow's last is void.
    order: VecDeque<(HashKey, u64)>,
    departures: u64,
    most: usize,
}

impl Departed {
    pub(crate) fn new(most: usize, hash: KeyedHash) -> Departed {
        Departed {
            next: HashMap::with_hasher(hash),
            order: VecDeque::new(),
            departures: 0,
            most: most.max(1),
        }
    }

    pub(crate) fn put(&mut self, key: HashKey, next: u64) {
        self.departures += 1;
        self.next.insert(key, (next, self.departures));
        self.order.push_back((key, self.departures));
        // At least as many are void as are not: the walk is paid for by the departures that made them so.
        if self.order.len() > 2 * self.most {
            let next = &self.next;
            self.order.retain(|(key, departure)| next.get(key).is_some_and(|(_, last)| last == departure));
        }
        while self.next.len() > self.most
            && let Some((key, departure)) = self.order.pop_front()
        {
            if self.next.get(&key).is_some_and(|(_, last)| *last == departure) {
                self.next.remove(&key);
            }
        }
    }

    /// The flow is back.
    pub(crate) fn remove(&mut self, key: HashKey) -> Option<u64> {
        self.next.remove(&key).map(|(next, _)| next)
    }
}

/// The first number that a flow owes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owed {
    /// From there on, as every flow that began while this process was up.
    From(u64),
    /// From there on, because the flow is older than this process and nobody knows where it was.
    CatchUp(u64),
    /// Nothing from before.
    Nothing,
}

/// The start rule for a wanted flow that is first seen at `seq`; `settled`: flows that begin now are new to everybody.
pub(crate) fn first_owed(limits: &TrackLimits, seq: u64, settled: bool) -> Owed {
    if settled || seq <= limits.small_head {
        // What is older than the longest jump is no loss of ours: it may be from before the flow's last rest.
        Owed::From(seq.saturating_sub(limits.max_jump).max(1))
    } else if limits.catch_up > 0 {
        Owed::CatchUp(seq.saturating_sub(limits.catch_up.min(limits.max_jump)).max(1))
    } else {
        Owed::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flow_that_left_first_is_forgotten_first_and_one_that_left_again_is_young() {
        let mut departed = Departed::new(2, KeyedHash::new(7));
        departed.put(HashKey(1), 10);
        departed.put(HashKey(2), 20);
        departed.put(HashKey(1), 11);
        departed.put(HashKey(3), 30);
        let left = [1, 2, 3].map(|key| departed.remove(HashKey(key)));
        assert_eq!(left, [Some(11), None, Some(30)]);
    }

    #[test]
    fn flows_that_come_and_go_for_ever_take_no_more_room() {
        let mut departed = Departed::new(4, KeyedHash::new(7));
        departed.put(HashKey(99), 1);
        for n in 0..10_000 {
            departed.put(HashKey(n % 3), n);
            departed.remove(HashKey(n % 3));
        }
        assert!(departed.order.len() <= 9, "{}", departed.order.len());
        assert_eq!(departed.remove(HashKey(99)), Some(1));
    }

    #[test]
    fn what_a_flow_owes_follows_from_its_first_number_and_the_time() {
        let limits = TrackLimits { small_head: 10, max_jump: 100, catch_up: 30, ..TrackLimits::default() };
        assert_eq!(first_owed(&limits, 10, false), Owed::From(1));
        assert_eq!(first_owed(&limits, 500, true), Owed::From(400));
        assert_eq!(first_owed(&limits, 500, false), Owed::CatchUp(470));
        let limits = TrackLimits { catch_up: 0, ..limits };
        assert_eq!(first_owed(&limits, 500, false), Owed::Nothing);
    }
}
