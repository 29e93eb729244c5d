//! What a TCP connection does about a peer that is gone without a word.
//!
//! A host that lost its power sends neither FIN nor RST. Keepalive finds that while nothing is under way, and
//! `TCP_USER_TIMEOUT` while data is. Both are set so that it takes less than ten seconds.
//!
//! `TCP_USER_TIMEOUT` also ends a connection whose peer is well and has no room: its window stays closed. [`has_no_room`] tells
//! the two apart, so that the caller can take the limit away as long as that lasts.

use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// Silence before the first keepalive, and between two.
const KEEPALIVE: Duration = Duration::from_secs(2);
/// Keepalives without an answer that end the connection.
const KEEPALIVES: u32 = 3;
/// How long data may be under way without an acknowledgement.
const UNACKNOWLEDGED: Duration = Duration::from_secs(8);

/// The connection ends if its peer is gone: after 8 s without a sign of life.
///
/// # Errors
/// The kernel does not take the options.
pub fn end_without_peer(stream: &impl AsFd) -> io::Result<()> {
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(KEEPALIVES);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)?;
    limit_unacknowledged(stream, true)
}

/// Whether data may be under way without an acknowledgement for no more than 8 s, or for as long as the kernel likes.
///
/// # Errors
/// The kernel does not take the option.
pub fn limit_unacknowledged(stream: &impl AsFd, limited: bool) -> io::Result<()> {
    SockRef::from(stream).set_tcp_user_timeout(Some(if limited { UNACKNOWLEDGED } else { Duration::ZERO }))
}

/// The peer acknowledged all that is under way, and has no room for what waits. Ask only while something waits.
///
/// # Errors
/// Not a TCP socket.
pub fn has_no_room(stream: &impl AsFd) -> io::Result<bool> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).unwrap_or(0);
    // SAFETY: the kernel writes at most `length` bytes into `info`, which lives through the call.
    let result = unsafe {
        libc::getsockopt(
            stream.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is zeroed where the kernel wrote nothing, and any bits are a `tcp_info`.
    let info = unsafe { info.assume_init() };
    Ok(info.tcpi_unacked == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_peer_that_does_not_read_has_no_room_and_is_not_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_peer, _) = listener.accept().unwrap();
        end_without_peer(&stream).unwrap();
        let socket = SockRef::from(&stream);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED));
        assert!(socket.keepalive().unwrap());
        assert!(
            UNACKNOWLEDGED < Duration::from_secs(10)
                && KEEPALIVE * (1 + KEEPALIVES) < Duration::from_secs(10)
        );
        stream.set_nonblocking(true).unwrap();
        while stream.write(&[0; 1 << 16]).is_ok() {}
        // What is under way is acknowledged soon; what waits in our own kernel finds no room.
        while !has_no_room(&stream).unwrap() {
            std::thread::yield_now();
        }
        assert!(crate::unacknowledged(&stream).unwrap() > 0);
        limit_unacknowledged(&stream, false).unwrap();
        assert_eq!(SockRef::from(&stream).tcp_user_timeout().unwrap(), None);
    }
}
