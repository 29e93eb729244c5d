//! A store as most programs want it: a handle that is cloned and called from any task.
//!
//! Promises: every call answers by its deadline, 50 ms later at the worst. A call may come from any task of any tokio runtime; the connection lives on
//! the runtime that opened the store, so that one must run as long as the store is used. Calls wait for their turn, within
//! their deadline, where so many are under way as the settings allow. Nothing is asked twice.
//!
//! Limits: single calls do not gather into batches. Who has many keys at hand uses the `…_many` calls: they are one request.
//! Who runs a thread for each core gives each a [`Session`].
//!
//! Cost: over a session one permit, and a task for a call from another runtime.

use crate::guard::vec_of_errors;
use crate::{
    Answers, Backend, Bytes, Claimed, GuardStats, KeyValues, OpError, OpErrorKind, OpenError, RemoteSettings,
    Session, Settings,
};
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// A session keeps its own deadlines; one that does not, or whose runtime stands still, is given up this much later.
const GRACE: Duration = Duration::from_millis(50);

/// See the module text. Clones share the connection.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    patience: Patience,
}

/// When a call must have its answer.
#[derive(Clone, Copy)]
enum Patience {
    Within(Duration),
    Until(Instant),
}

struct Shared {
    backend: Arc<dyn Backend>,
    session: Box<dyn Session>,
    /// Calls under way; closed with the store.
    turns: Semaphore,
    home: Handle,
}

impl Store {
    /// Opens what `settings` name and sees that it works. A call waits for the operation timeout of the settings at most.
    ///
    /// # Errors
    /// The store cannot be reached or does not work; [`Settings::None`].
    pub async fn open(settings: Settings) -> Result<Store, OpenError> {
        let remote = match &settings {
            Settings::Redis(settings) => settings.remote.clone(),
            Settings::Aerospike(settings) => settings.remote.clone(),
            Settings::None | Settings::Memory { .. } => RemoteSettings::default(),
        };
        let backend = crate::open(settings).await?;
        let backend = backend.ok_or_else(|| OpenError("no store is configured".to_owned()))?;
        Store::start(backend, &remote).await
    }

    /// Over a backend that is open. Others may use it too; [`close`](Store::close) closes it for all. A call waits 50 ms at
    /// most, unless told otherwise by [`within`](Store::within).
    ///
    /// # Errors
    /// No session can be had.
    pub async fn over(backend: Arc<dyn Backend>) -> Result<Store, OpenError> {
        Store::start(backend, &RemoteSettings::default()).await
    }

    async fn start(backend: Arc<dyn Backend>, remote: &RemoteSettings) -> Result<Store, OpenError> {
        let session = backend.session().await?;
        let (turns, home) = (Semaphore::new(remote.max_batches.max(1)), Handle::current());
        let shared = Arc::new(Shared { backend, session, turns, home });
        Ok(Store { shared, patience: Patience::Within(remote.op_timeout) })
    }

    /// The same store for calls that wait `timeout` at most. The operation timeout of the settings still holds: it is what a
    /// server gets.
    pub fn within(&self, timeout: Duration) -> Store {
        Store { shared: self.shared.clone(), patience: Patience::Within(timeout) }
    }

    /// The same store for calls that must have their answer by `deadline`.
    pub fn until(&self, deadline: Instant) -> Store {
        Store { shared: self.shared.clone(), patience: Patience::Until(deadline) }
    }

    /// Writes `value` unless the key exists; then answers what is there. Of all who race for a key one is told `Created`. A
    /// value of 16 bytes or more should name its key, see [`Session::claim`].
    ///
    /// # Errors
    /// No answer; [`OpError::in_doubt`] says whether the value may have been written.
    pub async fn set_nx(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        ttl: Duration,
    ) -> Result<Claimed, OpError> {
        self.only(self.set_nx_many([(key, value)].into_iter().collect(), ttl).await)
    }

    /// [`set_nx`](Store::set_nx) for many keys in one request: one answer for each, in order.
    pub async fn set_nx_many(&self, batch: KeyValues, ttl: Duration) -> Answers<Claimed> {
        self.call(batch, true, move |session, batch, deadline| session.claim(batch, ttl, deadline)).await
    }

    /// Writes `value` over what is there.
    ///
    /// # Errors
    /// As [`set_nx`](Store::set_nx).
    pub async fn set(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        ttl: Duration,
    ) -> Result<(), OpError> {
        self.only(self.set_many([(key, value)].into_iter().collect(), ttl).await)
    }

