//! One connection of one session to one server: requests in, answers out, in order.
//!
//! Why: a claim that is answered with the reply of another key can suppress a transaction for good. So replies are
//! matched strictly in order, each is checked against the shape that its request allows, and no answer is given out
//! unless it is known to belong to its question. Any surprise drops the connection, and everything that waited on it
//! fails in doubt.
//!
//! How that is known: a batch ends with a *fence* (`PING nonce`) whose echo must come back right behind its replies. Claims
//! go without where their values are long enough to carry marks of the caller (`MARKED`): a key that was created
//! suppresses nothing, and of a value as long as its own the caller sees whose it is. Where another value was found (the
//! `1` of a Go node) the batch is fenced afterwards, and the next one from the start. So a claim costs one command.
//!
//! Promises: submitting never waits; while the connection is down it fails at once; a connection whose oldest batch had
//! no answer for the stall time is dropped, so a host that vanished is noticed without waiting for TCP.
//!
//! *A cut* costs the batches that were under way and no others: nothing that was sent is sent again, a connection that had
//! answered is dialled anew at once, and what comes meanwhile is held, unsent, for half an operation timeout at most.
//! Further dials follow with backoff and jitter; where Sentinels watch the server, the pauses stay short and the news of
//! another master ends them (and the connection to the old one) at once. The breaker hears of each failed dial.
//!
//! Limits: batches and bytes that wait are bounded; beyond them a batch is refused as overloaded. So are the values that a batch
//! brings back: `OLD_VALUE` of each claim's, `MAX_VALUES` of a batch of reads, whose other keys fail.
//!
//! Cost: one write and one read syscall for as many batches as are there; one copy of keys and values; an allocation for
//! each old value, none for a created key.
// Long because one connection is one state machine; the next change of the Redis client replaces it.

use super::address::Endpoint;
use super::dial::{CLAIM_SCRIPT, ClaimForm, DialError, Dialer, Dialled, Proof, Target};
use super::resp::{MAX_BULK, Surprise, Token, decimal, lossy, put_head, put_word, token};
use super::stream::Stream;
use crate::guard::{Heard, vec_of_errors};
use crate::{Answers, Breaker, Claimed, KeyValues, OpError, OpErrorKind};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::task::AtomicWaker;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::Write;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
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
const READ_CHUNK: usize = 64 << 10;
/// Values of a claim from this length on carry marks by which the caller tells which key they belong to.
const MARKED: usize = 16;
/// Of an old value this much is given out, or as much as the longest value of its batch has: no claim is longer.
const OLD_VALUE: usize = 1 << 10;
/// Most bytes of values that are kept for one batch; what is longer together is not given out.
const MAX_VALUES: usize = MAX_BULK;
/// Buffers that a burst made longer than this are given back.
const KEEP_BUFFER: usize = 1 << 20;

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

struct Shared {
    state: Mutex<State>,
    waker: AtomicWaker,
    heard: Arc<Heard>,
    /// Batches that were submitted and not answered.
    load: AtomicUsize,
    max_batches: usize,
    max_bytes: usize,
}

struct State {
    /// Present while connected, and while batches are held for the connection that follows a lost one.
    form: Option<ClaimForm>,
    /// Why not connected.
    down: String,
    /// Commands that the connection has not taken yet, and their batches.
    outgoing: Vec<u8>,
    submitted: VecDeque<Batch>,
    fence: u64,
    /// Values without marks were found lately: claims are fenced too.
    fence_claims: bool,
    distrusted: bool,
}

impl State {
    /// Appends a fence: the batch that it follows is believed once the echo comes.
    fn fence(&mut self) -> [u8; 16] {
        self.fence = self.fence.wrapping_add(1);
        let fence = fence_bytes(self.fence);
        put_head(&mut self.outgoing, 2);
        put_word(&mut self.outgoing, b"PING");
        put_word(&mut self.outgoing, &fence);
        fence
    }

