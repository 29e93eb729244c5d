//! The effects of a worker's round: its sending sockets, and the mailboxes of the other threads.

use super::counters::WorkerCells;
use super::mailboxes::WorkerMailboxes;
use super::shared::{Lookup, SharedLink};
use crate::pipeline::admit::Admitted;
use crate::pipeline::answer::{Answer, Request};
use crate::pipeline::numbers::Numbers;
use crate::pipeline::round::{Message, QueueResult, RoundIo};
use crate::pipeline::upstream::FrameKey;
use frame::HashKey;
use frame::digest::Entry;
use link_watch::Links;
use multicast_io::{Progress, Span, Train, writable};
use service::links::EmitSocket;
use service::worker::MailboxSender;
use std::io;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;

pub(super) struct WorkerIo {
    /// Number of the worker.
    pub(super) index: usize,
    /// One an interface, in the order of `EmitConfig::interfaces`.
    pub(super) senders: Vec<EmitSocket>,
    pub(super) workers: WorkerMailboxes,
    /// To the NACK server.
    pub(super) answers: MailboxSender<Answer>,
    pub(super) upstream: Option<MailboxSender<FrameKey>>,
    pub(super) shared: Option<SharedLink>,
    /// To the beacon.
    pub(super) announcements: Option<mpsc::Sender<Vec<Entry>>>,
    pub(super) cells: Arc<WorkerCells>,
}

impl WorkerIo {
    /// Waits until `socket` is writable, at the latest until `until`.
    pub(super) async fn wait(&self, socket: Option<usize>, until: Instant) {
        if let Some(sender) = socket.and_then(|at| self.senders.get(at)) {
            match tokio::time::timeout_at(until.into(), writable(sender.sender())).await {
                Ok(Ok(())) | Err(_) => return,
                Ok(Err(error)) => service::limited!(error, 1, "--egress-iface: cannot wait for it: {error}"),
            }
        }
        tokio::time::sleep_until(until.into()).await;
    }

    /// Sends what is open for the shared tier.
    pub(super) fn flush_shared(&mut self) {
        if let Some(shared) = &mut self.shared {
            shared.flush(&self.cells);
        }
    }

    /// Opens sockets again whose interface was made again.
    pub(super) fn follow(&mut self, links: &Links) {
        for sender in &mut self.senders {
            sender.follow(links);
        }
    }

    /// Errors that the kernel queued about earlier repairs.
    pub(super) fn queued_errors(&self) -> u64 {
        self.senders.iter().map(EmitSocket::queued_errors).sum()
    }

    /// Interfaces that refused trains, so that frames leave one by one.
    pub(super) fn gso_refused(&self) -> u64 {
        self.senders.iter().map(|sender| u64::from(sender.sender().gso_refused())).sum()
    }
}

impl RoundIo for WorkerIo {
    fn transmit(&mut self, interface: usize, memory: &[u8], trains: &[Train], frames: &[Span]) -> Progress {
        match self.senders.get_mut(interface) {
            Some(sender) => sender.send(memory, trains, frames),
            None => Progress { frames: 0, error: None },
        }
    }

    fn max_train(&self, interface: usize) -> usize {
        self.senders.get(interface).map_or(1, |sender| sender.sender().max_train())
    }

    fn refused(&mut self, _interface: usize, error: &io::Error) {
        service::limited!(warn, 1, "multicast repair refused: {error}");
    }

    fn answer(&mut self, answer: Answer) -> QueueResult {
        QueueResult::of(self.answers.send(answer))
    }

    fn forward(&mut self, request: &Request, visited: usize) -> QueueResult {
        QueueResult::of(self.workers.send(self.index + 1, Message::Request { request: *request, visited }))
    }

    fn look_up(&mut self, request: &Request, numbers: Numbers) -> QueueResult {
        let Some(shared) = &self.shared else { return QueueResult::NoReceiver };
        QueueResult::of(shared.look_up(Lookup { request: *request, numbers, worker: self.index }))
    }

    fn fetch(&mut self, wanted: FrameKey) -> QueueResult {
        self.upstream
            .as_ref()
            .map_or(QueueResult::NoReceiver, |upstream| QueueResult::of(upstream.send(wanted)))
    }

    fn announce(&mut self, entries: Vec<Entry>) -> QueueResult {
        self.announcements
            .as_ref()
            .map_or(QueueResult::NoReceiver, |beacon| QueueResult::of(beacon.try_send(entries).is_ok()))
    }

    fn new_flow(&mut self, hash_key: HashKey) {
        self.workers.learn(hash_key.0, self.index);
    }

    fn stored(&mut self, frame: &Admitted<'_>) {
        if let Some(shared) = &mut self.shared {
            shared.keep(frame, &self.cells);
        }
    }
}
