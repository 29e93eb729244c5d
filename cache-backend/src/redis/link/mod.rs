//! One connection of one session to one server: requests in, answers out, in order.
//!
//! Why: a claim that is answered with the reply of another key can suppress a transaction for good. So no answer is given out
//! unless it has the shape that its request allows (`batch`) and is known to belong to it (`line`). Any surprise drops the
//! connection, and everything that waited on it fails in doubt.
//!
//! How that is known: a batch ends with a *fence* (`PING nonce`) whose echo must come back right behind its replies. Claims
//! go without where their values are long enough to carry marks of the caller: a key that was created suppresses nothing, and
//! of a value as long as its own the caller sees whose it is. Where another value was found (the `1` of a Go node) the batch
//! is fenced afterwards, and the next one from the start. So a claim costs one command. The `gate` below the crate sees that
//! each echo stands in its place.
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
//! batch brings back: the `gate` bounds them all, and of a claim's old value a kibibyte is given out.
//!
//! Cost: a batch is packed into one buffer, and leaves in one write with whatever else is there. The crate takes two
//! allocations for a command and one for a value.

mod batch;
mod line;

use super::address::Endpoint;
use super::connection::DialError;
use super::dial::{Dialer, Dialled, Target};
use super::probe::Proof;
use crate::guard::Heard;
use crate::{Answers, Breaker, Claimed, KeyValues, OpErrorKind};
use batch::{Ask, Batch, Read};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use line::{Driver, Ending, Line};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
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
    state: watch::Receiver<State>,
    heard: Arc<Heard>,
    max_batches: usize,
    max_bytes: usize,
    task: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

enum State {
    /// There is no connection, and none is about to be; why.
    Down(String),
    /// A connection was lost a moment ago: what is asked waits for the next one.
    Held,
    Up(Arc<Line>),
}

/// How to reach the server and which key to probe it with.
pub(super) struct Route {
    pub(super) dialer: Arc<Dialer>,
    pub(super) target: Target,
    pub(super) breaker: Arc<Breaker>,
    pub(super) probe_key: Box<dyn Fn() -> Option<Vec<u8>> + Send + Sync>,
}

impl Link {
    /// Starts dialling on `runtime`. The receiver tells how the first dial ended; afterwards it goes on by itself.
    pub(super) fn start(runtime: &Handle, route: Route) -> (Link, oneshot::Receiver<Result<(), DialError>>) {
        let remote = &route.dialer.remote;
        // Batches that timed out still have their place here; the guard bounds those that somebody waits for.
        let (max_batches, max_bytes) = (remote.max_batches.saturating_mul(2).max(4), remote.max_bytes * 2);
        let (sender, state) = watch::channel(State::Down("not connected yet".to_owned()));
        let (first, dialled) = oneshot::channel();
        let heard = Arc::<Heard>::default();
        let task = Task { state: sender, heard: heard.clone(), route };
        let task = runtime.spawn(task.run(first)).abort_handle();
        (Link { state, heard, max_batches, max_bytes, task }, dialled)
    }

    /// When the server was heard last.
    pub(super) fn heard(&self) -> Arc<Heard> {
        self.heard.clone()
    }

    /// Neither connected nor about to be.
    pub(super) fn is_down(&self) -> bool {
        matches!(*self.state.borrow(), State::Down(_))
    }

    /// Whoever sees an answer that cannot be true calls this.
    pub(super) fn distrust(&self) {
        if let State::Up(line) = &*self.state.borrow() {
            line.distrust();
        }
    }

    pub(super) fn claim(&self, batch: KeyValues, ttl: Duration, asking: bool) -> Answered<Claimed> {
        self.submit(Batch { ask: Ask::Claim(ttl), keys: batch, asking }, batch::read_claim)
    }

    pub(super) fn set(&self, batch: KeyValues, ttl: Duration, asking: bool) -> Answered<()> {
        self.submit(Batch { ask: Ask::Set(ttl), keys: batch, asking }, batch::read_set)
    }

    pub(super) fn get(&self, keys: KeyValues, asking: bool) -> Answered<Option<Bytes>> {
        self.submit(Batch { ask: Ask::Get, keys, asking }, batch::read_get)
    }

