//! When to announce which flow: flow digests (docs/wire-extensions.md) show receivers the loss of a flow's last frames, or
//! of its only one.
//!
//! A flow is announced 100 ms after it became active, and every 100 ms while it stays active. After that each pause is
//! twice as long as the one before, up to 10 s, until the flow expires. This is a pure schedule: the caller says what time
//! it is, and sends what it is given.
//!
//! A key that was retired is announced for a while, as far as its numbers were handed over. So is the key of a flow that
//! was evicted from a full table.
//!
//! Limits: at most [`MAX_PER_TICK`] datagrams a tick. A flow that found no place stays due and comes first next time.
//!
//! Cost: nothing for a frame of an active flow; one heap operation for each announcement.

use super::number::{Announced, FlowHandle, FlowTable};
use frame::SeqNum;
use frame::digest::{ENTRY, Entry, HEADER};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

/// Time from activity to announcement.
pub(super) const FIRST: Duration = Duration::from_millis(100);
/// Longest time between announcements of a quiet flow.
pub(super) const LONGEST: Duration = Duration::from_secs(10);
/// Longest digest datagram.
pub(super) const MAX_DATAGRAM: usize = 1_400;
/// Flows in a digest.
pub(super) const ENTRIES: usize = (MAX_DATAGRAM - HEADER) / ENTRY;
/// Digests a tick.
pub(super) const MAX_PER_TICK: usize = 8;

/// Keys of the past that are announced; more push out the oldest, counted.
const MOST_RETIRED: usize = 1_024;

/// A retired or evicted key, and what is announced of it.
#[derive(Clone, Copy, Debug)]
struct RetiredKey {
    flow: FlowHandle,
    at: Instant,
    interval: Duration,
    entry: Entry,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct DueFlow {
    at: Instant,
    flow: FlowHandle,
    interval: Duration,
    /// Number that the last announcement carried.
    announced: u64,
    /// The waking that this entry belongs to: a flow that woke since has another.
    woken: u32,
}

/// See the module text.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    due: BinaryHeap<Reverse<DueFlow>>,
    woken: Vec<FlowHandle>,
    retired: VecDeque<RetiredKey>,
    unannounced: u64,
}

impl Schedule {
    /// Nothing is due.
    pub(super) fn new() -> Schedule {
        Schedule::default()
    }

    /// Takes up the flows that became active since the last call, and those that were evicted.
    pub(super) fn wake(&mut self, now: Instant, flows: &mut FlowTable) {
        for (flow, announced) in flows.drain_evicted() {
            self.announce_retired(now, flow, &announced, 0);
        }
        self.woken.extend(flows.drain_woken());
        for flow in self.woken.drain(..) {
            let Some(state) = flows.announced(flow) else { continue };
            let due = DueFlow { at: now + FIRST, flow, interval: FIRST, announced: 0, woken: state.woken };
            self.due.push(Reverse(due));
        }
    }

    /// A flow goes on under another key. Of the numbers that it gave out under this one, `lost` were not handed over. (A
    /// frame that several interfaces lost counts for each of them, so less is announced than might be.)
    pub(super) fn announce_retired(&mut self, now: Instant, handle: FlowHandle, flow: &Announced, lost: u64) {
        let highest = SeqNum(flow.highest.0.saturating_sub(lost));
        if highest.0 == 0 {
            return;
        }
        if self.retired.len() == MOST_RETIRED {
            self.retired.pop_front();
            self.unannounced += 1;
        }
        let entry = Entry { hash_key: flow.hash_key, highest, group: flow.group, subtree_id: flow.subtree };
        self.retired.push_back(RetiredKey { flow: handle, at: now + FIRST, interval: FIRST, entry });
    }

    /// Of the numbers of an evicted flow, `lost` more were not handed over.
    pub(super) fn take_back(&mut self, flow: FlowHandle, lost: u64) {
        for key in self.retired.iter_mut().filter(|key| key.flow == flow) {
            key.entry.highest.0 = key.entry.highest.0.saturating_sub(lost);
        }
        self.retired.retain(|key| key.entry.highest.0 > 0);
    }

    /// Last words that found no place.
    pub(super) fn unannounced(&self) -> u64 {
        self.unannounced
    }

