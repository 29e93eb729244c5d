//! The options of a store as a group of clap: feature `clap`.
//!
//! ```
//! use cache_backend::flags::{BackendKind, Defaults, Flags, Prefix};
//!
//! // --jobs-redis-addr or JOBS_REDIS_ADDR, and nineteen more.
//! let prefix = Prefix::new("jobs-", "JOBS_");
//! let command = Flags::augment(clap::Command::new("worker"), &prefix);
//! let matches = command.get_matches_from(["worker", "--jobs-redis-addr=cache:6379"]);
//! let flags = Flags::from_matches(&matches, &prefix)?;
//! let settings = flags.settings(flags.kind_or(BackendKind::None)?, Defaults::claims())?;
//! # assert!(matches!(settings, cache_backend::Settings::Redis(_)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::{
    AerospikeSettings, BootPolicy, Credential, RedisSettings, RedisTopology, RemoteSettings, Secret,
    Settings, TlsSettings, redis,
};
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, ValueEnum};
use option_values::{ByteSize, HIDDEN, HostPort, HostPorts, Names, Unacceptable, duration, want, whole};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Before every flag and every variable of the group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefix {
    flag: String,
    env: String,
}

impl Prefix {
    /// For flags, such as `jobs-`, and for variables, such as `JOBS_`. Both may be empty.
    pub fn new(flag: impl Into<String>, env: impl Into<String>) -> Prefix {
        Prefix { flag: flag.into(), env: env.into() }
    }

    fn id(&self, arg: &Arg) -> String {
        format!("{}{}", self.flag, arg.get_id())
    }

    /// An option, and what its help says of the others, under the prefix.
    fn apply(&self, arg: &Arg) -> Arg {
        let long = arg.get_long().unwrap_or_default();
        let variable = format!("{}{}", self.env, long.replace('-', "_").to_ascii_uppercase());
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let help = help.replace("--", &format!("--{}", self.flag));
        let help = [REDIS_PASSWORD, AEROSPIKE_PASSWORD]
            .iter()
            .fold(help, |help, name| help.replace(name, &format!("{}{name}", self.env)));
        arg.clone().id(self.id(arg)).long(format!("{}{long}", self.flag)).env(variable).help(help)
    }
}

/// A combination of options that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("--{option}: {problem}")]
pub struct FlagError {
    /// Long name of the option to change.
    pub option: String,
    /// What is wrong, and what is accepted.
    pub problem: String,
}

/// What the options leave open.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Defaults {
    /// Deadlines and bounds.
    pub remote: RemoteSettings,
    /// Set of Aerospike.
    pub aerospike_set: String,
}

impl Defaults {
    /// 50 ms, set `bsp`.
    pub fn claims() -> Defaults {
        Defaults { remote: RemoteSettings::for_claims(), aerospike_set: "bsp".to_owned() }
    }
    /// 1 s, set `bre`.
    pub fn frames() -> Defaults {
        Defaults { remote: RemoteSettings::for_frames(), aerospike_set: "bre".to_owned() }
    }
}

/// Where a password is looked for when no file is named.
const REDIS_PASSWORD: &str = "REDIS_PASSWORD";
const AEROSPIKE_PASSWORD: &str = "AEROSPIKE_PASSWORD";

/// Which shared store, and how to reach it. A role that flattens it into its own options has it without prefix.
#[derive(Args, Clone, Debug)]
pub struct Flags {
    /// Kind of store [default: redis if --redis-addr is given, aerospike if --aerospike-hosts is, else the role's own]
    #[arg(long, value_name = "KIND", help_heading = "Shared store")]
    pub cache_backend: Option<BackendKind>,
    /// What to do when the store cannot be reached at start: strict is an error, degraded starts and keeps trying
    #[arg(long, value_name = "MODE", default_value = "strict", help_heading = "Shared store")]
    pub backend_boot: BootPolicy,
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
    #[arg(skip)]
    prefix: Prefix,
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
    if text.contains(HIDDEN) {
        return want(&format!(
            "the user and password in the place of {HIDDEN}: a printed configuration has no secrets"
        ));
    }
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

impl Flags {
    /// Adds the group to `command`, under `prefix`. A flag that is not given is looked for in the environment.
    pub fn augment(command: Command, prefix: &Prefix) -> Command {
        let group = Flags::augment_args(Command::new("store"));
        command.args(group.get_arguments().map(|arg| prefix.apply(arg)))
    }

