//! A consumer, and the TCP connections of its listeners: bytes in order, acknowledged once the consumer has them, a window,
//! and an end that can come at any byte.

use super::frames::{frames, id_of};
use super::world::{Event, World};
use super::{Mutation, trail::Reach};
use crate::MS;
use crate::owners::Owners;
use crate::timeline::ANY;
use listener_egress::pipeline::{Handed, StreamQueue};
use std::collections::VecDeque;

/// Bytes that a connection takes before some are acknowledged.
const WINDOW: u64 = 4096;
/// How often a listener looks at acknowledgements while some are due.
const LOOK: u64 = 5 * MS;
/// Before a broken connection is made again.
const PAUSE: u64 = 50 * MS;
/// Length prefix of a record.
const PREFIX: usize = 4;

/// A consumer.
pub(super) struct Consumer {
    pub(super) stalled_until: u64,
    /// What its listeners told the store.
    pub(super) owners: Owners,
    pub(super) reach: Reach,
}

/// A listener's end of a connection, and what the consumer's end holds of it.
pub(super) struct Stream {
    pub(super) queue: StreamQueue,
    up: bool,
    /// Counts connections.
    number: u32,
    /// Bytes written to this connection, and acknowledged as far as the listener can know.
    written: u64,
    acknowledged: u64,
    /// What is on its way: connection and bytes, in order; when the last of them arrive.
    pipe: VecDeque<(u32, Vec<u8>)>,
    arrives: u64,
    retry_at: u64,
    pub(super) look_at: Option<u64>,
    /// Connection that the consumer reads, and what it has of the next record.
    reading: u32,
    partial: Vec<u8>,
    read: u64,
}

impl Stream {
    pub(super) fn new(capacity: usize, after: u32) -> Stream {
        Stream {
            queue: StreamQueue::new(capacity),
            up: false,
            number: after,
            written: 0,
            acknowledged: 0,
            pipe: VecDeque::new(),
            arrives: 0,
            retry_at: 0,
            look_at: None,
            reading: after,
            partial: Vec::new(),
            read: 0,
        }
    }

    /// Connections so far.
    pub(super) fn connections(&self) -> u32 {
        self.number
    }

    /// The consumer reads nothing more of this connection.
    pub(super) fn cut(&mut self) {
        self.reading = u32::MAX;
    }
}

impl World {
    /// Hands over what the connection takes now; claims whose frames the consumer acknowledged.
    pub(super) fn flush(&mut self, listener: usize, delivered: &mut Vec<Handed>) {
        let now = self.now;
        let who = listener;
        let latency = self.random.between(80, 400);
        let of = &mut self.listeners[listener].stream;
        if !of.up && now < of.retry_at {
            of.look_at = Some(of.retry_at);
            return;
        }
        if !of.up {
            (of.up, of.number) = (true, of.number + 1);
            (of.written, of.acknowledged) = (0, 0);
            (of.reading, of.read) = (of.number, 0);
            of.partial.clear();
        }
        while of.written - of.acknowledged < WINDOW {
            let room = usize::try_from(WINDOW - (of.written - of.acknowledged)).unwrap_or(0);
            let (front, back) = of.queue.unwritten();
            let piece = if front.is_empty() { back } else { front };
            if piece.is_empty() {
                break;
            }
            let bytes = piece[..piece.len().min(room)].to_vec();
            of.queue.wrote(bytes.len());
            of.written += bytes.len() as u64;
            of.arrives = of.arrives.max(now + latency);
            of.pipe.push_back((of.number, bytes));
            self.timeline.push(of.arrives, who, ANY, Event::Consume);
        }
        let due = usize::try_from(of.written - of.acknowledged).unwrap_or(usize::MAX);
        of.queue.acknowledged(due, |handed| delivered.push(handed));
        of.look_at = (!of.queue.is_empty()).then_some(now + LOOK);
    }

    /// The connection breaks: what was written may still arrive, or not.
    pub(super) fn break_connection(&mut self, listener: usize) {
        let arrives = self.random.percent(50);
        let forgets = self.options.mutation == Some(Mutation::UnacknowledgedForgotten);
        let of = &mut self.listeners[listener].stream;
        of.up = false;
        if !arrives {
            of.cut();
        }
        if !forgets {
            of.queue.rewind();
        }
        of.retry_at = self.now + PAUSE;
        of.look_at = Some(of.retry_at);
    }

    /// The next bytes at the consumer's end.
    pub(super) fn consume(&mut self, listener: usize) {
        let consumer = self.listeners[listener].consumer;
        let stalled_until = self.consumers[consumer].stalled_until;
        if stalled_until > self.now {
            return self.timeline.push(stalled_until, listener, ANY, Event::Consume);
        }
        let of = &mut self.listeners[listener].stream;
        let Some((number, bytes)) = of.pipe.pop_front() else { return };
        if of.reading != number {
            return;
        }
        of.read += bytes.len() as u64;
        let read = of.read;
        of.partial.extend_from_slice(&bytes);
        let mut partial = std::mem::take(&mut of.partial);
        let mut at = 0;
        while let Some(len) = partial.get(at..).and_then(|rest| rest.first_chunk::<PREFIX>()) {
            let end = at + PREFIX + u32::from_be_bytes(*len) as usize;
            let Some(record) = partial.get(at + PREFIX..end) else { break };
            self.consumed(listener, consumer, record);
            at = end;
        }
        partial.drain(..at);
        self.listeners[listener].stream.partial = partial;
        let after = self.random.between(80, 400);
        self.timeline.push(self.now + after, listener, ANY, Event::Acknowledged { number, read });
    }

    /// The listener's kernel learns what the consumer has.
    pub(super) fn acknowledged(&mut self, listener: usize, number: u32, read: u64) {
        let of = &mut self.listeners[listener].stream;
        if of.up && of.number == number {
            of.acknowledged = of.acknowledged.max(read).min(of.written);
        }
    }

    /// The consumer has a whole record: it must be a frame that was sent, unaltered but for its stamp.
    fn consumed(&mut self, listener: usize, consumer: usize, record: &[u8]) {
        const STAMP: std::ops::Range<usize> = 40..56;
        let Some(number) = frames().number(id_of(record)) else {
            return self.broken("the consumer got something that nobody sent");
        };
        let original = frames().of(number);
        let same = record.len() == original.len()
            && record[..STAMP.start] == original[..STAMP.start]
            && record[STAMP.end..] == original[STAMP.end..];
        let Some(id) = self.id_of(number).filter(|_| same) else {
            return self.broken(&format!("the consumer got frame {number} not as it was sent"));
        };
        let node = self.listeners[listener].node;
        self.trace(|| format!("consumer {consumer} has {id} of listener {listener}"));
        self.trails[1 + consumer][id].pass(node, self.now);
    }
}
