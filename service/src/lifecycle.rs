//! Start, readiness, drain, stop: one [`Lifecycle`] per role instance, shared by its threads.
//!
//! Promises: readiness is the conjunction of named conditions, so that `/readyz` can say *which* part is missing; drain
//! is a one-way switch; a panic on a worker thread ends the process with [`EXIT_PANIC`], because siblings take over
//! from a dead process, and a process that lives on with a dead worker loses frames.
//!
//! Cost: `is_draining` is one relaxed load and may be asked per burst. Conditions take a lock and belong on cold paths.

use serde_json::json;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Exit code after a panic in a worker (BSD's "internal software error").
pub const EXIT_PANIC: i32 = 70;

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

/// Workers to start for the option `--workers`: 0 is one for each core.
pub fn worker_count(option: usize) -> usize {
    match option {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    }
}

/// Spawns a worker thread with its own single-threaded tokio runtime; `main` runs on it, and `tokio::task::spawn_local`
/// works in it. A panic in it ends the process (siblings take over; a process that lives on with a dead worker loses
/// frames).
///
/// # Errors
/// The thread could not be started. Failing to build the runtime on the new thread counts as a panic.
pub fn spawn_worker<F>(name: String, main: impl FnOnce() -> F + Send + 'static) -> std::io::Result<Worker>
where
    F: Future<Output = ()> + 'static,
{
    let (ended, watch_end) = watch::channel(());
    let (report, outcome) = std::sync::mpsc::sync_channel::<()>(0);
    let thread_name = name.clone();
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        // Dropped last, also on unwinding: that is the signal of the end.
        let _signals = (ended, report);
        let run = AssertUnwindSafe(|| -> std::io::Result<()> {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default())?;
            runtime.block_on(main());
            Ok(())
        });
        match std::panic::catch_unwind(run) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => end_process(&thread_name, &format!("its runtime could not be built: {error}")),
            Err(panic) => end_process(&thread_name, panic_text(panic.as_ref())),
        }
    })?;
    Ok(Worker { thread, outcome, watch_end })
}

fn end_process(worker: &str, why: &str) -> ! {
    tracing::error!(worker, "worker died, ending the process: {why}");
    crate::logs::flush();
    std::process::exit(EXIT_PANIC);
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&'static str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("panic without a text")
}

/// A running worker thread.
#[derive(Debug)]
pub struct Worker {
    thread: std::thread::JoinHandle<()>,
    outcome: std::sync::mpsc::Receiver<()>,
    watch_end: watch::Receiver<()>,
}

impl Worker {
    /// Waits for the end of the worker; `false` if it did not end in time. Blocks the calling thread.
    pub fn join_within(self, limit: Duration) -> bool {
        use std::sync::mpsc::RecvTimeoutError;
        match self.outcome.recv_timeout(limit) {
            Err(RecvTimeoutError::Timeout) => false,
            Ok(()) | Err(RecvTimeoutError::Disconnected) => self.thread.join().is_ok(),
        }
    }

    /// Completes when the worker has ended.
    pub async fn ended(&mut self) {
        while self.watch_end.changed().await.is_ok() {}
    }

    /// Like [`Worker::join_within`], without blocking the runtime.
    pub async fn ended_within(mut self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.ended()).await.is_ok()
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

    #[test]
    fn a_worker_runs_local_tasks_and_is_joined() {
        let (tell, told) = std::sync::mpsc::channel();
        let worker = spawn_worker("w".to_owned(), move || async move {
            let shared = std::rc::Rc::new(7);
            let task = tokio::task::spawn_local(async move { *shared });
            tell.send(task.await.unwrap()).unwrap();
        })
        .unwrap();
        assert_eq!(told.recv().unwrap(), 7);
        assert!(worker.join_within(Duration::from_secs(30)));
    }

    #[tokio::test]
    async fn a_worker_that_goes_on_is_reported_as_not_ended() {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let mut worker = spawn_worker("w".to_owned(), move || async move {
            let _ = stopped.await;
        })
        .unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(1), worker.ended()).await.is_err());
        stop.send(()).unwrap();
        assert!(worker.ended_within(Duration::from_secs(30)).await);
    }

    /// The child half of the next test: does nothing unless asked.
    #[test]
    fn worker_panic_child() {
        if std::env::var_os("SERVICE_TEST_WORKER_PANIC").is_some() {
            let worker = spawn_worker("doomed".to_owned(), || async { panic!("broken invariant") }).unwrap();
            worker.join_within(Duration::from_secs(30));
        }
    }

    #[test]
    fn a_panic_in_a_worker_ends_the_process_with_code_70() {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "lifecycle::tests::worker_panic_child", "--nocapture"])
            .env("SERVICE_TEST_WORKER_PANIC", "1")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(EXIT_PANIC), "{output:?}");
    }
}
