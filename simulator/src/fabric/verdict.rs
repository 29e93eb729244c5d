//! What must hold of a whole world, and when it is over.

use super::environment::Environment;
use super::evidence::INGRESS;
use super::fleet::Fleet;
use super::history::IdHistory;
use super::node::Node;
use super::summary::Summary;
use std::time::Duration;

/// Why a consumer must still get an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owed {
    /// This listener must deliver it.
    By(usize),
    /// Nobody can tell it: the sender died before its digest, all that came of the flow got lost, no position names it, and
    /// endpoints do not speak for others.
    Unheard,
}

/// Nothing is under way any more, and nothing is missing; `late`: but for what nobody can have heard of.
pub(super) fn is_done(fleet: &mut Fleet, environment: &Environment, late: bool) -> bool {
    let Fleet { nodes, proxies, listeners, .. } = fleet;
    for proxy in proxies {
        let node = nodes[proxy.worker.node];
        if node.alive && !(node.accepting && proxy.is_idle()) {
            return false;
        }
    }
    for listener in listeners {
        let node = nodes[listener.worker.node];
        if node.alive && !(node.accepting && listener.is_idle()) {
            return false;
        }
    }
    (0..fleet.consumers.len()).all(|consumer| {
        (0..environment.evidence.ids()).all(|id| {
            !environment.evidence.history(1 + consumer, id).passages.is_empty()
                || owed(fleet, environment, consumer, id).is_none_or(|owed| owed == Owed::Unheard && late)
        })
    })
}

/// Checks what can be said only at the end, and adds up what happened.
pub(super) fn conclude(fleet: &mut Fleet, environment: &mut Environment, summary: &mut Summary) {
    for proxy in &mut fleet.proxies {
        if fleet.nodes[proxy.worker.node].alive {
            proxy.check_rest(&mut environment.context);
        }
    }
    for listener in &mut fleet.listeners {
        if fleet.nodes[listener.worker.node].alive {
            listener.check_rest(&mut environment.context);
        }
    }
    check_proxies(fleet, environment);
    for gate in 0..environment.evidence.gates.len() {
        check_once(fleet, environment, gate);
    }
    for consumer in 0..fleet.consumers.len() {
        check_delivered(fleet, environment, consumer, summary);
    }
    count_up(fleet, environment, summary);
}

/// What a process received and did not lose by dying left by somebody, or was counted as dropped.
fn check_proxies(fleet: &Fleet, environment: &mut Environment) {
    let Environment { context, evidence, .. } = environment;
    for (number, node) in fleet.nodes.iter().enumerate() {
        let workers = fleet.proxies.iter().filter(|proxy| proxy.worker.node == number && node.ended_well());
        let mut owed: Vec<usize> = workers
            .clone()
            .flat_map(|proxy| proxy.received.iter().copied())
            .filter(|&id| {
                let history = evidence.history(INGRESS, id);
                history.passages.is_empty() && !history.unreleased
            })
            .collect();
        owed.sort_unstable();
        owed.dedup();
        let dropped: u64 = workers.map(|proxy| proxy.dropped()).sum();
        if owed.len() as u64 > dropped {
            context.violation(&format!(
                "node {number} received {owed:?} and nobody sent them; it counted {dropped} drops"
            ));
        }
    }
}

/// Each id once, but for what faults and bounds explain.
fn check_once(fleet: &Fleet, environment: &mut Environment, gate: usize) {
    let Environment { context, config, evidence, .. } = environment;
    let alive = workers_at(fleet, gate).filter(|&who| fleet.nodes[fleet.worker(who).node].alive);
    let undecided = evidence.gates[gate].undecided + alive.map(|who| fleet.undecided(who)).sum::<u64>();
    let ours = nodes_at(fleet, gate);
    let horizon = if gate == INGRESS { config.proxy.horizon } else { Duration::MAX };
    let horizon = u64::try_from(horizon.as_micros()).unwrap_or(u64::MAX);
    let of_gate = &evidence.gates[gate];
    let unexplained = |history: &IdHistory| {
        history.unexplained(&evidence.faults, of_gate.reach, horizon, |node| ours.contains(&node)) as u64
    };
    let counts: Vec<u64> = of_gate.histories.iter().map(unexplained).collect();
    let sum: u64 = counts.iter().sum();
    if sum > undecided {
        let id = counts.iter().position(|count| *count > 0).unwrap_or(0);
        let passages = &of_gate.histories[id].passages;
        context.violation(&format!(
            "gate {gate}: {sum} duplicates that no fault explains and {undecided} let through undecided; id {id} passed at \
             {passages:?}"
        ));
    }
}

