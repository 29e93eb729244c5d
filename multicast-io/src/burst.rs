//! The memory of one burst: receive slots that the kernel fills, and a heap for frames that were copied or made.
//!
//! One contiguous, reusable area per worker. Frames are named by `Span`s into it, so that the same bytes go from the
//! receive call to the send call without a copy. `clear` forgets everything; spans from before must not be used after
//! (they stay in bounds: the worst outcome is wrong bytes, never a fault).

use std::net::{IpAddr, SocketAddr};

/// A run of bytes in a `Burst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Span {
    pub start: u32,
    pub len: u32,
}

/// One datagram as it arrived (GRO segments are already split).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub span: Span,
    pub source: SocketAddr,
    /// Destination address (IP_PKTINFO), where the socket was opened with `packet_info`.
    pub destination: Option<IpAddr>,
}

/// See the module text.
pub struct Burst {
    memory: Vec<u8>,
    arrivals: Vec<Arrival>,
}

impl Burst {
    /// `slots` receive slots of 64 KiB (only touched pages cost memory) and `heap` bytes for copies.
    pub fn new(_slots: usize, _heap: usize) -> Burst {
        unimplemented!()
    }
    /// Everything received since the last `clear`, in order of arrival.
    pub fn arrivals(&self) -> &[Arrival] {
        &self.arrivals
    }
    pub fn free_slots(&self) -> usize {
        unimplemented!()
    }
    pub fn bytes(&self, span: Span) -> &[u8] {
        &self.memory[span.start as usize..][..span.len as usize]
    }
    pub fn bytes_mut(&mut self, span: Span) -> &mut [u8] {
        &mut self.memory[span.start as usize..][..span.len as usize]
    }
    /// Whole area, for the sender.
    pub fn memory(&self) -> &[u8] {
        &self.memory
    }
    /// Takes `len` bytes of the heap (contents unspecified); `None` when it is full: flush, `clear`, try again.
    pub fn reserve(&mut self, _len: usize) -> Option<Span> {
        unimplemented!()
    }
    /// Copies `bytes` to the heap.
    pub fn push(&mut self, _bytes: &[u8]) -> Option<Span> {
        unimplemented!()
    }
    pub fn heap_free(&self) -> usize {
        unimplemented!()
    }
    /// Forgets all arrivals and copies.
    pub fn clear(&mut self) {
        unimplemented!()
    }
    /// Keeps only the arrivals from index `from` on for which `keep` is true (fault injection, filters at the door).
    pub fn retain_arrivals(&mut self, _from: usize, _keep: impl FnMut(&Arrival, &[u8]) -> bool) {
        unimplemented!()
    }
}
