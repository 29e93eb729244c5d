//! Large pages for large buffers (`MADV_HUGEPAGE`).
//!
//! Where transparent huge pages are set to `madvise`, the default of most distributions, a big buffer takes a page fault and
//! a TLB entry for each 4 KiB unless it asks. Asking costs one system call a buffer; where the kernel has no such pages
//! nothing changes.

/// Asks for huge pages under `memory`, best before it is first touched. A hint: there is nothing to do about a refusal.
pub fn prefer_huge(memory: &mut [u8]) {
    // Whole small pages only; 4 KiB divides every page size there is, and the kernel rounds the length up.
    let ahead = memory.as_ptr().align_offset(4096);
    let Some(inside) = memory.get_mut(ahead..).filter(|inside| inside.len() >= 4096) else { return };
    let len = inside.len() & !4095;
    // SAFETY: the range lies within `memory`, which is borrowed mutably; the advice changes how it is backed, never what it
    // holds.
    let _ = unsafe { libc::madvise(inside.as_mut_ptr().cast(), len, libc::MADV_HUGEPAGE) };
}

#[cfg(test)]
mod tests {
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
