//! The byte log: a ring of equal segments. A segment is allocated when it is first needed. The oldest leaves as a whole.
//!
//! A position is segment number << shift | offset. Positions only grow. Segment numbers begin at 1, and records lie on
//! multiples of 8. So a position below the tail means that the frame left, and position 0 is below every tail.

use crate::pipeline::admit::Class;
use frame::GroupIndex;
use huge_pages::prefer_huge;
use multicast_io::Span;

/// Where a stored frame lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPlace {
    position: u64,
    /// Segment to hand to the sender (`Store::segment`).
    pub segment: usize,
    /// The frame within that segment.
    pub span: Span,
}

/// What lies before each frame in the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) len: u32,
    pub(super) group: GroupIndex,
    pub(super) class: Class,
    pub(super) verified: bool,
    /// Microseconds since the store's epoch.
    pub(super) arrival: u64,
    /// Microseconds + 1 since the epoch when it last left as a multicast repair; 0 = never.
    pub(super) repaired: u64,
}

impl Header {
    const LEN: usize = 24;
    const VERIFIED_AT: usize = 7;
    const REPAIRED_AT: usize = 16;

    fn encode(&self) -> [u8; Header::LEN] {
        let mut out = [0; Header::LEN];
        out[0..4].copy_from_slice(&self.len.to_le_bytes());
        out[4..6].copy_from_slice(&self.group.0.to_le_bytes());
        out[6] = self.class.code();
        out[Header::VERIFIED_AT] = u8::from(self.verified);
        out[8..16].copy_from_slice(&self.arrival.to_le_bytes());
        out[Header::REPAIRED_AT..24].copy_from_slice(&self.repaired.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8; Header::LEN]) -> Header {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        Header {
            len: u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            group: GroupIndex(u16::from_le_bytes([bytes[4], bytes[5]])),
            class: Class::of_code(bytes[6]),
            verified: bytes[Header::VERIFIED_AT] != 0,
            arrival: word(8),
            repaired: word(Header::REPAIRED_AT),
        }
    }
}

/// See the module text.
pub(super) struct Log {
    segments: Vec<Box<[u8]>>,
    /// Arrival of the first frame of each segment.
    started: Vec<u64>,
    shift: u32,
    ring: usize,
    /// Segment number being written, and its place in the ring.
    current: u64,
    current_slot: usize,
    offset: usize,
}

impl Log {
    /// Largest log: half of what the positions of one index page can span.
    pub(super) const MOST: usize = 16 << 30;

    pub(super) fn new(capacity: usize) -> Log {
        let capacity = capacity.min(Log::MOST);
        // 16 segments where that gives 256 KiB to 16 MiB each: dropping one forgets at most a sixteenth.
        let shift = (capacity / 16).max(1).ilog2().clamp(18, 24);
        let ring = (capacity >> shift).max(2);
        Log {
            segments: Vec::with_capacity(ring),
            started: Vec::with_capacity(ring),
            shift,
            ring,
            current: 0,
            current_slot: 0,
            offset: usize::MAX,
        }
    }

    pub(super) fn append(&mut self, header: Header, bytes: &[u8]) -> Option<u64> {
        // Records begin on multiples of 8.
        let need = (Header::LEN + bytes.len()).next_multiple_of(8);
        let len = u32::try_from(bytes.len()).ok().filter(|_| need <= 1 << self.shift)?;
        if self.offset.saturating_add(need) > 1 << self.shift {
            self.next_segment(header.arrival);
        }
        let at = self.offset;
        let record = &mut self.segments[self.current_slot][at..][..Header::LEN + bytes.len()];
        let (head, body) = record.split_at_mut(Header::LEN);
        head.copy_from_slice(&Header { len, ..header }.encode());
        body.copy_from_slice(bytes);
        self.offset = at + need;
        Some(self.current << self.shift | at as u64)
    }

