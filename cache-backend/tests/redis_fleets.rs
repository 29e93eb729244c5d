//! `redis` against a Cluster and a Sentinel set of real servers.

mod support;

use cache_backend::{BootPolicy, BreakerState, KeyValues, OpErrorKind, RedisTopology};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use support::fake::{Scripted, cluster_node};
use support::fleets::{Cluster, SentinelSet};
use support::*;

/// Slot 12182, which the third master owns.
const SLOT: &str = "12182";

fn in_slot(range: std::ops::Range<usize>, value: &str) -> KeyValues {
    pairs("{foo}", range, value)
}

#[tokio::test]
async fn a_cluster_is_recognised_and_batches_are_split_by_owner() {
    if !redis_is_installed() {
        return;
    }
    let cluster = Cluster::start();
    let (backend, session) = open(cluster.settings()).await;
    assert_eq!(backend.guards().len(), 3);
    assert_eq!(created(&session.claim(pairs("k", 0..500, "mine"), TTL, soon()).await), 500);
    let mixed = session.claim(pairs("k", 400..600, "theirs"), TTL, soon()).await;
    // Answers stand where their keys stood.
    assert!(mixed[..100].iter().all(|answer| *answer == Ok(cache_backend::Claimed::Exists("mine".into()))));
    assert!(mixed[100..].iter().all(|answer| *answer == Ok(cache_backend::Claimed::Created)));
    for master in &cluster.masters {
        let keys: usize = master.ask(&["DBSIZE"]).trim().trim_start_matches(':').parse().unwrap();
        assert!((100..=300).contains(&keys), "{keys} keys of 600");
    }
    assert_eq!(
        session.get(pairs("k", 0..3, ""), soon()).await,
        [const { Ok(Some(bytes::Bytes::from_static(b"mine"))) }; 3]
    );
    assert_eq!(
        session.del(pairs("k", 598..602, ""), soon()).await,
        [Ok(true), Ok(true), Ok(false), Ok(false)]
    );
    backend.healthy().await.unwrap();
}

#[tokio::test]
async fn a_slot_that_migrates_keeps_its_claims_while_it_does_and_afterwards() {
    if !redis_is_installed() {
        return;
    }
    let cluster = Cluster::start();
    let (_backend, session) = open(cluster.settings()).await;
    let [_, target, source] = &cluster.masters[..] else { panic!("three masters") };
    let (target_id, source_id) = (cluster.id(1), cluster.id(2));
    assert_eq!(created(&session.claim(in_slot(0..50, "before"), TTL, soon()).await), 50);

    target.must(&["CLUSTER", "SETSLOT", SLOT, "IMPORTING", &source_id]);
    source.must(&["CLUSTER", "SETSLOT", SLOT, "MIGRATING", &target_id]);
    // New keys of the slot are asked for at the target, old ones are still at the source.
    let during = session.claim(in_slot(40..60, "during"), TTL, soon()).await;
    assert_eq!((existing(&during, "before"), created(&during)), (10, 10));
    let keys: Vec<String> = (0..50).map(|i| format!("{{foo}}:{i}")).collect();
    let mut migrate = vec!["MIGRATE", "127.0.0.1"];
    let port = target.port.to_string();
    migrate.extend([port.as_str(), "", "0", "5000", "KEYS"]);
    migrate.extend(keys.iter().map(String::as_str));
    source.must(&migrate);
    let moved_keys = session.claim(in_slot(0..60, "late"), TTL, soon()).await;
    assert_eq!((existing(&moved_keys, "before"), existing(&moved_keys, "during")), (50, 10));

    for node in [target, source] {
        node.must(&["CLUSTER", "SETSLOT", SLOT, "NODE", &target_id]);
    }
    let moved = session.claim(in_slot(0..70, "after"), TTL, soon()).await;
    assert_eq!((existing(&moved, "before"), existing(&moved, "during"), created(&moved)), (50, 10, 10));
    assert_eq!(session.del(in_slot(0..2, ""), soon()).await, [Ok(true), Ok(true)]);
    assert_eq!(source.ask(&["CLUSTER", "COUNTKEYSINSLOT", SLOT]), ":0\r\n");
}

#[tokio::test]
async fn the_rights_that_the_documentation_names_are_enough_for_a_cluster() {
    if !redis_is_installed() {
        return;
    }
    let cluster = Cluster::start();
    for node in &cluster.masters {
        let rights = "on >s3cret ~bsp:* ~{foo}:* -@all +ping +set +get +del +pttl +cluster|slots +asking";
        let mut words = vec!["ACL", "SETUSER", "oncecast"];
        words.extend(rights.split(' '));
        node.must(&words);
    }
    let mut settings = cluster.settings();
    settings.addresses = vec![format!("redis://oncecast:s3cret@{}", cluster.masters[0].address())];
    settings.topology = RedisTopology::Cluster;
    let (_backend, session) = open(settings).await;
    let (source, target) = (&cluster.masters[2], &cluster.masters[1]);
    target.must(&["CLUSTER", "SETSLOT", SLOT, "IMPORTING", &cluster.id(2)]);
    source.must(&["CLUSTER", "SETSLOT", SLOT, "MIGRATING", &cluster.id(1)]);
    assert_eq!(created(&session.claim(in_slot(0..9, "v"), TTL, soon()).await), 9);
}

