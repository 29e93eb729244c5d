//! The one request to `rtnetlink(7)` that this project makes: a local route for multicast on the loopback.

use crate::address::family;
use crate::sockopt::length_of;
use std::io;
use std::net::Ipv6Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Lengths of `nlmsghdr`, `rtmsg` and of the attributes that are written here.
const HEADER: usize = 16;
const ROUTE: usize = 12;
const DESTINATION: usize = 4 + 16;
const OUTPUT: usize = 4 + 4;
const REQUEST: usize = HEADER + ROUTE + DESTINATION + OUTPUT;

/// Adds `local PREFIX/LENGTH dev INTERFACE` to table `local`. A route that is there already is not an error.
pub(crate) fn add_local_route(prefix: Ipv6Addr, length: u8, interface: u32) -> io::Result<()> {
    // SAFETY: no pointers; the descriptor is checked before it is used.
    let fd =
        unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let request = request(prefix, length, interface);
    // SAFETY: integers only; all zeros addresses the kernel.
    let mut kernel: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    kernel.nl_family = family(libc::AF_NETLINK);
    // SAFETY: request and address live through the call, with their lengths.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            request.as_ptr().cast(),
            request.len(),
            0,
            (&raw const kernel).cast(),
            length_of::<libc::sockaddr_nl>(),
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    acknowledged(&socket)
}

/// The request, in the machine's byte order except for the address.
fn request(prefix: Ipv6Addr, length: u8, interface: u32) -> [u8; REQUEST] {
    let mut request = [0; REQUEST];
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        request[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    // nlmsghdr: length, type, flags, sequence, port.
    put(&u32::try_from(REQUEST).unwrap_or(0).to_ne_bytes());
    put(&libc::RTM_NEWROUTE.to_ne_bytes());
    put(&u16::try_from(flags).unwrap_or(0).to_ne_bytes());
    put(&1u32.to_ne_bytes());
    put(&0u32.to_ne_bytes());
    // rtmsg: family, destination length, source length, tos, table, protocol (static), scope (universe), type, flags.
    put(&[u8::try_from(libc::AF_INET6).unwrap_or(0), length, 0, 0]);
    put(&[libc::RT_TABLE_LOCAL, libc::RTPROT_STATIC, libc::RT_SCOPE_UNIVERSE, libc::RTN_LOCAL]);
    put(&0u32.to_ne_bytes());
    // Attributes: length, type, value.
    put(&20u16.to_ne_bytes());
    put(&libc::RTA_DST.to_ne_bytes());
    put(&prefix.octets());
    put(&8u16.to_ne_bytes());
    put(&libc::RTA_OIF.to_ne_bytes());
    put(&interface.to_ne_bytes());
    request
}

/// Reads the kernel's verdict: an error message whose number is 0 for success.
fn acknowledged(socket: &OwnedFd) -> io::Result<()> {
    let mut reply = [0u8; 256];
    // SAFETY: `reply` lives through the call, with its length. The kernel answers before `sendto` returns.
    let got =
        unsafe { libc::recv(socket.as_raw_fd(), reply.as_mut_ptr().cast(), reply.len(), libc::MSG_DONTWAIT) };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    let kind = u16::from_ne_bytes([reply[4], reply[5]]);
    let number = i32::from_ne_bytes([reply[16], reply[17], reply[18], reply[19]]);
    if usize::try_from(got).unwrap_or(0) < HEADER + 4 || i32::from(kind) != libc::NLMSG_ERROR {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "an unexpected answer from rtnetlink"));
    }
    match -number {
        0 | libc::EEXIST => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}
