//! Sockets for control traffic (beacons, NACKs), to be used through tokio one datagram at a time.

use crate::{SocketError, SocketOptions, open};

/// Opens and binds like a `Receiver`, non-blocking, but without GRO and packet information. Joins on it: [`crate::joins`].
pub fn control_socket(options: &SocketOptions) -> Result<std::net::UdpSocket, SocketError> {
    Ok(open::open(options)?.socket.into())
}
