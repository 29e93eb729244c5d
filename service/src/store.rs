//! A shared store in sight: metrics of every server behind it, `/status` details, and its line in `/readyz`.
//!
//! All roles fail open: a store that is slow or dead costs suppression (or a second tier), never frames. So the condition
//! `store` is always met, and says *degraded* with the reason while the store does not help. Changes of state are logged
//! where they happen, by the guard and the connections, once each.
//!
//! Cost: four looks a second at the breakers, and one real write every few seconds; nothing on the packet path.

use crate::codes::Code;
use crate::config::Purpose;
use crate::lifecycle::{Condition, Lifecycle};
use crate::metrics::{Buckets, Registry, Sink, Source, Value};
use cache_backend::guard::Latency;
use cache_backend::{Backend, BreakerState, GuardStats, OpErrorKind, OpenError, Settings};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks at the breakers.
const LOOK: Duration = Duration::from_millis(250);
/// Between two questions whether a store works that nobody may be using.
const ASK: Duration = Duration::from_secs(5);
/// The same while it does not.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What one server counts.
type Guard = Arc<GuardStats>;

/// The labels of a server; what the store is for comes from its [`Store`].
fn of(guard: &Guard) -> [&str; 2] {
    [guard.backend(), guard.server()]
}

crate::counters! {
    /// Metrics of shared stores, the same on every role. `store` is what it is for (claims, frames, marks).
    pub static METRICS: Table of Guard {
        => histogram("oncecast_store_batch_seconds", ["store", "backend", "server"], "Time from request to answer of batches that were answered.")
            = |guard, series| series.put(&of(guard), guard.latency());
        => counter("oncecast_store_answered_total", ["store", "backend", "server"], "Keys that were answered.")
            = |guard, series| series.put(&of(guard), guard.answered());
        => counter("oncecast_store_errors_total", ["store", "backend", "server", "kind"], "Keys without an answer: timeout, disconnected, refused, garbled, breaker_open, overloaded.")
            = |guard, series| for &kind in OpErrorKind::ALL {
                series.put(&[guard.backend(), guard.server(), kind.label()], guard.errors(kind));
            };
        => gauge("oncecast_store_breaker_state", ["store", "backend", "server"], "0 closed, 1 half open (a probe is under way), 2 open (the server is not asked).")
            = |guard, series| series.put(&of(guard), f64::from(guard.state() as u8));
        => counter("oncecast_store_breaker_transitions_total", ["store", "backend", "server", "state"], "Times the breaker went into a state.")
            = |guard, series| for state in BreakerState::ALL {
                series.put(&[guard.backend(), guard.server(), state.label()], guard.transitions(state));
            };
        => gauge("oncecast_store_batches_in_flight", ["store", "backend", "server"], "Batches that wait for their answer.")
            = |guard, series| series.put(&of(guard), guard.batches_in_flight());
        => gauge("oncecast_store_bytes_in_flight", ["store", "backend", "server"], "Bytes of keys and values that wait for their answer.")
            = |guard, series| series.put(&of(guard), guard.bytes_in_flight());
        => gauge("oncecast_store_deadline_seconds", ["store", "backend", "server"], "Longest wait that the next batch gets; follows the p99.")
            = |guard, series| series.put(&of(guard), guard.deadline());
    }
}

/// The store of a role: `ready`, where the options name `memory` or nothing, else what they name. The second word is whether
/// it was opened here, and so is to be closed here.
///
/// # Errors
/// It cannot be reached, or does not work.
pub async fn open(
    settings: Settings,
    ready: Option<Arc<dyn Backend>>,
) -> Result<Option<(Arc<dyn Backend>, bool)>, OpenError> {
    match (settings, ready) {
        (Settings::None | Settings::Memory { .. }, Some(ready)) => Ok(Some((ready, false))),
        (settings, _) => Ok(cache_backend::open(settings).await?.map(|opened| (opened, true))),
    }
}

