//! One worker: a thread with its groups, its flows, its request sockets and its way to the consumer.
//!
//! A turn takes what the sockets hold, batch by batch, each through a round of the pipeline (`pipeline/round.rs`), and ends
//! with a round that runs what is due and flushes. All waiting is between turns, for whatever comes first.

use super::control::ControlMessage;
use super::io::Io;
use super::report::Report;
use crate::pipeline::{Door, LeftBehind, Next, Pipeline, Turn};
use anyhow::Context;
use cache_backend::Backend;
use multicast_io::{Burst, Joined, Loss, Receiver};
use service::Lifecycle;
use service::links::Feed;
use service::worker::{Drain, DrainRules, DrainStep, InHand, Inlet, Intake, IntakeRules, Mailbox, Queue};
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};
use txidset::driver::Driver;

/// Messages (datagrams or trains) of one receive call.
const BATCH: usize = 64;
/// Datagrams that a receive call should bring: several passes go over them, so they should still be in the nearer caches.
const FRAMES: usize = 256;
/// Receive calls of one socket before the others get their turn.
const CALLS: usize = 8;
/// A draining worker stops reading when its queues were empty for this long.
const DRAIN_QUIET: Duration = Duration::from_millis(20);

/// What a worker is born with.
pub(super) struct Start {
    pub(super) pipeline: Pipeline,
    pub(super) data: Vec<Joined>,
    pub(super) requests: Vec<Receiver>,
    pub(super) loss: Loss,
    pub(super) backend: Option<Arc<dyn Backend>>,
    pub(super) op_timeout: Duration,
    pub(super) io: Io,
    pub(super) report: Report,
    pub(super) mailbox: Mailbox<ControlMessage>,
    pub(super) links: Feed,
    pub(super) lifecycle: Lifecycle,
    pub(super) drain_timeout: Duration,
}

struct Worker {
    pipeline: Pipeline,
    intake: Intake<Door>,
    burst: Burst,
    driver: Driver,
    io: Io,
    report: Report,
    drain_timeout: Duration,
}

/// Opens a worker; the work ends when it has drained.
pub(super) async fn open(start: Start) -> anyhow::Result<impl Future<Output = ()>> {
    let driver = Driver::open(start.backend).await.context("--cache-backend")?;
    let data = start.data.into_iter().map(|Joined { receiver, memberships }| Inlet {
        tag: Door::Groups,
        name: "--listen-port",
        receiver,
        memberships: Some(memberships),
    });
    let replies = start.requests.into_iter().map(|receiver| Inlet {
        tag: Door::Replies,
        name: "the request socket",
        receiver,
        memberships: None,
    });
    let rules = IntakeRules { messages: BATCH, datagrams: FRAMES, calls: CALLS, ..IntakeRules::default() };
    let intake = Intake::new(rules, data.chain(replies).collect()).context("registering a socket")?;
    let worker = Worker {
        pipeline: start.pipeline,
        intake: intake.with_loss(start.loss).follow(start.links),
        burst: Burst::new(BATCH, 0).touched(),
        driver: driver.with_op_timeout(start.op_timeout),
        io: start.io,
        report: start.report,
        drain_timeout: start.drain_timeout,
    };
    Ok(worker.work(start.lifecycle, start.mailbox))
}

impl Worker {
    async fn work(mut self, lifecycle: Lifecycle, mailbox: Mailbox<ControlMessage>) {
        let mut mailbox = Some(mailbox);
        while !lifecycle.is_draining() {
            self.wait(&mut mailbox, lifecycle.drain_began()).await;
            self.turn();
        }
        self.drain().await;
        let LeftBehind { frames, bytes, flows } = self.pipeline.left_behind();
        if *frames > 0 {
            lifecycle.leave_behind(*frames, *bytes, flows.len() as u64);
        }
    }

