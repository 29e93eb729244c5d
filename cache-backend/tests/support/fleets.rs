//! Several servers that belong together: a Cluster, a Sentinel set.

use super::{Process, Server, free_port, settings};
use cache_backend::{RedisSettings, RedisTopology};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Three masters that share the slots evenly, and a replica of the first one.
pub struct Cluster {
    pub masters: Vec<Server>,
    pub replica: Server,
}

/// Gossip is as quick as the node timeout is short; no failover by itself, tests say when.
const CLUSTER: &[&str] = &[
    "--cluster-enabled",
    "yes",
    "--cluster-config-file",
    "nodes",
    "--cluster-node-timeout",
    "1500",
    "--cluster-replica-no-failover",
    "yes",
    "--cluster-require-full-coverage",
    "no",
];

impl Cluster {
    pub fn start() -> Cluster {
        for _ in 0..10 {
            if let Some(cluster) = Cluster::try_start() {
                return cluster;
            }
        }
        panic!("a Cluster does not start");
    }

    /// The nodes find the whole Cluster in their configuration files and need not meet first.
    fn try_start() -> Option<Cluster> {
        let ports: [u16; 4] = std::array::from_fn(|_| free_port());
        let slots = ["0-5460", "5461-10922", "10923-16383", ""];
        let start = |own: usize| {
            let line = |node: usize| {
                let (id, port) = (format!("{:040x}", node + 1), ports[node]);
                let myself = if node == own { "myself," } else { "" };
                let role = if node == 3 { format!("slave {:040x}", 1) } else { "master -".to_owned() };
                let (bus, epoch, slots) = (port + 10_000, node % 3 + 1, slots[node]);
                format!("{id} 127.0.0.1:{port}@{bus} {myself}{role} 0 0 {epoch} connected {slots}\n")
            };
            let nodes: String = (0..4).map(line).collect();
            Server::at(
                ports[own],
                CLUSTER,
                &[("nodes", &format!("{nodes}vars currentEpoch 3 lastVoteEpoch 0\n"))],
            )
        };
        let masters = (0..3).map(start).collect::<Option<Vec<Server>>>()?;
        let cluster = Cluster { masters, replica: start(3)? };
        cluster.wait("the Cluster is whole", |server| {
            server.ask(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
        });
        Some(cluster)
    }

    fn wait(&self, what: &str, done: impl Fn(&Server) -> bool) {
        let began = Instant::now();
        while !self.masters.iter().chain([&self.replica]).all(&done) {
            assert!(began.elapsed() < super::PATIENCE, "it never happened: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn id(&self, master: usize) -> String {
        let answer = self.masters[master].ask(&["CLUSTER", "MYID"]);
        answer.lines().nth(1).expect("an id").to_owned()
    }

    /// The first two masters as seeds; the topology is found out.
    pub fn settings(&self) -> RedisSettings {
        let mut settings = settings(self.masters[0].address());
        settings.addresses.push(self.masters[1].address());
        settings
    }
}

/// A master, its replica and three Sentinels that watch it as `main`.
pub struct SentinelSet {
    pub servers: [Server; 2],
    sentinels: Vec<(Process, TempDir, u16)>,
}

impl SentinelSet {
    pub fn start() -> SentinelSet {
        let master = Server::start(&[]);
        let replica = Server::start(&["--replicaof", &format!("127.0.0.1 {}", master.port)]);
        let sentinels = (0..3).map(|_| SentinelSet::sentinel(master.port)).collect();
        let set = SentinelSet { servers: [master, replica], sentinels };
        let began = Instant::now();
        while !set.is_ready() {
            assert!(began.elapsed() < super::PATIENCE, "the Sentinels never saw each other and the replica");
            std::thread::sleep(Duration::from_millis(50));
        }
        set
    }

    fn sentinel(master: u16) -> (Process, TempDir, u16) {
        let dir = tempfile::Builder::new().prefix("oc-sentinel").tempdir().expect("temporary directory");
        let port = free_port();
        let config = format!(
            "port {port}\nbind 127.0.0.1\nlogfile log\nsentinel monitor main 127.0.0.1 {master} 2\n\
             sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n"
        );
        std::fs::write(dir.path().join("conf"), config).expect("written");
        let process = Process::start(
            Command::new(tests::redis::server()).args(["conf", "--sentinel"]).current_dir(dir.path()),
        );
        (process, dir, port)
    }

    fn is_ready(&self) -> bool {
        self.sentinels.iter().all(|(_, _, port)| {
            let output = Command::new("redis-cli")
                .args(["-p", &port.to_string(), "SENTINEL", "MASTER", "main"])
                .output();
            let text =
                output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
            let field = |name: &str| {
                text.lines().skip_while(|line| *line != name).nth(1).unwrap_or_default().to_owned()
            };
            field("num-slaves") == "1" && field("num-other-sentinels") == "2" && field("flags") == "master"
        }) && self.servers[1].ask(&["INFO", "replication"]).contains("master_link_status:up")
    }

    pub fn settings(&self) -> RedisSettings {
        let mut settings = settings("");
        settings.addresses = self.sentinels.iter().map(|(_, _, port)| format!("127.0.0.1:{port}")).collect();
        settings.topology =
            RedisTopology::Sentinel { master: "main".to_owned(), credential: None, data_tls: false };
        settings.remote.op_timeout = Duration::from_millis(500);
        settings
    }
}
