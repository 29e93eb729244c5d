//! Names of hosts, looked up at the start.

use service::config::HostPort;
use std::net::{SocketAddr, ToSocketAddrs};

/// A name that has no address now. It is no mistake of the configuration: a service manager that starts the role again gets
/// further once the resolver answers.
#[derive(Debug, thiserror::Error)]
#[error("--{option}: {host}: {why}; want a name that resolves, or an address")]
pub(crate) struct Unresolved {
    option: &'static str,
    host: String,
    why: String,
}

/// The address of a host; names are resolved.
///
/// # Errors
/// A name that does not resolve.
pub(crate) fn resolve(host: &HostPort, port: u16, option: &'static str) -> Result<SocketAddr, Unresolved> {
    if let Some(address) = host.literal(port) {
        return Ok(address);
    }
    let unresolved = |why: String| Unresolved { option, host: host.to_string(), why };
    let mut addresses = (host.host.as_str(), host.port_or(port))
        .to_socket_addrs()
        .map_err(|error| unresolved(error.to_string()))?;
    addresses.next().ok_or_else(|| unresolved("no address".to_owned()))
}
