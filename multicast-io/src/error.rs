//! What can go wrong with a socket.

/// An operation on a socket that failed: which, on what, and the knob that changes it.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {subject}: {cause}{hint}")]
pub struct SocketError {
    /// For example `bind`, `join`.
    pub operation: &'static str,
    /// Address, group or interface.
    pub subject: String,
    /// What the kernel said. It is in the text already, so it is no source of the error: a chain would say it twice.
    pub cause: std::io::Error,
    /// Empty, or ` (raise sysctl net.core.optmem_max, now 20480)` and the like.
    pub hint: String,
}

impl SocketError {
    /// An error without a hint, for `map_err`.
    pub(crate) fn about(
        operation: &'static str,
        subject: impl ToString,
    ) -> impl FnOnce(std::io::Error) -> SocketError {
        move |cause| SocketError { operation, subject: subject.to_string(), cause, hint: String::new() }
    }
}