    /// What was given of the group that [`augment`](Flags::augment) added.
    ///
    /// # Errors
    /// None, if the command is that one.
    pub fn from_matches(matches: &ArgMatches, prefix: &Prefix) -> Result<Flags, clap::Error> {
        let group = Flags::augment_args(Command::new("store").no_binary_name(true));
        let mut given: Vec<OsString> = Vec::new();
        for arg in group.get_arguments() {
            for value in matches.try_get_raw(&prefix.id(arg)).ok().flatten().into_iter().flatten() {
                let mut option = OsString::from(format!("--{}=", arg.get_long().unwrap_or_default()));
                option.push(value);
                given.push(option);
            }
        }
        let flags = Flags::from_arg_matches(&group.try_get_matches_from(given)?)?;
        Ok(Flags { prefix: prefix.clone(), ..flags })
    }

    /// The kind asked for, or the one whose address is given, or `default`.
    ///
    /// # Errors
    /// A kind without its address; two stores, of which one would be ignored.
    pub fn kind_or(&self, default: BackendKind) -> Result<BackendKind, FlagError> {
        let redis = self.redis_addr.as_ref().is_some_and(|addrs| !addrs.0.is_empty());
        let aerospike = self.aerospike_hosts.as_ref().is_some_and(|hosts| !hosts.0.is_empty());
        let named = match (redis, aerospike) {
            (true, true) => {
                let other = self.name("aerospike-hosts");
                return Err(
                    self.wrong("redis-addr", format!("and {other} name two stores; want one of them"))
                );
            }
            (true, false) => Some((BackendKind::Redis, "redis-addr")),
            (false, true) => Some((BackendKind::Aerospike, "aerospike-hosts")),
            (false, false) => None,
        };
        match (self.cache_backend, named) {
            (Some(kind), Some((of_address, option))) if kind != of_address => {
                let (kind, option) = (kind.name(), self.name(option));
                Err(self.wrong(
                    "cache-backend",
                    format!("{kind}, and {option} names another store; want one of the two options"),
                ))
            }
            (Some(kind @ BackendKind::Redis), None) => Err(self.required("redis-addr", kind)),
            (Some(kind @ BackendKind::Aerospike), None) => Err(self.required("aerospike-hosts", kind)),
            (Some(kind), _) | (None, Some((kind, _))) => Ok(kind),
            (None, None) => Ok(default),
        }
    }

    /// Settings of a store of `kind`.
    ///
    /// # Errors
    /// Sentinel without the name of a master, a user without a password, certificates without TLS, half a client certificate, a
    /// database that a Cluster does not have.
    pub fn settings(&self, kind: BackendKind, defaults: impl Into<Defaults>) -> Result<Settings, FlagError> {
        let defaults = defaults.into();
        Ok(match kind {
            BackendKind::None => Settings::None,
            BackendKind::Memory => Settings::Memory { bytes: self.memory_backend_bytes.as_usize() },
            BackendKind::Redis => Settings::Redis(Box::new(self.redis(defaults)?)),
            BackendKind::Aerospike => Settings::Aerospike(Box::new(self.aerospike(defaults)?)),
        })
    }

    /// Longest wait for one operation.
    pub fn op_timeout(&self, defaults: impl Into<Defaults>) -> Duration {
        self.cache_op_timeout.unwrap_or(defaults.into().remote.op_timeout)
    }

    /// Whether an address of Redis is `rediss://`.
    pub fn speaks_tls(&self) -> bool {
        self.redis_addr.as_ref().is_some_and(|names| names.0.iter().any(|addr| addr.starts_with("rediss://")))
    }

    /// The same without certificates.
    pub fn without_certificates(self) -> Flags {
        Flags {
            redis_tls_ca_file: None,
            redis_tls_cert_file: None,
            redis_tls_key_file: None,
            redis_tls_server_name: None,
            ..self
        }
    }

    fn remote(&self, defaults: RemoteSettings) -> RemoteSettings {
        let dial_timeout = self.cache_dial_timeout.unwrap_or(defaults.dial_timeout);
        RemoteSettings {
            op_timeout: self.cache_op_timeout.unwrap_or(defaults.op_timeout),
            dial_timeout,
            // Long enough for a server that starts beside us, short enough to see at once that it will not come.
            boot_patience: dial_timeout * 2,
            boot: self.backend_boot,
            ..defaults
        }
    }

