//! A worker's session: batches become few requests.
//!
//! *One node has everything*: `MANY` keys or more are one request.
//!
//! *Cluster*: each key is a request of its own. A node answers a batch as a whole, so all of it would wait where one record
//! waits for a replica that has just died. And the server heeds `CommitMaster`, which does not wait for replicas, only for
//! single writes. A claim that dies with its master before it was copied lets a duplicate in.
//!
//! *Dead nodes*: a dead node of a cluster must not take the turns of the others. The client refuses at once what goes to a
//! node with many errors since its last look at the cluster. So the client ends and counts what is late. It does not count
//! what waited for a connection until its end; that is counted here.
//!
//! What a claim finds existing is read at once, while the rest of its batch is still under way. At most `concurrency`
//! requests of a session are under way; the others wait their turn within the deadline. Keys that were answered before
//! the deadline keep their answer. Of the others only those are in doubt that were asked.
//!
//! Every session has a client of its own on its worker's runtime: connections, and a short info request to each node twice
//! a second.
//!
//! Cost, measured on loopback (`docs/performance.md`): about 2 µs of the worker's processor time for a claim in a request of
//! 256, about 15 µs for one alone.

use super::errors::{causes, chain, exists, missing};
use super::servers::{BIN, Config, NAME, expiration, milliseconds};
use crate::{Answers, Claimed, KeyValues, OpError, OpErrorKind, Session};
use ::aerospike::errors::{Error, ErrorKind};
use ::aerospike::operations::put;
use ::aerospike::policy::{Concurrency, ReadModeAp};
use ::aerospike::{
    BatchDeletePolicy, BatchOperation, BatchPolicy, BatchReadPolicy, BatchRecord, BatchWritePolicy, Bin,
    Bins, Client, CommitLevel, RecordExistsAction, ResultCode, Value,
};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};

/// From so many keys on they travel together, to a node that is alone.
const MANY: usize = 8;
/// Most keys of one request: a server works through them in a row.
const REQUEST_KEYS: usize = 256;
/// A request ends with the key that makes it so long.
const REQUEST_BYTES: usize = 1 << 20;

/// Who has less time left is not asked any more: no answer would come in time, and the key would be in doubt.
const LEAST: Duration = Duration::from_millis(2);

pub(super) struct AerospikeSession {
    shared: Arc<Shared>,
}

struct Shared {
    config: Arc<Config>,
    client: Client,
    /// Bounds the requests under way over all batches of the session.
    turns: Semaphore,
    runtime: Handle,
}

impl Drop for Shared {
    fn drop(&mut self) {
        let client = self.client.clone();
        self.runtime.spawn(async move { client.close().await });
    }
}

/// What is done to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Create(Duration),
    Replace(Duration),
    Read,
    Remove,
}

impl Deed {
    fn writes(self) -> bool {
        self != Deed::Read
    }

    fn operation(self, config: &Config, key: &[u8], value: &[u8]) -> Result<BatchOperation, Error> {
        let key = config.key(key)?;
        let write = |action, ttl| {
            let policy = BatchWritePolicy {
                record_exists_action: action,
                expiration: expiration(ttl),
                commit_level: CommitLevel::CommitMaster,
                ..BatchWritePolicy::default()
            };
            BatchOperation::write(
                &policy,
                key.clone(),
                vec![put(&Bin::new(BIN, Value::Blob(value.to_vec())))],
            )
        };
        Ok(match self {
            Deed::Create(ttl) => write(RecordExistsAction::CreateOnly, ttl),
            Deed::Replace(ttl) => write(RecordExistsAction::Update, ttl),
            Deed::Read => BatchOperation::read(&BatchReadPolicy::default(), key, Bins::All),
            Deed::Remove => {
                let policy = BatchDeletePolicy {
                    commit_level: CommitLevel::CommitMaster,
                    ..BatchDeletePolicy::default()
                };
                BatchOperation::delete(&policy, key)
            }
        })
    }

