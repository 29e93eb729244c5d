//! From the options of the fabric to its address plan: once, for all roles.

use super::invalid::Invalid;
use super::parsers::{whole, within};
use super::values::{Names, group_id};
use clap::{Args, ValueEnum};
use frame::{Fabric, Scope, ShardBits, SourceMode};
use std::net::IpAddr;

/// Where the fabric is: interfaces, groups, addresses.
#[derive(Args, Clone, Debug)]
pub struct FabricArgs {
    /// Interfaces of the fabric, comma separated
    #[arg(long, value_name = "NAMES", env = "MULTICAST_IF", default_value = "eth0", help_heading = "Fabric")]
    pub iface: Names,
    /// Address family of the fabric; ipv4 uses administratively scoped groups 239.NET.x.x
    #[arg(long, value_name = "FAMILY", default_value = "ipv6", help_heading = "Fabric")]
    pub fabric: Family,
    /// Scope of IPv6 groups; ssm takes site or global only
    #[arg(long, value_name = "SCOPE", env = "MC_SCOPE", default_value = "site", help_heading = "Fabric")]
    pub scope: ScopeArg,
    /// Any-source or source-specific multicast; ssm needs --bind-source on senders
    #[arg(long, value_name = "MODE", default_value = "asm", help_heading = "Fabric")]
    pub source_mode: SourceModeArg,
    /// Group id in bytes 12-13 of IPv6 group addresses
    #[arg(long, value_name = "ID", default_value = "0x000B", value_parser = group_id, help_heading = "Fabric")]
    pub mc_group_id: u16,
    /// Second byte of IPv4 group addresses
    #[arg(long, value_name = "0..255", default_value_t = 192, value_parser = whole::<u8>, help_heading = "Fabric")]
    pub mc_ipv4_net: u8,
    /// Leading TxID bits that choose the group, so 2^N groups; the same on every node of a fabric
    #[arg(long, value_name = "0..15", default_value_t = 2, value_parser = within(0..=15u8), help_heading = "Fabric")]
    pub shard_bits: u8,
    /// Address to send multicast from; an IPv6 literal of the interface, one of its own per replica under ssm
    #[arg(long, value_name = "ADDRESS", help_heading = "Fabric")]
    pub bind_source: Option<IpAddr>,
    /// Hop limit (TTL) of multicast that this node sends
    #[arg(long, value_name = "HOPS", default_value_t = 1, value_parser = whole::<u8>, help_heading = "Fabric")]
    pub egress_hoplimit: u8,
    /// Hand multicast that this node sends to receivers on this same host too
    #[arg(long, env = "EGRESS_MULTICAST_LOOP", help_heading = "Fabric")]
    pub egress_loop: bool,
}

/// `--fabric`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Family {
    /// The fabric of the wire document.
    #[default]
    Ipv6,
    /// Administratively scoped IPv4.
    Ipv4,
}

/// `--scope`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ScopeArg {
    /// FF02.
    Link,
    /// FF05, FF35.
    #[default]
    Site,
    /// FF08.
    #[value(alias = "organisation", alias = "organization")]
    Org,
    /// FF0E, FF3E.
    Global,
}

/// `--source-mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SourceModeArg {
    /// Any source.
    #[default]
    Asm,
    /// Source specific.
    Ssm,
}

impl From<ScopeArg> for Scope {
    fn from(scope: ScopeArg) -> Scope {
        match scope {
            ScopeArg::Link => Scope::Link,
            ScopeArg::Site => Scope::Site,
            ScopeArg::Org => Scope::Organisation,
            ScopeArg::Global => Scope::Global,
        }
    }
}

impl From<SourceModeArg> for SourceMode {
    fn from(mode: SourceModeArg) -> SourceMode {
        match mode {
            SourceModeArg::Asm => SourceMode::Asm,
            SourceModeArg::Ssm => SourceMode::Ssm,
        }
    }
}

impl FabricArgs {
    /// Address plan of the groups.
    ///
    /// # Errors
    /// A scope that does not exist in the mode.
    pub fn plan(&self) -> Result<Fabric, Invalid> {
        self.plan_at(self.scope, "scope")
    }

    /// The same at another scope, which `option` asked for.
    ///
    /// # Errors
    /// A scope that does not exist in the mode.
    pub fn plan_at(&self, scope: ScopeArg, option: &'static str) -> Result<Fabric, Invalid> {
        let scope = Scope::from(scope);
        match self.fabric {
            Family::Ipv4 => Ok(Fabric::V4 { net: self.mc_ipv4_net }),
            Family::Ipv6 => Fabric::v6(self.source_mode.into(), scope, self.mc_group_id).ok_or_else(|| {
                Invalid::new(option, format!("{scope:?} with --source-mode=ssm; want site or global"))
            }),
        }
    }

    /// What makes this fabric and no other, in words: the name that its operators gave it, or its groups and shards.
    pub fn named(&self, name: Option<&str>, port: u16) -> String {
        name.map_or_else(|| self.words(port), |name| format!("fabric-name={name}"))
    }

    /// What makes this fabric and no other, in words: the groups, the port of the data and the shard bits.
    fn words(&self, port: u16) -> String {
        let groups = match self.fabric {
            Family::Ipv4 => format!("ipv4 mc-ipv4-net={}", self.mc_ipv4_net),
            Family::Ipv6 => {
                let (scope, mode) = (Scope::from(self.scope), self.source_mode);
                let name = |value: &dyn std::fmt::Debug| format!("{value:?}").to_lowercase();
                format!(
                    "ipv6 scope={} source-mode={} mc-group-id=0x{:04X}",
                    name(&scope),
                    name(&mode),
                    self.mc_group_id
                )
            }
        };
        format!("{groups} egress-port={port} shard-bits={}", self.shard_bits)
    }

    /// Leading id bits that choose the group.
    ///
    /// # Errors
    /// More than 15.
    pub fn bits(&self) -> Result<ShardBits, Invalid> {
        let bits = self.shard_bits;
        ShardBits::new(bits).ok_or_else(|| Invalid::new("shard-bits", format!("{bits}; want 0 to 15")))
    }
}
