//! What the TCP connections of one worker count.

use service::metrics::{Counter, Gauge};

service::reasons! {
    /// Why the proxy closed a connection.
    pub enum CloseReason {
        /// The peer closed between frames.
        Ended = "ended",
        /// The peer closed inside a frame.
        EndedInFrame = "ended_in_frame",
        /// Not what the grammar allows.
        Violation = "violation",
        /// A frame above the bound.
        TooLong = "too_long",
        /// A frame did not end in time.
        ReadTimeout = "read_timeout",
        /// No frame for too long.
        Idle = "idle",
        /// Too many connections.
        Limit = "limit",
        /// The socket failed.
        Error = "error",
        /// Orderly stop.
        Drained = "drained",
    }
}

/// What the connections of one worker count.
#[derive(Debug, Default)]
pub struct StreamTally {
    /// Connections accepted.
    pub accepted: Counter,
    /// Connections open.
    pub open: Gauge,
    /// Bytes read.
    pub bytes: Counter,
    closed: [Counter; CloseReason::ALL.len()],
}

impl StreamTally {
    /// Cell of a reason.
    pub fn closed(&self, reason: CloseReason) -> &Counter {
        &self.closed[reason.index()]
    }
}
