//! From the options of the shared store to the settings of its backend: once, for all roles.

use super::invalid::Invalid;
use super::parsers::whole;
use super::values::{ByteSize, HostPort, HostPorts, Names, Unacceptable, duration};
use cache_backend::{
    AerospikeSettings, BootPolicy, Credential, RedisSettings, RedisTopology, RemoteSettings, Secret,
    Settings, TlsSettings, redis,
};
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// Where a password is looked for when no file is named.
const REDIS_PASSWORD: &str = "REDIS_PASSWORD";
const AEROSPIKE_PASSWORD: &str = "AEROSPIKE_PASSWORD";

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

    fn remote(self) -> RemoteSettings {
        match self {
            Purpose::Claims | Purpose::Marks => RemoteSettings::for_claims(),
            Purpose::Frames => RemoteSettings::for_frames(),
        }
    }

    fn aerospike_set(self) -> &'static str {
        match self {
            // One namespace: a mark in another set than the claims would be seen by nobody.
            Purpose::Claims | Purpose::Marks => "bsp",
            Purpose::Frames => "bre",
        }
    }
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

    /// Settings of a store of `kind` for `purpose`.
    ///
    /// # Errors
    /// Sentinel without the name of a master, a user without a password.
    pub fn settings(&self, kind: BackendKind, purpose: Purpose) -> Result<Settings, Invalid> {
        Ok(match kind {
            BackendKind::None => Settings::None,
            BackendKind::Memory => Settings::Memory { bytes: self.memory_backend_bytes.as_usize() },
            BackendKind::Redis => Settings::Redis(Box::new(self.redis(purpose)?)),
            BackendKind::Aerospike => Settings::Aerospike(Box::new(self.aerospike(purpose)?)),
        })
    }

    /// Longest wait for one operation.
    pub fn op_timeout(&self, purpose: Purpose) -> Duration {
        self.cache_op_timeout.unwrap_or(purpose.remote().op_timeout)
    }

    fn remote(&self, purpose: Purpose) -> RemoteSettings {
        let standard = purpose.remote();
        let dial_timeout = self.cache_dial_timeout.unwrap_or(standard.dial_timeout);
        RemoteSettings {
            op_timeout: self.op_timeout(purpose),
            dial_timeout,
            // Long enough for a server that starts beside us, short enough to see at once that it will not come.
            boot_patience: dial_timeout * 2,
            boot: match self.backend_boot {
                BootMode::Strict => BootPolicy::Strict,
                BootMode::Degraded => BootPolicy::Degraded,
            },
            ..standard
        }
    }

    fn redis(&self, purpose: Purpose) -> Result<RedisSettings, Invalid> {
        let addresses = self.redis_addr.as_ref().map_or_else(Vec::new, |names| names.0.clone());
        let credential =
            credential("redis-user", &self.redis_user, &self.redis_password_file, REDIS_PASSWORD)?;
        let topology = match self.redis_topology {
            TopologyArg::Auto => RedisTopology::Auto,
            TopologyArg::Single => RedisTopology::Single,
            TopologyArg::Cluster => RedisTopology::Cluster,
            TopologyArg::Sentinel => RedisTopology::Sentinel {
                master: self.redis_sentinel_master.clone().ok_or_else(|| {
                    Invalid::new(
                        "redis-sentinel-master",
                        "required by --redis-topology=sentinel; want the master's name",
                    )
                })?,
                // A Sentinel that asks for a password of its own carries it in its address.
                credential: None,
                data_tls: addresses.iter().any(|address| address.starts_with("rediss://")),
            },
        };
        let settings = RedisSettings {
            addresses,
            topology,
            credential,
            db: self.redis_db,
            tls: TlsSettings {
                ca_file: self.redis_tls_ca_file.clone(),
                cert_file: self.redis_tls_cert_file.clone(),
                key_file: self.redis_tls_key_file.clone(),
                server_name: self.redis_tls_server_name.clone(),
            },
            remote: self.remote(purpose),
        };
        match (&settings.tls.cert_file, &settings.tls.key_file) {
            (Some(_), None) => {
                return Err(Invalid::new(
                    "redis-tls-cert-file",
                    "given without --redis-tls-key-file; want both",
                ));
            }
            (None, Some(_)) => {
                return Err(Invalid::new(
                    "redis-tls-key-file",
                    "given without --redis-tls-cert-file; want both",
                ));
            }
            _ => {}
        }
        // The addresses were read when they were parsed; what is left is the database.
        redis::check(&settings).map_err(|error| Invalid::new("redis-db", error.0))?;
        Ok(settings)
    }

    fn aerospike(&self, purpose: Purpose) -> Result<AerospikeSettings, Invalid> {
        let hosts = self.aerospike_hosts.as_ref().map_or(&[][..], |hosts| &hosts.0);
        let set = self.aerospike_set.clone().unwrap_or_else(|| purpose.aerospike_set().to_owned());
        Ok(AerospikeSettings {
            hosts: hosts.iter().map(|host| seed(host, 3000)).collect(),
            set,
            credential: credential(
                "aerospike-user",
                &self.aerospike_user,
                &self.aerospike_password_file,
                AEROSPIKE_PASSWORD,
            )?,
            remote: self.remote(purpose),
            ..AerospikeSettings::new("", self.aerospike_namespace.clone())
        })
    }
}

