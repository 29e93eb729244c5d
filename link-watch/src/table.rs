//! The interfaces and addresses as they are now: a table to which events are applied. Pure.
//!
//! An event says all that there is to say about one link or one address, so that an event that was also part of a dump changes
//! nothing.

use std::net::IpAddr;

/// What an address can be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressState {
    /// For everything.
    Preferred,
    /// For what uses it already; the kernel prefers others for what is new.
    Deprecated,
    /// Not yet: the kernel looks whether somebody else has it.
    Tentative,
    /// Never: somebody else has it.
    Duplicate,
}

/// An address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// What it can be used for.
    pub state: AddressState,
}

impl Address {
    /// Datagrams can leave from it and come to it.
    pub fn is_usable(&self) -> bool {
        matches!(self.state, AddressState::Preferred | AddressState::Deprecated)
    }
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number: an interface that is made again gets another one.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// It was switched on.
    pub up: bool,
    /// It is switched on, has a carrier, and takes packets.
    pub carrier: bool,
    /// It can send to groups.
    pub multicast: bool,
    /// It is `lo`.
    pub is_loopback: bool,
    /// Longest IP packet, bytes.
    pub mtu: u32,
    /// How often it lost its carrier so far.
    pub losses: u32,
    /// Its addresses, in the order in which the kernel told them.
    pub addresses: Vec<Address>,
}

impl Link {
    /// Addresses of one family that can be used: global ones before those of the link, preferred ones before deprecated ones.
    pub fn usable(&self, v4: bool) -> impl Iterator<Item = IpAddr> + '_ {
        let rank = |address: &Address| {
            let of_link = match address.ip {
                IpAddr::V4(ip) => ip.is_link_local(),
                IpAddr::V6(ip) => ip.is_unicast_link_local(),
            };
            (of_link, address.state == AddressState::Deprecated)
        };
        let mut all: Vec<_> =
            self.addresses.iter().filter(|a| a.ip.is_ipv4() == v4 && a.is_usable()).collect();
        all.sort_by_key(|address| rank(address));
        all.into_iter().map(|address| address.ip)
    }

    /// The address, whatever it can be used for.
    pub fn address(&self, ip: IpAddr) -> Option<&Address> {
        self.addresses.iter().find(|address| address.ip == ip)
    }
}

/// Something that the kernel told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A link is there, or changed. Its addresses are told apart.
    Link(Link),
    /// The link with this index is gone.
    LinkGone(u32),
    /// An address of the link with this index is there, or changed.
    Address(u32, Address),
    /// An address of the link with this index is gone.
    AddressGone(u32, IpAddr),
}

/// All links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    links: Vec<Link>,
}

impl Links {
    /// Applies an event. `true`: something is different now.
    pub fn apply(&mut self, event: Event) -> bool {
        match event {
            Event::Link(link) => self.put(link),
            Event::LinkGone(index) => {
                let before = self.links.len();
                self.links.retain(|link| link.index != index);
                self.links.len() != before
            }
            Event::Address(index, address) => {
                let Some(link) = self.by_index_mut(index) else { return false };
                match link.addresses.iter_mut().find(|known| known.ip == address.ip) {
                    Some(known) if *known == address => false,
                    Some(known) => {
                        *known = address;
                        true
                    }
                    None => {
                        link.addresses.push(address);
                        true
                    }
                }
            }
            Event::AddressGone(index, ip) => {
                let Some(link) = self.by_index_mut(index) else { return false };
                let before = link.addresses.len();
                link.addresses.retain(|address| address.ip != ip);
                link.addresses.len() != before
            }
        }
    }

    fn put(&mut self, new: Link) -> bool {
        let Some(known) = self.by_index_mut(new.index) else {
            self.links.push(new);
            return true;
        };
        // A kernel that does not count tells at least that it is gone now.
        let lost = u32::from(known.carrier && !new.carrier);
        let losses = new.losses.max(known.losses.saturating_add(if new.losses == 0 { lost } else { 0 }));
        let new = Link { losses, addresses: std::mem::take(&mut known.addresses), ..new };
        let changed = Link { addresses: Vec::new(), ..new.clone() } != *known;
        *known = new;
        changed
    }

