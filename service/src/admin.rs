//! Admin HTTP: `/metrics`, `/healthz`, `/readyz`, `/status`, `/where`, `/loglevel`.
//!
//! Runs on the control runtime, never on a worker. It has no authentication: bind it to an address that only operators
//! reach. Limits: see [`CONNECTIONS`] and [`IDLE`]; bodies are not read.

mod connections;

pub use connections::{CONNECTIONS, IDLE};

use crate::errors;
use crate::host::ports::{self, Owner, Port, Sign, admin_port};
use crate::ledger;
use crate::lifecycle::Lifecycle;
use crate::logs::Logs;
use crate::metrics::Registry;
use anyhow::Context as _;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use connections::Bounded;
use multicast_io::PortUse;
use serde_json::{Value, json};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Connections that wait to be accepted.
const QUEUE: i32 = 1024;

/// What the pages show.
#[derive(Clone, Debug)]
pub struct Pages {
    /// Readiness.
    pub lifecycle: Lifecycle,
    /// Metrics and the role's details.
    pub registry: Arc<Registry>,
    /// For `/loglevel`; `None` where the process does not own its log.
    pub logs: Option<Logs>,
    /// Name of this instance.
    pub instance: String,
    /// Version of the program.
    pub version: &'static str,
    /// The effective configuration, without secrets.
    pub config: Value,
}

/// A running admin server; stops when dropped.
#[derive(Debug)]
pub struct Admin {
    addr: SocketAddr,
    task: tokio::task::JoinHandle<()>,
    _sign: Sign,
}

impl Admin {
    /// Listens on `addr` (port 0: any free one) and serves on the current runtime. `take_over`: also beside another process
    /// of this user that has the port.
    ///
    /// # Errors
    /// The address cannot be bound: another process has it, or it is not of this host.
    pub fn serve(addr: SocketAddr, take_over: bool, pages: Pages) -> anyhow::Result<Admin> {
        let mut port = admin_port(addr);
        let opened = bind(&port, PortUse::of(0, take_over));
        let listener = opened.map_err(|error| port.refused(error, take_over))?;
        let listener = TcpListener::from_std(listener).context("--metrics-addr")?;
        port.address = listener.local_addr().context("--metrics-addr")?;
        let sign = Sign::put(&port, &Owner::new(pages.lifecycle.role(), &pages.instance));
        let listener = Bounded::new(listener);
        let service = router(pages).into_make_service_with_connect_info::<Peer>();
        let task = tokio::spawn(async move {
            // axum's server goes on after accept errors; it never returns one.
            let _ = axum::serve(listener, service).await;
        });
        Ok(Admin { addr: port.address, task, _sign: sign })
    }

    /// The address in use.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `[::]` falls back to `0.0.0.0` on a host without IPv6.
fn bind(port: &Port, port_use: PortUse) -> io::Result<std::net::TcpListener> {
    match ports::listen(port, port_use, QUEUE) {
        Err(error)
            if port.address.is_ipv6()
                && port.address.ip().is_unspecified()
                && error.kind() != io::ErrorKind::AddrInUse =>
        {
            let address = SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, port.address.port()));
            ports::listen(&Port { address, ..*port }, port_use, QUEUE).map_err(|_| error)
        }
        outcome => outcome,
    }
}

fn router(pages: Pages) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/where", get(where_is))
        .route("/loglevel", get(loglevel).put(set_loglevel).post(set_loglevel))
        .with_state(Arc::new(pages))
}

type Shared = State<Arc<Pages>>;

async fn index() -> &'static str {
    "/metrics\n/healthz\n/readyz\n/status\n/where?txid=ID\n/loglevel (PUT or POST ?level=debug)\n"
}

async fn metrics(State(pages): Shared) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, pages.registry.render()).into_response()
}

async fn healthz(State(pages): Shared) -> Json<Value> {
    Json(json!({
        "status": "ok",
        "role": pages.lifecycle.role(),
        "version": pages.version,
        "uptime_seconds": pages.lifecycle.uptime().as_secs_f64(),
    }))
}

async fn readyz(State(pages): Shared) -> (StatusCode, Json<Value>) {
    let body = pages.lifecycle.readiness();
    let ready = body.get("ready") == Some(&Value::Bool(true));
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(body))
}

async fn status(State(pages): Shared) -> Json<Value> {
    Json(json!({
        "role": pages.lifecycle.role(),
        "instance": pages.instance,
        "version": pages.version,
        "pid": std::process::id(),
        "uptime_seconds": pages.lifecycle.uptime().as_secs_f64(),
        "log_level": pages.logs.as_ref().map(Logs::level),
        "readiness": pages.lifecycle.readiness(),
        "losses": ledger::rows_json(&ledger::fold(pages.registry.losses())),
        "errors": errors::table().json(),
        "details": pages.registry.details(),
        "config": pages.config,
        "metrics": pages.registry.status(),
    }))
}

#[derive(serde::Deserialize)]
struct WhereQuery {
    txid: Option<String>,
}

/// What the workers remember of a transaction, named as people write it (64 hex digits, last byte first).
async fn where_is(State(pages): Shared, Query(query): Query<WhereQuery>) -> (StatusCode, Json<Value>) {
    let txid = query.txid.unwrap_or_default();
    let Some(prefix) = id_prefix(&txid) else {
        let error = format!("?txid={txid}: want 64 hex digits");
        return (StatusCode::BAD_REQUEST, Json(json!({ "error": error })));
    };
    let body = json!({
        "role": pages.lifecycle.role(),
        "instance": pages.instance,
        "workers": pages.registry.find_recent(prefix),
    });
    (StatusCode::OK, Json(body))
}

