//! Whose prefix of the shared store it is: two fabrics on one prefix are refused, with real proxies and a real Redis.

use tests::fleet::PROXY_ADMIN;
use tests::process::{role, run};
use tests::redis::Redis;
use tests::{Host, Net, Process, eventually};

/// A word that lives for 4.5 s and is looked at every 1.1 s.
const PROXY: &str = "proxy --iface eth0 --workers 1 --txid-dedup-ttl 4s";

struct World {
    redis: Redis,
    hosts: Vec<Host>,
    _net: Net,
}

impl World {
    fn new(hosts: usize) -> Option<World> {
        let net = Redis::world()?;
        let redis = Redis::start(&net, "redis");
        let hosts = (1..=hosts).map(|number| net.host(&format!("proxy{number}"))).collect();
        Some(World { redis, hosts, _net: net })
    }

    fn args(&self, more: &str) -> String {
        format!("{PROXY} --redis-addr {} {more}", self.redis.address())
    }

    /// A proxy that is ready.
    fn starts(&self, host: usize, more: &str) -> Process {
        role(&self.hosts[host], PROXY_ADMIN, &self.args(more))
    }

    /// A proxy whose start fails, and what it says.
    fn is_refused(&self, host: usize, more: &str) -> String {
        let (ok, _, error) = run(&self.hosts[host], &format!("{} --metrics-addr off", self.args(more)), 20.0);
        assert!(!ok, "started: {error}");
        error
    }

    fn word(&self) -> String {
        self.redis.ask("GET bsp:fabric:")
    }

    fn readiness(&self, host: usize) -> String {
        run(&self.hosts[host], &format!("status 127.0.0.1:{PROXY_ADMIN} --page readyz"), 10.0).1
    }
}

#[test]
fn two_fabrics_on_one_prefix_are_refused_and_the_error_names_both_and_the_ways_out() {
    let Some(world) = World::new(3) else { return };
    let _first = world.starts(0, "");
    let _sibling = world.starts(1, "");
    let error = world.is_refused(2, "--shard-bits 3");
    for part in [
        "--txid-dedup-prefix \"bsp:tx:\"",
        "egress-port=9001 shard-bits=2",
        "egress-port=9001 shard-bits=3",
        "--fabric-name",
        "--fabric-check=replace",
    ] {
        assert!(error.contains(part), "{part} is missing: {error}");
    }
    assert!(world.is_refused(2, "--mc-group-id 0x000C").contains("mc-group-id=0x000C"));
    // A prefix of its own; another style of keys is another key space.
    drop(world.starts(2, "--shard-bits 3 --txid-dedup-prefix other:tx:"));
    drop(world.starts(2, "--shard-bits 3 --claim-keys compact"));
    drop(world.starts(2, "--shard-bits 3 --fabric-check off"));
    assert!(world.word().contains("shard-bits=2"), "{}", world.word());
}

#[test]
fn a_fabric_that_is_changed_on_purpose_takes_the_prefix_and_the_old_nodes_say_so() {
    let Some(world) = World::new(2) else { return };
    let old = world.starts(0, "");
    assert!(world.readiness(0).contains("shard-bits=2"), "{}", world.readiness(0));
    let new = world.starts(1, "--shard-bits 3 --fabric-check replace");
    assert!(new.stderr().contains("another fabric's and is ours now"), "{}", new.stderr());
    let told = || world.readiness(0).contains("the prefix of the claims is another fabric's");
    assert!(eventually(told), "{}", world.readiness(0));
    assert!(world.readiness(0).contains("\"ready\":true"), "it goes on: {}", world.readiness(0));
    drop(old);
    assert!(world.is_refused(0, "").contains("shard-bits=3"));
    drop(world.starts(0, "--shard-bits 3"));
}

#[test]
fn nodes_with_one_fabric_name_are_one_fabric_whatever_their_addresses() {
    let Some(world) = World::new(2) else { return };
    let _one = world.starts(0, "--fabric-name north");
    drop(world.starts(1, "--fabric-name north --egress-port 9002"));
    let error = world.is_refused(1, "--fabric-name south");
    assert!(error.contains("fabric-name=north") && error.contains("fabric-name=south"), "{error}");
}

#[test]
fn the_word_lives_as_long_as_a_node_of_its_fabric_and_not_for_ever() {
    let Some(world) = World::new(2) else { return };
    let first = world.starts(0, "");
    // Written again twice: without that it would be gone.
    for _ in 0..2 {
        let mut least = i64::MAX;
        let renewed = || {
            let life = world.redis.ask("PTTL bsp:fabric:").parse().unwrap_or(0);
            least = least.min(life);
            life > least
        };
        assert!(eventually(renewed));
    }
    assert!(world.is_refused(1, "--shard-bits 3").contains("shard-bits=2"));
    drop(first);
    assert!(eventually(|| world.word().is_empty()), "{}", world.word());
    drop(world.starts(1, "--shard-bits 3"));
}

#[test]
fn a_store_that_lost_its_keys_is_told_again() {
    let Some(mut world) = World::new(1) else { return };
    let _proxy = world.starts(0, "");
    world.redis.restart();
    assert!(eventually(|| world.word().contains("shard-bits=2")), "{}", world.word());
}
