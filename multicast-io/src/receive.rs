//! Batch receive: `recvmmsg`, `UDP_GRO`, `SO_RXQ_OVFL`, joins.

use crate::{Burst, Interface, SocketError, SocketOptions};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

/// A non-blocking UDP socket that receives in batches. Wrap it in `tokio::io::unix::AsyncFd` for readiness.
pub struct Receiver {
    socket: socket2::Socket,
}

impl Receiver {
    /// Opens and binds. `IP(V6)_MULTICAST_ALL` is always off: a socket takes only the groups that it joined itself.
    pub fn open(_options: &SocketOptions) -> Result<Receiver, SocketError> {
        unimplemented!()
    }
    /// Takes over a bound socket (socket activation, tests).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        unimplemented!()
    }
    /// Any-source join. Joining twice is not an error.
    pub fn join(&self, _group: IpAddr, _on: &Interface) -> Result<(), SocketError> {
        unimplemented!()
    }
    /// Source-specific join (RFC 4607).
    pub fn join_source(&self, _group: IpAddr, _source: IpAddr, _on: &Interface) -> Result<(), SocketError> {
        unimplemented!()
    }
    pub fn leave(&self, _group: IpAddr, _on: &Interface) -> Result<(), SocketError> {
        unimplemented!()
    }
    /// Fills free slots of `burst` with one `recvmmsg` of at most `max` messages and appends the arrivals, GRO trains
    /// split. Returns the number of new arrivals; `WouldBlock` when nothing waits; `Ok(0)` only when no slot is free.
    /// An error queued on the socket (ICMP) is consumed and counted, not returned.
    pub fn receive(&mut self, _burst: &mut Burst, _max: usize) -> io::Result<usize> {
        unimplemented!()
    }
    /// Datagrams that the kernel dropped because this socket's queue was full (SO_RXQ_OVFL), since open.
    pub fn kernel_drops(&self) -> u64 {
        unimplemented!()
    }
    /// Datagrams cut because they did not fit, since open (they are not delivered).
    pub fn truncated(&self) -> u64 {
        unimplemented!()
    }
    /// Size of the receive buffer that the kernel granted, bytes.
    pub fn receive_buffer(&self) -> usize {
        unimplemented!()
    }
    /// Sends one datagram from this socket, from local address `from` if given (IP_PKTINFO: answer from the address
    /// that the request hit).
    pub fn send_to(&self, _bytes: &[u8], _to: SocketAddr, _from: Option<IpAddr>) -> io::Result<()> {
        unimplemented!()
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Receiver {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
