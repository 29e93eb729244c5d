//! Datagrams as they come: several at once, and the socket that they came by.

use std::net::{IpAddr, SocketAddr};

/// Datagrams of one receive call.
pub trait Batch {
    /// How many.
    fn len(&self) -> usize;
    /// None.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Where one came from.
    fn source(&self, index: usize) -> SocketAddr;
    /// Its bytes.
    fn bytes(&self, index: usize) -> &[u8];
    /// The same, and perhaps what lies behind it: hashing is faster where it may load whole blocks.
    fn bytes_on(&self, index: usize) -> &[u8] {
        self.bytes(index)
    }
    /// Where it was sent to, as far as the socket told.
    fn destination(&self, _index: usize) -> Option<IpAddr> {
        None
    }
}

impl Batch for [(SocketAddr, Vec<u8>)] {
    fn len(&self) -> usize {
        <[_]>::len(self)
    }
    fn source(&self, index: usize) -> SocketAddr {
        self[index].0
    }
    fn bytes(&self, index: usize) -> &[u8] {
        &self[index].1
    }
}

impl Batch for multicast_io::Burst {
    fn len(&self) -> usize {
        self.arrivals().len()
    }
    fn source(&self, index: usize) -> SocketAddr {
        self.arrivals()[index].source
    }
    fn bytes(&self, index: usize) -> &[u8] {
        multicast_io::Burst::bytes(self, self.arrivals()[index].span)
    }
    fn bytes_on(&self, index: usize) -> &[u8] {
        let start = self.arrivals()[index].span.start as usize;
        self.memory().get(start..).unwrap_or_default()
    }
    fn destination(&self, index: usize) -> Option<IpAddr> {
        self.arrivals()[index].destination
    }
}

/// Which socket a batch came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Data groups.
    Groups,
    /// The socket that requests leave from: responses and unicast repairs.
    Replies,
}