#[tokio::test]
async fn one_stopped_node_costs_only_its_own_keys() {
    if !redis_is_installed() {
        return;
    }
    let cluster = Cluster::start();
    let mut settings = cluster.settings();
    settings.remote.op_timeout = std::time::Duration::from_millis(50);
    settings.remote.deadline_floor = settings.remote.op_timeout;
    let (backend, session) = open(settings).await;
    cluster.masters[2].stop();
    let stopped = cluster.masters[2].address();
    let state = |address: &str| backend.guards().iter().find(|g| g.server() == address).map(|g| g.state());
    eventually("the breaker of the stopped node opens", || async {
        let name = rand::random::<u64>().to_string();
        session.claim(pairs(&name, 0..64, "v"), TTL, soon()).await;
        state(&stopped) == Some(BreakerState::Open)
    })
    .await;
    eventually("the others answer beside it", || async {
        let name = rand::random::<u64>().to_string();
        let answers = session.claim(pairs(&name, 0..64, "v"), TTL, soon()).await;
        kinds(&answers).contains(&OpErrorKind::BreakerOpen)
            && created(&answers) + kinds(&answers).len() == 64
            && created(&answers) > 20
    })
    .await;
    assert_eq!(state(&cluster.masters[0].address()), Some(BreakerState::Closed));
    cluster.masters[2].go_on();
    eventually("all answer again", || async {
        let name = rand::random::<u64>().to_string();
        created(&session.claim(pairs(&name, 0..64, "v"), TTL, soon()).await) == 64
    })
    .await;
}

#[tokio::test]
async fn the_replica_of_a_dead_master_is_found_and_used() {
    if !redis_is_installed() {
        return;
    }
    let mut cluster = Cluster::start();
    let (backend, session) = open(cluster.settings()).await;
    eventually_claims("claims", &*session).await;
    cluster.masters[0].kill();
    cluster.replica.must(&["CLUSTER", "FAILOVER", "TAKEOVER"]);
    eventually_claims("claims on the new master", &*session).await;
    let replica = cluster.replica.address();
    assert!(backend.guards().iter().any(|guard| guard.server() == replica));
}

#[tokio::test]
async fn a_degraded_start_finds_the_cluster_later_and_a_strict_one_names_the_slot_nobody_serves() {
    if !redis_is_installed() {
        return;
    }
    let mut lone = Server::start(&["--cluster-enabled", "yes", "--cluster-config-file", "nodes"]);
    lone.must(&["CLUSTER", "ADDSLOTSRANGE", "0", "16000"]);
    let mut settings = lone.settings();
    settings.topology = RedisTopology::Cluster;
    let error = open_error(settings.clone()).await;
    assert!(error.contains("slot 16001"), "{error}");
    lone.kill();
    settings.remote.boot = BootPolicy::Degraded;
    settings.topology = RedisTopology::Auto;
    let (_backend, session) = open(settings).await;
    assert_eq!(
        kinds(&session.claim(pairs("k", 0..2, "v"), TTL, soon()).await),
        [OpErrorKind::BreakerOpen; 2]
    );
    lone.restart();
    assert!(lone.comes_up());
    lone.must(&["CLUSTER", "ADDSLOTSRANGE", "16001", "16383"]);
    eventually_claims("claims once the Cluster is there", &*session).await;

    let single = Server::start(&[]);
    let mut settings = single.settings();
    settings.topology = RedisTopology::Cluster;
    let error = open_error(settings).await;
    assert!(error.contains("CLUSTER SLOTS"), "{error}");
}

#[tokio::test]
async fn sentinels_name_the_master_and_a_failover_is_followed() {
    if !redis_is_installed() {
        return;
    }
    let mut set = SentinelSet::start();
    let (backend, session) = open(set.settings()).await;
    assert_eq!(created(&session.claim(pairs("k", 0..100, "mine"), TTL, soon()).await), 100);
    assert_eq!(set.servers[0].ask(&["DBSIZE"]), ":100\r\n");
    assert_eq!(backend.guards()[0].server(), "sentinel:main");

    let mut unknown = set.settings();
    unknown.topology =
        RedisTopology::Sentinel { master: "other".to_owned(), credential: None, data_tls: false };
    assert!(open_error(unknown).await.contains("\"other\""));

    eventually("the claims are replicated", || async { set.servers[1].ask(&["DBSIZE"]) == ":100\r\n" }).await;
    set.servers[0].kill();
    eventually_claims("claims on the new master", &*session).await;
    let answers = session.claim(pairs("k", 0..100, "theirs"), TTL, soon()).await;
    assert_eq!(existing(&answers, "mine"), 100, "the claims of before are still held");
    assert!(set.servers[1].ask(&["ROLE"]).contains("master"));
}

