//! `aerospike`: the official client, one record a key, the value in bin `v`.
//!
//! A claim is a write with CREATE_ONLY. Where the record exists its value is read. A write is never retried: an own write
//! whose answer got lost would look like that of another. For the same reason an "exists" that the client marks as in
//! doubt is no answer.
//!
//! Limits: the server keeps time in whole seconds, so a TTL is rounded up, to one second at least.
//!
//! This file opens the store. `servers.rs` connects to servers and sees that they work. `session.rs` asks and answers batches.

mod errors;
mod servers;
mod session;

use crate::{
    AerospikeSettings, Backend, BootPolicy, Breaker, GuardStats, Guarded, OpError, OpErrorKind, OpenError,
    Session,
};
use ::aerospike::Host;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use servers::{Config, NAME, PORT, shown};
use session::AerospikeSession;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{info, warn};

const BOOT_PAUSE: Duration = Duration::from_millis(250);

/// An opened `aerospike` backend.
pub struct Aerospike {
    config: Arc<Config>,
    breaker: Arc<Breaker>,
}

impl Aerospike {
    /// Connects, writes a probe record with a TTL, meets it as existing, reads it and removes it.
    pub async fn open(settings: AerospikeSettings) -> Result<Aerospike, OpenError> {
        let hosts = settings.hosts.iter().map(|host| parse_host(host)).collect::<Result<Vec<_>, _>>()?;
        if hosts.is_empty() {
            return Err(OpenError("aerospike: no host is configured; give host:port".to_owned()));
        }
        if settings.namespace.is_empty() {
            return Err(OpenError("aerospike: no namespace is configured".to_owned()));
        }
        if settings.set.len() > 63 {
            return Err(OpenError(format!("aerospike: set \"{}\" is longer than 63 bytes", settings.set)));
        }
        let name = hosts.iter().map(shown).collect::<Vec<_>>().join(",");
        let (boot, patience) = (settings.remote.boot, settings.remote.boot_patience);
        let breaker = Breaker::new(NAME, name.clone(), &settings.remote);
        let backend = Aerospike { config: Arc::new(Config { settings, hosts, name }), breaker };
        let began = Instant::now();
        loop {
            match backend.config.prove().await {
                Ok(()) => {
                    info!(backend = NAME, servers = %backend.config.name, "opened");
                    return Ok(backend);
                }
                Err(failure) if !failure.permanent && boot == BootPolicy::Degraded => {
                    warn!(backend = NAME, reason = %failure.message, "started without the backend; it is dialled on");
                    backend.breaker.begin_open();
                    return Ok(backend);
                }
                Err(failure) if failure.permanent || began.elapsed() + BOOT_PAUSE > patience => {
                    return Err(OpenError(format!("aerospike: {}", failure.message)));
                }
                Err(_) => tokio::time::sleep(BOOT_PAUSE).await,
            }
        }
    }
}

fn parse_host(text: &str) -> Result<Host, OpenError> {
    let wrong =
        || OpenError(format!("aerospike: host \"{text}\" cannot be read; accepted are host and host:port"));
    let (host, port) = match text.trim().rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok().filter(|&port| port != 0).ok_or_else(wrong)?),
        None => (text.trim(), PORT),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() { Err(wrong()) } else { Ok(Host::new(host, port)) }
}

impl Backend for Aerospike {
    fn name(&self) -> &'static str {
        NAME
    }

    fn session(&self) -> BoxFuture<'_, Result<Box<dyn Session>, OpenError>> {
        async {
            let remote = &self.config.settings.remote;
            let strict = remote.boot == BootPolicy::Strict;
            let client = self.config.client(strict).await;
            let client = client.map_err(|failure| OpenError(format!("aerospike: {}", failure.message)))?;
            let session = AerospikeSession::new(self.config.clone(), client);
            Ok(Box::new(Guarded::new(session, self.breaker.clone(), remote)) as Box<dyn Session>)
        }
        .boxed()
    }

    fn guards(&self) -> Vec<Arc<GuardStats>> {
        vec![self.breaker.stats().clone()]
    }

    fn healthy(&self) -> BoxFuture<'_, Result<(), OpError>> {
        async {
            let began = Instant::now();
            if let Err(failure) = self.config.prove().await {
                return Err(OpError::not_done(NAME, OpErrorKind::Disconnected, failure.message));
            }
            self.breaker.proved(began.elapsed());
            self.breaker.stats().closed()
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        // Clients belong to their sessions and end with them.
        ready(()).boxed()
    }
}
