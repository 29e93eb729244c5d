//! `redis`: Redis, Valkey, Dragonfly; one server, Sentinel or Cluster; TCP, TLS or a unix socket.
//!
//! The `redis` crate speaks the protocol: it reads URLs, packs commands and parses replies. What stands here is what it
//! does not do: no answer is believed that does not prove itself, nothing is sent twice, and nothing that a server sends
//! takes memory without bound.
//!
//! `address` reads what people write, `stream` opens it, `gate` measures each reply that comes, `connection` greets the
//! server, `probe` sees it take a write; `dial` does all of that in order, with the word of the `sentinel`s where there are
//! some. `link` keeps one connection for a session; `fleet` knows the servers and who owns which key (`slots`); `session`
//! splits batches and follows redirections.
//!
//! Every session has a connection of its own to each server, so no worker waits for another. The guard sits around
//! each of them, judged per server.
//!
//! *What is read again at every dial*: password files and TLS files. A signal is not needed for them.

mod address;
mod connection;
mod dial;
mod fleet;
mod gate;
mod link;
mod probe;
mod sentinel;
mod session;
mod slots;
mod stream;

use crate::{
    Backend, BootPolicy, Credential, GuardStats, OpError, OpErrorKind, OpenError, RedisSettings,
    RedisTopology, Session,
};
pub use address::ACCEPTED;
use address::{Address, Endpoint};
use connection::Greeting;
use dial::Dialer;
use fleet::Fleet;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use link::NAME;
use probe::{ClaimForm, Proof};
use sentinel::Sentinels;
use session::RedisSession;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use stream::Tls;
use tracing::{info, warn};

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
/// Between two attempts of a strict open.
const BOOT_PAUSE: Duration = Duration::from_millis(250);

/// An opened `redis` backend.
pub struct Redis {
    fleet: Arc<Fleet>,
    boot: BootPolicy,
}

impl Redis {
    /// Dials, probes every master, and tells what failed.
    pub async fn open(settings: RedisSettings) -> Result<Redis, OpenError> {
        let boot = settings.remote.boot;
        let patience = settings.remote.boot_patience;
        let fleet = Arc::new(Fleet::new(dialer(&settings)?, settings.topology));
        let began = Instant::now();
        loop {
            match fleet.open().await {
                Ok(()) => {
                    info!(backend = NAME, servers = ?names(&fleet), "opened");
                    return Ok(Redis { fleet, boot });
                }
                Err(error) if error.permanent => return Err(error.into()),
                Err(error) if boot == BootPolicy::Degraded => {
                    warn!(backend = NAME, reason = %error, "started without the backend; it is dialled on");
                    fleet.assume();
                    return Ok(Redis { fleet, boot });
                }
                Err(error) if began.elapsed() + BOOT_PAUSE > patience => return Err(error.into()),
                Err(_) => tokio::time::sleep(BOOT_PAUSE).await,
            }
        }
    }
}

fn names(fleet: &Fleet) -> Vec<String> {
    fleet.map().targets.iter().map(|target| fleet.dialer.name(target)).collect()
}

/// What is wrong with an address as people write it; without the address, which may hold a password.
///
/// # Errors
/// The reason, in a few words.
pub fn check_address(text: &str) -> Result<(), String> {
    Address::read(text, PORT).map(drop)
}

/// The database that the settings ask for.
///
/// # Errors
/// An address that cannot be read, a database that a Cluster does not have.
pub fn check(settings: &RedisSettings) -> Result<u32, OpenError> {
    database(settings, &addresses(settings)?)
}

fn addresses(settings: &RedisSettings) -> Result<Vec<Address>, OpenError> {
    let sentinel = matches!(settings.topology, RedisTopology::Sentinel { .. });
    let port = if sentinel { SENTINEL_PORT } else { PORT };
    settings.addresses.iter().map(|text| Address::parse(text.trim(), port)).collect()
}

fn database(settings: &RedisSettings, addresses: &[Address]) -> Result<u32, OpenError> {
    let in_address = addresses.first().and_then(|first| first.db);
    let db = if settings.db != 0 { settings.db } else { in_address.unwrap_or(0) };
    match (db, &settings.topology) {
        (1.., RedisTopology::Cluster) => {
            Err(OpenError(format!("redis: a Cluster has only database 0, {db} was asked for")))
        }
        _ => Ok(db),
    }
}

/// Checks the settings as far as that is possible without asking a server.
fn dialer(settings: &RedisSettings) -> Result<Dialer, OpenError> {
    let addresses = addresses(settings)?;
    if addresses.is_empty() {
        return Err(OpenError(
            "redis: no address is configured; give host:port or a redis:// URL".to_owned(),
        ));
    }
    let db = database(settings, &addresses)?;
    let in_address = addresses.iter().find_map(|address| address.credential.clone());
    let seeds: Vec<Endpoint> = addresses.into_iter().map(|address| address.endpoint).collect();
    let mut needs_tls = seeds.iter().any(|seed| matches!(seed, Endpoint::Tcp { tls: true, .. }));
    let mut credential: Option<Credential> = settings.credential.clone();
    let mut sentinels = None;
    if let RedisTopology::Sentinel { master, credential: for_sentinels, data_tls } = &settings.topology {
        needs_tls |= data_tls;
        sentinels = Some(Sentinels {
            endpoints: seeds.clone(),
            master: master.clone(),
            greeting: Greeting { credential: for_sentinels.clone().or(in_address), db: 0 },
            data_tls: *data_tls,
        });
    } else {
        credential = credential.or(in_address);
    }
    let tls = match needs_tls {
        true => Tls::check(&settings.tls).map_err(|why| OpenError(format!("redis: {why}")))?,
        false => Tls::unused(),
    };
    Ok(Dialer {
        seeds,
        sentinels,
        greeting: Greeting { credential, db },
        tls,
        remote: settings.remote.clone(),
        form: Mutex::new(ClaimForm::SetNxGet),
    })
}

impl Backend for Redis {
    fn name(&self) -> &'static str {
        NAME
    }

    fn session(&self) -> BoxFuture<'_, Result<Box<dyn Session>, OpenError>> {
        async {
            let strict = self.boot == BootPolicy::Strict;
            let session = RedisSession::start(self.fleet.clone(), strict).await?;
            Ok(Box::new(session) as Box<dyn Session>)
        }
        .boxed()
    }

    fn guards(&self) -> Vec<Arc<GuardStats>> {
        self.fleet.guards()
    }

    fn healthy(&self) -> BoxFuture<'_, Result<(), OpError>> {
        async {
            let down = |detail| Err(OpError::not_done(NAME, OpErrorKind::Disconnected, detail));
            let map = self.fleet.map();
            if map.targets.is_empty() {
                return down("no server is known yet".to_owned());
            }
            for target in &map.targets {
                let (key, began) =
                    (map.probe_key(target, &self.fleet.dialer.remote.probe_prefix), Instant::now());
                match self.fleet.dialer.dial(target, key, Proof::Lenient).await {
                    Ok(dialled) if dialled.proven => self.fleet.breaker(target).proved(began.elapsed()),
                    Ok(_) => {}
                    Err(error) => return down(error.message),
                }
            }
            self.fleet.guards().iter().try_for_each(|guard| guard.closed())
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.fleet.close();
        ready(()).boxed()
    }
}
