//! Sizes of socket buffers: the wish, what was granted, and the knob when that is less.
//!
//! The kernel doubles the wish to pay for its own records, and reports the double; here both are in the unit of the wish.

use crate::{sockopt, sysctl};
use std::io;
use std::os::fd::BorrowedFd;

/// Which of the two buffers.
#[derive(Clone, Copy)]
pub(crate) enum Direction {
    Receive,
    Send,
}

impl Direction {
    fn names(self) -> (&'static str, libc::c_int, libc::c_int, &'static str) {
        match self {
            Direction::Receive => {
                ("receive buffer", libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, "net.core.rmem_max")
            }
            Direction::Send => ("send buffer", libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, "net.core.wmem_max"),
        }
    }
}

/// Bytes that the kernel granted.
pub(crate) fn granted(fd: BorrowedFd<'_>, direction: Direction) -> io::Result<usize> {
    let (_, _, plain, _) = direction.names();
    let doubled: libc::c_int = sockopt::get(fd, libc::SOL_SOCKET, plain, 0)?;
    Ok(usize::try_from(doubled).unwrap_or(0) / 2)
}

/// Asks for `wish` bytes, past the limit where the process may. Returns a warning for the operator when less was granted.
pub(crate) fn ask(fd: BorrowedFd<'_>, direction: Direction, wish: usize) -> io::Result<Option<String>> {
    let (what, force, plain, knob) = direction.names();
    // Twice the wish must fit the kernel's int.
    let value = libc::c_int::try_from(wish).unwrap_or(libc::c_int::MAX).min(libc::c_int::MAX / 2);
    if sockopt::set(fd, libc::SOL_SOCKET, force, value).is_err() {
        sockopt::set(fd, libc::SOL_SOCKET, plain, value)?;
    }
    let granted = granted(fd, direction)?;
    Ok((granted < wish).then(|| {
        format!(
            "{what}: asked for {wish} bytes, the kernel granted {granted} (raise sysctl {knob}, now {}, or run with \
             CAP_NET_ADMIN)",
            sysctl::value(knob).as_deref().unwrap_or("unreadable")
        )
    }))
}
