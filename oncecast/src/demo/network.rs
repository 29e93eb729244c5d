//! Where the demo's multicast can run on this machine: IPv6 on the loopback or in a network namespace of its own, else
//! IPv4 administratively scoped groups on the loopback. No other interface is ever touched.

use anyhow::Context;
use frame::{Fabric, GroupIndex, Scope, SourceMode};
use multicast_io::Interface;
use multicast_io::netns::enter_private_network;
use multicast_io::probe::multicast_probe;
use rand::RngExt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// The loopback routes FF05::/16 already.
    Ipv6Loopback,
    /// A namespace was made, with a loopback that routes FF05::/16.
    Ipv6Private,
    /// 239.x.y.z on the loopback.
    Ipv4Loopback,
}

/// `--network`.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// IPv6 where it works, else IPv4.
    Auto,
    Ipv6,
    Ipv4,
}

impl Network {
    /// Tries the three in order. Must be called before any thread exists: entering a namespace needs that.
    pub fn find(choice: Choice) -> anyhow::Result<Network> {
        if choice != Choice::Ipv4 {
            let fabric = Network::Ipv6Loopback.random_fabric();
            if carries(fabric) {
                return Ok(Network::Ipv6Loopback);
            }
            if enter_private_network().is_ok() && carries(fabric) {
                return Ok(Network::Ipv6Private);
            }
        }
        if choice != Choice::Ipv6 && carries(Network::Ipv4Loopback.random_fabric()) {
            return Ok(Network::Ipv4Loopback);
        }
        let v6 = "FF05::/16 (as root: `ip -6 route add local ff05::/16 dev lo`; or allow user namespaces)";
        let v4 = "239.0.0.0/8";
        let (tried, other) = match choice {
            Choice::Auto => (format!("neither {v6} nor {v4}"), ""),
            Choice::Ipv6 => (format!("not {v6}"), "; without --network=ipv6 IPv4 is tried too"),
            Choice::Ipv4 => (format!("not {v4}"), "; without --network=ipv4 IPv6 is tried too"),
        };
        anyhow::bail!(
            "the loopback carries no multicast: {tried}; lo may be down (as root: `ip link set lo up`), or a sandbox or a \
             firewall forbids it{other}"
        )
    }

    /// A fabric that nothing else on this machine is likely to use.
    pub fn random_fabric(self) -> Fabric {
        let mut random = rand::rng();
        match self {
            Network::Ipv4Loopback => Fabric::V4 { net: random.random_range(192..=251) },
            _ => Fabric::V6 {
                mode: SourceMode::Asm,
                scope: Scope::Site,
                group_id: random.random_range(0x0100..=0xFFFE),
            },
        }
    }

    /// Loopback address of its family.
    pub fn loopback(self) -> IpAddr {
        match self {
            Network::Ipv4Loopback => Ipv4Addr::LOCALHOST.into(),
            _ => Ipv6Addr::LOCALHOST.into(),
        }
    }

    /// For people and for the JSON report.
    pub fn name(self) -> &'static str {
        match self {
            Network::Ipv6Loopback => "IPv6 on the loopback",
            Network::Ipv6Private => "IPv6 on the loopback of a private network namespace",
            Network::Ipv4Loopback => "IPv4 (239.0.0.0/8) on the loopback",
        }
    }
}

/// True if a datagram to a group of this fabric comes back on the loopback.
fn carries(fabric: Fabric) -> bool {
    let probe = || -> anyhow::Result<bool> {
        let loopback = Interface::by_name("lo").context("the loopback interface")?;
        Ok(multicast_probe(fabric.address(GroupIndex(0)), &loopback)?)
    };
    probe().unwrap_or(false)
}