    fn redis(&self, defaults: Defaults) -> Result<RedisSettings, FlagError> {
        let addresses = self.redis_addr.as_ref().map_or_else(Vec::new, |names| names.0.clone());
        let credential =
            self.credential("redis-user", &self.redis_user, &self.redis_password_file, REDIS_PASSWORD)?;
        let topology = match self.redis_topology {
            TopologyArg::Auto => RedisTopology::Auto,
            TopologyArg::Single => RedisTopology::Single,
            TopologyArg::Cluster => RedisTopology::Cluster,
            TopologyArg::Sentinel => RedisTopology::Sentinel {
                master: self.redis_sentinel_master.clone().ok_or_else(|| {
                    let topology = self.name("redis-topology");
                    let problem = format!("required by {topology}=sentinel; want the master's name");
                    self.wrong("redis-sentinel-master", problem)
                })?,
                // A Sentinel that asks for a password of its own carries it in its address.
                credential: None,
                data_tls: self.speaks_tls(),
            },
        };
        let tls = self.tls()?;
        let settings = RedisSettings {
            addresses,
            topology,
            credential,
            db: self.redis_db,
            tls,
            remote: self.remote(defaults.remote),
        };
        // The addresses were read when they were parsed; what is left is the database.
        redis::check(&settings).map_err(|error| self.wrong("redis-db", error.0))?;
        Ok(settings)
    }

    /// Certificates, which an address without TLS would ignore.
    fn tls(&self) -> Result<TlsSettings, FlagError> {
        let tls = TlsSettings {
            ca_file: self.redis_tls_ca_file.clone(),
            cert_file: self.redis_tls_cert_file.clone(),
            key_file: self.redis_tls_key_file.clone(),
            server_name: self.redis_tls_server_name.clone(),
        };
        let given = [
            ("redis-tls-ca-file", tls.ca_file.is_some()),
            ("redis-tls-cert-file", tls.cert_file.is_some()),
            ("redis-tls-key-file", tls.key_file.is_some()),
            ("redis-tls-server-name", tls.server_name.is_some()),
        ];
        let half = match (&tls.cert_file, &tls.key_file) {
            (Some(_), None) => Some(("redis-tls-cert-file", "redis-tls-key-file")),
            (None, Some(_)) => Some(("redis-tls-key-file", "redis-tls-cert-file")),
            _ => None,
        };
        if let Some((one, other)) = half {
            return Err(self.wrong(one, format!("given without {}; want both", self.name(other))));
        }
        match given.iter().find(|(_, given)| *given) {
            Some((option, _)) if !self.speaks_tls() => {
                let address = self.name("redis-addr");
                let problem = format!(
                    "given, and {address} is no rediss:// address, so nothing is encrypted; want {address} with rediss://, or neither"
                );
                Err(self.wrong(option, problem))
            }
            _ => Ok(tls),
        }
    }

    fn aerospike(&self, defaults: Defaults) -> Result<AerospikeSettings, FlagError> {
        let hosts = self.aerospike_hosts.as_ref().map_or(&[][..], |hosts| &hosts.0);
        Ok(AerospikeSettings {
            hosts: hosts.iter().map(|host| seed(host, 3000)).collect(),
            set: self.aerospike_set.clone().unwrap_or(defaults.aerospike_set),
            credential: self.credential(
                "aerospike-user",
                &self.aerospike_user,
                &self.aerospike_password_file,
                AEROSPIKE_PASSWORD,
            )?,
            remote: self.remote(defaults.remote),
            ..AerospikeSettings::new("", self.aerospike_namespace.clone())
        })
    }

    /// `None` where neither a user nor a password is given: the address may carry both.
    fn credential(
        &self,
        option: &str,
        user: &Option<String>,
        file: &Option<PathBuf>,
        variable: &str,
    ) -> Result<Option<Credential>, FlagError> {
        let variable = format!("{}{variable}", self.prefix.env);
        let in_environment = || std::env::var_os(&variable).map(|_| Secret::Env(variable.clone()));
        match (user, file.clone().map(Secret::File).or_else(in_environment)) {
            (user, Some(password)) => Ok(Some(Credential { user: user.clone(), password })),
            (None, None) => Ok(None),
            (Some(user), None) => {
                let file = self.name(&option.replace("user", "password-file"));
                Err(self.wrong(option, format!("{user} without a password; want {file} or {variable}")))
            }
        }
    }