    /// While records migrate, a write asks all nodes that may have the record, a read by default only one: it would miss
    /// what the write has just met.
    fn policy(self, left: Duration) -> BatchPolicy {
        let mut policy = BatchPolicy { concurrency: Concurrency::Parallel, ..BatchPolicy::default() };
        policy.base_policy.max_retries = 0;
        policy.base_policy.total_timeout = milliseconds(left);
        policy.base_policy.socket_timeout = policy.base_policy.total_timeout;
        policy.base_policy.read_mode_ap = ReadModeAp::All;
        policy
    }
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    /// A claim met a record, whose value is not known yet.
    Exists,
    Value(Bytes),
    Missing,
}

/// One key of a batch on its way to an answer.
enum Row {
    /// Nothing is under way for it.
    Waiting,
    Asked(Deed),
    Answered(Result<Outcome, OpError>),
}

/// One call: its keys and what is known of each.
struct Batch {
    keys: KeyValues,
    state: Mutex<State>,
    /// Something exists that is to be read.
    met: Notify,
}

struct State {
    rows: Vec<Row>,
    /// Rows that exist and are to be read.
    existing: Vec<usize>,
}

impl Batch {
    fn new(keys: KeyValues) -> Batch {
        let rows = (0..keys.len()).map(|_| Row::Waiting).collect();
        Batch { keys, state: Mutex::new(State { rows, existing: Vec::new() }), met: Notify::new() }
    }

    /// Nothing panics under this lock, and nobody waits for it: all of a session is on one thread.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Few rows one by one, many `together`.
    fn requests(&self, rows: Vec<usize>, together: bool) -> Vec<Vec<usize>> {
        if rows.len() < MANY || !together {
            return rows.into_iter().map(|row| vec![row]).collect();
        }
        let mut requests = Vec::new();
        let (mut request, mut bytes) = (Vec::new(), 0);
        for row in rows {
            bytes += self.keys.pair(row).map_or(0, |(_, value)| value.len());
            request.push(row);
            if request.len() >= REQUEST_KEYS || bytes >= REQUEST_BYTES {
                requests.push(std::mem::take(&mut request));
                bytes = 0;
            }
        }
        if !request.is_empty() {
            requests.push(request);
        }
        requests
    }

    fn asked(&self, rows: &[usize], deed: Deed) {
        let mut state = self.state();
        rows.iter().for_each(|&row| state.set(row, Row::Asked(deed)));
    }

    fn answered(&self, row: usize, answer: Result<Outcome, OpError>) {
        let mut state = self.state();
        if answer == Ok(Outcome::Exists) {
            state.set(row, Row::Waiting);
            state.existing.push(row);
            self.met.notify_one();
        } else {
            state.set(row, Row::Answered(answer));
        }
    }

    /// A request failed as a whole: what it has not answered so far.
    fn failed(&self, rows: &[usize], error: &OpError) {
        let mut state = self.state();
        for &row in rows {
            if let Some(Row::Asked(deed)) = state.rows.get(row) {
                let in_doubt = error.in_doubt && deed.writes();
                state.set(row, Row::Answered(Err(OpError { in_doubt, ..error.clone() })));
            }
        }
    }

    fn existing(&self) -> Vec<usize> {
        std::mem::take(&mut self.state().existing)
    }

    /// All rows at the end. What was asked is late; what was not, for want of a turn, says nothing about a server: another
    /// may hold all turns.
    fn end(&self) -> Vec<Result<Outcome, OpError>> {
        let rows = std::mem::take(&mut self.state().rows);
        let end = |row| match row {
            Row::Answered(answer) => answer,
            Row::Asked(deed) => Err(OpError {
                backend: NAME,
                kind: OpErrorKind::Timeout,
                in_doubt: deed.writes(),
                detail: String::new(),
            }),
            Row::Waiting => Err(OpError::not_done(NAME, OpErrorKind::Overloaded, String::new())),
        };
        rows.into_iter().map(end).collect()
    }
}

impl State {
    fn set(&mut self, row: usize, to: Row) {
        if let Some(slot) = self.rows.get_mut(row) {
            *slot = to;
        }
    }
}

impl AerospikeSession {
    pub(super) fn new(config: Arc<Config>, client: Client) -> AerospikeSession {
        let turns = Semaphore::new(config.settings.concurrency.max(1));
        AerospikeSession { shared: Arc::new(Shared { config, client, turns, runtime: Handle::current() }) }
    }

