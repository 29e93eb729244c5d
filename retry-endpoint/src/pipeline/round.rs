//! What a round is to its caller: the messages it takes, the effects it has, and the pattern in which it is called.
//!
//! The runtime, the simulator, the tests and the benchmark call one function, `Endpoint::commit`,
//! in this way:
//!
//! ```text
//! endpoint.begin(now, &burst, &mut io);         // after each receive call; the frames are copied, the burst may be cleared
//! endpoint.message(message);                    // for each message of another thread; none, one or many
//! loop {
//!     match endpoint.commit(clock.now(), &mut io) {
//!         Next::Full { socket, until } => {}    // wait until `until`, or until that socket is writable; then commit again
//!         Next::Done => break,                  // the round is over
//!     }
//! }
//! ```
//!
//! `begin` and `message` come before `commit`, in any number and order, and not between a `Full` and the `Done` that follows.
//! `commit` is also called when `Endpoint::next_timeout` is reached; it may be called at any
//! time. The order inside a commit:
//!
//! 1. Each message is planned, in order. A request of which nothing is here goes on to the next worker (`forward`). What is missing
//!    is looked up in the shared tier (`look_up`) or asked of an upstream (`fetch`).
//! 2. The repairs of all requests leave together, as trains (`transmit`), straight from the segments of the store.
//! 3. What the kernel refused is taken back from the store and from every answer.
//! 4. The answers leave (`answer`): each says only what was handed over.
//! 5. Flows that fell silent are announced (`announce`).

use super::admit::Admitted;
use super::answer::{Answer, Request};
use super::numbers::Numbers;
use super::upstream::FrameKey;
use bytes::Bytes;
use frame::digest::Entry;
use frame::{HashKey, SeqNum};
use multicast_io::{Progress, Span, Train};
use std::io;
use std::time::Instant;

/// What other threads hand to the round.
#[derive(Clone, Debug)]
pub enum Message {
    /// Answer a request.
    Request {
        /// What is asked.
        request: Request,
        /// Workers that had nothing of it.
        visited: usize,
    },
    /// The shared tier answered a look-up: keep these frames, then answer for good.
    LookupDone {
        /// The request that the look-up was for.
        request: Request,
        /// What the shared tier had.
        frames: Vec<Bytes>,
    },
    /// An upstream sent a frame: keep it and replay it to its group.
    FetchDone {
        /// The datagram.
        frame: Bytes,
    },
    /// A sender announced these flows up to these numbers.
    DigestHeard {
        /// Flow and highest number.
        flows: Vec<(HashKey, SeqNum)>,
    },
}

impl Message {
    /// Bytes that the message carries beside itself.
    pub fn carried(&self) -> usize {
        match self {
            Message::Request { .. } => 0,
            Message::LookupDone { frames, .. } => frames.iter().map(Bytes::len).sum(),
            Message::FetchDone { frame } => frame.len(),
            Message::DigestHeard { flows } => size_of_val(flows.as_slice()),
        }
    }
}

/// What a commit asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Next {
    /// Repairs wait for the kernel: commit again at `until`, or as soon as `socket` is writable.
    Full {
        /// The full socket. `None`: a queue below it is full, only time helps.
        socket: Option<usize>,
        /// When to commit again at the latest.
        until: Instant,
    },
    /// The round is over.
    Done,
}

/// What became of a message to another thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueResult {
    /// It is on its way.
    Queued,
    /// The queue is full, and the message is gone. The round counts that.
    Full,
    /// There is nobody to take it.
    NoReceiver,
}

impl QueueResult {
    /// Of a queue that says whether it took the message.
    pub fn of(taken: bool) -> QueueResult {
        if taken { QueueResult::Queued } else { QueueResult::Full }
    }
}

/// The effects of a round: sockets and queues, or models of them.
pub trait RoundIo {
    /// Hands trains to the kernel on one interface (its place in `EmitConfig::interfaces`), as `multicast_io::Sender::send`.
    fn transmit(&mut self, interface: usize, memory: &[u8], trains: &[Train], frames: &[Span]) -> Progress;

    /// Longest train that the interface takes.
    fn max_train(&self, interface: usize) -> usize;

    /// The interface will not take the rest of the repairs of this round.
    fn refused(&mut self, interface: usize, error: &io::Error);

    /// Sends the unicast repairs of an answer, then its reply.
    fn answer(&mut self, answer: Answer) -> QueueResult;

    /// Passes a request on to the next worker.
    fn forward(&mut self, request: &Request, visited: usize) -> QueueResult {
        let _ = (request, visited);
        QueueResult::NoReceiver
    }

    /// Asks the shared tier for numbers of a request. If it takes the request, a `Message::LookupDone` follows.
    fn look_up(&mut self, request: &Request, numbers: Numbers) -> QueueResult {
        let _ = (request, numbers);
        QueueResult::NoReceiver
    }

    /// Asks the upstreams for a frame. If they have it, a `Message::FetchDone` follows.
    fn fetch(&mut self, wanted: FrameKey) -> QueueResult {
        let _ = wanted;
        QueueResult::NoReceiver
    }

    /// Announces flows that fell silent.
    fn announce(&mut self, entries: Vec<Entry>) -> QueueResult {
        let _ = entries;
        QueueResult::NoReceiver
    }

    /// This worker holds a flow that it did not know.
    fn new_flow(&mut self, hash_key: HashKey) {
        let _ = hash_key;
    }

    /// A frame that arrived on its group is new here and was kept.
    fn stored(&mut self, frame: &Admitted<'_>) {
        let _ = frame;
    }
}
