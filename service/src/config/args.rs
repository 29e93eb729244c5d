//! Groups of options that several roles have: flatten them into the role's `Args`.
//!
//! Headings are given per option: a heading of the group would go on to the options that follow it in the role.

use super::invalid::Invalid;
use super::parsers::{whole, within};
use super::values::{
    ByteSize, HostPort, HostPorts, ListenAddr, LogLevel, Names, Unacceptable, duration, group_id,
};
use cache_backend::redis;
use clap::{Args, ValueEnum};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Options that every role has.
#[derive(Args, Clone, Debug)]
pub struct CommonArgs {
    /// TOML file with options; keys are the names of the flags, per-role tables [proxy], [listener], [retry] win
    #[arg(long, value_name = "FILE", env = "ONCECAST_CONFIG", help_heading = "Service")]
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

/// Which shared store, and how to reach it.
#[derive(Args, Clone, Debug)]
pub struct BackendArgs {
    /// Kind of store [default: redis if --redis-addr is given, aerospike if --aerospike-hosts is, else the role's own]
    #[arg(long, value_name = "KIND", help_heading = "Shared store")]
    pub cache_backend: Option<BackendKind>,
    /// What to do when the store cannot be reached at start: strict is an error, degraded starts and keeps trying
    #[arg(long, value_name = "MODE", default_value = "strict", help_heading = "Shared store")]
    pub backend_boot: BootMode,
    /// Time for one dial, its handshake and probe; a strict start gives up after twice this [default: 1s]
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Shared store")]
    pub cache_dial_timeout: Option<Duration>,
    /// Longest wait for one operation [default: 50ms for claims, 1s for the frame store]
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Shared store")]
    pub cache_op_timeout: Option<Duration>,
    /// Bytes the memory store may take, its own overhead included
    #[arg(long, value_name = "SIZE", default_value = "256MiB", help_heading = "Shared store")]
    pub memory_backend_bytes: ByteSize,
    /// Redis, Valkey or Dragonfly, comma separated: host:port, redis://, rediss:// (TLS) or unix:///path
    #[arg(long, value_name = "ADDRS", value_parser = redis_addrs, help_heading = "Shared store")]
    pub redis_addr: Option<Names>,
    /// What stands behind --redis-addr; auto tells a cluster from a single server
    #[arg(long, value_name = "KIND", default_value = "auto", help_heading = "Shared store")]
    pub redis_topology: TopologyArg,
    /// Name of the master that the Sentinels watch (with --redis-topology=sentinel)
    #[arg(long, value_name = "NAME", help_heading = "Shared store")]
    pub redis_sentinel_master: Option<String>,
    /// ACL user
    #[arg(long, value_name = "NAME", help_heading = "Shared store")]
    pub redis_user: Option<String>,
    /// File whose first line is the password; read anew at every dial [default: what REDIS_PASSWORD holds, if set]
    #[arg(long, value_name = "FILE", help_heading = "Shared store")]
    pub redis_password_file: Option<PathBuf>,
    /// Database number
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole::<u32>, help_heading = "Shared store")]
    pub redis_db: u32,
    /// PEM file with the CA certificates to trust for rediss:// [default: the system's]
    #[arg(long, value_name = "FILE", help_heading = "Shared store")]
    pub redis_tls_ca_file: Option<PathBuf>,
    /// PEM file with the client certificate for rediss://
    #[arg(long, value_name = "FILE", help_heading = "Shared store")]
    pub redis_tls_cert_file: Option<PathBuf>,
    /// PEM file with the key of the client certificate
    #[arg(long, value_name = "FILE", help_heading = "Shared store")]
    pub redis_tls_key_file: Option<PathBuf>,
    /// Name expected in the server's certificate [default: the host of the address]
    #[arg(long, value_name = "NAME", help_heading = "Shared store")]
    pub redis_tls_server_name: Option<String>,
    /// Aerospike seeds, comma separated host:port (port 3000 where missing)
    #[arg(long, value_name = "HOSTS", help_heading = "Shared store")]
    pub aerospike_hosts: Option<HostPorts>,
    /// Namespace; must exist and accept TTLs
    #[arg(long, value_name = "NAME", default_value = "cache", help_heading = "Shared store")]
    pub aerospike_namespace: String,
    /// Set; part of every key, so the same on all nodes that share claims [default: bsp for claims, bre for frames]
    #[arg(long, value_name = "NAME", help_heading = "Shared store")]
    pub aerospike_set: Option<String>,
    /// User, where the cluster asks for one
    #[arg(long, value_name = "NAME", help_heading = "Shared store")]
    pub aerospike_user: Option<String>,
    /// File whose first line is the password; read anew at every dial [default: what AEROSPIKE_PASSWORD holds, if set]
    #[arg(long, value_name = "FILE", help_heading = "Shared store")]
    pub aerospike_password_file: Option<PathBuf>,
}

impl BackendArgs {
    /// The kind asked for, or the one whose address is given, or `default`.
    ///
    /// # Errors
    /// A kind without its address.
    pub fn kind_or(&self, default: BackendKind) -> Result<BackendKind, Invalid> {
        let redis = self.redis_addr.as_ref().is_some_and(|addrs| !addrs.0.is_empty());
        let aerospike = self.aerospike_hosts.as_ref().is_some_and(|hosts| !hosts.0.is_empty());
        let inferred = match (redis, aerospike) {
            (true, true) if self.cache_backend.is_none() => {
                let problem = "--redis-addr and --aerospike-hosts are both given; want redis or aerospike";
                return Err(Invalid::new("cache-backend", problem));
            }
            (true, _) => BackendKind::Redis,
            (false, true) => BackendKind::Aerospike,
            (false, false) => default,
        };
        match self.cache_backend.unwrap_or(inferred) {
            BackendKind::Redis if !redis => {
                Err(Invalid::new("redis-addr", "required by --cache-backend=redis; want host:port"))
            }
            BackendKind::Aerospike if !aerospike => {
                Err(Invalid::new("aerospike-hosts", "required by --cache-backend=aerospike; want host:port"))
            }
            kind => Ok(kind),
        }
    }
}

/// `--cache-backend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendKind {
    /// Inside this process.
    Memory,
    /// Redis protocol.
    Redis,
    /// Aerospike.
    Aerospike,
    /// No shared store.
    None,
}

/// `--backend-boot`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum BootMode {
    /// A store that cannot be reached is an error at start.
    #[default]
    Strict,
    /// Start without it and keep trying.
    Degraded,
}

/// `--redis-topology`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TopologyArg {
    /// Ask the server.
    #[default]
    Auto,
    /// One server; of several addresses the first that works.
    Single,
    /// The addresses are Sentinels.
    Sentinel,
    /// The addresses are seeds of a cluster.
    Cluster,
}

/// Addresses of Redis as the backend reads them; bare ones must be host:port.
///
/// # Errors
/// An address that is neither.
pub fn redis_addrs(text: &str) -> Result<Names, Unacceptable> {
    let names: Names = text.parse()?;
    let check = |addr: &String| match addr.contains("://")
        || addr.parse::<HostPort>().is_ok_and(|host| host.port.is_some())
    {
        true => redis::check_address(addr),
        false => Err("the port is missing, or this is no address".to_owned()),
    };
    let Err(why) = names.0.iter().try_for_each(check) else { return Ok(names) };
    // A password that holds a comma was cut in two, and the reason would name a part of it.
    let why = if text.contains('@') { String::new() } else { format!(": {why}") };
    Err(Unacceptable(format!("{}, comma separated{why}", redis::ACCEPTED)))
}