/// The first eight bytes of the id in internal byte order: the last sixteen digits, byte by byte from the end.
fn id_prefix(txid: &str) -> Option<u64> {
    if txid.len() != 64 || !txid.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(txid.get(48..)?, 16).ok().map(u64::swap_bytes)
}

async fn loglevel(State(pages): Shared) -> (StatusCode, Json<Value>) {
    match &pages.logs {
        Some(logs) => (StatusCode::OK, Json(json!({ "level": logs.level() }))),
        None => (StatusCode::NOT_FOUND, Json(json!({ "error": "this process does not own its log" }))),
    }
}

#[derive(serde::Deserialize)]
struct LevelQuery {
    level: Option<String>,
}

async fn set_loglevel(
    State(pages): Shared,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    Query(query): Query<LevelQuery>,
) -> (StatusCode, Json<Value>) {
    let wanted = query.level.unwrap_or_default();
    let Some(logs) = &pages.logs else { return loglevel(State(pages)).await };
    match logs.set(&wanted) {
        Ok(()) => {
            tracing::warn!(%peer, level = wanted, "log level changed over HTTP");
            (StatusCode::OK, Json(json!({ "level": logs.level() })))
        }
        Err(refused) => {
            let error = format!("?level={wanted}: {refused}");
            (StatusCode::BAD_REQUEST, Json(json!({ "error": error, "level": logs.level() })))
        }
    }
}

/// Address of the client.
#[derive(Clone, Copy, Debug)]
struct Peer(SocketAddr);

impl axum::extract::connect_info::Connected<axum::serve::IncomingStream<'_, Bounded>> for Peer {
    fn connect_info(stream: axum::serve::IncomingStream<'_, Bounded>) -> Peer {
        Peer(*stream.remote_addr())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    fn pages(lifecycle: &Lifecycle) -> Pages {
        Pages {
            lifecycle: lifecycle.clone(),
            registry: Arc::default(),
            logs: None,
            instance: "a".to_owned(),
            version: "0",
            config: json!({ "shard-bits": 2 }),
        }
    }

    async fn ask(addr: SocketAddr, method: &str, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    #[tokio::test]
    async fn health_is_always_ok_and_readiness_gives_its_reasons() {
        let lifecycle = Lifecycle::new("retry");
        let joins = lifecycle.condition("joins");
        let admin = Admin::serve("127.0.0.1:0".parse().unwrap(), false, pages(&lifecycle)).unwrap();
        assert_ne!(admin.addr().port(), 0);
        assert_eq!(ask(admin.addr(), "GET", "/healthz").await.0, 200);
        let (code, body) = ask(admin.addr(), "GET", "/readyz").await;
        assert_eq!(code, 503);
        assert!(body.contains("joins: starting"), "{body}");
        joins.met("4 groups");
        assert_eq!(ask(admin.addr(), "GET", "/readyz").await.0, 200);
        lifecycle.begin_drain();
        let (code, body) = ask(admin.addr(), "GET", "/readyz").await;
        assert_eq!((code, body.contains("draining")), (503, true));
        let (code, body) = ask(admin.addr(), "GET", "/status").await;
        let status: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (code, &status["config"]["shard-bits"], &status["role"]),
            (200, &json!(2), &json!("retry"))
        );
        assert_eq!(ask(admin.addr(), "GET", "/metrics").await.0, 200);
        assert_eq!(ask(admin.addr(), "GET", "/nowhere").await.0, 404);
        assert_eq!(ask(admin.addr(), "GET", "/where?txid=12").await.0, 400);
        let txid = format!("{}0102030405060708", "0".repeat(48));
        assert_eq!(id_prefix(&txid), Some(0x0807_0605_0403_0201));
        let (code, body) = ask(admin.addr(), "GET", &format!("/where?txid={txid}")).await;
        assert_eq!((code, body.contains("\"workers\":[]")), (200, true));
        assert_eq!(ask(admin.addr(), "PUT", "/loglevel?level=debug").await.0, 404);
    }

    #[tokio::test]
    async fn an_address_in_use_is_an_error_that_names_it() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = taken.local_addr().unwrap();
        let error = Admin::serve(addr, false, pages(&Lifecycle::new("retry"))).unwrap_err().to_string();
        assert!(error.contains(&addr.to_string()) && error.contains("--metrics-addr"), "{error}");
    }

    /// Asks on a connection that stays open, and reads the whole answer.
    async fn ask_again(stream: &mut TcpStream) -> String {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        while !answer.ends_with('}') {
            let mut bytes = [0; 1024];
            let n = stream.read(&mut bytes).await.unwrap();
            assert_ne!(n, 0, "closed after {answer:?}");
            answer.push_str(std::str::from_utf8(&bytes[..n]).unwrap());
        }
        answer
    }

    #[tokio::test]
    async fn whoever_asks_is_answered_however_many_hold_a_place_in_silence() {
        let admin =
            Admin::serve("127.0.0.1:0".parse().unwrap(), false, pages(&Lifecycle::new("retry"))).unwrap();
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            silent.push(TcpStream::connect(admin.addr()).await.unwrap());
        }
        let soon = Duration::from_secs(10);
        let asked = tokio::time::timeout(soon, ask(admin.addr(), "GET", "/healthz")).await;
        assert_eq!(asked.expect("answered").0, 200);
        // Who asked last is not the silent one.
        let mut busy = TcpStream::connect(admin.addr()).await.unwrap();
        for _ in 0..2 * CONNECTIONS {
            assert!(ask_again(&mut busy).await.contains("200 OK"));
            silent.push(TcpStream::connect(admin.addr()).await.unwrap());
        }
        // The first of the silent ones made room.
        let mut nothing = [0; 1];
        let ended = tokio::time::timeout(soon, silent[0].read(&mut nothing)).await.expect("closed");
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }
}
