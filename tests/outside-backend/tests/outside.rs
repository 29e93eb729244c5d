//! What another service does with `cache-backend`, from outside: races through a backend of its own and through a Redis.

#![allow(clippy::unwrap_used, reason = "a test may")]

use cache_backend::flags::{BackendKind, Defaults, Flags, Prefix};
use cache_backend::{BreakerState, Claimed, KeyValues, OpErrorKind, RemoteSettings, Store};
use outside_backend::{Table, TableBackend};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

const TTL: Duration = Duration::from_secs(60);
const KEYS: usize = 200;

/// Two tasks claim the same keys, one by one and as a batch: each key is won once, and the loser is told by whom.
async fn each_key_is_won_once(store: &Store) {
    let race = |name: &'static str| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut answers = Vec::new();
            for n in 0..KEYS / 2 {
                answers.push(store.set_nx(format!("jobs:race:{n}"), name, TTL).await.unwrap());
            }
            let batch: KeyValues = (KEYS / 2..KEYS).map(|n| (format!("jobs:race:{n}"), name)).collect();
            answers.extend(store.set_nx_many(batch, TTL).await.into_iter().map(Result::unwrap));
            answers
        })
    };
    let (one, other) = (race("one"), race("other"));
    for (n, pair) in one.await.unwrap().into_iter().zip(other.await.unwrap()).enumerate() {
        let of_one = Claimed::Exists("one".into());
        let of_other = Claimed::Exists("other".into());
        assert!(
            pair == (Claimed::Created, of_one) || pair == (of_other, Claimed::Created),
            "key {n}: {pair:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_of_ones_own_is_raced_through_and_guarded() {
    let table = Arc::new(Table::default());
    let mut settings = RemoteSettings::for_claims();
    // Long enough for a busy machine: nothing here is about a deadline but the stop below.
    settings.op_timeout = Duration::from_millis(500);
    settings.deadline_floor = settings.op_timeout;
    let backend = Arc::new(TableBackend::open(table.clone(), settings).unwrap());
    let store = Store::over(backend).await.unwrap().within(Duration::from_secs(1));
    each_key_is_won_once(&store).await;
    assert_eq!(store.healthy().await, Ok(()));

    table.stopped.store(true, Relaxed);
    let mut last = store.set_nx("jobs:stopped", "v", TTL).await.unwrap_err();
    assert_eq!((last.kind, last.in_doubt), (OpErrorKind::Timeout, true));
    while last.kind != OpErrorKind::BreakerOpen {
        last = store.set_nx("jobs:stopped", "v", TTL).await.unwrap_err();
    }
    assert!(!last.in_doubt, "nothing was sent");
    assert_ne!(store.guards()[0].state(), BreakerState::Closed);

    table.stopped.store(false, Relaxed);
    assert_eq!(store.healthy().await, Ok(()), "what a dial proves closes the breaker");
    assert!(store.set_nx("jobs:again", "v", TTL).await.is_ok());
}

/// A redis-server on a socket in a directory of its own.
struct Redis {
    process: Child,
    directory: PathBuf,
}

impl Redis {
    /// `None`, with a line that says so, where there is no redis-server.
    fn start() -> Option<Redis> {
        let directory = std::env::temp_dir().join(format!("outside-backend-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let spawned = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket", "redis.sock"])
            .current_dir(&directory)
            .stdout(Stdio::null())
            .spawn();
        match spawned {
            Ok(process) => Some(Redis { process, directory }),
            Err(error) => {
                let _ = std::fs::remove_dir_all(&directory);
                let required = std::env::var_os("ONCECAST_REQUIRE_ALL").is_some();
                assert!(!required, "redis-server: {error}");
                eprintln!("skipped: redis-server: {error}");
                None
            }
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_opened_by_flags_and_each_key_is_won_once() {
    let Some(redis) = Redis::start() else { return };
    let prefix = Prefix::new("jobs-", "OUTSIDE_BACKEND_JOBS_");
    let address = format!("--jobs-redis-addr=unix://{}/redis.sock", redis.directory.display());
    let command = Flags::augment(clap::Command::new("worker"), &prefix);
    let matches = command.get_matches_from([
        "worker",
        &address,
        "--jobs-cache-dial-timeout=10s",
        "--jobs-cache-op-timeout=5s",
    ]);
    let flags = Flags::from_matches(&matches, &prefix).unwrap();
    let kind = flags.kind_or(BackendKind::None).unwrap();
    let store = Store::open(flags.settings(kind, Defaults::claims()).unwrap()).await.unwrap();
    each_key_is_won_once(&store).await;
    assert_eq!(store.get("jobs:race:none").await, Ok(None));
    assert_eq!(store.healthy().await, Ok(()));
    store.close().await;
    assert!(store.get("jobs:race:0").await.is_err(), "a closed store says so");
}
