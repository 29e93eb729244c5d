//! One connection at work: what is asked leaves in order, and no answer comes out of it that was not proven.

use super::super::connection::{Connection, command};
use super::super::dial::Dialled;
use super::super::gate::{Fence, Gate, UNFIT};
use super::super::probe::ClaimForm;
use super::batch::{Batch, Read};
use crate::guard::Heard;
use crate::{Answers, OpErrorKind};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, Pipeline, RedisError, RedisResult, Value};
use std::future::poll_fn;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{MissedTickBehavior, interval};

type Exchange = BoxFuture<'static, RedisResult<Vec<Value>>>;

/// Why a connection ended.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    pub(super) kind: OpErrorKind,
    pub(super) why: String,
}

impl Ending {
    pub(super) fn lost(why: impl Into<String>) -> Ending {
        Ending { kind: OpErrorKind::Disconnected, why: why.into() }
    }
    fn garbled(why: impl std::fmt::Display) -> Ending {
        Ending { kind: OpErrorKind::Garbled, why: format!("connection dropped: {why}") }
    }
}

/// What all batches on one connection share.
pub(super) struct Line {
    client: MultiplexedConnection,
    gate: Arc<Gate>,
    form: ClaimForm,
    /// The number in the last fence. Under its lock a batch gets its place in the order.
    fences: Mutex<u64>,
    /// Values without marks were found lately: claims are fenced from the start.
    fence_claims: AtomicBool,
    /// At least one batch was answered.
    pub(super) answered: AtomicBool,
    ending: OnceLock<Ending>,
    ends: Notify,
    left_alone: UnboundedSender<Exchange>,
}

/// What moves a connection's bytes.
pub(super) struct Driver {
    bytes: BoxFuture<'static, ()>,
    left_alone: UnboundedReceiver<Exchange>,
}

impl Line {
    pub(super) fn new(dialled: Dialled) -> (Arc<Line>, Driver) {
        let Connection { client, driver, gate } = dialled.connection;
        gate.close();
        let (sender, left_alone) = unbounded_channel();
        let line = Line {
            client,
            gate,
            form: dialled.form,
            fences: Mutex::new(rand::random()),
            fence_claims: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            ending: OnceLock::new(),
            ends: Notify::new(),
            left_alone: sender,
        };
        (Arc::new(line), Driver { bytes: driver, left_alone })
    }

    /// Batches that were sent and not answered, and their bytes.
    pub(super) fn load(&self) -> (usize, usize) {
        self.gate.load()
    }

    /// Somebody saw an answer that cannot be true.
    pub(super) fn distrust(&self) {
        self.end(Ending::garbled("an answer belonged to another request"));
    }

    /// Everybody who waits hears of this ending once the driver is dropped.
    pub(super) fn end(&self, ending: Ending) {
        let _ = self.ending.set(ending);
        self.ends.notify_one();
    }

    /// Moves bytes until the connection ends.
    pub(super) async fn drive(&self, driver: &mut Driver, stall: Duration, heard: &Heard) -> Ending {
        let mut tick = interval(stall / 4);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut abandoned = FuturesUnordered::new();
        loop {
            let bytes = poll_fn(|cx| {
                let ended = driver.bytes.poll_unpin(cx);
                if self.gate.was_passed() {
                    heard.note(Instant::now());
                }
                ended
            });
            tokio::select! {
                // What left before the connection was distrusted is distrusted as well.
                biased;
                () = bytes => return self.why(None),
                () = self.ends.notified() => return self.why(None),
                Some(exchange) = driver.left_alone.recv() => abandoned.push(exchange),
                Some(_) = abandoned.next() => {}
                _ = tick.tick() => if self.gate.oldest().is_some_and(|since| since.elapsed() > stall) {
                    self.end(Ending::lost(format!("connection dropped: no answer for {stall:?}")));
                }
            }
        }
    }

    fn why(&self, error: Option<&RedisError>) -> Ending {
        match (self.ending.get(), self.gate.surprise(), error) {
            (Some(ending), _, _) => ending.clone(),
            (_, Some(surprise), _) => Ending::garbled(surprise),
            (_, _, Some(error)) if error.kind() == ErrorKind::Parse => Ending::garbled(error),
            (_, _, Some(error)) => Ending::lost(format!("the connection broke: {error}")),
            (_, _, None) => Ending::lost("the server closed the connection"),
        }
    }

    /// Sends a batch and believes its answers once they are proven.
    pub(super) async fn run<T>(self: Arc<Line>, batch: &Batch, read: Read<T>) -> Result<Answers<T>, Ending> {
        let marks = batch.marks();
        let is_fenced = marks.is_none() || self.fence_claims.load(Relaxed);
        let commands = batch.commands(self.form);
        let replies = self.send(commands, batch.keys.bytes(), is_fenced).await?;
        if let Some(marks) = marks {
            let differs = |reply: &Value| matches!(reply, Value::BulkString(old) if old.len() != marks);
            let is_unmarked = replies.iter().any(differs);
            self.fence_claims.store(is_unmarked, Relaxed);
            if is_unmarked && !is_fenced {
                self.send(Pipeline::with_capacity(1), 0, true).await?;
            }
        }
        let Some((answers, redial)) = batch.answers(replies, read) else {
            self.end(Ending::garbled(UNFIT));
            return Err(self.why(None));
        };
        self.answered.store(true, Relaxed);
        if let Some(said) = redial {
            self.end(Ending::lost(format!("connection dropped: the server said {said}")));
        }
        Ok(answers)
    }

    async fn send(
        self: &Arc<Line>,
        commands: Pipeline,
        bytes: usize,
        is_fenced: bool,
    ) -> Result<Vec<Value>, Ending> {
        let mut under_way = UnderWay { exchange: None, line: self.clone() };
        under_way.start(commands, bytes, is_fenced);
        let replies = poll_fn(|cx| match &mut under_way.exchange {
            Some(exchange) => exchange.poll_unpin(cx),
            None => Poll::Pending,
        });
        let replies = replies.await;
        under_way.exchange = None;
        let mut replies = replies.map_err(|error| self.why(Some(&error)))?;
        if is_fenced {
            // The gate saw that it is the echo.
            replies.pop();
        }
        Ok(replies)
    }
}

/// A batch that was sent. Where its caller leaves, the driver waits for its replies: the order of the others hangs on them.
struct UnderWay {
    exchange: Option<Exchange>,
    line: Arc<Line>,
}

impl UnderWay {
    fn start(&mut self, mut commands: Pipeline, bytes: usize, is_fenced: bool) {
        let line = &self.line;
        let mut fences = line.fences.lock().unwrap_or_else(PoisonError::into_inner);
        let fence = is_fenced.then(|| {
            *fences = fences.wrapping_add(1);
            let mut fence = Fence::default();
            // Sixteen hex digits fill sixteen bytes, so this cannot fail.
            let _ = write!(&mut fence[..], "{:016x}", *fences);
            commands.add_command(command(&[b"PING", &fence]));
            fence
        });
        let (mut client, count) = (line.client.clone(), commands.len());
        line.gate.expect(count, fence, bytes);
        let exchange = async move { client.send_packed_commands(&commands, 0, count).await };
        // The crate has room for all that the bounds allow, so that the first poll hands the batch over.
        let mut exchange = tokio::task::unconstrained(exchange).boxed();
        self.exchange = Some(match (&mut exchange).now_or_never() {
            Some(failed) => ready(failed).boxed(),
            None => exchange,
        });
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(exchange) = self.exchange.take() {
            let _ = self.line.left_alone.send(exchange);
        }
    }
}
