//! What to open: plain data. Begin with `new` or `for_…`, then set the fields that differ; later releases may add fields.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A store by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Settings {
    /// No backend: each process decides alone.
    #[default]
    None,
    /// Inside the process, shared by its roles.
    Memory {
        /// Upper bound, own overhead included.
        bytes: usize,
    },
    /// Redis, Valkey, Dragonfly: one server, Sentinel or Cluster.
    Redis(Box<RedisSettings>),
    /// Aerospike.
    Aerospike(Box<AerospikeSettings>),
}

/// What all remote stores share.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemoteSettings {
    /// No operation waits longer (`--cache-op-timeout`): 50 ms for claims, 1 s for frames.
    pub op_timeout: Duration,
    /// The adaptive deadline never goes below this.
    pub deadline_floor: Duration,
    /// One dial with its handshake, credentials and probe.
    pub dial_timeout: Duration,
    /// How long a strict open keeps trying before it gives up.
    pub boot_patience: Duration,
    /// What happens when the store cannot be reached at start.
    pub boot: BootPolicy,
    /// Batches of one session that wait for their answer; more are refused as overloaded.
    pub max_batches: usize,
    /// Bytes of keys and values of one session that wait for their answer; more are refused as overloaded.
    pub max_bytes: usize,
    /// Failed batches in a row that open the breaker of a server.
    pub breaker_threshold: u32,
    /// Reads and deletes go on while a server refuses writes (out of memory, no replica): it still holds what it holds.
    /// Otherwise it is not asked at all.
    pub reads_without_writes: bool,
    /// Keys of the probe start with this, so that an ACL or a namespace rule can allow them.
    pub probe_prefix: String,
}

impl RemoteSettings {
    /// Defaults for claims: 50 ms.
    pub fn for_claims() -> RemoteSettings {
        RemoteSettings {
            op_timeout: Duration::from_millis(50),
            deadline_floor: Duration::from_millis(5),
            dial_timeout: Duration::from_secs(1),
            boot_patience: Duration::from_secs(10),
            boot: BootPolicy::Strict,
            max_batches: 64,
            max_bytes: 16 << 20,
            breaker_threshold: 3,
            reads_without_writes: false,
            probe_prefix: "bsp:probe:".to_owned(),
        }
    }
    /// Defaults for the frame store: 1 s, more bytes.
    pub fn for_frames() -> RemoteSettings {
        RemoteSettings {
            op_timeout: Duration::from_secs(1),
            max_bytes: 64 << 20,
            reads_without_writes: true,
            probe_prefix: "bre:probe:".to_owned(),
            ..RemoteSettings::for_claims()
        }
    }
}

impl Default for RemoteSettings {
    fn default() -> RemoteSettings {
        RemoteSettings::for_claims()
    }
}

/// What to do when a store cannot be reached at start. Settings that can never work are errors either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum BootPolicy {
    /// A store that cannot be reached is an error at start.
    #[default]
    Strict,
    /// Start without it and keep trying.
    Degraded,
}

/// Where a password comes from. Read anew at every dial, so that a rotated file is picked up.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Secret {
    /// Given as it is.
    Plain(String),
    /// The first line of a file.
    File(PathBuf),
    /// An environment variable.
    Env(String),
}

impl Secret {
    /// The password, or what is wrong with its source.
    pub fn read(&self) -> Result<String, String> {
        match self {
            Secret::Plain(text) => Ok(text.clone()),
            Secret::File(path) => match std::fs::read_to_string(path) {
                Ok(text) => Ok(text.lines().next().unwrap_or_default().to_owned()),
                Err(error) => Err(format!("password file {}: {error}", path.display())),
            },
            Secret::Env(name) => std::env::var(name)
                .map_err(|_| format!("password variable {name} is not set (or is not valid UTF-8)")),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Secret::Plain(_) => out.write_str("Plain(hidden)"),
            Secret::File(path) => out.debug_tuple("File").field(path).finish(),
            Secret::Env(name) => out.debug_tuple("Env").field(name).finish(),
        }
    }
}

