//! Groups of options that several roles have: flatten them into the role's `Args`.
//!
//! Headings are given per option: a heading of the group would go on to the options that follow it in the role.

use super::values::{ListenAddr, LogLevel, duration};
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// Options that every role has.
#[derive(Args, Clone, Debug)]
pub struct CommonArgs {
    /// The TOML file.
    #[arg(
        long,
        value_name = "FILE",
        env = "ONCECAST_CONFIG",
        help = "TOML file with options; keys are the names of the flags, per-role tables [proxy], [listener], [retry] win",
        help_heading = "Service"
    )]
    pub config: Option<PathBuf>,
    /// Validate the configuration, start nothing, exit with 0 or 2
    #[arg(long, help_heading = "Service")]
    pub check: bool,
    /// Print the effective configuration as TOML with the origin of each value, secrets hidden, and exit
    #[arg(long, help_heading = "Service")]
    pub print_config: bool,
    /// Admin HTTP: /metrics /healthz /readyz /status /loglevel; :PORT is every address, off is none
    #[arg(long, value_name = "ADDR:PORT", help_heading = "Service")]
    pub metrics_addr: Option<ListenAddr>,
    /// Name of this instance in logs and /status [default: the host name]
    #[arg(long, value_name = "NAME", env = "INSTANCE_ID", help_heading = "Service")]
    pub instance: Option<String>,
    /// Format of the log on stderr
    #[arg(long, value_name = "FORMAT", default_value = "text", help_heading = "Service")]
    pub log_format: LogFormat,
    /// What to log: off, error, warn, info, debug, trace, or directives such as info,proxy_ingress=debug
    #[arg(long, value_name = "LEVEL", default_value = "info", help_heading = "Service")]
    pub log_level: LogLevel,
    /// Same as --log-level=debug
    #[arg(long, help_heading = "Service")]
    pub debug: bool,
    /// How long frames in hand may take to leave after SIGTERM or SIGINT (a second signal ends at once)
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration, help_heading = "Service")]
    pub drain_timeout: Duration,
}

impl CommonArgs {
    /// The given name, or that of the host.
    pub fn instance(&self) -> String {
        self.instance.clone().unwrap_or_else(host_name)
    }
}

/// Name of this host, as the kernel has it.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "unnamed".to_owned(),
        name => name.to_owned(),
    }
}

/// `--log-format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}
