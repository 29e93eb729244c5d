//! Sends to the beacon group, on every egress interface and scope: ADVERTs, a last one that says Draining, and digests of flows
//! whose sender fell silent.

use super::counters::ControlCells;
use super::sockets::EgressLink;
use crate::pipeline::advertise::{AdvertContent, FLOWS_OF_A_DIGEST, Schedule};
use crate::pipeline::emit::destination;
use frame::digest::{ENTRY, Entry, HEADER, RELAYED, encode_flagged};
use frame::{Fabric, GroupIndex};
use multicast_io::{Span, Train};
use service::Lifecycle;
use service::worker::SocketErrors;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// What a beacon is told at its start.
pub(super) struct BeaconConfig {
    pub(super) content: AdvertContent,
    /// The fabrics whose beacon group it sends to, one a scope.
    pub(super) fabrics: Vec<Fabric>,
    pub(super) port: u16,
    pub(super) interval: Duration,
    pub(super) always_draining: bool,
}

pub(super) struct Beacon {
    config: BeaconConfig,
    links: Vec<BeaconLink>,
    /// Flows to announce, from the workers.
    silent: mpsc::Receiver<Vec<Entry>>,
    cells: Arc<ControlCells>,
}

/// A link and what its socket went through lately.
struct BeaconLink {
    link: EgressLink,
    errors: SocketErrors,
}

impl Beacon {
    pub(super) fn new(
        config: BeaconConfig,
        links: Vec<EgressLink>,
        silent: mpsc::Receiver<Vec<Entry>>,
        cells: Arc<ControlCells>,
    ) -> Beacon {
        let link = |link| BeaconLink { link, errors: SocketErrors::of("--beacon-port") };
        Beacon { config, links: links.into_iter().map(link).collect(), silent, cells }
    }

    /// Advertises until drain begins; then says goodbye three times (one may be lost) and ends.
    pub(super) async fn run(mut self, lifecycle: Lifecycle) {
        let mut schedule = Schedule::new(self.config.interval, Instant::now());
        let drain = lifecycle.drain_began();
        tokio::pin!(drain);
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(schedule.next().into()) => {
                    if schedule.due(Instant::now()) {
                        self.advertise(self.config.always_draining);
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
        let advert = self.config.content.advert(draining).encode();
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
        for BeaconLink { link: EgressLink { sender, interface }, errors } in &mut self.links {
            for fabric in &self.config.fabrics {
                let group = fabric.address(GroupIndex::BEACON);
                let to = destination(group, self.config.port, interface.index);
                let train = Train { destination: to, first: 0, count: 1, segment };
                match sender.send(datagram, &[train], &frames).error {
                    None => {
                        errors.worked();
                        taken += 1;
                    }
                    Some(error) => {
                        self.cells.advert_errors.add(1);
                        service::limited!(warn, 1, "{what} to {to} on {}: {error}", interface.name);
                        if !is_about_the_path(&error) {
                            errors.failed(Instant::now(), &error);
                        }
                    }
                }
            }
        }
        taken
    }
}

/// The socket is sound: an interface is down, a route is missing, a filter or a queue refuses. The next ADVERT tries again.
fn is_about_the_path(error: &io::Error) -> bool {
    const ENOBUFS: i32 = 105;
    const ENODEV: i32 = 19;
    matches!(
        error.kind(),
        ErrorKind::WouldBlock
            | ErrorKind::NetworkDown
            | ErrorKind::NetworkUnreachable
            | ErrorKind::HostUnreachable
            | ErrorKind::AddrNotAvailable
            | ErrorKind::PermissionDenied
    ) || matches!(error.raw_os_error(), Some(ENOBUFS | ENODEV))
}
