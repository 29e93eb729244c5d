//! The servers behind one backend: who they are now, who owns which key, how each is judged.

use super::address::Endpoint;
use super::connection::{DialError, said};
use super::dial::{Dialer, Target};
use super::link::NAME;
use super::probe::Proof;
use super::slots::{NOBODY, SlotTable, slot_of};
use crate::{Breaker, GuardStats, RedisTopology};
use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::Value;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tracing::{info, warn};

/// Refreshes of the slot table are at least this far apart.
const REFRESH_PAUSE: Duration = Duration::from_millis(250);
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Nodes that are asked for the slot table at once.
const MOST_ASKED: usize = 5;

/// What a server says about slots.
enum Told {
    Table(SlotTable),
    /// It is part of no Cluster, or does not say: its words.
    Alone(String),
}

/// Shared by all sessions of a backend.
pub(super) struct Fleet {
    pub(super) dialer: Arc<Dialer>,
    topology: RedisTopology,
    map: Mutex<Arc<Map>>,
    breakers: Mutex<Vec<(Target, Arc<Breaker>)>>,
    /// When the last refresh ended; locked by the one that runs.
    refresh: Arc<tokio::sync::Mutex<Option<Instant>>>,
    closed: AtomicBool,
}

/// Who serves what. A new one replaces it as a whole.
pub(super) struct Map {
    pub(super) targets: Vec<Target>,
    /// Index of the owner of each slot; `None` where one target owns everything.
    owners: Option<Box<[u16]>>,
}

impl Map {
    fn unknown() -> Map {
        Map { targets: Vec::new(), owners: None }
    }
    fn one(target: Target) -> Map {
        Map { targets: vec![target], owners: None }
    }
    fn cluster(table: SlotTable) -> Map {
        Map { targets: table.masters.into_iter().map(Target::Node).collect(), owners: Some(table.owners) }
    }

    /// Everything goes to the first target.
    pub(super) fn is_single(&self) -> bool {
        self.owners.is_none()
    }

    /// Index of the target that owns `key`.
    pub(super) fn owner(&self, key: &[u8]) -> Option<usize> {
        let Some(owners) = &self.owners else { return (!self.targets.is_empty()).then_some(0) };
        owners.get(slot_of(key)).filter(|&&owner| owner != NOBODY).map(|&owner| usize::from(owner))
    }

    /// The first slot that nobody serves.
    fn first_gap(&self) -> Option<usize> {
        self.owners.as_ref()?.iter().position(|&owner| owner == NOBODY)
    }

    /// A key that `target` owns, beginning with `prefix`: random, so that two probes never meet.
    pub(super) fn probe_key(&self, target: &Target, prefix: &str) -> Option<Vec<u8>> {
        let wanted = self.targets.iter().position(|known| known == target)?;
        // A node with one slot of 16384 is found within these for all practical purposes; without a key the probe is
        // left out.
        (0..200_000).find_map(|_| {
            let key = format!("{prefix}{:016x}", rand::random::<u64>()).into_bytes();
            (self.owner(&key) == Some(wanted)).then_some(key)
        })
    }
}

impl Fleet {
    pub(super) fn new(dialer: Dialer, topology: RedisTopology) -> Fleet {
        Fleet {
            dialer: Arc::new(dialer),
            topology,
            map: Mutex::new(Arc::new(Map::unknown())),
            breakers: Mutex::default(),
            refresh: Arc::default(),
            closed: AtomicBool::new(false),
        }
    }

