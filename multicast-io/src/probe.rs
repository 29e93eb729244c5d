//! Does multicast work here? Asked by doing it once.

use crate::{Burst, Interface, Receiver, Sender, SocketError, SocketOptions, Span, Train, wildcard};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

/// How long the datagram may take; on the loopback it takes microseconds.
const BOUND: Duration = Duration::from_millis(500);

/// Joins `group` on `interface`, sends one datagram to it on a random port with loopback on, and waits for it, at most half a
/// second. False where it does not arrive or there is no route; an error where sockets themselves fail. The hop limit is 0:
/// nothing leaves the host.
pub fn multicast_probe(group: IpAddr, interface: &Interface) -> io::Result<bool> {
    match exchange(group, interface) {
        Err(error) if is_no_route(&error) => Ok(false),
        result => result,
    }
}

fn exchange(group: IpAddr, interface: &Interface) -> io::Result<bool> {
    let options = SocketOptions {
        interface: Some(interface.clone()),
        loopback: true,
        hop_limit: 0,
        ..SocketOptions::new(SocketAddr::new(wildcard(group.is_ipv4()), 0))
    };
    let mut receiver = Receiver::open(&options).map_err(plain)?;
    receiver.join(group, interface).map_err(plain)?;
    let mut sender = Sender::open(&options).map_err(plain)?;
    let destination = SocketAddr::new(group, receiver.local_addr()?.port());
    // The sender's port is the nonce: a datagram from another process has another one.
    let own_port = sender.local_addr()?.port();
    let train = Train { destination, first: 0, count: 1, segment: 0 };
    let payload = b"multicast probe";
    let span = Span { start: 0, len: 15 };
    if let Some(error) = sender.send(payload, &[train], &[span]).error {
        return Err(error);
    }
    let mut burst = Burst::new(4, 0);
    let deadline = Instant::now() + BOUND;
    loop {
        burst.clear();
        match receiver.receive(&mut burst, 4) {
            Ok(_) => {
                let own = |source: SocketAddr, bytes: &[u8]| source.port() == own_port && bytes == payload;
                if burst.arrivals().iter().any(|arrival| own(arrival.source, burst.bytes(arrival.span))) {
                    return Ok(true);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() || !wait_readable(&receiver, left)? {
                    return Ok(false);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// The kernel's own error, so that its number can be judged.
fn plain(error: SocketError) -> io::Error {
    match error.cause.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number),
        None => io::Error::other(error),
    }
}

fn is_no_route(error: &io::Error) -> bool {
    let numbers = [
        libc::ENETUNREACH,
        libc::EHOSTUNREACH,
        libc::EADDRNOTAVAIL,
        libc::EAFNOSUPPORT,
        libc::ENODEV,
        libc::ENETDOWN,
        libc::EPERM,
        libc::EACCES,
    ];
    error.raw_os_error().is_some_and(|number| numbers.contains(&number))
}

/// Waits until the socket is readable, at most `bound`. False when the time is over. For code without a runtime: tests,
/// probes, tools.
pub fn wait_readable(socket: &impl AsFd, bound: Duration) -> io::Result<bool> {
    wait(socket, libc::POLLIN, bound)
}

/// Waits until the socket is writable, at most `bound`. False when the time is over.
pub fn wait_writable(socket: &impl AsFd, bound: Duration) -> io::Result<bool> {
    wait(socket, libc::POLLOUT, bound)
}

fn wait(socket: &impl AsFd, events: libc::c_short, bound: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + bound;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let milliseconds = libc::c_int::try_from(left.as_micros().div_ceil(1000)).unwrap_or(libc::c_int::MAX);
        let mut entry = libc::pollfd { fd: socket.as_fd().as_raw_fd(), events, revents: 0 };
        // SAFETY: one entry, which lives through the call.
        let ready = unsafe { libc::poll(&raw mut entry, 1, milliseconds) };
        if ready >= 0 {
            return Ok(ready > 0);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
