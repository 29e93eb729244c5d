//! Receivers of many groups: as many sockets as their joins need, and joins that can be made again.
//!
//! Why: a socket stays on one interface, and the kernel bounds what it may join (`joins`). Memberships also lapse in silence
//! when routes and interfaces change. So whoever holds a receiver for long asserts its joins now and then. That a join says
//! "already" proves nothing: where the interface was made again, the receiver must be opened again.
//!
//! Limits: 20 IPv4 joins a socket (the default of `net.ipv4.igmp_max_memberships`), for IPv6 what `net.core.optmem_max` pays
//! for, at most 2,000. Cost: one system call a join.

use crate::{Interface, Receiver, SocketError, SocketOptions, sysctl};
use std::net::IpAddr;
use std::time::Duration;

/// How often whoever holds a receiver asserts its joins.
pub const REJOIN: Duration = Duration::from_secs(30);

/// One group, from any source or from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The group.
    pub group: IpAddr,
    /// The only source to take (RFC 4607); `None` takes all.
    pub source: Option<IpAddr>,
}

/// What a receiver joined, where, and how it was opened.
#[derive(Clone, Debug)]
pub struct Memberships {
    on: Interface,
    joins: Vec<Membership>,
    options: SocketOptions,
}

/// A receiver and what it joined.
pub struct Joined {
    /// Bound as it was asked for.
    pub receiver: Receiver,
    /// To be asserted now and then.
    pub memberships: Memberships,
}

impl Memberships {
    /// Joins everything, or joins it again: what is joined already stays.
    ///
    /// # Errors
    /// Names the group, the interface and the setting that bounds it.
    pub fn assert(&self, receiver: &Receiver) -> Result<(), SocketError> {
        self.joins.iter().try_for_each(|join| match join.source {
            None => receiver.join(join.group, &self.on),
            Some(source) => receiver.join_source(join.group, source, &self.on),
        })
    }

    /// The interface, as it was when the receiver was opened.
    pub fn interface(&self) -> &Interface {
        &self.on
    }

    /// What was joined.
    pub fn joins(&self) -> &[Membership] {
        &self.joins
    }

    /// Another receiver with the same joins, on the interface that has the name now.
    ///
    /// # Errors
    /// There is none, or the kernel refused the socket or a join.
    pub fn open_again(&self) -> Result<Joined, SocketError> {
        Joined::open_one(&self.options, &Interface::by_name(&self.on.name)?, &self.joins)
    }
}

impl Joined {
    /// Receivers that together hold `joins` on each of `interfaces`, every other option as in `options`. Each takes what
    /// arrives by its own interface only. None where there is nothing to join.
    ///
    /// # Errors
    /// What the first socket that failed was refused.
    pub fn open(
        options: &SocketOptions,
        interfaces: &[Interface],
        joins: &[Membership],
    ) -> Result<Vec<Joined>, SocketError> {
        let most = joins_of_a_socket(joins);
        let each = interfaces.iter().flat_map(|on| joins.chunks(most).map(move |some| (on, some)));
        each.map(|(on, some)| Joined::open_one(options, on, some)).collect()
    }

    fn open_one(
        options: &SocketOptions,
        on: &Interface,
        joins: &[Membership],
    ) -> Result<Joined, SocketError> {
        let receiver = Receiver::open(&SocketOptions {
            interface: Some(on.clone()),
            only_interface: true,
            reuse_address: true,
            ..options.clone()
        })?;
        let memberships = Memberships { on: on.clone(), joins: joins.to_vec(), options: options.clone() };
        memberships.assert(&receiver)?;
        Ok(Joined { receiver, memberships })
    }
}

/// How many of `joins` one socket takes with the settings of this host.
fn joins_of_a_socket(joins: &[Membership]) -> usize {
    /// The default of the kernel, which few raise.
    const MOST_V4: usize = 20;
    /// The option memory of a socket on older kernels, and where the setting cannot be read.
    const OPTION_MEMORY: usize = 20_480;
    /// What a join takes of it, with room to spare; the list of sources comes on top.
    const JOIN: usize = 64;
    const JOIN_OF_A_SOURCE: usize = 256;
    if joins.iter().any(|join| join.group.is_ipv4()) {
        return MOST_V4;
    }
    let memory = sysctl::value("net.core.optmem_max").and_then(|value| value.parse().ok());
    let each = if joins.iter().any(|join| join.source.is_some()) { JOIN_OF_A_SOURCE } else { JOIN };
    (memory.unwrap_or(OPTION_MEMORY) / each).clamp(1, 2_000)
}