    fn by_index_mut(&mut self, index: u32) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.index == index)
    }

    /// All of them, in the order in which the kernel told them.
    pub fn iter(&self) -> impl Iterator<Item = &Link> {
        self.links.iter()
    }

    /// The link that has this name now.
    pub fn by_name(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The link with this index.
    pub fn by_index(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// The link that has this address.
    pub fn with_address(&self, ip: IpAddr) -> Option<&Link> {
        self.links.iter().find(|link| link.address(ip).is_some())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.to_owned(),
            up: true,
            carrier: true,
            multicast: true,
            is_loopback: false,
            mtu: 1500,
            losses: 0,
            addresses: Vec::new(),
        }
    }

    pub(crate) fn address(ip: &str, state: AddressState) -> Address {
        Address { ip: ip.parse().unwrap(), state }
    }

    #[test]
    fn what_was_told_before_changes_nothing() {
        let mut links = Links::default();
        let tentative = address("fd10::1", AddressState::Tentative);
        assert!(links.apply(Event::Link(link(2, "eth0"))));
        assert!(links.apply(Event::Address(2, tentative)));
        assert!(!links.apply(Event::Link(link(2, "eth0"))), "a link without addresses keeps them");
        assert!(!links.apply(Event::Address(2, tentative)));
        assert_eq!(links.by_name("eth0").unwrap().addresses, [tentative]);
        assert!(links.apply(Event::Address(2, address("fd10::1", AddressState::Preferred))));
        assert!(links.apply(Event::AddressGone(2, tentative.ip)));
        assert!(!links.apply(Event::AddressGone(2, tentative.ip)));
        assert!(links.apply(Event::LinkGone(2)));
        assert!(!links.apply(Event::Address(2, tentative)), "news about a link that is gone");
        assert!(links.by_name("eth0").is_none());
    }

    #[test]
    fn a_link_that_is_made_again_is_another_link() {
        let mut links = Links::default();
        links.apply(Event::Link(link(2, "eth0")));
        links.apply(Event::LinkGone(2));
        links.apply(Event::Link(link(7, "eth0")));
        assert_eq!(links.by_name("eth0").unwrap().index, 7);
        links.apply(Event::Link(link(7, "lan0")));
        assert!(links.by_name("eth0").is_none(), "renamed");
    }

    #[test]
    fn a_lost_carrier_is_counted_also_where_it_came_back_before_anybody_looked() {
        let mut links = Links::default();
        links.apply(Event::Link(Link { losses: 3, ..link(2, "eth0") }));
        assert!(links.apply(Event::Link(Link { losses: 4, ..link(2, "eth0") })));
        assert_eq!(links.by_index(2).unwrap().losses, 4);
        // A kernel that does not count.
        links.apply(Event::Link(link(3, "eth1")));
        links.apply(Event::Link(Link { carrier: false, ..link(3, "eth1") }));
        links.apply(Event::Link(link(3, "eth1")));
        assert_eq!(links.by_index(3).unwrap().losses, 1);
    }

    #[test]
    fn usable_addresses_begin_with_the_best() {
        let mut links = Links::default();
        links.apply(Event::Link(link(2, "eth0")));
        for (ip, state) in [
            ("fe80::1", AddressState::Preferred),
            ("fd10::9", AddressState::Tentative),
            ("fd10::2", AddressState::Deprecated),
            ("fd10::1", AddressState::Preferred),
            ("10.0.0.1", AddressState::Preferred),
        ] {
            links.apply(Event::Address(2, address(ip, state)));
        }
        let usable: Vec<_> = links.by_name("eth0").unwrap().usable(false).map(|ip| ip.to_string()).collect();
        assert_eq!(usable, ["fd10::1", "fd10::2", "fe80::1"]);
    }
}