    /// Fences a batch all of whose replies are there.
    fn fence_late(&mut self, mut batch: Batch) {
        let start = self.outgoing.len();
        batch.fence = Some(self.fence());
        batch.length = self.outgoing.len() - start;
        self.submitted.push_back(batch);
    }

    /// Removes those of the batches that are not sent that fail the test, with their commands, and returns them.
    fn remove(&mut self, keep: impl Fn(&Batch) -> bool) -> Vec<Batch> {
        let commands = std::mem::take(&mut self.outgoing);
        let mut rest = commands.as_slice();
        let mut removed = Vec::new();
        for batch in std::mem::take(&mut self.submitted) {
            let (its, behind) = rest.split_at_checked(batch.length).unwrap_or((rest, &[]));
            rest = behind;
            if keep(&batch) {
                self.outgoing.extend_from_slice(its);
                self.submitted.push_back(batch);
            } else {
                removed.push(batch);
            }
        }
        removed
    }
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
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                form: None,
                down: "not connected yet".to_owned(),
                outgoing: Vec::new(),
                submitted: VecDeque::new(),
                fence: rand::random(),
                fence_claims: false,
                distrusted: false,
            }),
            waker: AtomicWaker::new(),
            heard: Arc::default(),
            load: AtomicUsize::new(0),
            // Batches that timed out still have their place here; the guard bounds those that somebody waits for.
            max_batches: remote.max_batches.saturating_mul(2).max(4),
            max_bytes: remote.max_bytes.saturating_mul(2),
        });
        let (first, dialled) = oneshot::channel();
        let stall = (remote.op_timeout * 4).max(STALL_MIN);
        let task = runtime.spawn(run(shared.clone(), route, stall, first)).abort_handle();
        (Link { shared, task }, dialled)
    }

    /// When the server was heard last.
    pub(super) fn heard(&self) -> Arc<Heard> {
        self.shared.heard.clone()
    }

    /// Neither connected nor about to be.
    pub(super) fn is_down(&self) -> bool {
        self.shared.lock().form.is_none()
    }

    /// Whoever sees an answer that cannot be true calls this.
    pub(super) fn distrust(&self) {
        let mut state = self.shared.lock();
        if state.form.is_some() {
            state.distrusted = true;
            self.shared.waker.wake();
        }
    }

    pub(super) fn claim(&self, batch: &KeyValues, ttl: Duration, asking: bool) -> Submitted<Claimed> {
        self.submit(batch, Slot::work(Work::Claim), marks(batch), |out, form| {
            let milliseconds = ttl_words(ttl);
            for (key, value) in batch.iter() {
                put_asking(out, asking);
                put_claim(out, form, key, value, &milliseconds);
                if form == ClaimForm::TwoSteps {
                    put_asking(out, asking);
                    put_head(out, 2);
                    put_word(out, b"GET");
                    put_word(out, key);
                }
            }
            match (form, asking) {
                (ClaimForm::TwoSteps, false) => &[Step::Create, Step::Old],
                (ClaimForm::TwoSteps, true) => &[Step::Asking, Step::Create, Step::Asking, Step::Old],
                (_, false) => &[Step::Claim],
                (_, true) => &[Step::Asking, Step::Claim],
            }
        })
    }

    pub(super) fn set(&self, batch: &KeyValues, ttl: Duration, asking: bool) -> Submitted<()> {
        self.submit(batch, Slot::work(Work::Set), None, |out, _| {
            let milliseconds = ttl_words(ttl);
            for (key, value) in batch.iter() {
                put_asking(out, asking);
                put_head(out, if ttl.is_zero() { 3 } else { 5 });
                put_word(out, b"SET");
                put_word(out, key);
                put_word(out, value);
                put_expiry(out, &milliseconds);
            }
            if asking { &[Step::Asking, Step::Set] } else { &[Step::Set] }
        })
    }

    pub(super) fn get(&self, keys: &KeyValues, asking: bool) -> Submitted<Option<Bytes>> {
        self.submit(keys, Slot::work(Work::Get), None, |out, _| {
            put_each(out, keys, b"GET", asking);
            if asking { &[Step::Asking, Step::Get] } else { &[Step::Get] }
        })
    }

    pub(super) fn del(&self, keys: &KeyValues, asking: bool) -> Submitted<bool> {
        self.submit(keys, Slot::work(Work::Del), None, |out, _| {
            put_each(out, keys, b"DEL", asking);
            if asking { &[Step::Asking, Step::Del] } else { &[Step::Del] }
        })
    }

    fn submit<T>(
        &self,
        batch: &KeyValues,
        (work, answers): (Work, oneshot::Receiver<Answers<T>>),
        marks: Option<usize>,
        write: impl FnOnce(&mut Vec<u8>, ClaimForm) -> &'static [Step],
    ) -> Submitted<T> {
        let mut state = self.shared.lock();
        let Some(form) = state.form else {
            return Err(OpError::not_done(NAME, OpErrorKind::Disconnected, state.down.clone()));
        };
        let full = self.shared.load.load(Relaxed) >= self.shared.max_batches
            || state.outgoing.len() >= self.shared.max_bytes;
        if full {
            return Err(OpError::not_done(NAME, OpErrorKind::Overloaded, String::new()));
        }
        let start = state.outgoing.len();
        let steps = write(&mut state.outgoing, form);
        let fence = (marks.is_none() || state.fence_claims).then(|| state.fence());
        let length = state.outgoing.len() - start;
        state.submitted.push_back(Batch {
            work,
            length,
            steps,
            step: 0,
            left: batch.len(),
            values: 0,
            old_value: batch.iter().map(|(_, value)| value.len()).fold(OLD_VALUE, usize::max),
            fence,
            marks,
            unmarked: false,
            since: Instant::now(),
        });
        self.shared.load.fetch_add(1, Relaxed);
        drop(state);
        self.shared.waker.wake();
        Ok(answers)
    }
}

