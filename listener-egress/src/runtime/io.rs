//! What stands around a round of a worker: the store, the consumer's queue, the sockets of requests and headers.

use super::consumer::Consumer;
use super::marks::Marker;
use crate::pipeline::{Door, Fates, Handed, Refused, Request, RoundIo, Sighted};
use service::Recent;
use service::links::Feed;
use service::recent::Moment;
use service::worker::Intake;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Instant;
use txidset::Claims;
use txidset::driver::Driver;

/// Everything but the store and the sockets that the worker receives from.
pub(super) struct Io {
    pub(super) consumer: Consumer,
    pub(super) marker: Option<Marker>,
    pub(super) headers: Option<(UdpSocket, SocketAddr)>,
    pub(super) links: Feed,
    /// The first interface: link-local endpoints are reached by it.
    pub(super) interface: Option<String>,
    pub(super) strip_header: bool,
    /// Frames given to the consumer lately, and the time that the next ones are noted under.
    pub(super) recent: Arc<Recent>,
    pub(super) noted_at: Option<(Instant, Moment)>,
    /// The end: what the consumer did not take is given up.
    pub(super) gives_up: bool,
}

impl Io {
    /// With the way to the store, and the sockets, of which one sends requests.
    pub(super) fn with<'a>(&'a mut self, driver: &'a mut Driver, intake: &'a Intake<Door>) -> IoOfRound<'a> {
        IoOfRound { io: self, driver, intake }
    }

    /// A link-local address with the interface as it is now.
    fn scoped(&self, to: SocketAddr) -> SocketAddr {
        match to {
            SocketAddr::V6(mut v6) if v6.ip().is_unicast_link_local() => {
                let index = self.interface.as_ref().and_then(|name| self.links.index(name));
                v6.set_scope_id(index.unwrap_or(0));
                SocketAddr::V6(v6)
            }
            to => to,
        }
    }

    /// The time of a round, as the ring keeps it.
    fn moment(&mut self, now: Instant) -> Moment {
        match self.noted_at {
            Some((at, moment)) if at == now => moment,
            _ => {
                let moment = self.recent.moment(now);
                self.noted_at = Some((now, moment));
                moment
            }
        }
    }
}

/// See the module text.
pub(super) struct IoOfRound<'a> {
    io: &'a mut Io,
    driver: &'a mut Driver,
    intake: &'a Intake<Door>,
}

impl RoundIo for IoOfRound<'_> {
    fn pump(&mut self, claims: &mut Claims, now: Instant) {
        self.driver.pump(claims, now);
    }

    fn queue(
        &mut self,
        now: Instant,
        frame: &[u8],
        header_len: usize,
        handed: Handed,
    ) -> Result<(), Refused> {
        let skip = if self.io.strip_header { header_len } else { 0 };
        let record = frame.get(skip..).unwrap_or(&[]);
        if record.len() > self.io.consumer.longest() {
            service::limited!(
                warn,
                1,
                "a frame of {} bytes is too long for a datagram: --egress-proto=tcp takes it",
                record.len()
            );
            return Err(Refused::TooLong);
        }
        let stamped = frame::datagram::stamped(frame);
        let handed = Handed { flow: stamped.map(|(_, key, _)| key), ..handed };
        self.io.consumer.push(record, handed).map_err(|_| Refused::NoRoom)?;
        if let Some((id, key, seq)) = stamped {
            let moment = self.io.moment(now);
            self.io.recent.note(moment, id, key.0, seq.0);
        }
        Ok(())
    }

    fn flush(&mut self, now: Instant, fates: &mut Fates) {
        if self.io.gives_up {
            return self.io.consumer.abandon(fates);
        }
        self.io.consumer.flush(now, fates);
    }

    fn has_room(&self) -> bool {
        self.io.consumer.has_room()
    }

    fn queued_bytes(&self) -> usize {
        self.io.consumer.bytes()
    }

    fn request(&mut self, request: &Request) {
        let mut sockets = self.intake.sockets().filter(|(door, _)| *door == Door::Replies);
        let v4 = request.to.is_ipv4();
        let fits = sockets.find(|(_, socket)| socket.local_addr().is_ok_and(|local| local.is_ipv4() == v4));
        let Some((_, socket)) = fits else {
            let to = request.to;
            service::limited!(warn, 1, "no socket for requests to {to}: its family is off here");
            return;
        };
        let to = self.io.scoped(request.to);
        // What the kernel refuses is asked for again when its timeout passes.
        if let Err(error) = socket.send_to(&request.bytes, to, None) {
            service::limited!(warn, 1, "request to {to}: {error}");
        }
    }

    fn header(&mut self, frame: &[u8]) {
        let Some((socket, to)) = &self.io.headers else { return };
        if let Err(error) = socket.send_to(frame, to) {
            service::limited!(warn, 1, "--header-egress-addr {to}: {error}");
        }
    }

    fn sighted(&mut self, came: Instant, sighted: &[Sighted]) {
        if let Some(marker) = &self.io.marker {
            marker.post(came, sighted.iter().copied());
        }
    }
}
