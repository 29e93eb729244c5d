//! A stand-in for an Aerospike server: one node, as much of the wire protocol as the official client needs for
//! create-only writes, reads and deletes with TTLs, and for a login; and the bad days of a real one.
//!
//! The tests of `cache-backend` run it in their own process, the end-to-end tests as a program of its own
//! (`src/bin/aerospike-stand-in.rs`) on a host of its own.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// The one namespace it has.
pub const NAMESPACE: &str = "test";
/// The user it knows where it asks for one.
pub const USER: &str = "oncecast";
/// That user's password.
pub const PASSWORD: &str = "sesame";
/// What a client sends for it: bcrypt with the salt that all Aerospike clients share.
const CREDENTIAL: &[u8] = b"$2a$10$7EqJtq98hPqEX7fNZaFWoOqVhm1GE4LvzVMofbiHeQ3LHwUxZrdl.";

const INFO: u8 = 1;
const LOGIN: u8 = 2;
const DATA: u8 = 3;
const OK: u8 = 0;
const NOT_FOUND: u8 = 2;
const EXISTS: u8 = 5;
const FULL: u8 = 8;
const NO_NAMESPACE: u8 = 20;
const FORBIDDEN: u8 = 22;
const NO_SECURITY: u8 = 52;
const WRONG_CREDENTIAL: u8 = 65;

/// What the node does wrong, and what it saw.
#[derive(Default)]
pub struct Node {
    records: Mutex<HashMap<Vec<u8>, Record>>,
    /// `nsup-period 0`: records with a TTL are refused.
    pub forbids_ttl: AtomicBool,
    /// The namespace is at its stop-writes limit: every write is refused, also of what exists.
    pub full: AtomicBool,
    /// The set is at its stop-writes limit: new records are refused.
    pub set_full: AtomicBool,
    /// Nothing is answered, not even the info requests.
    pub stalled: AtomicBool,
    /// One of so many writes is neither done nor answered.
    pub stall_one_in: AtomicU64,
    /// One of so many writes is done and not answered.
    pub lose_one_in: AtomicU64,
    writes: AtomicU64,
    /// Whoever connects has to log in.
    pub asks_for_login: AtomicBool,
    /// The next data answer ends in its middle, and so does its connection.
    pub cut_next: AtomicBool,
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
    /// What it does wrong.
    pub node: Arc<Node>,
    address: SocketAddr,
    task: Option<AbortHandle>,
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.kill();
    }
}

impl StandIn {
    /// On a port of this host that is free.
    pub async fn start() -> StandIn {
        StandIn::at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }
    /// At a given address.
    pub async fn at(address: SocketAddr) -> StandIn {
        let mut stand_in = StandIn { node: Arc::default(), address, task: None };
        stand_in.listen().await;
        stand_in
    }
    /// Where it listens.
    pub fn address(&self) -> String {
        self.address.to_string()
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
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                // The aborted task may still hold the port.
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        self.address = listener.local_addr().expect("has an address");
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
            LOGIN => node.login(&body),
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
        if head[1] == DATA && node.cut_next.swap(false, SeqCst) {
            framed.truncate(framed.len() / 2);
            return stream.write_all(&framed).await;
        }
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

    /// Sets what it does wrong by name; `false`: no such name.
    pub fn set(&self, name: &str, value: u64) -> bool {
        let switch = |switch: &AtomicBool| switch.store(value != 0, SeqCst);
        match name {
            "forbids-ttl" => switch(&self.forbids_ttl),
            "full" => switch(&self.full),
            "set-full" => switch(&self.set_full),
            "stalled" => switch(&self.stalled),
            "asks-for-login" => switch(&self.asks_for_login),
            "cut-next" => switch(&self.cut_next),
            "stall-one-in" => self.stall_one_in.store(value, SeqCst),
            "lose-one-in" => self.lose_one_in.store(value, SeqCst),
            "late-ms" => self.late_ms.store(value, SeqCst),
            _ => return false,
        }
        true
    }

    /// Records held now, expired ones left out.
    pub fn records(&self) -> usize {
        let mut records = self.records.lock().expect("not poisoned");
        records.retain(|_, record| record.expires.is_none_or(|expires| Instant::now() < expires));
        records.len()
    }

    /// The answer to a login with a credential, or with the session that an earlier one brought.
    fn login(&self, body: &[u8]) -> Vec<u8> {
        const AUTHENTICATE: u8 = 0;
        const SESSION: &[u8] = b"session";
        const SESSION_TOKEN: u8 = 5;
        let field = |bytes: &[u8]| body.windows(bytes.len()).any(|window| window == bytes);
        let session = body.get(2) == Some(&AUTHENTICATE) && field(SESSION);
        let result = match () {
            () if !self.asks_for_login.load(SeqCst) => NO_SECURITY,
            () if field(USER.as_bytes()) && (session || field(CREDENTIAL)) => OK,
            () => WRONG_CREDENTIAL,
        };
        let mut answer = vec![0, result, 0, u8::from(result == OK)];
        answer.resize(16, 0);
        if result == OK {
            answer.extend_from_slice(&u32::try_from(SESSION.len() + 1).expect("short").to_be_bytes());
            answer.push(SESSION_TOKEN);
            answer.extend_from_slice(SESSION);
        }
        answer
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
        let write = self.writes.fetch_add(1, SeqCst);
        let one_in = |count: &AtomicU64| {
            let one_in = count.load(SeqCst);
            one_in > 0 && write.is_multiple_of(one_in)
        };
        if one_in(&self.stall_one_in) {
            return None;
        }
        let known = records.contains_key(&request.digest);
        let result = match () {
            () if self.full.load(SeqCst) => FULL,
            () if known && request.create_only => EXISTS,
            () if self.set_full.load(SeqCst) && !known => FORBIDDEN,
            () if self.forbids_ttl.load(SeqCst) && request.ttl != u32::MAX => FORBIDDEN,
            () => {
                let ttl = (request.ttl != u32::MAX).then(|| Duration::from_secs(u64::from(request.ttl)));
                let record = Record { bin: request.bin, expires: ttl.map(|ttl| Instant::now() + ttl) };
                records.insert(request.digest, record);
                OK
            }
        };
        (!one_in(&self.lose_one_in)).then(|| header(result, 0))
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
