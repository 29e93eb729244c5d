//! The control thread: the beacon group (ADVERTs, flow digests) and the announcement group (BRC-127).
//!
//! Its sockets are bound to the group addresses, so that they take nothing else. What it decodes goes to the workers
//! through bounded mailboxes: ADVERTs and announcements to all, digest entries to the worker that owns their group. A full
//! mailbox drops the newest, counted: all three are repeated by their senders.

use super::cells::Cells;
use frame::digest::{Digest, Entry};
use frame::{Advert, Datagram, Kind, SubtreeGroupAnnounce};
use multicast_io::membership::REJOIN;
use multicast_io::{Burst, Joined, Loss};
use service::links::Feed;
use service::worker::{Inlet, Intake, IntakeRules, Mailboxes, Weighed, owner};
use service::{Counter, Lifecycle};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// Datagrams of one receive call; control traffic is slow.
const BATCH: usize = 16;

/// What the control thread tells a worker.
pub(super) enum ControlMessage {
    Advert(Advert),
    /// Entries whose groups the worker owns.
    Digest(IpAddr, Vec<Entry>),
    Announce(IpAddr, SubtreeGroupAnnounce),
}

impl Weighed for ControlMessage {
    fn weight(&self) -> usize {
        let entries = if let ControlMessage::Digest(_, entries) = self { entries.len() } else { 0 };
        size_of::<ControlMessage>() + entries * size_of::<Entry>()
    }
}

service::counters! {
    /// Totals of the control thread.
    #[derive(Default)]
    pub(super) struct ControlCells {
        pub(super) received: Counter = "received",
        pub(super) dropped_on_purpose: Counter = "dropped_on_purpose",
        decode_errors: Counter = "decode_error",
        manifests: Counter = "manifest",
        unexpected: Counter = "unexpected"
            => counter("bsl_control_datagrams_total", ["outcome"], "Datagrams of the beacon and announcement groups");
    }
}

/// What the thread is born with: see the module text.
pub(super) struct Control {
    pub(super) sockets: Vec<Joined>,
    pub(super) dispatcher: Dispatcher,
    pub(super) loss: Loss,
    pub(super) links: Feed,
    pub(super) lifecycle: Lifecycle,
}

impl Control {
    /// Registers the sockets. The work ends when the role drains.
    pub(super) fn open(self) -> io::Result<impl Future<Output = ()>> {
        let Control { sockets, dispatcher, loss, links, lifecycle } = self;
        let inlets = sockets.into_iter().map(|Joined { receiver, memberships }| Inlet {
            tag: (),
            name: "a control group",
            receiver,
            memberships: Some(memberships),
        });
        let rules = IntakeRules { messages: BATCH, ..IntakeRules::default() };
        let mut intake = Intake::new(rules, inlets.collect())?.with_loss(loss).follow(links);
        Ok(async move {
            let mut burst = Burst::new(BATCH, 0);
            let mut rejoin = tokio::time::interval(REJOIN);
            let mut drain = std::pin::pin!(lifecycle.drain_began());
            loop {
                tokio::select! {
                    () = &mut drain => return,
                    () = intake.ready() => {}
                    _ = rejoin.tick() => {}
                }
                while intake.next(&mut burst).is_some() {
                    dispatcher.take(&burst);
                }
                dispatcher.dropped_on_purpose(intake.dropped_on_purpose());
                intake.upkeep(Instant::now());
            }
        })
    }
}

/// The way to the workers.
pub(super) struct Dispatcher {
    pub(super) workers: Mailboxes<ControlMessage>,
    /// By worker.
    pub(super) shown: Vec<Arc<Cells>>,
    pub(super) cells: Arc<ControlCells>,
}

impl Dispatcher {
    fn take(&self, burst: &Burst) {
        for arrival in burst.arrivals() {
            self.cells.received.add(1);
            self.dispatch(arrival.source.ip(), burst.bytes(arrival.span));
        }
    }

    fn dropped_on_purpose(&self, total: u64) {
        self.cells.dropped_on_purpose.add(total - self.cells.dropped_on_purpose.get());
    }

    fn dispatch(&self, source: IpAddr, bytes: &[u8]) {
        if Kind::of(bytes) == Ok(Kind::Manifest) {
            return self.cells.manifests.add(1);
        }
        match Datagram::decode(bytes) {
            Ok(Datagram::Advert(advert)) => self.to_all(|| ControlMessage::Advert(advert)),
            Ok(Datagram::SubtreeGroupAnnounce(announce)) => {
                self.to_all(|| ControlMessage::Announce(source, announce));
            }
            Ok(Datagram::Digest(digest)) => self.digest(source, &digest),
            Ok(_) => self.cells.unexpected.add(1),
            Err(_) => self.cells.decode_errors.add(1),
        }
    }

    fn digest(&self, source: IpAddr, digest: &Digest<'_>) {
        let workers = self.workers.workers();
        for worker in 0..workers {
            let mine = |entry: &Entry| owner(entry.group, workers) == worker;
            let entries: Vec<_> = digest.entries().filter(mine).collect();
            if !entries.is_empty() {
                self.to(worker, ControlMessage::Digest(source, entries));
            }
        }
    }

    fn to_all(&self, message: impl Fn() -> ControlMessage) {
        for worker in 0..self.workers.workers() {
            self.to(worker, message());
        }
    }

    fn to(&self, worker: usize, message: ControlMessage) {
        if !self.workers.send(worker, message)
            && let Some(cells) = self.shown.get(worker)
        {
            cells.show(|shown| shown.inbox_dropped += 1);
        }
    }
}
