//! The control thread: the beacon group (ADVERTs, flow digests) and the announcement group (BRC-127).
//!
//! Its sockets are bound to the group addresses, so that they take nothing else. What it decodes goes to the workers
//! through bounded inboxes: ADVERTs and announcements to all, digest entries to the worker that owns their group. A full
//! inbox drops the newest, counted: all three are repeated by their senders.

use super::cells::Cells;
use super::layout::owner;
use super::worker::News;
use frame::{Datagram, Kind};
use multicast_io::membership::REJOIN;
use multicast_io::{Burst, Joined, Loss, Ready};
use service::{Counter, Lifecycle};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Datagrams of one receive call; control traffic is slow.
const BATCH: usize = 16;

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

/// See the module text.
pub(super) struct Control {
    pub(super) sockets: Vec<Joined>,
    pub(super) workers: Vec<(mpsc::Sender<News>, Arc<Cells>)>,
    pub(super) loss: Loss,
    pub(super) cells: Arc<ControlCells>,
    pub(super) lifecycle: Lifecycle,
}

impl Control {
    /// Runs until the role drains.
    pub(super) async fn run(self) {
        let Control { sockets, workers, loss, cells, lifecycle } = self;
        let post = std::rc::Rc::new(std::cell::RefCell::new(Post { workers, loss, cells }));
        for joined in sockets {
            let post = post.clone();
            tokio::task::spawn_local(async move {
                if let Err(error) = listen(joined, &post).await {
                    // Without digests and ADVERTs repairs end: nobody should find that out from lost frames.
                    panic!("control socket: {error}");
                }
            });
        }
        lifecycle.drain_began().await;
    }
}

async fn listen(joined: Joined, post: &std::cell::RefCell<Post>) -> io::Result<()> {
    let Joined { receiver, memberships } = joined;
    let mut socket = Ready::new(receiver)?;
    let mut burst = Burst::new(BATCH, 0);
    let mut rejoin = tokio::time::interval(REJOIN);
    loop {
        burst.clear();
        tokio::select! {
            taken = socket.read_with(|receiver| receiver.receive(&mut burst, BATCH)) => {
                taken?;
                post.borrow_mut().take(&mut burst);
            }
            _ = rejoin.tick() => {
                if let Err(error) = memberships.assert(socket.get_ref()) {
                    service::limited!(error, 1, "joining a control group again failed: {error}");
                }
            }
        }
    }
}

struct Post {
    workers: Vec<(mpsc::Sender<News>, Arc<Cells>)>,
    loss: Loss,
    cells: Arc<ControlCells>,
}

impl Post {
    fn take(&mut self, burst: &mut Burst) {
        let dropped = self.loss.dropped();
        self.loss.apply(burst, 0);
        self.cells.dropped_on_purpose.add(self.loss.dropped() - dropped);
        for arrival in burst.arrivals() {
            self.cells.received.add(1);
            self.dispatch(arrival.source.ip(), burst.bytes(arrival.span));
        }
    }

    fn dispatch(&self, source: IpAddr, bytes: &[u8]) {
        if Kind::of(bytes) == Ok(Kind::Manifest) {
            return self.cells.manifests.add(1);
        }
        match Datagram::decode(bytes) {
            Ok(Datagram::Advert(advert)) => self.to_all(|| News::Advert(advert)),
            Ok(Datagram::SubtreeGroupAnnounce(announce)) => self.to_all(|| News::Announce(source, announce)),
            Ok(Datagram::Digest(digest)) => self.digest(source, &digest),
            Ok(_) => self.cells.unexpected.add(1),
            Err(_) => self.cells.decode_errors.add(1),
        }
    }

    fn digest(&self, source: IpAddr, digest: &frame::digest::Digest<'_>) {
        for worker in 0..self.workers.len() {
            let mine = |entry: &frame::digest::Entry| owner(entry.group, self.workers.len()) == worker;
            let entries: Vec<_> = digest.entries().filter(mine).collect();
            if !entries.is_empty() {
                self.to(worker, News::Digest(source, entries));
            }
        }
    }

    fn to_all(&self, news: impl Fn() -> News) {
        for worker in 0..self.workers.len() {
            self.to(worker, news());
        }
    }

    fn to(&self, worker: usize, news: News) {
        let Some((inbox, cells)) = self.workers.get(worker) else { return };
        if inbox.try_send(news).is_err() {
            cells.show(|shown| shown.inbox_dropped += 1);
        }
    }
}