#[tokio::test]
async fn a_stopped_master_is_replaced_by_failover_without_waiting_for_tcp() {
    if !redis_is_installed() {
        return;
    }
    let set = SentinelSet::start();
    let (_backend, session) = open(set.settings()).await;
    eventually_claims("claims", &*session).await;
    set.servers[0].stop();
    eventually("claims on the new master", || async {
        let name = rand::random::<u64>().to_string();
        created(&session.claim(pairs(&name, 0..8, "v"), TTL, soon()).await) == 8
            && set.servers[1].ask(&["ROLE"]).contains("master")
    })
    .await;
    set.servers[0].go_on();
    eventually_claims("claims after the old master came back", &*session).await;
}

#[tokio::test]
async fn a_node_that_names_ever_new_servers_is_not_followed_to_all_of_them() {
    let keys = Mutex::<HashMap<String, String>>::default();
    let named = AtomicUsize::new(0);
    let liar = Scripted::start(move |words, port| {
        if words[0] == "SET" && !words[1].starts_with("bsp:probe:") {
            let named = named.fetch_add(1, SeqCst);
            return format!("-MOVED 1 127.{}.{}.1:1\r\n", 1 + named / 250, named % 250);
        }
        cluster_node(words, &[(0, 16383, port)], &keys)
    })
    .await;
    let (backend, session) = open(settings(&liar.address)).await;
    for round in 0..3 {
        let answers = session.claim(pairs(&round.to_string(), 0..200, "v"), TTL, soon()).await;
        assert_eq!(kinds(&answers).len(), 200, "nobody decides: {answers:?}");
    }
    assert!(backend.guards().len() <= 1 + 16, "{} servers", backend.guards().len());
}

#[tokio::test]
async fn a_node_that_was_cut_off_from_its_cluster_is_not_asked_who_owns_what() {
    let keys = Arc::new(Mutex::<HashMap<String, String>>::default());
    let ports = Arc::new(Mutex::new([0_u16; 3]));
    let is_cut_off = Arc::new(AtomicBool::new(false));
    let mut nodes = Vec::new();
    for number in 0..3 {
        let (keys, at, is_cut_off) = (keys.clone(), ports.clone(), is_cut_off.clone());
        let node = Scripted::start(move |words, _| {
            let [first, second, third] = *at.lock().unwrap();
            let is_cut_off = is_cut_off.load(SeqCst);
            // Its replica, which is the third node here, has taken over; the first does not know.
            let heir = if is_cut_off && number != 0 { third } else { first };
            if words[0] == "SET" && is_cut_off && number == 0 {
                return "-CLUSTERDOWN The cluster is down\r\n".to_owned();
            }
            cluster_node(words, &[(0, 5460, heir), (5461, 10922, second), (10923, 16383, third)], &keys)
        })
        .await;
        ports.lock().unwrap()[number] = node.port;
        nodes.push(node);
    }
    let (_backend, session) = open(settings(&nodes[0].address)).await;
    eventually_claims("claims of a whole cluster", &*session).await;
    is_cut_off.store(true, SeqCst);
    eventually_claims("the heir is asked", &*session).await;
}

#[tokio::test]
async fn a_sentinel_that_was_cut_off_does_not_bring_an_old_master_back() {
    if !redis_is_installed() {
        return;
    }
    let (old, new) = (Server::start(&[]), Server::start(&[]));
    let mut sentinels = Vec::new();
    for master in [old.port, new.port, new.port] {
        let sentinel = Scripted::start(move |words, _| {
            if words[0] == "SUBSCRIBE" {
                return "*3\r\n$9\r\nsubscribe\r\n$14\r\n+switch-master\r\n:1\r\n".to_owned();
            }
            format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{master}\r\n", master.to_string().len())
        })
        .await;
        sentinels.push(sentinel);
    }
    let mut settings = settings("");
    settings.addresses = sentinels.iter().map(|sentinel| sentinel.address.clone()).collect();
    settings.topology =
        RedisTopology::Sentinel { master: "main".to_owned(), credential: None, data_tls: false };
    settings.remote.dial_timeout = PATIENCE;
    let (_backend, session) = open(settings).await;
    assert_eq!(created(&session.claim(pairs("k", 0..5, "v"), TTL, soon()).await), 5);
    // A probe that nobody waited for may have left its key.
    let there = |server: &Server| server.ask(&["EXISTS", "k:0", "k:1", "k:2", "k:3", "k:4"]);
    assert_eq!((there(&old), there(&new)), (":0\r\n".to_owned(), ":5\r\n".to_owned()));
}
