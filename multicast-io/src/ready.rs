//! Readiness of a socket on the tokio runtime of its worker.
//!
//! To register with `tokio`'s `AsyncFd` is unsafe, because a type could hand out another descriptor than the one that was
//! registered. The sockets of this crate own one descriptor for all their life, so for them it is sound.

use crate::{Receiver, Sender};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::task::{Context, Poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A socket of this crate, registered with the runtime on which `new` was called.
pub struct Ready<S: Socket>(AsyncFd<Owned<S>>);

/// Sockets that own one descriptor from open to drop.
pub trait Socket: AsFd + sealed::Sealed {}
impl Socket for Receiver {}
impl Socket for Sender {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for crate::Receiver {}
    impl Sealed for crate::Sender {}
}

struct Owned<S>(S);

impl<S: AsFd> AsRawFd for Owned<S> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Waits until a socket that was just found full has room. It is registered for as long as that takes: a socket that stays
/// registered tells the runtime of every train that left it, and each of these reports costs the kernel a call, and perhaps a
/// worker its sleep.
pub async fn writable(sender: &Sender) -> io::Result<()> {
    // SAFETY: the descriptor stays open and the same for as long as the sender is borrowed, and the registration ends within
    // that time.
    let registered = unsafe { AsyncFd::register_with_interest(Borrowed(sender), Interest::WRITABLE) };
    registered.map_err(io::Error::from)?.writable().await.map(drop)
}

struct Borrowed<'a, S>(&'a S);

impl<S: AsFd> AsRawFd for Borrowed<'_, S> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl<S: Socket> Ready<S> {
    /// Registers `socket` for reading and writing.
    pub fn new(socket: S) -> io::Result<Ready<S>> {
        // SAFETY: `Socket` is sealed; each implementor owns its descriptor, never replaces or closes it before drop,
        // and `Owned` always answers with that one.
        let registered = unsafe { AsyncFd::register(Owned(socket)) };
        Ok(Ready(registered.map_err(io::Error::from)?))
    }

    /// The socket, for calls that do not wait.
    pub fn get_ref(&self) -> &S {
        &self.0.get_ref().0
    }

    /// The socket, for calls that do not wait.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.0.get_mut().0
    }

    /// Waits until `io` does not answer `WouldBlock` for a read. Cancel safe as far as `io` is.
    pub async fn read_with<R>(&mut self, mut io: impl FnMut(&mut S) -> io::Result<R>) -> io::Result<R> {
        self.0.async_io_mut(Interest::READABLE, |owned| io(&mut owned.0)).await
    }

    /// Ready once there may be something to read, for a task that waits for several sockets at once. Only the task that
    /// asked last is woken.
    pub fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read_ready(context).map_ok(drop)
    }

    /// Reads without waiting; `WouldBlock` also where nothing was reported since the last one.
    pub fn try_read<R>(&mut self, io: impl FnOnce(&mut S) -> io::Result<R>) -> io::Result<R> {
        self.0.try_io_mut(Interest::READABLE, |owned| io(&mut owned.0))
    }

    /// Waits until `io` does not answer `WouldBlock` for a write. Cancel safe as far as `io` is.
    pub async fn write_with<R>(&mut self, mut io: impl FnMut(&mut S) -> io::Result<R>) -> io::Result<R> {
        self.0.async_io_mut(Interest::WRITABLE, |owned| io(&mut owned.0)).await
    }
}
