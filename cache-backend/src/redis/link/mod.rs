//! One connection of one session to one server: requests in, answers out, in order.
//!
//! Why: a claim that is answered with the reply of another key can suppress a transaction for good. So no answer is given out
//! unless it has the shape that its request allows (`batch`) and is known to belong to it (`serving`). Any surprise drops the
//! connection, and everything that waited on it fails in doubt.
//!
//! How that is known: a batch ends with a *fence* (`PING nonce`) whose echo must come back right behind its replies. Claims
//! go without where their values are long enough to carry marks of the caller: a key that was created suppresses nothing, and
//! of a value as long as its own the caller sees whose it is. Where another value was found (the `1` of a Go node) the batch
//! is fenced afterwards, and the next one from the start. So a claim costs one command.
//!
//! Promises: submitting never waits; while the connection is down it fails at once; a connection whose oldest batch had
//! no answer for the stall time is dropped, so a host that vanished is noticed without waiting for TCP.
//!
//! *A cut* costs the batches that were under way and no others: nothing that was sent is sent again, a connection that had
//! answered is dialled anew at once, and what comes meanwhile is held, unsent, for half an operation timeout at most.
//! Further dials follow with backoff and jitter; where Sentinels watch the server, the pauses stay short and the news of
//! another master ends them (and the connection to the old one) at once. The breaker hears of each failed dial.
//!
//! Limits: batches and bytes that wait are bounded; beyond them a batch is refused as overloaded. So are the values that a
//! batch brings back: the `gate` bounds each, `batch` their sum, and of a claim's old value a kibibyte is given out.
//!
//! Why not the crate's connections: they have a task and a queue of their own, in which a batch cannot be held or taken back,
//! and keep each command until its reply. Here its commands and its parser serve one loop. Commands are packed as they leave.
//!
//! Cost: one write and one read syscall for as many batches as are there; one copy of keys and values more than the crate
//! needs; an allocation for each old value, none for a created key.

mod batch;
mod serving;
mod shared;

use super::address::Endpoint;
use super::connection::DialError;
use super::dial::{Dialer, Dialled, Target};
use super::probe::Proof;
use crate::guard::{Heard, vec_of_errors};
use crate::{Answers, Breaker, KeyValues, OpError, OpErrorKind};
pub(super) use batch::{Ask, read_claim, read_del, read_get, read_set};
use batch::{Batch, Read, Sent, Waiting};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use futures_util::task::AtomicWaker;
use serving::Serving;
use shared::{Ending, Shared, State};
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tracing::{debug, info, warn};

pub(super) const NAME: &str = "redis";
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// The same where Sentinels name the server: a new master is found soon after it was made.
const BACKOFF_MAX_SENTINEL: Duration = Duration::from_millis(200);
const STALL_MIN: Duration = Duration::from_secs(1);

/// The caller's end. Dropping it ends the connection.
pub(super) struct Link {
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How to reach the server and which key to probe it with.
pub(super) struct Route {
    pub(super) dialer: Arc<Dialer>,
    pub(super) target: Target,
    pub(super) breaker: Arc<Breaker>,
    pub(super) probe_key: Box<dyn Fn() -> Option<Vec<u8>> + Send + Sync>,
}

pub(super) type Answered<T> = BoxFuture<'static, Answers<T>>;

impl Link {
    /// Starts dialling on `runtime`. The receiver tells how the first dial ended; afterwards it goes on by itself.
    pub(super) fn start(runtime: &Handle, route: Route) -> (Link, oneshot::Receiver<Result<(), DialError>>) {
        let remote = &route.dialer.remote;
        let down = Some("not connected yet".to_owned());
        let shared = Arc::new(Shared {
            state: Mutex::new(State { down, ..State::default() }),
            waker: AtomicWaker::new(),
            heard: Arc::default(),
            load: AtomicUsize::new(0),
            // Batches that timed out still have their place here; the guard bounds those that somebody waits for.
            max_batches: remote.max_batches.saturating_mul(2).max(4),
            max_bytes: remote.max_bytes.saturating_mul(2),
        });
        let (first, dialled) = oneshot::channel();
        let task = Task { shared: shared.clone(), route };
        let task = runtime.spawn(task.run(first)).abort_handle();
        (Link { shared, task }, dialled)
    }

    /// When the server was heard last.
    pub(super) fn heard(&self) -> Arc<Heard> {
        self.shared.heard.clone()
    }

    /// Neither connected nor about to be.
    pub(super) fn is_down(&self) -> bool {
        self.shared.lock().down.is_some()
    }

    /// Whoever sees an answer that cannot be true calls this.
    pub(super) fn distrust(&self) {
        self.shared.lock().distrusted = true;
        self.shared.waker.wake();
    }

