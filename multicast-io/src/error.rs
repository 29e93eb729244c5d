//! What can go wrong with a socket.

/// An operation on a socket that failed: which, on what, and the knob that changes it.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {subject}: {source}{hint}")]
pub struct SocketError {
    /// For example `bind`, `join`.
    pub operation: &'static str,
    /// Address, group or interface.
    pub subject: String,
    /// What the kernel said.
    pub source: std::io::Error,
    /// Empty, or ` (raise sysctl net.core.optmem_max, now 20480)` and the like.
    pub hint: String,
}

impl SocketError {
    /// An error without a hint, for `map_err`.
    pub(crate) fn about(
        operation: &'static str,
        subject: impl ToString,
    ) -> impl FnOnce(std::io::Error) -> SocketError {
        move |source| SocketError { operation, subject: subject.to_string(), source, hint: String::new() }
    }
}
