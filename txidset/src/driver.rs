//! Runs `Claims` against a real backend: executes requests on the worker's session, immediate ones inline.

use crate::Claims;
use cache_backend::{Backend, Memory, OpenError};
use std::sync::Arc;
use std::time::Instant;

/// Session, guard and requests in flight of one worker.
pub struct Driver {
    memory: Option<Memory>,
}

impl Driver {
    /// `None`: no tier 2. Must be called on the worker's runtime.
    #[allow(clippy::unused_async, reason = "opening a session waits")]
    pub async fn open(backend: Option<Arc<dyn Backend>>) -> Result<Driver, OpenError> {
        let memory = backend.as_ref().and_then(|backend| backend.immediate().cloned());
        if backend.is_some() && memory.is_none() {
            return Err(OpenError("only the memory backend is supported yet".into()));
        }
        Ok(Driver { memory })
    }
    /// Executes what `claims` asks for: inline where the backend answers at once, otherwise started and left running.
    pub fn pump(&mut self, claims: &mut Claims, now: Instant) {
        if let Some(memory) = &self.memory {
            claims.run(memory, now);
        }
    }
    /// Completes when an answer arrived and was given to `claims`, or its timeout fired. Pends forever while there is
    /// nothing to wait for. Cancel safe. Afterwards: `pump`, then drain `claims.next_decision()`.
    pub async fn progress(&mut self, _claims: &mut Claims) {
        std::future::pending::<()>().await;
    }
}
