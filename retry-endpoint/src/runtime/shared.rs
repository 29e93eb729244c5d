//! The shared second tier: frames are written behind, in batches, and read when the log of this process has nothing.
//!
//! A worker copies a frame into its open batch. A batch that is full, or 5 ms old, goes to the control thread through a bounded
//! mailbox. A full mailbox drops the batch from this tier (never from the log) and counts it. Keys and values are those of
//! the Go stack: a key is `bre:frame:` and 16 bytes, HashKey and SeqNum big-endian; a value is a whole frame.

use super::counters::{ControlCells, WorkerCells};
use super::mailboxes::WorkerMailboxes;
use crate::pipeline::admit::{Admitted, Class, payload_matches_id};
use crate::pipeline::answer::Request;
use crate::pipeline::numbers::Numbers;
use crate::pipeline::round::Message;
use crate::pipeline::store::Lifetimes;
use bytes::Bytes;
use cache_backend::{Backend, KeyValues, Session};
use frame::id::cache_key;
use frame::{HashKey, SeqNum};
use service::worker::{Mailbox, MailboxSender, Weighed, mailbox};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes after which a batch leaves.
const BATCH_BYTES: usize = 128 << 10;
/// Batches (and bytes) that wait for the tier.
const WRITES: usize = 256;
const WRITE_BYTES: usize = 32 << 20;
/// Time to write what waits when the role ends.
const GRACE: Duration = Duration::from_secs(3);
/// Lookups that wait.
const LOOKUPS: usize = 1024;

const CLASSES: [Class; 4] = [Class::Tx, Class::Block, Class::Subtree, Class::Anchor];

/// Numbers that a worker misses.
pub(super) struct Lookup {
    pub(super) request: Request,
    pub(super) numbers: Numbers,
    pub(super) worker: usize,
}

/// Frames of one lifetime.
pub(super) struct Batch {
    class: Class,
    frames: KeyValues,
}

impl Weighed for Lookup {
    fn weight(&self) -> usize {
        size_of::<Lookup>()
    }
}

impl Weighed for Batch {
    fn weight(&self) -> usize {
        self.frames.bytes() + size_of::<Batch>()
    }
}

/// A worker's way to the shared tier.
pub(super) struct SharedLink {
    open: [KeyValues; 4],
    writes: MailboxSender<Batch>,
    lookups: MailboxSender<Lookup>,
}

/// The other end.
pub(super) struct SharedMailboxes {
    writes: Mailbox<Batch>,
    lookups: Mailbox<Lookup>,
}

/// Makes links for `workers`.
pub(super) fn links(workers: usize) -> (Vec<SharedLink>, SharedMailboxes) {
    let (writes, writes_in) = mailbox(WRITES, WRITE_BYTES);
    let (lookups, lookups_in) = mailbox(LOOKUPS, LOOKUPS * size_of::<Lookup>());
    let link = || SharedLink { open: Default::default(), writes: writes.clone(), lookups: lookups.clone() };
    ((0..workers).map(|_| link()).collect(), SharedMailboxes { writes: writes_in, lookups: lookups_in })
}

fn key(hash_key: HashKey, seq: SeqNum) -> [u8; 26] {
    let mut key = *b"bre:frame:0123456789abcdef";
    key[10..].copy_from_slice(&cache_key(hash_key, seq));
    key
}

impl SharedLink {
    /// Copies a frame into the open batch of its class.
    pub(super) fn keep(&mut self, frame: &Admitted<'_>, cells: &WorkerCells) {
        let class = usize::from(frame.class.code());
        let open = &mut self.open[class];
        open.push(&key(frame.hash_key, frame.seq), frame.bytes);
        if open.bytes() >= BATCH_BYTES {
            self.leave(class, cells);
        }
    }

    /// Sends what is open.
    pub(super) fn flush(&mut self, cells: &WorkerCells) {
        for class in 0..CLASSES.len() {
            if !self.open[class].is_empty() {
                self.leave(class, cells);
            }
        }
    }

