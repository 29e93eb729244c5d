//! The queue in front of a consumer.
//!
//! A consumer gets whole frames (header and payload) or payloads; padding behind the declared length never leaves.
//!
//! `StreamQueue` (TCP): every record is a big-endian u32 length, then the bytes. A record stays until the consumer's
//! TCP acknowledged all of it. When a connection breaks, what was not acknowledged is sent again on the next one.
//! `DatagramQueue` (UDP): one datagram a record. A record leaves when the kernel took it.
//!
//! Limits: both are bounded in bytes. When a queue is full, the newest record is refused and counted as
//! `consumer_queue_full`. Its claim is released, so that a sibling may deliver it; receiving never stops. Retry endpoints
//! are the second buffer: a refused frame is missing again, and is asked for when the queue is half empty, until the
//! repair horizon.
//!
//! Cost: one copy of a record.

use frame::HashKey;
use std::collections::VecDeque;
use txidset::Ticket;

/// Longest payload of a UDP datagram over IPv4: 65,535 less the IP and UDP headers.
pub const LONGEST_DATAGRAM: usize = 65_507;

/// Length prefix of a stream record.
const PREFIX: usize = 4;

/// No room: the record was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A record whose fate is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handed {
    /// Its claim.
    pub ticket: Option<Ticket>,
    /// Its bytes on the fabric.
    pub wire_len: u32,
    /// Its flow, where the queue was told.
    pub flow: Option<HashKey>,
}

struct Record {
    /// Stream offset behind its last byte.
    end: u64,
    handed: Handed,
}

/// Bytes on their way into a TCP connection.
pub struct StreamQueue {
    bytes: VecDeque<u8>,
    records: VecDeque<Record>,
    capacity: usize,
    /// Stream offset of the first byte held: the start of the first record that is not acknowledged.
    base: u64,
    /// Stream offset up to which the current connection took bytes.
    written: u64,
}

impl StreamQueue {
    /// A queue that holds at most `capacity` bytes, written or not.
    pub fn new(capacity: usize) -> StreamQueue {
        StreamQueue { bytes: VecDeque::new(), records: VecDeque::new(), capacity, base: 0, written: 0 }
    }

    /// Appends one record.
    pub fn push(&mut self, record: &[u8], handed: Handed) -> Result<(), Full> {
        let len = u32::try_from(record.len()).map_err(|_| Full)?;
        if self.bytes.len() + PREFIX + record.len() > self.capacity {
            return Err(Full);
        }
        self.bytes.extend(len.to_be_bytes());
        self.bytes.extend(record);
        self.records.push_back(Record { end: self.base + self.bytes.len() as u64, handed });
        Ok(())
    }

    /// What the connection should take next, in at most two pieces.
    pub fn unwritten(&self) -> (&[u8], &[u8]) {
        let skip = usize::try_from(self.written - self.base).unwrap_or(usize::MAX);
        let (front, back) = self.bytes.as_slices();
        match front.get(skip..) {
            Some(front) => (front, back),
            None => (back.get(skip - front.len()..).unwrap_or(&[]), &[]),
        }
    }

    /// The connection took `n` bytes.
    pub fn wrote(&mut self, n: usize) {
        self.written = (self.written + n as u64).min(self.base + self.bytes.len() as u64);
    }

    /// Stream offset up to which the connection took bytes.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The peer has everything but the last `unacknowledged` of the bytes written: its records are done.
    pub fn acknowledged(&mut self, unacknowledged: usize, mut done: impl FnMut(Handed)) {
        let acknowledged = self.written.saturating_sub(unacknowledged as u64);
        let mut base = self.base;
        while let Some(record) = self.records.front()
            && record.end <= acknowledged
        {
            base = record.end;
            done(record.handed);
            self.records.pop_front();
        }
        let leaving = usize::try_from(base - self.base).unwrap_or(0);
        self.bytes.drain(..leaving.min(self.bytes.len()));
        self.base = base;
    }

    /// The connection broke: the next one begins with the first record that was not acknowledged whole.
    pub fn rewind(&mut self) {
        self.written = self.base;
    }

