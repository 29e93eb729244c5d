//! Errors that know whether the operation may have happened and whether trying again makes sense.

/// Why one operation has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{backend}: {kind}{}{detail}", if detail.is_empty() { "" } else { ": " })]
pub struct OpError {
    /// `memory`, `redis`, `aerospike`.
    pub backend: &'static str,
    /// Its class.
    pub kind: OpErrorKind,
    /// The write may have landed although no answer came.
    pub in_doubt: bool,
    /// What the server or the system said; empty where the class says it all.
    pub detail: String,
}

impl OpError {
    /// Nothing was sent, or the server refused: the write did not happen.
    pub fn not_done(backend: &'static str, kind: OpErrorKind, detail: impl Into<String>) -> OpError {
        OpError { backend, kind, in_doubt: false, detail: detail.into() }
    }
    /// The write may have happened.
    pub fn in_doubt(backend: &'static str, kind: OpErrorKind, detail: impl Into<String>) -> OpError {
        OpError { backend, kind, in_doubt: true, detail: detail.into() }
    }
    /// Says something about the health of the server. A redirection or a full queue of our own does not.
    pub(crate) fn blames_server(&self) -> bool {
        match self.kind {
            OpErrorKind::Overloaded => false,
            OpErrorKind::Refused => {
                !["MOVED ", "ASK ", "TRYAGAIN"].iter().any(|hint| self.detail.starts_with(hint))
            }
            _ => true,
        }
    }
}

/// Classes of failure; each is a label of the error counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum OpErrorKind {
    /// No answer before the deadline.
    #[error("timeout")]
    Timeout,
    /// The connection is down, or went down before the answer came.
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

impl OpErrorKind {
    /// All classes, in the order of `index`.
    pub const ALL: [OpErrorKind; 6] = [
        OpErrorKind::Timeout,
        OpErrorKind::Disconnected,
        OpErrorKind::Refused,
        OpErrorKind::Garbled,
        OpErrorKind::BreakerOpen,
        OpErrorKind::Overloaded,
    ];
    /// Place in a table of counters.
    pub fn index(self) -> usize {
        self as usize
    }
    /// Value of the metric label `kind`.
    pub fn label(self) -> &'static str {
        match self {
            OpErrorKind::Timeout => "timeout",
            OpErrorKind::Disconnected => "disconnected",
            OpErrorKind::Refused => "refused",
            OpErrorKind::Garbled => "garbled",
            OpErrorKind::BreakerOpen => "breaker_open",
            OpErrorKind::Overloaded => "overloaded",
        }
    }
}

/// Why a backend could not be opened: names address, credential, namespace or TTL support, and the knob.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(pub String);
