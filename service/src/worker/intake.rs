//! The receive loop of a worker: takes what its sockets hold, batch by batch, and knows when to ask the kernel again.
//!
//! Two ways to take, over the same sockets:
//!
//! * [`Intake::next`]: every receive call is a batch of its own. A turn goes over all sockets, a bounded number of calls
//!   each, so that a flood on one does not starve the others. Retry endpoints and listeners work so.
//! * [`Intake::gather`]: several calls fill one burst, which then leaves together. Proxies work so: the more frames there
//!   are to choose from, the longer the trains.
//!
//! ```text
//! loop {
//!     select! { () = intake.ready() => {}, ... }
//!     while let Some(tag) = intake.next(&mut burst) { /* the burst holds one batch */ }
//!     intake.upkeep(now);
//! }
//! ```
//!
//! Promises: nothing waits but in [`Intake::ready`] and [`Intake::first`]; both are cancel safe. A socket that fails is
//! handled by the one policy ([`super::errors`]). Memberships lapse after changes of routes and interfaces. So joins are looked
//! at when the links change ([`Intake::follow`]) and every [`REJOIN`]: a socket whose interface was made again, or whose groups
//! the kernel does not know any more, is opened again (`joins.rs`).
//!
//! Cost: one system call a batch, and one more to find a queue empty. Where short calls are trusted that one is saved while
//! the worker is ahead of its senders.

use super::errors::SocketErrors;
use super::joins::{Rejoins, Standing, standing};
use crate::links::Feed;
use link_watch::joined::JoinTable;
use multicast_io::membership::REJOIN;
use multicast_io::{Burst, Joined, Loss, Memberships, Ready, Receiver};
use std::future::{pending, poll_fn};
use std::io;
use std::task::Poll;
use std::time::Instant;

/// What is known of the kernel's receive queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// They may hold more than was taken: ask again before sleeping.
    MayHoldMore,
    /// The last call took less than it could, so it emptied the queue: what it took leaves before another call is made.
    Emptied {
        /// Ask once more before sleeping all the same.
        look_again: bool,
    },
    /// The kernel said that there is nothing: sleep until it says otherwise.
    Empty,
}

/// How a worker takes datagrams.
#[derive(Clone, Copy, Debug)]
pub struct IntakeRules {
    /// Most messages (datagrams or trains) of one receive call.
    pub messages: usize,
    /// Datagrams that a call should bring, so that they are worked on while they are in the nearer caches. The trains of the
    /// last call say how many messages that is.
    pub datagrams: usize,
    /// [`Intake::next`]: calls on one socket before the others get their turn.
    pub calls: usize,
    /// [`Intake::gather`]: a round that has so many datagrams makes no further call, so that the first does not wait for the
    /// last.
    pub round: usize,
    /// [`Intake::gather`]: a call that took fewer messages than it could has emptied the queue.
    pub trust_short_calls: bool,
}

impl Default for IntakeRules {
    fn default() -> IntakeRules {
        IntakeRules {
            messages: multicast_io::receive::BATCH,
            datagrams: usize::MAX,
            calls: 8,
            round: usize::MAX,
            trust_short_calls: false,
        }
    }
}

/// A socket of a worker. `tag` says what comes in by it.
pub struct Inlet<T> {
    /// What comes in by it.
    pub tag: T,
    /// What an operator calls it, for messages about its errors.
    pub name: &'static str,
    /// The socket.
    pub receiver: Receiver,
    /// What it joined, to be joined again now and then.
    pub memberships: Option<Memberships>,
}

struct Open<T> {
    tag: T,
    socket: Ready<Receiver>,
    memberships: Option<Memberships>,
    errors: SocketErrors,
    name: &'static str,
    /// Messages of the next receive call.
    messages: usize,
    /// Another socket has its place; it is closed once it is empty.
    retired: bool,
}

/// Result of [`Intake::gather`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gathered {
    /// Datagrams were added to the burst.
    Some,
    /// The kernel has no more now. Whoever may wait for more can.
    Lull,
    /// This round takes no more.
    Enough,
}

/// What the kernel counted on the sockets since they were opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketCounts {
    /// Datagrams dropped because a receive queue was full.
    pub kernel_drops: u64,
    /// Datagrams cut because they did not fit.
    pub truncated: u64,
    /// Errors about earlier datagrams (ICMP).
    pub queued_errors: u64,
}

