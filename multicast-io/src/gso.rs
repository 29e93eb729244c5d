//! `UDP_SEGMENT`: one call, one trip through the stack, many datagrams.
//!
//! A train has one destination. Its datagrams are equally long; the last may be shorter.
//!
//! Limits: [`MAX_BYTES`] a train, 64 segments (128 from Linux 6.9 on, probed), and a segment must fit the MTU of the path. A
//! kernel or driver may refuse at run time what the probe allowed.

use crate::cmsg::{Control, space};
use crate::sockopt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;

/// Most payload bytes of one train: the longest UDP datagram over IPv4.
pub(crate) const MAX_BYTES: usize = 65_507;

/// Most segments that any kernel takes.
pub(crate) const MAX_SEGMENTS: usize = 128;

/// Most segments that every kernel with GSO takes.
const SURE_SEGMENTS: usize = 64;

/// Longest segment that fits the shortest MTU IPv6 allows (1,280): a refusal of a train no longer than that cannot be
/// about the MTU.
pub(crate) const SURE_SEGMENT_BYTES: u16 = 1_232;

/// Control memory of the segment size.
pub(crate) const SPACE: usize = space(size_of::<u16>());

/// Longest train in segments that this kernel takes: 1, 64 or 128. Asked once per process.
pub(crate) fn max_segments(fd: BorrowedFd<'_>) -> usize {
    static PROBED: OnceLock<usize> = OnceLock::new();
    if sockopt::get::<libc::c_int>(fd, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_err() {
        return 1;
    }
    *PROBED.get_or_init(|| {
        let here: [SocketAddr; 2] = [(Ipv4Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, 0).into()];
        let longest = here.into_iter().any(|address| takes_the_longest(address).unwrap_or(false));
        if longest { MAX_SEGMENTS } else { SURE_SEGMENTS }
    })
}

/// Sends `MAX_SEGMENTS` datagrams of one byte to a socket of our own.
fn takes_the_longest(address: SocketAddr) -> io::Result<bool> {
    let socket = std::net::UdpSocket::bind(address)?;
    socket.connect(socket.local_addr()?)?;
    sockopt::set::<libc::c_int>(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 1)?;
    Ok(socket.send(&[0; MAX_SEGMENTS])? == MAX_SEGMENTS)
}

/// Writes the segment size; returns the control length.
pub(crate) fn write_segment(control: &mut Control<SPACE>, segment: u16) -> usize {
    control.write(0, libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes()).unwrap_or(0)
}

/// What a refused train says about GSO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Kernel or driver cannot do it.
    Gso,
    /// Perhaps only segments of this length are too long for the path.
    Length(u16),
}

impl Refusal {
    /// `None` where the error is not about trains at all.
    pub(crate) fn of(error: &io::Error, segment: u16) -> Option<Refusal> {
        match error.raw_os_error()? {
            libc::EIO | libc::EOPNOTSUPP => Some(Refusal::Gso),
            // Linux before 6.14 says EINVAL, later ones EMSGSIZE, where a segment is longer than the MTU.
            libc::EMSGSIZE => Some(Refusal::Length(segment)),
            libc::EINVAL if segment > SURE_SEGMENT_BYTES => Some(Refusal::Length(segment)),
            libc::EINVAL => Some(Refusal::Gso),
            _ => None,
        }
    }
}
