//! Start, readiness, drain: one [`Lifecycle`] per role instance, shared by its threads.
//!
//! Promises: a role is ready when no trouble stands that makes it *not ready*, so that `/readyz` can say *which* part is missing,
//! and by which code. The drain is a one-way switch.
//!
//! A role has named conditions. A condition that was never met is *starting*; that counts at once, and ends at once. Later a
//! condition may fail for a trouble of the one list ([`crate::codes!`]), and is met again. [`crate::troubles`] says from when to
//! when that is a reason, and the severity of its code what it means for readiness.
//!
//! Cost: `is_draining` is one relaxed load and may be asked per burst. Conditions take a lock and belong on cold paths.

use crate::codes::{Code, Severity};
use crate::troubles::{GOES_AFTER, HolderId, Reason, STANDS_AFTER, Troubles};
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
    conditions: Mutex<Conditions>,
    left_behind: Mutex<LeftBehind>,
}

/// What a drain could not hand over, and dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftBehind {
    /// Frames.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Flows that they belong to.
    pub flows: u64,
}

#[derive(Debug, Default)]
struct Conditions {
    /// By [`HolderId`].
    states: Vec<ConditionState>,
    troubles: Troubles,
}

#[derive(Debug)]
struct ConditionState {
    name: &'static str,
    /// It was met, or degraded, at least once.
    started: bool,
    /// No trouble is raised that makes the role not ready.
    met: bool,
    detail: String,
}

impl Conditions {
    fn name(&self, HolderId(index): HolderId) -> &'static str {
        self.states.get(index).map_or("", |state| state.name)
    }

    fn is_ready(&self, now: Instant) -> bool {
        self.troubles.standing(now).all(|reason| reason.code.severity() == Severity::Degraded)
    }

    /// Reasons of one severity as people read them.
    fn texts(&self, now: Instant, severity: Severity) -> Vec<String> {
        let those = self.troubles.standing(now).filter(|reason| reason.code.severity() == severity);
        those.map(|reason| format!("{}: {}", self.name(reason.holder), reason.detail)).collect()
    }
}

impl Shared {
    /// A poisoned list is still a list: readiness must be answered even after a panic elsewhere.
    fn conditions(&self) -> MutexGuard<'_, Conditions> {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The clock of reasons. In a test whose runtime is paused it is the runtime's.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
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
                conditions: Mutex::default(),
                left_behind: Mutex::default(),
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

