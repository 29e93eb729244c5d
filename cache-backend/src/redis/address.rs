//! Addresses of Redis servers as people write them.
//!
//! The crate reads the URLs. On top of it come addresses without a scheme, another port where the addresses are Sentinels, a
//! password without a user as Redis tools write it, and an error for what would be ignored.

use crate::{Credential, OpenError, Secret};
use redis::{ConnectionAddr, IntoConnectionInfo};
use std::fmt;
use std::path::PathBuf;

/// Where one server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Endpoint {
    Tcp { host: String, port: u16, tls: bool },
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp { host, port, .. } if host.contains(':') => write!(out, "[{host}]:{port}"),
            Endpoint::Tcp { host, port, .. } => write!(out, "{host}:{port}"),
            Endpoint::Unix(path) => write!(out, "unix://{}", path.display()),
        }
    }
}

/// An address with what a URL may carry besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) endpoint: Endpoint,
    pub(super) credential: Option<Credential>,
    pub(super) db: Option<u32>,
}

/// Forms of an address, for people.
pub const ACCEPTED: &str =
    "host:port, redis://[user:password@]host[:port][/db], rediss://… (TLS) or unix:///path[?db=n]";

impl Address {
    pub(super) fn parse(text: &str, default_port: u16) -> Result<Address, OpenError> {
        Address::read(text, default_port).map_err(|why| {
            // The text may hold a password.
            let shown = match text.rsplit_once('@') {
                Some((_, rest)) => format!("…@{rest}"),
                None => text.to_owned(),
            };
            OpenError(format!("redis: address \"{shown}\": {why}; accepted are {ACCEPTED}"))
        })
    }

    /// The error is what is wrong, without the text itself.
    pub(super) fn read(text: &str, default_port: u16) -> Result<Address, String> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("redis", text));
        // A URL has no place for words before a path without a host.
        if scheme.ends_with("unix")
            && let Some((words, path)) = rest.split_once("@/").filter(|(words, _)| !words.contains('/'))
        {
            let Address { credential, .. } = Address::read(&format!("redis://{words}@socket"), default_port)?;
            let of_path = Address::read(&format!("{scheme}:///{path}"), default_port)?;
            return Ok(Address { credential, ..of_path });
        }
        // TLS is ours: without its feature the crate refuses these.
        let (scheme, tls) = match scheme {
            "rediss" | "valkeys" => ("redis", true),
            scheme => (scheme, false),
        };
        let mut url = redis::parse_redis_url(&format!("{scheme}://{rest}"))
            .ok_or("unknown scheme, or no host (in brackets if it is an IPv6 address) and port")?;
        let is_unix = url.scheme().ends_with("unix");
        if url.fragment().is_some()
            || url.query_pairs().any(|(name, _)| !is_unix || !["db", "user", "pass"].contains(&&*name))
        {
            return Err("only unix:// takes a query: db, user, pass".to_owned());
        }
        if !is_unix && url.port() == Some(0) {
            return Err("port 0 cannot be connected to".to_owned());
        }
        if !is_unix && url.port().is_none() && url.set_port(Some(default_port)).is_err() {
            return Err("the host is missing".to_owned());
        }
        // A password alone belongs to the default user.
        let only_word = url.password().is_none();
        let (has_path, has_db) =
            (!url.path().trim_matches('/').is_empty(), url.query_pairs().any(|(name, _)| name == "db"));
        let info = url.into_connection_info().map_err(|error| error.to_string())?;
        let redis = info.redis_settings();
        let (user, password) = match (redis.username(), redis.password()) {
            (Some(password), None) if only_word => (None, Some(password)),
            both => both,
        };
        let db = if is_unix { has_db } else { has_path };
        Ok(Address {
            endpoint: match info.addr() {
                ConnectionAddr::Tcp(host, port) => Endpoint::Tcp { host: host.clone(), port: *port, tls },
                ConnectionAddr::Unix(path) => Endpoint::Unix(path.clone()),
                _ => return Err("unknown scheme".to_owned()),
            },
            credential: password.map(|password| Credential {
                user: user.map(str::to_owned),
                password: Secret::Plain(password.to_owned()),
            }),
            db: match db {
                true => Some(redis.db().try_into().map_err(|_| "the database is negative or too large")?),
                false => None,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16, tls: bool) -> Endpoint {
        Endpoint::Tcp { host: host.to_owned(), port, tls }
    }

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, endpoint, db) in [
            ("cache", tcp("cache", 6379, false), None),
            ("cache:7000", tcp("cache", 7000, false), None),
            ("[::1]:7000", tcp("::1", 7000, false), None),
            ("redis://10.0.0.1", tcp("10.0.0.1", 6379, false), None),
            ("rediss://cache.example:6380/3", tcp("cache.example", 6380, true), Some(3)),
            ("redis://cache/", tcp("cache", 6379, false), None),
            ("unix:///run/redis.sock", Endpoint::Unix("/run/redis.sock".into()), None),
            ("unix:///run/redis.sock?db=2", Endpoint::Unix("/run/redis.sock".into()), Some(2)),
        ] {
            let address = Address::parse(text, 6379).unwrap();
            assert_eq!((address.endpoint, address.db, address.credential), (endpoint, db, None), "{text}");
        }
        let address = Address::parse("rediss://us%40er:p%3Aw@d@host:1", 6379).unwrap();
        let credential = Credential { user: Some("us@er".into()), password: Secret::Plain("p:w@d".into()) };
        assert_eq!(address.credential, Some(credential));
        let socket = Address::parse("unix://us%40er:p%3Aw@d@/run/redis.sock?db=2", 6379).unwrap();
        assert_eq!((socket.credential, socket.db), (address.credential, Some(2)));
        assert_eq!(socket.endpoint, Endpoint::Unix("/run/redis.sock".into()));
        let address = Address::parse("redis://:only@host", 6379).unwrap();
        assert_eq!(address.credential.unwrap().user, None);
    }

    #[test]
    fn an_address_that_cannot_be_read_is_named_without_its_password() {
        for text in [
            "",
            ":6379",
            "host:0",
            "host:70000",
            "host:x",
            "::1",
            "http://host",
            "redis://h/x",
            "unix://rel",
            "[::1",
        ] {
            let error = Address::parse(text, 6379).unwrap_err().0;
            assert!(error.contains("rediss://"), "{error}");
        }
        let error = Address::parse("redis://me:sesame@host:x", 6379).unwrap_err().0;
        assert!(!error.contains("sesame") && error.contains("host:x"), "{error}");
    }
}
