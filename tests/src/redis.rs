//! Real Redis servers on hosts of their own.

use crate::{Host, Net, Process, eventually};
use tempfile::TempDir;

/// One server on port 6379.
pub struct Redis {
    pub host: Host,
    process: Process,
    _dir: TempDir,
}

impl Redis {
    /// Starts a server on a new host and waits until it answers.
    pub fn start(net: &Net, name: &str) -> Redis {
        Redis::with(net.host(name), "")
    }

    fn with(host: Host, more: &str) -> Redis {
        let dir = directory();
        let mut command = host.command("redis-server");
        command.args(["--port", "6379", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""]);
        command.arg("--dir").arg(dir.path()).args(more.split_whitespace());
        let process = Process::spawn("redis-server", command);
        let redis = Redis { host, process, _dir: dir };
        assert!(eventually(15.0, || redis.ask("PING").contains("PONG")), "{}", redis.process.output());
        redis
    }

    /// Address for `--redis-addr`.
    pub fn address(&self) -> String {
        format!("10.10.0.{}:6379", self.host.number)
    }

    /// Sends a signal to the server (`STOP`: it hangs).
    pub fn signal(&self, signal: &str) {
        self.process.signal(signal);
    }

    /// The server's answer to a command.
    pub fn ask(&self, command: &str) -> String {
        ask(&self.host, 6379, command)
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
        assert!(eventually(30.0, || set.is_ready()), "the Sentinels never saw each other and the replica");
        set
    }

    fn is_ready(&self) -> bool {
        let linked = self.replica.ask("INFO replication").contains("master_link_status:up");
        let knows = |port: &u16| {
            let answer = ask(&self.host, *port, "SENTINEL MASTER main");
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
        self.master.process.signal("KILL");
        self.master.process.wait(10.0);
        let promoted = || self.replica.ask("ROLE").starts_with("master");
        assert!(eventually(30.0, promoted), "the replica was never promoted");
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
    let mut command = host.command("redis-server");
    command.arg(&file).args(["--sentinel", "--dir"]).arg(dir.path());
    (Process::spawn("sentinel", command), dir)
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap_or_else(|error| panic!("temporary directory: {error}"))
}

fn ask(host: &Host, port: u16, command: &str) -> String {
    let mut cli = host.command("redis-cli");
    let output = cli.args(["-p", &port.to_string()]).args(command.split_whitespace()).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}
