//! What a role can do with a link: usable, or what it waits for. Pure.

use crate::table::{Address, AddressState, Link};
use std::fmt;
use std::net::IpAddr;

/// Family of the addresses that are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Of a fabric.
    pub fn of(v4: bool) -> Family {
        if v4 { Family::V4 } else { Family::V6 }
    }

    fn has(self, address: &Address) -> bool {
        address.ip.is_ipv4() == (self == Family::V4)
    }
}

/// What a role needs of an interface besides its carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    family: Family,
    /// This address and no other.
    source: Option<IpAddr>,
    /// It works without any address.
    or_none: bool,
}

impl Need {
    /// An address of this family, whichever.
    pub fn address_of(family: Family) -> Need {
        Need { family, source: None, or_none: false }
    }

    /// None; but an address that is there must be usable before it begins.
    pub fn none_of(family: Family) -> Need {
        Need { family, source: None, or_none: true }
    }

    /// The address that an operator named, or any where none was.
    pub fn from_source(self, source: Option<IpAddr>) -> Need {
        Need { source, ..self }
    }

    /// What can be done with the link; `None` is an interface that does not exist.
    pub fn standing(&self, link: Option<&Link>) -> Standing {
        let Some(link) = link else { return Standing::Missing };
        if !link.up {
            return Standing::Down;
        }
        if !link.carrier {
            return Standing::NoCarrier;
        }
        if !link.multicast && !link.is_loopback {
            return Standing::NoMulticast;
        }
        self.addresses(link)
    }

    fn addresses(&self, link: &Link) -> Standing {
        if let Some(source) = self.source {
            return match link.address(source).map(|address| address.state) {
                None => Standing::Gone(source),
                Some(AddressState::Tentative) => Standing::Tentative(source),
                Some(AddressState::Duplicate) => Standing::Duplicate(source),
                Some(AddressState::Preferred | AddressState::Deprecated) => Standing::Usable,
            };
        }
        let mine = || link.addresses.iter().filter(|address| self.family.has(address));
        let first = |state| mine().find(|address| address.state == state).map(|address| address.ip);
        if mine().any(Address::is_usable) {
            return Standing::Usable;
        }
        if let Some(ip) = first(AddressState::Tentative) {
            return Standing::Tentative(ip);
        }
        match first(AddressState::Duplicate) {
            Some(ip) => Standing::Duplicate(ip),
            None if self.or_none => Standing::Usable,
            None => Standing::NoAddress,
        }
    }

    /// As [`Need::standing`], for a start: while the kernel still looks at an address that is not the link's own, the better one
    /// may be yet to come.
    pub fn standing_at_start(&self, link: Option<&Link>) -> Standing {
        let standing = self.standing(link);
        let pending = link.into_iter().flat_map(|link| &link.addresses);
        let of_link = |ip| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        let mut pending =
            pending.filter(|a| self.family.has(a) && a.state == AddressState::Tentative && !of_link(a.ip));
        match pending.next() {
            Some(address) if standing == Standing::Usable && self.source.is_none() => {
                Standing::Tentative(address.ip)
            }
            _ => standing,
        }
    }
}

/// Where a link stands. Its text completes "eth0 …".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// All is there.
    Usable,
    /// No interface has the name.
    Missing,
    /// It was switched off.
    Down,
    /// Nothing is at the other end.
    NoCarrier,
    /// It cannot send to groups.
    NoMulticast,
    /// It has no address of the family.
    NoAddress,
    /// It has one, which the kernel still looks at.
    Tentative(IpAddr),
    /// It has one, which another host has too.
    Duplicate(IpAddr),
    /// The address that was asked for is not there.
    Gone(IpAddr),
}

impl fmt::Display for Standing {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Standing::Usable => write!(to, "is usable"),
            Standing::Missing => write!(to, "does not exist"),
            Standing::Down => write!(to, "is down"),
            Standing::NoCarrier => write!(to, "has no carrier"),
            Standing::NoMulticast => write!(to, "has multicast off"),
            Standing::NoAddress => write!(to, "has no address of the fabric's family"),
            Standing::Tentative(ip) => {
                write!(to, "waits for {ip}: the kernel looks whether another host has it")
            }
            Standing::Duplicate(ip) => write!(to, "cannot use {ip}: another host has it"),
            Standing::Gone(ip) => write!(to, "does not have the address {ip}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::{address, link};

    fn with(addresses: &[(&str, AddressState)]) -> Link {
        let addresses = addresses.iter().map(|(ip, state)| address(ip, *state)).collect();
        Link { addresses, ..link(2, "eth0") }
    }

    #[test]
    fn a_link_is_judged_from_the_outside_in() {
        let need = Need::address_of(Family::V6);
        let usable = with(&[("fd10::1", AddressState::Preferred)]);
        assert_eq!(need.standing(None), Standing::Missing);
        assert_eq!(need.standing(Some(&usable)), Standing::Usable);
        let no_carrier = Link { carrier: false, ..usable.clone() };
        assert_eq!(need.standing(Some(&no_carrier)), Standing::NoCarrier);
        assert_eq!(need.standing(Some(&Link { up: false, ..no_carrier })), Standing::Down);
        assert_eq!(need.standing(Some(&Link { multicast: false, ..usable })), Standing::NoMulticast);
    }

    #[test]
    fn an_address_is_needed_in_the_fabrics_family() {
        let v4_only = with(&[("10.0.0.1", AddressState::Preferred)]);
        assert_eq!(Need::address_of(Family::V6).standing(Some(&v4_only)), Standing::NoAddress);
        assert_eq!(Need::address_of(Family::V4).standing(Some(&v4_only)), Standing::Usable);
        assert_eq!(Need::none_of(Family::V6).standing(Some(&v4_only)), Standing::Usable);
    }

    #[test]
    fn a_tentative_address_is_waited_for() {
        let ip = "fd10::1".parse().unwrap();
        let tentative = with(&[("fd10::1", AddressState::Tentative)]);
        for need in [Need::address_of(Family::V6), Need::none_of(Family::V6)] {
            assert_eq!(need.standing(Some(&tentative)), Standing::Tentative(ip));
        }
        let failed = with(&[("fd10::1", AddressState::Duplicate)]);
        assert_eq!(Need::address_of(Family::V6).standing(Some(&failed)), Standing::Duplicate(ip));
        // A running role goes on with the one that works; one that starts waits for the better one.
        let both = with(&[("fe80::1", AddressState::Preferred), ("fd10::1", AddressState::Tentative)]);
        let need = Need::address_of(Family::V6);
        assert_eq!(need.standing(Some(&both)), Standing::Usable);
        assert_eq!(need.standing_at_start(Some(&both)), Standing::Tentative(ip));
        let other = with(&[("fe80::1", AddressState::Tentative), ("fd10::1", AddressState::Preferred)]);
        assert_eq!(
            need.standing_at_start(Some(&other)),
            Standing::Usable,
            "the kernel sends from the other one"
        );
    }

    #[test]
    fn an_address_that_was_named_cannot_be_replaced() {
        let ip = "fd10::1".parse().unwrap();
        let need = Need::address_of(Family::V6).from_source(Some(ip));
        let other = with(&[("fd10::2", AddressState::Preferred)]);
        assert_eq!(need.standing(Some(&other)), Standing::Gone(ip));
        assert_eq!(need.standing(Some(&other)).to_string(), "does not have the address fd10::1");
    }
}
