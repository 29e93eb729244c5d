//! Group membership: any-source and source-specific (RFC 4607), IPv4 and IPv6, on a named interface.
//!
//! Limits, and what they look like: IPv6 joins of one socket stop when its option memory is full (ENOMEM,
//! `net.core.optmem_max`). IPv4 joins stop at `net.ipv4.igmp_max_memberships` (ENOBUFS), source lists at `igmp_max_msf` and
//! `mld_max_msf` (ENOBUFS). Groups beyond that go to further sockets. Each error names the group, the interface and the
//! setting with its present value.
//!
//! Linux looks at the interface of a membership only for IPv4. An IPv6 socket that joined a group on one interface may also
//! take it from another one: from any where another socket of the host joined it. `SocketOptions::only_interface` stops that.

use crate::address::storage;
use crate::{Interface, SocketError, sockopt, sysctl};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

/// Any-source join on any UDP socket (for `control_socket`). Joining twice is not an error.
pub fn join(socket: &impl AsFd, group: IpAddr, on: &Interface) -> Result<(), SocketError> {
    let result = change(socket.as_fd(), libc::MCAST_JOIN_GROUP, group, on);
    match result {
        Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => Ok(()),
        other => other.map_err(|source| join_error("join", group, None, on, source)),
    }
}

/// Leaves a group that was joined with [`join`].
pub fn leave(socket: &impl AsFd, group: IpAddr, on: &Interface) -> Result<(), SocketError> {
    change(socket.as_fd(), libc::MCAST_LEAVE_GROUP, group, on)
        .map_err(|source| join_error("leave", group, None, on, source))
}

/// Source-specific join: only datagrams from `source` are taken. Joining twice is not an error.
pub fn join_source(
    socket: &impl AsFd,
    group: IpAddr,
    source: IpAddr,
    on: &Interface,
) -> Result<(), SocketError> {
    let result = change_source(socket.as_fd(), libc::MCAST_JOIN_SOURCE_GROUP, group, source, on);
    match result {
        // The source is in the list already.
        Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(()),
        other => other.map_err(|error| join_error("join", group, Some(source), on, error)),
    }
}

/// Takes back one [`join_source`].
pub fn leave_source(
    socket: &impl AsFd,
    group: IpAddr,
    source: IpAddr,
    on: &Interface,
) -> Result<(), SocketError> {
    change_source(socket.as_fd(), libc::MCAST_LEAVE_SOURCE_GROUP, group, source, on)
        .map_err(|error| join_error("leave", group, Some(source), on, error))
}

/// Turns `IP(V6)_MULTICAST_ALL` off: by default a socket also takes groups that only other sockets of the host joined.
pub(crate) fn only_own_groups(fd: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    sockopt::set_flag(fd, libc::SOL_IP, libc::IP_MULTICAST_ALL, false)?;
    if v6 {
        sockopt::set_flag(fd, libc::SOL_IPV6, libc::IPV6_MULTICAST_ALL, false)?;
    }
    Ok(())
}

fn level(group: IpAddr) -> libc::c_int {
    if group.is_ipv6() { libc::SOL_IPV6 } else { libc::SOL_IP }
}

fn check(group: IpAddr) -> io::Result<()> {
    if group.is_multicast() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "not a multicast address (224.0.0.0/4 or ff00::/8)"))
}

fn change(fd: BorrowedFd<'_>, option: libc::c_int, group: IpAddr, on: &Interface) -> io::Result<()> {
    check(group)?;
    // SAFETY: integers and bytes only; all zeros is a value (there is padding on 64-bit machines).
    let mut request: libc::group_req = unsafe { std::mem::zeroed() };
    request.gr_interface = on.index;
    request.gr_group = storage(group);
    sockopt::set(fd, level(group), option, request)
}

fn change_source(
    fd: BorrowedFd<'_>,
    option: libc::c_int,
    group: IpAddr,
    source: IpAddr,
    on: &Interface,
) -> io::Result<()> {
    check(group)?;
    if group.is_ipv6() != source.is_ipv6() || source.is_multicast() || source.is_unspecified() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the source must be a unicast address of the group's family",
        ));
    }
    // SAFETY: as in `change`.
    let mut request: libc::group_source_req = unsafe { std::mem::zeroed() };
    request.gsr_interface = on.index;
    request.gsr_group = storage(group);
    request.gsr_source = storage(source);
    sockopt::set(fd, level(group), option, request)
}

fn join_error(
    operation: &'static str,
    group: IpAddr,
    source: Option<IpAddr>,
    on: &Interface,
    error: io::Error,
) -> SocketError {
    let from = source.map(|source| format!(" from source {source}")).unwrap_or_default();
    let hint = match (error.raw_os_error(), group.is_ipv6(), source.is_some()) {
        (Some(libc::ENOMEM), _, _) => sysctl::hint(&["net.core.optmem_max"]) + SPREAD,
        (Some(libc::ENOBUFS), true, _) => sysctl::hint(&["net.ipv6.mld_max_msf", "net.core.optmem_max"]),
        (Some(libc::ENOBUFS), false, false) => sysctl::hint(&["net.ipv4.igmp_max_memberships"]) + SPREAD,
        (Some(libc::ENOBUFS), false, true) => {
            sysctl::hint(&["net.ipv4.igmp_max_memberships", "net.ipv4.igmp_max_msf"]) + SPREAD
        }
        (Some(libc::EINVAL), _, true) => {
            " (this socket joined the group from any source already; use one kind of join per group)"
                .to_owned()
        }
        (Some(libc::ENODEV), _, _) => " (the interface is gone)".to_owned(),
        _ => String::new(),
    };
    SocketError {
        operation,
        subject: format!("group {group}{from} on interface {} (index {})", on.name, on.index),
        cause: error,
        hint,
    }
}

const SPREAD: &str = ", or spread the groups over more sockets (workers)";
