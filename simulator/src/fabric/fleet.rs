//! The processes of a world, their workers, and the consumers behind them: rounds, crashes, returns and orderly stops.

use super::consumer::Consumer;
use super::environment::Environment;
use super::event::Event;
use super::evidence::INGRESS;
use super::listener::Listener;
use super::node::Node;
use super::plan::WorldPlan;
use super::proxy::{Proxy, local_set};
use super::worker::Worker;
use crate::MS;
use crate::context::Context;
use crate::timeline::{ANY, Scheduled};
use txidset::Claims;

/// `--drain-timeout`, and when it is half over.
const DRAIN: u64 = 600 * MS;

/// See the module text. Workers are numbered: those of proxies, then the listeners.
pub(super) struct Fleet {
    pub(super) nodes: Vec<Node>,
    pub(super) proxies: Vec<Proxy>,
    pub(super) listeners: Vec<Listener>,
    pub(super) consumers: Vec<Consumer>,
}

impl Fleet {
    /// Starts everything that a plan names.
    pub(super) fn start(environment: &mut Environment, plan: &WorldPlan) -> Fleet {
        let nodes: Vec<Node> = (0..plan.nodes()).map(|_| Node::new(0, 0)).collect();
        let mut proxies = Vec::new();
        for node in 0..plan.proxies {
            let local = local_set(environment);
            for number in 0..plan.workers {
                let worker = Worker::new(proxies.len(), node, INGRESS);
                let number = u16::try_from(number).unwrap_or(0);
                proxies.push(Proxy::start(environment, &local, worker, number));
            }
        }
        let mut listeners = Vec::new();
        for (number, &consumer) in plan.consumers_of.iter().enumerate() {
            let node = plan.proxies + number;
            let worker = Worker::new(proxies.len() + number, node, 1 + consumer);
            listeners.push(Listener::start(environment, &nodes[node], worker, number, consumer));
        }
        Fleet { nodes, proxies, listeners, consumers: vec![Consumer::default(); plan.consumers()] }
    }

    /// How many workers there are.
    pub(super) fn workers(&self) -> usize {
        self.proxies.len() + self.listeners.len()
    }

    pub(super) fn worker(&self, who: usize) -> &Worker {
        match who.checked_sub(self.proxies.len()) {
            None => &self.proxies[who].worker,
            Some(listener) => &self.listeners[listener].worker,
        }
    }

    fn worker_mut(&mut self, who: usize) -> &mut Worker {
        self.worker_and_claims(who).0
    }

    fn worker_and_claims(&mut self, who: usize) -> (&mut Worker, Option<&mut Claims>) {
        match who.checked_sub(self.proxies.len()) {
            None => {
                let Proxy { worker, ingress, .. } = &mut self.proxies[who];
                (worker, Some(ingress.claims()))
            }
            Some(listener) => {
                let Listener { worker, pipeline, .. } = &mut self.listeners[listener];
                (worker, pipeline.claims_mut())
            }
        }
    }

    /// Numbers of a node's workers.
    pub(super) fn workers_of(&self, node: usize) -> Vec<usize> {
        (0..self.workers()).filter(|&who| self.worker(who).node == node).collect()
    }

    /// No claim of a proxy stays open.
    pub(super) fn check_open_claims(&mut self, context: &mut Context<Event>) {
        for proxy in self.proxies.iter_mut().filter(|proxy| self.nodes[proxy.worker.node].alive) {
            proxy.check_open_claims(context);
        }
    }

    /// The listener that a node is, if it is one.
    pub(super) fn listener_at(&self, node: usize) -> Option<usize> {
        self.listeners.iter().position(|listener| listener.worker.node == node)
    }

    /// Frames that a worker let through undecided.
    pub(super) fn undecided(&self, who: usize) -> u64 {
        match who.checked_sub(self.proxies.len()) {
            None => self.proxies[who].undecided(),
            Some(listener) => self.listeners[listener].undecided(),
        }
    }

    // What happens to a worker.

    /// Something comes to a worker: at once, or when its process can take it, or never.
    pub(super) fn happen(&mut self, environment: &mut Environment, next: Scheduled<Event>) {
        let node = &self.nodes[self.worker(next.who).node];
        if next.incarnation != ANY && next.incarnation != node.incarnation || !node.alive {
            return;
        }
        let now = environment.context.now;
        let busy = self.worker(next.who).busy_until.filter(|_| !matches!(next.event, Event::Resume));
        if let (Some(_), Event::Reply { .. }) = (busy, &next.event) {
            return self.worker_mut(next.who).keep_answer(next);
        }
        // The kernel's queue takes a datagram at any time.
        let queued = matches!(next.event, Event::Arrive(_) | Event::Datagram(_));
        if node.paused_until > now || busy.is_some() && !queued {
            // The kernel keeps it for the process.
            let later = busy.unwrap_or(0).max(node.paused_until).max(now);
            return environment.context.timeline.push(later, next.who, next.incarnation, next.event);
        }
        self.take(environment, next.who, next.event);
    }

