//! What a role needs of its host, declared from its options. Nothing is looked at here.

use super::memory::Size;
use super::ports::{Port, admin_port};
use crate::config::{HostPort, RoleLoaded};
use cache_backend::Settings;
use std::net::IpAddr;

/// Everything that a role needs.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Interfaces.
    pub links: Vec<Link>,
    /// Addresses that must be of this host, with the option that names each.
    pub addresses: Vec<(&'static str, IpAddr)>,
    /// Unicast ports.
    pub ports: Vec<Port>,
    /// Names that are resolved, with the option that names each.
    pub names: Vec<(&'static str, String)>,
    /// Files that are read, with the option that names each.
    pub files: Vec<(String, String)>,
    /// Memory.
    pub sizes: Vec<Size>,
    /// Connections that may be open at once.
    pub connections: usize,
    /// Shared stores, with the option that chooses each.
    pub stores: Vec<(&'static str, Settings)>,
}

/// An interface.
#[derive(Clone, Debug)]
pub struct Link {
    /// The option that names it.
    pub option: &'static str,
    /// Its name.
    pub name: String,
    /// The option that names a packet size, and that size.
    pub least_mtu: Option<(&'static str, u32)>,
    /// Whether an IPv4 address is needed, else an IPv6 one.
    pub v4: bool,
}

impl Needs {
    /// A host that is given by name, to be resolved.
    pub fn name(&mut self, option: &'static str, host: &HostPort) {
        if host.literal(1).is_none() {
            self.names.push((option, host.host.clone()));
        }
    }

    /// With what the service itself needs: the admin port and the files that options name.
    pub fn and_of_the_service(mut self, loaded: &RoleLoaded) -> Needs {
        let admin = loaded.common.metrics_addr.as_ref().and_then(|listen| listen.0);
        self.ports.extend(admin.map(admin_port));
        let named = loaded.effective.iter().filter(|option| option.option.ends_with("-file"));
        let files = named.filter_map(|option| Some((format!("--{}", option.option), option.value.clone()?)));
        self.files.extend(files);
        self
    }

    /// A shared store, and the names in its addresses.
    pub fn store(&mut self, option: &'static str, settings: Settings) {
        let (of, addresses) = match &settings {
            Settings::Redis(redis) => ("--redis-addr", &redis.addresses),
            Settings::Aerospike(aerospike) => ("--aerospike-hosts", &aerospike.hosts),
            _ => return,
        };
        let names = addresses.iter().filter_map(|address| name_in(address));
        self.names.extend(names.map(|name| (of, name.to_owned())));
        self.stores.push((option, settings));
    }
}

/// The host's name in an address of a store; `None` for a literal address and for a path.
fn name_in(address: &str) -> Option<&str> {
    let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
    if scheme == "unix" {
        return None;
    }
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    let host = rest.split('/').next()?;
    let is_v6 = host.starts_with('[') || host.parse::<IpAddr>().is_ok();
    let host = host.split(':').next().filter(|_| !is_v6)?;
    (!host.is_empty() && host.parse::<IpAddr>().is_err()).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_the_addresses_of_stores() {
        for (address, name) in [
            ("cache-1:6379", Some("cache-1")),
            ("redis://me:secret@cache:6379/2", Some("cache")),
            ("rediss://cache", Some("cache")),
            ("10.0.0.1:6379", None),
            ("[::1]:6379", None),
            ("::1", None),
            ("redis://[::1]:6379", None),
            ("unix:///run/redis.sock", None),
        ] {
            assert_eq!(name_in(address), name, "{address}");
        }
    }
}