    /// An option as it is written.
    fn name(&self, option: &str) -> String {
        format!("--{}{option}", self.prefix.flag)
    }

    fn wrong(&self, option: &str, problem: impl Into<String>) -> FlagError {
        FlagError { option: format!("{}{option}", self.prefix.flag), problem: problem.into() }
    }

    fn required(&self, option: &str, kind: BackendKind) -> FlagError {
        let backend = self.name("cache-backend");
        self.wrong(option, format!("required by {backend}={}; want host:port", kind.name()))
    }
}

impl BackendKind {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// `host:port`, brackets around an IPv6 literal.
fn seed(host: &HostPort, default_port: u16) -> String {
    HostPort { host: host.host.clone(), port: Some(host.port_or(default_port)) }.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(words: &str, prefix: &Prefix) -> Flags {
        let command = Flags::augment(Command::new("role").no_binary_name(true), prefix);
        // What the environment of the tests holds is none of theirs.
        let command = command.mut_args(|arg| arg.env(clap::builder::Resettable::Reset));
        let matches = command.try_get_matches_from(words.split_whitespace()).unwrap();
        Flags::from_matches(&matches, prefix).unwrap()
    }

    fn settings(words: &str, defaults: Defaults) -> Result<Settings, FlagError> {
        let flags = flags(words, &Prefix::default());
        flags.settings(flags.kind_or(BackendKind::None)?, defaults)
    }

    fn redis(words: &str, defaults: Defaults) -> RedisSettings {
        match settings(words, defaults).unwrap() {
            Settings::Redis(settings) => *settings,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_address_alone_names_its_kind() {
        assert_eq!(settings("", Defaults::claims()), Ok(Settings::None));
        let single = redis("--redis-addr=a:1,b:2", Defaults::claims());
        assert_eq!((single.addresses.len(), &single.topology), (2, &RedisTopology::Auto));
        let aerospike = settings("--aerospike-hosts=a,[::1]:4000", Defaults::frames()).unwrap();
        let Settings::Aerospike(aerospike) = aerospike else { panic!("{aerospike:?}") };
        assert_eq!(aerospike.hosts, ["a:3000", "[::1]:4000"]);
        assert_eq!((aerospike.namespace.as_str(), aerospike.set.as_str()), ("cache", "bre"));
    }

    #[test]
    fn a_password_in_an_address_is_in_no_debug_output() {
        for addresses in ["redis://u:sesame@h:1", "h:1,rediss://:sesame@h:2"] {
            let flags = flags(&format!("--redis-addr={addresses}"), &Prefix::default());
            let settings = flags.settings(BackendKind::Redis, Defaults::claims()).unwrap();
            for text in [format!("{flags:?}"), format!("{settings:?}"), format!("{settings:#?}")] {
                assert!(!text.contains("sesame"), "{text}");
            }
        }
        let shown = format!("{:?}", redis("--redis-addr=redis://u:p@h:1,h:2", Defaults::claims()));
        assert!(shown.contains("h:1") && shown.contains("\"h:2\""), "{shown}");
    }

    #[test]
    fn claims_are_waited_for_shorter_than_frames_unless_told() {
        let of = |words, defaults| redis(words, defaults).remote.op_timeout.as_millis();
        assert_eq!(of("--redis-addr=a:1", Defaults::claims()), 50);
        assert_eq!(of("--redis-addr=a:1", Defaults::frames()), 1000);
        assert_eq!(of("--redis-addr=a:1 --cache-op-timeout=20ms", Defaults::frames()), 20);
    }

    #[test]
    fn every_option_of_redis_arrives() {
        let all = redis(
            "--redis-addr=rediss://s:1 --redis-topology=sentinel --redis-sentinel-master=m --redis-user=u \
             --redis-password-file=/p --redis-db=3 --redis-tls-ca-file=/ca --redis-tls-cert-file=/c \
             --redis-tls-key-file=/k --redis-tls-server-name=n --backend-boot=degraded --cache-dial-timeout=3s",
            Defaults::frames(),
        );
        let password = Secret::File("/p".into());
        assert_eq!(all.credential, Some(Credential { user: Some("u".into()), password }));
        assert_eq!((all.db, all.tls.server_name.as_deref()), (3, Some("n")));
        assert_eq!((all.remote.boot, all.remote.dial_timeout.as_secs()), (BootPolicy::Degraded, 3));
        assert!(
            matches!(all.topology, RedisTopology::Sentinel { master, data_tls: true, .. } if master == "m")
        );
    }

    #[test]
    fn what_cannot_work_names_the_option() {
        let refused = |words: &str| settings(words, Defaults::claims()).unwrap_err().to_string();
        assert!(refused("--cache-backend=redis").starts_with("--redis-addr: required"));
        assert!(
            refused("--redis-addr=a:1 --redis-topology=sentinel").starts_with("--redis-sentinel-master:")
        );
        for addresses in ["--redis-addr=redis://a/2", "--redis-addr=a:1 --redis-db=2"] {
            let refused = refused(&format!("{addresses} --redis-topology=cluster"));
            assert!(refused.starts_with("--redis-db: ") && refused.contains("database 0"), "{refused}");
        }
        assert!(refused("--redis-addr=a:1 --redis-tls-key-file=k").starts_with("--redis-tls-key-file:"));
        assert_eq!(
            refused("--redis-addr=a:1 --redis-user=u"),
            "--redis-user: u without a password; want --redis-password-file or REDIS_PASSWORD"
        );
    }

    #[test]
    fn two_stores_are_one_too_many() {
        let refused = |words: &str| settings(words, Defaults::claims()).unwrap_err().to_string();
        for (words, both) in [
            ("--cache-backend=memory --redis-addr=a:1", ["--cache-backend: memory", "--redis-addr"]),
            ("--cache-backend=none --redis-addr=a:1", ["--cache-backend: none", "--redis-addr"]),
            ("--cache-backend=redis --aerospike-hosts=a", ["--cache-backend: redis", "--aerospike-hosts"]),
            ("--cache-backend=aerospike --redis-addr=a:1", ["--cache-backend: aerospike", "--redis-addr"]),
            ("--redis-addr=a:1 --aerospike-hosts=b", ["--redis-addr: ", "--aerospike-hosts"]),
            (
                "--cache-backend=redis --redis-addr=a:1 --aerospike-hosts=b",
                ["--redis-addr: ", "--aerospike-hosts"],
            ),
        ] {
            let refused = refused(words);
            assert!(both.iter().all(|option| refused.contains(option)), "{words}: {refused}");
        }
    }

    #[test]
    fn certificates_without_tls_are_refused() {
        let of = |words: &str| settings(words, Defaults::claims());
        for option in ["ca-file=f", "server-name=n", "cert-file=c --redis-tls-key-file=k"] {
            for addresses in ["a:1", "redis://a:1,b:2", "unix:///run/redis"] {
                let refused =
                    of(&format!("--redis-addr={addresses} --redis-tls-{option}")).unwrap_err().to_string();
                assert!(refused.starts_with("--redis-tls-") && refused.contains("--redis-addr"), "{refused}");
            }
            assert!(of(&format!("--redis-addr=a:1,rediss://b --redis-tls-{option}")).is_ok());
        }
    }

    #[test]
    fn two_groups_stand_beside_each_other_in_one_command() {
        let (own, jobs) = (Prefix::default(), Prefix::new("jobs-", "JOBS_"));
        let command = Flags::augment(Flags::augment(Command::new("role"), &own), &jobs);
        command.clone().debug_assert();
        let variables: Vec<_> = command.get_arguments().filter_map(|arg| arg.get_env()?.to_str()).collect();
        assert!(variables.contains(&"REDIS_ADDR") && variables.contains(&"JOBS_REDIS_ADDR"), "{variables:?}");
        let help = command.clone().render_long_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(help.contains("with --jobs-redis-topology=sentinel"), "{help}");
        assert!(help.contains("what JOBS_REDIS_PASSWORD holds"), "{help}");
        let command = command.mut_args(|arg| arg.env(clap::builder::Resettable::Reset));
        let given = ["role", "--redis-addr=a:1", "--jobs-redis-addr=b:2", "--jobs-redis-user=u"];
        let matches = command.get_matches_from(given);
        let address = |prefix| Flags::from_matches(&matches, prefix).unwrap().redis_addr.unwrap().to_string();
        assert_eq!((address(&own), address(&jobs)), ("a:1".to_owned(), "b:2".to_owned()));
        let jobs = Flags::from_matches(&matches, &jobs).unwrap();
        assert_eq!(
            jobs.settings(BackendKind::Redis, Defaults::claims()).unwrap_err().to_string(),
            "--jobs-redis-user: u without a password; want --jobs-redis-password-file or JOBS_REDIS_PASSWORD"
        );
    }
}