/// A user and how to read its password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// `None`: the default user of the server.
    pub user: Option<String>,
    /// Its password.
    pub password: Secret,
}

/// `redis`.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisSettings {
    /// `host:port`, `redis://`, `rediss://` (TLS) or `unix:///path`. A URL may carry user, password and `/db`; what is
    /// given in the fields below wins. With Sentinel these are the Sentinels, with Cluster the seeds. User and password
    /// are not in the `Debug` output.
    pub addresses: Vec<String>,
    /// What stands behind the addresses.
    pub topology: RedisTopology,
    /// For the data servers.
    pub credential: Option<Credential>,
    /// Database number; 0 in a Cluster.
    pub db: u32,
    /// Certificates for `rediss://`.
    pub tls: TlsSettings,
    /// Deadlines, bounds, boot.
    pub remote: RemoteSettings,
}

impl fmt::Debug for RedisSettings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A list that was split inside of a password has a part with an `@` that is no URL: nothing of it is shown.
        let readable = self.addresses.iter().all(|address| !address.contains('@') || address.contains("://"));
        let shown = |address: &String| match address.rsplit_once('@') {
            _ if !readable => "hidden".to_owned(),
            Some((_, rest)) => format!("hidden@{rest}"),
            None => address.clone(),
        };
        out.debug_struct("RedisSettings")
            .field("addresses", &self.addresses.iter().map(shown).collect::<Vec<_>>())
            .field("topology", &self.topology)
            .field("credential", &self.credential)
            .field("db", &self.db)
            .field("tls", &self.tls)
            .field("remote", &self.remote)
            .finish()
    }
}

impl RedisSettings {
    /// One server (or a Cluster, which is recognised) at a bare address or URL.
    pub fn new(address: impl Into<String>) -> RedisSettings {
        RedisSettings {
            addresses: vec![address.into()],
            topology: RedisTopology::Auto,
            credential: None,
            db: 0,
            tls: TlsSettings::default(),
            remote: RemoteSettings::for_claims(),
        }
    }
}

/// What stands behind the addresses of a `redis` backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RedisTopology {
    /// One server, or a Cluster where the server says that it is part of one.
    #[default]
    Auto,
    /// One server; of several addresses the first that works.
    Single,
    /// The addresses are Sentinels, which name the master.
    Sentinel {
        /// Name of the master that the Sentinels watch.
        master: String,
        /// For the Sentinels themselves, where they ask for one.
        credential: Option<Credential>,
        /// The Sentinels speak TLS exactly if their addresses are `rediss://`; the data servers speak it if this is set.
        data_tls: bool,
    },
    /// The addresses are seeds of a Cluster.
    Cluster,
}

/// TLS of `rediss://`. Without a CA file the system's roots are trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsSettings {
    /// PEM file with the CA certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file with our certificate, where the server asks for one.
    pub cert_file: Option<PathBuf>,
    /// PEM file with its key.
    pub key_file: Option<PathBuf>,
    /// Name expected in the server's certificate instead of the host of the address.
    pub server_name: Option<String>,
}

/// `aerospike`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AerospikeSettings {
    /// `host:port`; port 3000 where it is missing.
    pub hosts: Vec<String>,
    /// Must exist on the servers and accept TTLs.
    pub namespace: String,
    /// Claims and settled records share it.
    pub set: String,
    /// Where the cluster asks for one.
    pub credential: Option<Credential>,
    /// Operations of one session in flight.
    pub concurrency: usize,
    /// Deadlines, bounds, boot.
    pub remote: RemoteSettings,
}

impl AerospikeSettings {
    /// The defaults of the Go stack: set `bsp`.
    pub fn new(host: impl Into<String>, namespace: impl Into<String>) -> AerospikeSettings {
        AerospikeSettings {
            hosts: vec![host.into()],
            namespace: namespace.into(),
            set: "bsp".to_owned(),
            credential: None,
            concurrency: 64,
            remote: RemoteSettings::for_claims(),
        }
    }
}
