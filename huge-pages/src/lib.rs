//! Large buffers on huge pages, and loads ahead of use.
//!
//! Most distributions set transparent huge pages to `madvise`. A big buffer then takes a page fault and a TLB entry for each
//! 4 KiB, unless it asks for huge pages. This crate asks.
//!
//! * [`prefer_huge`] asks for a buffer that the caller owns.
//! * [`HugeTable::row`] makes many small tables side by side in one large allocation, so that they share huge pages.
//! * [`prefetch`] starts loading one cache line.
//!
//! What it promises: the bytes of a buffer never change. Where the kernel has no huge pages nothing changes at all.
//!
//! Limits: Linux only. A refusal is not reported. A [`HugeTable`] is never resized, and its entries need no drop.
//!
//! Cost: one system call a buffer. A prefetch is one instruction on x86-64 and aarch64, and nothing elsewhere.
//!
//! `unsafe` of the workspace lives in two crates: in this one for memory, in `multicast-io` for system calls on sockets.
//!
//! ```
//! use huge_pages::{HugeTable, prefer_huge, prefetch};
//! use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
//!
//! let mut log = vec![0_u8; 4 << 20];
//! prefer_huge(&mut log);
//!
//! let tables = HugeTable::<AtomicU64>::row(8, 100_000);
//! prefetch(&tables[3][70_000]);
//! tables[3][70_000].store(1, Relaxed);
//! assert_eq!(tables[4][70_000].load(Relaxed), 0);
//! ```
#![allow(
    unsafe_code,
    reason = "one of the two crates that may: it gives out memory that it allocates itself"
)]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;

/// The huge page of x86-64, and of aarch64 with small pages of 4 KiB.
const HUGE: usize = 2 << 20;

/// Part of a [`HugeTable::row`]: a slice that is never resized.
pub struct HugeTable<T> {
    first: NonNull<T>,
    len: usize,
    /// What the slice lies in; the last part frees it.
    _memory: Arc<Memory>,
}

/// One allocation.
struct Memory {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: an owned allocation may be freed by any thread.
unsafe impl Send for Memory {}
// SAFETY: nothing can be done with a shared one.
unsafe impl Sync for Memory {}
// SAFETY: a table gives access to its `T`s as a `Box<[T]>` would, and no other table reaches them.
unsafe impl<T: Send> Send for HugeTable<T> {}
// SAFETY: as above; shared access is a shared slice.
unsafe impl<T: Sync> Sync for HugeTable<T> {}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `HugeTable::row` with this layout, and no table is left.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

impl<T: Default> HugeTable<T> {
    /// `tables` tables of `each` entries, all `T::default()`, side by side in one allocation: so that many tables that are
    /// each shorter than a huge page share some. Large ones begin at the start of a huge page. `T` needs no drop.
    pub fn row(tables: usize, each: usize) -> Vec<HugeTable<T>> {
        const { assert!(!std::mem::needs_drop::<T>()) };
        let len = tables.saturating_mul(each);
        let bytes = len.saturating_mul(size_of::<T>());
        let align = if bytes >= HUGE { HUGE } else { 1 };
        let layout = Layout::from_size_align(bytes.max(1), align.max(align_of::<T>())).unwrap_or_else(|_| {
            // Longer than an address: no machine has this memory.
            handle_alloc_error(Layout::new::<T>())
        });
        // SAFETY: the layout has a size.
        let Some(start) = NonNull::new(unsafe { alloc(layout) }) else { handle_alloc_error(layout) };
        let memory = Arc::new(Memory { start, layout });
        let first = start.cast::<T>();
        // SAFETY: the allocation holds `len` entries, aligned; nobody else knows of it, and what is not yet written is not read
        // as a `T`.
        let all =
            unsafe { std::slice::from_raw_parts_mut(first.as_ptr().cast::<std::mem::MaybeUninit<T>>(), len) };
        prefer_huge(all);
        for entry in all {
            entry.write(T::default());
        }
        let part = |table| {
            // SAFETY: `table < tables`, so the part lies within the allocation.
            let first = unsafe { first.add(table * each) };
            HugeTable { first, len: each, _memory: Arc::clone(&memory) }
        };
        (0..tables).map(part).collect()
    }
}

impl<T> Deref for HugeTable<T> {
    type Target = [T];
    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `len` entries from `first` on were written when the row was made, are in no other table, and live as long
        // as `_memory`.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

/// Starts loading the line of `place` into the caches, without waiting for it and without holding up what follows, as a
/// read would.
#[inline(always)]
pub fn prefetch<T>(place: &T) {
    let place = std::ptr::from_ref(place);
    // SAFETY: part of every x86-64; a prefetch reads nothing that the program could see.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(place.cast());
    }
    // SAFETY: part of every aarch64; a prefetch reads nothing that the program could see.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) place, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = place;
}

/// Asks for huge pages under `memory`, best before it is first touched. A hint: there is nothing to do about a refusal.
pub fn prefer_huge<T>(memory: &mut [T]) {
    let start = memory.as_mut_ptr().cast::<u8>();
    // Whole small pages only; 4 KiB divides every page size there is, and the kernel rounds the length up.
    let ahead = start.align_offset(4096);
    let len = size_of_val(memory).saturating_sub(ahead) & !4095;
    if len == 0 {
        return;
    }
    // SAFETY: `ahead + len` bytes from `start` on lie within `memory`, which is borrowed mutably; the advice changes how they
    // are backed, never what they hold.
    let _ = unsafe { libc::madvise(start.add(ahead).cast(), len, libc::MADV_HUGEPAGE) };
}

#[cfg(test)]
mod tests {
    #[test]
    fn tables_of_a_row_share_nothing_but_their_memory() {
        use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
        for each in [0, 1, 1000, 100_000] {
            let mut row = super::HugeTable::<AtomicU64>::row(3, each);
            for (number, table) in (1..).zip(&row) {
                assert_eq!(table.len(), each);
                table.iter().for_each(|entry| assert_eq!(entry.swap(number, Relaxed), 0));
            }
            drop(row.remove(1));
            assert!(row[0].iter().all(|entry| entry.load(Relaxed) == 1));
            assert!(row[1].iter().all(|entry| entry.load(Relaxed) == 3));
        }
    }

    #[test]
    fn advice_changes_no_byte() {
        for len in [0, 1, 4095, 4096, 100_000, 4 << 20] {
            let pattern = (0..=250).cycle().take(len);
            let mut memory: Vec<u8> = pattern.clone().collect();
            super::prefer_huge(&mut memory);
            assert!(memory.iter().copied().eq(pattern));
        }
    }
}
