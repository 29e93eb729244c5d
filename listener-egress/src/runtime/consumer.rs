//! The consumer's end: a UDP socket or a TCP connection behind the bounded queue of the pipeline.
//!
//! Nothing here waits on the path of a frame. What the consumer does not take stays in the queue. When that is full, the
//! newest frame is refused. A TCP connection that breaks is made again after a growing pause, and what the peer had not
//! acknowledged is sent again. Its name is resolved for each connection. A consumer that ends its sending half is taken as
//! gone: it must keep it open. One whose host gives no sign of life for 8 s is gone too.
//!
//! A consumer that takes nothing for [`STALLED_AFTER`] although something waits is *stalled*. It is not cut off: it may be busy.

use crate::pipeline::{DatagramQueue, DropReason, Fates, Full, Handed, Run, StreamQueue};
use multicast_io::tcp::{end_without_peer, has_no_room, limit_unacknowledged};
use multicast_io::{Sender, SocketOptions, Span, Train, unacknowledged, wildcard};
use service::Code;
use service::config::HostPort;
use std::future::pending;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Port of `--egress-addr` where it names none.
pub(super) const CONSUMER_PORT: u16 = 9100;
/// Pause before a queue that refused datagrams is tried again.
const REFUSED_PAUSE: Duration = Duration::from_millis(1);
/// How often acknowledgements are looked at while some are due.
const ACK_LOOK: Duration = Duration::from_millis(5);
/// A consumer that took nothing for so long while something waits stalls. With the time that a state needs to be a reason
/// that is five seconds.
const STALLED_AFTER: Duration = Duration::from_secs(3);
/// How often a connection is looked at that takes nothing.
const STALL_LOOK: Duration = Duration::from_millis(500);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_CAP: Duration = Duration::from_secs(2);

/// See the module text.
pub(super) enum Consumer {
    Datagrams(Box<Datagrams>),
    Stream(Box<Stream>),
}

impl Consumer {
    /// Queues one record.
    pub(super) fn push(&mut self, record: &[u8], handed: Handed) -> Result<(), Full> {
        match self {
            Consumer::Datagrams(d) => d.queue.push(record, handed),
            Consumer::Stream(s) => s.queue.push(record, handed),
        }
    }
    /// Longest record.
    pub(super) fn longest(&self) -> usize {
        match self {
            Consumer::Datagrams(_) => crate::pipeline::LONGEST_DATAGRAM,
            Consumer::Stream(_) => u32::MAX as usize,
        }
    }
    /// Hands over what the consumer takes now.
    pub(super) fn flush(&mut self, now: Instant, fates: &mut Fates) {
        match self {
            Consumer::Datagrams(d) => d.flush(now, fates),
            Consumer::Stream(s) => s.flush(now, fates),
        }
    }
    /// Completes when `flush` may get further. Cancel safe.
    pub(super) async fn ready(&mut self) {
        match self {
            Consumer::Datagrams(_) => pending().await,
            Consumer::Stream(s) => s.ready().await,
        }
    }
    /// When `flush` should be called although nothing happened.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        match self {
            Consumer::Datagrams(d) => d.try_again,
            Consumer::Stream(s) => s.look_again,
        }
    }
    /// Less than half full: frames that found no room may come again.
    pub(super) fn has_room(&self) -> bool {
        match self {
            Consumer::Datagrams(d) => d.queue.len() <= d.queue.capacity() / 2,
            Consumer::Stream(s) => s.queue.len() <= s.queue.capacity() / 2,
        }
    }
    pub(super) fn bytes(&self) -> usize {
        match self {
            Consumer::Datagrams(d) => d.queue.len(),
            Consumer::Stream(s) => s.queue.len(),
        }
    }
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Consumer::Datagrams(d) => d.queue.is_empty(),
            Consumer::Stream(s) => s.queue.is_empty(),
        }
    }
    /// `Err`: what is wrong with the consumer.
    pub(super) fn standing(&self, now: Instant) -> Result<(), Code> {
        match self {
            Consumer::Stream(s) if !matches!(s.link, Link::Up(_)) => Err(Code::ConsumerRefused),
            Consumer::Stream(s) if s.progress.is_stalled(now) => Err(Code::ConsumerStalled),
            _ => Ok(()),
        }
    }
    pub(super) fn reconnects(&self) -> u64 {
        match self {
            Consumer::Datagrams(_) => 0,
            Consumer::Stream(s) => s.connects.saturating_sub(1),
        }
    }
    /// Gives up what is still queued.
    pub(super) fn abandon(&mut self, fates: &mut Fates) {
        let refused = &mut fates.refused;
        let mut lost = |handed| refused.push((handed, DropReason::ConsumerGone));
        match self {
            Consumer::Datagrams(d) => d.queue.left(usize::MAX, lost),
            Consumer::Stream(s) => s.queue.abandon(&mut lost),
        }
    }
}