/// Shows `backend` on all pages of the role, and looks after it until the role drains. Sessions may be all that the role
/// itself keeps of it. Call on the control runtime.
pub fn watch(purpose: Purpose, backend: &Arc<dyn Backend>, lifecycle: &Lifecycle, registry: &Registry) {
    registry.add(Arc::new(Store { purpose, backend: Arc::clone(backend) }));
    let shown = Arc::clone(backend);
    registry.add_detail(purpose.title(), move || details(&*shown));
    let condition = lifecycle.condition(purpose.title());
    tell(&condition, backend.name(), &standing(&**backend));
    let (backend, lifecycle) = (Arc::clone(backend), lifecycle.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = lifecycle.drain_began() => {}
            () = look_after(&*backend, condition) => {}
        }
    });
}

/// Looks and asks, for ever. A store that nobody uses is asked too while a breaker is open: what it answers may close it.
async fn look_after(backend: &dyn Backend, condition: Condition) {
    let mut ask_at = Instant::now() + ASK_AGAIN;
    let mut asked = Ok(());
    loop {
        tokio::time::sleep(LOOK).await;
        if standing(backend).is_err() {
            // Once the breakers close, what was answered before they opened is worth nothing.
            (asked, ask_at) = (Ok(()), ask_at.min(Instant::now() + ASK_AGAIN));
        }
        if Instant::now() >= ask_at {
            asked = backend.healthy().await.map_err(|error| error.to_string());
            ask_at = Instant::now() + if asked.is_ok() { ASK } else { ASK_AGAIN };
        }
        tell(&condition, backend.name(), &standing(backend).and_then(|()| asked.clone()));
    }
}

fn tell(condition: &Condition, name: &str, standing: &Result<(), String>) {
    match standing {
        Ok(()) => condition.met(&format!("{name} answers")),
        Err(reason) => condition.fails(Code::StoreUnreachable, reason),
    }
}

/// Which breakers are not closed.
fn standing(backend: &dyn Backend) -> Result<(), String> {
    let down = |guard: &Arc<GuardStats>| {
        let state = guard.state();
        (state != BreakerState::Closed).then(|| {
            format!("{} {}: breaker {}, it is not asked", guard.backend(), guard.server(), state.label())
        })
    };
    let down: Vec<String> = backend.guards().iter().filter_map(down).collect();
    if down.is_empty() { Ok(()) } else { Err(down.join("; ")) }
}

fn details(backend: &dyn Backend) -> serde_json::Value {
    let server = |guard: &Arc<GuardStats>| {
        let latency = Buckets::from(guard.latency());
        let quantile = |q| latency.quantile(q).map(|time| time.as_secs_f64());
        let errors =
            OpErrorKind::ALL.iter().map(|&kind| (kind.label().to_owned(), json!(guard.errors(kind))));
        json!({
            "server": guard.server(),
            "breaker": guard.state().label(),
            "breaker_opened": guard.transitions(BreakerState::Open),
            "deadline_seconds": guard.deadline().as_secs_f64(),
            "batches_in_flight": guard.batches_in_flight(),
            "bytes_in_flight": guard.bytes_in_flight(),
            "answered": guard.answered(),
            "errors": errors.collect::<serde_json::Map<_, _>>(),
            "batch_p50_seconds": quantile(0.5),
            "batch_p99_seconds": quantile(0.99),
        })
    };
    json!({
        "backend": backend.name(),
        "degraded": standing(backend).err(),
        "servers": backend.guards().iter().map(server).collect::<Vec<_>>(),
    })
}

impl From<&Latency> for Buckets {
    fn from(latency: &Latency) -> Buckets {
        let counts = latency.counts();
        let edges = (0..Latency::BUCKETS).map(|bucket| Latency::edge(bucket).unwrap_or(Duration::MAX));
        Buckets::of(edges.zip(counts), latency.sum())
    }
}

impl From<&Latency> for Value {
    fn from(latency: &Latency) -> Value {
        Buckets::from(latency).into()
    }
}

/// One store of a role.
struct Store {
    purpose: Purpose,
    backend: Arc<dyn Backend>,
}

