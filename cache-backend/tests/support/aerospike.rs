//! A stand-in for an Aerospike server: one node, as much of the wire protocol as the official client needs for
//! create-only writes, reads and deletes with TTLs; and the bad days of a real one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

pub const NAMESPACE: &str = "test";

const INFO: u8 = 1;
const DATA: u8 = 3;
const OK: u8 = 0;
const NOT_FOUND: u8 = 2;
const EXISTS: u8 = 5;
const FULL: u8 = 8;
const NO_NAMESPACE: u8 = 20;
const FORBIDDEN: u8 = 22;

/// What the node does wrong, and what it saw.
#[derive(Default)]
pub struct Node {
    records: Mutex<HashMap<Vec<u8>, Record>>,
    /// `nsup-period 0`: records with a TTL are refused.
    pub forbids_ttl: AtomicBool,
    /// New records are refused.
    pub full: AtomicBool,
    /// Nothing is answered, not even the info requests.
    pub stalled: AtomicBool,
    /// One of so many writes is not answered.
    pub stall_one_in: AtomicU64,
    writes: AtomicU64,
    /// Every data answer is late by so many milliseconds; the write has happened.
    pub late_ms: AtomicU64,
    /// TTL of the last write as it stood on the wire.
    pub last_ttl: AtomicU32,
    /// Most data requests that were under way at once.
    pub most_at_once: AtomicUsize,
    at_once: AtomicUsize,
}

struct Record {
    /// Bin name, particle type, value.
    bin: (Vec<u8>, u8, Vec<u8>),
    expires: Option<Instant>,
}

/// The running stand-in.
pub struct StandIn {
    pub node: Arc<Node>,
    pub port: u16,
    task: Option<AbortHandle>,
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.kill();
    }
}

impl StandIn {
    pub async fn start() -> StandIn {
        let mut stand_in = StandIn { node: Arc::default(), port: 0, task: None };
        stand_in.listen().await;
        stand_in
    }
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
    /// The listener and all connections are gone; the records stay for the next start.
    pub fn kill(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
    /// On the port of before, if there was one.
    pub async fn listen(&mut self) {
        let listener = loop {
            match TcpListener::bind(("127.0.0.1", self.port)).await {
                Ok(listener) => break listener,
                // The aborted task may still hold the port.
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        self.port = listener.local_addr().expect("has an address").port();
        let node = self.node.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(node.clone(), stream));
            }
        });
        self.task = Some(task.abort_handle());
    }
}

async fn serve(node: Arc<Node>, mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let mut head = [0; 8];
        stream.read_exact(&mut head).await?;
        let length = head[2..].iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        node.wait_while_stalled().await;
        let answer = match head[1] {
            INFO => node.info(&String::from_utf8_lossy(&body)).into_bytes(),
            DATA => {
                let at_once = node.at_once.fetch_add(1, SeqCst) + 1;
                node.most_at_once.fetch_max(at_once, SeqCst);
                let answer = node.data(&body);
                tokio::time::sleep(Duration::from_millis(node.late_ms.load(SeqCst))).await;
                node.at_once.fetch_sub(1, SeqCst);
                match answer {
                    Some(answer) => answer,
                    None => std::future::pending().await,
                }
            }
            other => panic!("message type {other}"),
        };
        let mut framed = vec![2, head[1]];
        framed.extend_from_slice(&(answer.len() as u64).to_be_bytes()[2..]);
        framed.extend_from_slice(&answer);
        stream.write_all(&framed).await?;
    }
}

