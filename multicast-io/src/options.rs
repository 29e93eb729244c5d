//! What a socket is opened with, and what can go wrong.

use crate::Interface;
use std::net::SocketAddr;

/// Options of a socket; defaults are those of a plain unicast receiver.
#[derive(Clone, Debug)]
pub struct SocketOptions {
    pub bind: SocketAddr,
    /// Multicast leaves by this interface and joins default to it.
    pub interface: Option<Interface>,
    pub reuse_port: bool,
    pub reuse_address: bool,
    /// SO_RCVBUF wish in bytes; SO_RCVBUFFORCE is tried first. What was got is readable afterwards.
    pub receive_buffer: Option<usize>,
    pub send_buffer: Option<usize>,
    pub hop_limit: u8,
    /// Loop own multicast back to this host.
    pub loopback: bool,
    pub gro: bool,
    pub gso: bool,
    /// Report the destination address of each datagram.
    pub packet_info: bool,
    /// IPV6_V6ONLY off: an IPv6 wildcard socket takes IPv4 too (sources appear as mapped addresses).
    pub dual_stack: bool,
}

impl SocketOptions {
    pub fn new(bind: SocketAddr) -> SocketOptions {
        SocketOptions {
            bind,
            interface: None,
            reuse_port: false,
            reuse_address: false,
            receive_buffer: None,
            send_buffer: None,
            hop_limit: 1,
            loopback: false,
            gro: true,
            gso: true,
            packet_info: false,
            dual_stack: false,
        }
    }
}

/// An operation on a socket that failed: which, on what, and the knob that changes it.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {subject}: {source}{hint}")]
pub struct SocketError {
    /// For example `bind`, `join`.
    pub operation: &'static str,
    /// Address, group or interface.
    pub subject: String,
    pub source: std::io::Error,
    /// Empty, or ` (raise sysctl net.core.optmem_max, now 20480)` and the like.
    pub hint: String,
}