/// UDP.
pub(super) struct Datagrams {
    sender: Sender,
    to: SocketAddr,
    queue: DatagramQueue,
    runs: Vec<Run>,
    trains: Vec<Train>,
    frames: Vec<Span>,
    try_again: Option<Instant>,
}

impl Datagrams {
    pub(super) fn open(to: SocketAddr, capacity: usize) -> anyhow::Result<Consumer> {
        let any = wildcard(to.is_ipv4());
        let options =
            SocketOptions { send_buffer: Some(4 << 20), ..SocketOptions::new(SocketAddr::new(any, 0)) };
        Ok(Consumer::Datagrams(Box::new(Datagrams {
            sender: Sender::open(&options)?,
            to,
            queue: DatagramQueue::new(capacity),
            runs: Vec::new(),
            trains: Vec::new(),
            frames: Vec::new(),
            try_again: None,
        })))
    }

    fn flush(&mut self, now: Instant, fates: &mut Fates) {
        if self.queue.is_empty() || self.try_again.is_some_and(|at| now < at) {
            return;
        }
        self.try_again = None;
        self.queue.runs(self.sender.max_train(), &mut self.runs);
        let destination = self.to;
        self.trains.clear();
        self.trains.extend(self.runs.iter().map(|run| Train {
            destination,
            first: run.first,
            count: run.count,
            segment: run.segment,
        }));
        self.frames.clear();
        self.frames.extend(self.queue.datagrams().iter().map(|d| Span { start: d.start, len: d.len }));
        let progress = self.sender.send(self.queue.memory(), &self.trains, &self.frames);
        self.queue.left(progress.frames, |handed| fates.delivered.push(handed));
        let Some(error) = progress.error else { return };
        match error.raw_os_error() {
            // A queue is full: later.
            _ if error.kind() == io::ErrorKind::WouldBlock => {}
            Some(ENOBUFS) => {}
            // Nobody listens, or the route is gone: this datagram is lost, as datagrams are.
            _ => {
                service::limited!(warn, 1, "--egress-addr {}: {error}", self.to);
                self.queue.left(1, |handed| fates.refused.push((handed, DropReason::EgressError)));
            }
        }
        self.try_again = Some(now + REFUSED_PAUSE);
    }
}

/// No buffer space available (Linux).
const ENOBUFS: i32 = 105;

type Connecting = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

enum Link {
    /// Until the next attempt.
    Down(Instant),
    Dialling(Connecting),
    Up(TcpStream),
}

/// Whether a connection gets further.
struct Progress {
    /// Since when something waits and nothing was taken; `None`: nothing waits.
    waiting_since: Option<Instant>,
    /// When the connection was last asked why.
    looked_at: Instant,
    /// The kernel may end it for want of acknowledgements.
    limited: bool,
}

impl Progress {
    fn new(now: Instant) -> Progress {
        Progress { waiting_since: None, looked_at: now, limited: true }
    }

    fn is_stalled(&self, now: Instant) -> bool {
        self.waiting_since.is_some_and(|since| now.saturating_duration_since(since) >= STALLED_AFTER)
    }

    /// `taken`: the peer's host acknowledged something since the last look. `left`: bytes that wait.
    fn note(&mut self, now: Instant, taken: bool, left: usize) {
        self.waiting_since = match self.waiting_since {
            _ if left == 0 => None,
            Some(since) if !taken => Some(since),
            _ => Some(now),
        };
    }