fn workers_at(fleet: &Fleet, gate: usize) -> impl Iterator<Item = usize> {
    (0..fleet.workers()).filter(move |&who| fleet.worker(who).gate == gate)
}

fn nodes_at(fleet: &Fleet, gate: usize) -> Vec<usize> {
    workers_at(fleet, gate).map(|who| fleet.worker(who).node).collect()
}

/// What was sent while a listener of the consumer lived, and lives on, has arrived.
fn check_delivered(fleet: &mut Fleet, environment: &mut Environment, consumer: usize, summary: &mut Summary) {
    for id in 0..environment.evidence.ids() {
        if !environment.evidence.history(1 + consumer, id).passages.is_empty() {
            continue;
        }
        match owed(fleet, environment, consumer, id) {
            Some(Owed::By(number)) => environment.context.violation(&format!(
                "id {id} was sent and never came to consumer {consumer} of listener {number}"
            )),
            Some(Owed::Unheard) => summary.unheard += 1,
            None => summary.unserved += u64::from(!environment.evidence.whole(id).is_empty()),
        }
    }
}

/// Whether a consumer must get an id that it did not.
fn owed(fleet: &mut Fleet, environment: &Environment, consumer: usize, id: usize) -> Option<Owed> {
    let Environment { config, evidence, .. } = environment;
    if evidence.history(1 + consumer, id).unreleased {
        return None;
    }
    let Fleet { nodes, listeners, .. } = fleet;
    // Of flows that look older than it, and whose position nobody had kept, a listener asks for a fixed number of
    // frames, counts them, and says for its siblings from where on it has all.
    let mut counted = evidence.gates[1 + consumer].without_position > 0;
    for listener in listeners.iter_mut().filter(|listener| listener.consumer == consumer) {
        counted |= listener.without_position() > 0;
    }
    let mut excused = None;
    for (number, listener) in listeners.iter().enumerate() {
        let node = nodes[listener.worker.node];
        if listener.consumer != consumer || !node.survives() {
            continue;
        }
        let since = match (counted, config.listener.small_head < 64) {
            (false, _) => 0,
            (true, false) => node.born,
            (true, true) => u64::MAX,
        };
        for whole in evidence.whole(id).iter().filter(|whole| whole.at >= since) {
            let unheard = whole.keys.iter().any(|key| !listener.heard.contains_key(key));
            if config.endpoints.announces || !unheard || !has_ended(nodes[whole.node], whole.at) {
                return Some(Owed::By(number));
            }
            excused = Some(Owed::Unheard);
        }
    }
    excused
}

/// The life of the node that sent at `at` is over.
fn has_ended(node: Node, at: u64) -> bool {
    !node.alive || node.born > at
}

fn count_up(fleet: &mut Fleet, environment: &Environment, summary: &mut Summary) {
    let evidence = &environment.evidence;
    for (number, gate) in evidence.gates.iter().enumerate() {
        let ours = nodes_at(fleet, number);
        let passed = gate.histories.iter().filter(|history| !history.passages.is_empty()).count() as u64;
        let again = |history: &IdHistory| history.passages.len().saturating_sub(1) as u64;
        let again: u64 = gate.histories.iter().map(again).sum();
        if number == INGRESS {
            (summary.sent, summary.sent_again) = (passed, again);
        } else {
            summary.delivered += passed;
            summary.delivered_again += again;
        }
        for fault in &evidence.faults {
            let covers = |history: &&IdHistory| {
                history.is_covered(fault, gate.reach) && (fault.forgets() || ours.contains(&fault.node))
            };
            summary.covered += gate.histories.iter().filter(covers).count() as u64;
        }
    }
    for listener in &mut fleet.listeners {
        let counts = listener.pipeline.counts();
        summary.probes += counts.tail_probes;
        summary.repaired += counts.recovered;
    }
}
