//! Addresses of Redis servers as people write them.

use crate::{Credential, OpenError, Secret};
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
        match scheme {
            "unix" | "redis+unix" => Address::parse_unix(rest),
            "redis" | "rediss" => Address::parse_tcp(rest, scheme == "rediss", default_port),
            _ => Err("unknown scheme".to_owned()),
        }
    }

    fn parse_unix(rest: &str) -> Result<Address, String> {
        let (credential, rest) = split_credential(rest)?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        if !path.starts_with('/') {
            return Err("a socket path must be absolute".to_owned());
        }
        let db = match query.strip_prefix("db=") {
            Some(db) => Some(db.parse().map_err(|_| format!("database \"{db}\" is not a number"))?),
            None if query.is_empty() => None,
            None => return Err(format!("unknown query \"{query}\"")),
        };
        Ok(Address { endpoint: Endpoint::Unix(PathBuf::from(path)), credential, db })
    }

    fn parse_tcp(rest: &str, tls: bool, default_port: u16) -> Result<Address, String> {
        let (credential, rest) = split_credential(rest)?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let db = match path {
            "" => None,
            db => Some(db.parse().map_err(|_| format!("database \"{db}\" is not a number"))?),
        };
        let (host, port) = split_host(authority, default_port)?;
        Ok(Address { endpoint: Endpoint::Tcp { host, port, tls }, credential, db })
    }
}

fn split_credential(rest: &str) -> Result<(Option<Credential>, &str), String> {
    let Some((credential, rest)) = rest.rsplit_once('@') else { return Ok((None, rest)) };
    let (user, password) = credential.split_once(':').unwrap_or(("", credential));
    let user = percent_decode(user)?;
    let credential = Credential {
        user: (!user.is_empty()).then_some(user),
        password: Secret::Plain(percent_decode(password)?),
    };
    Ok((Some(credential), rest))
}

fn split_host(authority: &str, default_port: u16) -> Result<(String, u16), String> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or("a bracket is not closed")?;
            (host, port.strip_prefix(':'))
        }
        None => match authority.rsplit_once(':') {
            Some((host, _)) if host.contains(':') => return Err("an IPv6 address needs brackets".to_owned()),
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    if host.is_empty() {
        return Err("the host is missing".to_owned());
    }
    let port = match port {
        None => default_port,
        Some(text) => match text.parse() {
            Ok(port) if port != 0 => port,
            _ => return Err(format!("port \"{text}\" is not a number from 1 to 65535")),
        },
    };
    Ok((host.to_owned(), port))
}

fn percent_decode(text: &str) -> Result<String, String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next())) else {
            return Err("a % in user or password must be written %25".to_owned());
        };
        decoded.extend(u8::try_from(high * 16 + low));
    }
    String::from_utf8(decoded).map_err(|_| "user or password is not UTF-8".to_owned())
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
