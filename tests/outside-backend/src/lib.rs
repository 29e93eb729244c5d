//! A backend that knows `cache-backend` from outside only: a table behind a channel, which may stop answering.
//!
//! It stands for what another service writes: a session of its own, with the guard of the crate around it. The tests race
//! through it, and through a Redis that is opened by flags.

use cache_backend::{
    Answers, Backend, BoxFuture, Breaker, Bytes, Claimed, GuardStats, Guarded, Heard, KeyValues, OpError,
    OpErrorKind, OpenError, RemoteSettings, Session,
};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const NAME: &str = "table";

/// The server: a table that everybody asks, or that stands still.
#[derive(Debug, Default)]
pub struct Table {
    values: Mutex<HashMap<Vec<u8>, Bytes>>,
    /// While it is set nothing is answered.
    pub stopped: AtomicBool,
}

/// The backend: what it takes to reach a [`Table`].
pub struct TableBackend {
    table: Arc<Table>,
    breaker: Arc<Breaker>,
    settings: RemoteSettings,
}

impl TableBackend {
    /// Sees that the table works, as every open does.
    ///
    /// # Errors
    /// It does not answer.
    pub fn open(table: Arc<Table>, settings: RemoteSettings) -> Result<TableBackend, OpenError> {
        let breaker = Breaker::new(NAME, "here", &settings);
        if table.stopped.load(Relaxed) {
            breaker.dial_failed(Instant::now());
            return Err(OpenError("table: it does not answer".to_owned()));
        }
        Ok(TableBackend { table, breaker, settings })
    }
}

impl Backend for TableBackend {
    fn name(&self) -> &'static str {
        NAME
    }
    fn session(&self) -> BoxFuture<'_, Result<Box<dyn Session>, OpenError>> {
        let session = TableSession { table: self.table.clone(), heard: Heard::new() };
        let guarded = Guarded::new(session, self.breaker.clone(), &self.settings);
        Box::pin(async { Ok(Box::new(guarded) as Box<dyn Session>) })
    }
    fn guards(&self) -> Vec<Arc<GuardStats>> {
        vec![self.breaker.stats().clone()]
    }
    fn healthy(&self) -> BoxFuture<'_, Result<(), OpError>> {
        Box::pin(async {
            if self.table.stopped.load(Relaxed) {
                return Err(OpError::not_done(NAME, OpErrorKind::Timeout, "it stands still"));
            }
            self.breaker.proved(Duration::ZERO);
            self.breaker.stats().closed()
        })
    }
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

struct TableSession {
    table: Arc<Table>,
    heard: Arc<Heard>,
}

impl TableSession {
    fn ask<T: Send + 'static>(
        &self,
        batch: KeyValues,
        answer: impl Fn(&mut HashMap<Vec<u8>, Bytes>, &[u8], &[u8]) -> T + Send + 'static,
    ) -> BoxFuture<'static, Answers<T>> {
        let (table, heard) = (self.table.clone(), self.heard.clone());
        Box::pin(async move {
            tokio::task::yield_now().await;
            if table.stopped.load(Relaxed) {
                std::future::pending::<()>().await;
            }
            heard.note(Instant::now());
            let mut values = table.values.lock().unwrap_or_else(PoisonError::into_inner);
            batch.iter().map(|(key, value)| Ok(answer(&mut values, key, value))).collect()
        })
    }
}

impl Session for TableSession {
    fn claim(&self, batch: KeyValues, _: Duration, _: Instant) -> BoxFuture<'static, Answers<Claimed>> {
        self.ask(batch, |values, key, value| match values.get(key) {
            Some(found) => Claimed::Exists(found.clone()),
            None => {
                values.insert(key.to_vec(), Bytes::copy_from_slice(value));
                Claimed::Created
            }
        })
    }
    fn set(&self, batch: KeyValues, _: Duration, _: Instant) -> BoxFuture<'static, Answers<()>> {
        self.ask(batch, |values, key, value| {
            values.insert(key.to_vec(), Bytes::copy_from_slice(value));
        })
    }
    fn get(&self, keys: KeyValues, _: Instant) -> BoxFuture<'static, Answers<Option<Bytes>>> {
        self.ask(keys, |values, key, _| values.get(key).cloned())
    }
    fn del(&self, keys: KeyValues, _: Instant) -> BoxFuture<'static, Answers<bool>> {
        self.ask(keys, |values, key, _| values.remove(key).is_some())
    }
    fn heard(&self) -> Option<Arc<Heard>> {
        Some(self.heard.clone())
    }
}