    /// Does `deed` to every key; `answer` says what an outcome means to the caller.
    fn run<T: Send + 'static>(
        &self,
        keys: KeyValues,
        deadline: Instant,
        deed: Deed,
        answer: fn(Outcome) -> Result<T, OpError>,
    ) -> BoxFuture<'static, Answers<T>> {
        let shared = self.shared.clone();
        async move {
            let batch = Arc::new(Batch::new(keys));
            let ask = |rows, deed| shared.clone().ask(batch.clone(), rows, deed, deadline);
            let together = shared.client.nodes().len() == 1;
            let all = batch.requests((0..batch.keys.len()).collect(), together);
            let mut under_way: FuturesUnordered<_> = all.into_iter().map(|rows| ask(rows, deed)).collect();
            let mut clock = std::pin::pin!(tokio::time::sleep_until(deadline.into()));
            loop {
                let reads = batch.requests(batch.existing(), together);
                under_way.extend(reads.into_iter().map(|rows| ask(rows, Deed::Read)));
                tokio::select! {
                    biased;
                    done = under_way.next() => if done.is_none() { break },
                    () = batch.met.notified() => {}
                    () = &mut clock => {
                        // The client ends these in a moment and counts them against their nodes. A node that is alone has its
                        // breaker here.
                        if !together {
                            shared.runtime.spawn(async move { while under_way.next().await.is_some() {} });
                        }
                        break;
                    }
                }
            }
            batch.end().into_iter().map(|row| row.and_then(answer)).collect()
        }
        .boxed()
    }
}

impl Shared {
    /// One request, when its turn has come.
    async fn ask(self: Arc<Self>, batch: Arc<Batch>, rows: Vec<usize>, deed: Deed, deadline: Instant) {
        let Ok(_turn) = self.turns.acquire().await else { return };
        let left = deadline.saturating_duration_since(Instant::now());
        if left < LEAST {
            return;
        }
        let mut operations = Vec::with_capacity(rows.len());
        let mut asked = Vec::with_capacity(rows.len());
        for row in rows {
            let (key, value) = batch.keys.pair(row).unwrap_or_default();
            match deed.operation(&self.config, key, value) {
                Ok(operation) => {
                    operations.push(operation);
                    asked.push(row);
                }
                Err(error) => batch.answered(row, Err(op_error(&error))),
            }
        }
        batch.asked(&asked, deed);
        let asked = Arc::new(asked);
        let hook = {
            let (shared, batch, asked) = (self.clone(), batch.clone(), asked.clone());
            move |at: usize, record: &BatchRecord| {
                if let Some(error) = record.error() {
                    shared.blame(error);
                }
                if let (Some(&row), Some(answer)) = (asked.get(at), outcome(deed, record)) {
                    batch.answered(row, answer);
                }
                ready(true)
            }
        };
        let result = self.client.batch_foreach(&deed.policy(left), &mut operations, hook).await;
        if let Err(error) = result {
            batch.failed(&asked, &op_error(&error));
        }
    }
}

impl Shared {
    /// Counts a request that found no connection against its node, in a cluster. (A method that the client keeps for its
    /// own tests; its version is pinned.)
    fn blame(&self, error: &Error) {
        let nodes = self.client.nodes();
        if nodes.len() < 2 || error.iteration() != Some(0) {
            return;
        }
        let node = nodes.iter().find(|node| error.node().is_some_and(|name| name == node.to_string()));
        node.iter().for_each(|node| node.incr_error_rate());
    }
}

