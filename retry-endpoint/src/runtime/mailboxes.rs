//! The way to the workers: a mailbox for each, and a directory that says which one holds a flow.

use super::directory::Directory;
use crate::pipeline::answer::Answer;
use crate::pipeline::round::Message;
use crate::pipeline::upstream::FrameKey;
use service::worker::{Mailbox, Mailboxes, Weighed};
use std::sync::Arc;

/// Messages and bytes that wait for one worker, or for the NACK server.
pub(super) const MESSAGES: usize = 8192;
pub(super) const BYTES: usize = 32 << 20;

impl Weighed for Message {
    fn weight(&self) -> usize {
        self.carried() + size_of::<Message>()
    }
}

impl Weighed for Answer {
    fn weight(&self) -> usize {
        self.unicast_bytes() + size_of::<Answer>()
    }
}

impl Weighed for FrameKey {
    fn weight(&self) -> usize {
        size_of::<FrameKey>()
    }
}

/// Hands messages to the workers.
#[derive(Clone)]
pub(super) struct WorkerMailboxes {
    mailboxes: Mailboxes<Message>,
    directory: Arc<Directory>,
}

impl WorkerMailboxes {
    /// One mailbox a worker, and their receiving ends. `seed` must be unpredictable.
    pub(super) fn open(workers: usize, seed: u64) -> (WorkerMailboxes, Vec<Mailbox<Message>>) {
        let (mailboxes, ends) = Mailboxes::open(workers, MESSAGES, BYTES);
        (WorkerMailboxes { mailboxes, directory: Arc::new(Directory::new(seed)) }, ends)
    }

    /// Workers.
    pub(super) fn workers(&self) -> usize {
        self.mailboxes.workers()
    }

    /// Remembers that `worker` holds a flow.
    pub(super) fn learn(&self, hash_key: u64, worker: usize) {
        if self.workers() > 1
            && let Ok(worker) = u8::try_from(worker)
        {
            self.directory.learn(hash_key, worker);
        }
    }

    /// The worker to ask first about a flow.
    pub(super) fn home(&self, hash_key: u64) -> usize {
        self.directory.find(hash_key).map_or(0, usize::from) % self.workers()
    }

    /// Hands a message to a worker; false: its mailbox is full.
    #[must_use]
    pub(super) fn send(&self, worker: usize, message: Message) -> bool {
        self.mailboxes.send(worker, message)
    }
}
