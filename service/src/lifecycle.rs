//! Start, readiness, drain: one [`Lifecycle`] per role instance, shared by its threads.
//!
//! Promises: a role is ready when all of its named conditions are met, so that `/readyz` can say *which* part is missing.
//! The drain is a one-way switch.
//!
//! Cost: `is_draining` is one relaxed load and may be asked per burst. Conditions take a lock and belong on cold paths.

use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Start, readiness and drain of one role instance. Clones share the state.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    role: &'static str,
    since: Instant,
    draining: AtomicBool,
    drain: watch::Sender<bool>,
    conditions: Mutex<Vec<ConditionState>>,
}

#[derive(Debug)]
struct ConditionState {
    name: &'static str,
    met: bool,
    /// Met, but something helps less than it should.
    degraded: bool,
    detail: String,
}

impl Shared {
    /// A poisoned list is still a list: readiness must be answered even after a panic elsewhere.
    fn conditions(&self) -> MutexGuard<'_, Vec<ConditionState>> {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lifecycle {
    /// A role that is starting: not draining, no conditions yet.
    pub fn new(role: &'static str) -> Lifecycle {
        Lifecycle {
            shared: Arc::new(Shared {
                role,
                since: Instant::now(),
                draining: AtomicBool::new(false),
                drain: watch::Sender::new(false),
                conditions: Mutex::new(Vec::new()),
            }),
        }
    }

    /// Name of the role.
    pub fn role(&self) -> &'static str {
        self.shared.role
    }

    /// Time since the role was created.
    pub fn uptime(&self) -> Duration {
        self.shared.since.elapsed()
    }

    /// A named reason for not being ready; starts as not met ("starting"). Every call adds one condition, so that each
    /// worker can hold its own of the same name. Ready = all conditions met and not draining.
    pub fn condition(&self, name: &'static str) -> Condition {
        let mut conditions = self.shared.conditions();
        conditions.push(ConditionState { name, met: false, degraded: false, detail: "starting".to_owned() });
        Condition { shared: self.shared.clone(), index: conditions.len() - 1 }
    }

    /// Whether drain has begun.
    pub fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::Relaxed)
    }

    /// The drain as a signal of its own, for a loop that waits for it again and again: true once the drain has begun.
    pub fn drain_signal(&self) -> watch::Receiver<bool> {
        self.shared.drain.subscribe()
    }

    /// Completes when drain begins (SIGTERM, SIGINT, or `begin_drain`); at once if it already has.
    pub async fn drain_began(&self) {
        let mut drain = self.shared.drain.subscribe();
        // The sender lives in `shared`, which `self` holds: waiting cannot fail.
        let _ = drain.wait_for(|draining| *draining).await;
    }

    /// Begins the drain; later calls change nothing. `readyz` says draining at once.
    pub fn begin_drain(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
        self.shared.drain.send_replace(true);
    }

    /// Whether the role is ready, whether it drains, and every condition with its detail: the body of `/readyz`. A
    /// degraded role is ready.
    pub fn readiness(&self) -> serde_json::Value {
        let draining = self.is_draining();
        let conditions = self.shared.conditions();
        let which = |wanted: fn(&ConditionState) -> bool| -> Vec<String> {
            let those = conditions.iter().filter(|condition| wanted(condition));
            those.map(|condition| format!("{}: {}", condition.name, condition.detail)).collect()
        };
        let mut reasons = which(|condition| !condition.met);
        let degraded = which(|condition| condition.met && condition.degraded);
        if draining {
            reasons.insert(0, "draining".to_owned());
        }
        let status = match (draining, reasons.is_empty()) {
            (true, _) => "draining",
            (false, true) if degraded.is_empty() => "ready",
            (false, true) => "degraded",
            (false, false) => "starting",
        };
        let conditions: Vec<_> =
            conditions.iter().map(|c| json!({ "name": c.name, "met": c.met, "detail": c.detail })).collect();
        json!({
            "status": status,
            "ready": reasons.is_empty(),
            "draining": draining,
            "role": self.shared.role,
            "reasons": reasons,
            "degraded": degraded,
            "conditions": conditions,
        })
    }

    /// All conditions met and not draining.
    pub fn is_ready(&self) -> bool {
        !self.is_draining() && self.shared.conditions().iter().all(|condition| condition.met)
    }
}

/// Setter of one condition. Clones set the same one.
#[derive(Clone, Debug)]
pub struct Condition {
    shared: Arc<Shared>,
    index: usize,
}

impl Condition {
    /// The condition holds; `detail` is shown to operators.
    pub fn met(&self, detail: &str) {
        self.set(true, false, detail);
    }

    /// The condition holds and the role is ready, but `reason` makes it serve less well: said in `/readyz`, not logged.
    pub fn degraded(&self, reason: &str) {
        self.set(true, true, reason);
    }

    /// The condition does not hold; `reason` is shown to operators.
    pub fn not_met(&self, reason: &str) {
        self.set(false, false, reason);
    }

    fn set(&self, met: bool, degraded: bool, detail: &str) {
        let mut conditions = self.shared.conditions();
        // Conditions are never removed, so the index always exists.
        if let Some(state) = conditions.get_mut(self.index)
            && (state.met != met || state.degraded != degraded || state.detail != detail)
        {
            let (role, name) = (self.shared.role, state.name);
            let draining = self.shared.draining.load(Ordering::Relaxed);
            match met {
                true if !state.met => tracing::info!(role, condition = name, detail, "condition met"),
                // While a role drains its conditions fall one after another: that is the plan, no warning.
                false if state.met && !draining => {
                    tracing::warn!(role, condition = name, detail, "condition lost")
                }
                _ => {}
            }
            (state.met, state.degraded) = (met, degraded);
            detail.clone_into(&mut state.detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_ready_when_every_condition_is_met_and_it_does_not_drain() {
        let lifecycle = Lifecycle::new("proxy");
        let joins = lifecycle.condition("joins");
        let backend = lifecycle.condition("backend");
        assert!(!lifecycle.is_ready());
        joins.met("16 groups");
        backend.met("redis");
        assert!(lifecycle.is_ready());
        backend.not_met("breaker open");
        let body = lifecycle.readiness();
        assert_eq!(body["ready"], false);
        assert_eq!(body["reasons"], json!(["backend: breaker open"]));
        backend.degraded("redis is slow");
        let body = lifecycle.readiness();
        assert_eq!((&body["ready"], &body["status"]), (&json!(true), &json!("degraded")));
        assert_eq!(body["degraded"], json!(["backend: redis is slow"]));
        backend.met("redis");
        lifecycle.begin_drain();
        assert!(!lifecycle.is_ready());
        assert_eq!(lifecycle.readiness()["status"], "draining");
    }

    #[test]
    fn conditions_of_one_name_are_separate() {
        let lifecycle = Lifecycle::new("listener");
        let (first, second) = (lifecycle.condition("worker"), lifecycle.condition("worker"));
        first.met("up");
        assert!(!lifecycle.is_ready());
        second.met("up");
        assert!(lifecycle.is_ready());
    }

    #[tokio::test]
    async fn drain_is_seen_by_those_who_wait_and_those_who_come_late() {
        let lifecycle = Lifecycle::new("retry");
        let waiting = tokio::spawn({
            let lifecycle = lifecycle.clone();
            async move { lifecycle.drain_began().await }
        });
        tokio::task::yield_now().await;
        assert!(!lifecycle.is_draining());
        lifecycle.begin_drain();
        lifecycle.begin_drain();
        waiting.await.unwrap();
        lifecycle.drain_began().await;
    }
}
