//! The three roles: what the loader must know of each, and how it is started.

use service::config::{Role, RoleLoaded};
use service::run;
use std::process::ExitCode;

/// Options of the ingress role.
pub type ProxyConfig = proxy_ingress::Config;
/// Options of the egress role.
pub type ListenerConfig = listener_egress::Config;
/// Options of the retry role.
pub type RetryConfig = retry_endpoint::Config;

/// Names that the Go stack has for options which are called otherwise here. A row whose option the role does not declare
/// has no effect.
pub const ROLES: &[Role] = &[proxy_ingress::ROLE, listener_egress::ROLE, retry_endpoint::ROLE];

/// Runs the ingress role.
pub fn proxy(config: ProxyConfig, loaded: RoleLoaded) -> ExitCode {
    run::run(
        crate::VERSION,
        loaded,
        config,
        |config| Ok(proxy_ingress::needs(config)?),
        async |config, deps| Ok(proxy_ingress::start(config, deps).await?.wait()),
    )
}

/// Runs the egress role.
pub fn listener(config: ListenerConfig, loaded: RoleLoaded) -> ExitCode {
    run::run(
        crate::VERSION,
        loaded,
        config,
        |config| Ok(listener_egress::needs(config)?),
        async |config, deps| Ok(listener_egress::start(config, deps).await?.wait()),
    )
}

/// Runs the retry role.
pub fn retry(config: RetryConfig, loaded: RoleLoaded) -> ExitCode {
    run::run(
        crate::VERSION,
        loaded,
        config,
        |config| Ok(retry_endpoint::needs(config)?),
        async |config, deps| Ok(retry_endpoint::start(config, deps).await?.wait()),
    )
}