    pub(super) fn del(&self, keys: KeyValues, asking: bool) -> Answered<bool> {
        self.submit(Batch { ask: Ask::Del, keys, asking }, batch::read_del)
    }

    fn submit<T: Send + 'static>(&self, batch: Batch, read: Read<T>) -> Answered<T> {
        let line = match &*self.state.borrow() {
            State::Down(why) => {
                let answers = batch.failed(OpErrorKind::Disconnected, false, why.clone());
                return ready(answers).boxed();
            }
            State::Held => None,
            State::Up(line) => Some(line.clone()),
        };
        let (batches, bytes) = line.as_ref().map_or((0, 0), |line| line.load());
        if batches >= self.max_batches || bytes >= self.max_bytes {
            return ready(batch.failed(OpErrorKind::Overloaded, false, String::new())).boxed();
        }
        let state = self.state.clone();
        let mut answers = async move {
            let line = match line {
                Some(line) => line,
                None => match next_line(state).await {
                    Ok(line) => line,
                    Err(why) => return batch.failed(OpErrorKind::Disconnected, false, why),
                },
            };
            let ran = line.run(&batch, read).await;
            ran.unwrap_or_else(|Ending { kind, why }| batch.failed(kind, true, why))
        }
        .boxed();
        // It leaves now, and not when somebody looks for the answers.
        match (&mut answers).now_or_never() {
            Some(answers) => ready(answers).boxed(),
            None => answers,
        }
    }
}

pub(super) type Answered<T> = BoxFuture<'static, Answers<T>>;

/// The connection that follows a lost one; or why there is none.
async fn next_line(mut state: watch::Receiver<State>) -> Result<Arc<Line>, String> {
    let there = state.wait_for(|state| !matches!(state, State::Held)).await;
    match there.as_deref() {
        Ok(State::Up(line)) => Ok(line.clone()),
        Ok(State::Down(why)) => Err(why.clone()),
        Ok(State::Held) | Err(_) => Err("the session ended".to_owned()),
    }
}

/// Dials, serves, dials again.
struct Task {
    state: watch::Sender<State>,
    heard: Arc<Heard>,
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
                    let (endpoint, proven) = (dialled.endpoint.clone(), dialled.proven);
                    let (line, mut driver) = Line::new(dialled);
                    self.state.send_replace(State::Up(line.clone()));
                    if proven {
                        breaker.proved(began.elapsed());
                    }
                    tell_first(Ok(()));
                    lost = true;
                    let Ending { why, .. } = self.serve(&line, &mut driver, &endpoint, &mut news).await;
                    warn!(backend = NAME, %server, reason = %why, "connection lost, dialling again");
                    let again_at_once = pauses.may_skip(line.answered.load(Relaxed), Instant::now());
                    let state = if again_at_once { State::Held } else { State::Down(why) };
                    // First nothing more is sent, then what was sent fails.
                    self.state.send_replace(state);
                    drop(driver);
                    if again_at_once {
                        continue;
                    }
                }
                Err(error) => {
                    if !lost {
                        lost = true;
                        warn!(backend = NAME, %server, reason = %error, "cannot connect, dialling on");
                    }
                    self.state.send_replace(State::Down(error.to_string()));
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
        self.state.send_if_modified(|state| {
            let was_held = matches!(state, State::Held);
            if was_held {
                *state = State::Down("the connection was lost and is not back yet".to_owned());
            }
            was_held
        });
        dial.await
    }

    /// Until the connection ends, or a Sentinel names another master.
    async fn serve(
        &self,
        line: &Line,
        driver: &mut Driver,
        endpoint: &Endpoint,
        news: &mut BoxFuture<'static, Endpoint>,
    ) -> Ending {
        let stall = (self.route.dialer.remote.op_timeout * 4).max(STALL_MIN);
        let mut drive = std::pin::pin!(line.drive(driver, stall, &self.heard));
        loop {
            tokio::select! {
                ending = &mut drive => return ending,
                master = &mut *news => {
                    *news = self.news_of_master();
                    if master != *endpoint {
                        let why = format!("connection dropped: a Sentinel says that {master} is the master now");
                        line.end(Ending::lost(why));
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