    /// A named part of the role; not met as yet ("starting"). Every call adds one condition, so that each worker can hold its
    /// own of the same name.
    pub fn condition(&self, name: &'static str) -> Condition {
        let mut conditions = self.shared.conditions();
        let (detail, holder) = ("starting", HolderId(conditions.states.len()));
        conditions.states.push(ConditionState {
            name,
            started: false,
            met: false,
            detail: detail.to_owned(),
        });
        conditions.troubles.raise(now(), holder, Code::Starting, detail, Duration::ZERO);
        Condition { shared: self.shared.clone(), holder }
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

    /// The drain of one thread dropped frames: the role did not drain.
    pub fn leave_behind(&self, frames: u64, bytes: u64, flows: u64) {
        let mut left = self.shared.left_behind.lock().unwrap_or_else(PoisonError::into_inner);
        left.frames += frames;
        left.bytes += bytes;
        left.flows += flows;
    }

    /// What the drain dropped so far.
    pub fn left_behind(&self) -> LeftBehind {
        *self.shared.left_behind.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the role is ready, whether it drains, the reasons that stand, and every condition with its detail: the body of
    /// `/readyz`. A degraded role is ready.
    pub fn readiness(&self) -> serde_json::Value {
        let (draining, now) = (self.is_draining(), now());
        let conditions = self.shared.conditions();
        let mut reasons = conditions.texts(now, Severity::NotReady);
        let degraded = conditions.texts(now, Severity::Degraded);
        let drains = draining.then(|| reason_json(Code::Draining, "", "draining", None));
        let standing = conditions.troubles.standing(now).map(|reason| {
            let Reason { holder, code, detail, since } = reason;
            reason_json(code, conditions.name(holder), detail, Some(now.saturating_duration_since(since)))
        });
        let codes: Vec<_> = drains.into_iter().chain(standing).collect();
        if draining {
            reasons.insert(0, "draining".to_owned());
        }
        let started = conditions.states.iter().all(|state| state.started);
        let status = match (draining, reasons.is_empty()) {
            (true, _) => "draining",
            (false, true) if degraded.is_empty() => "ready",
            (false, true) => "degraded",
            (false, false) if started => "not_ready",
            (false, false) => "starting",
        };
        let states = conditions.states.iter();
        let conditions: Vec<_> =
            states.map(|c| json!({ "name": c.name, "met": c.met, "detail": c.detail })).collect();
        json!({
            "status": status,
            "ready": reasons.is_empty(),
            "draining": draining,
            "role": self.shared.role,
            "reasons": reasons,
            "degraded": degraded,
            "codes": codes,
            "conditions": conditions,
        })
    }

    /// No reason stands that makes the role not ready, and it does not drain.
    pub fn is_ready(&self) -> bool {
        !self.is_draining() && self.shared.conditions().is_ready(now())
    }

    /// Whether a reason of this code stands.
    pub fn stands(&self, code: Code) -> bool {
        let drains = code == Code::Draining && self.is_draining();
        drains || self.shared.conditions().troubles.standing(now()).any(|reason| reason.code == code)
    }

    /// Tells the log which reasons came to stand and which went. Called about once a second.
    pub fn tell_reasons(&self) {
        // While a role drains its conditions fall one after another: that is the plan, no warning.
        if self.is_draining() {
            return;
        }
        let mut conditions = self.shared.conditions();
        let changes = conditions.troubles.changes(now());
        // A start is told where it happens.
        for change in changes.into_iter().filter(|change| change.code != Code::Starting) {
            let (role, condition, code) =
                (self.shared.role, conditions.name(change.holder), change.code.name());
            let (sentence, detail) = (change.code.sentence(), change.detail);
            match (change.stands, change.code.severity()) {
                (true, Severity::NotReady) => {
                    tracing::warn!(role, condition, code, detail, "not ready: {sentence}");
                }
                (true, Severity::Degraded) => {
                    tracing::warn!(role, condition, code, detail, "degraded: {sentence}");
                }
                (false, _) => tracing::info!(role, condition, code, "no more: {sentence}"),
            }
        }
    }
}

/// One reason on the pages. `lasted`: since its state began.
fn reason_json(code: Code, condition: &str, detail: &str, lasted: Option<Duration>) -> serde_json::Value {
    json!({
        "code": code.name(),
        "severity": code.severity().name(),
        "sentence": code.sentence(),
        "condition": condition,
        "detail": detail,
        "seconds": lasted.map(|lasted| lasted.as_secs_f64()),
    })
}

/// Setter of one condition. Clones set the same one.
#[derive(Clone, Debug)]
pub struct Condition {
    shared: Arc<Shared>,
    holder: HolderId,
}

impl Condition {
    /// The condition holds; `detail` is shown to operators.
    pub fn met(&self, detail: &str) {
        let mut conditions = self.shared.conditions();
        let Conditions { states, troubles } = &mut *conditions;
        // Conditions are never removed, so the index always exists.
        let Some(state) = states.get_mut(self.holder.0) else { return };
        let linger = if state.started { GOES_AFTER } else { Duration::ZERO };
        troubles.clear(now(), self.holder, None, linger);
        if !state.started {
            tracing::info!(role = self.shared.role, condition = state.name, detail, "condition met");
        }
        (state.started, state.met) = (true, true);
        state.tell(detail);
    }

    /// The condition does not hold, or helps less than it should, for this trouble; `detail` is shown to operators. A role
    /// whose condition was never met is *starting* with that detail at once.
    pub fn fails(&self, code: Code, detail: &str) {
        let mut conditions = self.shared.conditions();
        let Conditions { states, troubles } = &mut *conditions;
        let Some(state) = states.get_mut(self.holder.0) else { return };
        let degraded = code.severity() == Severity::Degraded;
        let delay = if state.started || degraded { STANDS_AFTER } else { Duration::ZERO };
        let linger = if state.started { GOES_AFTER } else { Duration::ZERO };
        let now = now();
        troubles.clear(now, self.holder, Some(code), linger);
        troubles.raise(now, self.holder, code, detail, delay);
        state.started |= degraded;
        state.met = degraded;
        state.tell(detail);
    }
}

impl ConditionState {
    fn tell(&mut self, detail: &str) {
        if self.detail != detail {
            detail.clone_into(&mut self.detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_role_is_ready_when_every_condition_was_met_and_it_does_not_drain() {
        let lifecycle = Lifecycle::new("proxy");
        let joins = lifecycle.condition("joins");
        let store = lifecycle.condition("store");
        assert!(!lifecycle.is_ready());
        assert_eq!(lifecycle.readiness()["status"], "starting");
        assert_eq!(lifecycle.readiness()["codes"][0]["code"], "node.starting");
        joins.met("16 groups");
        store.met("redis");
        assert!(lifecycle.is_ready(), "a start is over at once");
        store.fails(Code::StoreUnreachable, "redis is slow");
        assert_eq!(lifecycle.readiness()["status"], "ready", "a moment is no reason");
        tokio::time::advance(STANDS_AFTER).await;
        let body = lifecycle.readiness();
        assert_eq!((&body["ready"], &body["status"]), (&json!(true), &json!("degraded")));
        assert_eq!(body["degraded"], json!(["store: redis is slow"]));
        assert_eq!(body["codes"][0]["code"], "store.unreachable");
        assert!(lifecycle.stands(Code::StoreUnreachable));
        store.met("redis");
        lifecycle.begin_drain();
        assert!(!lifecycle.is_ready() && lifecycle.stands(Code::Draining));
        assert_eq!(lifecycle.readiness()["status"], "draining");
    }

    #[tokio::test(start_paused = true)]
    async fn a_consumer_that_is_gone_for_a_moment_takes_no_node_out_of_service() {
        let lifecycle = Lifecycle::new("listener");
        let consumer = lifecycle.condition("consumer");
        consumer.fails(Code::ConsumerRefused, "not connected");
        let body = lifecycle.readiness();
        assert_eq!((&body["status"], &body["ready"]), (&json!("starting"), &json!(false)));
        assert_eq!(body["reasons"], json!(["consumer: not connected"]), "at a start it counts at once");
        consumer.met("reachable");
        assert!(lifecycle.is_ready());
        consumer.fails(Code::ConsumerRefused, "not connected");
        tokio::time::advance(STANDS_AFTER - Duration::from_millis(1)).await;
        assert!(lifecycle.is_ready());
        tokio::time::advance(Duration::from_millis(1)).await;
        let body = lifecycle.readiness();
        assert_eq!((&body["status"], &body["ready"]), (&json!("not_ready"), &json!(false)));
        consumer.met("reachable");
        tokio::time::advance(GOES_AFTER - Duration::from_millis(1)).await;
        assert!(!lifecycle.is_ready());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(lifecycle.is_ready());
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