    /// Makes active flows due now: there will be no later.
    pub(super) fn hasten(&mut self, now: Instant) {
        let active = |due: &DueFlow| due.interval == FIRST;
        let mut due = std::mem::take(&mut self.due).into_vec();
        due.retain(|Reverse(due)| active(due));
        for Reverse(due) in &mut due {
            // Once only: the next interval is the longest.
            (due.at, due.interval, due.announced) = (now.min(due.at), LONGEST, u64::MAX);
        }
        self.due = due.into();
        for key in &mut self.retired {
            (key.at, key.interval) = (now.min(key.at), LONGEST);
        }
    }

    /// When [`Schedule::next_digest`] has something to say.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let flow = self.due.peek().map(|Reverse(due)| due.at);
        self.retired.iter().map(|key| key.at).chain(flow).min()
    }

    /// Flows that are due now, as entries of one digest; empty when none is.
    pub(super) fn next_digest(&mut self, now: Instant, flows: &mut FlowTable, entries: &mut Vec<Entry>) {
        entries.clear();
        self.retired_due(now, entries);
        while entries.len() < ENTRIES {
            let Some(&Reverse(due)) = self.due.peek() else { break };
            if due.at > now {
                break;
            }
            self.due.pop();
            self.announce(now, due, flows, entries);
        }
    }

    fn retired_due(&mut self, now: Instant, entries: &mut Vec<Entry>) {
        self.retired.retain_mut(|key| {
            if key.at > now || entries.len() == ENTRIES {
                return true;
            }
            entries.push(key.entry);
            key.interval *= 2;
            key.at = now + key.interval;
            key.interval <= LONGEST
        });
    }

    fn announce(&mut self, now: Instant, due: DueFlow, flows: &mut FlowTable, entries: &mut Vec<Entry>) {
        let Some(flow) = flows.announced(due.flow) else { return };
        if flow.woken != due.woken || flows.expire(now, due.flow) {
            return;
        }
        entries.push(Entry {
            hash_key: flow.hash_key,
            highest: flow.highest,
            group: flow.group,
            subtree_id: flow.subtree,
        });
        let active = flow.highest.0 != due.announced && due.announced != u64::MAX;
        let interval = if active { FIRST } else { (due.interval * 2).min(LONGEST) };
        if !active {
            // The next frame begins a new schedule, and with it this one becomes stale.
            flows.set_quiet(due.flow);
        }
        let announced = flow.highest.0;
        self.due.push(Reverse(DueFlow { at: now + interval, interval, announced, ..due }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::group::Route;
    use crate::pipeline::number::{FlowLimits, Identity, MIN_FLOWS};
    use frame::{GroupIndex, Id};
    use std::net::{IpAddr, Ipv4Addr};

    const ANYONE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn table() -> FlowTable {
        let limits = FlowLimits { flows: MIN_FLOWS, idle: Duration::from_secs(300) };
        FlowTable::new(Identity::Instance([9; 16]), limits)
    }

    fn number(flows: &mut FlowTable, now: Instant, subtree: &Id) {
        let route = Route { destination: GroupIndex(1), ingredient: GroupIndex(1), subtree };
        let flow = flows.flow(now, &route, ANYONE);
        flows.next(flow).unwrap();
    }

    /// Times (ms from `start`) at which something is announced until `end`, stepping from timeout to timeout.
    fn announcements(
        schedule: &mut Schedule,
        flows: &mut FlowTable,
        start: Instant,
        end: Duration,
    ) -> Vec<u128> {
        let mut times = Vec::new();
        let mut entries = Vec::new();
        while let Some(at) = schedule.next_timeout().filter(|at| *at <= start + end) {
            schedule.next_digest(at, flows, &mut entries);
            times.extend(entries.iter().map(|_| (at - start).as_millis()));
        }
        times
    }

    #[test]
    fn a_burst_is_announced_soon_then_ever_less_often_until_it_expires() {
        let (mut flows, mut schedule, start) = (table(), Schedule::new(), Instant::now());
        number(&mut flows, start, &[0; 32]);
        schedule.wake(start, &mut flows);
        let times = announcements(&mut schedule, &mut flows, start, Duration::from_secs(3600));
        assert_eq!(times[..7], [100, 200, 400, 800, 1600, 3200, 6400]);
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] <= LONGEST.as_millis()));
        assert!(*times.last().unwrap() < 300_000 + 20_000);
        assert!(flows.is_empty() && schedule.next_timeout().is_none());
    }

    #[test]
    fn a_retired_key_is_announced_for_a_while_as_far_as_its_numbers_left() {
        let (mut flows, mut schedule, start) = (table(), Schedule::new(), Instant::now());
        let route = Route { destination: GroupIndex(1), ingredient: GroupIndex(1), subtree: &[0; 32] };
        let flow = flows.flow(start, &route, ANYONE);
        let key = (0..5).map(|_| flows.next(flow).unwrap().hash_key).last().unwrap();
        schedule.wake(start, &mut flows);
        schedule.announce_retired(start, flow, &flows.announced(flow).unwrap(), 2);
        flows.retire(flow);
        let (mut seen, mut entries) = (Vec::new(), Vec::new());
        while let Some(at) = schedule.next_timeout() {
            schedule.next_digest(at, &mut flows, &mut entries);
            seen.extend(entries.iter().map(|entry| (entry.hash_key, entry.highest.0)));
        }
        assert!(seen.len() >= 5 && seen.iter().all(|entry| *entry == (key, 3)), "{seen:?}");
    }

    #[test]
    fn a_flow_that_is_evicted_from_a_full_table_has_its_last_word() {
        let (mut flows, mut schedule, start) = (table(), Schedule::new(), Instant::now());
        let subtree = |n: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_be_bytes());
            id
        };
        for n in 0..=MIN_FLOWS {
            let now = start + Duration::from_micros(n as u64);
            number(&mut flows, now, &subtree(n));
        }
        assert_eq!(flows.totals().evicted, 1);
        schedule.wake(start, &mut flows);
        let (mut seen, mut entries) = (std::collections::HashSet::new(), Vec::new());
        while let Some(at) = schedule.next_timeout().filter(|at| *at <= start + Duration::from_secs(1)) {
            schedule.next_digest(at, &mut flows, &mut entries);
            seen.extend(entries.iter().map(|entry| entry.subtree_id));
        }
        assert_eq!(seen.len(), MIN_FLOWS + 1);
        // What did not leave after all is taken back.
        let route = Route { destination: GroupIndex(1), ingredient: GroupIndex(1), subtree: &subtree(1) };
        let flow = flows.flow(start, &route, ANYONE);
        let announced = flows.announced(flow).unwrap();
        schedule.announce_retired(start, flow, &announced, 0);
        schedule.take_back(flow, 1);
        schedule.next_digest(start + FIRST, &mut flows, &mut entries);
        assert!(entries.iter().all(|entry| entry.subtree_id != subtree(1)));
    }

    #[test]
    fn a_quiet_flow_that_speaks_again_is_announced_once_within_100_ms() {
        let (mut flows, mut schedule, start) = (table(), Schedule::new(), Instant::now());
        number(&mut flows, start, &[0; 32]);
        schedule.wake(start, &mut flows);
        announcements(&mut schedule, &mut flows, start, Duration::from_secs(20));
        let later = start + Duration::from_secs(20);
        number(&mut flows, later, &[0; 32]);
        schedule.wake(later, &mut flows);
        let times = announcements(&mut schedule, &mut flows, later, Duration::from_millis(900));
        assert_eq!(times, [100, 200, 400, 800]);
    }

    #[test]
    fn more_flows_than_a_datagram_holds_take_turns() {
        let (mut flows, mut schedule, start) = (table(), Schedule::new(), Instant::now());
        for subtree in 0..100_u8 {
            number(&mut flows, start, &[subtree; 32]);
        }
        schedule.wake(start, &mut flows);
        let (mut seen, mut entries) = (std::collections::HashSet::new(), Vec::new());
        for _ in 0..100_usize.div_ceil(ENTRIES) {
            schedule.next_digest(start + FIRST, &mut flows, &mut entries);
            assert!(HEADER + entries.len() * ENTRY <= MAX_DATAGRAM);
            seen.extend(entries.iter().map(|entry| entry.subtree_id));
        }
        assert_eq!(seen.len(), 100);
    }
}
