//! A connection at work: one loop that writes what is asked and reads what comes, in order.

use super::super::address::Endpoint;
use super::super::connection::{Connection, pack};
use super::super::dial::Dialled;
use super::super::gate::{Input, KEEP_BUFFER, Surprise, UNASKED};
use super::super::probe::ClaimForm;
use super::super::stream::Stream;
use super::batch::{Batch, Fence, Progress};
use super::shared::{Ending, Shared};
use redis::{Cmd, Value};
use std::collections::VecDeque;
use std::io::{self, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::AsyncWrite;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Batches are taken up to about so many bytes in one write; the others are not sent yet.
const WRITE: usize = 128 << 10;

pub(super) struct Serving {
    shared: Arc<Shared>,
    pub(super) endpoint: Endpoint,
    form: ClaimForm,
    stream: Stream,
    command: Cmd,
    sending: Vec<u8>,
    sent: usize,
    unflushed: bool,
    input: Input,
    /// Sent (or being sent), oldest first.
    waiting: VecDeque<Batch>,
    fence: u64,
    /// Values without marks were found lately: claims are fenced from the start.
    fence_claims: bool,
    tick: Interval,
    /// At least one batch was answered.
    pub(super) answered: bool,
}

impl Serving {
    pub(super) fn new(shared: Arc<Shared>, dialled: Dialled, stall: Duration) -> Serving {
        let Connection { stream, input } = dialled.connection;
        let mut tick = interval(stall / 4);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Serving {
            shared,
            endpoint: dialled.endpoint,
            form: dialled.form,
            stream,
            command: Cmd::new(),
            sending: Vec::new(),
            sent: 0,
            unflushed: false,
            input,
            waiting: VecDeque::new(),
            fence: rand::random(),
            fence_claims: false,
            tick,
            answered: false,
        }
    }

    /// Ready when the connection ended. [`Serving::fail_all`] follows.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, stall: Duration) -> Poll<Ending> {
        self.shared.waker.register(cx.waker());
        loop {
            if self.take_submitted() {
                return Poll::Ready(Ending::garbled("an answer belonged to another request"));
            }
            let wrote = match self.poll_send(cx) {
                Ok(wrote) => wrote,
                Err(error) => return Poll::Ready(Ending::broke(&error)),
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
            if self.waiting.front().is_some_and(|batch| batch.since.elapsed() > stall) {
                return Poll::Ready(Ending::lost(format!("connection dropped: no answer for {stall:?}")));
            }
        }
        Poll::Pending
    }

    /// Takes what was submitted, once all before it is written. True where the connection is no longer trusted.
    fn take_submitted(&mut self) -> bool {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        if self.sent == self.sending.len() {
            self.sending.clear();
            self.sent = 0;
            if self.sending.capacity() > KEEP_BUFFER {
                self.sending = Vec::new();
            }
            while self.sending.len() < WRITE
                && let Some(mut batch) = state.next()
            {
                batch.write(self.form, &mut self.command, &mut self.sending);
                if batch.sent.marks.is_none() || self.fence_claims {
                    batch.sent.fence = Some(self.put_fence());
                }
                self.waiting.push_back(batch);
            }
        }
        std::mem::take(&mut state.distrusted)
    }

    /// Appends a fence: the batch that it follows is believed once the echo comes.
    fn put_fence(&mut self) -> Fence {
        self.fence = self.fence.wrapping_add(1);
        let mut fence = Fence::default();
        // Sixteen hex digits fill sixteen bytes, so this cannot fail.
        let _ = write!(&mut fence[..], "{:016x}", self.fence);
        pack(&mut self.command, &[b"PING", &fence], &[], &mut self.sending);
        fence
    }

    /// True where something was written.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut progress = false;
        while let Some(rest) = self.sending.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut self.stream).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(count) => self.sent += count?,
                Poll::Pending => return Ok(progress),
            }
            (self.unflushed, progress) = (true, true);
        }
        if self.unflushed
            && let Poll::Ready(flushed) = Pin::new(&mut self.stream).poll_flush(cx)
        {
            flushed?;
            self.unflushed = false;
        }
        Ok(progress)
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ending>> {
        match ready!(self.input.poll_fill(cx, &mut self.stream)) {
            Ok(0) => return Poll::Ready(Err(Ending::lost("the server closed the connection"))),
            Ok(_) => {}
            Err(error) => return Poll::Ready(Err(Ending::broke(&error))),
        }
        // Before the answers are given out: who waits behind them looks at it.
        self.shared.heard.note(Instant::now());
        Poll::Ready(match self.take_replies() {
            Ok(None) => Ok(()),
            Ok(Some(said)) => Err(Ending::lost(format!("connection dropped: the server said {said}"))),
            Err(surprise) => Err(Ending::garbled(surprise)),
        })
    }

    /// What the server said where that makes another dial wise.
    fn take_replies(&mut self) -> Result<Option<String>, Surprise> {
        let mut redial = None;
        loop {
            if self.waiting.is_empty() && !self.input.is_empty() {
                return Err(UNASKED);
            }
            let Some(reply) = self.input.reply()? else { return Ok(redial) };
            let is_fence = self.is_fence(&reply);
            let Some(batch) = self.waiting.front_mut() else { return Err(UNASKED) };
            let progress = batch.accept(reply, is_fence)?;
            if matches!(progress, Progress::More) {
                continue;
            }
            let Some(mut batch) = self.waiting.pop_front() else { continue };
            if batch.sent.marks.is_some() {
                self.fence_claims = batch.sent.unmarked;
            }
            if matches!(progress, Progress::Unproven) {
                batch.sent.fence = Some(self.put_fence());
                self.waiting.push_back(batch);
                continue;
            }
            self.shared.load.fetch_sub(1, Relaxed);
            self.answered = true;
            redial = batch.answer()?.or(redial);
        }
    }

    /// It is the echo that is awaited first.
    fn is_fence(&self, reply: &Value) -> bool {
        let Value::BulkString(echo) = reply else { return false };
        let fence = || self.waiting.iter().find_map(|batch| batch.sent.fence.as_ref());
        echo.len() == size_of::<Fence>() && fence().is_some_and(|fence| echo == fence)
    }

    /// What was sent is in doubt; what was not waits in [`Shared`].
    pub(super) fn fail_all(self, ending: &Ending) {
        self.shared.load.fetch_sub(self.waiting.len(), Relaxed);
        self.waiting.into_iter().for_each(|batch| batch.fail(ending.kind, true, &ending.why));
    }
}
