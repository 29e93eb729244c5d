//! The memory of one burst: receive slots that the kernel fills, and a heap for frames that were copied or made.
//!
//! A worker has one area, contiguous and used again. Frames are named by `Span`s into it, so the same bytes go from the
//! receive call to the send call without a copy. `clear` forgets everything. Spans from before must not be used after it. They
//! stay in bounds: the worst outcome is wrong bytes, never a fault.
//!
//! Limits: 4 GiB a burst. A slot is as long as the longest train (64 KiB), but only pages that were written cost memory.
//! Slots begin 64 KiB and a page apart. Trains are much shorter than a slot, and with 64 KiB their fronts would share a fifth
//! of the cache's sets.
//!
//! Cost: no allocation after `new`; a copy only for `push` and `arrive`.

use huge_pages::prefer_huge;
use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};

/// Room of a receive slot: the longest UDP datagram and the longest GRO train fit.
pub const SLOT_BYTES: usize = 65_536;

/// The smallest page there is.
const PAGE: usize = 4_096;

/// Most segments that the kernel puts into one train (`UDP_MAX_SEGMENTS`).
const ARRIVALS_PER_SLOT: usize = 128;

/// A run of bytes in a `Burst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u32,
    /// Length in bytes.
    pub len: u32,
}

impl Span {
    /// Only for offsets inside a `Burst`, whose size fits.
    #[allow(clippy::cast_possible_truncation, reason = "a burst is at most u32::MAX bytes, see Burst::new")]
    pub(crate) fn at(start: usize, len: usize) -> Span {
        debug_assert!(start + len <= u32::MAX as usize);
        Span { start: start as u32, len: len as u32 }
    }

    /// The bytes as a range; cannot overflow on 64-bit machines.
    pub fn range(self) -> std::ops::Range<usize> {
        let start = self.start as usize;
        start..start + self.len as usize
    }
}

/// One datagram as it arrived (GRO segments are already split).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Where its bytes are.
    pub span: Span,
    /// Who sent it (a mapped address for IPv4 on a dual-stack socket).
    pub source: SocketAddr,
    /// Destination address (IP_PKTINFO), where the socket was opened with `packet_info`; mapped like `source`.
    pub destination: Option<IpAddr>,
}

/// See the module text.
pub struct Burst {
    memory: Vec<u8>,
    arrivals: Vec<Arrival>,
    slot_bytes: usize,
    /// From the start of a slot to that of the next.
    stride: usize,
    slots: usize,
    slots_used: usize,
    /// Where the heap begins, and where its free part begins.
    heap_start: usize,
    heap_next: usize,
}

impl Burst {
    /// `slots` receive slots of 64 KiB (only touched pages cost memory) and `heap` bytes for copies. Both are cut where
    /// the whole would pass 4 GiB.
    pub fn new(slots: usize, heap: usize) -> Burst {
        Burst::with_slot_bytes(slots, SLOT_BYTES, heap)
    }

    /// Shorter slots, for sockets without GRO whose datagrams are known to be short: a longer datagram is cut, counted by
    /// `Receiver::truncated` and not delivered.
    pub fn with_slot_bytes(slots: usize, slot_bytes: usize, heap: usize) -> Burst {
        let slot_bytes = slot_bytes.clamp(1, SLOT_BYTES);
        let stride = if slot_bytes == SLOT_BYTES { SLOT_BYTES + PAGE } else { slot_bytes };
        let slots = slots.min(u32::MAX as usize / stride);
        let heap_start = slots * stride;
        let heap = heap.min(u32::MAX as usize - heap_start);
        Burst {
            memory: vec![0; heap_start + heap],
            arrivals: Vec::with_capacity(slots * ARRIVALS_PER_SLOT),
            slot_bytes,
            stride,
            slots,
            slots_used: 0,
            heap_start,
            heap_next: heap_start,
        }
    }

    /// Takes the memory of the slots now, on huge pages where the kernel has them. So no datagram waits for a page, and the
    /// frames of a round lie on few pages. For workers that are to be fast: 64 KiB a slot.
    pub fn touched(mut self) -> Burst {
        let slots = &mut self.memory[..self.heap_start];
        prefer_huge(slots);
        slots.iter_mut().step_by(PAGE).for_each(|byte| *byte = black_box(0));
        self
    }

    /// Everything received since the last `clear`, in order of arrival.
    pub fn arrivals(&self) -> &[Arrival] {
        &self.arrivals
    }

    /// Receive slots that `Receiver::receive` can still fill before the next `clear`.
    pub fn free_slots(&self) -> usize {
        self.slots - self.slots_used
    }

    /// Receive slots filled since the last `clear`.
    pub fn used_slots(&self) -> usize {
        self.slots_used
    }

    /// The bytes of a span.
    ///
    /// # Panics
    /// Where the span comes from another, larger burst.
    pub fn bytes(&self, span: Span) -> &[u8] {
        &self.memory[span.range()]
    }

    /// The bytes of a span, to write (stamping).
    ///
    /// # Panics
    /// Where the span comes from another, larger burst.
    pub fn bytes_mut(&mut self, span: Span) -> &mut [u8] {
        &mut self.memory[span.range()]
    }

    /// Whole area, for the sender.
    pub fn memory(&self) -> &[u8] {
        &self.memory
    }