pub(super) type Submitted<T> = Result<oneshot::Receiver<Answers<T>>, OpError>;

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is a connection: what was held and still has somebody waiting for it goes first.
    fn resume(&self, form: ClaimForm) {
        let mut state = self.lock();
        if state.form.is_some_and(|before| before != form) {
            drop(state);
            self.give_up("the server changed while batches were held for it");
            state = self.lock();
        }
        let unwanted = state.remove(Batch::is_wanted);
        self.load.fetch_sub(unwanted.len(), Relaxed);
        let now = Instant::now();
        state.submitted.iter_mut().for_each(|batch| batch.since = now);
        state.form = Some(form);
    }

    /// There is no connection: what was held, and what comes, fails unsent.
    fn give_up(&self, why: &str) {
        let unsent = {
            let mut state = self.lock();
            state.form = None;
            state.down = why.to_owned();
            state.outgoing = Vec::new();
            std::mem::take(&mut state.submitted)
        };
        self.load.fetch_sub(unsent.len(), Relaxed);
        unsent.into_iter().for_each(|batch| batch.fail(OpErrorKind::Disconnected, false, why));
    }
}

/// Length of the values of a claim where they carry marks.
fn marks(batch: &KeyValues) -> Option<usize> {
    let length = batch.iter().next().map_or(0, |(_, value)| value.len());
    (length >= MARKED && batch.iter().all(|(_, value)| value.len() == length)).then_some(length)
}

fn ttl_words(ttl: Duration) -> Vec<u8> {
    // Rounded up: never shorter than asked for.
    decimal(ttl.as_nanos().div_ceil(1_000_000))
}

fn put_asking(out: &mut Vec<u8>, asking: bool) {
    if asking {
        out.extend_from_slice(b"*1\r\n$6\r\nASKING\r\n");
    }
}

fn put_expiry(out: &mut Vec<u8>, milliseconds: &[u8]) {
    if milliseconds != b"0" {
        put_word(out, b"PX");
        put_word(out, milliseconds);
    }
}

