//! From options to the settings of a shared store.

use cache_backend::settings::{
    AerospikeSettings, BootPolicy, Credential, RedisSettings, RedisTopology, RemoteSettings, Secret,
    Settings, TlsSettings,
};
use service::config::{BackendArgs, BackendKind, BootMode, HostPort, Invalid, TopologyArg};
use std::path::PathBuf;

/// Settings of `kind`, for claims.
///
/// # Errors
/// Sentinel without the name of a master.
pub(crate) fn settings(args: &BackendArgs, kind: BackendKind) -> Result<Settings, Invalid> {
    Ok(match kind {
        BackendKind::None => Settings::None,
        BackendKind::Memory => Settings::Memory { bytes: args.memory_backend_bytes.as_usize() },
        BackendKind::Redis => Settings::Redis(Box::new(redis(args)?)),
        BackendKind::Aerospike => Settings::Aerospike(Box::new(aerospike(args))),
    })
}

fn remote(args: &BackendArgs) -> RemoteSettings {
    let defaults = RemoteSettings::for_claims();
    RemoteSettings {
        op_timeout: args.cache_op_timeout.unwrap_or(defaults.op_timeout),
        dial_timeout: args.cache_dial_timeout.unwrap_or(defaults.dial_timeout),
        boot: match args.backend_boot {
            BootMode::Strict => BootPolicy::Strict,
            BootMode::Degraded => BootPolicy::Degraded,
        },
        ..defaults
    }
}

fn credential(user: Option<&String>, password_file: Option<&PathBuf>) -> Option<Credential> {
    let password = Secret::File(password_file?.clone());
    Some(Credential { user: user.cloned(), password })
}

fn redis(args: &BackendArgs) -> Result<RedisSettings, Invalid> {
    let addresses = args.redis_addr.as_ref().map_or_else(Vec::new, |names| names.0.clone());
    let tls_data = addresses.iter().any(|address| address.starts_with("rediss://"));
    let credential = credential(args.redis_user.as_ref(), args.redis_password_file.as_ref());
    let topology = match args.redis_topology {
        TopologyArg::Auto => RedisTopology::Auto,
        TopologyArg::Single => RedisTopology::Single,
        TopologyArg::Cluster => RedisTopology::Cluster,
        TopologyArg::Sentinel => RedisTopology::Sentinel {
            master: args.redis_sentinel_master.clone().ok_or_else(|| {
                Invalid::new(
                    "redis-sentinel-master",
                    "required by --redis-topology=sentinel; want the master's name",
                )
            })?,
            credential: credential.clone(),
            data_tls: tls_data,
        },
    };
    Ok(RedisSettings {
        addresses,
        topology,
        credential,
        db: args.redis_db,
        tls: TlsSettings {
            ca_file: args.redis_tls_ca_file.clone(),
            cert_file: args.redis_tls_cert_file.clone(),
            key_file: args.redis_tls_key_file.clone(),
            server_name: args.redis_tls_server_name.clone(),
        },
        remote: remote(args),
    })
}

fn aerospike(args: &BackendArgs) -> AerospikeSettings {
    let hosts = args.aerospike_hosts.as_ref().map_or(&[][..], |hosts| &hosts.0);
    let defaults = AerospikeSettings::new("", args.aerospike_namespace.clone());
    AerospikeSettings {
        hosts: hosts.iter().map(|host| seed(host, 3000)).collect(),
        set: args.aerospike_set.clone().unwrap_or(defaults.set.clone()),
        credential: credential(args.aerospike_user.as_ref(), args.aerospike_password_file.as_ref()),
        remote: remote(args),
        ..defaults
    }
}

fn seed(host: &HostPort, default_port: u16) -> String {
    HostPort { port: Some(host.port_or(default_port)), ..host.clone() }.to_string()
}
