//! Bytes that an id does not prove: whoever forges them suppresses nobody's.
//!
//! Two proxies on one Redis, a listener and its consumer. Senders have networks of their own, as a proxy counts by them.

use std::fmt::Write as _;
use tests::fleet::{LISTENER_ADMIN, PROXY_ADMIN};
use tests::process::{metric, oncecast, role, run};
use tests::redis::Redis;
use tests::{Host, Net, Process, eventually};

/// A transaction, different for each `n`.
fn raw(n: u8) -> Vec<u8> {
    let mut bytes = inputs(n);
    bytes.extend_from_slice(&outputs());
    bytes
}

/// The same in Extended Format: its id does not prove `amount`.
fn extended(n: u8, amount: u64) -> Vec<u8> {
    let mut bytes = inputs(n);
    bytes.splice(4..4, [0, 0, 0, 0, 0, 0xEF]);
    bytes.extend_from_slice(&amount.to_le_bytes());
    bytes.extend_from_slice(&[2, 0x51, 0x52]);
    bytes.extend_from_slice(&outputs());
    bytes
}

fn inputs(n: u8) -> Vec<u8> {
    let mut bytes = vec![1, 0, 0, 0, 1];
    bytes.extend_from_slice(&[n; 36]);
    bytes.extend_from_slice(&[1, 0x6A, 0xFF, 0xFF, 0xFF, 0xFF]);
    bytes
}