/// The sockets of one worker. See the module text.
pub struct Intake<T> {
    rules: IntakeRules,
    inlets: Vec<Open<T>>,
    queue: Queue,
    turn: Turn,
    loss: Option<Loss>,
    rejoin_at: Instant,
    rejoins: Rejoins,
    last_input: Instant,
    /// Counts of sockets that are closed.
    closed: SocketCounts,
}

/// Where a turn over the sockets is.
#[derive(Clone, Copy, Debug, Default)]
struct Turn {
    inlet: usize,
    calls: usize,
    more: bool,
}

impl<T: Copy> Intake<T> {
    /// Registers the sockets with the runtime that it is called on. The queues may hold something already.
    ///
    /// # Errors
    /// The runtime cannot watch a socket.
    pub fn new(rules: IntakeRules, inlets: Vec<Inlet<T>>) -> io::Result<Intake<T>> {
        let now = Instant::now();
        Ok(Intake {
            rules,
            inlets: inlets.into_iter().map(|inlet| Open::new(inlet, &rules)).collect::<io::Result<_>>()?,
            queue: Queue::MayHoldMore,
            turn: Turn::default(),
            loss: None,
            rejoin_at: now + REJOIN,
            rejoins: Rejoins::default(),
            last_input: now,
            closed: SocketCounts::default(),
        })
    }

    /// `--inject-loss`: drops a share of what arrives, before anyone sees it.
    pub fn with_loss(mut self, loss: Loss) -> Intake<T> {
        self.loss = Some(loss);
        self
    }

    /// Looks at the joins also whenever the links change.
    pub fn follow(mut self, links: Feed) -> Intake<T> {
        self.rejoins.follow(links);
        self
    }

    /// What is known of the kernel's queues.
    pub fn queue(&self) -> Queue {
        self.queue
    }

    /// The queues may hold something although nothing said so.
    pub fn look_again(&mut self) {
        self.queue = match self.queue {
            Queue::Emptied { .. } => Queue::Emptied { look_again: true },
            Queue::Empty | Queue::MayHoldMore => Queue::MayHoldMore,
        };
    }

    /// The worker slept until the call that emptied the queue: it is ahead of its senders, and need not ask again.
    pub fn slept(&mut self) {
        if let Queue::Emptied { look_again } = &mut self.queue {
            *look_again = false;
        }
    }

    /// Whether sockets are open.
    pub fn is_open(&self) -> bool {
        !self.inlets.is_empty()
    }

    /// When something arrived last, or the intake was made.
    pub fn last_input(&self) -> Instant {
        self.last_input
    }

    /// Something arrived by another way.
    pub fn took_input(&mut self, now: Instant) {
        self.last_input = now;
    }

    /// From now on a queue counts as empty only when the kernel says so: for the end, when all must be taken.
    pub fn trust_no_short_call(&mut self) {
        self.rules.trust_short_calls = false;
        self.queue = Queue::MayHoldMore;
    }

    /// Completes when a socket may hold something. Pends for ever where none is open. Cancel safe.
    pub async fn ready(&mut self) {
        // A socket that fails is left alone until then.
        let try_at = self.inlets.iter().filter_map(|inlet| inlet.errors.try_at()).min();
        tokio::select! {
            biased;
            () = readable(&mut self.inlets) => {}
            () = sleep_until_if(try_at), if try_at.is_some() => {}
            () = self.rejoins.due() => self.rejoin(),
        }
        self.queue = Queue::MayHoldMore;
    }

    /// The next batch of this turn: `burst` is cleared and holds the datagrams of one receive call; returns what they came
    /// by. `None` ends the turn: every socket had its calls, or nothing more.
    pub fn next(&mut self, burst: &mut Burst) -> Option<T> {
        if self.queue != Queue::MayHoldMore {
            return None;
        }
        while let Some(inlet) = self.inlets.get_mut(self.turn.inlet) {
            if self.turn.calls < self.rules.calls {
                burst.clear();
                if inlet.take(&self.rules, burst) == Taken::Some {
                    self.turn.calls += 1;
                    self.turn.more |= self.turn.calls == self.rules.calls;
                    if let Some(loss) = &mut self.loss {
                        loss.apply(burst, 0);
                    }
                    self.last_input = Instant::now();
                    return Some(inlet.tag);
                }
            }
            let empty = self.turn.calls < self.rules.calls;
            if empty && self.inlets.get(self.turn.inlet).is_some_and(|inlet| inlet.retired) {
                self.close_one(self.turn.inlet);
                self.turn.calls = 0;
                continue;
            }
            self.turn = Turn { inlet: self.turn.inlet + 1, calls: 0, more: self.turn.more };
        }
        self.queue = if self.turn.more { Queue::MayHoldMore } else { Queue::Empty };
        self.turn = Turn::default();
        None
    }

