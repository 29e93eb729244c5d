//! A consumer, and the TCP connections of its listeners: bytes in order, acknowledged once the consumer has them, a window,
//! and an end that can come at any byte.

use super::event::Event;
use crate::MS;
use crate::context::Context;
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
#[derive(Clone, Copy, Default)]
pub(super) struct Consumer {
    /// It takes nothing until then.
    pub(super) stalled_until: u64,
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

    /// Hands over what the connection takes now; claims whose frames the consumer acknowledged.
    pub(super) fn flush(
        &mut self,
        context: &mut Context<Event>,
        listener: usize,
        delivered: &mut Vec<Handed>,
    ) {
        let now = context.now;
        let latency = context.random.between(80, 400);
        if !self.up && now < self.retry_at {
            self.look_at = Some(self.retry_at);
            return;
        }
        if !self.up {
            (self.up, self.number) = (true, self.number + 1);
            (self.written, self.acknowledged) = (0, 0);
            (self.reading, self.read) = (self.number, 0);
            self.partial.clear();
        }
        while self.written - self.acknowledged < WINDOW {
            let room = usize::try_from(WINDOW - (self.written - self.acknowledged)).unwrap_or(0);
            let (front, back) = self.queue.unwritten();
            let piece = if front.is_empty() { back } else { front };
            if piece.is_empty() {
                break;
            }
            let bytes = piece[..piece.len().min(room)].to_vec();
            self.queue.wrote(bytes.len());
            self.written += bytes.len() as u64;
            self.arrives = self.arrives.max(now + latency);
            self.pipe.push_back((self.number, bytes));
            context.timeline.push(self.arrives, listener, ANY, Event::Consume);
        }
        let due = usize::try_from(self.written - self.acknowledged).unwrap_or(usize::MAX);
        self.queue.acknowledged(due, |handed| delivered.push(handed));
        self.look_at = (!self.queue.is_empty()).then_some(now + LOOK);
    }

    /// The connection breaks: what was written may still arrive, or not. `forgets`: planted, nothing is sent again.
    pub(super) fn break_connection(&mut self, context: &mut Context<Event>, forgets: bool) {
        let arrives = context.random.percent(50);
        self.up = false;
        if !arrives {
            self.cut();
        }
        if !forgets {
            self.queue.rewind();
        }
        self.retry_at = context.now + PAUSE;
        self.look_at = Some(self.retry_at);
    }

    /// The next bytes at the consumer's end: the records that are whole with them.
    pub(super) fn consume(&mut self, context: &mut Context<Event>, listener: usize) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        let Some((number, bytes)) = self.pipe.pop_front() else { return records };
        if self.reading != number {
            return records;
        }
        self.read += bytes.len() as u64;
        self.partial.extend_from_slice(&bytes);
        let mut at = 0;
        while let Some(len) = self.partial.get(at..).and_then(|rest| rest.first_chunk::<PREFIX>()) {
            let end = at + PREFIX + u32::from_be_bytes(*len) as usize;
            let Some(record) = self.partial.get(at + PREFIX..end) else { break };
            records.push(record.to_vec());
            at = end;
        }
        self.partial.drain(..at);
        let after = context.random.between(80, 400);
        let event = Event::Acknowledged { number, read: self.read };
        context.timeline.push(context.now + after, listener, ANY, event);
        records
    }

    /// The listener's kernel learns what the consumer has.
    pub(super) fn acknowledged(&mut self, number: u32, read: u64) {
        if self.up && self.number == number {
            self.acknowledged = self.acknowledged.max(read).min(self.written);
        }
    }
}