    /// Takes the next segment: a fresh one while the ring is not full, else the oldest, whose frames leave.
    fn next_segment(&mut self, arrival: u64) {
        self.current += 1;
        self.offset = 0;
        let slot = self.slot(self.current);
        self.current_slot = slot;
        if slot == self.segments.len() {
            let mut segment = vec![0; 1 << self.shift].into_boxed_slice();
            prefer_huge(&mut segment);
            self.segments.push(segment);
            self.started.push(arrival);
        } else {
            self.started[slot] = arrival;
        }
    }

    /// Place of a segment number in the ring.
    fn slot(&self, number: u64) -> usize {
        #[allow(clippy::cast_possible_truncation, reason = "less than `ring`, a usize")]
        let slot = (number.saturating_sub(1) % self.ring as u64) as usize;
        slot
    }

    /// First position that is still there.
    pub(super) fn oldest(&self) -> u64 {
        self.oldest_segment() << self.shift
    }

    fn oldest_segment(&self) -> u64 {
        (self.current + 1).saturating_sub(self.ring as u64).max(1)
    }

    pub(super) fn segments_left(&self) -> u64 {
        self.oldest_segment() - 1
    }

    pub(super) fn oldest_arrival(&self) -> Option<u64> {
        self.started.get(self.slot(self.oldest_segment())).copied()
    }

    pub(super) fn capacity(&self) -> u64 {
        (self.ring as u64) << self.shift
    }

    pub(super) fn live_bytes(&self) -> u64 {
        if self.current == 0 { 0 } else { (self.current << self.shift) + self.offset as u64 - self.oldest() }
    }

    fn locate(&self, position: u64) -> (usize, usize) {
        #[allow(clippy::cast_possible_truncation, reason = "masked to less than a segment")]
        let offset = (position & ((1 << self.shift) - 1)) as usize;
        (self.slot(position >> self.shift), offset)
    }

    pub(super) fn header(&self, position: u64) -> Header {
        let (slot, offset) = self.locate(position);
        self.segments[slot][offset..]
            .first_chunk()
            .map_or_else(|| Header::decode(&[0; Header::LEN]), Header::decode)
    }

    pub(super) fn record(&self, position: u64) -> (Header, &[u8]) {
        let header = self.header(position);
        let (slot, offset) = self.locate(position);
        let bytes = &self.segments[slot][offset + Header::LEN..][..header.len as usize];
        (header, bytes)
    }

    /// Bytes of a frame, empty if it left.
    pub(super) fn bytes(&self, place: &LogPlace) -> &[u8] {
        if self.is_live(place) { self.record(place.position).1 } else { &[] }
    }

    /// True while the bytes of `place` are still those of its frame.
    pub(super) fn is_live(&self, place: &LogPlace) -> bool {
        place.position >= self.oldest()
    }

    /// Memory of a segment, empty where there is none.
    pub(super) fn segment(&self, segment: usize) -> &[u8] {
        self.segments.get(segment).map_or(&[], |segment| segment)
    }

    pub(super) fn place(&self, position: u64, len: u32) -> LogPlace {
        let (segment, offset) = self.locate(position);
        #[allow(clippy::cast_possible_truncation, reason = "segments are at most 16 MiB")]
        let start = (offset + Header::LEN) as u32;
        LogPlace { position, segment, span: Span { start, len } }
    }

    pub(super) fn set_verified(&mut self, position: u64) {
        let (slot, offset) = self.locate(position);
        self.segments[slot][offset + Header::VERIFIED_AT] = 1;
    }

    /// Remembers when a frame left as a repair (`Header::repaired`). Nothing happens to one that left the log.
    pub(super) fn set_repaired(&mut self, place: &LogPlace, at: u64) {
        if !self.is_live(place) {
            return;
        }
        let (slot, offset) = self.locate(place.position);
        self.segments[slot][offset + Header::REPAIRED_AT..][..8].copy_from_slice(&at.to_le_bytes());
    }
}