    /// Waits for datagrams and takes the first of them, behind what `burst` holds. For an intake with one socket. Pends for
    /// ever where none is open. Cancel safe.
    pub async fn first(&mut self, burst: &mut Burst) {
        let Some(inlet) = self.inlets.first_mut() else { return pending().await };
        sleep_until_if(inlet.errors.try_at()).await;
        let (before, asked) = (burst.used_slots(), inlet.messages);
        let outcome = inlet.socket.read_with(|socket| socket.receive(burst, asked)).await;
        if inlet.judge(&self.rules, burst, outcome) != Taken::Some {
            return;
        }
        let short = self.rules.trust_short_calls && burst.used_slots() - before < asked;
        self.queue = if short { Queue::Emptied { look_again: true } } else { Queue::MayHoldMore };
    }

    /// One more receive call of this round, behind what `burst` holds. For an intake with one socket.
    pub fn gather(&mut self, burst: &mut Burst) -> Gathered {
        match self.queue {
            Queue::MayHoldMore => {}
            Queue::Emptied { look_again } => {
                self.queue = if look_again { Queue::MayHoldMore } else { Queue::Empty };
                return Gathered::Enough;
            }
            Queue::Empty => return Gathered::Enough,
        }
        let Some(inlet) = self.inlets.first_mut() else { return Gathered::Enough };
        if burst.free_slots() == 0 || burst.arrivals().len() >= self.rules.round {
            return Gathered::Enough;
        }
        let (before, asked) = (burst.used_slots(), inlet.messages.min(burst.free_slots()));
        match inlet.take(&self.rules, burst) {
            Taken::Some => {
                if self.rules.trust_short_calls && burst.used_slots() - before < asked {
                    self.queue = Queue::Empty;
                }
                Gathered::Some
            }
            Taken::Nothing => {
                self.queue = Queue::Empty;
                Gathered::Lull
            }
            Taken::NoRoom => Gathered::Enough,
        }
    }

    /// Looks at the joins when that is due.
    pub fn upkeep(&mut self, now: Instant) {
        if now >= self.rejoin_at {
            self.rejoin_at = now + REJOIN;
            self.rejoin();
        }
    }

    /// Opens again what is not joined any more. What the old sockets hold is still taken.
    fn rejoin(&mut self) {
        if self.inlets.iter().all(|inlet| inlet.memberships.is_none()) {
            return;
        }
        let table = JoinTable::read().ok();
        let mut lacks = false;
        for at in 0..self.inlets.len() {
            let inlet = &self.inlets[at];
            let Some(memberships) = inlet.memberships.as_ref().filter(|_| !inlet.retired) else { continue };
            match standing(memberships, inlet.socket.get_ref(), table.as_ref()) {
                Standing::Joined => {}
                // The news that it is there again comes.
                Standing::NoInterface => {}
                Standing::Lapsed => match self.open_again(at) {
                    Ok(()) => {}
                    Err(error) => {
                        lacks = true;
                        crate::limited!(error, 1, "joining again failed: {error:#}; tried again");
                    }
                },
            }
        }
        self.rejoins.done(lacks, Instant::now());
    }

    fn open_again(&mut self, at: usize) -> anyhow::Result<()> {
        let Some(inlet) = self.inlets.get_mut(at) else { return Ok(()) };
        let Some(memberships) = &inlet.memberships else { return Ok(()) };
        let Joined { receiver, memberships } = memberships.open_again()?;
        let (on, groups) = (memberships.interface(), memberships.joins().len());
        tracing::warn!("{}: {groups} groups joined again on {} (number {})", inlet.name, on.name, on.index);
        let new = Inlet { tag: inlet.tag, name: inlet.name, receiver, memberships: Some(memberships) };
        let new = Open::new(new, &self.rules)?;
        inlet.retired = true;
        self.inlets.push(new);
        Ok(())
    }

    /// Another socket takes the place of the first: it was bound to an address that is gone. What the old one holds is still
    /// taken.
    ///
    /// # Errors
    /// The runtime cannot watch it.
    pub fn replace(&mut self, receiver: Receiver) -> io::Result<()> {
        let Some(inlet) = self.inlets.iter_mut().find(|inlet| !inlet.retired) else { return Ok(()) };
        let new = Inlet { tag: inlet.tag, name: inlet.name, receiver, memberships: None };
        let new = Open::new(new, &self.rules)?;
        inlet.retired = true;
        self.inlets.push(new);
        self.look_again();
        Ok(())
    }