impl Node {
    async fn wait_while_stalled(&self) {
        while self.stalled.load(SeqCst) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn info(&self, request: &str) -> String {
        let answer = |name: &str| match name {
            "node" => "BB9020011AC4202".to_owned(),
            "build" => "8.1.2.0".to_owned(),
            "partition-generation" => "1".to_owned(),
            "peers-generation" => "0".to_owned(),
            "peers-clear-std" => "0,3000,[]".to_owned(),
            // Regime, replicas, and 4096 bits: this node owns every partition.
            "replicas" => format!("{NAMESPACE}:0,1,{}//8=", "/".repeat(680)),
            name if name.starts_with("user-agent-set") => "ok".to_owned(),
            _ => String::new(),
        };
        request.lines().map(|name| format!("{name}\t{}\n", answer(name))).collect()
    }

    /// `None`: no answer will come.
    fn data(&self, body: &[u8]) -> Option<Vec<u8>> {
        let request = Request::parse(body).expect("a request as the client writes it");
        let mut records = self.records.lock().expect("not poisoned");
        records.retain(|_, record| record.expires.is_none_or(|expires| Instant::now() < expires));
        if request.namespace != NAMESPACE.as_bytes() {
            return Some(header(NO_NAMESPACE, 0));
        }
        if request.deletes {
            let removed = records.remove(&request.digest).is_some();
            return Some(header(if removed { OK } else { NOT_FOUND }, 0));
        }
        if !request.writes {
            return Some(match records.get(&request.digest) {
                None => header(NOT_FOUND, 0),
                Some(record) => {
                    let (name, particle, value) = &record.bin;
                    let mut answer = header(OK, 1);
                    answer.extend_from_slice(
                        &u32::try_from(4 + name.len() + value.len()).expect("fits").to_be_bytes(),
                    );
                    answer.extend_from_slice(&[1, *particle, 0, u8::try_from(name.len()).expect("fits")]);
                    answer.extend_from_slice(name);
                    answer.extend_from_slice(value);
                    answer
                }
            });
        }
        self.last_ttl.store(request.ttl, SeqCst);
        let one_in = self.stall_one_in.load(SeqCst);
        if one_in > 0 && self.writes.fetch_add(1, SeqCst).is_multiple_of(one_in) {
            return None;
        }
        let known = records.contains_key(&request.digest);
        let result = match () {
            () if known && request.create_only => EXISTS,
            () if self.forbids_ttl.load(SeqCst) && request.ttl != u32::MAX => FORBIDDEN,
            () if self.full.load(SeqCst) && !known => FULL,
            () => {
                let ttl = (request.ttl != u32::MAX).then(|| Duration::from_secs(u64::from(request.ttl)));
                let record = Record { bin: request.bin, expires: ttl.map(|ttl| Instant::now() + ttl) };
                records.insert(request.digest, record);
                OK
            }
        };
        Some(header(result, 0))
    }
}

fn header(result: u8, operations: u16) -> Vec<u8> {
    let mut header = vec![22, 0, 0, 0, 0, result];
    header.extend_from_slice(&1u32.to_be_bytes());
    header.extend_from_slice(&[0; 8]);
    header.extend_from_slice(&0u16.to_be_bytes());
    header.extend_from_slice(&operations.to_be_bytes());
    header
}

#[derive(Default)]
struct Request {
    writes: bool,
    deletes: bool,
    create_only: bool,
    ttl: u32,
    namespace: Vec<u8>,
    digest: Vec<u8>,
    bin: (Vec<u8>, u8, Vec<u8>),
}

impl Request {
    fn parse(body: &[u8]) -> Option<Request> {
        let number = |at: usize, length: usize| {
            let bytes = body.get(at..at + length)?;
            Some(bytes.iter().fold(0, |number, &byte| number << 8 | u32::from(byte)))
        };
        let info2 = *body.get(2)?;
        let mut request = Request {
            writes: info2 & 0x01 != 0,
            deletes: info2 & 0x02 != 0,
            create_only: info2 & 0x20 != 0,
            ttl: number(10, 4)?,
            ..Request::default()
        };
        let (fields, operations) = (number(18, 2)?, number(20, 2)?);
        let mut at = 22;
        for _ in 0..fields {
            let length = number(at, 4)? as usize;
            let value = body.get(at + 5..at + 4 + length)?.to_vec();
            match body.get(at + 4)? {
                0 => request.namespace = value,
                4 => request.digest = value,
                _ => {}
            }
            at += 4 + length;
        }
        for _ in 0..operations {
            let length = number(at, 4)? as usize;
            let (particle, name_length) = (*body.get(at + 5)?, usize::from(*body.get(at + 7)?));
            let name = body.get(at + 8..at + 8 + name_length)?.to_vec();
            let value = body.get(at + 8 + name_length..at + 4 + length)?.to_vec();
            request.bin = (name, particle, value);
            at += 4 + length;
        }
        Some(request)
    }
}
