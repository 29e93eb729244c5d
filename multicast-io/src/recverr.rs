//! `IP(V6)_RECVERR`: errors that the kernel learned of after a send, and queue drops as errors of the send itself.
//!
//! Without the option a datagram that a queue refused counts as sent. With it the send says ENOBUFS. The price: an ICMP error
//! about an earlier datagram makes some later call fail. Such an error is taken from the queue and counted, and the call is
//! made again.

use crate::sockopt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// Most errors taken at once; what is left is found by the next call that fails.
const AT_ONCE: usize = 64;

pub(crate) fn enable(fd: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    sockopt::set_flag(fd, libc::SOL_IP, libc::IP_RECVERR, true)?;
    if v6 {
        sockopt::set_flag(fd, libc::SOL_IPV6, libc::IPV6_RECVERR, true)?;
    }
    Ok(())
}

/// Empties the error queue, adds to `counted` and returns how many errors were in it. They would otherwise eat the receive
/// buffer.
pub(crate) fn drain(fd: BorrowedFd<'_>, counted: &AtomicU64) -> usize {
    // SAFETY: integers and pointers only; nulls and zeros mean no name, no data and no control memory.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    let take = || {
        // SAFETY: `header` lives through the call and names no memory to write to.
        unsafe {
            libc::recvmsg(fd.as_raw_fd(), &raw mut header, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) >= 0
        }
    };
    let found = std::iter::repeat_with(take).take(AT_ONCE).take_while(|taken| *taken).count();
    counted.fetch_add(found as u64, Ordering::Relaxed);
    found
}

/// True where `error` may be about an earlier datagram and the call is worth repeating: something was in the error
/// queue, or the kind can have no other cause on a socket that is not connected.
pub(crate) fn was_about_an_earlier_datagram(
    fd: BorrowedFd<'_>,
    error: &io::Error,
    counted: &AtomicU64,
) -> bool {
    drain(fd, counted) > 0 || error.raw_os_error() == Some(libc::ECONNREFUSED)
}
