//! The connections of the admin address: bounded, and never in the way of somebody who asks.
//!
//! Limit: [`CONNECTIONS`] at once. Rule when one more comes: the one that was silent longest is closed for it. So a hundred
//! connections that only hold their place do not keep a probe from its answer, and whoever asks is not the silent one. A
//! connection that is silent for [`IDLE`] is closed in any case.
//!
//! Cost: a walk over the connections for each new one.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep};

/// Connections served at once.
pub const CONNECTIONS: usize = 64;

/// A connection that sends nothing for so long is closed.
pub const IDLE: Duration = Duration::from_secs(120);

/// A listener with at most [`CONNECTIONS`].
pub(super) struct Bounded {
    listener: TcpListener,
    began: Instant,
    open: Vec<Place>,
}

/// What the listener knows of a connection. It is closed when this is dropped.
struct Place {
    /// When it last read or wrote, in ms since the listener began.
    heard_at: Arc<AtomicU64>,
    close: oneshot::Sender<()>,
}

impl Bounded {
    pub(super) fn new(listener: TcpListener) -> Bounded {
        Bounded { listener, began: Instant::now(), open: Vec::new() }
    }

    /// Takes a connection in; the one that was silent longest makes room.
    fn admit(&mut self, stream: TcpStream) -> Connection {
        self.open.retain(|place| !place.close.is_closed());
        if self.open.len() >= CONNECTIONS {
            let places = self.open.iter().enumerate();
            let silent = places.min_by_key(|(_, place)| place.heard_at.load(Ordering::Relaxed));
            if let Some((at, _)) = silent {
                self.open.swap_remove(at);
            }
        }
        let (close, closed) = oneshot::channel();
        let heard_at = Arc::new(AtomicU64::new(ms_since(self.began)));
        self.open.push(Place { heard_at: Arc::clone(&heard_at), close });
        Connection { stream, silence: Box::pin(sleep(IDLE)), began: self.began, heard_at, closed }
    }
}

fn ms_since(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}

impl axum::serve::Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => return (self.admit(stream), peer),
                // Out of descriptors, or the client is gone: both pass.
                Err(error) => {
                    crate::limited!(warn, 1, "admin: accept failed: {error}");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection with its idle timer.
pub(super) struct Connection {
    stream: TcpStream,
    silence: Pin<Box<Sleep>>,
    began: Instant,
    heard_at: Arc<AtomicU64>,
    /// Completes when its place is taken.
    closed: oneshot::Receiver<()>,
}

impl Connection {
    /// An error once the place is another's.
    fn poll_place(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match Pin::new(&mut self.closed).poll(cx) {
            Poll::Ready(_) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }

    fn heard(&mut self) {
        self.heard_at.store(ms_since(self.began), Ordering::Relaxed);
        self.silence.as_mut().reset(Instant::now() + IDLE);
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_place(cx)?;
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buf);
        if outcome.is_ready() {
            self.heard();
            return outcome;
        }
        self.silence.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_place(cx)?;
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        if outcome.is_ready() {
            self.heard();
        }
        outcome
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_place(cx)?;
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        if outcome.is_ready() {
            self.heard();
        }
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
