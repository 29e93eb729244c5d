//! From the options of the fabric to its address plan: once, for all roles.

use super::args::{FabricArgs, Family, ScopeArg, SourceModeArg};
use super::invalid::Invalid;
use frame::{Fabric, Scope, ShardBits, SourceMode};

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
