//! Unicast ports: each belongs to one process, and whoever finds one taken is told by whom.
//!
//! The kernel is the lock. The first socket on a port binds alone and shares only afterwards ([`PortUse::First`]); the other
//! workers' sockets share with it. So a second process is refused, whatever it is, also one that begins at the same moment. A
//! planned hand-over is the exception that has to be asked for: with `--take-over` also the first socket shares.
//!
//! A role puts up a *sign* for each of its ports: an abstract unix socket whose name says role, instance and pid. It vanishes
//! with the process, and everybody in the network namespace can read it, where `/proc/PID` may be hidden. A sign is a hint for
//! messages and for `--check`; nothing else believes it.

use multicast_io::{PortUse, SocketError};
use socket2::{Domain, Protocol as Kind, Socket, Type};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};

/// Longest name of an abstract socket (unix(7): 108 bytes with the leading zero).
const LONGEST_NAME: usize = 107;

/// What a port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Datagrams.
    Udp,
    /// Connections.
    Tcp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Udp => "UDP",
            Protocol::Tcp => "TCP",
        })
    }
}

/// A unicast port of a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// The option that names it, with its dashes.
    pub option: &'static str,
    /// What it is for.
    pub protocol: Protocol,
    /// Where it is bound; port 0 is any, which nobody can hold.
    pub address: SocketAddr,
}

/// Who runs: what a sign says besides the port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// `proxy`, `listener`, `retry`.
    pub role: String,
    /// The instance's name, as far as it fits.
    pub instance: String,
}

impl Owner {
    /// As a sign can say it: without blanks and control characters, not too long.
    pub fn new(role: &str, instance: &str) -> Owner {
        let plain = |c: char| if c.is_ascii_graphic() { c } else { '_' };
        Owner { role: role.to_owned(), instance: instance.chars().map(plain).take(56).collect() }
    }
}

/// Who has a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A role of this program, by its sign.
    Role {
        /// Which.
        owner: Owner,
        /// Its process.
        pid: u32,
    },
    /// Another process.
    Process {
        /// Its process.
        pid: u32,
        /// Name of its program.
        name: String,
    },
    /// A process of this user whose descriptors cannot be read.
    Hidden {
        /// The user.
        uid: u32,
    },
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Role { owner: Owner { role, instance }, pid } => {
                write!(f, "oncecast {role} \"{instance}\" (pid {pid})")
            }
            Holder::Process { pid, name } => write!(f, "{name} (pid {pid})"),
            Holder::Hidden { uid } => {
                write!(f, "a process of user {uid} (its pid is not readable from here)")
            }
        }
    }
}

/// A port that this process may not have.
#[derive(Debug, thiserror::Error)]
#[error("{option}: cannot listen on {address} ({protocol}): taken by {}{advice}", WhoeverElse(holder))]
pub struct PortTaken {
    option: &'static str,
    protocol: Protocol,
    address: SocketAddr,
    holder: Option<Holder>,
    advice: &'static str,
}

struct WhoeverElse<'a>(&'a Option<Holder>);

impl fmt::Display for WhoeverElse<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(holder) => holder.fmt(f),
            None => f.write_str("another process"),
        }
    }
}

impl Port {
    /// The error about a port that the kernel refused because it is taken. `take_over`: this process asked to share it.
    pub fn taken(&self, take_over: bool) -> PortTaken {
        let Port { option, protocol, address } = *self;
        let holder = self.holder();
        let advice = match &holder {
            _ if take_over => {
                ", which does not share it with this user; stop that first, or take another port"
            }
            Some(Holder::Process { name, .. }) if name != "oncecast" => "; stop that, or take another port",
            _ => "; stop that, or take another port. For a planned hand-over start this one with --take-over",
        };
        PortTaken { option, protocol, address, holder, advice }
    }

    /// What to say where it could not be opened: who has it, if somebody has. `take_over`: as [`Port::taken`].
    pub fn refused(&self, error: io::Error, take_over: bool) -> anyhow::Error {
        let Port { option, protocol, address } = self;
        if error.kind() == io::ErrorKind::AddrInUse {
            return self.taken(take_over).into();
        }
        anyhow::Error::new(error).context(format!("{option}: cannot listen on {address} ({protocol})"))
    }

    /// As [`Port::refused`], of a socket of the fabric.
    pub fn refused_socket(&self, error: SocketError, take_over: bool) -> anyhow::Error {
        match error.cause.kind() {
            io::ErrorKind::AddrInUse => self.taken(take_over).into(),
            _ => anyhow::Error::new(error).context(self.option),
        }
    }

    /// Who has it now, as far as can be seen; `None`: nobody.
    pub fn holder(&self) -> Option<Holder> {
        if self.address.port() == 0 {
            return None;
        }
        let (inode, uid) = self.entries().into_iter().next()?;
        if let Some(holder) = self.sign() {
            return Some(holder);
        }
        Some(process_with(inode).unwrap_or(Holder::Hidden { uid }))
    }

