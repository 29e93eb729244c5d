//! Options: flag > environment > TOML file > default, `--check`, `--print-config`.
//!
//! A role declares one clap `Args` struct; everything else follows from it. [`load`] reads the layers, hands them to
//! that one parser and answers with values, warnings and the origin of each value. So a wrong value is refused in the
//! same words wherever it came from, and nothing is parsed twice.
//!
//! Order of the modules: [`values`] are the types options have, [`args`] the groups that roles share, [`layers`] puts flags,
//! environment and file together, [`go`] knows the flags of the Go stack, [`print`] shows the result. [`fabric`] and
//! [`store`] turn the shared groups into the types of `frame` and `cache-backend`, once for all roles.

pub mod args;
pub mod fabric;
pub mod go;
pub mod layers;
pub mod print;
pub mod store;
pub mod values;

pub use args::{
    BackendArgs, BackendKind, BootMode, CommonArgs, FabricArgs, Family, LogFormat, ScopeArg, SourceModeArg,
    TopologyArg, redis_addrs,
};
pub use go::{GO_FLAGS_IGNORED, GoFlag};
pub use layers::{Alias, Environment, Exit, Loaded, Origin, Role, RoleLoaded, load};
pub use store::Purpose;
pub use values::{
    ByteSize, GroupRanges, HexIds, HostPort, HostPorts, ListenAddr, LogLevel, Names, Percent, Unacceptable,
    duration, fabric_name, group_id,
};

/// A combination of options that cannot work. A role's `start` that returns it (inside `anyhow::Error`) makes the
/// process exit with code 2, like any other usage error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--{option}: {problem}")]
pub struct Invalid {
    /// Long name of the option to change.
    pub option: &'static str,
    /// What is wrong, with the value, and what is accepted.
    pub problem: String,
}

impl Invalid {
    /// See the fields.
    pub fn new(option: &'static str, problem: impl Into<String>) -> Invalid {
        Invalid { option, problem: problem.into() }
    }
}

/// Every option of a role at the default of its command line; the environment is not looked at.
///
/// # Panics
/// If an option is required: roles have none, and their tests call this.
pub fn defaults<Options: clap::Args>() -> Options {
    let command = Options::augment_args(clap::Command::new("defaults").no_binary_name(true))
        .mut_args(|arg| arg.env(clap::builder::Resettable::Reset));
    command
        .try_get_matches_from(std::iter::empty::<&str>())
        .and_then(|matches| Options::from_arg_matches(&matches))
        .unwrap_or_else(|error| unreachable!("every option has a default: {error}"))
}
