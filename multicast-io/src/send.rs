//! Train send: `UDP_SEGMENT` through `sendmmsg`, with fallback per socket and errors from the error queue.
//!
//! A train is a run of frames to one destination; all but the last are padded with zeros to the segment size (no
//! byte is copied: padding is an iovec of a shared zero page). Without GSO the frames leave one a datagram, unpadded.

use crate::{SocketError, SocketOptions, Span};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

/// Frames `first .. first + count` of the frame list, sent to one destination in segments of `segment` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Train {
    pub destination: SocketAddr,
    pub first: u32,
    pub count: u32,
    /// Bytes a segment; every frame but the last is padded up to it, none is longer.
    pub segment: u16,
}

/// How far a send got: the first `frames` frames (counted through the trains in order) were taken by the kernel.
#[derive(Debug)]
pub struct Progress {
    pub frames: usize,
    /// Why the next frame was not taken: `WouldBlock` (wait for writability), ENOBUFS (a queue refused it), or final.
    /// `None`: all were.
    pub error: Option<io::Error>,
}

/// A sending socket on one interface, with IP(V6)_RECVERR set.
pub struct Sender {
    socket: socket2::Socket,
}

impl Sender {
    pub fn open(_options: &SocketOptions) -> Result<Sender, SocketError> {
        unimplemented!()
    }
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        unimplemented!()
    }
    /// Longest train the socket takes now: 1 where GSO is off or was refused.
    pub fn max_train(&self) -> usize {
        unimplemented!()
    }
    /// True once GSO was refused at run time and the socket went on without it.
    pub fn gso_refused(&self) -> bool {
        unimplemented!()
    }
    /// Hands trains to the kernel in order. Partial sends are continued; returns when all is taken or one cannot be.
    pub fn send(&mut self, _memory: &[u8], _trains: &[Train], _frames: &[Span]) -> Progress {
        unimplemented!()
    }
}

impl AsFd for Sender {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
