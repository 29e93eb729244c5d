//! Options: flag > environment > TOML file > default, `--check`, `--print-config`.
//!
//! A role declares one clap `Args` struct; everything else follows from it. [`load`](load()) reads the layers, hands them to
//! that one parser and answers with values, warnings and the origin of each value. So a wrong value is refused in the
//! same words wherever it came from, and nothing is parsed twice.
//!
//! Order of the modules: [`values`] and [`parsers`] are what an option's text becomes. [`args`], [`fabric`] and [`store`] are
//! the groups of options that roles share, with what is made of them: the types of `frame` and of `cache-backend`.
//! [`command`] makes the command line of a role, `spelling` and [`go`] take that of the Go stack, `file` and `layers` the
//! file and the environment. [`load`](mod@load) puts them together, `refusal` words what clap refuses, [`print`](mod@print) shows the
//! result.

pub mod args;
pub mod command;
pub mod effective;
pub mod exit;
pub mod fabric;
mod file;
pub mod go;
pub mod host;
pub mod invalid;
mod layers;
pub mod load;
pub mod parsers;
pub mod print;
mod refusal;
pub mod role;
mod secret;
mod spelling;
pub mod store;
pub mod values;

pub use args::{CommonArgs, LogFormat};
pub use effective::{Effective, Origin};
pub use exit::{EXIT_USAGE, Exit};
pub use fabric::{FabricArgs, Family, ScopeArg, SourceModeArg};
pub use go::{GO_FLAGS_IGNORED, GoFlag};
pub use host::{CheckDepth, HostArgs};
pub use invalid::{Invalid, demand};
pub use load::{Loaded, RoleLoaded, load};
pub use parsers::{whole, within};
pub use role::{Alias, Environment, Role};
pub use store::{BackendArgs, BackendKind, Purpose, TopologyArg, redis_addrs};
pub use values::{
    ByteSize, GroupRanges, HexIds, HostPort, HostPorts, ListenAddr, LogLevel, Names, Percent, Unacceptable,
    duration, fabric_name, group_id,
};

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
