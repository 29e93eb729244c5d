//! Sends to the beacon group, on every egress interface and scope: ADVERTs, a last one that says Draining, and digests of flows
//! whose sender fell silent. While the address that requests are taken on is gone, no ADVERT leaves; when another one takes its
//! place, the next leaves at once.

use super::counters::ControlCells;
use crate::pipeline::advertise::{AdvertContent, FLOWS_OF_A_DIGEST, Schedule};
use frame::digest::{ENTRY, Entry, HEADER, RELAYED, encode_flagged};
use frame::{Fabric, GroupIndex};
use multicast_io::{Span, Train};
use service::Lifecycle;
use service::links::{EmitSocket, Feed};
use service::worker::SocketErrors;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// What a beacon is told at its start.
pub(super) struct BeaconConfig {
    pub(super) content: AdvertContent,
    /// The fabrics whose beacon group it sends to, one a scope.
    pub(super) fabrics: Vec<Fabric>,
    pub(super) port: u16,
    pub(super) interval: Duration,
    pub(super) always_draining: bool,
}

/// What a beacon hears of others.
pub(super) struct Inputs {
    /// Flows to announce, from the workers.
    pub(super) silent: mpsc::Receiver<Vec<Entry>>,
    /// Where requests are taken; `None` while that address is gone.
    pub(super) nack: watch::Receiver<Option<SocketAddr>>,
    /// Interfaces.
    pub(super) links: Feed,
}

pub(super) struct Beacon {
    config: BeaconConfig,
    sockets: Vec<BeaconSocket>,
    inputs: Inputs,
    cells: Arc<ControlCells>,
}

/// A socket and what it went through lately.
struct BeaconSocket {
    socket: EmitSocket,
    errors: SocketErrors,
}

impl Beacon {
    pub(super) fn new(
        config: BeaconConfig,
        sockets: Vec<EmitSocket>,
        inputs: Inputs,
        cells: Arc<ControlCells>,
    ) -> Beacon {
        let socket = |socket| BeaconSocket { socket, errors: SocketErrors::of("--beacon-port") };
        Beacon { config, sockets: sockets.into_iter().map(socket).collect(), inputs, cells }
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
                Some(entries) = self.inputs.silent.recv() => self.announce(&entries),
                Ok(()) = self.inputs.nack.changed() => self.advertise(self.config.always_draining),
                () = self.inputs.links.changed() => {
                    let links = self.inputs.links.seen();
                    self.sockets.iter_mut().for_each(|beacon| {
                        beacon.socket.follow(&links);
                    });
                }
                () = &mut drain => break,
            }
        }
        for _ in 0..3 {
            self.advertise(true);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn advertise(&mut self, draining: bool) {
        let Some(nack) = *self.inputs.nack.borrow_and_update() else { return };
        self.config.content.advert.nack_addr = match nack.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
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
        for BeaconSocket { socket, errors } in &mut self.sockets {
            for fabric in &self.config.fabrics {
                let group = fabric.address(GroupIndex::BEACON);
                let to = SocketAddr::new(group, self.config.port);
                let train = Train { destination: to, first: 0, count: 1, segment };
                match socket.send(datagram, &[train], &frames).error {
                    None => {
                        errors.worked();
                        taken += 1;
                    }
                    Some(error) => {
                        self.cells.advert_errors.add(1);
                        service::limited!(warn, 1, "{what} to {to} on {}: {error}", socket.name());
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
