//! Socket addresses between Rust and the kernel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// The address that means any of its family.
pub const fn wildcard(v4: bool) -> IpAddr {
    if v4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) }
}

/// Room for an IPv4 or IPv6 socket address: a quarter of `sockaddr_storage`, so that a batch stays in the cache.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) union RawAddress {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

const FAMILY_V4: libc::sa_family_t = family(libc::AF_INET);
const FAMILY_V6: libc::sa_family_t = family(libc::AF_INET6);

/// An address family as socket addresses hold it.
pub(crate) const fn family(number: libc::c_int) -> libc::sa_family_t {
    assert!(0 <= number && number <= 0xff);
    #[allow(clippy::cast_possible_truncation, reason = "bounded by the assertion above")]
    let family = number as libc::sa_family_t;
    family
}

impl RawAddress {
    pub(crate) const ROOM: libc::socklen_t = crate::sockopt::length_of::<RawAddress>();

    pub(crate) fn unset() -> RawAddress {
        // SAFETY: integers only; all zeros is a value of each member.
        unsafe { std::mem::zeroed() }
    }

    /// The kernel's form and its length.
    pub(crate) fn new(address: SocketAddr) -> (RawAddress, libc::socklen_t) {
        let mut raw = RawAddress::unset();
        match address {
            SocketAddr::V4(v4) => {
                raw.v4 = libc::sockaddr_in {
                    sin_family: FAMILY_V4,
                    sin_port: v4.port().to_be(),
                    sin_addr: raw_v4(*v4.ip()),
                    sin_zero: [0; 8],
                };
                (raw, crate::sockopt::length_of::<libc::sockaddr_in>())
            }
            SocketAddr::V6(v6) => {
                raw.v6 = libc::sockaddr_in6 {
                    sin6_family: FAMILY_V6,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: raw_v6(*v6.ip()),
                    sin6_scope_id: v6.scope_id(),
                };
                (raw, crate::sockopt::length_of::<libc::sockaddr_in6>())
            }
        }
    }

    /// What the kernel wrote; `None` for a family that is not IP (or nothing written).
    pub(crate) fn get(&self) -> Option<SocketAddr> {
        // SAFETY: every member starts with the family, all bytes are initialised (`unset`), and all bit patterns of the
        // members are values.
        unsafe {
            match self.family {
                FAMILY_V4 => Some(SocketAddr::V4(SocketAddrV4::new(
                    ip_v4(self.v4.sin_addr),
                    u16::from_be(self.v4.sin_port),
                ))),
                FAMILY_V6 => Some(SocketAddr::V6(SocketAddrV6::new(
                    ip_v6(self.v6.sin6_addr),
                    u16::from_be(self.v6.sin6_port),
                    self.v6.sin6_flowinfo,
                    self.v6.sin6_scope_id,
                ))),
                _ => None,
            }
        }
    }
}

pub(crate) fn raw_v4(address: Ipv4Addr) -> libc::in_addr {
    libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) }
}

pub(crate) fn raw_v6(address: Ipv6Addr) -> libc::in6_addr {
    libc::in6_addr { s6_addr: address.octets() }
}

pub(crate) fn ip_v4(raw: libc::in_addr) -> Ipv4Addr {
    Ipv4Addr::from(raw.s_addr.to_ne_bytes())
}

pub(crate) fn ip_v6(raw: libc::in6_addr) -> Ipv6Addr {
    Ipv6Addr::from(raw.s6_addr)
}

/// A group or source as the `MCAST_*` options take it (port 0).
pub(crate) fn storage(address: IpAddr) -> libc::sockaddr_storage {
    let (raw, _) = RawAddress::new(SocketAddr::new(address, 0));
    // SAFETY: all zeros is a value of `sockaddr_storage`.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    // SAFETY: both are larger than or as large as a `RawAddress`, do not overlap, and bytes are copied whole.
    unsafe {
        std::ptr::copy_nonoverlapping(
            (&raw const raw).cast::<u8>(),
            (&raw mut storage).cast::<u8>(),
            size_of::<RawAddress>(),
        );
    }
    storage
}
