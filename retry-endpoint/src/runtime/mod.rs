//! Sockets, threads and timers around the pipeline.
//!
//! Threads: one a worker (`worker`, whose effects are in `round_io`), one for the request port (`nack_server`), one for what is
//! slow (`control`: `beacon`, `digest_listener`, `upstream_client`, `shared`). They talk through mailboxes (`mailboxes`);
//! `directory` tells the NACK server which worker holds a flow. `sockets` opens everything, `start` starts the threads.

mod beacon;
mod control;
mod counters;
mod digest_listener;
mod directory;
mod mailboxes;
mod nack_server;
mod round_io;
mod shared;
mod sockets;
mod start;
mod stop;
mod upstream_client;
mod worker;

pub use counters::{Counters, metrics};

use crate::config::Config;
use anyhow::Context;
use counters::{ControlCells, NackServerCells, WorkerCells};
use service::Deps;
use service::config::Purpose;
use service::host::ports::{Owner, Port, Sign};
use service::worker::Threads;
use sockets::Sockets;
use start::Starter;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};

/// A started endpoint.
pub struct Running {
    /// Where requests are taken: the bound address and port.
    pub nack: SocketAddr,
    workers: Vec<Arc<WorkerCells>>,
    nack_server: Arc<NackServerCells>,
    control: Arc<ControlCells>,
    threads: Threads,
    _sign: Sign,
}

impl Running {
    /// Totals since the start.
    pub fn counters(&self) -> Counters {
        let mut total = Counters {
            adverts_sent: self.control.adverts.get(),
            digest_entries_heard: self.control.digest_entries.get(),
            ..Counters::default()
        };
        self.workers.iter().for_each(|cells| total.add_worker(cells));
        total.add_nack_server(&self.nack_server);
        total
    }

    /// Completes when every thread has ended, some time after drain began.
    pub async fn wait(self) {
        self.threads.ended().await;
    }
}

/// Joins the groups, opens the request port and begins to serve; everything that cannot work is an error here.
///
/// # Errors
/// Names the option, the address or the interface.
pub async fn start(config: Config, deps: Deps) -> anyhow::Result<Running> {
    config.check()?;
    let shared = service::store::open(config.shared_tier()?, deps.store).await.context("--cache-backend")?;
    let shared = shared.map(|(shared, _)| shared);
    if let Some(shared) = &shared {
        service::store::watch(Purpose::Frames, shared, &deps.lifecycle, &deps.registry);
    }
    let config = Arc::new(config);
    let links = sockets::demands(&config)?.follow(&deps.lifecycle).await?;
    let sockets = Sockets::new(Arc::clone(&config), &links.now())?;
    let (groups, egress) = (sockets.groups(), sockets.egress_names());
    let request_socket = sockets.open_request_socket()?;
    let nack = request_socket.local_addr().context("request socket")?;
    request_socket.warnings().iter().for_each(|warning| tracing::warn!("--nack-port: {warning}"));

    let port = Port { address: nack, ..crate::needs::request_port(&config, nack.ip()) };
    let sign = Sign::put(&port, &Owner::new("retry", &config.common.instance()));
    let starter = Starter::new(config, sockets, links, &deps.lifecycle);
    let threads = starter.start(request_socket, shared).await?;
    let Starter { workers, nack_server, control, .. } = starter;
    let labelled =
        |cells: &Arc<WorkerCells>| deps.registry.add_labelled("worker", cells.name.clone(), cells.clone());
    workers.iter().for_each(labelled);
    workers.iter().for_each(|cells| deps.registry.add_ledger(cells.ledger.clone()));
    let books = workers.clone();
    deps.registry.add_sum(move || books.iter().map(|cells| cells.sum()).sum());
    deps.registry.add(nack_server.clone());
    deps.registry.add(control.clone());
    deps.registry.add_detail("coverage", coverage(&workers));
    let count = workers.len();
    deps.lifecycle.condition("groups").met(&format!("{groups} groups on {count} workers"));
    deps.lifecycle.condition("requests").met(&format!("taken on {nack}"));
    tracing::info!(%nack, workers = count, groups, egress = ?egress, "retry endpoint serves");
    Ok(Running { nack, workers, nack_server, control, threads, _sign: sign })
}

/// `/status`: what is held, by worker.
fn coverage(workers: &[Arc<WorkerCells>]) -> impl Fn() -> serde_json::Value + Send + Sync + use<> {
    let workers = workers.to_vec();
    move || {
        let snapshot = |cells: &Arc<WorkerCells>| {
            let flows = cells.coverage.lock().unwrap_or_else(PoisonError::into_inner).clone();
            serde_json::json!({
                "worker": cells.name,
                "log_bytes": cells.log_bytes.get(),
                "log_capacity_bytes": cells.log_capacity.get(),
                "horizon_seconds": cells.horizon_ms.get() / 1000,
                "flows_known": cells.flows.get(),
                "flows": flows,
            })
        };
        serde_json::Value::Array(workers.iter().map(snapshot).collect())
    }
}
