//! `IP_PKTINFO` and `IPV6_RECVPKTINFO`: the address that a datagram was sent to, and the address that an answer leaves from.

use crate::address::{ip_v4, ip_v6, raw_v4, raw_v6};
use crate::cmsg::{Control, Message, space};
use crate::sockopt::{self, Plain};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::BorrowedFd;

/// `struct in6_pktinfo`; the `libc` crate's has the same layout, but not on every target.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info6 {
    address: libc::in6_addr,
    interface: libc::c_uint,
}

// SAFETY: C structures of integers.
unsafe impl Plain for Info6 {}
// SAFETY: as above.
unsafe impl Plain for libc::in_pktinfo {}

/// Control memory that the information of one datagram takes (a dual-stack socket may get both).
pub(crate) const SPACE: usize = space(size_of::<Info6>()) + space(size_of::<libc::in_pktinfo>());

pub(crate) fn enable(fd: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    if v6 {
        return sockopt::set_flag(fd, libc::SOL_IPV6, libc::IPV6_RECVPKTINFO, true);
    }
    sockopt::set_flag(fd, libc::SOL_IP, libc::IP_PKTINFO, true)
}

/// The destination that a control message names, if it names one.
pub(crate) fn destination(message: &Message<'_>) -> Option<IpAddr> {
    match (message.level, message.kind) {
        // `ipi_addr` is what the header said; `ipi_spec_dst` would be the local address of the interface.
        (libc::SOL_IP, libc::IP_PKTINFO) => Some(ip_v4(message.read::<libc::in_pktinfo>()?.ipi_addr).into()),
        (libc::SOL_IPV6, libc::IPV6_PKTINFO) => Some(ip_v6(message.read::<Info6>()?.address).into()),
        _ => None,
    }
}

/// Writes the source address of a datagram to send; returns the control length. A group cannot be a source.
pub(crate) fn write_source<const N: usize>(control: &mut Control<N>, from: IpAddr) -> usize {
    if from.is_multicast() || from.is_unspecified() {
        return 0;
    }
    let written = match from {
        IpAddr::V4(address) => {
            let mut payload = [0; size_of::<libc::in_pktinfo>()];
            // Interface index, then the source (`ipi_spec_dst`), then a field that sending ignores.
            payload[4..8].copy_from_slice(&raw_v4(address).s_addr.to_ne_bytes());
            debug_assert_eq!(raw_v4(Ipv4Addr::LOCALHOST).s_addr.to_ne_bytes(), [127, 0, 0, 1]);
            control.write(0, libc::SOL_IP, libc::IP_PKTINFO, &payload)
        }
        IpAddr::V6(address) => {
            let mut payload = [0; size_of::<Info6>()];
            payload[..16].copy_from_slice(&raw_v6(address).s6_addr);
            control.write(0, libc::SOL_IPV6, libc::IPV6_PKTINFO, &payload)
        }
    };
    written.unwrap_or(0)
}
