//! Frames that wait for the shared store: copied out of the burst into a bounded memory until they are decided.
//!
//! Why: a claim never blocks a worker. A frame whose id tier 1 has not seen gets a token and waits here while the worker
//! goes on. Most frames wait for one round trip, a parked copy for a lease.
//!
//! Limits: a fixed number of entries and a fixed number of bytes, in blocks of [`BLOCK`] bytes, taken once (untouched
//! pages cost nothing). A frame of a stream stays in the buffer that it came in, which `--tcp-buffer-bytes` bounds, and
//! counts as one block.
//!
//! Overflow rule: at half of `--slab-bytes` the worker stops reading TCP. At all of it the claims, which are told the same
//! charges, let the oldest frame go that was not asked about (`bypassed`). Behind that stands the memory itself: a frame
//! that finds no block is sent at once, undecided, and counted as overflow.
//!
//! Cost: one copy in, one copy out, no allocation in steady state.

use bytes::Bytes;
use multicast_io::Span;

/// Bytes a block.
pub(super) const BLOCK: usize = 256;
const NONE: u32 = u32::MAX;

/// Where the bytes of a waiting frame are.
#[derive(Clone, Debug)]
pub(super) enum HeldFrame {
    /// Still in the burst that it arrived in.
    InBurst(Span),
    /// In blocks of the slab.
    Copied {
        /// First block of the chain.
        first: u32,
        /// Bytes.
        len: u32,
    },
    /// In the buffer of a stream.
    Owned(Bytes),
    /// Already sent without waiting, because the slab was full.
    Gone,
}

/// Handle of an entry: index and generation, so that a late answer never names a newer frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FrameHandle {
    index: u32,
    generation: u32,
}

impl FrameHandle {
    /// As the opaque token of `txidset`.
    pub(super) fn token(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The inverse of [`FrameHandle::token`].
    #[allow(clippy::cast_possible_truncation, reason = "a token is two halves")]
    pub(super) fn from_token(token: u64) -> FrameHandle {
        FrameHandle { index: token as u32, generation: (token >> 32) as u32 }
    }
}

struct SlabEntry<T> {
    generation: u32,
    value: Option<(T, HeldFrame)>,
}

/// See the module text.
pub(super) struct Slab<T> {
    entries: Vec<SlabEntry<T>>,
    free_entries: Vec<u32>,
    max_entries: usize,
    blocks: Vec<u8>,
    next: Vec<u32>,
    free_block: u32,
    used_bytes: usize,
    capacity: usize,
}

impl HeldFrame {
    /// What a frame of `len` bytes will take while it waits.
    pub(super) fn charge(&self, len: usize) -> usize {
        match self {
            HeldFrame::Owned(_) => BLOCK,
            _ => rounded(len),
        }
    }
}

impl<T> Slab<T> {
    /// Room for `entries` waiting frames and `bytes` of their bytes.
    pub(super) fn new(entries: usize, bytes: usize) -> Slab<T> {
        let blocks = u32::try_from(bytes / BLOCK).unwrap_or(NONE - 1);
        let chain = (1..=blocks).map(|block| if block == blocks { NONE } else { block });
        Slab {
            entries: Vec::new(),
            free_entries: Vec::new(),
            max_entries: entries.clamp(1, NONE as usize),
            blocks: vec![0; blocks as usize * BLOCK],
            next: chain.collect(),
            free_block: if blocks == 0 { NONE } else { 0 },
            used_bytes: 0,
            capacity: bytes,
        }
    }

    /// Takes a name; `None` when all are taken. It holds nothing until [`Slab::fill`].
    pub(super) fn reserve(&mut self) -> Option<FrameHandle> {
        let index = self.vacant()?;
        Some(FrameHandle { index, generation: self.entries[index as usize].generation })
    }

    /// Puts a frame under a reserved name.
    pub(super) fn fill(&mut self, handle: FrameHandle, value: T, held: HeldFrame) {
        if let HeldFrame::Owned(_) = &held {
            self.used_bytes += BLOCK;
        }
        if let Some(entry) = self.entries.get_mut(handle.index as usize) {
            entry.value = Some((value, held));
        }
    }

    /// The entry of `handle`, unless it was released.
    pub(super) fn find(&mut self, handle: FrameHandle) -> Option<&mut (T, HeldFrame)> {
        let entry = self.entries.get_mut(handle.index as usize)?;
        if entry.generation != handle.generation { None } else { entry.value.as_mut() }
    }

    /// Gives an entry back. Blocks it held are free at once: read them first with [`Slab::read`].
    pub(super) fn release(&mut self, handle: FrameHandle) -> Option<(T, HeldFrame)> {
        let entry = self.entries.get_mut(handle.index as usize)?;
        if entry.generation != handle.generation {
            return None;
        }
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free_entries.push(handle.index);
        match &value.1 {
            HeldFrame::Copied { first, len } => self.free_chain(*first, *len as usize),
            HeldFrame::Owned(_) => self.used_bytes -= BLOCK,
            HeldFrame::InBurst(_) | HeldFrame::Gone => {}
        }
        Some(value)
    }