    fn leave(&mut self, class: usize, cells: &WorkerCells) {
        let frames = std::mem::take(&mut self.open[class]);
        let count = frames.len() as u64;
        if !self.writes.send(Batch { class: CLASSES[class], frames }) {
            cells.shared_dropped.add(count);
        }
    }

    /// Asks for missing numbers; false: too many wait already.
    pub(super) fn look_up(&self, lookup: Lookup) -> bool {
        self.lookups.send(lookup)
    }
}

/// The control thread of the tier.
pub(super) struct Shared {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) lifetimes: Lifetimes,
    pub(super) timeout: Duration,
    pub(super) verify: bool,
    pub(super) workers: WorkerMailboxes,
    pub(super) cells: Arc<ControlCells>,
}

impl Shared {
    /// Runs until the workers have ended and what they wrote is stored, at the latest `GRACE` after `stop` completes.
    pub(super) async fn run(self, mailboxes: SharedMailboxes, stop: impl Future<Output = ()>) {
        let late = async {
            stop.await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            () = async { self.serve(self.session().await.as_ref(), mailboxes).await } => {}
            () = late => tracing::warn!("shared tier {}: frames that waited at the end were not written", self.backend.name()),
        }
    }

    async fn serve(&self, session: &dyn Session, mut mailboxes: SharedMailboxes) {
        loop {
            tokio::select! {
                biased;
                Some(lookup) = mailboxes.lookups.next() => self.read(session, lookup),
                batch = mailboxes.writes.next() => match batch {
                    Some(batch) => self.write(session, batch).await,
                    None => break,
                },
            }
        }
    }

    /// The tier was there when it was opened; should it have gone meanwhile, it is waited for.
    async fn session(&self) -> Box<dyn Session> {
        loop {
            match self.backend.session().await {
                Ok(session) => return session,
                Err(error) => service::limited!(warn, 1, "shared tier: {error}; trying on"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// One batch; the next one waits in the queue meanwhile, and what the queue cannot hold is dropped there.
    async fn write(&self, session: &dyn Session, batch: Batch) {
        let mut frames = batch.frames;
        if self.verify {
            let mut checked = KeyValues::new();
            frames
                .iter()
                .filter(|(_, frame)| payload_matches_id(frame))
                .for_each(|(k, v)| checked.push(k, v));
            frames = checked;
        }
        if frames.is_empty() {
            return;
        }
        let answers =
            session.set(frames, self.lifetimes.of(batch.class), Instant::now() + self.timeout).await;
        let failed = answers.iter().filter(|answer| answer.is_err()).count();
        self.cells.shared_stored.add((answers.len() - failed) as u64);
        self.cells.shared_errors.add(failed as u64);
    }

    /// One lookup, beside the others; the request goes back to its worker in any case.
    fn read(&self, session: &dyn Session, lookup: Lookup) {
        let Lookup { request, numbers, worker } = lookup;
        let mut keys = KeyValues::new();
        numbers.iter().for_each(|offset| keys.push(&key(request.nack.hash_key, request.seq(offset)), &[]));
        let asked = keys.len() as u64;
        let answers = session.get(keys, Instant::now() + self.timeout);
        let (workers, cells) = (self.workers.clone(), self.cells.clone());
        let timeout = self.timeout;
        tokio::task::spawn_local(async move {
            // The backend keeps deadlines; this one is for the case that it does not.
            let answers = tokio::time::timeout(timeout + Duration::from_millis(100), answers).await;
            let answers = answers.unwrap_or_default();
            cells.shared_errors.add(answers.iter().filter(|answer| answer.is_err()).count() as u64);
            let frames: Vec<Bytes> = answers.into_iter().filter_map(|answer| answer.ok().flatten()).collect();
            cells.shared_hits.add(frames.len() as u64);
            cells.shared_misses.add(asked.saturating_sub(frames.len() as u64));
            // A full mailbox loses the answer: the requester hears nothing and asks again.
            let _ = workers.send(worker, Message::LookupDone { request, frames });
        });
    }
}