    /// Binds it for a moment, as the first socket would.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn probe(&self) -> io::Result<()> {
        let socket = open(self)?;
        // Alone for a UDP port. Old connections of a TCP port are no obstacle; a listening socket is.
        socket.set_reuse_address(self.protocol == Protocol::Tcp)?;
        socket.bind(&self.address.into())
    }

    /// Inode and user of the sockets that are in the way, as the kernel lists them.
    fn entries(&self) -> Vec<(u64, u32)> {
        let names = match self.protocol {
            Protocol::Udp => ["/proc/net/udp", "/proc/net/udp6"],
            Protocol::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
        };
        let read = |name: &&str| std::fs::read_to_string(name).unwrap_or_default();
        let all: Vec<String> = names.iter().map(read).collect();
        all.iter().flat_map(|table| entries(table, self.protocol, self.address)).collect()
    }

    fn sign(&self) -> Option<Holder> {
        let table = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
        table.lines().find_map(|line| read_sign(line, self.protocol, self.address.port()))
    }
}

/// A TCP socket that listens. `port_use`: as for UDP.
///
/// # Errors
/// What the kernel says.
pub fn listen(port: &Port, port_use: PortUse, queue: i32) -> io::Result<TcpListener> {
    let socket = open(port)?;
    socket.set_reuse_port(port_use == PortUse::Shared)?;
    // Connections of a process that has ended are no obstacle.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&port.address.into())?;
    socket.listen(queue)?;
    if port_use == PortUse::First {
        socket.set_reuse_port(true)?;
    }
    Ok(socket.into())
}

fn open(port: &Port) -> io::Result<Socket> {
    let domain = Domain::for_address(port.address);
    let socket = match port.protocol {
        Protocol::Udp => Socket::new(domain, Type::DGRAM, Some(Kind::UDP))?,
        Protocol::Tcp => Socket::new(domain, Type::STREAM, Some(Kind::TCP))?,
    };
    if port.address.is_ipv6() {
        socket.set_only_v6(!port.address.ip().is_unspecified())?;
    }
    Ok(socket)
}

/// A sign that stands as long as this lives.
#[derive(Debug)]
pub struct Sign {
    _socket: Option<UnixDatagram>,
}

impl Sign {
    /// Puts it up. Where that cannot be (no unix sockets here), messages about the port say less.
    pub fn put(port: &Port, owner: &Owner) -> Sign {
        let name = sign_text(port.protocol, port.address.port(), std::process::id(), owner);
        let bind = |name: &str| UnixDatagram::bind_addr(&UnixAddr::from_abstract_name(name)?);
        Sign { _socket: bind(&name).ok() }
    }
}

fn sign_text(protocol: Protocol, port: u16, pid: u32, Owner { role, instance }: &Owner) -> String {
    let mut text = format!("oncecast {protocol} {port} pid {pid} {role} {instance}");
    // ASCII alone, so a character is a byte.
    text.truncate(LONGEST_NAME);
    text
}

/// The sign in a line of `/proc/net/unix`.
fn read_sign(line: &str, protocol: Protocol, port: u16) -> Option<Holder> {
    let (_, rest) = line.split_once(&format!("@oncecast {protocol} {port} pid "))?;
    let mut words = rest.split(' ');
    let pid = words.next()?.parse().ok()?;
    let (role, instance) = (words.next()?.to_owned(), words.next()?.to_owned());
    Some(Holder::Role { owner: Owner { role, instance }, pid })
}

/// (inode, user) of each socket of a table that nobody else could bind `address` beside.
fn entries(table: &str, protocol: Protocol, address: SocketAddr) -> Vec<(u64, u32)> {
    /// A TCP socket that listens.
    const LISTENS: &str = "0A";
    let in_the_way = |line: &&str| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, state) = (fields.next().and_then(local_address), fields.nth(1));
        local.is_some_and(|(ip, port)| port == address.port() && overlap(ip, address.ip()))
            && (protocol == Protocol::Udp || state == Some(LISTENS))
    };
    let entry = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        Some((fields.get(9)?.parse().ok()?, fields.get(7)?.parse().ok()?))
    };
    table.lines().skip(1).filter(in_the_way).filter_map(entry).collect()
}

/// `0100007F:2215`, words of 32 bits in the machine's order.
fn local_address(text: &str) -> Option<(IpAddr, u16)> {
    let (ip, port) = text.split_once(':')?;
    let words: Option<Vec<[u8; 4]>> = (0..ip.len() / 8)
        .map(|word| Some(u32::from_str_radix(ip.get(word * 8..word * 8 + 8)?, 16).ok()?.to_ne_bytes()))
        .collect();
    let ip = match words?.as_slice() {
        [v4] => IpAddr::V4(Ipv4Addr::from(*v4)),
        [a, b, c, d] => {
            let mut octets = [0; 16];
            for (place, byte) in octets.iter_mut().zip([a, b, c, d].into_iter().flatten()) {
                *place = *byte;
            }
            Ipv6Addr::from(octets).to_canonical()
        }
        _ => return None,
    };
    Some((ip, u16::from_str_radix(port, 16).ok()?))
}