    /// Finishes what is in hand: the kernel's queues, frames that wait for a claim, the consumer's queue.
    async fn drain(&mut self) {
        let (timeout, half) = (self.drain_timeout, self.drain_timeout / 2);
        let rules = DrainRules { timeout, quiet: DRAIN_QUIET, accept: half, read_at_most: half };
        let mut drain = Drain::begin(Instant::now(), rules);
        self.intake.look_again();
        loop {
            self.turn();
            let now = Instant::now();
            match drain.step(now, &self.in_hand()) {
                DrainStep::StopReading => self.intake.close(),
                DrainStep::Decide => self.pipeline.decide_all(now),
                DrainStep::Wait(pause) => {
                    let _ = tokio::time::timeout(pause, self.wait(&mut None, pending())).await;
                }
                DrainStep::Done => break,
            }
        }
        self.intake.close();
        self.io.gives_up = true;
        let now = self.commit(Turn::Last);
        self.pipeline.stop();
        self.report.log(&mut self.pipeline);
        self.report.show(now, &mut self.pipeline, &self.intake, &self.io.consumer);
    }

    fn in_hand(&mut self) -> InHand {
        let idle = self.pipeline.claims_mut().is_none_or(|claims| claims.is_idle());
        InHand {
            reading: self.intake.is_open(),
            streams: false,
            emptied: self.intake.queue() != Queue::MayHoldMore,
            last_input: self.intake.last_input(),
            waiting: self.pipeline.is_waiting(),
            idle: idle && self.io.consumer.is_empty(),
        }
    }

    /// Waits for something to do.
    async fn wait(&mut self, mailbox: &mut Option<Mailbox<ControlMessage>>, drain: impl Future<Output = ()>) {
        let timer = self.pipeline.next_timeout();
        let timer = self.io.consumer.next_timeout().map_or(timer, |at| at.min(timer));
        let more = self.intake.queue() == Queue::MayHoldMore;
        let (pipeline, driver, consumer) = (&mut self.pipeline, &mut self.driver, &mut self.io.consumer);
        let claims = async {
            match pipeline.claims_mut() {
                Some(claims) => driver.progress(claims).await,
                None => pending().await,
            }
        };
        let message = tokio::select! {
            biased;
            () = claims => None,
            message = next(mailbox) => message,
            // Lets the reactor have a turn.
            () = tokio::task::yield_now(), if more => None,
            () = self.intake.ready() => None,
            () = consumer.ready() => None,
            () = tokio::time::sleep_until(timer.into()) => None,
            () = drain => None,
        };
        let Some(message) = message else { return };
        let now = Instant::now();
        self.take(now, message);
        while let Some(message) = mailbox.as_mut().and_then(Mailbox::ready) {
            self.take(now, message);
        }
    }

    fn take(&mut self, now: Instant, message: ControlMessage) {
        match message {
            ControlMessage::Advert(advert) => self.pipeline.advert(now, &advert),
            ControlMessage::Announce(source, announce) => self.pipeline.announce(now, source, &announce),
            ControlMessage::Digest(source, entries) => {
                entries.iter().for_each(|entry| self.pipeline.digest(now, source, entry));
            }
        }
    }

    fn turn(&mut self) {
        while let Some(door) = self.intake.next(&mut self.burst) {
            self.pipeline.begin(self.intake.last_input(), door, &self.burst);
            self.commit(Turn::More);
        }
        let now = self.commit(Turn::Last);
        self.report.consumer(now, &self.io.consumer);
        self.report.log(&mut self.pipeline);
        if self.report.is_due(now) || self.intake.queue() != Queue::MayHoldMore {
            self.report.show(now, &mut self.pipeline, &self.intake, &self.io.consumer);
        }
        self.intake.upkeep(now);
    }

    /// The end of a round; returns when that was.
    fn commit(&mut self, turn: Turn) -> Instant {
        loop {
            let now = Instant::now();
            let mut io = self.io.with(&mut self.driver, &self.intake);
            if self.pipeline.commit(now, &self.burst, turn, &mut io) == Next::Done {
                return now;
            }
        }
    }
}

/// The next message of a mailbox. Pends for ever once it has ended.
async fn next(mailbox: &mut Option<Mailbox<ControlMessage>>) -> Option<ControlMessage> {
    match mailbox {
        Some(open) => {
            let message = open.next().await;
            if message.is_none() {
                *mailbox = None;
            }
            message
        }
        None => pending().await,
    }
}
