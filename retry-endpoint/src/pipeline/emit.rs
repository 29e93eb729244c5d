//! Multicast repairs on their way to the kernel: trains over the store's segments, one interface after the other.
//!
//! The frames are read in place: a repair goes from its segment to the kernel without a copy. A train is a run of repairs of one
//! segment, one group and nearly equal length.
//!
//! Promise: a repair counts as sent when every interface took it. Repairs leave in order, so what was not sent is the end of
//! the list.
//!
//! Limit: each interface gets `full_timeout` for all repairs of a round. What is not sent then is not acknowledged, and the
//! listener asks again.

use super::answer::Repair;
use super::round::{Next, RoundIo};
use super::store::Store;
use frame::{Fabric, GroupIndex};
use multicast_io::{Span, Train};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Where repairs go, and by what.
#[derive(Clone, Debug)]
pub struct EmitConfig {
    /// The data fabric.
    pub fabric: Fabric,
    /// UDP port of repairs.
    pub port: u16,
    /// Percent of bytes that padding may add to a train.
    pub padding: u32,
    /// Longest wait for a full interface.
    pub full_timeout: Duration,
    /// Interfaces, in the order of `RoundIo::transmit`.
    pub interfaces: Vec<EmitInterface>,
}

/// One interface that repairs leave by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmitInterface {
    /// Longest frame that fits its MTU.
    pub frame_bytes: u32,
}

/// How far the repairs of a round got.
pub(super) struct Emission {
    config: EmitConfig,
    /// The interface that takes repairs now.
    interface: usize,
    /// When its time is over; `None` before its first call.
    deadline: Option<Instant>,
    /// Repairs that it took.
    taken: usize,
    /// Repairs that every interface so far took.
    sent: usize,
    trains: Vec<Train>,
    spans: Vec<Span>,
}

/// What a call to the kernel leaves to do.
enum Progressed {
    /// More of the list may be taken.
    On,
    /// Wait, then call again.
    Wait(Next),
    /// This interface takes no more of it.
    Over,
}

impl Emission {
    /// A queue below the socket was full: it is asked again after this time.
    const QUEUE_PAUSE: Duration = Duration::from_millis(1);

    pub(super) fn new(config: EmitConfig) -> Emission {
        Emission {
            config,
            interface: 0,
            deadline: None,
            taken: 0,
            sent: 0,
            trains: Vec::new(),
            spans: Vec::new(),
        }
    }

    /// The data fabric.
    pub(super) fn fabric(&self) -> &Fabric {
        &self.config.fabric
    }

    /// A new list of `repairs` repairs.
    pub(super) fn begin(&mut self, repairs: usize) {
        self.interface = 0;
        self.deadline = None;
        self.taken = 0;
        self.sent = repairs;
    }

    /// How many repairs, from the first, every interface took.
    pub(super) fn sent(&self) -> usize {
        self.sent
    }

    /// Hands the list on. `Some`: wait, then call again with the same list. `None`: every interface had its turn.
    pub(super) fn send(
        &mut self,
        now: Instant,
        store: &Store,
        repairs: &[Repair],
        io: &mut impl RoundIo,
    ) -> Option<Next> {
        while self.interface < self.config.interfaces.len() {
            let deadline = *self.deadline.get_or_insert(now + self.config.full_timeout);
            // A segment that left meanwhile holds other frames now.
            while repairs.get(self.taken).is_some_and(|repair| store.is_live(&repair.place)) {
                let segment = self.load(&repairs[self.taken..], io.max_train(self.interface));
                match self.hand_over(now, deadline, store.segment(segment), io) {
                    Progressed::On => {}
                    Progressed::Wait(next) => return Some(next),
                    Progressed::Over => break,
                }
            }
            self.sent = self.sent.min(self.taken);
            self.interface += 1;
            self.deadline = None;
            self.taken = 0;
        }
        None
    }

