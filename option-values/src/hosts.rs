use crate::{Unacceptable, display_joined, parts, want};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// A host (name or address) and, where given, a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Name or address, without brackets.
    pub host: String,
    /// Port; `None` where the text gave none.
    pub port: Option<u16>,
}

impl HostPort {
    const ACCEPTED: &str = "host:port, such as 10.0.0.1:6379, [fd00::1]:6379 or cache-1:6379";

    /// The port, or `default` where none was given.
    pub fn port_or(&self, default: u16) -> u16 {
        self.port.unwrap_or(default)
    }

    /// The address where the host is a literal; names are left to the resolver.
    pub fn literal(&self, default_port: u16) -> Option<SocketAddr> {
        let ip = self.host.parse::<IpAddr>().ok()?;
        Some(SocketAddr::new(ip, self.port_or(default_port)))
    }
}

impl FromStr for HostPort {
    type Err = Unacceptable;

    fn from_str(text: &str) -> Result<HostPort, Unacceptable> {
        let bare_v6 = text.parse::<Ipv6Addr>().is_ok();
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) if host.parse::<Ipv6Addr>().is_ok() => (host, None),
            Some((host, port)) if host.parse::<Ipv6Addr>().is_ok() => match port.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None => return want(HostPort::ACCEPTED),
            },
            Some(_) => return want(HostPort::ACCEPTED),
            None if bare_v6 => (text, None),
            None => text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let name_ok = |host: &str| host.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        let port = match port.map(str::parse::<u16>) {
            Some(Err(_)) | Some(Ok(0)) => return want(HostPort::ACCEPTED),
            Some(Ok(port)) => Some(port),
            None => None,
        };
        if host.is_empty() || (!name_ok(host) && host.parse::<Ipv6Addr>().is_err()) {
            return want(HostPort::ACCEPTED);
        }
        Ok(HostPort { host: host.to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.host.contains(':'), self.port) {
            (true, Some(port)) => write!(f, "[{}]:{port}", self.host),
            (true, None) => write!(f, "[{}]", self.host),
            (false, Some(port)) => write!(f, "{}:{port}", self.host),
            (false, None) => f.write_str(&self.host),
        }
    }
}

/// A comma separated list of [`HostPort`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostPorts(pub Vec<HostPort>);

impl FromStr for HostPorts {
    type Err = Unacceptable;

    fn from_str(text: &str) -> Result<HostPorts, Unacceptable> {
        let hosts: Result<Vec<HostPort>, _> = parts(text).map(str::parse).collect();
        hosts
            .map(HostPorts)
            .map_err(|Unacceptable(one)| Unacceptable(format!("a comma separated list of {one}")))
    }
}

display_joined!(HostPorts, HostPort::to_string);

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T: FromStr<Err = Unacceptable> + fmt::Debug>(texts: &[&str]) {
        for text in texts {
            assert!(text.parse::<T>().is_err(), "{text:?} was accepted: {:?}", text.parse::<T>());
        }
    }

    #[test]
    fn hosts_and_ports() {
        let host = |text: &str| text.parse::<HostPort>().unwrap();
        assert_eq!(host("[fd00::1]:6379"), HostPort { host: "fd00::1".to_owned(), port: Some(6379) });
        assert_eq!(host("fd00::1"), HostPort { host: "fd00::1".to_owned(), port: None });
        assert_eq!(host("cache-1").port_or(3000), 3000);
        assert_eq!(host("10.0.0.1:80").literal(0), Some("10.0.0.1:80".parse().unwrap()));
        let list: HostPorts = "a:1, [::1]:2,c".parse().unwrap();
        assert_eq!(list.to_string(), "a:1,[::1]:2,c");
        refused::<HostPort>(&["", ":1", "a:0", "a:65536", "a:b", "a b:1", "[x]:1", "[::1]x"]);
        assert!("".parse::<HostPorts>().unwrap().0.is_empty());
    }
}
