//! Sends ADVERTs on the beacon group of every egress interface and scope, and a last one that says Draining.

use super::counters::ControlCells;
use super::emit::{Link, destination};
use crate::pipeline::advertise::{Offer, Schedule};
use frame::{Advert, Fabric, GroupIndex};
use multicast_io::{Span, Train};
use service::Lifecycle;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An ADVERT on the wire.
#[allow(clippy::cast_possible_truncation, reason = "56")]
const LEN: u16 = Advert::LEN as u16;

pub(crate) struct Beacon {
    pub(crate) offer: Offer,
    pub(crate) fabrics: Vec<Fabric>,
    pub(crate) port: u16,
    pub(crate) links: Vec<Link>,
    pub(crate) interval: Duration,
    pub(crate) always_draining: bool,
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
                        self.send(self.always_draining);
                    }
                }
                () = &mut drain => break,
            }
        }
        for _ in 0..3 {
            self.send(true);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn send(&mut self, draining: bool) {
        let advert = self.offer.advert(draining).encode();
        let frames = [Span { start: 0, len: u32::from(LEN) }];
        for link in &mut self.links {
            for fabric in &self.fabrics {
                let group = fabric.address(GroupIndex::BEACON);
                let to = destination(group, self.port, link.interface.index);
                let train = Train { destination: to, first: 0, count: 1, segment: LEN };
                let progress = link.sender.send(&advert, &[train], &frames);
                match progress.error {
                    None => self.cells.adverts.add(1),
                    Some(error) => {
                        self.cells.advert_errors.add(1);
                        service::limited!(warn, 1, "ADVERT to {to} on {}: {error}", link.interface.name);
                    }
                }
            }
        }
    }
}
