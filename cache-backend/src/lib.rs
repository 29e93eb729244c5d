//! Shared stores of claims and small values: `memory`, `redis`, `aerospike`, or one of your own.
//!
//! Keys and values are opaque bytes; the caller owns namespacing. A TTL of zero means no expiry. Every call takes many
//! keys and carries a deadline. A miss is `None`, never an error. An error says whether the write may have happened
//! ([`OpError`]).
//!
//! ```text
//!   flags::Flags ── clap group with a prefix of its own (feature `clap`)
//!        │
//!        ▼
//!    Settings ──── open() ───►  Arc<dyn Backend>  ◄─── a store of your own
//!                                     │ session()
//!             ┌───────────────────────┴────────┐
//!             ▼                                ▼
//!   Store: clone it, call it          Session: one worker's pipelined connection,
//!   from any task                     for those who batch themselves
//!             └───────────────┬────────────────┘
//!                             ▼
//!         guard: deadline, breaker, bounds; one Breaker for each server
//!                             │
//!             ┌───────────────┼───────────────────┐
//!             ▼               ▼                   ▼
//!           redis         aerospike       memory (Immediate: no wait, no guard)
//! ```
//!
//! Most programs want [`Store`]:
//!
//! ```
//! use cache_backend::{Claimed, Settings, Store};
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Store::open(Settings::Memory { bytes: 64 << 20 }).await?;
//! let ttl = Duration::from_secs(600);
//! assert_eq!(store.set_nx("job:17", "worker-a", ttl).await?, Claimed::Created);
//! assert_eq!(store.set_nx("job:17", "worker-b", ttl).await?, Claimed::Exists("worker-a".into()));
//! # Ok(())
//! # }
//! ```
//!
//! The same with a Redis that runs:
//!
//! ```no_run
//! use cache_backend::{RedisSettings, Settings, Store};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let mut redis = RedisSettings::new("rediss://cache.example:6380");
//! redis.tls.ca_file = Some("/etc/ssl/cache-ca.pem".into());
//! let store = Store::open(Settings::Redis(Box::new(redis))).await?;
//! assert_eq!(store.get("job:17").await?, None);
//! # Ok(())
//! # }
//! ```
//!
//! Features: `tls` and `aerospike` (both on), `clap` (off).

#[cfg(feature = "aerospike")]
pub mod aerospike;
pub mod batch;
pub mod error;
#[cfg(feature = "clap")]
pub mod flags;
pub mod guard;
pub mod memory;
pub mod open;
pub mod redis;
pub mod settings;
pub mod store;

#[cfg(feature = "aerospike")]
pub use aerospike::Aerospike;
pub use batch::KeyValues;
pub use bytes::Bytes;
pub use error::{OpError, OpErrorKind, OpenError};
pub use futures_util::future::BoxFuture;
pub use guard::{Breaker, BreakerState, GuardStats, Guarded, Heard};
pub use memory::Memory;
pub use open::open;
pub use redis::Redis;
pub use settings::{
    AerospikeSettings, BootPolicy, Credential, RedisSettings, RedisTopology, RemoteSettings, Secret,
    Settings, TlsSettings,
};
pub use store::Store;

use futures_util::FutureExt;
use futures_util::future::ready;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The example of the README is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// Answer to one create-only write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// The key was absent and now holds our value.
    Created,
    /// The key was there; its value. A store may leave out what is beyond a kibibyte and longer than what was to be written.
    Exists(Bytes),
}

/// One answer per key, in the order of the request.
pub type Answers<T> = Vec<Result<T, OpError>>;

/// A store that can be asked. [`open`](open()) makes one from [`Settings`]; a program may bring its own.
///
/// Who opens one sees first that it works: a real write and read of a probe key (fail closed). The Rust types say the rest;
/// `examples/own_backend.rs` is a whole one.
pub trait Backend: Send + Sync + 'static {
    /// What it is called in errors, logs and metrics: `memory`, `redis`, `aerospike`.
    fn name(&self) -> &'static str;
    /// A session of its own for a worker (its own connection). Must be called on the runtime that the session lives on: its
    /// connection ends with it.
    fn session(&self) -> BoxFuture<'_, Result<Box<dyn Session>, OpenError>>;
    /// Present where answers need no waiting: the caller then never parks a frame.
    fn immediate(&self) -> Option<Arc<dyn Immediate>> {
        None
    }
    /// Breaker, errors, latency and bytes in flight of each server known so far, for metrics and `/status`. Sessions of
    /// remote stores are guarded already; the list may grow (Cluster).
    fn guards(&self) -> Vec<Arc<GuardStats>> {
        Vec::new()
    }
    /// Cold path, for readyz: `Err` says what is wrong.
    fn healthy(&self) -> BoxFuture<'_, Result<(), OpError>>;
    /// Ends what runs in the background. Sessions of a remote store fail from then on. Whoever opened a backend closes it.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// A pipelined connection. Calls may overlap; answers of one call come together. Futures do not borrow the session and may
