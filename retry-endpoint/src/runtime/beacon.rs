//! Sends on the beacon group of every egress interface and scope: ADVERTs, a last one that says Draining, and digests of
//! flows whose sender fell silent.

use super::counters::ControlCells;
use super::emit::{Link, destination};
use crate::pipeline::advertise::{FLOWS_OF_A_DIGEST, Offer, Schedule};
use frame::digest::{ENTRY, Entry, HEADER, RELAYED, encode_flagged};
use frame::{Fabric, GroupIndex};
use multicast_io::{Span, Train};
use service::Lifecycle;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

pub(crate) struct Beacon {
    pub(crate) offer: Offer,
    pub(crate) fabrics: Vec<Fabric>,
    pub(crate) port: u16,
    pub(crate) links: Vec<Link>,
    pub(crate) interval: Duration,
    pub(crate) always_draining: bool,
    /// Flows to announce, from the workers.
    pub(crate) silent: mpsc::Receiver<Vec<Entry>>,
    pub(crate) cells: Arc<ControlCells>,
}

impl Beacon {
    /// Advertises until drain begins; then says goodbye three times (one may be lost) and ends.
    pub(crate) async fn run(mut self, lifecycle: Lifecycle) {
        let mut schedule = Schedule::new(self.interval, Instant::now());
        let drain = lifecycle.drain_began();
        tokio::pin!(drain);
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(schedule.next().into()) => {
                    if schedule.due(Instant::now()) {
                        self.advertise(self.always_draining);
                    }
                }
                Some(entries) = self.silent.recv() => self.announce(&entries),
                () = &mut drain => break,
            }
        }
        for _ in 0..3 {
            self.advertise(true);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn advertise(&mut self, draining: bool) {
        let advert = self.offer.advert(draining).encode();
        let taken = self.send(&advert, "ADVERT");
        self.cells.adverts.add(taken);
    }

    fn announce(&mut self, entries: &[Entry]) {
        let mut datagram = [0; HEADER + FLOWS_OF_A_DIGEST * ENTRY];
        for entries in entries.chunks(FLOWS_OF_A_DIGEST) {
            let (length, written) = encode_flagged(RELAYED, entries, &mut datagram);
            self.send(datagram.get(..length).unwrap_or(&[]), "flow digest");
            self.cells.announced.add(written as u64);
        }
    }

    /// How many interfaces and scopes took the datagram.
    fn send(&mut self, datagram: &[u8], what: &str) -> u64 {
        let Ok(segment) = u16::try_from(datagram.len()) else { return 0 };
        let frames = [Span { start: 0, len: u32::from(segment) }];
        let mut taken = 0;
        for link in &mut self.links {
            for fabric in &self.fabrics {
                let group = fabric.address(GroupIndex::BEACON);
                let to = destination(group, self.port, link.interface.index);
                let train = Train { destination: to, first: 0, count: 1, segment };
                let progress = link.sender.send(datagram, &[train], &frames);
                match progress.error {
                    None => taken += 1,
                    Some(error) => {
                        self.cells.advert_errors.add(1);
                        service::limited!(warn, 1, "{what} to {to} on {}: {error}", link.interface.name);
                    }
                }
            }
        }
        taken
    }
}
