//! When a server was heard last.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// When a server was heard last, also with answers that nobody waited for any more: after a hiccup these come first, and a
/// batch behind them is not late for want of them.
#[derive(Debug, Default)]
pub struct Heard(Mutex<Option<Instant>>);

impl Heard {
    /// Nothing was heard yet. A session keeps it and gives it out as [`Session::heard`](crate::Session::heard).
    pub fn new() -> Arc<Heard> {
        Arc::default()
    }
    /// Something came: call it for each read that brought a reply.
    pub fn note(&self, now: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    pub(super) fn last(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
