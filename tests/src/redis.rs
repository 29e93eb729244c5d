//! Real Redis servers on hosts of their own.

use crate::{Host, Net, Process, eventually};
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

/// The server's program: `ONCECAST_REDIS_SERVER` (a Valkey, say), or what the system has.
pub fn server() -> std::ffi::OsString {
    std::env::var_os("ONCECAST_REDIS_SERVER").unwrap_or_else(|| "redis-server".into())
}

/// One server on port 6379, without persistence.
pub struct Redis {
    pub host: Host,
    arguments: Vec<String>,
    process: Option<Process>,
    dir: TempDir,
}

impl Redis {
    /// `None`, said loudly, where namespaces or `redis-server` are missing.
    pub fn world() -> Option<Net> {
        if Command::new(server()).arg("--version").output().is_err() {
            crate::skipped("redis-server (Debian: apt-get install redis-server)");
            return None;
        }
        Net::new()
    }

    /// Starts a server on a new host and waits until it answers.
    pub fn start(net: &Net, name: &str) -> Redis {
        Redis::with(net.host(name), "")
    }

    /// The same on `host`, with further arguments.
    pub fn with(host: Host, more: &str) -> Redis {
        let arguments = more.split_whitespace().map(str::to_owned).collect();
        let mut redis = Redis { host, arguments, process: None, dir: directory() };
        redis.restart();
        redis
    }

    /// Starts it again, empty, and waits until it answers.
    pub fn restart(&mut self) {
        self.kill();
        let mut command = self.host.command(server());
        command.args(["--port", "6379", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""]);
        command.arg("--unixsocket").arg(self.socket());
        command.arg("--dir").arg(self.dir.path()).args(&self.arguments);
        let process = self.process.insert(Process::spawn("redis-server", command));
        let (host, output) = (&self.host, || process.output());
        let lives = || {
            let answer = ask(host, 6379, &["PING"]);
            answer.contains("PONG") || answer.contains("NOAUTH")
        };
        assert!(eventually(lives), "{}", output());
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// The server, while it lives.
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// Its unix socket: reached from every namespace.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// Address for `--redis-addr`.
    pub fn address(&self) -> String {
        format!("10.10.0.{}:6379", self.host.number)
    }

    /// Sends a signal to the server (`STOP`: it hangs).
    pub fn signal(&self, signal: &str) {
        self.process.iter().for_each(|process| process.signal(signal));
    }

    /// The server's answer to a command.
    pub fn ask(&self, command: &str) -> String {
        self.ask_words(&command.split_whitespace().collect::<Vec<_>>())
    }

    /// The same for words that contain blanks.
    pub fn ask_words(&self, words: &[&str]) -> String {
        ask(&self.host, 6379, words)
    }
}

/// A master, its replica and three Sentinels on the replica's host that watch it as `main`.
pub struct Sentinels {
    pub master: Redis,
    pub replica: Redis,
    host: Host,
    _processes: Vec<(Process, TempDir)>,
}

const SENTINEL_PORTS: [u16; 3] = [26379, 26380, 26381];

impl Sentinels {
    /// Starts all and waits until they know each other.
    pub fn start(net: &Net) -> Sentinels {
        let master = Redis::start(net, "redis1");
        let follow = format!("--replicaof 10.10.0.{} 6379", master.host.number);
        let replica = Redis::with(net.host("redis2"), &follow);
        let host = net.host("sentinels");
        let processes = SENTINEL_PORTS.map(|port| sentinel(&host, port, master.host.number)).into();
        let set = Sentinels { master, replica, host, _processes: processes };
        assert!(eventually(|| set.is_ready()), "the Sentinels never saw each other and the replica");
        set
    }

    fn is_ready(&self) -> bool {
        let linked = self.replica.ask("INFO replication").contains("master_link_status:up");
        let knows = |port: &u16| {
            let answer = ask(&self.host, *port, &["SENTINEL", "MASTER", "main"]);
            let field = |name: &str| answer.lines().skip_while(|line| *line != name).nth(1);
            field("num-slaves") == Some("1") && field("num-other-sentinels") == Some("2")
        };
        linked && SENTINEL_PORTS.iter().all(knows)
    }

    /// Options of a role that uses this set.
    pub fn options(&self) -> String {
        let address = |port: &u16| format!("10.10.0.{}:{port}", self.host.number);
        let addresses: Vec<String> = SENTINEL_PORTS.iter().map(address).collect();
        format!("--redis-addr {} --redis-topology sentinel --redis-sentinel-master main", addresses.join(","))
    }

    /// `kill -9` of the master; returns once the replica was made master.
    pub fn fail_over(&mut self) {
        self.master.kill();
        let promoted = || self.replica.ask("ROLE").starts_with("master");
        assert!(eventually(promoted), "the replica was never promoted");
    }
}

fn sentinel(host: &Host, port: u16, master: u8) -> (Process, TempDir) {
    let dir = directory();
    let config = format!(
        "port {port}\nbind 0.0.0.0\nprotected-mode no\nsentinel monitor main 10.10.0.{master} 6379 2\n\
         sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n"
    );
    let file = dir.path().join("conf");
    std::fs::write(&file, config).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut command = host.command(server());
    command.arg(&file).args(["--sentinel", "--dir"]).arg(dir.path());
    (Process::spawn("sentinel", command), dir)
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap_or_else(|error| panic!("temporary directory: {error}"))
}

fn ask(host: &Host, port: u16, words: &[&str]) -> String {
    let mut cli = host.command("redis-cli");
    let output = cli.args(["-p", &port.to_string()]).args(words).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