    fn take(&mut self, environment: &mut Environment, who: usize, event: Event) {
        let context = &mut environment.context;
        let now = context.instant();
        let round = match event {
            Event::Arrive(id) => {
                let proxy = &mut self.proxies[who];
                proxy.receive(context, &self.nodes[proxy.worker.node], id);
                false
            }
            Event::Datagram(arrived) => {
                let listener = &mut self.listeners[who - self.proxies.len()];
                listener.receive(context, &self.nodes[listener.worker.node], arrived);
                false
            }
            Event::Digest { from, bytes } => {
                self.listeners[who - self.proxies.len()].receive_digest(now, from, &bytes)
            }
            Event::Advert(advert) => {
                self.listeners[who - self.proxies.len()].receive_advert(now, &advert);
                false
            }
            Event::Round => true,
            Event::Resume => return self.resume(environment, who),
            Event::Timer { at } => self.worker_mut(who).take_timer(at),
            Event::Reply { connection, number, answer } => {
                let (worker, claims) = self.worker_and_claims(who);
                worker.reply(context, claims, (connection, number), *answer)
            }
            Event::Deadline { number, kind } => {
                let (worker, claims) = self.worker_and_claims(who);
                worker.expire(context, claims, number, kind)
            }
            _ => false,
        };
        if round {
            self.round(environment, who);
        }
    }

    /// A request of a worker has come to the store.
    pub(super) fn execute(&self, environment: &mut Environment, next: &Scheduled<Event>) {
        let Event::Execute { connection, number, ask } = &next.event else { return };
        let worker = self.worker(next.who);
        let node = &self.nodes[worker.node];
        worker.execute(environment, node, next.incarnation, (*connection, *number), ask);
    }

    /// A round: what came is taken, and the round goes on until it is over or has to wait.
    pub(super) fn round(&mut self, environment: &mut Environment, who: usize) {
        match who.checked_sub(self.proxies.len()) {
            None => self.proxies[who].begin(environment),
            Some(listener) => self.listeners[listener].begin(&environment.context),
        }
        self.commit(environment, who);
    }

    /// A round that had to wait goes on; now and then more has come meanwhile.
    fn resume(&mut self, environment: &mut Environment, who: usize) {
        self.worker_mut(who).busy_until = None;
        if who < self.proxies.len() && environment.context.random.percent(30) {
            self.proxies[who].begin(environment);
        }
        self.commit(environment, who);
    }

    fn commit(&mut self, environment: &mut Environment, who: usize) {
        let Fleet { nodes, proxies, listeners, .. } = self;
        let (done, worker) = match who.checked_sub(proxies.len()) {
            None => {
                let proxy = &mut proxies[who];
                (proxy.commit(environment, &nodes[proxy.worker.node]), &mut proxy.worker)
            }
            Some(listener) => {
                let listener = &mut listeners[listener];
                (listener.commit(environment, &nodes[listener.worker.node]), &mut listener.worker)
            }
        };
        if done {
            worker.take_answers(&mut environment.context);
        }
    }

    /// From here on the connections of a node's workers give each answer to the question after it.
    pub(super) fn slip(&mut self, node: usize) {
        for who in self.workers_of(node) {
            self.worker_mut(who).calls.slipping = true;
        }
    }

    // The life of a process.

    /// kill -9; it comes back after a while, or never.
    pub(super) fn crash(&mut self, environment: &mut Environment, node: usize, restart: Option<u64>) {
        if !self.nodes[node].alive {
            return;
        }
        self.leave(environment, node);
        let context = &mut environment.context;
        if let Some(listener) = self.listener_at(node)
            && context.random.percent(50)
        {
            // What the kernel had taken dies with the host.
            self.listeners[listener].stream.cut();
        }
        if let Some(after) = restart {
            context.timeline.push(context.now + after, node, ANY, Event::Restart);
        }
    }

