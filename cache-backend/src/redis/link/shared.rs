//! What callers and connection share: what no connection has taken yet, and why there is none.

use super::batch::Batch;
use crate::OpErrorKind;
use crate::guard::Heard;
use futures_util::task::AtomicWaker;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Between callers and connection.
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    pub(super) waker: AtomicWaker,
    pub(super) heard: Arc<Heard>,
    /// Batches that were submitted and not answered.
    pub(super) load: AtomicUsize,
    pub(super) max_batches: usize,
    pub(super) max_bytes: usize,
}

#[derive(Default)]
pub(super) struct State {
    /// Why there is no connection. `None` while there is one, and for the moment in which a lost one may come back.
    pub(super) down: Option<String>,
    /// What no connection has taken yet, and its bytes.
    pub(super) submitted: VecDeque<Batch>,
    pub(super) bytes: usize,
    pub(super) distrusted: bool,
}

impl State {
    pub(super) fn next(&mut self) -> Option<Batch> {
        let batch = self.submitted.pop_front()?;
        self.bytes -= batch.keys.bytes();
        Some(batch)
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is a connection: what was held and still has somebody waiting for it leaves first.
    pub(super) fn resume(&self) {
        let mut state = self.lock();
        let now = Instant::now();
        for _ in 0..state.submitted.len() {
            let Some(batch) = state.next() else { break };
            if batch.caller.is_gone() {
                self.load.fetch_sub(1, Relaxed);
            } else {
                state.bytes += batch.keys.bytes();
                state.submitted.push_back(Batch { since: now, ..batch });
            }
        }
        state.down = None;
        state.distrusted = false;
    }

    /// There is no connection: what was held, and what comes, fails unsent.
    pub(super) fn give_up(&self, why: &str) {
        let unsent = {
            let mut state = self.lock();
            std::mem::replace(&mut *state, State { down: Some(why.to_owned()), ..State::default() }).submitted
        };
        self.load.fetch_sub(unsent.len(), Relaxed);
        unsent.into_iter().for_each(|batch| batch.fail(OpErrorKind::Disconnected, false, why));
    }
}

/// Why a connection ended.
pub(super) struct Ending {
    pub(super) kind: OpErrorKind,
    pub(super) why: String,
}

impl Ending {
    pub(super) fn lost(why: impl Into<String>) -> Ending {
        Ending { kind: OpErrorKind::Disconnected, why: why.into() }
    }
    pub(super) fn broke(error: &std::io::Error) -> Ending {
        Ending::lost(format!("the connection broke: {error}"))
    }
    pub(super) fn garbled(why: &str) -> Ending {
        Ending { kind: OpErrorKind::Garbled, why: format!("connection dropped: {why}") }
    }
}
