//! Network interfaces by name.

use crate::SocketError;
use std::net::{Ipv4Addr, Ipv6Addr};

/// An interface as it was when it was looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub index: u32,
    pub v4: Vec<Ipv4Addr>,
    pub v6: Vec<Ipv6Addr>,
    pub mtu: u32,
    pub is_loopback: bool,
}

impl Interface {
    /// The error lists the interfaces that exist.
    pub fn by_name(_name: &str) -> Result<Interface, SocketError> {
        unimplemented!()
    }
    pub fn all() -> Result<Vec<Interface>, SocketError> {
        unimplemented!()
    }
    /// First IPv6 address that is not link-local, else link-local.
    pub fn preferred_v6(&self) -> Option<Ipv6Addr> {
        unimplemented!()
    }
}
