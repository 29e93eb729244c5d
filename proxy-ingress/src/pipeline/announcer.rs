//! Flow digests, on their way to the beacon group.

use super::digest::{ENTRIES, MAX_DATAGRAM, MAX_PER_TICK, Schedule};
use super::emit::Transmit;
use super::number::{FlowHandle, FlowTable};
use super::outlets::Outlets;
use super::settings::IngressConfig;
#[cfg(feature = "mutants")]
use crate::mutation::Mutation;
use crate::tally::Tally;
use frame::GroupIndex;
use frame::digest::{Entry, encode};
use multicast_io::{Span, Train};
use std::net::SocketAddr;
use std::time::Instant;

/// See the module text.
pub(super) struct Announcer {
    /// `--flow-digests`.
    enabled: bool,
    destination: SocketAddr,
    schedule: Schedule,
    entries: Vec<Entry>,
    /// Those of them that one interface may announce.
    allowed: Vec<Entry>,
    #[cfg(feature = "mutants")]
    pub(super) mutation: Option<Mutation>,
}

impl Announcer {
    pub(super) fn new(config: &IngressConfig) -> Announcer {
        Announcer {
            enabled: config.digests,
            destination: SocketAddr::new(config.fabric.address(GroupIndex::BEACON), config.beacon_port),
            schedule: Schedule::new(),
            entries: Vec::with_capacity(ENTRIES),
            allowed: Vec::new(),
            #[cfg(feature = "mutants")]
            mutation: None,
        }
    }

    /// Takes up the flows that became active.
    pub(super) fn wake(&mut self, now: Instant, flows: &mut FlowTable) {
        self.schedule.wake(now, flows);
    }

    /// Retires `flow`, which lost `lost` numbers, and announces what left under the old key: that may be lost on the way
    /// like anything else, and no later frame would show it.
    pub(super) fn retire(&mut self, now: Instant, flows: &mut FlowTable, flow: FlowHandle, lost: u64) {
        let before = flows.announced(flow);
        flows.retire(flow);
        match (before, flows.announced(flow)) {
            (Some(before), None) => self.schedule.announce_retired(now, flow, &before, lost),
            (None, _) => self.schedule.take_back(flow, lost),
            _ => {}
        }
    }

    /// Sends the digests that are due, up to the bound of a tick.
    pub(super) fn tick(
        &mut self,
        now: Instant,
        flows: &mut FlowTable,
        outlets: &Outlets,
        sockets: &mut [impl Transmit],
        tally: &Tally,
    ) {
        if self.next_timeout().is_some_and(|at| at <= now) {
            self.announce(now, flows, outlets, sockets, tally);
        }
    }

    /// Announces every flow that took a number since its last announcement, so that receivers find the loss of its last
    /// frames although this worker stops.
    pub(super) fn farewell(
        &mut self,
        now: Instant,
        flows: &mut FlowTable,
        outlets: &Outlets,
        sockets: &mut [impl Transmit],
        tally: &Tally,
    ) {
        if self.enabled {
            self.schedule.hasten(now);
        }
        while self.next_timeout().is_some_and(|at| at <= now) {
            self.announce(now, flows, outlets, sockets, tally);
        }
    }

    /// When a digest is due.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.schedule.next_timeout().filter(|_| self.enabled)
    }

    /// Retired keys that found no place in the schedule.
    pub(super) fn unannounced(&self) -> u64 {
        self.schedule.unannounced()
    }

    fn announce(
        &mut self,
        now: Instant,
        flows: &mut FlowTable,
        outlets: &Outlets,
        sockets: &mut [impl Transmit],
        tally: &Tally,
    ) {
        let mut datagram = [0; MAX_DATAGRAM];
        for _ in 0..MAX_PER_TICK {
            self.schedule.next_digest(now, flows, &mut self.entries);
            if self.entries.is_empty() {
                break;
            }
            let (length, written) = encode(&self.entries, &mut datagram);
            for (at, (waiting, socket)) in outlets.waiting().zip(sockets.iter_mut()).enumerate() {
                if !waiting || planted!(self, DigestOvertakes) {
                    self.transmit(&datagram[..length], socket);
                    continue;
                }
                // A digest must not overtake the frames it announces; the flow's next one will follow them.
                self.allowed.clear();
                let free = self.entries.iter().filter(|entry| !outlets.holds(at, entry.group));
                self.allowed.extend(free.cloned());
                if !self.allowed.is_empty() {
                    let mut part = [0; MAX_DATAGRAM];
                    let (length, _) = encode(&self.allowed, &mut part);
                    self.transmit(&part[..length], socket);
                }
            }
            tally.digests.add(1);
            tally.digest_entries.add(written as u64);
        }
    }

    fn transmit(&self, datagram: &[u8], socket: &mut impl Transmit) {
        if let (Ok(len), Ok(segment)) = (u32::try_from(datagram.len()), u16::try_from(datagram.len())) {
            let train = Train { destination: self.destination, first: 0, count: 1, segment };
            socket.transmit(datagram, &[train], &[Span { start: 0, len }]);
        }
    }
}