fn put_each(out: &mut Vec<u8>, keys: &KeyValues, command: &[u8], asking: bool) {
    for (key, _) in keys.iter() {
        put_asking(out, asking);
        put_head(out, 2);
        put_word(out, command);
        put_word(out, key);
    }
}

#[inline]
fn put_claim(out: &mut Vec<u8>, form: ClaimForm, key: &[u8], value: &[u8], milliseconds: &[u8]) {
    let expiry = if milliseconds == b"0" { 0 } else { 2 };
    if form == ClaimForm::Script {
        put_head(out, 6);
        [b"EVAL", CLAIM_SCRIPT, b"1", key, value, milliseconds].iter().for_each(|word| put_word(out, word));
        return;
    }
    let get = form == ClaimForm::SetNxGet;
    put_head(out, 4 + usize::from(get) + expiry);
    out.extend_from_slice(b"$3\r\nSET\r\n");
    put_word(out, key);
    put_word(out, value);
    out.extend_from_slice(b"$2\r\nNX\r\n");
    if get {
        out.extend_from_slice(b"$3\r\nGET\r\n");
    }
    put_expiry(out, milliseconds);
}

fn fence_bytes(number: u64) -> [u8; 16] {
    let mut fence = [0; 16];
    // Sixteen hex digits fill sixteen bytes, so this cannot fail.
    let _ = write!(&mut fence[..], "{number:016x}");
    fence
}

/// Replies that one key brings, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Asking,
    /// Nil: created; a value: it exists.
    Claim,
    /// OK: created; nil: it exists, and `Old` brings its value.
    Create,
    Old,
    Set,
    Get,
    Del,
}

/// A batch whose replies are awaited.
struct Batch {
    work: Work,
    /// Bytes of its commands.
    length: usize,
    steps: &'static [Step],
    step: usize,
    /// Keys that are not answered yet.
    left: usize,
    /// Bytes of values that it brought.
    values: usize,
    /// Most bytes of an old value that it gives out.
    old_value: usize,
    /// Its echo follows the replies.
    fence: Option<[u8; 16]>,
    /// Length of its values where they carry marks.
    marks: Option<usize>,
    /// A value of another length was found.
    unmarked: bool,
    since: Instant,
}

enum Work {
    Claim(Slot<Claimed>),
    Set(Slot<()>),
    Get(Slot<Option<Bytes>>),
    Del(Slot<bool>),
}

struct Slot<T> {
    answers: Answers<T>,
    caller: oneshot::Sender<Answers<T>>,
}

impl<T> Slot<T> {
    fn work(wrap: fn(Slot<T>) -> Work) -> (Work, oneshot::Receiver<Answers<T>>) {
        let (caller, answers) = oneshot::channel();
        (wrap(Slot { answers: Vec::new(), caller }), answers)
    }
    fn give(self) {
        // A caller that went away took its deadline with it.
        let _ = self.caller.send(self.answers);
    }
    fn fail(self, left: usize, error: &OpError) {
        // Answers that came before the fence cannot be believed either.
        let _ = self.caller.send(vec_of_errors(self.answers.len() + left, error));
    }
}

/// What a reply did to its batch.
enum Progress {
    More,
    /// Its answers can be given out.
    Done,
    /// Its answers can be given out behind a fence.
    Unproven,
}

impl Batch {
    /// Judges the next reply of this batch. Into `redial` goes what the server said where that makes another dial wise.
    fn accept(&mut self, token: Token<'_>, redial: &mut Option<String>) -> Result<Progress, Surprise> {
        if self.left == 0 {
            return match token {
                Token::Bulk(echo) if self.fence.is_some_and(|fence| fence == echo) => Ok(Progress::Done),
                _ => Err(Surprise::Fence),
            };
        }
        if let Some(fence) = &self.fence
            && token == Token::Bulk(fence)
        {
            // The fence came early: at least one reply before it is missing.
            return Err(Surprise::Fence);
        }
        let Some(&step) = self.steps.get(self.step) else { return Err(Surprise::Unfit) };
        self.step += 1;
        if self.step == self.steps.len() {
            self.step = 0;
            self.left -= 1;
        }
        self.answer(step, token, redial)?;
        Ok(match (self.left, self.fence) {
            (0, None) if self.unmarked => Progress::Unproven,
            (0, None) => Progress::Done,
            _ => Progress::More,
        })
    }