    fn close_one(&mut self, at: usize) {
        let inlet = self.inlets.remove(at);
        let (closed, socket) = (&mut self.closed, inlet.socket.get_ref());
        closed.kernel_drops += socket.kernel_drops();
        closed.truncated += socket.truncated();
        closed.queued_errors += socket.queued_errors();
    }

    /// What comes from now on goes to the other sockets on the port, those of a process that takes over; what is queued here
    /// is still taken.
    pub fn withdraw(&mut self) {
        for inlet in &self.inlets {
            // Where the kernel does not let it, closing is all there is.
            let _ = inlet.socket.get_ref().withdraw();
        }
        self.queue = Queue::MayHoldMore;
    }

    /// Closes the sockets. Their last counts stay.
    pub fn close(&mut self) {
        self.closed = self.counts();
        self.inlets.clear();
        self.queue = Queue::Empty;
    }

    /// The sockets, by what comes in by them: for what is sent from them.
    pub fn sockets(&self) -> impl Iterator<Item = (T, &Receiver)> {
        self.inlets.iter().filter(|inlet| !inlet.retired).map(|inlet| (inlet.tag, inlet.socket.get_ref()))
    }

    /// What the kernel counted. One system call a socket.
    pub fn counts(&self) -> SocketCounts {
        let sockets = || self.inlets.iter().map(|inlet| inlet.socket.get_ref());
        SocketCounts {
            kernel_drops: self.closed.kernel_drops + sockets().map(Receiver::kernel_drops).sum::<u64>(),
            truncated: self.closed.truncated + sockets().map(Receiver::truncated).sum::<u64>(),
            queued_errors: self.closed.queued_errors + sockets().map(Receiver::queued_errors).sum::<u64>(),
        }
    }

    /// Datagrams that `--inject-loss` dropped.
    pub fn dropped_on_purpose(&self) -> u64 {
        self.loss.as_ref().map_or(0, Loss::dropped)
    }

    /// A whole thread that does nothing but take: every batch goes to `take`, until `stop` completes.
    pub async fn run(mut self, mut burst: Burst, stop: impl Future, mut take: impl FnMut(T, &Burst)) {
        let mut stop = std::pin::pin!(stop);
        loop {
            let upkeep = self.rejoin_at;
            tokio::select! {
                biased;
                _ = &mut stop => return,
                () = self.ready() => {}
                () = tokio::time::sleep_until(upkeep.into()) => {}
            }
            while let Some(tag) = self.next(&mut burst) {
                take(tag, &burst);
            }
            self.upkeep(Instant::now());
        }
    }
}

/// Outcome of one receive call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Some,
    Nothing,
    /// The burst has no free slot.
    NoRoom,
}

impl<T> Open<T> {
    fn new(inlet: Inlet<T>, rules: &IntakeRules) -> io::Result<Open<T>> {
        Ok(Open {
            tag: inlet.tag,
            socket: Ready::new(inlet.receiver)?,
            memberships: inlet.memberships,
            errors: SocketErrors::of(inlet.name),
            name: inlet.name,
            messages: rules.messages,
            retired: false,
        })
    }

    /// One receive call that does not wait.
    fn take(&mut self, rules: &IntakeRules, burst: &mut Burst) -> Taken {
        if self.errors.try_at().is_some_and(|at| Instant::now() < at) {
            return Taken::Nothing;
        }
        let messages = self.messages;
        let outcome = self.socket.try_read(|socket| socket.receive(burst, messages));
        self.judge(rules, burst, outcome)
    }

    fn judge(&mut self, rules: &IntakeRules, burst: &Burst, outcome: io::Result<usize>) -> Taken {
        match outcome {
            Ok(0) => Taken::NoRoom,
            Ok(_) => {
                self.errors.worked();
                let train = burst.arrivals().len() / burst.used_slots().max(1);
                self.messages = (rules.datagrams / train.max(1)).clamp(1, rules.messages);
                Taken::Some
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.errors.worked();
                Taken::Nothing
            }
            Err(error) => {
                self.errors.failed(Instant::now(), &error);
                Taken::Nothing
            }
        }
    }
}

