//! Runs `Claims` against a real backend: executes requests on the worker's session, immediate ones inline.

use crate::Claims;
use cache_backend::{Backend, OpenError};
use std::sync::Arc;
use std::time::Instant;

/// Session, guard and requests in flight of one worker.
pub struct Driver {}

impl Driver {
    /// `None`: no tier 2.
    pub async fn open(_backend: Option<Arc<dyn Backend>>) -> Result<Driver, OpenError> {
        unimplemented!()
    }
    /// Executes what `claims` asks for: inline where the backend answers at once, otherwise started and left running.
    pub fn pump(&mut self, _claims: &mut Claims, _now: Instant) {
        unimplemented!()
    }
    /// Completes when an answer arrived and was given to `claims`, or its timeout fired. Pends forever while there is
    /// nothing to wait for. Cancel safe. Afterwards: `pump`, then drain `claims.next_decision()`.
    pub async fn progress(&mut self, _claims: &mut Claims) {
        unimplemented!()
    }
}