    /// Hands the loaded trains to the kernel.
    fn hand_over(
        &mut self,
        now: Instant,
        deadline: Instant,
        memory: &[u8],
        io: &mut impl RoundIo,
    ) -> Progressed {
        let progress = io.transmit(self.interface, memory, &self.trains, &self.spans);
        self.taken += progress.frames;
        let in_time = now < deadline;
        match progress.error {
            None if progress.frames > 0 => Progressed::On,
            None => Progressed::Over,
            Some(_) if progress.frames > 0 && in_time => Progressed::On,
            Some(error) if error.kind() == io::ErrorKind::WouldBlock && in_time => {
                Progressed::Wait(Next::Full { socket: Some(self.interface), until: deadline })
            }
            Some(error) if error.raw_os_error() == Some(ENOBUFS) && in_time => {
                Progressed::Wait(Next::Full { socket: None, until: now + Emission::QUEUE_PAUSE })
            }
            Some(error) => {
                io.refused(self.interface, &error);
                Progressed::Over
            }
        }
    }

    /// Lays out the trains of the first segment that `repairs` touch; returns it.
    fn load(&mut self, repairs: &[Repair], max_train: usize) -> usize {
        self.trains.clear();
        self.spans.clear();
        let EmitInterface { frame_bytes } = self.config.interfaces[self.interface];
        let rules = TrainRules { frames: max_train, frame_bytes, padding: self.config.padding };
        let segment = repairs.first().map_or(0, |repair| repair.place.segment);
        for run in runs(repairs, &rules).take_while(|run| run.segment == segment) {
            let (Ok(first), Ok(count), Ok(longest)) =
                (u32::try_from(run.first), u32::try_from(run.count), u16::try_from(run.longest))
            else {
                break;
            };
            let destination = SocketAddr::new(self.config.fabric.address(run.group), self.config.port);
            self.trains.push(Train { destination, first, count, segment: longest });
            self.spans.extend(repairs[run.first..][..run.count].iter().map(|repair| repair.place.span));
        }
        segment
    }
}

/// `ENOBUFS` on Linux.
const ENOBUFS: i32 = 105;

/// One run of repairs that leave together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RepairTrain {
    /// Segment of the store.
    segment: usize,
    /// Destination.
    group: GroupIndex,
    /// First of the run in the list.
    first: usize,
    /// Length of the run.
    count: usize,
    /// Bytes a frame, all but the last padded up to it.
    longest: u32,
}

/// What a train may look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TrainRules {
    /// Frames.
    frames: usize,
    /// Longest frame that may ride with others: what fits the MTU.
    frame_bytes: u32,
    /// Percent of bytes that padding may add.
    padding: u32,
}

/// Bytes of a train: what one UDP datagram could hold.
const TRAIN_BYTES: u64 = 65_000;

/// Cuts `repairs` into runs of one segment, one group and nearly equal length, in their order.
fn runs<'a>(repairs: &'a [Repair], rules: &'a TrainRules) -> impl Iterator<Item = RepairTrain> + use<'a> {
    let mut first = 0;
    std::iter::from_fn(move || {
        let head = repairs.get(first)?;
        let mut longest = head.place.span.len;
        let mut sum = u64::from(longest);
        let mut count = 1;
        for next in &repairs[first + 1..] {
            let len = next.place.span.len;
            let with = u64::from(longest.max(len));
            let padded = with * (count as u64 + 1);
            let payload = sum + u64::from(len);
            if count >= rules.frames
                || next.place.segment != head.place.segment
                || next.group != head.group
                || with > u64::from(rules.frame_bytes)
                || padded > TRAIN_BYTES
                || (padded - payload) * 100 > payload * u64::from(rules.padding)
            {
                break;
            }
            longest = longest.max(len);
            sum = payload;
            count += 1;
        }
        let run = RepairTrain { segment: head.place.segment, group: head.group, first, count, longest };
        first += count;
        Some(run)
    })
}