    /// [`set`](Store::set) for many keys in one request.
    pub async fn set_many(&self, batch: KeyValues, ttl: Duration) -> Answers<()> {
        self.call(batch, true, move |session, batch, deadline| session.set(batch, ttl, deadline)).await
    }

    /// The value, or `None` where there is none.
    ///
    /// # Errors
    /// No answer.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, OpError> {
        self.only(self.get_many(KeyValues::of_keys([key])).await)
    }

    /// [`get`](Store::get) for many keys in one request.
    pub async fn get_many(&self, keys: KeyValues) -> Answers<Option<Bytes>> {
        self.call(keys, false, |session, keys, deadline| session.get(keys, deadline)).await
    }

    /// Removes a key; true where there was one.
    ///
    /// # Errors
    /// As [`set_nx`](Store::set_nx).
    pub async fn del(&self, key: impl AsRef<[u8]>) -> Result<bool, OpError> {
        self.only(self.del_many(KeyValues::of_keys([key])).await)
    }

    /// [`del`](Store::del) for many keys in one request.
    pub async fn del_many(&self, keys: KeyValues) -> Answers<bool> {
        self.call(keys, true, |session, keys, deadline| session.del(keys, deadline)).await
    }

    /// Whether the store works now: a real write and read, for a health page and not for the hot path.
    ///
    /// # Errors
    /// What is wrong.
    pub async fn healthy(&self) -> Result<(), OpError> {
        let backend = self.shared.backend.clone();
        self.shared.at_home(async move { backend.healthy().await }).await.unwrap_or_else(|| Err(self.gone()))
    }

    /// Breakers and counters of its servers, for metrics.
    pub fn guards(&self) -> Vec<Arc<GuardStats>> {
        self.shared.backend.guards()
    }

    /// Closes the backend. Calls of all clones are refused from then on.
    pub async fn close(&self) {
        self.shared.turns.close();
        let backend = self.shared.backend.clone();
        self.shared.at_home(async move { backend.close().await }).await;
    }

    async fn call<T: Send + 'static>(
        &self,
        batch: KeyValues,
        writes: bool,
        ask: impl FnOnce(&dyn Session, KeyValues, Instant) -> BoxFuture<'static, Answers<T>>,
    ) -> Answers<T> {
        let keys = batch.len();
        let deadline = match self.patience {
            Patience::Within(timeout) => Instant::now() + timeout,
            Patience::Until(deadline) => deadline,
        };
        let _turn = match tokio::time::timeout_at(deadline.into(), self.shared.turns.acquire()).await {
            Ok(Ok(turn)) => turn,
            Ok(Err(_closed)) => return vec_of_errors(keys, &self.gone()),
            Err(_late) => {
                let why = "too many calls are under way";
                let error = OpError::not_done(self.shared.backend.name(), OpErrorKind::Overloaded, why);
                return vec_of_errors(keys, &error);
            }
        };
        let answers = self.shared.at_home(ask(&*self.shared.session, batch, deadline));
        let lost = match tokio::time::timeout_at((deadline + GRACE).into(), answers).await {
            Ok(Some(answers)) => return answers,
            Ok(None) => self.gone(),
            Err(_late) => OpError::not_done(self.shared.backend.name(), OpErrorKind::Timeout, ""),
        };
        vec_of_errors(keys, &OpError { in_doubt: writes, ..lost })
    }

    /// The store was closed, or its runtime has ended.
    fn gone(&self) -> OpError {
        OpError::not_done(self.shared.backend.name(), OpErrorKind::Disconnected, "the store was closed")
    }

    fn only<T>(&self, answers: Answers<T>) -> Result<T, OpError> {
        let short = || OpError::in_doubt(self.shared.backend.name(), OpErrorKind::Garbled, "no answer");
        answers.into_iter().next().unwrap_or_else(|| Err(short()))
    }
}

impl Shared {
    /// Runs `work` on the runtime of the connection; `None` where that has ended.
    async fn at_home<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
        if Handle::current().id() == self.home.id() {
            return Some(work.await);
        }
        self.home.spawn(work).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Memory;
    use futures_util::FutureExt;
    use futures_util::future::{pending, ready};

    const TTL: Duration = Duration::from_secs(60);

    async fn memory() -> Store {
        Store::open(Settings::Memory { bytes: 1 << 20 }).await.unwrap()
    }

    /// A store that takes questions and answers none.
    struct Silent;

