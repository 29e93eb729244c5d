//! Queues between the threads of a role, bounded in messages and in bytes.
//!
//! Full: the newest message is refused, and whoever wanted to send it counts that. Whatever is handed over here is said
//! again by its sender: a request, an ADVERT, a digest.
//!
//! Cost: two atomic additions and one slot of a channel a message. Nothing waits to send.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc;

/// Something with a size.
pub trait Weighed {
    /// Bytes that it holds, itself included.
    fn weight(&self) -> usize;
}

/// Sending end. Clones send to the same mailbox.
#[derive(Debug)]
pub struct MailboxSender<T> {
    sender: mpsc::Sender<T>,
    bytes: Arc<AtomicUsize>,
    most: usize,
}

impl<T> Clone for MailboxSender<T> {
    fn clone(&self) -> MailboxSender<T> {
        MailboxSender { sender: self.sender.clone(), bytes: self.bytes.clone(), most: self.most }
    }
}

/// Receiving end.
#[derive(Debug)]
pub struct Mailbox<T> {
    receiver: mpsc::Receiver<T>,
    bytes: Arc<AtomicUsize>,
}

/// A mailbox of at most `messages` and `bytes`.
pub fn mailbox<T: Weighed>(messages: usize, bytes: usize) -> (MailboxSender<T>, Mailbox<T>) {
    let (sender, receiver) = mpsc::channel(messages);
    let held = Arc::new(AtomicUsize::new(0));
    (MailboxSender { sender, bytes: held.clone(), most: bytes }, Mailbox { receiver, bytes: held })
}

impl<T: Weighed> MailboxSender<T> {
    /// `false`: the mailbox is full (or its owner has ended), and the message is gone. Count it.
    #[must_use]
    pub fn send(&self, message: T) -> bool {
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

impl<T: Weighed> Mailbox<T> {
    /// Waits for the next message; `None` once every sender is gone. Cancel safe.
    pub async fn next(&mut self) -> Option<T> {
        let message = self.receiver.recv().await?;
        self.bytes.fetch_sub(message.weight(), Ordering::Relaxed);
        Some(message)
    }

    /// The next message if one waits.
    pub fn ready(&mut self) -> Option<T> {
        let message = self.receiver.try_recv().ok()?;
        self.bytes.fetch_sub(message.weight(), Ordering::Relaxed);
        Some(message)
    }
}

/// The mailboxes of all workers of a role, by worker.
#[derive(Debug)]
pub struct Mailboxes<T>(Arc<[MailboxSender<T>]>);

impl<T> Clone for Mailboxes<T> {
    fn clone(&self) -> Mailboxes<T> {
        Mailboxes(self.0.clone())
    }
}

impl<T: Weighed> Mailboxes<T> {
    /// One mailbox a worker, and their receiving ends in the same order.
    pub fn open(workers: usize, messages: usize, bytes: usize) -> (Mailboxes<T>, Vec<Mailbox<T>>) {
        let (senders, mailboxes): (Vec<_>, Vec<_>) = (0..workers).map(|_| mailbox(messages, bytes)).unzip();
        (Mailboxes(senders.into()), mailboxes)
    }

    /// Workers.
    pub fn workers(&self) -> usize {
        self.0.len()
    }

    /// Hands a message to one worker; workers are counted round, so that the next of the last is the first. `false`: see
    /// [`MailboxSender::send`].
    #[must_use]
    pub fn send(&self, worker: usize, message: T) -> bool {
        self.0.get(worker % self.0.len().max(1)).is_some_and(|mailbox| mailbox.send(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Weighed for Vec<u8> {
        fn weight(&self) -> usize {
            self.len()
        }
    }

    #[test]
    fn a_mailbox_is_bounded_in_messages() {
        let (sender, mut mailbox) = mailbox::<Vec<u8>>(2, 1_000);
        assert!(sender.send(vec![1]) && sender.send(vec![2]));
        assert!(!sender.send(vec![3]));
        assert_eq!(mailbox.ready(), Some(vec![1]));
        assert!(sender.send(vec![4]));
    }

    #[test]
    fn a_mailbox_is_bounded_in_bytes_and_gives_them_back() {
        let (sender, mut mailbox) = mailbox::<Vec<u8>>(100, 10);
        assert!(sender.send(vec![0; 6]));
        assert!(!sender.send(vec![0; 5]), "11 of 10 bytes");
        assert!(sender.send(vec![0; 4]));
        assert_eq!(mailbox.ready().map(|message| message.len()), Some(6));
        assert!(sender.send(vec![0; 6]));
    }

    #[tokio::test]
    async fn a_mailbox_ends_with_its_last_sender() {
        let (mailboxes, mut ends) = Mailboxes::<Vec<u8>>::open(2, 4, 100);
        assert!(mailboxes.send(3, vec![7]), "worker 3 of 2 is worker 1");
        drop(mailboxes);
        assert_eq!(ends[1].next().await, Some(vec![7]));
        assert_eq!(ends[1].next().await, None);
    }
}
