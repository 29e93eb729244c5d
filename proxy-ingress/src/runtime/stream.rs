//! TCP ingress: connections are cut into messages and handed to their worker in batches.
//!
//! A connection's first bytes fix its grammar (docs/wire.md 4): frames, bare transactions, or submission records (which are
//! dropped by name). There is no envelope and no reply.
//!
//! Limits: connections at once; bytes of all connections that are not forwarded yet; 64 MiB a frame; time for a frame, and
//! between frames. A connection takes its share of the bytes before it reads. When there is none it waits, so that TCP
//! slows the sender down. Memory for a long frame is taken only after its header said how long it is. A violation closes
//! the connection, counted by reason.
//!
//! Overflow rule: stop reading. Reads of up to 64 KiB have one budget, and what a long frame needs beyond them has another:
//! senders that announce long frames and then dawdle hold up long frames, never the others.
//!
//! Cost: one allocation a read of up to 64 KiB, none a message.

use crate::config::{MAX_STREAM_FRAME, STREAM_BUFFER, StreamArgs};
use crate::pipeline::{DropReason, Judged, Message, Policy, Via, judge};
use crate::stream_tally::{CloseReason, StreamTally};
use bytes::Bytes;
use frame::stream::{Boundary, Limits, Stream};
use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout_at};

/// Bytes of one permit of the budget.
const PERMIT: usize = 1024;
/// Larger frames are checked off the worker, which must not hash for tens of milliseconds.
const LARGE: usize = 1 << 20;
/// Batches on their way to a worker.
pub const QUEUE: usize = 64;
/// While draining, a connection that is silent for this long between frames is closed.
const DRAIN_IDLE: Duration = Duration::from_millis(100);
/// or, after this long, as soon as everything that came was read and ends with a whole frame.
const DRAIN_ACCEPT: Duration = Duration::from_millis(250);

/// Messages of one connection that were read together, in order.
pub type Batch = Vec<Message>;

/// Bounds and budgets that all connections of the process share.
#[derive(Clone, Debug)]
pub struct StreamLimits {
    /// `--tcp-read-timeout`.
    pub read_timeout: Duration,
    /// `--tcp-idle-timeout`.
    pub idle_timeout: Duration,
    /// `--tcp-max-connections`.
    pub max_connections: usize,
    /// `--tcp-buffer-bytes`, in permits: the first 64 KiB of each buffer, and what is beyond them.
    short: Arc<Semaphore>,
    long: Arc<Semaphore>,
    open: Arc<AtomicUsize>,
}

impl StreamLimits {
    /// The bounds that the options name.
    pub fn new(args: &StreamArgs) -> StreamLimits {
        let bytes = args.tcp_buffer_bytes.as_usize();
        let longest = usize::try_from(MAX_STREAM_FRAME).unwrap_or(usize::MAX);
        let long = (bytes / 2).max(longest).min(bytes);
        let budget = |bytes: usize| Arc::new(Semaphore::new((bytes / PERMIT).min(Semaphore::MAX_PERMITS)));
        StreamLimits {
            read_timeout: args.tcp_read_timeout,
            idle_timeout: args.tcp_idle_timeout,
            max_connections: args.tcp_max_connections,
            short: budget(bytes - long),
            long: budget(long),
            open: Arc::default(),
        }
    }

    /// Waits until a buffer may grow from `from` to `to` bytes. `None`: it never may.
    async fn grow(&self, share: &mut Share, from: usize, to: usize) -> Option<()> {
        let short = to.min(STREAM_BUFFER).saturating_sub(from);
        let long = to.saturating_sub(from.max(STREAM_BUFFER));
        take(&self.short, short, &mut share.short).await?;
        take(&self.long, long, &mut share.long).await
    }
}

async fn take(budget: &Arc<Semaphore>, bytes: usize, held: &mut Option<OwnedSemaphorePermit>) -> Option<()> {
    if bytes == 0 {
        return Some(());
    }
    let permits = u32::try_from(bytes.div_ceil(PERMIT)).ok()?;
    let permit = Arc::clone(budget).acquire_many_owned(permits).await.ok()?;
    match held {
        Some(mine) => mine.merge(permit),
        none => *none = Some(permit),
    }
    Some(())
}

/// What a buffer took of the budgets; given back when it is dropped.
#[derive(Default)]
struct Share {
    short: Option<OwnedSemaphorePermit>,
    long: Option<OwnedSemaphorePermit>,
}

/// What the connections of one worker share.
#[derive(Clone)]
pub struct Streams {
    /// Bounds.
    pub limits: StreamLimits,
    /// What is admitted.
    pub policy: Policy,
    /// To the worker.
    pub to_worker: mpsc::Sender<Batch>,
    /// Counters.
    pub tally: Arc<StreamTally>,
    /// True once the role drains.
    pub draining: watch::Receiver<bool>,
    /// True while no interface can emit, for longer than frames may wait: connections are closed, so that clients go elsewhere.
    pub refusing: watch::Receiver<bool>,
}