    /// This life of a process is over: what its workers let through undecided is added up before they are forgotten.
    fn leave(&mut self, environment: &mut Environment, node: usize) {
        for who in self.workers_of(node) {
            let gate = &mut environment.evidence.gates[self.worker(who).gate];
            gate.undecided += self.undecided(who);
            if let Some(listener) = who.checked_sub(self.proxies.len()) {
                gate.without_position += self.listeners[listener].without_position();
            }
        }
        self.nodes[node].leave();
    }

    pub(super) fn restart(&mut self, environment: &mut Environment, node: usize) {
        if self.nodes[node].alive {
            return;
        }
        environment.context.trace(|| format!("node {node} is back"));
        self.nodes[node] = Node::new(self.nodes[node].incarnation, environment.context.now);
        if let Some(listener) = self.listener_at(node) {
            self.listeners[listener].restart(environment, &self.nodes[node]);
        } else {
            let local = local_set(environment);
            for who in self.workers_of(node) {
                self.proxies[who].restart(environment, &local);
            }
        }
    }

    /// An orderly stop: nothing new is accepted, what waits is decided, the process ends a little later.
    pub(super) fn drain(&mut self, environment: &mut Environment, node: usize) {
        let Node { incarnation, paused_until, .. } = self.nodes[node];
        let context = &mut environment.context;
        if !self.nodes[node].survives() || paused_until > context.now {
            return;
        }
        self.nodes[node].accepting = false;
        context.timeline.push(context.now + DRAIN / 2, node, incarnation, Event::Decide);
        context.timeline.push(context.now + DRAIN, node, incarnation, Event::Exit);
    }

    /// Half of the time of an orderly stop is over: what waits for the store is decided.
    pub(super) fn decide(&mut self, environment: &mut Environment, node: usize, incarnation: u32) {
        if !self.is_on_time(environment, node, incarnation, Event::Decide) {
            return;
        }
        let (mut all, listener) = (true, self.listener_at(node).is_some());
        for who in self.workers_of(node) {
            let free = self.is_free(environment, who, incarnation);
            all &= free;
            if free {
                self.decide_worker(environment, who);
            }
        }
        self.nodes[node].decided |= all || listener;
    }

    fn decide_worker(&mut self, environment: &mut Environment, who: usize) {
        let now = environment.context.instant();
        match who.checked_sub(self.proxies.len()) {
            None => self.proxies[who].decide(now),
            Some(listener) => self.listeners[listener].decide(now),
        }
        self.round(environment, who);
    }

    /// `false` while the worker is in the middle of a round: it decides afterwards.
    fn is_free(&self, environment: &mut Environment, who: usize, incarnation: u32) -> bool {
        let Worker { node, busy_until, .. } = *self.worker(who);
        if let Some(busy) = busy_until {
            let context = &mut environment.context;
            context.timeline.push(busy.max(context.now), node, incarnation, Event::Decide);
        }
        busy_until.is_none()
    }

    /// The time of an orderly stop is over.
    pub(super) fn exit(&mut self, environment: &mut Environment, node: usize, incarnation: u32) {
        if !self.is_on_time(environment, node, incarnation, Event::Exit) {
            return;
        }
        let workers = self.workers_of(node);
        let now = environment.context.now;
        let again = |environment: &mut Environment, at| {
            environment.context.timeline.push(at, node, incarnation, Event::Exit);
        };
        if let Some(busy) = workers.iter().filter_map(|&who| self.worker(who).busy_until).max() {
            return again(environment, busy.max(now));
        }
        let listener = self.listener_at(node);
        if !std::mem::replace(&mut self.nodes[node].decided, true) {
            // It slept through the time for decisions.
            if listener.is_none() {
                workers.into_iter().for_each(|who| self.decide_worker(environment, who));
            }
            return again(environment, now);
        }
        if let Some(listener) = listener {
            self.listeners[listener].abandon(environment, &self.nodes[node]);
        } else {
            for &who in &workers {
                self.proxies[who].farewell(environment, &self.nodes[node]);
            }
            for &who in &workers {
                self.proxies[who].check_stopped(&mut environment.context);
            }
        }
        self.nodes[node].exited = true;
        self.leave(environment, node);
    }

    /// Whether it is that life of the process, and it is awake; if it sleeps it goes on later.
    fn is_on_time(&self, environment: &mut Environment, node: usize, incarnation: u32, event: Event) -> bool {
        let of = self.nodes[node];
        if of.incarnation != incarnation || !of.alive {
            return false;
        }
        if of.paused_until > environment.context.now {
            environment.context.timeline.push(of.paused_until + DRAIN / 2, node, incarnation, event);
            return false;
        }
        true
    }
}
