//! Faults strike; processes die, come back, and stop in order.

use super::kernel::Refusal;
use super::node::Node;
use super::world::{Event, World};
use crate::MS;
use crate::fault::{Fault, Kind};
use crate::timeline::ANY;

/// `--drain-timeout`, and when it is half over.
const DRAIN: u64 = 600 * MS;

impl World {
    pub(super) fn strike(&mut self, fault: Fault) {
        self.trace(|| format!("fault: {fault:?}"));
        let refusal = Refusal::BOTH[self.random.below(2)];
        let node = &mut self.nodes[fault.node];
        match fault.kind {
            Kind::Crash { restart } => self.crash(fault.node, restart),
            Kind::Pause => node.paused_until = node.paused_until.max(fault.end),
            Kind::Drain => self.drain(fault.node),
            Kind::RefusedSends => node.refusing = (fault.end, refusal),
            Kind::Partition { .. } | Kind::LateReplies { .. } | Kind::LateLanding { .. } | Kind::Breaker => {
                node.trouble.strike(&fault);
            }
            Kind::Slip => {
                for who in 0..self.proxies.len() + self.listeners.len() {
                    if self.node_of(who) == fault.node {
                        self.calls(who).slipping = true;
                    }
                }
            }
            Kind::Evict => self.store.evict(&mut self.random),
            Kind::Failover => self.fail_over(fault.end),
            Kind::Deaf => node.deaf_until = fault.end,
            Kind::Loss { percent } => node.losing = (fault.end, percent),
            Kind::ConsumerBreaks => {
                if let Some(listener) = self.listener_at(fault.node).filter(|_| self.nodes[fault.node].alive)
                {
                    self.break_connection(listener);
                    self.schedule(self.now, self.proxies.len() + listener, Event::Turn);
                }
            }
            Kind::ConsumerStalls => {
                if let Some(listener) = self.listener_at(fault.node) {
                    let until = &mut self.consumers[self.listeners[listener].consumer].stalled_until;
                    *until = fault.end.max(*until);
                }
            }
            // No clock on the wall here.
            Kind::ClockStep => {}
        }
    }

    fn fail_over(&mut self, until: u64) {
        self.store_down_until = until;
        for (key, id) in self.store.fail_over(self.now, &mut self.random) {
            let Some(id) = self.id_at(id) else { continue };
            // Keys of listeners begin with their consumer.
            let way = match key.first_chunk::<2>() {
                Some([b'e', consumer]) => 1 + usize::from(consumer.saturating_sub(b'0')),
                _ => 0,
            };
            if let Some(trail) = self.trails.get_mut(way).and_then(|trails| trails.get_mut(id)) {
                trail.unreleased = true;
            }
        }
    }

    fn listener_at(&self, node: usize) -> Option<usize> {
        self.listeners.iter().position(|listener| listener.node == node)
    }

    fn crash(&mut self, node: usize, restart: Option<u64>) {
        if !self.nodes[node].alive {
            return;
        }
        self.leave(node);
        if let Some(listener) = self.listener_at(node)
            && self.random.percent(50)
        {
            // What the kernel had taken dies with the host.
            self.listeners[listener].stream.cut();
        }
        if let Some(after) = restart {
            self.timeline.push(self.now + after, node, ANY, Event::Restart);
        }
    }

    fn leave(&mut self, node: usize) {
        self.note_end_of(node);
        let node = &mut self.nodes[node];
        node.alive = false;
        node.incarnation += 1;
        node.paused_until = 0;
    }

    pub(super) fn restart(&mut self, node: usize) {
        if self.nodes[node].alive {
            return;
        }
        self.trace(|| format!("node {node} is back"));
        let trouble = self.nodes[node];
        self.nodes[node] = Node::new(trouble.incarnation, self.now);
        // What is wrong around the process stays wrong.
        (self.nodes[node].deaf_until, self.nodes[node].losing) = (trouble.deaf_until, trouble.losing);
        if self.listener_at(node).is_some() {
            self.restart_listener(node);
        } else {
            self.restart_proxy(node);
        }
    }

    /// An orderly stop: nothing new is accepted, what waits is decided, the process ends a little later.
    fn drain(&mut self, node: usize) {
        if !self.nodes[node].survives() || self.nodes[node].paused_until > self.now {
            return;
        }
        self.nodes[node].accepting = false;
        let incarnation = self.nodes[node].incarnation;
        self.timeline.push(self.now + DRAIN / 2, node, incarnation, Event::Decide);
        self.timeline.push(self.now + DRAIN, node, incarnation, Event::Exit);
    }

    pub(super) fn decide(&mut self, node: usize, incarnation: u32) {
        if !self.is_on_time(node, incarnation, Event::Decide) {
            return;
        }
        let mut decided = true;
        for who in 0..self.proxies.len() {
            if self.proxies[who].node == node {
                let free = self.is_free(who, node, incarnation);
                decided &= free;
                if free {
                    self.decide_proxy(who);
                }
            }
        }
        self.nodes[node].decided |= decided;
        if let Some(listener) = self.listener_at(node)
            && self.is_free(self.proxies.len() + listener, node, incarnation)
        {
            self.decide_listener(listener);
        }
    }

    /// `false` while the worker is in the middle of a round: it decides afterwards.
    fn is_free(&mut self, who: usize, node: usize, incarnation: u32) -> bool {
        let busy = self.busy_until(who);
        if let Some(busy) = busy {
            self.timeline.push(busy.max(self.now), node, incarnation, Event::Decide);
        }
        busy.is_none()
    }

    pub(super) fn exit(&mut self, node: usize, incarnation: u32) {
        if !self.is_on_time(node, incarnation, Event::Exit) {
            return;
        }
        let workers = 0..self.proxies.len() + self.listeners.len();
        let busy = workers.filter(|&who| self.node_of(who) == node).filter_map(|who| self.busy_until(who));
        if let Some(busy) = busy.max() {
            return self.timeline.push(busy.max(self.now), node, incarnation, Event::Exit);
        }
        let proxies: Vec<usize> =
            (0..self.proxies.len()).filter(|&who| self.proxies[who].node == node).collect();
        if !std::mem::replace(&mut self.nodes[node].decided, true) {
            // It slept through the time for decisions.
            proxies.into_iter().for_each(|who| self.decide_proxy(who));
            return self.timeline.push(self.now, node, incarnation, Event::Exit);
        }
        for who in 0..self.proxies.len() {
            if self.proxies[who].node == node {
                self.farewell(who);
            }
        }
        if let Some(listener) = self.listener_at(node) {
            self.abandon(listener);
        }
        self.check_exit(node);
        self.nodes[node].exited = true;
        self.leave(node);
    }

    /// Whether it is that life of the process, and it is awake; if it sleeps it goes on later.
    fn is_on_time(&mut self, node: usize, incarnation: u32, event: Event) -> bool {
        let of = self.nodes[node];
        if of.incarnation != incarnation || !of.alive {
            return false;
        }
        if of.paused_until > self.now {
            self.timeline.push(of.paused_until + DRAIN / 2, node, incarnation, event);
            return false;
        }
        true
    }
}