    /// A peer that is well and has no room is not gone: then the kernel's limit does not hold.
    fn judge(&mut self, now: Instant, stream: &TcpStream) {
        if now.saturating_duration_since(self.looked_at) < STALL_LOOK {
            return;
        }
        self.looked_at = now;
        let stands_still =
            self.waiting_since.is_some_and(|since| now.saturating_duration_since(since) >= STALL_LOOK);
        let limited = !stands_still || !has_no_room(stream).unwrap_or(false);
        if limited != self.limited && limit_unacknowledged(stream, limited).is_ok() {
            self.limited = limited;
        }
    }
}

/// TCP.
pub(super) struct Stream {
    to: HostPort,
    progress: Progress,
    queue: StreamQueue,
    link: Link,
    backoff: Duration,
    look_again: Option<Instant>,
    connects: u64,
    /// Stream offset that the peer's host acknowledged.
    acknowledged: u64,
}

impl Stream {
    /// `to`: resolved anew for each connection.
    pub(super) fn open(to: HostPort, capacity: usize, now: Instant) -> Consumer {
        Consumer::Stream(Box::new(Stream {
            to,
            progress: Progress::new(now),
            queue: StreamQueue::new(capacity),
            link: Link::Down(now),
            backoff: BACKOFF_FIRST,
            look_again: Some(now),
            connects: 0,
            acknowledged: 0,
        }))
    }

    fn flush(&mut self, now: Instant, fates: &mut Fates) {
        if let Link::Down(at) = self.link
            && now >= at
        {
            self.link = Link::Dialling(Box::pin(dial(self.to.clone())));
            self.look_again = None;
        }
        let Link::Up(stream) = &self.link else { return };
        let written = write(stream, &mut self.queue).and_then(|()| peer_is_there(stream));
        if let Ok(due) = unacknowledged(stream) {
            let acknowledged = self.queue.written().saturating_sub(due as u64);
            let taken = acknowledged != std::mem::replace(&mut self.acknowledged, acknowledged);
            self.queue.acknowledged(due, |handed| fates.delivered.push(handed));
            self.progress.note(now, taken, self.queue.len());
            self.progress.judge(now, stream);
        }
        if let Err(error) = written {
            self.broken(now, &error);
        } else {
            self.look_again = (!self.queue.is_empty()).then(|| now + ACK_LOOK);
        }
    }

    fn broken(&mut self, now: Instant, error: &io::Error) {
        service::limited!(warn, 1, code = Code::ConsumerRefused, "--egress-addr {}: {error}", self.to);
        self.queue.rewind();
        (self.progress, self.acknowledged) = (Progress::new(now), self.queue.written());
        self.link = Link::Down(now + self.backoff);
        self.look_again = Some(now + self.backoff);
        self.backoff = (self.backoff * 2).min(BACKOFF_CAP);
    }

    async fn ready(&mut self) {
        let outcome = match &mut self.link {
            Link::Down(_) => return pending().await,
            Link::Dialling(dialling) => dialling.as_mut().await,
            Link::Up(stream) => {
                // Readable means that the peer ended, or says something that nobody asked for.
                let writes = !self.queue.unwritten().0.is_empty();
                let interest = tokio::io::Interest::READABLE;
                let interest = if writes { interest | tokio::io::Interest::WRITABLE } else { interest };
                let _ = stream.ready(interest).await;
                return;
            }
        };
        match outcome {
            Ok(stream) => {
                tracing::info!("consumer {} connected", self.to);
                self.connects += 1;
                self.backoff = BACKOFF_FIRST;
                self.link = Link::Up(stream);
            }
            Err(error) => self.broken(Instant::now(), &error),
        }
    }
}

async fn dial(to: HostPort) -> io::Result<TcpStream> {
    let connect = TcpStream::connect((to.host.as_str(), to.port_or(CONSUMER_PORT)));
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect).await??;
    stream.set_nodelay(true)?;
    end_without_peer(&stream)?;
    Ok(stream)
}

/// Writes until the socket takes no more.
fn write(stream: &TcpStream, queue: &mut StreamQueue) -> io::Result<()> {
    loop {
        let (front, back) = queue.unwritten();
        if front.is_empty() {
            return Ok(());
        }
        match stream.try_write_vectored(&[IoSlice::new(front), IoSlice::new(back)]) {
            Ok(n) => queue.wrote(n),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// What a consumer says is ignored; that it ended is not.
fn peer_is_there(stream: &TcpStream) -> io::Result<()> {
    let mut ignored = [0; 512];
    loop {
        match stream.try_read(&mut ignored) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the consumer closed")),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