    fn answer(&mut self, step: Step, token: Token<'_>, redial: &mut Option<String>) -> Result<(), Surprise> {
        let left = self.left;
        if matches!(step, Step::Claim | Step::Old)
            && let Token::Bulk(old) = token
        {
            self.unmarked |= self.marks != Some(old.len());
        }
        match (&mut self.work, step, token) {
            (_, Step::Asking, Token::Simple(b"OK")) => {}
            (Work::Claim(slot), Step::Claim, Token::Nil) => slot.push(left, Ok(Claimed::Created)),
            (Work::Claim(slot), Step::Claim, Token::Bulk(old)) => {
                slot.push(left, Ok(exists(old, self.old_value)));
            }
            (Work::Claim(slot), Step::Create, Token::Simple(b"OK")) => slot.push(left, Ok(Claimed::Created)),
            (Work::Claim(slot), Step::Create, Token::Nil) => slot.push(left, Err(vanished())),
            (Work::Claim(slot), Step::Old, Token::Bulk(old)) => {
                if let Some(last) = slot.answers.last_mut().filter(|last| **last == Err(vanished())) {
                    *last = Ok(exists(old, self.old_value));
                }
            }
            (Work::Claim(_), Step::Old, Token::Nil | Token::Error(_)) => {}
            (Work::Set(slot), Step::Set, Token::Simple(b"OK")) => slot.push(left, Ok(())),
            (Work::Get(slot), Step::Get, Token::Nil) => slot.push(left, Ok(None)),
            (Work::Get(slot), Step::Get, Token::Bulk(value)) => {
                self.values = self.values.saturating_add(value.len());
                let fits = self.values <= MAX_VALUES;
                slot.push(left, if fits { Ok(Some(Bytes::copy_from_slice(value))) } else { Err(too_long()) });
            }
            (Work::Del(slot), Step::Del, Token::Integer(count @ (0 | 1))) => slot.push(left, Ok(count == 1)),
            (_, Step::Asking, _) => return Err(Surprise::Unfit),
            (work, _, Token::Error(text)) => {
                let detail = lossy(text);
                if asks_for_another_dial(&detail) {
                    *redial = Some(detail.clone());
                }
                let error = OpError::not_done(NAME, OpErrorKind::Refused, detail);
                match work {
                    Work::Claim(slot) => slot.push(left, Err(error)),
                    Work::Set(slot) => slot.push(left, Err(error)),
                    Work::Get(slot) => slot.push(left, Err(error)),
                    Work::Del(slot) => slot.push(left, Err(error)),
                }
            }
            _ => return Err(Surprise::Unfit),
        }
        Ok(())
    }

    /// Somebody waits for the answers.
    fn is_wanted(&self) -> bool {
        match &self.work {
            Work::Claim(slot) => !slot.caller.is_closed(),
            Work::Set(slot) => !slot.caller.is_closed(),
            Work::Get(slot) => !slot.caller.is_closed(),
            Work::Del(slot) => !slot.caller.is_closed(),
        }
    }

    fn give(self) {
        match self.work {
            Work::Claim(slot) => slot.give(),
            Work::Set(slot) => slot.give(),
            Work::Get(slot) => slot.give(),
            Work::Del(slot) => slot.give(),
        }
    }

    fn fail(self, kind: OpErrorKind, was_sent: bool, detail: &str) {
        let writes = !matches!(self.work, Work::Get(_));
        let error = OpError { backend: NAME, kind, in_doubt: was_sent && writes, detail: detail.to_owned() };
        match self.work {
            Work::Claim(slot) => slot.fail(self.left, &error),
            Work::Set(slot) => slot.fail(self.left, &error),
            Work::Get(slot) => slot.fail(self.left, &error),
            Work::Del(slot) => slot.fail(self.left, &error),
        }
    }
}

