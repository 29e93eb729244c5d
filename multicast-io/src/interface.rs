//! Network interfaces by name.

use crate::address::{ip_v4, ip_v6};
use crate::{SocketError, sockopt};
use std::ffi::CStr;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

/// An interface as it was when it was looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Name, for example `eth0`.
    pub name: String,
    /// Kernel index, never 0.
    pub index: u32,
    /// IPv4 addresses, in the kernel's order.
    pub v4: Vec<Ipv4Addr>,
    /// IPv6 addresses, in the kernel's order.
    pub v6: Vec<Ipv6Addr>,
    /// Longest IP packet, bytes.
    pub mtu: u32,
    /// True for `lo`.
    pub is_loopback: bool,
}

impl Interface {
    /// The error lists the interfaces that exist.
    pub fn by_name(name: &str) -> Result<Interface, SocketError> {
        let all = Interface::all()?;
        let names: Vec<&str> = all.iter().map(|interface| interface.name.as_str()).collect();
        let hint = format!(" (interfaces here: {})", names.join(", "));
        all.iter().find(|interface| interface.name == name).cloned().ok_or_else(|| SocketError {
            operation: "interface",
            subject: name.to_owned(),
            cause: io::Error::from_raw_os_error(libc::ENODEV),
            hint,
        })
    }

    /// All interfaces of this network namespace, in the kernel's order.
    pub fn all() -> Result<Vec<Interface>, SocketError> {
        read_all().map_err(|cause| SocketError {
            operation: "list",
            subject: "network interfaces".to_owned(),
            cause,
            hint: String::new(),
        })
    }

    /// First IPv6 address that is not link-local, else link-local.
    pub fn preferred_v6(&self) -> Option<Ipv6Addr> {
        let global = self.v6.iter().find(|address| !address.is_unicast_link_local());
        global.or(self.v6.first()).copied()
    }
}

/// The list that `getifaddrs` allocated, freed on drop.
struct List(*mut libc::ifaddrs);

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `getifaddrs` and is freed once.
        unsafe { libc::freeifaddrs(self.0) }
    }
}

fn read_all() -> io::Result<Vec<Interface>> {
    let mut first = std::ptr::null_mut();
    // SAFETY: `first` lives through the call.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let list = List(first);
    // Any datagram socket serves for the ioctls.
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::DGRAM, None)?;
    let mut all: Vec<Interface> = Vec::new();
    let mut next = list.0;
    // SAFETY: each node is null or a valid `ifaddrs` until `list` is dropped.
    while let Some(node) = unsafe { next.as_ref() } {
        next = node.ifa_next;
        // SAFETY: the kernel's names are C strings that live as long as the list.
        let Ok(name) = unsafe { CStr::from_ptr(node.ifa_name) }.to_str() else { continue };
        let position = all.iter().position(|interface| interface.name == name);
        let interface = match position {
            Some(position) => &mut all[position],
            // An interface may vanish between the calls: leave it out.
            None => match describe(&socket, name, node.ifa_flags) {
                Ok(interface) => all.push_mut(interface),
                Err(_) => continue,
            },
        };
        // SAFETY: null or a valid socket address of the family it names, as long as the list lives.
        unsafe { add_address(interface, node.ifa_addr) };
    }
    Ok(all)
}

fn describe(socket: &socket2::Socket, name: &str, flags: libc::c_uint) -> io::Result<Interface> {
    let fd = std::os::fd::AsFd::as_fd(socket);
    // SAFETY: both requests fill the named member of the union with an int.
    let (index, mtu) = unsafe {
        (
            request(fd, name, libc::SIOCGIFINDEX)?.ifr_ifru.ifru_ifindex,
            request(fd, name, libc::SIOCGIFMTU)?.ifr_ifru.ifru_mtu,
        )
    };
    Ok(Interface {
        name: name.to_owned(),
        index: index.unsigned_abs(),
        v4: Vec::new(),
        v6: Vec::new(),
        mtu: mtu.unsigned_abs(),
        is_loopback: flags & libc::IFF_LOOPBACK.unsigned_abs() != 0,
    })
}

/// # Safety
/// `address` is null or points to a socket address of the family it names.
unsafe fn add_address(interface: &mut Interface, address: *const libc::sockaddr) {
    if address.is_null() {
        return;
    }
    // SAFETY: by the contract of this function; unaligned reads make no further claim.
    unsafe {
        match libc::c_int::from(address.read_unaligned().sa_family) {
            libc::AF_INET => {
                interface.v4.push(ip_v4(address.cast::<libc::sockaddr_in>().read_unaligned().sin_addr));
            }
            libc::AF_INET6 => {
                interface.v6.push(ip_v6(address.cast::<libc::sockaddr_in6>().read_unaligned().sin6_addr));
            }
            _ => {}
        }
    }
}

/// An `ifreq` for `name`, zero elsewhere.
pub(crate) fn named_request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: integers and bytes only; all zeros is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte.cast_signed() as libc::c_char;
    }
    Ok(request)
}

/// One of the `SIOCGIF*` requests about `name`.
fn request(fd: BorrowedFd<'_>, name: &str, code: libc::c_ulong) -> io::Result<libc::ifreq> {
    let mut request = named_request(name)?;
    let _: libc::socklen_t = sockopt::length_of::<libc::ifreq>();
    // SAFETY: the `SIOCGIF*` requests read and write one `ifreq`, which lives through the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), code as _, &raw mut request) };
    if result == 0 { Ok(request) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_found_with_its_address() {
        let lo = Interface::by_name("lo").unwrap();
        assert!(lo.is_loopback && lo.index > 0 && lo.mtu >= 1280);
        assert!(lo.v4.contains(&Ipv4Addr::LOCALHOST));
    }

    #[test]
    fn an_unknown_name_lists_those_that_exist() {
        let error = Interface::by_name("nosuch0").unwrap_err().to_string();
        assert!(error.contains("nosuch0") && error.contains("lo"), "{error}");
    }

    #[test]
    fn a_global_address_is_preferred_to_a_link_local_one() {
        let local: Ipv6Addr = "fe80::1".parse().unwrap();
        let global: Ipv6Addr = "2001:db8::1".parse().unwrap();
        let mut interface = Interface::by_name("lo").unwrap();
        interface.v6 = vec![local, global];
        assert_eq!(interface.preferred_v6(), Some(global));
        interface.v6 = vec![local];
        assert_eq!(interface.preferred_v6(), Some(local));
    }
}
