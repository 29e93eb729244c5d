//! `getsockopt` and `setsockopt` for plain values.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// A C structure without padding rules of its own, for which every bit pattern the kernel writes is a value.
///
/// # Safety
/// The type is `repr(C)` or a primitive integer, holds no reference, and all its bit patterns are valid.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: an integer.
unsafe impl Plain for libc::c_int {}
// SAFETY: an array of integers.
unsafe impl<const N: usize> Plain for [u32; N] {}
// SAFETY: C structures of integers (and of `sockaddr_storage`, which is bytes and integers).
unsafe impl Plain for libc::ip_mreqn {}
// SAFETY: as above.
unsafe impl Plain for libc::group_req {}
// SAFETY: as above.
unsafe impl Plain for libc::group_source_req {}

/// Length of a `T` as the kernel wants it.
pub(crate) const fn length_of<T>() -> libc::socklen_t {
    assert!(size_of::<T>() <= 4096);
    #[allow(clippy::cast_possible_truncation, reason = "bounded by the assertion above")]
    let length = size_of::<T>() as libc::socklen_t;
    length
}

pub(crate) fn set<T: Plain>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: T,
) -> io::Result<()> {
    // SAFETY: `value` lives through the call and the length is its size; the descriptor is borrowed, so open.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), length_of::<T>()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `setsockopt` of a flag.
pub(crate) fn set_flag(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    on: bool,
) -> io::Result<()> {
    set::<libc::c_int>(fd, level, name, on.into())
}

/// `initial` is what stays where the kernel writes less than a whole `T`.
pub(crate) fn get<T: Plain>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    initial: T,
) -> io::Result<T> {
    let mut value = initial;
    let mut length = length_of::<T>();
    // SAFETY: `value` and `length` live through the call, the kernel writes at most `length` bytes into `value`, and
    // every bit pattern of a `Plain` type is a value.
    let result =
        unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length) };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}