/// `None` where neither a user nor a password is given: the address may carry both.
fn credential(
    option: &'static str,
    user: &Option<String>,
    file: &Option<PathBuf>,
    variable: &str,
) -> Result<Option<Credential>, Invalid> {
    let in_environment = || std::env::var_os(variable).map(|_| Secret::Env(variable.to_owned()));
    match (user, file.clone().map(Secret::File).or_else(in_environment)) {
        (user, Some(password)) => Ok(Some(Credential { user: user.clone(), password })),
        (None, None) => Ok(None),
        (Some(user), None) => {
            let file = option.replace("user", "password-file");
            Err(Invalid::new(option, format!("{user} without a password; want --{file} or {variable}")))
        }
    }
}

/// `host:port`, brackets around an IPv6 literal.
fn seed(host: &HostPort, default_port: u16) -> String {
    HostPort { host: host.host.clone(), port: Some(host.port_or(default_port)) }.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args, FromArgMatches};

    fn settings(flags: &str, purpose: Purpose) -> Result<Settings, Invalid> {
        let command = BackendArgs::augment_args(clap::Command::new("role").no_binary_name(true));
        let matches = command.try_get_matches_from(flags.split_whitespace()).unwrap();
        let args = BackendArgs::from_arg_matches(&matches).unwrap();
        args.settings(args.kind_or(BackendKind::None)?, purpose)
    }

    fn redis(flags: &str, purpose: Purpose) -> RedisSettings {
        match settings(flags, purpose).unwrap() {
            Settings::Redis(settings) => *settings,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn marks_stand_in_the_set_of_the_claims() {
        let set = |purpose| match settings("--aerospike-hosts=a", purpose) {
            Ok(Settings::Aerospike(settings)) => settings.set,
            other => panic!("{other:?}"),
        };
        assert_eq!(set(Purpose::Marks), set(Purpose::Claims));
    }

    #[test]
    fn an_address_alone_names_its_kind() {
        assert_eq!(settings("", Purpose::Claims), Ok(Settings::None));
        let single = redis("--redis-addr=a:1,b:2", Purpose::Claims);
        assert_eq!((single.addresses.len(), &single.topology), (2, &RedisTopology::Auto));
        let aerospike = settings("--aerospike-hosts=a,[::1]:4000", Purpose::Frames).unwrap();
        let Settings::Aerospike(aerospike) = aerospike else { panic!("{aerospike:?}") };
        assert_eq!(aerospike.hosts, ["a:3000", "[::1]:4000"]);
        assert_eq!((aerospike.namespace.as_str(), aerospike.set.as_str()), ("cache", "bre"));
    }

    #[test]
    fn a_password_in_an_address_is_in_no_debug_output() {
        for addresses in ["redis://u:sesame@h:1", "h:1,rediss://:sesame@h:2"] {
            let command = BackendArgs::augment_args(clap::Command::new("role").no_binary_name(true));
            let matches = command.try_get_matches_from([format!("--redis-addr={addresses}")]).unwrap();
            let args = BackendArgs::from_arg_matches(&matches).unwrap();
            let settings = args.settings(BackendKind::Redis, Purpose::Claims).unwrap();
            for text in [format!("{args:?}"), format!("{settings:?}"), format!("{settings:#?}")] {
                assert!(!text.contains("sesame"), "{text}");
            }
        }
        let shown = format!("{:?}", redis("--redis-addr=redis://u:p@h:1,h:2", Purpose::Claims));
        assert!(shown.contains("h:1") && shown.contains("\"h:2\""), "{shown}");
    }

    #[test]
    fn claims_are_waited_for_shorter_than_frames_unless_told() {
        let of = |flags, purpose| redis(flags, purpose).remote.op_timeout.as_millis();
        assert_eq!(of("--redis-addr=a:1", Purpose::Claims), 50);
        assert_eq!(of("--redis-addr=a:1", Purpose::Frames), 1000);
        assert_eq!(of("--redis-addr=a:1 --cache-op-timeout=20ms", Purpose::Frames), 20);
    }

    #[test]
    fn every_option_of_redis_arrives() {
        let all = redis(
            "--redis-addr=rediss://s:1 --redis-topology=sentinel --redis-sentinel-master=m --redis-user=u \
             --redis-password-file=/p --redis-db=3 --redis-tls-ca-file=/ca --redis-tls-cert-file=/c \
             --redis-tls-key-file=/k --redis-tls-server-name=n --backend-boot=degraded --cache-dial-timeout=3s",
            Purpose::Frames,
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
        let refused = |flags: &str| settings(flags, Purpose::Claims).unwrap_err().to_string();
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
}