/// Ready when a socket that does not fail may be readable.
async fn readable<T>(inlets: &mut [Open<T>]) {
    poll_fn(|context| {
        let mut ready = Poll::Pending;
        for inlet in inlets.iter_mut().filter(|inlet| inlet.errors.try_at().is_none()) {
            match inlet.socket.poll_readable(context) {
                // A socket in error is readable too: the read says what is wrong.
                Poll::Ready(Ok(())) => ready = Poll::Ready(()),
                Poll::Ready(Err(error)) => {
                    inlet.errors.failed(Instant::now(), &error);
                    ready = Poll::Ready(());
                }
                Poll::Pending => {}
            }
        }
        ready
    })
    .await;
}

/// Completes then; at once, without a time.
async fn sleep_until_if(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at.into()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use multicast_io::SocketOptions;
    use std::net::UdpSocket;

    fn inlet(tag: u8) -> (Inlet<u8>, UdpSocket) {
        let receiver = Receiver::open(&SocketOptions::new("127.0.0.1:0".parse().unwrap())).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        (Inlet { tag, name: "a test socket", receiver, memberships: None }, sender)
    }

    #[tokio::test]
    async fn a_turn_gives_every_socket_its_calls_and_says_whether_there_may_be_more() {
        let ((first, to_first), (second, to_second)) = (inlet(1), inlet(2));
        let rules = IntakeRules { messages: 2, calls: 2, ..IntakeRules::default() };
        let mut intake = Intake::new(rules, vec![first, second]).unwrap();
        for _ in 0..5 {
            to_first.send(b"flood").unwrap();
        }
        to_second.send(b"single").unwrap();
        let mut burst = Burst::new(2, 0);
        intake.ready().await;
        let mut took = Vec::new();
        while let Some(tag) = intake.next(&mut burst) {
            took.push((tag, burst.arrivals().len()));
        }
        assert_eq!(took, [(1, 2), (1, 2), (2, 1)]);
        assert_eq!(intake.queue(), Queue::MayHoldMore);
        assert_eq!(intake.next(&mut burst), Some(1));
        assert_eq!(intake.next(&mut burst), None);
        assert_eq!(intake.queue(), Queue::Empty);
    }

    #[tokio::test]
    async fn a_round_gathers_several_calls_and_ends_at_its_bound() {
        let (only, sender) = inlet(0);
        let rules = IntakeRules { messages: 2, round: 4, trust_short_calls: true, ..IntakeRules::default() };
        let mut intake = Intake::new(rules, vec![only]).unwrap();
        for _ in 0..7 {
            sender.send(b"frame").unwrap();
        }
        let mut burst = Burst::new(16, 0);
        intake.first(&mut burst).await;
        assert_eq!((burst.arrivals().len(), intake.queue()), (2, Queue::MayHoldMore));
        assert_eq!(intake.gather(&mut burst), Gathered::Some);
        assert_eq!(intake.gather(&mut burst), Gathered::Enough);
        burst.clear();
        assert_eq!(intake.gather(&mut burst), Gathered::Some);
        assert_eq!(intake.gather(&mut burst), Gathered::Some);
        assert_eq!(burst.arrivals().len(), 3);
        assert_eq!((intake.gather(&mut burst), intake.queue()), (Gathered::Enough, Queue::Empty));
    }

    #[tokio::test]
    async fn a_short_call_empties_the_queue_and_who_did_not_sleep_looks_again() {
        let (only, sender) = inlet(0);
        let rules = IntakeRules { trust_short_calls: true, ..IntakeRules::default() };
        let mut intake = Intake::new(rules, vec![only]).unwrap();
        let mut burst = Burst::new(8, 0);
        sender.send(b"one").unwrap();
        intake.first(&mut burst).await;
        assert_eq!(intake.queue(), Queue::Emptied { look_again: true });
        assert_eq!((intake.gather(&mut burst), intake.queue()), (Gathered::Enough, Queue::MayHoldMore));
        assert_eq!((intake.gather(&mut burst), intake.queue()), (Gathered::Lull, Queue::Empty));
        sender.send(b"two").unwrap();
        intake.first(&mut burst).await;
        intake.slept();
        assert_eq!((intake.gather(&mut burst), intake.queue()), (Gathered::Enough, Queue::Empty));
    }

    #[tokio::test]
    async fn closed_sockets_keep_their_counts_and_bring_nothing() {
        let (only, _sender) = inlet(0);
        let mut intake = Intake::new(IntakeRules::default(), vec![only]).unwrap();
        intake.close();
        assert!(!intake.is_open());
        assert_eq!(intake.counts(), SocketCounts::default());
        let mut burst = Burst::new(1, 0);
        assert_eq!((intake.next(&mut burst), intake.gather(&mut burst)), (None, Gathered::Enough));
    }
}