impl<T> Slot<T> {
    #[inline]
    fn push(&mut self, left: usize, answer: Result<T, OpError>) {
        if self.answers.capacity() == 0 {
            self.answers.reserve_exact(left + 1);
        }
        self.answers.push(answer);
    }
}

/// The value that was found under the key of a claim, or its first bytes.
fn exists(old: &[u8], most: usize) -> Claimed {
    Claimed::Exists(Bytes::copy_from_slice(old.get(..most).unwrap_or(old)))
}

/// The values before this one took all the memory that a batch may take.
fn too_long() -> OpError {
    let detail = format!("the values of one batch are longer than {MAX_VALUES} bytes");
    OpError::not_done(NAME, OpErrorKind::Overloaded, detail)
}

/// The key was there at `SET … NX` and gone at `GET`: it expired between the two.
fn vanished() -> OpError {
    OpError::not_done(NAME, OpErrorKind::Refused, "the key exists and its value cannot be read")
}

/// The server is no longer what the handshake found: demoted, reloaded, or of another version.
fn asks_for_another_dial(error: &str) -> bool {
    ["READONLY", "LOADING", "MASTERDOWN", "NOAUTH", "ERR syntax"].iter().any(|code| error.starts_with(code))
}

/// Why a connection ended.
enum Ending {
    Closed,
    Io(std::io::Error),
    Surprise(Surprise),
    Distrusted,
    Stalled(Duration),
    Redial(String),
    Moved(Endpoint),
}

impl Ending {
    fn kind(&self) -> OpErrorKind {
        match self {
            Ending::Surprise(_) | Ending::Distrusted => OpErrorKind::Garbled,
            _ => OpErrorKind::Disconnected,
        }
    }
    fn text(&self) -> String {
        match self {
            Ending::Closed => "the server closed the connection".to_owned(),
            Ending::Io(error) => format!("the connection broke: {error}"),
            Ending::Surprise(surprise) => format!("connection dropped: {surprise}"),
            Ending::Distrusted => "connection dropped: an answer belonged to another request".to_owned(),
            Ending::Stalled(stall) => format!("connection dropped: no answer for {stall:?}"),
            Ending::Redial(said) => format!("connection dropped: the server said {said}"),
            Ending::Moved(master) => {
                format!("connection dropped: a Sentinel says that {master} is the master now")
            }
        }
    }
}

/// Dials, serves, dials again.
async fn run(
    shared: Arc<Shared>,
    route: Route,
    stall: Duration,
    first: oneshot::Sender<Result<(), DialError>>,
) {
    let server = route.dialer.name(&route.target);
    let mut first = Some(first);
    let mut pauses = Pauses::new(&route.target);
    let mut news = news_of_master(&route);
    let mut lost = false;
    loop {
        let began = Instant::now();
        let mut moved = false;
        let dialled = tokio::select! {
            dialled = dial(&shared, &route) => Some(dialled),
            _ = &mut news => None,
        };
        match dialled {
            Some(Ok(dialled)) => {
                if lost {
                    info!(backend = NAME, %server, endpoint = %dialled.endpoint, "connected again");
                } else {
                    debug!(backend = NAME, %server, endpoint = %dialled.endpoint, form = ?dialled.form, "connected");
                }
                shared.resume(dialled.form);
                if dialled.proven {
                    route.breaker.proved(began.elapsed());
                }
                if let Some(first) = first.take() {
                    let _ = first.send(Ok(()));
                }
                lost = true;
                let mut serving = Serving::new(&shared, dialled.stream, stall);
                let ending = serving.until_moved(&dialled.endpoint, &route, &mut news).await;
                warn!(backend = NAME, %server, reason = %ending.text(), "connection lost, dialling again");
                let again_at_once = pauses.may_skip(serving.answered, Instant::now());
                serving.fail_all(&ending, again_at_once);
                if again_at_once {
                    continue;
                }
            }
            Some(Err(error)) => {
                if !lost {
                    lost = true;
                    warn!(backend = NAME, %server, reason = %error, "cannot connect, dialling on");
                }
                shared.give_up(&error.to_string());
                route.breaker.dial_failed(began);
                if let Some(first) = first.take() {
                    let _ = first.send(Err(error));
                }
            }
            None => moved = true,
        }
        if moved {
            news = news_of_master(&route);
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(pauses.next()) => {}
            _ = &mut news => news = news_of_master(&route),
        }
    }
}

