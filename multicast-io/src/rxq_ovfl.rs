//! `SO_RXQ_OVFL`: how many datagrams the kernel dropped because the socket's queue was full.
//!
//! The count travels with the next datagram that is queued after the drop. That costs nothing, but the loss at the end of a
//! burst would stay unseen. `SO_MEMINFO` reads the same counter at any time for one system call. Both are 32 bits wide in the
//! kernel and are carried on to 64 here.

use crate::sockopt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};

/// Place of the drop counter in `SO_MEMINFO` (`SK_MEMINFO_DROPS`), and its length.
const DROPS: usize = 8;
const VARS: usize = 9;

/// The counter of one socket. Shared reads are allowed, so that metrics need not stop the worker.
#[derive(Default)]
pub(crate) struct KernelDrops {
    total: AtomicU64,
}

impl KernelDrops {
    pub(crate) fn enable(fd: BorrowedFd<'_>) -> io::Result<()> {
        sockopt::set_flag(fd, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, true)
    }

    /// Takes a reading of the kernel's counter. Readings may come out of order; it never goes back.
    pub(crate) fn observe(&self, reading: u32) {
        let total = self.total.load(Ordering::Relaxed);
        #[allow(clippy::cast_possible_truncation, reason = "the low half is what the kernel counts")]
        let ahead = reading.wrapping_sub(total as u32);
        if ahead != 0 && ahead <= u32::MAX / 2 {
            // A race of two readers would at worst count one reading twice: only the one that saw `total` wins.
            let _ = self.total.compare_exchange(
                total,
                total + u64::from(ahead),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
    }

    /// Reads the socket's counter now.
    pub(crate) fn total(&self, fd: BorrowedFd<'_>) -> u64 {
        if let Ok(info) = sockopt::get(fd, libc::SOL_SOCKET, libc::SO_MEMINFO, [0u32; VARS]) {
            self.observe(info[DROPS]);
        }
        self.total.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_goes_on_past_32_bits_and_never_back() {
        let drops = KernelDrops::default();
        let total = || drops.total.load(Ordering::Relaxed);
        for reading in [5, 3, 5, 0x7fff_0000, 0xfffe_0000, 0xfffd_0000, 7] {
            drops.observe(reading);
        }
        assert_eq!(total(), (1 << 32) + 7);
    }
}
