//! What an operator says about this start on this host. It stands on the command line only: in a file or the environment it
//! would hold for every start.

use clap::{Args, ValueEnum};

/// Options of one start, flattened into the `Args` of each role.
#[derive(Args, Clone, Debug)]
pub struct HostArgs {
    /// Take the unicast ports beside another process of this user that has them, for a planned hand-over: start the new
    /// process with this, wait until it is ready, then stop the old one
    #[arg(long, help_heading = "Service")]
    pub take_over: bool,
}

/// How far `--check` looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum CheckDepth {
    /// The configuration alone: it is the same on every host.
    Config,
    /// And whether this host is as the configuration says.
    #[default]
    Host,
    /// And whether the shared store answers.
    Online,
}