/// One dial. What is held meanwhile waits for half an operation timeout at most.
async fn dial(shared: &Shared, route: &Route) -> Result<Dialled, DialError> {
    let mut dial = std::pin::pin!(route.dialer.dial(&route.target, (route.probe_key)(), Proof::Lenient));
    tokio::select! {
        dialled = &mut dial => return dialled,
        () = tokio::time::sleep(route.dialer.remote.op_timeout / 2) => {}
    }
    shared.give_up("the connection was lost and is not back yet");
    dial.await
}

/// Completes with the new master when a Sentinel announces one.
fn news_of_master(route: &Route) -> BoxFuture<'static, Endpoint> {
    let (dialer, watched) = (route.dialer.clone(), route.target == Target::Master);
    Box::pin(async move { if watched { dialer.master_moved().await } else { std::future::pending().await } })
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

/// A connection at work.
struct Serving<'a> {
    shared: &'a Shared,
    stream: Stream,
    sending: Vec<u8>,
    sent: usize,
    unflushed: bool,
    input: Input,
    /// Sent (or being sent), oldest first.
    waiting: VecDeque<Batch>,
    stall: Duration,
    tick: tokio::time::Interval,
    redial: Option<String>,
    /// At least one batch was answered.
    answered: bool,
}

impl<'a> Serving<'a> {
    fn new(shared: &'a Shared, stream: Stream, stall: Duration) -> Serving<'a> {
        let mut tick = tokio::time::interval(stall / 4);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Serving {
            shared,
            stream,
            sending: Vec::new(),
            sent: 0,
            unflushed: false,
            input: Input::default(),
            waiting: VecDeque::new(),
            stall,
            tick,
            redial: None,
            answered: false,
        }
    }

    /// Until the connection ends, or a Sentinel names another master than `endpoint`. [`Serving::fail_all`] follows.
    async fn until_moved(
        &mut self,
        endpoint: &Endpoint,
        route: &Route,
        news: &mut BoxFuture<'static, Endpoint>,
    ) -> Ending {
        loop {
            tokio::select! {
                ending = poll_fn(|cx| self.poll(cx)) => return ending,
                master = &mut *news => {
                    *news = news_of_master(route);
                    if master != *endpoint {
                        return Ending::Moved(master);
                    }
                }
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        self.shared.waker.register(cx.waker());
        loop {
            if !self.take_submitted() {
                return Poll::Ready(Ending::Distrusted);
            }
            let wrote = match self.poll_send(cx) {
                Poll::Ready(Ok(progress)) => progress,
                Poll::Ready(Err(error)) => return Poll::Ready(Ending::Io(error)),
                Poll::Pending => false,
            };
            let read = match self.poll_receive(cx) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(ending)) => return Poll::Ready(ending),
                Poll::Pending => false,
            };
            if !wrote && !read {
                break;
            }
        }
        while self.tick.poll_tick(cx).is_ready() {
            if self.waiting.front().is_some_and(|batch| batch.since.elapsed() > self.stall) {
                return Poll::Ready(Ending::Stalled(self.stall));
            }
        }
        Poll::Pending
    }

    /// Takes commands and their batches together. False where the connection is no longer trusted.
    fn take_submitted(&mut self) -> bool {
        let mut state = self.shared.lock();
        if self.sent == self.sending.len() && !state.outgoing.is_empty() {
            self.sending.clear();
            self.sent = 0;
            if self.sending.capacity() > KEEP_BUFFER {
                self.sending = Vec::new();
            }
            std::mem::swap(&mut self.sending, &mut state.outgoing);
            self.waiting.append(&mut state.submitted);
        }
        !std::mem::take(&mut state.distrusted)
    }

    /// True where something was written.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<bool>> {
        let mut progress = false;
        while let Some(rest) = self.sending.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut self.stream).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => {
                    self.sent += count;
                    self.unflushed = true;
                    progress = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Ready(Ok(progress)),
            }
        }
        if self.unflushed
            && let Poll::Ready(flushed) = Pin::new(&mut self.stream).poll_flush(cx)
        {
            flushed?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(progress))
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ending>> {
        match ready!(self.input.poll_fill(cx, &mut self.stream)) {
            Ok(0) => return Poll::Ready(Err(Ending::Closed)),
            Ok(_) => {}
            Err(error) => return Poll::Ready(Err(Ending::Io(error))),
        }
        // Before the answers are given out: who waits behind them looks at it.
        self.shared.heard.note(Instant::now());
        if let Err(surprise) = self.take_replies() {
            return Poll::Ready(Err(Ending::Surprise(surprise)));
        }
        Poll::Ready(match self.redial.take() {
            Some(said) => Err(Ending::Redial(said)),
            None => Ok(()),
        })
    }

    fn take_replies(&mut self) -> Result<(), Surprise> {
        loop {
            let bytes = self.input.bytes();
            let Some(batch) = self.waiting.front_mut() else {
                return if bytes.is_empty() { Ok(()) } else { Err(Surprise::Unasked) };
            };
            let Some((token, length)) = token(bytes)? else { return Ok(()) };
            let progress = batch.accept(token, &mut self.redial)?;
            self.input.consume(length);
            if matches!(progress, Progress::More) {
                continue;
            }
            let Some(batch) = self.waiting.pop_front() else { continue };
            if batch.marks.is_some() {
                self.shared.lock().fence_claims = batch.unmarked;
            }
            match progress {
                Progress::More => {}
                Progress::Unproven => self.shared.lock().fence_late(batch),
                Progress::Done => {
                    self.shared.load.fetch_sub(1, Relaxed);
                    self.answered = true;
                    batch.give();
                }
            }
        }
    }

    /// What was sent is in doubt. What was not is held for the next connection, or fails as well.
    fn fail_all(&mut self, ending: &Ending, hold: bool) {
        let (kind, text) = (ending.kind(), ending.text());
        // Those that were answered and wait for their fence were sent as well.
        let answered = {
            let mut state = self.shared.lock();
            state.distrusted = false;
            state.remove(|batch| batch.left > 0)
        };
        if !hold {
            self.shared.give_up(&text);
        }
        self.shared.load.fetch_sub(self.waiting.len() + answered.len(), Relaxed);
        self.waiting.drain(..).chain(answered).for_each(|batch| batch.fail(kind, true, &text));
    }
}

/// Bytes that were read and not yet understood.
#[derive(Default)]
struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.buffer.len() > KEEP_BUFFER {
                self.buffer = Vec::new();
            }
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, stream: &mut Stream) -> Poll<std::io::Result<usize>> {
        if self.buffer.len() - self.end < READ_CHUNK / 2 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.buffer.len() - self.end < READ_CHUNK {
                // Doubles while a long value arrives; the parser bounds its length.
                self.buffer.resize((self.end + READ_CHUNK).max(self.end * 2), 0);
            }
        }
        let mut free = ReadBuf::new(self.buffer.get_mut(self.end..).unwrap_or_default());
        ready!(Pin::new(stream).poll_read(cx, &mut free))?;
        let count = free.filled().len();
        self.end += count;
        Poll::Ready(Ok(count))
    }
}