impl Source for Store {
    fn collect(&self, sink: &mut Sink<'_>) {
        for guard in self.backend.guards() {
            METRICS.collect(&guard, &mut sink.with(&[("store", self.purpose.label())]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::troubles::{GOES_AFTER, STANDS_AFTER};
    use cache_backend::{Breaker, Memory, OpError, RemoteSettings, Session};
    use std::sync::Mutex;

    type Boxed<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

    /// One server that is as well as the test says.
    struct Patient {
        breaker: Arc<Breaker>,
        health: Mutex<Result<(), OpError>>,
    }

    impl Backend for Patient {
        fn name(&self) -> &'static str {
            "redis"
        }
        fn session(&self) -> Boxed<'_, Result<Box<dyn Session>, OpenError>> {
            Box::pin(async { Err(OpenError("not needed".to_owned())) })
        }
        fn guards(&self) -> Vec<Arc<GuardStats>> {
            vec![Arc::clone(self.breaker.stats())]
        }
        fn healthy(&self) -> Boxed<'_, Result<(), OpError>> {
            Box::pin(async { self.health.lock().unwrap().clone() })
        }
        fn close(&self) -> Boxed<'_, ()> {
            Box::pin(async {})
        }
    }

    fn patient() -> Arc<Patient> {
        let breaker = Breaker::new("redis", "10.0.0.1:6379", &RemoteSettings::for_claims());
        Arc::new(Patient { breaker, health: Mutex::new(Ok(())) })
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_fails_degrades_a_role_that_stays_ready_and_recovers() {
        let (lifecycle, registry, patient) = (Lifecycle::new("proxy"), Registry::default(), patient());
        let backend: Arc<dyn Backend> = patient.clone();
        watch(Purpose::Claims, &backend, &lifecycle, &registry);
        drop(backend);
        assert_eq!(lifecycle.readiness()["status"], "ready");
        *patient.health.lock().unwrap() =
            Err(OpError::not_done("redis", OpErrorKind::Disconnected, "connection refused"));
        tokio::time::sleep(ASK + LOOK * 2 + STANDS_AFTER).await;
        let body = lifecycle.readiness();
        assert_eq!((&body["status"], &body["ready"]), (&json!("degraded"), &json!(true)));
        assert_eq!(body["degraded"], json!(["store: redis: disconnected: connection refused"]));
        *patient.health.lock().unwrap() = Ok(());
        tokio::time::sleep(ASK_AGAIN + LOOK * 2 + GOES_AFTER).await;
        assert_eq!(lifecycle.readiness()["status"], "ready");
    }

    #[tokio::test]
    async fn every_server_is_on_the_metrics_page_and_in_the_details() {
        let (lifecycle, registry) = (Lifecycle::new("proxy"), Registry::default());
        let backend: Arc<dyn Backend> = patient();
        watch(Purpose::Claims, &backend, &lifecycle, &registry);
        let page = crate::exposition::parse(&registry.render()).unwrap();
        let server = "store=\"claims\",backend=\"redis\",server=\"10.0.0.1:6379\"";
        assert_eq!(page[&format!("oncecast_store_breaker_state{{{server}}}")], 0.0);
        assert_eq!(page[&format!("oncecast_store_errors_total{{{server},kind=\"timeout\"}}")], 0.0);
        assert_eq!(page[&format!("oncecast_store_deadline_seconds{{{server}}}")], 0.05);
        assert_eq!(page[&format!("oncecast_store_batch_seconds_count{{{server}}}")], 0.0);
        let details = registry.details();
        assert_eq!(details["store"]["servers"][0]["breaker"], "closed");
    }

    #[tokio::test]
    async fn memory_has_no_servers_and_is_never_degraded() {
        let (lifecycle, registry) = (Lifecycle::new("proxy"), Registry::default());
        let backend: Arc<dyn Backend> = Arc::new(Memory::new(1 << 20));
        watch(Purpose::Claims, &backend, &lifecycle, &registry);
        assert!(lifecycle.is_ready());
        assert_eq!(registry.details()["store"]["servers"], json!([]));
    }

    #[test]
    fn every_row_of_the_table_is_valid() {
        let faults: Vec<String> = METRICS.metrics().filter_map(|metric| metric.fault()).collect();
        assert!(faults.is_empty(), "{faults:?}");
    }
}
