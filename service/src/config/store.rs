//! What a store is for. Its options are those of `cache-backend`, without prefix: one group for all roles.

use super::invalid::Invalid;
pub use cache_backend::flags::{BackendKind, Flags as BackendArgs, TopologyArg, redis_addrs};
use cache_backend::flags::{Defaults, FlagError};

/// What a store is for; decides deadlines, bounds and the names that are probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Claims of ids: 50 ms, set `bsp`.
    Claims,
    /// Frames of a retry endpoint: 1 s, set `bre`.
    Frames,
    /// Courtesy marks of a listener: as claims, where the proxies have theirs.
    Marks,
}

impl Purpose {
    /// Value of the label `store` of its metrics.
    pub fn label(self) -> &'static str {
        match self {
            Purpose::Claims => "claims",
            Purpose::Frames => "frames",
            Purpose::Marks => "marks",
        }
    }

    /// Its name in `/readyz` and under `details` of `/status`.
    pub fn title(self) -> &'static str {
        match self {
            Purpose::Claims | Purpose::Frames => "store",
            Purpose::Marks => "mark_store",
        }
    }
}

impl From<Purpose> for Defaults {
    /// One namespace: a mark in another set than the claims would be seen by nobody.
    fn from(purpose: Purpose) -> Defaults {
        match purpose {
            Purpose::Claims | Purpose::Marks => Defaults::claims(),
            Purpose::Frames => Defaults::frames(),
        }
    }
}

impl From<FlagError> for Invalid {
    fn from(error: FlagError) -> Invalid {
        Invalid::new(error.option, error.problem)
    }
}
