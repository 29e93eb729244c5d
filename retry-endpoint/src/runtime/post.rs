//! Queues between the threads of the role, bounded in messages and in bytes. Full: the newest is refused, and whoever
//! wanted to send it counts that; a requester then hears nothing and asks again.

use super::directory::Directory;
use crate::pipeline::answer::{Done, Request};
use crate::pipeline::upstream::Wanted;
use bytes::Bytes;
use frame::{HashKey, SeqNum};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc;

/// What a worker is asked to do.
pub(crate) enum ToWorker {
    /// Answer a request. `visited`: workers that had nothing of it.
    Ask { request: Request, visited: usize },
    /// The shared tier answered: keep these frames, then answer for good.
    Looked { request: Request, frames: Vec<Bytes> },
    /// An upstream sent a frame: keep it and replay it to its group.
    Fetched { frame: Bytes },
    /// A sender announced these flows up to these numbers.
    Heard { flows: Vec<(HashKey, SeqNum)> },
}

/// What the door is asked to send.
pub(crate) struct ToDoor {
    pub(crate) request: Request,
    pub(crate) done: Done,
    /// Unicast repairs: (offset from the first number, end of its bytes in `memory`).
    pub(crate) frames: Vec<(u64, usize)>,
    pub(crate) memory: Vec<u8>,
}

/// Something with a size.
pub(crate) trait Weighed {
    fn weight(&self) -> usize;
}

impl Weighed for ToWorker {
    fn weight(&self) -> usize {
        let carried = match self {
            ToWorker::Ask { .. } => 0,
            ToWorker::Looked { frames, .. } => frames.iter().map(Bytes::len).sum(),
            ToWorker::Fetched { frame } => frame.len(),
            ToWorker::Heard { flows } => size_of_val(flows.as_slice()),
        };
        carried + size_of::<ToWorker>()
    }
}

impl Weighed for ToDoor {
    fn weight(&self) -> usize {
        self.memory.len() + size_of::<ToDoor>()
    }
}

impl Weighed for Wanted {
    fn weight(&self) -> usize {
        size_of::<Wanted>()
    }
}

/// Sending end of a bounded queue.
pub(crate) struct Outlet<T> {
    sender: mpsc::Sender<T>,
    bytes: Arc<AtomicUsize>,
    most: usize,
}

impl<T> Clone for Outlet<T> {
    fn clone(&self) -> Outlet<T> {
        Outlet { sender: self.sender.clone(), bytes: self.bytes.clone(), most: self.most }
    }
}

/// Receiving end.
pub(crate) struct Inlet<T> {
    receiver: mpsc::Receiver<T>,
    bytes: Arc<AtomicUsize>,
}

/// A queue of at most `messages` and `bytes`.
pub(crate) fn queue<T: Weighed>(messages: usize, bytes: usize) -> (Outlet<T>, Inlet<T>) {
    let (sender, receiver) = mpsc::channel(messages);
    let held = Arc::new(AtomicUsize::new(0));
    (Outlet { sender, bytes: held.clone(), most: bytes }, Inlet { receiver, bytes: held })
}

impl<T: Weighed> Outlet<T> {
    /// False: full (or the other side has ended), and the message is gone.
    pub(crate) fn send(&self, message: T) -> bool {
        let weight = message.weight();
        if self.bytes.fetch_add(weight, Ordering::Relaxed) + weight > self.most
            || self.sender.try_send(message).is_err()
        {
            self.bytes.fetch_sub(weight, Ordering::Relaxed);
            return false;
        }
        true
    }
}

impl<T: Weighed> Inlet<T> {
    /// Waits for the next message; `None` once every sender is gone.
    pub(crate) async fn next(&mut self) -> Option<T> {
        let message = self.receiver.recv().await?;
        self.bytes.fetch_sub(message.weight(), Ordering::Relaxed);
        Some(message)
    }

    /// The next message if one waits.
    pub(crate) fn ready(&mut self) -> Option<T> {
        let message = self.receiver.try_recv().ok()?;
        self.bytes.fetch_sub(message.weight(), Ordering::Relaxed);
        Some(message)
    }
}

/// Ways to the workers.
#[derive(Clone)]
pub(crate) struct Post {
    pub(crate) workers: Arc<[Outlet<ToWorker>]>,
    pub(crate) directory: Arc<Directory>,
}

impl Post {
    /// Messages and bytes that wait for one worker.
    pub(crate) const MESSAGES: usize = 8192;
    pub(crate) const BYTES: usize = 32 << 20;

    /// The worker to ask first about a flow.
    pub(crate) fn home(&self, hash_key: u64) -> usize {
        self.directory.find(hash_key).map_or(0, usize::from) % self.workers.len()
    }

    /// Hands a message to a worker; false: its queue is full.
    pub(crate) fn send(&self, worker: usize, message: ToWorker) -> bool {
        self.workers.get(worker % self.workers.len()).is_some_and(|outlet| outlet.send(message))
    }
}
