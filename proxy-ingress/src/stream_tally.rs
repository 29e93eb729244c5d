//! What the TCP connections of one worker count.

use service::metrics::{Counter, Gauge};

service::reasons! {
    /// Why the proxy closed a connection.
    pub enum CloseReason {
        /// The peer closed between frames.
        keeps Ended = "ended",
        /// The peer closed inside a frame.
        keeps EndedInFrame = "ended_in_frame",
        /// Not what the grammar allows.
        keeps Violation = "violation",
        /// A frame above the bound.
        keeps TooLong = "too_long",
        /// A frame did not end in time.
        keeps ReadTimeout = "read_timeout",
        /// No frame for too long.
        keeps Idle = "idle",
        /// Too many connections.
        keeps Limit = "limit",
        /// The socket failed.
        keeps Error = "error",
        /// No interface can emit, for longer than frames may wait.
        keeps NoCarrier = "no_carrier",
        /// Orderly stop.
        keeps Drained = "drained",
    }
}

service::counters! {
    /// What the connections of one worker count.
    #[derive(Debug, Default)]
    pub struct StreamTally {
        pub accepted: Counter => counter("bsp_tcp_connections_total", ["worker"], "TCP connections accepted.");
        pub open: Gauge => gauge("bsp_tcp_connections_open", ["worker"], "TCP connections open now.");
        pub bytes: Counter => counter("bsp_tcp_bytes_received_total", ["worker"], "Bytes taken from TCP streams.");
        closed: [Counter; CloseReason::ALL] => counter("bsp_tcp_closed_total", ["worker", "reason"], "TCP connections closed by the proxy, and why.");
    }
}

impl StreamTally {
    /// Cell of a reason.
    pub fn closed(&self, reason: CloseReason) -> &Counter {
        &self.closed[reason.index()]
    }
}