    /// Takes `len` bytes of the heap (contents unspecified); `None` when it is full: flush, `clear`, try again.
    pub fn reserve(&mut self, len: usize) -> Option<Span> {
        if len > self.heap_free() {
            return None;
        }
        let span = Span::at(self.heap_next, len);
        self.heap_next += len;
        Some(span)
    }

    /// Copies `bytes` to the heap.
    pub fn push(&mut self, bytes: &[u8]) -> Option<Span> {
        let span = self.reserve(bytes.len())?;
        self.bytes_mut(span).copy_from_slice(bytes);
        Some(span)
    }

    /// Takes a datagram that no socket brought, as if one had: copied to the heap, behind the arrivals so far. `false`: the
    /// heap is full, and nothing was taken. For worlds and measurements that feed whole bursts.
    pub fn arrive(&mut self, bytes: &[u8], source: SocketAddr, destination: Option<IpAddr>) -> bool {
        let Some(span) = self.push(bytes) else { return false };
        self.arrivals.push(Arrival { span, source, destination });
        true
    }

    /// Bytes of heap left.
    pub fn heap_free(&self) -> usize {
        self.memory.len() - self.heap_next
    }

    /// Forgets all arrivals and copies.
    pub fn clear(&mut self) {
        self.arrivals.clear();
        self.slots_used = 0;
        self.heap_next = self.heap_start;
    }

    /// Keeps only the arrivals from index `from` on for which `keep` is true (fault injection, filters on arrival).
    pub fn retain_arrivals(&mut self, from: usize, mut keep: impl FnMut(&Arrival, &[u8]) -> bool) {
        let from = from.min(self.arrivals.len());
        let mut kept = from;
        for next in from..self.arrivals.len() {
            let arrival = self.arrivals[next];
            if keep(&arrival, &self.memory[arrival.span.range()]) {
                self.arrivals[kept] = arrival;
                kept += 1;
            }
        }
        self.arrivals.truncate(kept);
    }

    /// Offset of the `ahead`-th free slot.
    fn slot_start(&self, ahead: usize) -> usize {
        (self.slots_used + ahead) * self.stride
    }

    /// The `ahead`-th free slot, for the kernel to fill.
    pub(crate) fn free_slot(&mut self, ahead: usize) -> &mut [u8] {
        let start = self.slot_start(ahead);
        &mut self.memory[start..start + self.slot_bytes]
    }

    /// Appends what the kernel wrote to the `ahead`-th free slot: `len` bytes in datagrams of `segment` bytes (the last
    /// may be shorter). Returns how many.
    pub(crate) fn append(
        &mut self,
        ahead: usize,
        len: usize,
        segment: usize,
        source: SocketAddr,
        destination: Option<IpAddr>,
    ) -> usize {
        let slot = self.slot_start(ahead);
        let before = self.arrivals.len();
        let mut at = 0;
        loop {
            let piece = segment.min(len - at);
            self.arrivals.push(Arrival { span: Span::at(slot + at, piece), source, destination });
            at += piece;
            if at >= len {
                return self.arrivals.len() - before;
            }
        }
    }

    /// Marks the next `count` slots as filled.
    pub(crate) fn take_slots(&mut self, count: usize) {
        self.slots_used += count;
        debug_assert!(self.slots_used <= self.slots);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heap_gives_out_disjoint_spans_until_it_is_full() {
        let mut burst = Burst::new(1, 10);
        let first = burst.push(b"abcd").unwrap();
        let second = burst.push(b"efghij").unwrap();
        assert_eq!((burst.bytes(first), burst.bytes(second)), (&b"abcd"[..], &b"efghij"[..]));
        assert!(burst.push(b"k").is_none());
        burst.clear();
        assert_eq!(burst.heap_free(), 10);
    }

    #[test]
    fn a_datagram_from_nowhere_is_an_arrival_like_any_other() {
        let mut burst = Burst::new(0, 4);
        let (source, group) = ("[fd00::1]:9".parse().unwrap(), "ff05::b:1".parse().unwrap());
        assert!(burst.arrive(b"abc", source, Some(group)));
        assert!(!burst.arrive(b"de", source, None), "the heap is full");
        let [arrival] = burst.arrivals() else { panic!("one arrival") };
        assert_eq!((burst.bytes(arrival.span), arrival.destination), (&b"abc"[..], Some(group)));
        burst.clear();
        assert!(burst.arrivals().is_empty());
    }

    #[test]
    fn a_size_beyond_the_address_range_of_spans_is_cut() {
        let burst = Burst::with_slot_bytes(0, 1, usize::MAX);
        assert_eq!(burst.heap_free(), u32::MAX as usize);
    }

    #[test]
    fn retain_touches_only_arrivals_from_the_index_on() {
        let mut burst = Burst::new(1, 0);
        let source = "127.0.0.1:9".parse().unwrap();
        burst.free_slot(0)[..6].copy_from_slice(b"aabbcc");
        assert_eq!(burst.append(0, 6, 2, source, None), 3);
        burst.take_slots(1);
        burst.retain_arrivals(1, |_, bytes| bytes == b"cc");
        let left: Vec<_> = burst.arrivals().iter().map(|arrival| burst.bytes(arrival.span)).collect();
        assert_eq!(left, [b"aa", b"cc"]);
    }
}