    /// Gives up everything: the process stops.
    pub fn abandon(&mut self, mut lost: impl FnMut(Handed)) {
        for record in self.records.drain(..) {
            lost(record.handed);
        }
        self.bytes.clear();
        self.base = self.written;
    }

    /// Bytes that it may hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes held.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Nothing is held.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// One datagram that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Place of its first byte in `DatagramQueue::memory`.
    pub start: u32,
    /// Its length.
    pub len: u32,
    /// What it is.
    pub handed: Handed,
}

/// A run of waiting datagrams that can leave as one train: equal lengths, the last may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Index of the first.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// Length of the first.
    pub segment: u16,
}

/// Datagrams on their way to a UDP consumer. Those of one burst are sorted by length: trains need equal lengths, and
/// datagrams promise no order anyway.
pub struct DatagramQueue {
    /// What waits, and what left since the last compaction: at most twice the capacity.
    memory: Vec<u8>,
    /// Bytes that wait.
    live: usize,
    datagrams: Vec<Datagram>,
    capacity: usize,
}

/// Bytes of one train (a UDP datagram's worth) for the segmentation offload.
const TRAIN_BYTES: usize = 65_000;

impl DatagramQueue {
    /// A queue that holds at most `capacity` bytes.
    pub fn new(capacity: usize) -> DatagramQueue {
        let capacity = capacity.min(u32::MAX as usize / 2);
        DatagramQueue { memory: Vec::new(), live: 0, datagrams: Vec::new(), capacity }
    }

    /// Appends one datagram.
    pub fn push(&mut self, record: &[u8], handed: Handed) -> Result<(), Full> {
        if self.live + record.len() > self.capacity {
            return Err(Full);
        }
        // At least half of the memory is free then: the copy is paid for by what left.
        if self.memory.len() + record.len() > 2 * self.capacity {
            self.compact();
        }
        let start = u32::try_from(self.memory.len()).map_err(|_| Full)?;
        let len = u32::try_from(record.len()).map_err(|_| Full)?;
        self.memory.extend_from_slice(record);
        self.live += record.len();
        self.datagrams.push(Datagram { start, len, handed });
        Ok(())
    }

    /// Sorts what waits and cuts it into runs of at most `max_run` datagrams.
    pub fn runs(&mut self, max_run: usize, out: &mut Vec<Run>) {
        if max_run > 1 {
            self.datagrams.sort_by_key(|d| std::cmp::Reverse(d.len));
        }
        out.clear();
        let mut at = 0;
        while let Some(first) = self.datagrams.get(at) {
            let segment = first.len as usize;
            let most = max_run.min(TRAIN_BYTES / segment.max(1)).max(1);
            let rest = self.datagrams.get(at..).unwrap_or(&[]);
            let equal = rest.iter().take(most).take_while(|d| d.len as usize == segment).count();
            let shorter = equal < most && rest.get(equal).is_some_and(|d| d.len > 0);
            let count = equal + usize::from(shorter);
            let (Ok(first), Ok(n)) = (u32::try_from(at), u32::try_from(count)) else { return };
            out.push(Run { first, count: n, segment: u16::try_from(segment).unwrap_or(u16::MAX) });
            at += count;
        }
    }

    /// What waits, in the order of the runs.
    pub fn datagrams(&self) -> &[Datagram] {
        &self.datagrams
    }

    /// The bytes that datagrams name.
    pub fn memory(&self) -> &[u8] {
        &self.memory
    }

    /// The first `n` datagrams left.
    pub fn left(&mut self, n: usize, mut done: impl FnMut(Handed)) {
        for datagram in self.datagrams.drain(..n.min(self.datagrams.len())) {
            self.live -= datagram.len as usize;
            done(datagram.handed);
        }
        if self.datagrams.is_empty() {
            self.memory.clear();
        }
    }

    /// Bytes that it may hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes held.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    fn compact(&mut self) {
        let mut memory = Vec::with_capacity(self.memory.len());
        for datagram in &mut self.datagrams {
            let range = datagram.start as usize..(datagram.start + datagram.len) as usize;
            let Ok(start) = u32::try_from(memory.len()) else { return };
            memory.extend_from_slice(self.memory.get(range).unwrap_or(&[]));
            datagram.start = start;
        }
        self.memory = memory;
    }
}
