//! Proxies that share a real Redis, each process on a host of its own behind one bridge.
//!
//! ```text
//! sender ──┐            ┌── redis-server
//!          ├── bridge ──┤
//! sink ────┘            └── proxy, proxy
//! ```

use crate::net::network;
use crate::process::{Oncecast, Process, pin};
use crate::rig::Places;
use crate::traffic;
use anyhow::Context;
use std::collections::BTreeMap;
use tests::redis::Redis;
use tests::{Host, Net};

/// See the module text.
pub struct Shared {
    /// Makes the load and is asked for figures. It is also what is measured, unless another binary is.
    pub oncecast: Oncecast,
    /// Sends.
    pub sender: Host,
    /// Where proxies run.
    pub proxies: [Host; 2],
    /// Receives from the groups.
    pub sink: Host,
    /// The server.
    pub redis: Redis,
    /// Which core does what.
    pub cores: Cores,
    /// Fewer and shorter runs.
    pub quick: bool,
    _net: Net,
}

/// Cores of the processes.
pub struct Cores {
    pub sender: usize,
    /// One for each proxy.
    pub proxies: [usize; 2],
    /// The same as the second proxy's: it has little to do where that runs.
    pub sink: usize,
    pub redis: usize,
}

/// The bytes of a claim: `bsp:tx:` and 64 digits, of which redis-benchmark draws twelve; a value of 33 bytes.
const KEY: &str = "bsp:tx:00112233445566778899aabbccddeeff00112233445566778899__rand_int__";
const VALUE: &str = "vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv";

impl Shared {
    /// Needs root, iproute2 and redis-server.
    pub fn new(oncecast: Oncecast, quick: bool) -> anyhow::Result<Shared> {
        let server = std::process::Command::new("redis-server").arg("--version").output();
        server.context("redis-server is not installed (Debian: apt-get install redis-server)")?;
        let net = network()?;
        let cores = Places::core;
        let cores =
            Cores { sender: cores(0), proxies: [cores(1), cores(2)], sink: cores(2), redis: cores(3) };
        // No thread of the server may wander to a core that is measured.
        let redis = Redis::start(&net, "redis");
        pin(redis.process().context("redis-server")?.id(), &[cores.redis])?;
        let (sender, sink) = (net.host("sender"), net.host("sink"));
        let proxies = [net.host("proxy1"), net.host("proxy2")];
        Ok(Shared { oncecast, sender, proxies, sink, redis, cores, quick, _net: net })
    }

    /// Starts a proxy and waits until it is ready.
    pub fn proxy(&self, which: usize, options: &str) -> anyhow::Result<Process> {
        self.proxy_of(&self.oncecast, which, options)
    }

    /// The same, from another binary.
    pub fn proxy_of(&self, oncecast: &Oncecast, which: usize, options: &str) -> anyhow::Result<Process> {
        let args = format!("proxy --iface eth0 --workers 1 {options}");
        oncecast.role(&self.proxies[which], &[self.cores.proxies[which]], &args)
    }

    /// Options of a proxy that claims in the server.
    pub fn with_redis(&self) -> String {
        format!("--cache-backend redis --redis-addr {}", self.redis.address())
    }

    /// Ingress address of a proxy.
    pub fn ingress(&self, which: usize) -> String {
        format!("[{}]:8725", self.proxies[which].v6())
    }

    /// A generator towards the first proxy, that waits to begin; all its ids are new.
    pub fn generator(&self, options: &str) -> anyhow::Result<Process> {
        let (block, to) = (traffic::block_file(), self.ingress(0));
        let args = format!("bench generate {} --to {to} --wait {options}", block.display());
        let mut generator = self.oncecast.start(&self.sender, &[self.cores.sender], &args)?;
        generator.wait_ready()?;
        Ok(generator)
    }

    /// An empty server.
    pub fn flush(&self) {
        self.redis.ask("FLUSHALL SYNC");
    }

    /// A server whose tables have room for [`Shared::room`] more claims: while they grow, the server moves old keys beside each
    /// command and is four times slower for half a second, which says nothing about a server that holds its ids.
    pub fn steady(&self) -> anyhow::Result<()> {
        self.flush();
        // Beyond the last doubling by enough commands to have moved all that was there.
        let keys = self.tables() / 2 * 14 / 10;
        let fill = format!(
            "for i = 1, {keys} do redis.call('SET', 'fill:' .. i, '{VALUE}', 'PX', 600000) end return 1"
        );
        let answer = self.redis.ask_words(&["EVAL", &fill, "0"]);
        anyhow::ensure!(answer == "1", "filling the server: {answer}");
        Ok(())
    }

    /// Claims that a steady server takes before its tables double again.
    pub fn room(&self) -> usize {
        self.tables() * 28 / 100
    }

    /// Places in the tables of a steady server.
    fn tables(&self) -> usize {
        if self.quick { 1 << 19 } else { 1 << 20 }
    }

    /// Calls of each command since the counts were reset.
    pub fn commands(&self) -> BTreeMap<String, f64> {
        let text = self.redis.ask("INFO commandstats");
        let calls = |line: &str| {
            let (name, rest) = line.trim().strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
        };
        text.lines().filter_map(calls).collect()
    }

    /// Claims a second of `redis-benchmark` from the host and the core of the first proxy.
    pub fn reference(&self, requests: usize) -> anyhow::Result<f64> {
        let core = self.cores.proxies[0].to_string();
        let (host, requests) = (format!("10.10.0.{}", self.redis.host.number), requests.to_string());
        let mut command = self.proxies[0].command("taskset");
        command.args([
            "-c",
            &core,
            "redis-benchmark",
            "-h",
            &host,
            "-c",
            "1",
            "-P",
            "256",
            "-r",
            "100000000",
        ]);
        command.args(["-n", &requests, "--csv", "SET", KEY, VALUE, "NX", "GET", "PX", "600000"]);
        let output = command.output().context("redis-benchmark")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // The last line is "name","requests a second",…
        let rate = text.lines().last().and_then(|line| line.split("\",\"").nth(1)?.parse().ok());
        rate.with_context(|| format!("redis-benchmark printed {text:?}"))
    }
}
