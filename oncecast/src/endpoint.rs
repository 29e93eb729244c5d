//! `udp://host:port` and `tcp://host:port` as the tools take them.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// Transport of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// A transport and an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub transport: Transport,
    pub address: SocketAddr,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Endpoint, String> {
        const ACCEPTED: &str = "want udp://HOST:PORT or tcp://HOST:PORT, IPv6 addresses in brackets";
        let (transport, rest) = match text.split_once("://") {
            Some(("udp", rest)) => (Transport::Udp, rest),
            Some(("tcp", rest)) => (Transport::Tcp, rest),
            _ => return Err(ACCEPTED.to_owned()),
        };
        let mut addresses = rest.to_socket_addrs().map_err(|error| format!("{error}; {ACCEPTED}"))?;
        let address = addresses.next().ok_or_else(|| format!("{rest} has no address; {ACCEPTED}"))?;
        Ok(Endpoint { transport, address })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.transport {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        };
        write!(f, "{scheme}://{}", self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_survives_printing_and_parsing() {
        for text in ["udp://127.0.0.1:9000", "tcp://[::1]:8725"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_wrong_scheme_says_what_is_accepted() {
        let error = "http://127.0.0.1:1".parse::<Endpoint>().unwrap_err();
        assert!(error.contains("udp://HOST:PORT"), "{error}");
    }
}