/// be dropped at any time: what was sent by then may still happen.
///
/// *Contract*: one answer for each key, in order, never fewer. A call ends by its deadline; a session behind a [`Guarded`] may
/// leave that to it. Nothing that may have been written is written again. An error of a write is in doubt unless it is known
/// that the write did not happen.
///
/// *Threads*: a session can be shared. It is fastest on the thread of its runtime, which is why a worker has one of its own;
/// [`Store`] is for those who call from everywhere.
pub trait Session: Send + Sync + 'static {
    /// Atomic create-only writes that answer the old value where the key exists. Values of 16 bytes or more must tell
    /// which key they belong to: an old value as long as they are is given out without further proof that its reply is
    /// not another key's (`distrust` is for the caller who finds that out).
    fn claim(
        &self,
        batch: KeyValues,
        ttl: Duration,
        deadline: Instant,
    ) -> BoxFuture<'static, Answers<Claimed>>;
    /// Writes that replace what is there.
    fn set(&self, batch: KeyValues, ttl: Duration, deadline: Instant) -> BoxFuture<'static, Answers<()>>;
    /// Values of the batch are ignored.
    fn get(&self, keys: KeyValues, deadline: Instant) -> BoxFuture<'static, Answers<Option<Bytes>>>;
    /// True where a key was removed.
    fn del(&self, keys: KeyValues, deadline: Instant) -> BoxFuture<'static, Answers<bool>>;
    /// The caller saw an answer that cannot belong to its question: drops the connections, so that everything that
    /// waits on them fails as garbled, and dials anew. Nothing to do for stores without a connection.
    fn distrust(&self) {}
    /// There is no connection now: whatever is asked fails at once and unsent.
    fn is_down(&self) -> bool {
        false
    }
    /// When the connection brought something last, for sessions that know it better than their callers. A guard extends the
    /// deadline of a batch behind others while replies come.
    fn heard(&self) -> Option<Arc<Heard>> {
        None
    }
    /// At the deadline of a call the keys that were answered keep their answer.
    fn answers_in_parts(&self) -> bool {
        false
    }
}

/// A store inside the process, which answers without waiting. It is a [`Session`] too, and needs no guard.
///
/// `now` is the caller's: a batch is judged at one moment, and tests bring their own time.
pub trait Immediate: Send + Sync + 'static {
    /// [`Session::claim`].
    fn claim(&self, batch: &KeyValues, ttl: Duration, now: Instant) -> Answers<Claimed>;
    /// [`Session::set`].
    fn set(&self, batch: &KeyValues, ttl: Duration, now: Instant) -> Answers<()>;
    /// [`Session::get`].
    fn get(&self, keys: &KeyValues, now: Instant) -> Answers<Option<Bytes>>;
    /// [`Session::del`].
    fn del(&self, keys: &KeyValues, now: Instant) -> Answers<bool>;
}

impl<I: Immediate> Session for I {
    fn claim(&self, batch: KeyValues, ttl: Duration, _: Instant) -> BoxFuture<'static, Answers<Claimed>> {
        ready(Immediate::claim(self, &batch, ttl, Instant::now())).boxed()
    }
    fn set(&self, batch: KeyValues, ttl: Duration, _: Instant) -> BoxFuture<'static, Answers<()>> {
        ready(Immediate::set(self, &batch, ttl, Instant::now())).boxed()
    }
    fn get(&self, keys: KeyValues, _: Instant) -> BoxFuture<'static, Answers<Option<Bytes>>> {
        ready(Immediate::get(self, &keys, Instant::now())).boxed()
    }
    fn del(&self, keys: KeyValues, _: Instant) -> BoxFuture<'static, Answers<bool>> {
        ready(Immediate::del(self, &keys, Instant::now())).boxed()
    }
}