/// Accepts connections until the role drains. Runs on the worker's own runtime.
pub async fn accept(listener: TcpListener, mut streams: Streams) {
    let open_here = Rc::new(Cell::new(0));
    loop {
        let accepted = tokio::select! {
            biased;
            _ = streams.draining.wait_for(|draining| *draining) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => admit_connection(stream, peer, &streams, &open_here),
            Err(error) => {
                // Out of descriptors, mostly: what is open goes on, and the queue of the kernel keeps the rest.
                service::limited!(warn, 1, "accepting a TCP connection failed: {error}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

fn admit_connection(stream: TcpStream, peer: SocketAddr, streams: &Streams, open_here: &Rc<Cell<u64>>) {
    streams.tally.accepted.add(1);
    if *streams.refusing.borrow() {
        return streams.tally.closed(CloseReason::NoCarrier).add(1);
    }
    let open = streams.limits.open.fetch_add(1, Ordering::Relaxed) + 1;
    if open > streams.limits.max_connections {
        streams.limits.open.fetch_sub(1, Ordering::Relaxed);
        streams.tally.closed(CloseReason::Limit).add(1);
        let most = streams.limits.max_connections;
        service::limited!(
            warn,
            1,
            "TCP connection from {} refused: {most} are open (--tcp-max-connections)",
            peer.ip()
        );
        return;
    }
    let (streams, open_here) = (streams.clone(), Rc::clone(open_here));
    open_here.set(open_here.get() + 1);
    streams.tally.open.set(open_here.get());
    tokio::task::spawn_local(async move {
        let mut connection = Connection::new(stream, peer, &streams);
        let reason = connection.run().await;
        // Before the peer can see it.
        streams.tally.closed(reason).add(1);
        drop(connection);
        open_here.set(open_here.get() - 1);
        streams.tally.open.set(open_here.get());
        streams.limits.open.fetch_sub(1, Ordering::Relaxed);
        if !matches!(reason, CloseReason::Ended | CloseReason::Drained | CloseReason::Idle) {
            service::limited!(info, 5, "TCP connection from {} closed: {}", peer.ip(), reason.name());
        }
    });
}

/// Bytes and their share of the budget.
struct Charged {
    bytes: Vec<u8>,
    _share: Share,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

struct Connection<'a> {
    stream: TcpStream,
    peer: SocketAddr,
    streams: &'a Streams,
    finder: Stream,
    buffer: Vec<u8>,
    /// Covers the capacity of `buffer`.
    share: Share,
    /// Bytes that the message at the front of the buffer needs, as far as it is known.
    wanted: usize,
    /// The boundary of the message at the front is known to be at `wanted`.
    bounded: bool,
    /// When the message at the front must be complete, or the next one must begin.
    deadline: Instant,
    in_frame: bool,
    /// While draining: when to stop accepting.
    accept_until: Option<Instant>,
}

impl Connection<'_> {
    fn new(stream: TcpStream, peer: SocketAddr, streams: &Streams) -> Connection<'_> {
        Connection {
            stream,
            peer,
            finder: Stream::new(Limits::DEFAULT),
            buffer: Vec::new(),
            share: Share::default(),
            wanted: 0,
            bounded: false,
            deadline: Instant::now() + streams.limits.idle_timeout,
            in_frame: false,
            accept_until: None,
            streams,
        }
    }

    /// Until the connection is to be closed, which dropping `self` does.
    async fn run(&mut self) -> CloseReason {
        loop {
            if let Err(reason) = self.read().await {
                return reason;
            }
            let (ends, broken) = self.cut();
            if let Err(reason) = self.hand_over(ends).await {
                return reason;
            }
            if let Some(reason) = broken {
                return reason;
            }
        }
    }

    /// Waits for bytes, takes the budget for them, reads once.
    async fn read(&mut self) -> Result<(), CloseReason> {
        self.wait().await?;
        self.make_room().await?;
        let read = match self.stream.try_read_buf(&mut self.buffer) {
            Ok(0) if self.buffer.is_empty() => return Err(CloseReason::Ended),
            Ok(0) => return Err(CloseReason::EndedInFrame),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => return Err(CloseReason::Error),
        };
        self.streams.tally.bytes.add(read as u64);
        Ok(())
    }

    async fn wait(&mut self) -> Result<(), CloseReason> {
        let mut draining = self.streams.draining.clone();
        let mut refusing = self.streams.refusing.clone();
        let idle = self.buffer.is_empty();
        let ready = tokio::select! {
            biased;
            ready = timeout_at(self.deadline, self.stream.readable()) => ready,
            _ = refusing.wait_for(|refusing| *refusing) => return Err(CloseReason::NoCarrier),
            _ = draining.wait_for(|draining| *draining), if idle => {
                let now = Instant::now();
                let until = *self.accept_until.get_or_insert(now + DRAIN_ACCEPT);
                let rest = timeout_at(until.min(now + DRAIN_IDLE), self.stream.readable()).await;
                return match rest {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(_)) => Err(CloseReason::Error),
                    Err(_) => Err(CloseReason::Drained),
                };
            }
        };
        match ready {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(CloseReason::Error),
            Err(_) if idle => Err(CloseReason::Idle),
            Err(_) => Err(CloseReason::ReadTimeout),
        }
    }

    /// The buffer holds at least the message at its front, and its capacity is paid for.
    async fn make_room(&mut self) -> Result<(), CloseReason> {
        let wanted = self.wanted.max(STREAM_BUFFER);
        let have = self.buffer.capacity();
        if have >= wanted && have > self.buffer.len() {
            return Ok(());
        }
        let size = wanted.max(self.buffer.len() + 1);
        let grown = timeout_at(self.deadline, self.streams.limits.grow(&mut self.share, have, size)).await;
        grown.map_err(|_| CloseReason::ReadTimeout)?.ok_or(CloseReason::TooLong)?;
        self.buffer.reserve_exact(size - self.buffer.len());
        Ok(())
    }

    /// Ends of the complete messages at the front of the buffer, and whether the stream is broken after them.
    fn cut(&mut self) -> (Vec<usize>, Option<CloseReason>) {
        let mut ends = Vec::new();
        let mut at = 0;
        while at < self.buffer.len() {
            if !self.bounded {
                let boundary = self.finder.boundary(&self.buffer[at..]);
                (self.wanted, self.bounded) = match boundary {
                    Ok(Boundary::Need(len)) => (len, false),
                    Ok(Boundary::Message(len)) => (len, true),
                    Err(frame::DecodeError::TooLong) => return (ends, Some(CloseReason::TooLong)),
                    Err(_) => return (ends, Some(CloseReason::Violation)),
                };
            }
            if !self.bounded || self.buffer.len() - at < self.wanted {
                break;
            }
            at += self.wanted;
            ends.push(at);
            (self.wanted, self.bounded) = (0, false);
        }
        let in_frame = at < self.buffer.len();
        if !ends.is_empty() || in_frame != self.in_frame {
            let limits = &self.streams.limits;
            self.deadline = Instant::now() + if in_frame { limits.read_timeout } else { limits.idle_timeout };
            self.in_frame = in_frame;
        }
        (ends, None)
    }

    /// Gives the complete messages, with their share of the budget, to the worker; what follows them stays. Waits while
    /// the worker has enough to do.
    async fn hand_over(&mut self, ends: Vec<usize>) -> Result<(), CloseReason> {
        let Some(&complete) = ends.last() else { return Ok(()) };
        let rest = self.take_rest(complete).await?;
        let share = std::mem::take(&mut self.share);
        let mut whole = std::mem::take(&mut self.buffer);
        whole.truncate(complete);
        (self.buffer, self.share) = rest.map_or_else(Default::default, |rest| (rest.bytes, rest.share));
        let whole = Bytes::from_owner(Charged { bytes: whole, _share: share });
        let sender = self.peer.ip();
        let mut messages = Vec::with_capacity(ends.len());
        let mut start = 0;
        for end in ends {
            let bytes = whole.slice(start..end);
            let verdict = self.admit_large(&bytes).await;
            messages.push(Message { bytes, sender, verdict });
            start = end;
        }
        // The worker is gone only when the process ends.
        self.streams.to_worker.send(messages).await.map_err(|_| CloseReason::Drained)
    }

    /// A buffer of its own for the beginning of the next message.
    async fn take_rest(&self, complete: usize) -> Result<Option<Rest>, CloseReason> {
        let rest = self.buffer.get(complete..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        let size = rest.len().max(STREAM_BUFFER);
        let mut share = Share::default();
        let grown = timeout_at(self.deadline, self.streams.limits.grow(&mut share, 0, size)).await;
        grown.map_err(|_| CloseReason::ReadTimeout)?.ok_or(CloseReason::TooLong)?;
        let mut bytes = Vec::with_capacity(size);
        bytes.extend_from_slice(rest);
        Ok(Some(Rest { bytes, share }))
    }

    /// Large messages are checked on a thread of their own.
    async fn admit_large(&self, bytes: &Bytes) -> Option<Result<Judged, DropReason>> {
        if bytes.len() < LARGE {
            return None;
        }
        let (policy, bytes) = (self.streams.policy, bytes.clone());
        tokio::task::spawn_blocking(move || judge(&policy, &bytes, Via::Tcp)).await.ok()
    }
}

struct Rest {
    bytes: Vec<u8>,
    share: Share,
}
