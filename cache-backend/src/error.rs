//! Errors that know whether the operation may have happened.

/// Why one key has no answer.
///
/// *In doubt*: the request left, and no answer came that could be believed. Of a claim nobody knows then whether it stands, and
/// if it stands, whose it is. Asking again does not tell: the caller may meet its own write and take it for another's. So
/// nothing here is retried. Decide by what a mistake costs. Who must not lose work acts as if the claim were won, and does
/// some work twice. Who must not do work twice acts as if it were lost, or claims with a value of its own (a random number)
/// and reads the key. An error that is not in doubt did nothing and may be tried again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("{backend}: {kind}{}{detail}", if detail.is_empty() { "" } else { ": " })]
pub struct OpError {
    /// [`Backend::name`](crate::Backend::name).
    pub backend: &'static str,
    /// Its class.
    pub kind: OpErrorKind,
    /// The write may have landed although no answer came. Never set for reads.
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
#[non_exhaustive]
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
    pub const ALL: &[OpErrorKind] = &[
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
