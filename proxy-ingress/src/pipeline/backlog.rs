//! The backlog of an emit interface: copies of trains that the kernel refused, to be tried again.
//!
//! It has a *lane* for each group with frames that wait. In a lane nothing overtakes: a flow belongs to one group, so its
//! numbers stay in order. Lanes do not wait for one another. A refused lane is tried again after a pause that grows from
//! [`FIRST_RETRY`] to [`LONGEST_RETRY`].
//!
//! Limits: bounded in bytes, and in time (`--send-deadline`). What waited too long is given up, counted, and with it what
//! else of its flows waits: that has numbers after the hole.
//!
//! Cost: nothing while nothing is refused; else one copy of what waits, and a search among the lanes for each train.

use super::emit::{Emission, Stop, Transmit, push};
use super::hand_over::{FrameOrigin, HandOvers};
use super::number::FlowHandle;
#[cfg(feature = "mutants")]
use super::number::FlowTable;
use crate::drops::DropReason;
use multicast_io::{Span, Train};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::ops::Bound::{Excluded, Unbounded};
use std::time::{Duration, Instant};

/// First pause before a refused lane, or an interface that refused several, is tried again.
pub(super) const FIRST_RETRY: Duration = Duration::from_millis(1);
/// Longest such pause.
pub(super) const LONGEST_RETRY: Duration = Duration::from_millis(16);

/// Trains of one group that were put aside at one time.
struct Deferred {
    batch: Emission,
    memory: Vec<u8>,
    taken: usize,
    since: Instant,
}

/// What waits for one group, in order.
struct Lane {
    waiting: VecDeque<Deferred>,
    retry_at: Instant,
    pause: Duration,
}

/// What came of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offered {
    /// The kernel took something.
    pub(super) some: bool,
    /// What stopped it.
    pub(super) stop: Stop,
}

/// See the module text.
#[derive(Default)]
pub(super) struct Backlog {
    lanes: BTreeMap<SocketAddr, Lane>,
    bytes: usize,
    /// The lane that was offered last: the next pass begins behind it.
    last: Option<SocketAddr>,
}

impl Backlog {
    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Groups with frames that wait.
    pub(super) fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Bytes that wait for this group.
    pub(super) fn bytes_for(&self, group: SocketAddr) -> usize {
        let lane = self.lanes.get(&group);
        lane.map_or(0, |lane| lane.waiting.iter().map(|waiting| waiting.memory.len()).sum())
    }

    /// Frames for this group wait: later ones wait behind them.
    pub(super) fn holds(&self, group: SocketAddr) -> bool {
        !self.lanes.is_empty() && self.lanes.contains_key(&group)
    }

    /// When the first lane is due.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.lanes.values().map(|lane| lane.retry_at).min()
    }

    /// Copies a train behind what waits for its group, unless the backlog would then hold more than `bytes`. A `refused`
    /// train pauses first.
    pub(super) fn push(
        &mut self,
        now: Instant,
        (batch, memory): (&Emission, &[u8]),
        train: &Train,
        refused: bool,
        bytes: usize,
    ) -> bool {
        let frames = &batch.frames[train.first as usize..][..train.count as usize];
        let more: usize = frames.iter().map(|span| span.len as usize).sum();
        if self.bytes + more > bytes {
            return false;
        }
        self.bytes += more;
        let lane = self.lanes.entry(train.destination).or_insert_with(|| Lane {
            waiting: VecDeque::new(),
            retry_at: now,
            pause: FIRST_RETRY,
        });
        if refused {
            lane.pause(now);
        }
        lane.push(now, batch, memory, train);
        true
    }

    /// Lanes that are due, the one that was offered last behind the others.
    pub(super) fn due(&self, now: Instant) -> Vec<SocketAddr> {
        let from = self.last.map_or(Unbounded, Excluded);
        let first = self.lanes.range((from, Unbounded));
        let then = self.last.map(|last| self.lanes.range(..=last));
        let due = first.chain(then.into_iter().flatten()).filter(|(_, lane)| lane.retry_at <= now);
        due.map(|(group, _)| *group).collect()
    }

    /// Tries a lane again.
    pub(super) fn offer(
        &mut self,
        now: Instant,
        group: SocketAddr,
        socket: &mut impl Transmit,
        hand_overs: &mut HandOvers,
    ) -> Offered {
        self.last = Some(group);
        let mut offered = Offered { some: false, stop: Stop::Done };
        let Some(lane) = self.lanes.get_mut(&group) else { return offered };
        while let Some(head) = lane.waiting.front_mut() {
            let before = head.taken;
            let upto = head.batch.frames.len();
            offered.stop = push(&head.batch, &head.memory, (&mut head.taken, upto), socket, hand_overs);
            if head.taken > before {
                offered.some = true;
                lane.pause = FIRST_RETRY;
            }
            if offered.stop != Stop::Done {
                lane.pause(now);
                return offered;
            }
            self.bytes -= head.memory.len();
            lane.waiting.pop_front();
        }
        self.lanes.remove(&group);
        offered
    }

    /// Gives up what waits since `deadline` or longer.
    pub(super) fn expire(&mut self, now: Instant, deadline: Duration, hand_overs: &mut HandOvers) {
        let late = |lane: &Lane| {
            lane.waiting.front().is_some_and(|head| now.saturating_duration_since(head.since) >= deadline)
        };
        for lane in self.lanes.values_mut() {
            while late(lane)
                && let Some(head) = lane.waiting.pop_front()
            {
                hand_overs.lose(head.left(), DropReason::SendRefused);
                lane.purge(head.left(), hand_overs);
            }
        }
        self.tidy();
    }

    /// Empties it.
    pub(super) fn abandon(&mut self, mut give_up: impl FnMut(&[FrameOrigin])) {
        for waiting in self.lanes.values().flat_map(|lane| &lane.waiting) {
            give_up(waiting.left());
        }
        self.lanes.clear();
        self.bytes = 0;
    }

    /// Only ever planted: what waits takes new numbers.
    #[cfg(feature = "mutants")]
    pub(super) fn number_again(&mut self, flows: &mut FlowTable) {
        for waiting in self.lanes.values_mut().flat_map(|lane| &mut lane.waiting) {
            let frames = waiting.batch.frames.iter().zip(&waiting.batch.origins).skip(waiting.taken);
            for (span, origin) in frames {
                if let Some(numbered) = origin.flow.and_then(|flow| flows.next(flow)) {
                    let frame = &mut waiting.memory[span.range()];
                    frame::datagram::stamp(frame, numbered.hash_key, numbered.seq_num);
                }
            }
        }
    }

    fn tidy(&mut self) {
        self.lanes.retain(|_, lane| !lane.waiting.is_empty());
        self.bytes = self.lanes.values().flat_map(|lane| &lane.waiting).map(|head| head.memory.len()).sum();
    }
}