/// Whether the kernel would not bind both; a wildcard of IPv6 takes IPv4 too.
fn overlap(one: IpAddr, other: IpAddr) -> bool {
    let takes =
        |wildcard: IpAddr, ip: IpAddr| wildcard.is_unspecified() && (wildcard.is_ipv6() || ip.is_ipv4());
    // A socket that is bound to a group takes nothing else.
    !one.is_multicast() && (one == other || takes(one, other) || takes(other, one))
}

/// The process that has this socket open, if this user may look.
fn process_with(inode: u64) -> Option<Holder> {
    let link = format!("socket:[{inode}]");
    let pids =
        std::fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let has = |pid: &u32| {
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        fds.filter_map(|fd| std::fs::read_link(fd.path()).ok())
            .any(|target| target.as_os_str() == link.as_str())
    };
    let pid = pids.into_iter().find(has)?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(Holder::Process { pid, name: name.trim().to_owned() })
}

/// The port of `--metrics-addr`.
pub(crate) fn admin_port(address: SocketAddr) -> Port {
    Port { option: "--metrics-addr", protocol: Protocol::Tcp, address }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    const UDP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref\n\
        1: 0100007F:2215 00000000:0000 07 00000000:00000000 00:00000000 00000000  1000        0 4242 2 0 0\n";

    fn port(protocol: Protocol, address: &str) -> Port {
        Port { option: "--udp-listen-port", protocol, address: address.parse().unwrap() }
    }

    #[test]
    fn sockets_in_the_way_are_those_whose_address_overlaps() {
        if cfg!(target_endian = "big") {
            return;
        }
        let found = |address: &str| entries(UDP, Protocol::Udp, address.parse().unwrap());
        for address in ["127.0.0.1:8725", "0.0.0.0:8725", "[::]:8725"] {
            assert_eq!(found(address), [(4242, 1000)], "{address}");
        }
        for address in ["127.0.0.2:8725", "[::1]:8725", "0.0.0.0:8726"] {
            assert_eq!(found(address), [], "{address}");
        }
        assert_eq!(entries(UDP, Protocol::Tcp, "0.0.0.0:8725".parse().unwrap()), [], "it does not listen");
        let loopback = local_address("00000000000000000000000001000000:0001");
        assert_eq!(loopback, Some((IpAddr::V6(Ipv6Addr::LOCALHOST), 1)));
        let group = "239.1.2.3".parse().unwrap();
        assert!(!overlap(group, IpAddr::V6(Ipv6Addr::UNSPECIFIED)), "groups stay shared");
    }

    #[test]
    fn a_sign_says_who_has_a_port_until_it_is_taken_down() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = Port { address: socket.local_addr().unwrap(), ..port(Protocol::Udp, "127.0.0.1:0") };
        let pid = std::process::id();
        let Some(Holder::Process { pid: seen, .. }) = port.holder() else { panic!("{:?}", port.holder()) };
        assert_eq!(seen, pid, "without a sign /proc says it");
        let owner = Owner::new("proxy", "host a\n");
        let sign = Sign::put(&port, &owner);
        assert_eq!(port.holder(), Some(Holder::Role { owner, pid }));
        let text = port.taken(false).to_string();
        assert!(text.contains(&format!("oncecast proxy \"host_a_\" (pid {pid})")), "{text}");
        assert!(text.starts_with("--udp-listen-port: ") && text.ends_with("with --take-over"), "{text}");
        drop(sign);
        assert!(matches!(port.holder(), Some(Holder::Process { .. })));
        drop(socket);
        assert_eq!(port.holder(), None);
    }

    #[test]
    fn the_longest_name_still_fits_a_sign() {
        let owner = Owner::new("listener", &"x".repeat(300));
        let text = sign_text(Protocol::Udp, 65_535, u32::MAX, &owner);
        let read = read_sign(&format!("0: 2 0 0 2 1 9 @{text}"), Protocol::Udp, 65_535);
        assert_eq!(read, Some(Holder::Role { owner, pid: u32::MAX }));
    }

    #[test]
    fn workers_share_a_tcp_port_that_nobody_else_gets() {
        let any = port(Protocol::Tcp, "127.0.0.1:0");
        let first = listen(&any, PortUse::First, 8).unwrap();
        let port = Port { address: first.local_addr().unwrap(), ..any };
        let second = listen(&port, PortUse::Shared, 8).unwrap();
        assert_eq!(second.local_addr().unwrap(), port.address);
        for refused in [port.probe(), listen(&port, PortUse::First, 8).map(drop)] {
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        }
        drop((first, second));
        port.probe().unwrap();
    }
}
