//! Real servers for tests: each in a directory of its own, stopped and removed on drop, also after a panic.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file is a crate of its own and uses a part of the fixture"
)]

pub mod fake;
pub mod fleets;

use cache_backend::{Answers, Backend, Claimed, KeyValues, OpErrorKind, RedisSettings, Session, Settings};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Nothing in these tests waits longer for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// True where `redis-server` can be started. A test that returns early because of this says so, loudly.
pub fn redis_is_installed() -> bool {
    let there = Command::new(tests::redis::server()).arg("--version").stdout(Stdio::null()).status().is_ok();
    if !there {
        tests::skipped("redis-server (Debian: apt-get install redis-server)");
    }
    there
}

/// A process that dies with its owner.
pub struct Process(Child);

impl Process {
    pub fn start(command: &mut Command) -> Process {
        Process(
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts"),
        )
    }
    pub fn signal(&self, signal: &str) {
        let id = self.0.id().to_string();
        let status = Command::new("kill").args(["-s", signal, &id]).status().expect("kill runs");
        assert!(status.success(), "kill -s {signal} {id}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that was free a moment ago. A server that loses it to somebody else is started again on another.
pub fn free_port() -> u16 {
    // Below the ephemeral range, where outgoing connections of other tests would take it away again; a Cluster bus
    // needs the port 10000 higher as well.
    loop {
        let port = 10_000 + rand::random_range(0..12_000);
        let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if free(port) && free(port + 10_000) {
            return port;
        }
    }
}

/// One `redis-server`.
pub struct Server {
    process: Option<Process>,
    pub dir: TempDir,
    pub port: u16,
    arguments: Vec<String>,
    /// How the fixture itself talks to it.
    admin: Vec<u8>,
}

impl Server {
    /// With extra arguments as in a configuration line: `&["--maxmemory", "2mb"]`.
    pub fn start(arguments: &[&str]) -> Server {
        Server::start_with_files(arguments, &[])
    }

    pub fn start_with_files(arguments: &[&str], files: &[(&str, &str)]) -> Server {
        for _ in 0..10 {
            if let Some(server) = Server::at(free_port(), arguments, files) {
                return server;
            }
        }
        panic!("redis-server does not start");
    }

    /// At a given port; `None` if somebody else took it meanwhile.
    pub fn at(port: u16, arguments: &[&str], files: &[(&str, &str)]) -> Option<Server> {
        let dir = tempfile::Builder::new().prefix("oc-redis").tempdir().expect("temporary directory");
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).expect("written");
        }
        let arguments =
            arguments.iter().map(|a| a.replace("{dir}", &dir.path().display().to_string())).collect();
        let mut server = Server { process: None, dir, port, arguments, admin: Vec::new() };
        server.restart();
        server.comes_up().then_some(server)
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
    pub fn unix_address(&self) -> String {
        format!("unix://{}", self.socket().display())
    }
    pub fn settings(&self) -> RedisSettings {
        settings(self.address())
    }

    pub fn kill(&mut self) {
        self.process = None;
    }
    pub fn restart(&mut self) {
        self.process = None;
        let mut command = Command::new(tests::redis::server());
        command.current_dir(self.dir.path());
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--unixsocket", "s"]);
        command.args(["--save", "", "--appendonly", "no", "--loglevel", "warning", "--logfile", "log"]);
        command.args(&self.arguments);
        self.process = Some(Process::start(&mut command));
    }
    pub fn comes_up(&mut self) -> bool {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if let Some(process) = &mut self.process
                && process.0.try_wait().expect("waits").is_some()
            {
                return false;
            }
            if self
                .try_ask(&["PING"])
                .is_some_and(|answer| answer.contains("PONG") || answer.contains("NOAUTH"))
            {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }
    pub fn stop(&self) {
        self.process.as_ref().expect("runs").signal("STOP");
    }
    pub fn go_on(&self) {
        self.process.as_ref().expect("runs").signal("CONT");
    }

    /// One command over the unix socket; the raw reply.
    pub fn ask(&self, words: &[&str]) -> String {
        self.try_ask(words).unwrap_or_else(|| panic!("no answer to {words:?}"))
    }
    /// Commands that must be answered with success.
    pub fn must(&self, words: &[&str]) {
        let answer = self.ask(words);
        assert!(!answer.starts_with('-'), "{words:?}: {answer}");
    }
    fn try_ask(&self, words: &[&str]) -> Option<String> {
        let mut stream = std::os::unix::net::UnixStream::connect(self.socket()).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let mut command = self.admin.clone();
        put(&mut command, words);
        put(&mut command, &["QUIT"]);
        stream.write_all(&command).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.strip_suffix("+OK\r\n").map(str::to_owned)
    }
    /// Milliseconds that a key has left; `None` if it has no end.
    pub fn ttl(&self, key: &str) -> Option<u64> {
        let answer = self.ask(&["PTTL", key]);
        answer.trim().strip_prefix(':').and_then(|number| number.parse().ok())
    }
    /// From now on the fixture authenticates.
    pub fn set_admin(&mut self, password: &str) {
        // AUTH answers +OK, which stays in front of every answer.
        put(&mut self.admin, &["AUTH", password]);
    }
}

fn put(out: &mut Vec<u8>, words: &[&str]) {
    out.extend(format!("*{}\r\n", words.len()).bytes());
    words.iter().for_each(|word| out.extend(format!("${}\r\n{word}\r\n", word.len()).bytes()));
}

/// Settings that give up soon at start, and wait long for answers, so that a busy machine changes no outcome.
pub fn settings(address: impl Into<String>) -> RedisSettings {
    let mut settings = RedisSettings::new(address);
    settings.remote.boot_patience = Duration::from_millis(600);
    settings.remote.op_timeout = Duration::from_secs(5);
    settings.remote.deadline_floor = Duration::from_secs(5);
    settings.remote.dial_timeout = Duration::from_secs(3);
    settings
}

/// Settings with the deadlines of production, for tests of what happens when they are missed.
pub fn impatient(address: impl Into<String>) -> RedisSettings {
    RedisSettings::new(address)
}

pub async fn open(settings: RedisSettings) -> (Arc<dyn Backend>, Box<dyn Session>) {
    let backend =
        cache_backend::open(Settings::Redis(Box::new(settings))).await.expect("opens").expect("a backend");
    let session = backend.session().await.expect("a session");
    (backend, session)
}

pub async fn open_error(settings: RedisSettings) -> String {
    match cache_backend::open(Settings::Redis(Box::new(settings))).await {
        Ok(_) => panic!("it opened"),
        Err(error) => error.0,
    }
}

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

pub const TTL: Duration = Duration::from_secs(60);

/// Keys `name:from` to `name:to`, each with the value given.
pub fn pairs(name: &str, range: std::ops::Range<usize>, value: &str) -> KeyValues {
    let mut batch = KeyValues::new();
    range.for_each(|i| batch.push(format!("{name}:{i}").as_bytes(), value.as_bytes()));
    batch
}

pub fn kinds<T>(answers: &Answers<T>) -> Vec<OpErrorKind> {
    answers.iter().filter_map(|answer| answer.as_ref().err().map(|error| error.kind)).collect()
}

pub fn created(answers: &Answers<Claimed>) -> usize {
    answers.iter().filter(|answer| matches!(answer, Ok(Claimed::Created))).count()
}

pub fn existing(answers: &Answers<Claimed>, value: &str) -> usize {
    answers
        .iter()
        .filter(|answer| matches!(answer, Ok(Claimed::Exists(old)) if old == value.as_bytes()))
        .count()
}

/// Tries until `attempt` says true.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut attempt: impl FnMut() -> F) {
    let began = Instant::now();
    while !attempt().await {
        assert!(began.elapsed() < PATIENCE, "it never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Claims fresh keys until all of one batch are created.
pub async fn eventually_claims(what: &str, session: &dyn Session) {
    eventually(what, || async {
        let name = format!("again:{}", rand::random::<u64>());
        created(&session.claim(pairs(&name, 0..16, "v"), TTL, soon()).await) == 16
    })
    .await;
}

/// A test CA with a server certificate for `localhost` and `127.0.0.1`, made with the `openssl` command line.
pub fn make_ca(dir: &Path) -> bool {
    let run = |arguments: &[&str]| {
        let mut command = Command::new("openssl");
        command.current_dir(dir).args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    std::fs::write(dir.join("ext"), "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
        .expect("written");
    let ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let ca = ["req", "-x509", "-subj", "/CN=test CA", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem"];
    let request = ["req", "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr"];
    let sign = "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out server.pem";
    run(&[&ca[..], &ec[..]].concat())
        && run(&[&request[..], &ec[..]].concat())
        && run(&sign.split(' ').collect::<Vec<_>>())
}

/// True once something accepts connections at `port`.
pub fn accepts(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}
