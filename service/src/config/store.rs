//! From the options of the shared store to the settings of its backend: once, for all roles.

use super::args::{BackendArgs, BackendKind, BootMode, TopologyArg};
use super::invalid::Invalid;
use super::values::HostPort;
use cache_backend::{
    AerospikeSettings, BootPolicy, Credential, RedisSettings, RedisTopology, RemoteSettings, Secret,
    Settings, TlsSettings, redis,
};
use std::path::PathBuf;

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

impl BackendArgs {
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
    pub fn op_timeout(&self, purpose: Purpose) -> std::time::Duration {
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
