//! From the options of the fabric to its address plan: once, for all roles.

use super::{FabricArgs, Family, Invalid, ScopeArg, SourceModeArg};
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

    /// Leading id bits that choose the group.
    ///
    /// # Errors
    /// More than 15.
    pub fn bits(&self) -> Result<ShardBits, Invalid> {
        let bits = self.shard_bits;
        ShardBits::new(bits).ok_or_else(|| Invalid::new("shard-bits", format!("{bits}; want 0 to 15")))
    }
}
