//! A stand-in for an Aerospike server: one node, as much of the wire protocol as the official client needs for
//! create-only writes, reads and deletes with TTLs, alone and in batches, and for a login; and the bad days of a real one.
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

/// A node's share of the partitions.
#[derive(Clone, Copy, Default)]
enum Share {
    /// It is alone.
    #[default]
    All,
    ThreeQuarters,
    Quarter,
}

impl Share {
    fn name(self) -> &'static str {
        match self {
            Share::All | Share::ThreeQuarters => "BB9020011AC4202",
            Share::Quarter => "BB9020011AC4203",
        }
    }
    /// A bit for each of 4096 partitions, in base64.
    fn bitmap(self) -> String {
        let (four, last) = match self {
            Share::All => ("////", "//8="),
            Share::ThreeQuarters => ("d3d3", "d3c="),
            Share::Quarter => ("iIiI", "iIg="),
        };
        four.repeat(170) + last
    }
}

/// What the node does wrong, and what it saw.
// Wide because each field is one misbehaviour that a test switches on, or one thing it asks about afterwards.
#[derive(Default)]
pub struct Node {
    share: Share,
    /// Name and address of the other node of a cluster.
    peer: Mutex<Option<(&'static str, SocketAddr)>>,
    /// Single writes that wanted to wait for replicas.
    pub waiting_for_replicas: AtomicUsize,
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
    /// Data requests so far; a batch is one.
    pub requests: AtomicUsize,
}

struct Record {
    bin: StoredBin,
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
    /// A cluster of two: the first has three quarters of the records, the second the rest.
    pub async fn pair() -> [StandIn; 2] {
        let of = async |share| {
            let node = Arc::new(Node { share, ..Node::default() });
            let address = SocketAddr::from(([127, 0, 0, 1], 0));
            let mut stand_in = StandIn { node, address, task: None };
            stand_in.listen().await;
            stand_in
        };
        let pair = [of(Share::ThreeQuarters).await, of(Share::Quarter).await];
        for (one, other) in [(0, 1), (1, 0)] {
            let peer = (pair[other].node.share.name(), pair[other].address);
            *pair[one].node.peer.lock().expect("not poisoned") = Some(peer);
        }
        pair
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
        let mut complete = true;
        let answer = match head[1] {
            INFO => node.info(&String::from_utf8_lossy(&body)).into_bytes(),
            LOGIN => node.login(&body),
            DATA => {
                let at_once = node.at_once.fetch_add(1, SeqCst) + 1;
                node.most_at_once.fetch_max(at_once, SeqCst);
                node.requests.fetch_add(1, SeqCst);
                let answer = node.data(&body);
                tokio::time::sleep(Duration::from_millis(node.late_ms.load(SeqCst))).await;
                node.at_once.fetch_sub(1, SeqCst);
                complete = answer.complete;
                answer.bytes
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
        if !answer.is_empty() {
            stream.write_all(&framed).await?;
        }
        if !complete {
            std::future::pending::<()>().await;
        }
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
            "node" => self.share.name().to_owned(),
            "build" => "8.1.2.0".to_owned(),
            "partition-generation" => "1".to_owned(),
            "peers-generation" => "0".to_owned(),
            "peers-clear-std" => match *self.peer.lock().expect("not poisoned") {
                None => "0,3000,[]".to_owned(),
                Some((name, address)) => format!("0,3000,[[{name},,[{address}]]]"),
            },
            // Regime, replicas, and what this node owns.
            "replicas" => format!("{NAMESPACE}:0,1,{}", self.share.bitmap()),
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

    fn data(&self, body: &[u8]) -> Answer {
        let requests = Request::parse(body).expect("a request as the client writes it");
        let mut answer = Answer { bytes: Vec::new(), complete: true };
        for request in &requests.rows {
            if request.writes && request.all_replicas && !requests.in_batch {
                self.waiting_for_replicas.fetch_add(1, SeqCst);
            }
            match self.row(request) {
                Some(row) => answer.bytes.extend_from_slice(&row.bytes(request.index)),
                None => answer.complete = false,
            }
        }
        if requests.in_batch && answer.complete {
            answer.bytes.extend_from_slice(&LAST_ROW);
        }
        answer
    }

    /// One record read or written. `None`: no answer will come.
    fn row(&self, request: &Request) -> Option<Reply> {
        let mut records = self.records.lock().expect("not poisoned");
        records.retain(|_, record| record.expires.is_none_or(|expires| Instant::now() < expires));
        let reply = |result| Some(Reply { result, bin: None });
        if request.namespace != NAMESPACE.as_bytes() {
            return reply(NO_NAMESPACE);
        }
        if request.deletes {
            let removed = records.remove(&request.digest).is_some();
            return reply(if removed { OK } else { NOT_FOUND });
        }
        if !request.writes {
            return match records.get(&request.digest) {
                None => reply(NOT_FOUND),
                Some(record) => Some(Reply { result: OK, bin: Some(record.bin.clone()) }),
            };
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
                let record =
                    Record { bin: request.bin.clone(), expires: ttl.map(|ttl| Instant::now() + ttl) };
                records.insert(request.digest.clone(), record);
                OK
            }
        };
        if one_in(&self.lose_one_in) { None } else { reply(result) }
    }
}

/// Bin name, particle type, value.
type StoredBin = (Vec<u8>, u8, Vec<u8>);

struct Answer {
    bytes: Vec<u8>,
    /// `false`: the rest will never come.
    complete: bool,
}

struct Reply {
    result: u8,
    bin: Option<StoredBin>,
}

/// The end of a batch: a head with the flag "last" and nothing else.
const LAST_ROW: [u8; 22] = [22, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

impl Reply {
    /// Head and, of a read, the bin. `index` is the place in the batch.
    fn bytes(&self, index: u32) -> Vec<u8> {
        let mut bytes = vec![22, 0, 0, 0, 0, self.result];
        bytes.extend_from_slice(&1u32.to_be_bytes());
        bytes.extend_from_slice(&0u32.to_be_bytes());
        bytes.extend_from_slice(&index.to_be_bytes());
        bytes.extend_from_slice(&0u16.to_be_bytes());
        bytes.extend_from_slice(&u16::from(self.bin.is_some()).to_be_bytes());
        if let Some((name, particle, value)) = &self.bin {
            let length = u32::try_from(4 + name.len() + value.len()).expect("fits");
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&[1, *particle, 0, u8::try_from(name.len()).expect("fits")]);
            bytes.extend_from_slice(name);
            bytes.extend_from_slice(value);
        }
        bytes
    }
}

/// What one message asks.
struct Requests {
    rows: Vec<Request>,
    in_batch: bool,
}

#[derive(Clone, Default)]
struct Request {
    index: u32,
    writes: bool,
    deletes: bool,
    create_only: bool,
    all_replicas: bool,
    ttl: u32,
    namespace: Vec<u8>,
    digest: Vec<u8>,
    bin: StoredBin,
}

/// Reads a message from its front.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn bytes(&mut self, length: usize) -> Option<Vec<u8>> {
        let (front, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(front.to_vec())
    }
    fn number(&mut self, length: usize) -> Option<u32> {
        Some(self.bytes(length)?.iter().fold(0, |number, &byte| number << 8 | u32::from(byte)))
    }
    fn byte(&mut self) -> Option<u8> {
        Some(self.bytes(1)?[0])
    }
    /// A type and what it holds.
    fn field(&mut self) -> Option<(u8, Vec<u8>)> {
        let length = self.number(4)? as usize;
        Some((self.byte()?, self.bytes(length.checked_sub(1)?)?))
    }
}

impl Request {
    const BATCH: u8 = 41;
    const REPEAT: u8 = 1;
    const INFO: u8 = 2;
    const GENERATION: u8 = 4;
    const TTL: u8 = 8;

