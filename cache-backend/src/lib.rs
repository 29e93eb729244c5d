//! Shared stores of claims and frames: the `Backend` trait and `memory`, `none`, `redis`, `aerospike`.
//!
//! Keys and values are opaque bytes; the caller owns namespacing. A TTL of zero means no expiry. Every call takes many
//! keys and carries a deadline. A miss is `None`, never an error.

#[cfg(feature = "aerospike")]
pub mod aerospike;
pub mod batch;
pub mod error;
pub mod guard;
pub mod memory;
pub mod open;
pub mod redis;
pub mod settings;

#[cfg(feature = "aerospike")]
pub use aerospike::Aerospike;
pub use batch::KeyValues;
pub use error::{OpError, OpErrorKind, OpenError};
pub use guard::{Breaker, BreakerState, GuardStats, Guarded};
pub use memory::Memory;
pub use open::open;
pub use redis::Redis;
pub use settings::{
    AerospikeSettings, BootPolicy, Credential, RedisSettings, RedisTopology, RemoteSettings, Secret,
    Settings, TlsSettings,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
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

/// A configured store. Opening dials and verifies with a real write and read of a probe key (fail closed).
pub trait Backend: Send + Sync + 'static {
    /// `memory`, `redis`, `aerospike`.
    fn name(&self) -> &'static str;
    /// A session of its own for a worker (its own connection). Must be called on the worker's runtime.
    fn session(&self) -> BoxFuture<'_, Result<Box<dyn Session>, OpenError>>;
    /// Present where answers need no waiting: the caller then never parks a frame.
    fn immediate(&self) -> Option<&Memory> {
        None
    }
    /// Breaker, errors, latency and bytes in flight of each server known so far, for metrics and `/status`. Sessions of
    /// remote stores are guarded already; the list may grow (Cluster).
    fn guards(&self) -> Vec<Arc<GuardStats>> {
        Vec::new()
    }
    /// Cold path, for readyz: `Err` says what is wrong.
    fn healthy(&self) -> BoxFuture<'_, Result<(), OpError>>;
    /// Ends what runs in the background. Sessions fail from then on.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// A worker's pipelined connection. Calls may overlap; answers of one call come together. Futures do not borrow the
/// session and may be dropped at any time.
pub trait Session {
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
    /// When the connection brought something last, for sessions that know it better than their callers.
    fn heard(&self) -> Option<Arc<guard::Heard>> {
        None
    }
    /// At the deadline of a call the keys that were answered keep their answer.
    fn answers_in_parts(&self) -> bool {
        false
    }
}