fn outputs() -> [u8; 14] {
    [1, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

struct World {
    net: Net,
    proxies: Vec<(Host, Process)>,
    listener: (Host, Process),
    consumer: Process,
    redis: Redis,
}

impl World {
    fn start(options: &str) -> Option<World> {
        let net = Net::new()?;
        let redis = Redis::start(&net, "redis");
        let store = format!("--redis-addr {}", redis.address());
        let host = net.host("listener");
        let consumer = Process::start(&host, "recv --listen tcp://127.0.0.1:9100 --print");
        let listen = format!("listener --iface eth0 --workers 1 --egress-proto tcp {store} {options}");
        let listener = role(&host, LISTENER_ADMIN, &format!("{listen} --deployment-id shop"));
        let proxies = (1..=2).map(|number| {
            let host = net.host(&format!("proxy{number}"));
            let proxy = format!("proxy --iface eth0 --workers 1 {store} {options}");
            let process = role(&host, PROXY_ADMIN, &proxy);
            (host, process)
        });
        let proxies = proxies.collect();
        Some(World { net, proxies, listener: (host, listener), consumer, redis })
    }

    /// A host in a network of its own, and only there.
    fn sender(&self, name: &str) -> Host {
        let host = self.net.host(name);
        let moved = host
            .command("sh")
            .args(["-c", "ip -6 addr flush dev eth0 scope global && ip -6 route add fd10::/64 dev eth0"])
            .status();
        assert!(moved.expect("ip").success());
        host
    }

    /// Sends each transaction from the network of its number to a proxy, in order.
    fn send(&self, from: &Host, proxy: usize, transactions: &[(u16, Vec<u8>)]) {
        let to = format!("udp://[{}]:8725", self.proxies[proxy].0.v6());
        let binary = oncecast();
        let mut script = String::from("set -e\n");
        for (network, bytes) in transactions {
            let address = format!("fd11:0:0:{network:x}::1/64 dev eth0");
            let send = format!("{} send {} --to {to}", binary.display(), hex::encode(bytes));
            let _ = writeln!(script, "ip -6 addr add {address} nodad\n{send}\nip -6 addr del {address}");
        }
        let output = from.command("sh").args(["-c", &script]).output().expect("sh");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Of the proxies together.
    fn count(&self, name: &str) -> f64 {
        self.proxies.iter().map(|(host, _)| metric(host, PROXY_ADMIN, name)).sum()
    }

    /// What the consumer got so far.
    fn delivered(&self) -> Vec<Vec<u8>> {
        self.consumer.stdout().lines().map(|line| hex::decode(line.trim()).expect("hex")).collect()
    }

    /// Waits until the proxies decided about `frames` frames and the listener about all that they sent, then says what was
    /// delivered.
    fn settled(&self, frames: usize) -> Vec<Vec<u8>> {
        let decided =
            || self.count("bsp_packets_handed_over_total") + self.count("bsp_ingress_deduped_total");
        let all = eventually(|| decided() == frames as f64);
        assert!(all, "{} of {frames}: {}", decided(), self.proxies[0].1.output());
        let of = |name: &str| metric(&self.listener.0, LISTENER_ADMIN, name);
        let judged = || of("bsl_frames_forwarded_total") + of("bsl_frames_tx_deduped_total");
        let sent = self.count("bsp_packets_handed_over_total");
        assert!(eventually(|| judged() == sent), "{} of {sent}: {}", judged(), self.listener.1.output());
        let forwarded = of("bsl_frames_forwarded_total");
        assert!(eventually(|| self.delivered().len() as f64 == forwarded));
        self.delivered()
    }
}

#[test]
fn sixteen_forged_copies_of_one_source_do_not_keep_the_genuine_one_of_another() {
    let Some(world) = World::start("") else { return };
    let sender = world.sender("sender");
    let forged: Vec<_> = (1..=16).map(|amount| (1, extended(1, amount))).collect();
    world.send(&sender, 0, &forged);
    let genuine = extended(1, 5_000);
    world.send(&sender, 0, &[(2, genuine.clone())]);
    world.send(&sender, 1, &[(2, genuine.clone())]);
    let delivered = world.settled(18);
    assert_eq!(delivered.iter().filter(|bytes| **bytes == genuine).count(), 1);
    assert_eq!(delivered.iter().filter(|bytes| **bytes == raw(1)).count(), 1);
    assert_eq!(delivered.len(), 6, "four forged ones, the standard form, the genuine one");
    assert_eq!(world.count("bsp_variants_limited_total{reason=\"cut_source\"}"), 12.0);
    let mut id = frame::tx::canonical_txid(&genuine).expect("a transaction").0;
    id.reverse();
    let ask = format!("where {} --nodes 127.0.0.1:{PROXY_ADMIN}", hex::encode(id));
    let (known, text, _) = run(&world.proxies[0].0, &ask, 20.0);
    assert!(known && text.contains("cut to its standard form (its source brought --variants"), "{text}");
}

#[test]
fn a_hundred_forged_copies_of_a_hundred_sources_leave_the_transaction_in_standard_form() {
    let Some(world) = World::start("") else { return };
    let sender = world.sender("sender");
    let forged: Vec<_> = (1..=100).map(|n| (n, extended(1, n.into()))).collect();
    world.send(&sender, 0, &forged);
    world.send(&sender, 0, &[(500, extended(1, 5_000))]);
    let delivered = world.settled(101);
    assert_eq!(delivered.iter().filter(|bytes| **bytes == raw(1)).count(), 1);
    assert_eq!(delivered.len(), 17);
    assert_eq!(world.count("bsp_variants_limited_total{reason=\"cut_id\"}"), 85.0);
}

#[test]
fn extended_behind_raw_is_delivered_and_raw_behind_extended_is_not() {
    for options in ["", "--claim-keys compact", "--claim-mode simple"] {
        let Some(world) = World::start(options) else { return };
        let sender = world.sender("sender");
        // The first copy at one proxy, the next at the other.
        for (n, first, second) in [(1, raw(1), extended(1, 7)), (2, extended(2, 7), raw(2))] {
            world.send(&sender, 0, &[(1, first.clone())]);
            world.settled(4 * (n - 1) + 1);
            world.send(&sender, 1, &[(1, second.clone())]);
            world.settled(4 * (n - 1) + 2);
            world.send(&sender, 0, &[(1, second)]);
            world.send(&sender, 1, &[(1, first)]);
            world.settled(4 * n);
        }
        let mut delivered = world.delivered();
        delivered.sort_unstable();
        let mut expected = vec![raw(1), extended(1, 7), extended(2, 7)];
        expected.sort_unstable();
        assert!(delivered == expected, "{options}: {} frames", delivered.len());
    }
}

/// As by a Go node, which knows ids alone: `1` under the key of the transaction.
#[test]
fn behind_a_go_node_an_extended_transaction_is_sent_and_a_raw_one_is_not() {
    let Some(world) = World::start("") else { return };
    let sender = world.sender("sender");
    let id = frame::tx::canonical_txid(&raw(1)).expect("a transaction").0;
    let host = &world.proxies[0].0;
    let address = world.redis.address();
    let (server, port) = address.rsplit_once(':').expect("an address with a port");
    let server = server.trim_matches(['[', ']']);
    let key = format!("bsp:tx:{}", hex::encode(id));
    let set = host.command("redis-cli").args(["-h", server, "-p", port, "SET", &key, "1"]).output();
    assert!(set.expect("redis-cli").status.success());
    world.send(&sender, 0, &[(1, raw(1)), (1, extended(1, 7))]);
    assert_eq!(world.settled(2), [extended(1, 7)]);
    assert_eq!(world.count("bsp_txid_claim_decisions_total{why=\"exists\"}"), 1.0);
    assert_eq!(world.count("bsp_txid_claim_decisions_total{why=\"variant\"}"), 1.0);
}