    /// Copies the bytes of an entry that is still in its burst; `false` when there is no room.
    pub(super) fn keep(&mut self, handle: FrameHandle, bytes: &[u8]) -> bool {
        if self.used_bytes + rounded(bytes.len()) > self.capacity {
            return false;
        }
        let Ok(len) = u32::try_from(bytes.len()) else { return false };
        let Some(first) = self.write(bytes) else { return false };
        match self.find(handle) {
            Some((_, held)) => *held = HeldFrame::Copied { first, len },
            None => self.free_chain(first, bytes.len()),
        }
        true
    }

    /// The frame of `handle` was sent without waiting.
    pub(super) fn mark_gone(&mut self, handle: FrameHandle) {
        if let Some((_, held)) = self.find(handle) {
            *held = HeldFrame::Gone;
        }
    }

    /// Copies the bytes of a chain into `out`.
    pub(super) fn read(&self, first: u32, len: u32, out: &mut Vec<u8>) {
        let (mut block, mut left) = (first, len as usize);
        while left > 0 && block != NONE {
            let take = left.min(BLOCK);
            let at = block as usize * BLOCK;
            out.extend_from_slice(&self.blocks[at..at + take]);
            left -= take;
            block = self.next[block as usize];
        }
    }

    /// Bytes held, rounded up to blocks.
    pub(super) fn used_bytes(&self) -> usize {
        self.used_bytes
    }

    /// Frames that wait.
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free_entries.len()
    }

    fn vacant(&mut self) -> Option<u32> {
        if let Some(index) = self.free_entries.pop() {
            return Some(index);
        }
        if self.entries.len() >= self.max_entries {
            return None;
        }
        self.entries.push(SlabEntry { generation: 0, value: None });
        u32::try_from(self.entries.len() - 1).ok()
    }

    fn write(&mut self, bytes: &[u8]) -> Option<u32> {
        let first = self.free_block;
        let mut last = NONE;
        for chunk in bytes.chunks(BLOCK) {
            if self.free_block == NONE {
                self.restore(first, last);
                return None;
            }
            let block = self.free_block;
            let at = block as usize * BLOCK;
            self.blocks[at..at + chunk.len()].copy_from_slice(chunk);
            self.free_block = self.next[block as usize];
            last = block;
        }
        if last != NONE {
            self.next[last as usize] = NONE;
        }
        self.used_bytes += rounded(bytes.len());
        Some(if last == NONE { NONE } else { first })
    }

    /// The blocks from `first` to `last` still hang together in the free list's order: put them back in front.
    fn restore(&mut self, first: u32, last: u32) {
        if last != NONE {
            self.next[last as usize] = self.free_block;
            self.free_block = first;
        }
    }

    fn free_chain(&mut self, first: u32, len: usize) {
        let mut last = first;
        if first == NONE {
            return;
        }
        while self.next[last as usize] != NONE {
            last = self.next[last as usize];
        }
        self.next[last as usize] = self.free_block;
        self.free_block = first;
        self.used_bytes -= rounded(len);
    }
}

fn rounded(len: usize) -> usize {
    len.div_ceil(BLOCK) * BLOCK
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(slab: &mut Slab<u8>, value: u8) -> FrameHandle {
        let handle = slab.reserve().unwrap();
        slab.fill(handle, value, HeldFrame::Gone);
        handle
    }

    fn content(slab: &Slab<u8>, held: &HeldFrame) -> Vec<u8> {
        let mut out = Vec::new();
        if let HeldFrame::Copied { first, len } = held {
            slab.read(*first, *len, &mut out);
        }
        out
    }

    #[test]
    fn a_frame_comes_out_as_it_went_in() {
        let mut slab = Slab::new(8, 64 * BLOCK);
        let frames: Vec<Vec<u8>> = [1_usize, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK]
            .iter()
            .map(|&n| vec![(n % 251).to_le_bytes()[0]; n])
            .collect();
        let handles: Vec<FrameHandle> = frames
            .iter()
            .map(|bytes| {
                let handle = insert(&mut slab, 0);
                assert!(slab.keep(handle, bytes));
                handle
            })
            .collect();
        for (handle, bytes) in handles.iter().zip(&frames) {
            let held = slab.find(*handle).unwrap().1.clone();
            assert_eq!(&content(&slab, &held), bytes);
            slab.release(*handle).unwrap();
        }
        assert_eq!((slab.used_bytes(), slab.len()), (0, 0));
    }

    #[test]
    fn bytes_never_exceed_the_bound_and_all_room_comes_back() {
        let mut slab = Slab::new(1000, 10 * BLOCK);
        for _ in 0..3 {
            let mut kept = Vec::new();
            for _ in 0..20 {
                let handle = insert(&mut slab, 0);
                if slab.keep(handle, &[7; BLOCK + 1]) {
                    kept.push(handle);
                } else {
                    slab.release(handle).unwrap();
                }
                assert!(slab.used_bytes() <= 10 * BLOCK);
            }
            assert_eq!(kept.len(), 5);
            for handle in kept {
                slab.release(handle).unwrap();
            }
            assert_eq!(slab.used_bytes(), 0);
        }
    }

    #[test]
    fn a_late_token_never_names_a_newer_frame() {
        let mut slab = Slab::new(1, BLOCK);
        let old = insert(&mut slab, 1);
        assert!(slab.reserve().is_none());
        slab.release(old).unwrap();
        let new = insert(&mut slab, 3);
        assert!(slab.find(FrameHandle::from_token(old.token())).is_none());
        assert_eq!(slab.find(FrameHandle::from_token(new.token())).unwrap().0, 3);
    }
}
