//! What a socket is opened with.

use crate::Interface;
use std::net::SocketAddr;

/// Who else may have a unicast port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PortUse {
    /// Nobody.
    #[default]
    Alone,
    /// Nobody had it before; later sockets of the same user that say `Shared` may. The kernel binds alone and is told only
    /// afterwards to share (SO_REUSEPORT), so of two processes that begin at once one is refused.
    First,
    /// Whoever has it as `First` or `Shared`. Unicast is spread over all of them, multicast is not.
    Shared,
}

impl PortUse {
    /// For the socket `index` of several on one port. `joins`: the first of them may join those of another process.
    pub fn of(index: usize, joins: bool) -> PortUse {
        if index == 0 && !joins { PortUse::First } else { PortUse::Shared }
    }
}

/// Options of a socket; defaults are those of a plain unicast receiver.
///
/// Always set, whatever the options say: non-blocking; `IP(V6)_MULTICAST_ALL` off (a socket takes only the groups that
/// it joined itself); except on control sockets `IP(V6)_RECVERR` on (a send that a queue refused is an error). IPv4
/// datagrams leave without DF, since no router reports a multicast datagram that was too long for it; IPv6 ones are cut only by the sender, by what
/// it knows of the path. A datagram longer than the MTU leaves in IP fragments.
#[derive(Clone, Debug)]
pub struct SocketOptions {
    /// Local address. A group address is allowed (the socket then takes nothing but that group); a unicast address
    /// becomes the source of what is sent.
    pub bind: SocketAddr,
    /// Multicast leaves by this interface and joins default to it.
    pub interface: Option<Interface>,
    /// Take only what arrives by `interface` (SO_BINDTODEVICE). Without it an IPv6 socket that joined a group there also takes
    /// the group from interfaces where another socket of the host joined it. Kernels before 5.7 want CAP_NET_RAW: where
    /// it is refused the socket says so in its warnings and is otherwise as without.
    pub only_interface: bool,
    /// Who else may have the port, as far as unicast goes.
    pub port_use: PortUse,
    /// SO_REUSEADDR: several sockets may bind a group's port.
    pub reuse_address: bool,
    /// SO_RCVBUF wish in bytes; SO_RCVBUFFORCE is tried first. What was got is readable afterwards.
    pub receive_buffer: Option<usize>,
    /// SO_SNDBUF wish in bytes; SO_SNDBUFFORCE is tried first.
    pub send_buffer: Option<usize>,
    /// Hop limit (TTL) of multicast. Unicast keeps the system's.
    pub hop_limit: u8,
    /// Loop own multicast back to this host.
    pub loopback: bool,
    /// Take trains from the kernel whole and split them here (`UDP_GRO`).
    pub gro: bool,
    /// Hand trains to the kernel whole (`UDP_SEGMENT`).
    pub gso: bool,
    /// Report the destination address of each datagram.
    pub packet_info: bool,
    /// IPV6_V6ONLY off: an IPv6 wildcard socket takes IPv4 too (sources appear as mapped addresses).
    pub dual_stack: bool,
}

impl SocketOptions {
    /// Hop limit 1, no multicast loopback, GRO and GSO allowed, all else off.
    pub fn new(bind: SocketAddr) -> SocketOptions {
        SocketOptions {
            bind,
            interface: None,
            only_interface: false,
            port_use: PortUse::Alone,
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
