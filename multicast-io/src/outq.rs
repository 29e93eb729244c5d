//! `SIOCOUTQ`: what a TCP peer has not acknowledged yet.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Bytes written to the stream that the peer's TCP has not acknowledged. Zero: all of it arrived at the peer's host.
pub fn unacknowledged(stream: &impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request (SIOCOUTQ is the same number as TIOCOUTQ) writes one int, which lives through the call.
    let result = unsafe { libc::ioctl(stream.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(bytes).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn bytes_beyond_what_the_peer_has_room_for_stay_unacknowledged() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        assert_eq!(unacknowledged(&stream).unwrap(), 0);
        stream.set_nonblocking(true).unwrap();
        let chunk = [7; 65_536];
        let mut written = 0;
        while let Ok(more) = stream.write(&chunk) {
            written += more;
        }
        assert!(unacknowledged(&stream).unwrap() > 0);
        peer.read_exact(&mut vec![0; written]).unwrap();
        // The acknowledgement of the last bytes is under way: a condition to await, on the loopback within moments.
        while unacknowledged(&stream).unwrap() > 0 {
            std::thread::yield_now();
        }
    }
}
