//! The three roles: what the loader must know of each, and how it is started.

use service::config::{Alias, Role, RoleLoaded};
use service::run;
use std::process::ExitCode;

/// Options of the ingress role.
pub type ProxyConfig = proxy_ingress::Config;
/// Options of the egress role.
pub type ListenerConfig = listener_egress::Config;
/// Options of the retry role.
pub type RetryConfig = retry_endpoint::Config;

const fn alias(option: &'static str, flag: &'static str, env: &'static str) -> Alias {
    Alias { option, flag, env }
}

/// Names that the Go stack has for options which are called otherwise here. A row whose option the role does not declare
/// has no effect.
pub const ROLES: &[Role] = &[
    proxy_ingress::ROLE,
    Role {
        name: "listener",
        aliases: &[
            alias("cache-backend", "egress-dedup-backend", "EGRESS_DEDUP_BACKEND"),
            alias("redis-addr", "egress-dedup-redis-addr", "EGRESS_DEDUP_REDIS_ADDR"),
            alias("aerospike-hosts", "egress-dedup-aerospike-hosts", "EGRESS_DEDUP_AEROSPIKE_HOSTS"),
            alias(
                "aerospike-namespace",
                "egress-dedup-aerospike-namespace",
                "EGRESS_DEDUP_AEROSPIKE_NAMESPACE",
            ),
            alias("aerospike-set", "egress-dedup-aerospike-set", "EGRESS_DEDUP_AEROSPIKE_SET"),
        ],
        defaults: &[("metrics-addr", ":9200")],
    },
    retry_endpoint::config::ROLE,
];

/// Runs the ingress role.
pub fn proxy(config: ProxyConfig, loaded: RoleLoaded) -> ExitCode {
    run::run(
        crate::VERSION,
        loaded,
        config,
        |config| Ok(config.check()?),
        async |config, deps| Ok(proxy_ingress::start(config, deps).await?.wait()),
    )
}

/// Runs the egress role.
pub fn listener(mut config: ListenerConfig, loaded: RoleLoaded) -> ExitCode {
    config.instance = loaded.common.instance();
    config.drain_timeout = loaded.common.drain_timeout;
    run::run(
        crate::VERSION,
        loaded,
        config,
        |config| Ok(config.validate()?),
        async |config, deps| Ok(listener_egress::start(config, deps).await?.wait()),
    )
}

/// Runs the retry role.
pub fn retry(mut config: RetryConfig, loaded: RoleLoaded) -> ExitCode {
    config.instance = loaded.common.instance();
    config.drain_timeout = loaded.common.drain_timeout;
    run::run(
        crate::VERSION,
        loaded,
        config,
        |config| Ok(config.validate()?),
        async |config, deps| Ok(retry_endpoint::start(config, deps).await?.wait()),
    )
}