    pub(super) fn map(&self) -> Arc<Map> {
        lock(&self.map).clone()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Relaxed);
        *lock(&self.map) = Arc::new(Map::unknown());
    }

    /// The judge of one server, shared by all sessions.
    pub(super) fn breaker(&self, target: &Target) -> Arc<Breaker> {
        let mut breakers = lock(&self.breakers);
        if let Some((_, breaker)) = breakers.iter().find(|(known, _)| known == target) {
            return breaker.clone();
        }
        let breaker = Breaker::new(NAME, self.dialer.name(target), &self.dialer.remote);
        breakers.push((target.clone(), breaker.clone()));
        breaker
    }

    pub(super) fn guards(&self) -> Vec<Arc<GuardStats>> {
        lock(&self.breakers).iter().map(|(_, breaker)| breaker.stats().clone()).collect()
    }

    /// Finds out who the servers are and sees each of them take a write.
    pub(super) async fn open(&self) -> Result<(), DialError> {
        let map = Arc::new(self.discover().await?);
        if let Some(slot) = map.first_gap() {
            let message = format!("slot {slot} of the Cluster is served by no node");
            return Err(DialError::passing(message));
        }
        for target in &map.targets {
            let key = map.probe_key(target, &self.dialer.remote.probe_prefix);
            self.dialer.dial(target, key, Proof::Whole).await?;
        }
        self.adopt(map);
        Ok(())
    }

    /// For a degraded start: what is certain without asking anybody.
    pub(super) fn assume(&self) {
        let target = match self.topology {
            RedisTopology::Single => Target::First,
            RedisTopology::Sentinel { .. } => Target::Master,
            RedisTopology::Auto | RedisTopology::Cluster => return,
        };
        self.breaker(&target).begin_open();
        self.adopt(Arc::new(Map::one(target)));
    }

    fn adopt(&self, map: Arc<Map>) {
        if !self.is_closed() {
            // Servers that left are no longer shown.
            lock(&self.breakers).retain(|(target, _)| map.targets.contains(target));
            *lock(&self.map) = map;
        }
    }

    async fn discover(&self) -> Result<Map, DialError> {
        match self.topology {
            RedisTopology::Single => Ok(Map::one(Target::First)),
            RedisTopology::Sentinel { .. } => Ok(Map::one(Target::Master)),
            RedisTopology::Auto | RedisTopology::Cluster => self.ask_for_slots().await,
        }
    }

    /// The slot table as most of the nodes know it; where none of them answers, or none is known, as the first seed does that
    /// answers.
    async fn ask_for_slots(&self) -> Result<Map, DialError> {
        let known = self.map();
        if let Some(table) = self.table_of_most(&known).await {
            return Ok(Map::cluster(table));
        }
        let mut last = DialError::permanent("no address is configured");
        for endpoint in &self.dialer.seeds {
            match self.table_of(endpoint).await {
                Ok(Told::Table(table)) => return Ok(Map::cluster(table)),
                // Who was part of a Cluster once is not alone because one node says so now.
                Ok(Told::Alone(_)) if self.topology == RedisTopology::Auto && known.is_single() => {
                    return Ok(Map::one(Target::First));
                }
                Ok(Told::Alone(error)) => {
                    let message = format!("{endpoint}: CLUSTER SLOTS was refused: {error}");
                    last = DialError::permanent(message);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// A node that was cut off from the others keeps an old table for as long as that lasts, and answers: so several are asked
    /// at once, and what the most of them say is believed.
    async fn table_of_most(&self, known: &Map) -> Option<SlotTable> {
        if known.is_single() {
            return None;
        }
        let mut nodes: Vec<&Endpoint> = known.targets.iter().filter_map(Target::node).collect();
        while nodes.len() > MOST_ASKED {
            nodes.swap_remove(rand::random_range(0..nodes.len()));
        }
        let most = nodes.len() / 2 + 1;
        let mut asked: FuturesUnordered<_> = nodes.into_iter().map(|node| self.table_of(node)).collect();
        let mut tables: Vec<(SlotTable, usize)> = Vec::new();
        while let Some(answer) = asked.next().await {
            let Ok(Told::Table(table)) = answer else { continue };
            let at = tables.iter().position(|(other, _)| *other == table).unwrap_or_else(|| {
                tables.push((table, 0));
                tables.len() - 1
            });
            tables[at].1 += 1;
            if tables[at].1 >= most {
                break;
            }
        }
        tables.into_iter().max_by_key(|(_, votes)| *votes).map(|(table, _)| table)
    }

    async fn table_of(&self, endpoint: &Endpoint) -> Result<Told, DialError> {
        let passing = |message| Err(DialError::passing(message));
        match self.dialer.ask(endpoint, &[b"CLUSTER", b"SLOTS"]).await? {
            Value::ServerError(error) if is_passing(error.code()) => {
                passing(format!("{endpoint}: {}", said(&error)))
            }
            Value::ServerError(error) => Ok(Told::Alone(said(&error))),
            answer => match SlotTable::parse(answer, endpoint) {
                Some(table) if !table.masters.is_empty() => Ok(Told::Table(table)),
                _ => passing(format!("{endpoint}: the slot table cannot be read or is empty")),
            },
        }
    }

    /// Somebody met a redirection or a dead node: looks at the slot table again, in the background, not too often.
    pub(super) fn refresh_soon(self: &Arc<Fleet>, runtime: &Handle) {
        let map = self.map();
        if (map.is_single() && !map.targets.is_empty()) || self.is_closed() {
            return;
        }
        let Ok(mut ended) = self.refresh.clone().try_lock_owned() else { return };
        if ended.is_none_or(|ended| ended.elapsed() >= REFRESH_PAUSE) {
            let fleet = self.clone();
            runtime.spawn(async move {
                fleet.refresh().await;
                *ended = Some(Instant::now());
            });
        }
    }

    /// Once, or until the first success while nothing is known at all.
    async fn refresh(&self) {
        loop {
            match self.discover().await {
                Ok(map) => {
                    let before = self.map();
                    if before.targets != map.targets {
                        info!(
                            backend = NAME,
                            servers = ?map.targets.iter().map(|t| self.dialer.name(t)).collect::<Vec<_>>(),
                            "the set of servers changed"
                        );
                    }
                    if before.targets != map.targets || before.owners != map.owners {
                        self.adopt(Arc::new(map));
                    }
                    return;
                }
                Err(error) if self.map().targets.is_empty() && !error.permanent && !self.is_closed() => {
                    tokio::time::sleep(RETRY_PAUSE.mul_f64(rand::random_range(0.5..1.0))).await;
                }
                Err(error) => {
                    warn!(backend = NAME, reason = %error, "the slot table could not be refreshed");
                    return;
                }
            }
        }
    }
}

/// A server that is not ready yet says nothing about whether it belongs to a Cluster.
fn is_passing(code: &str) -> bool {
    ["LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN"].contains(&code)
}

/// Nothing panics under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
