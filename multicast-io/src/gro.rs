//! `UDP_GRO`: the kernel hands over a train whole and says how long its datagrams are.

use crate::cmsg::{Message, space};
use crate::sockopt;
use std::io;
use std::os::fd::BorrowedFd;

/// Control memory of the segment size.
pub(crate) const SPACE: usize = space(size_of::<libc::c_int>());

/// False where the kernel has no GRO for UDP (before 5.0): datagrams then arrive one by one.
pub(crate) fn enable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    match sockopt::set_flag(fd, libc::SOL_UDP, libc::UDP_GRO, true) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The length of the train's datagrams, if this control message tells it; never 0.
pub(crate) fn segment(message: &Message<'_>) -> Option<usize> {
    if (message.level, message.kind) != (libc::SOL_UDP, libc::UDP_GRO) {
        return None;
    }
    usize::try_from(message.read::<libc::c_int>()?).ok().filter(|segment| *segment > 0)
}