impl Lane {
    /// It was refused: it is tried again after its pause, and the next one is longer.
    fn pause(&mut self, now: Instant) {
        self.retry_at = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_RETRY);
    }

    fn push(&mut self, now: Instant, batch: &Emission, memory: &[u8], train: &Train) {
        if self.waiting.back().is_none_or(|last| last.since != now) {
            let (batch, memory) = (Emission::default(), Vec::new());
            self.waiting.push_back(Deferred { batch, memory, taken: 0, since: now });
        }
        if let Some(last) = self.waiting.back_mut() {
            last.append(batch, memory, train);
        }
    }

    /// Drops what else waits of the flows of `lost`.
    fn purge(&mut self, lost: &[FrameOrigin], hand_overs: &mut HandOvers) {
        let mut flows: Vec<FlowHandle> = lost.iter().filter_map(|origin| origin.flow).collect();
        flows.sort_unstable();
        flows.dedup();
        for waiting in &mut self.waiting {
            waiting.purge(&flows, hand_overs);
        }
        self.waiting.retain(|waiting| !waiting.left().is_empty());
    }
}

impl Deferred {
    fn append(&mut self, batch: &Emission, memory: &[u8], train: &Train) {
        let range = train.first as usize..(train.first + train.count) as usize;
        let first = u32::try_from(self.batch.frames.len()).unwrap_or(u32::MAX);
        for span in &batch.frames[range.clone()] {
            let start = u32::try_from(self.memory.len()).unwrap_or(u32::MAX);
            self.memory.extend_from_slice(&memory[span.range()]);
            self.batch.frames.push(Span { start, len: span.len });
        }
        self.batch.origins.extend_from_slice(&batch.origins[range]);
        self.batch.trains.push(Train { first, ..*train });
    }

    fn left(&self) -> &[FrameOrigin] {
        &self.batch.origins[self.taken..]
    }

    /// Drops the frames of `flows`, which are to be retired.
    fn purge(&mut self, flows: &[FlowHandle], hand_overs: &mut HandOvers) {
        let doomed =
            |origin: &FrameOrigin| origin.flow.is_some_and(|flow| flows.binary_search(&flow).is_ok());
        if !self.left().iter().any(doomed) {
            return;
        }
        let (cut, after) = self.batch.rest(self.taken);
        let mut kept = Emission::default();
        for train in cut.iter().chain(after) {
            let first = u32::try_from(kept.frames.len()).unwrap_or(u32::MAX);
            for at in train.first as usize..(train.first + train.count) as usize {
                let origin = self.batch.origins[at];
                if doomed(&origin) {
                    hand_overs.lose(&[origin], DropReason::SendRefused);
                } else {
                    kept.frames.push(self.batch.frames[at]);
                    kept.origins.push(origin);
                }
            }
            let count = u32::try_from(kept.frames.len()).unwrap_or(u32::MAX) - first;
            if count > 0 {
                kept.trains.push(Train { first, count, ..*train });
            }
        }
        (self.batch, self.taken) = (kept, 0);
    }
}