    /// What is `read` of the replies. Submitted at once, not when somebody looks for the answers.
    pub(super) fn submit<T: Send + 'static>(
        &self,
        ask: Ask,
        keys: KeyValues,
        asking: bool,
        read: Read<T>,
    ) -> Answered<T> {
        let (shared, count) = (&self.shared, keys.len());
        let mut state = shared.lock();
        let refused = match &state.down {
            Some(why) => Some((OpErrorKind::Disconnected, why.clone())),
            None if shared.load.load(Relaxed) >= shared.max_batches || state.bytes >= shared.max_bytes => {
                Some((OpErrorKind::Overloaded, String::new()))
            }
            None => None,
        };
        if let Some((kind, why)) = refused {
            return ready(vec_of_errors(count, &OpError::not_done(NAME, kind, why))).boxed();
        }
        let (sender, answers) = oneshot::channel();
        let caller = Box::new(Waiting { answers: sender, read });
        state.bytes += keys.bytes();
        let batch = Batch { ask, keys, asking, caller, since: Instant::now(), sent: Sent::default() };
        state.submitted.push_back(batch);
        shared.load.fetch_add(1, Relaxed);
        drop(state);
        shared.waker.wake();
        let ended = move |_| {
            let error = batch::error(ask, OpErrorKind::Disconnected, true, "the session ended");
            vec_of_errors(count, &error)
        };
        answers.map(move |answers| answers.unwrap_or_else(ended)).boxed()
    }
}

/// Dials, serves, dials again.
struct Task {
    shared: Arc<Shared>,
    route: Route,
}

impl Task {
    async fn run(self, first: oneshot::Sender<Result<(), DialError>>) {
        let Route { dialer, target, breaker, .. } = &self.route;
        let server = dialer.name(target);
        let mut first = Some(first);
        let mut tell_first = |result| first.take().map(|first| first.send(result));
        let mut pauses = Pauses::new(target);
        let mut news = self.news_of_master();
        let mut lost = false;
        let stall = (dialer.remote.op_timeout * 4).max(STALL_MIN);
        loop {
            let began = Instant::now();
            let dialled = tokio::select! {
                dialled = self.dial() => dialled,
                _ = &mut news => {
                    news = self.news_of_master();
                    continue;
                }
            };
            match dialled {
                Ok(dialled) => {
                    if lost {
                        info!(backend = NAME, %server, endpoint = %dialled.endpoint, "connected again");
                    } else {
                        debug!(backend = NAME, %server, endpoint = %dialled.endpoint, form = ?dialled.form, "connected");
                    }
                    self.shared.resume();
                    if dialled.proven {
                        breaker.proved(began.elapsed());
                    }
                    tell_first(Ok(()));
                    lost = true;
                    let mut serving = Serving::new(self.shared.clone(), dialled, stall);
                    let ending = self.serve(&mut serving, stall, &mut news).await;
                    warn!(backend = NAME, %server, reason = %ending.why, "connection lost, dialling again");
                    let again_at_once = pauses.may_skip(serving.answered, Instant::now());
                    if !again_at_once {
                        self.shared.give_up(&ending.why);
                    }
                    serving.fail_all(&ending);
                    if again_at_once {
                        continue;
                    }
                }
                Err(error) => {
                    if !lost {
                        lost = true;
                        warn!(backend = NAME, %server, reason = %error, "cannot connect, dialling on");
                    }
                    self.shared.give_up(&error.to_string());
                    breaker.dial_failed(began);
                    tell_first(Err(error));
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pauses.next()) => {}
                _ = &mut news => news = self.news_of_master(),
            }
        }
    }

    /// One dial. What is held meanwhile waits for half an operation timeout at most.
    async fn dial(&self) -> Result<Dialled, DialError> {
        let Route { dialer, target, probe_key, .. } = &self.route;
        let mut dial = std::pin::pin!(dialer.dial(target, probe_key(), Proof::Lenient));
        tokio::select! {
            dialled = &mut dial => return dialled,
            () = tokio::time::sleep(dialer.remote.op_timeout / 2) => {}
        }
        self.shared.give_up("the connection was lost and is not back yet");
        dial.await
    }

    /// Until the connection ends, or a Sentinel names another master.
    async fn serve(
        &self,
        serving: &mut Serving,
        stall: Duration,
        news: &mut BoxFuture<'static, Endpoint>,
    ) -> Ending {
        loop {
            tokio::select! {
                ending = poll_fn(|cx| serving.poll(cx, stall)) => return ending,
                master = &mut *news => {
                    *news = self.news_of_master();
                    if master != serving.endpoint {
                        let why = format!("connection dropped: a Sentinel says that {master} is the master now");
                        return Ending::lost(why);
                    }
                }
            }
        }
    }

    /// Completes with the new master when a Sentinel announces one.
    fn news_of_master(&self) -> BoxFuture<'static, Endpoint> {
        let (dialer, watched) = (self.route.dialer.clone(), self.route.target == Target::Master);
        Box::pin(
            async move { if watched { dialer.master_moved().await } else { std::future::pending().await } },
        )
    }
}

/// How long to wait before the next dial.
struct Pauses {
    next: Duration,
    most: Duration,
    /// When a connection was last dialled anew without a pause.
    skipped: Option<Instant>,
}

impl Pauses {
    fn new(target: &Target) -> Pauses {
        let most = if *target == Target::Master { BACKOFF_MAX_SENTINEL } else { BACKOFF_MAX };
        Pauses { next: BACKOFF_MIN, most, skipped: None }
    }

    /// A connection that `answered` was lost: the next dial needs no pause, unless that happened a moment ago.
    fn may_skip(&mut self, answered: bool, now: Instant) -> bool {
        if answered {
            self.next = BACKOFF_MIN;
        }
        let may = answered && self.skipped.is_none_or(|at| now.duration_since(at) >= BACKOFF_MIN);
        if may {
            self.skipped = Some(now);
        }
        may
    }

    fn next(&mut self) -> Duration {
        let pause = self.next.mul_f64(rand::random_range(0.5..1.0));
        self.next = (self.next * 2).min(self.most);
        pause
    }
}