    impl Backend for Silent {
        fn name(&self) -> &'static str {
            "silent"
        }
        fn session(&self) -> BoxFuture<'_, Result<Box<dyn Session>, OpenError>> {
            ready(Ok(Box::new(Silent) as Box<dyn Session>)).boxed()
        }
        fn healthy(&self) -> BoxFuture<'_, Result<(), OpError>> {
            ready(Ok(())).boxed()
        }
        fn close(&self) -> BoxFuture<'_, ()> {
            ready(()).boxed()
        }
    }

    impl Session for Silent {
        fn claim(&self, _: KeyValues, _: Duration, _: Instant) -> BoxFuture<'static, Answers<Claimed>> {
            pending().boxed()
        }
        fn set(&self, _: KeyValues, _: Duration, _: Instant) -> BoxFuture<'static, Answers<()>> {
            pending().boxed()
        }
        fn get(&self, _: KeyValues, _: Instant) -> BoxFuture<'static, Answers<Option<Bytes>>> {
            pending().boxed()
        }
        fn del(&self, _: KeyValues, _: Instant) -> BoxFuture<'static, Answers<bool>> {
            pending().boxed()
        }
    }

    #[tokio::test]
    async fn one_key_and_many_are_written_read_and_removed() {
        let store = memory().await;
        assert_eq!(store.set_nx("k", "mine", TTL).await, Ok(Claimed::Created));
        let batch: KeyValues = [("k", "yours"), ("l", "yours")].into_iter().collect();
        let exists = Claimed::Exists("mine".into());
        assert_eq!(store.set_nx_many(batch, TTL).await, [Ok(exists), Ok(Claimed::Created)]);
        assert_eq!(store.set("k", "anew", TTL).await, Ok(()));
        let keys = KeyValues::of_keys(["k", "none"]);
        assert_eq!(store.get_many(keys.clone()).await, [Ok(Some("anew".into())), Ok(None)]);
        assert_eq!(store.del_many(keys).await, [Ok(true), Ok(false)]);
        assert_eq!((store.get("k").await, store.del("k").await), (Ok(None), Ok(false)));
        assert_eq!(store.healthy().await, Ok(()));
    }

    #[tokio::test]
    async fn a_closed_store_refuses_every_clone() {
        let (store, clone) = {
            let store = memory().await;
            (store.clone(), store)
        };
        store.close().await;
        let error = clone.set_nx("k", "v", TTL).await.unwrap_err();
        assert_eq!((error.kind, error.in_doubt), (OpErrorKind::Disconnected, false));
        assert!(Store::open(Settings::None).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_never_answers_leaves_a_write_in_doubt_and_a_read_not() {
        let store = Store::over(Arc::new(Silent)).await.unwrap().within(Duration::from_millis(20));
        let began = tokio::time::Instant::now();
        let claim = store.set_nx("k", "v", TTL).await.unwrap_err();
        let read = store.get("k").await.unwrap_err();
        assert_eq!((claim.kind, claim.in_doubt), (OpErrorKind::Timeout, true));
        assert_eq!((read.kind, read.in_doubt), (OpErrorKind::Timeout, false));
        assert!(began.elapsed() <= 2 * (Duration::from_millis(25) + GRACE));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_for_its_turn_and_says_that_it_was_not_sent_where_none_comes() {
        let store = Store::over(Arc::new(Silent)).await.unwrap();
        let soon = store.within(Duration::from_millis(10));
        let most = RemoteSettings::default().max_batches;
        let mut under_way: Vec<_> = (0..most).map(|_| store.get("k").boxed()).collect();
        under_way.iter_mut().for_each(|call| assert!(call.now_or_never().is_none()));
        let error = soon.set_nx("k", "v", TTL).await.unwrap_err();
        assert_eq!((error.kind, error.in_doubt), (OpErrorKind::Overloaded, false));
    }

    #[test]
    fn calls_come_from_every_runtime() {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let home =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let memory: Arc<dyn Backend> = Arc::new(Memory::new(1 << 20));
        let store = home.block_on(Store::over(memory)).unwrap();
        let race = |name: &'static str| {
            let store = store.clone();
            std::thread::spawn(move || runtime().block_on(store.set_nx("k", name, TTL)).unwrap())
        };
        let racers = [race("a"), race("b")].map(|racer| racer.join().unwrap());
        assert_eq!(racers.iter().filter(|answer| **answer == Claimed::Created).count(), 1);
        drop(home);
        let error = runtime().block_on(store.set_nx("l", "c", TTL)).unwrap_err();
        assert_eq!(error.kind, OpErrorKind::Disconnected, "its runtime has ended");
    }
}