    fn parse(body: &[u8]) -> Option<Requests> {
        let mut reader = Reader(body);
        let mut request = Request::default();
        reader.bytes(2)?;
        request.flags(reader.byte()?, reader.byte()?);
        reader.bytes(6)?;
        request.ttl = reader.number(4)?;
        reader.bytes(4)?;
        let (fields, operations) = (reader.number(2)?, reader.number(2)?);
        let batch = request.fields_and_operations(&mut reader, fields, operations)?;
        match batch {
            None => Some(Requests { rows: vec![request], in_batch: false }),
            Some(batch) => Some(Requests { rows: Request::rows(&batch)?, in_batch: true }),
        }
    }

    /// Rows with a head of their own, or that of the row before.
    fn rows(batch: &[u8]) -> Option<Vec<Request>> {
        let mut reader = Reader(batch);
        let count = reader.number(4)?;
        reader.byte()?;
        let mut rows: Vec<Request> = Vec::new();
        for _ in 0..count {
            let (index, digest) = (reader.number(4)?, reader.bytes(20)?);
            let has = reader.byte()?;
            let mut row = Request::default();
            if has & Request::REPEAT != 0 {
                row = rows.last()?.clone();
            } else {
                assert_eq!(has & Request::INFO, Request::INFO, "as the client writes it");
                let info = reader.bytes(3)?;
                row.flags(info[1], info[2]);
                if has & Request::GENERATION != 0 {
                    reader.bytes(2)?;
                }
                if has & Request::TTL != 0 {
                    row.ttl = reader.number(4)?;
                }
                let (fields, operations) = (reader.number(2)?, reader.number(2)?);
                row.fields_and_operations(&mut reader, fields, operations)?;
            }
            rows.push(Request { index, digest, ..row });
        }
        Some(rows)
    }

    fn flags(&mut self, info2: u8, info3: u8) {
        self.all_replicas = info3 & 0x02 == 0;
        self.writes = info2 & 0x01 != 0;
        self.deletes = info2 & 0x02 != 0;
        self.create_only = info2 & 0x20 != 0;
    }

    /// The batch, if there is one among the fields.
    fn fields_and_operations(
        &mut self,
        reader: &mut Reader<'_>,
        fields: u32,
        operations: u32,
    ) -> Option<Option<Vec<u8>>> {
        let mut batch = None;
        for _ in 0..fields {
            match reader.field()? {
                (0, value) => self.namespace = value,
                (4, value) => self.digest = value,
                (Request::BATCH, value) => batch = Some(value),
                _ => {}
            }
        }
        for _ in 0..operations {
            let length = reader.number(4)? as usize;
            let bytes = reader.bytes(length)?;
            let mut operation = Reader(&bytes);
            operation.byte()?;
            let particle = operation.byte()?;
            operation.byte()?;
            let name_length = usize::from(operation.byte()?);
            self.bin = (operation.bytes(name_length)?, particle, operation.0.to_vec());
        }
        Some(batch)
    }
}
