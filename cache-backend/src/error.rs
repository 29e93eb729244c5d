//! Errors that know whether the operation may have happened and whether trying again makes sense.

/// Why one operation has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{backend}: {kind}: {detail}")]
pub struct OpError {
    pub backend: &'static str,
    pub kind: OpErrorKind,
    /// The write may have landed although no answer came.
    pub in_doubt: bool,
    pub detail: String,
}

/// Classes of failure; each is a label of the error counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum OpErrorKind {
    #[error("timeout")]
    Timeout,
    #[error("disconnected")]
    Disconnected,
    /// The server said no: out of memory, read-only replica, wrong type.
    #[error("refused")]
    Refused,
    /// The answer does not fit the request.
    #[error("garbled")]
    Garbled,
    /// The breaker is open; nothing was sent.
    #[error("breaker open")]
    BreakerOpen,
    /// Too many requests wait already; nothing was sent.
    #[error("overloaded")]
    Overloaded,
}

/// Why a backend could not be opened: names address, credential, namespace or TTL support, and the knob.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(pub String);
