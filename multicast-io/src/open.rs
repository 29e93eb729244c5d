//! Opens and binds a socket from its options: the part that receivers, senders and control sockets share.

use crate::address::raw_v4;
use crate::buffers::{self, Direction};
use crate::{Interface, PortUse, SocketError, SocketOptions, joins, recverr, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

/// A bound socket and what its operator should know about it.
pub(crate) struct Opened {
    pub(crate) socket: Socket,
    /// One line each, ready to log; empty in a well set-up system.
    pub(crate) warnings: Vec<String>,
}

/// A socket that reports what it could not send (`recverr`): its owner empties the error queue.
pub(crate) fn open_reporting(options: &SocketOptions) -> Result<Opened, SocketError> {
    let opened = open(options)?;
    recverr::enable(opened.socket.as_fd(), options.bind.is_ipv6())
        .map_err(SocketError::about("set RECVERR of", options.bind))?;
    Ok(opened)
}

pub(crate) fn open(options: &SocketOptions) -> Result<Opened, SocketError> {
    let about = |operation| SocketError::about(operation, options.bind);
    let socket = Socket::new(Domain::for_address(options.bind), Type::DGRAM, Some(Protocol::UDP))
        .map_err(about("open socket for"))?;
    socket.set_nonblocking(true).map_err(about("make non-blocking"))?;
    let mut warnings = Vec::new();
    set_buffers(socket.as_fd(), options, &mut warnings).map_err(about("size buffers of"))?;
    set_sharing(&socket, options).map_err(about("share port of"))?;
    joins::only_own_groups(socket.as_fd(), options.bind.is_ipv6()).map_err(about("set MULTICAST_ALL of"))?;
    set_multicast_output(socket.as_fd(), options).map_err(about("set multicast output of"))?;
    allow_fragments(socket.as_fd()).map_err(about("allow fragments of"))?;
    warnings.extend(stay_on_interface(&socket, options));
    let bind = scoped(options.bind, options.interface.as_ref());
    socket.bind(&bind.into()).map_err(|cause| bind_error(bind, options, cause))?;
    if options.port_use == PortUse::First {
        socket.set_reuse_port(true).map_err(about("share port of"))?;
    }
    Ok(Opened { socket, warnings })
}

fn set_buffers(fd: BorrowedFd<'_>, options: &SocketOptions, warnings: &mut Vec<String>) -> io::Result<()> {
    if let Some(wish) = options.receive_buffer {
        warnings.extend(buffers::ask(fd, Direction::Receive, wish)?);
    }
    if let Some(wish) = options.send_buffer {
        warnings.extend(buffers::ask(fd, Direction::Send, wish)?);
    }
    Ok(())
}

fn set_sharing(socket: &Socket, options: &SocketOptions) -> io::Result<()> {
    socket.set_reuse_address(options.reuse_address)?;
    socket.set_reuse_port(options.port_use == PortUse::Shared)?;
    if options.bind.is_ipv6() {
        socket.set_only_v6(!options.dual_stack)?;
    }
    Ok(())
}

/// A warning where the kernel does not allow it.
fn stay_on_interface(socket: &Socket, options: &SocketOptions) -> Option<String> {
    let interface = options.interface.as_ref().filter(|_| options.only_interface)?;
    let error = socket.bind_device(Some(interface.name.as_bytes())).err()?;
    Some(format!(
        "groups may be taken from other interfaces than {} too, if other processes join them there (SO_BINDTODEVICE: \
         {error}; CAP_NET_RAW or Linux 5.7 allows it)",
        interface.name
    ))
}

/// Interface, hop limit and loopback of what leaves for a group. An IPv6 socket takes the IPv4 options too (dual stack).
fn set_multicast_output(fd: BorrowedFd<'_>, options: &SocketOptions) -> io::Result<()> {
    let hops = libc::c_int::from(options.hop_limit);
    sockopt::set(fd, libc::SOL_IP, libc::IP_MULTICAST_TTL, hops)?;
    sockopt::set_flag(fd, libc::SOL_IP, libc::IP_MULTICAST_LOOP, options.loopback)?;
    if let Some(interface) = &options.interface {
        set_v4_interface(fd, interface)?;
    }
    if options.bind.is_ipv6() {
        sockopt::set(fd, libc::SOL_IPV6, libc::IPV6_MULTICAST_HOPS, hops)?;
        sockopt::set_flag(fd, libc::SOL_IPV6, libc::IPV6_MULTICAST_LOOP, options.loopback)?;
        if let Some(interface) = &options.interface {
            let index = libc::c_int::try_from(interface.index).map_err(io::Error::other)?;
            sockopt::set(fd, libc::SOL_IPV6, libc::IPV6_MULTICAST_IF, index)?;
        }
    }
    Ok(())
}

/// Names the source address too: on `lo` the kernel would otherwise borrow the address of another interface.
fn set_v4_interface(fd: BorrowedFd<'_>, interface: &Interface) -> io::Result<()> {
    let source = interface.v4.first().copied().unwrap_or(std::net::Ipv4Addr::UNSPECIFIED);
    let request = libc::ip_mreqn {
        imr_multiaddr: raw_v4(std::net::Ipv4Addr::UNSPECIFIED),
        imr_address: raw_v4(source),
        imr_ifindex: libc::c_int::try_from(interface.index).map_err(io::Error::other)?,
    };
    sockopt::set(fd, libc::SOL_IP, libc::IP_MULTICAST_IF, request)
}

/// IPv4 without DF: by default Linux sets it on whatever fits the first link, and a router with a shorter MTU then drops
/// multicast in silence (RFC 1112, section 7.2: no ICMP error about a group). IPv6 keeps the default: long datagrams are
/// cut here, by the path MTU where ICMPv6 reported one.
fn allow_fragments(fd: BorrowedFd<'_>) -> io::Result<()> {
    sockopt::set(fd, libc::SOL_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)
}

/// Link-local addresses mean nothing without an interface: take the socket's.
pub(crate) fn scoped(address: SocketAddr, interface: Option<&Interface>) -> SocketAddr {
    match (address, interface) {
        (SocketAddr::V6(mut v6), Some(interface)) if v6.scope_id() == 0 && needs_scope(v6.ip()) => {
            v6.set_scope_id(interface.index);
            v6.into()
        }
        _ => address,
    }
}

/// Link-local unicast, and groups of interface or link scope (RFC 4291, section 2.7).
fn needs_scope(ip: &std::net::Ipv6Addr) -> bool {
    ip.is_unicast_link_local() || (ip.is_multicast() && matches!(ip.octets()[1] & 0x0f, 1 | 2))
}

fn bind_error(bind: SocketAddr, options: &SocketOptions, cause: io::Error) -> SocketError {
    let hint = match cause.raw_os_error() {
        Some(libc::EADDRINUSE) if options.port_use == PortUse::Shared || options.reuse_address => {
            " (another socket has this port without sharing it; see `ss -ulpn`)".to_owned()
        }
        Some(libc::EADDRINUSE) => " (another socket has this port; see `ss -ulpn`)".to_owned(),
        Some(libc::EADDRNOTAVAIL) => format!(" (no interface here has address {})", bind.ip()),
        Some(libc::EACCES) => format!(
            " (ports below {} need CAP_NET_BIND_SERVICE)",
            crate::sysctl::value("net.ipv4.ip_unprivileged_port_start").as_deref().unwrap_or("1024")
        ),
        Some(libc::EAFNOSUPPORT) => " (IPv6 is turned off on this host)".to_owned(),
        _ => String::new(),
    };
    SocketError { operation: "bind", subject: bind.to_string(), cause, hint }
}