/// What a row says; `None` where nothing was sent for it.
fn outcome(deed: Deed, row: &BatchRecord) -> Option<Result<Outcome, OpError>> {
    let Some(error) = row.error() else {
        let record = row.record.as_ref()?;
        return Some(match (deed, record.bins.get(BIN)) {
            (Deed::Read, Some(Value::Blob(value))) => Ok(Outcome::Value(Bytes::copy_from_slice(value))),
            (Deed::Read, Some(Value::String(value))) => {
                Ok(Outcome::Value(Bytes::copy_from_slice(value.as_bytes())))
            }
            (Deed::Read, _) => Err(refused("bin v is missing or is neither bytes nor text")),
            _ => Ok(Outcome::Done),
        });
    };
    Some(match deed {
        // Perhaps our own write, whose answer got lost.
        Deed::Create(_) if exists(error) && row.in_doubt() => {
            Err(OpError::in_doubt(NAME, OpErrorKind::Refused, "the record exists and may be our own"))
        }
        Deed::Create(_) if exists(error) => Ok(Outcome::Exists),
        Deed::Read | Deed::Remove if missing(error) => Ok(Outcome::Missing),
        _ => Err(OpError { in_doubt: row.in_doubt(), ..op_error(error) }),
    })
}

fn refused(why: &str) -> OpError {
    OpError::not_done(NAME, OpErrorKind::Refused, why)
}

/// The client wraps nearly everything that has to do with transport as a timeout; the causes tell more.
fn op_error(error: &Error) -> OpError {
    let kind = match error.server_result_code() {
        Some(ResultCode::Timeout) => OpErrorKind::Timeout,
        // The client gives a key that it cannot route a code as if from a server, and the reason as its cause.
        Some(_) if error.cause().is_some_and(|cause| cause.server_result_code().is_none()) => {
            causes(error).skip(1).map(|cause| kind_of(cause.kind())).fold(OpErrorKind::Refused, sharper)
        }
        Some(_) => OpErrorKind::Refused,
        None => causes(error).map(|cause| kind_of(cause.kind())).fold(OpErrorKind::Refused, sharper),
    };
    OpError { backend: NAME, kind, in_doubt: error.in_doubt(), detail: chain(error) }
}

fn kind_of(kind: &ErrorKind) -> OpErrorKind {
    match kind {
        ErrorKind::Timeout => OpErrorKind::Timeout,
        ErrorKind::Connection
        | ErrorKind::ConnectionPoolEmpty
        | ErrorKind::NoMoreConnections
        | ErrorKind::MaxErrorRate
        | ErrorKind::InvalidNode
        // Also what a client says that has not connected yet.
        | ErrorKind::InvalidNamespace
        | ErrorKind::Io(_) => OpErrorKind::Disconnected,
        ErrorKind::BadResponse | ErrorKind::InvalidUtf8(_) => OpErrorKind::Garbled,
        _ => OpErrorKind::Refused,
    }
}

/// Of an error and its cause, the class that says more.
fn sharper(outer: OpErrorKind, cause: OpErrorKind) -> OpErrorKind {
    match (outer, cause) {
        (_, OpErrorKind::Disconnected | OpErrorKind::Garbled) => cause,
        (OpErrorKind::Refused, _) => cause,
        _ => outer,
    }
}

impl Session for AerospikeSession {
    fn claim(
        &self,
        keys: KeyValues,
        ttl: Duration,
        deadline: Instant,
    ) -> BoxFuture<'static, Answers<Claimed>> {
        self.run(keys, deadline, Deed::Create(ttl), |outcome| match outcome {
            Outcome::Done => Ok(Claimed::Created),
            Outcome::Value(value) => Ok(Claimed::Exists(value)),
            Outcome::Exists | Outcome::Missing => {
                Err(refused("the record exists and its value cannot be read"))
            }
        })
    }
    fn set(&self, keys: KeyValues, ttl: Duration, deadline: Instant) -> BoxFuture<'static, Answers<()>> {
        self.run(keys, deadline, Deed::Replace(ttl), |_| Ok(()))
    }
    fn get(&self, keys: KeyValues, deadline: Instant) -> BoxFuture<'static, Answers<Option<Bytes>>> {
        self.run(keys, deadline, Deed::Read, |outcome| match outcome {
            Outcome::Value(value) => Ok(Some(value)),
            _ => Ok(None),
        })
    }
    fn del(&self, keys: KeyValues, deadline: Instant) -> BoxFuture<'static, Answers<bool>> {
        self.run(keys, deadline, Deed::Remove, |outcome| Ok(outcome == Outcome::Done))
    }
    fn answers_in_parts(&self) -> bool {
        true
    }
}
