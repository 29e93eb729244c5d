//! A fleet that shares a real Redis, on good days and on bad ones: two proxies get all the traffic, one listener delivers
//! it, and every frame is counted at the consumer. What holds on each bad day: see `tests::day`.

use std::time::Duration;
use tests::day::{DECISIONS, Day, FRAMES, LINES, whole};
use tests::fleet::LISTENER_ADMIN;
use tests::process::{metric, readyz, role, run};
use tests::redis::{Redis, Sentinels};
use tests::relay::Relay;
use tests::{Fleet, Host, Process, Setup, block_file, eventually};

const PROXY: &str = "proxy --iface eth0 --workers 1";

#[test]
fn two_proxies_that_share_redis_send_each_frame_once() {
    let Some(net) = Redis::world() else { return };
    let redis = Redis::start(&net, "redis");
    let mut day = Day::begin(net, format!("--redis-addr {}", redis.address()));
    day.all_arrived();
    let suppressed = day.sum("bsp_txid_claim_lost_total");
    assert!(suppressed > FRAMES / 2, "the store decided: {}", day.summary());
    let status = day.status();
    assert!(status.contains("breaker_opened") && status.contains("batch_p99_seconds"), "{status}");
    assert!(day.sum("oncecast_store_batch_seconds_count") > 0);
    day.logged(&["opened"]);
}

#[test]
fn redis_is_killed_and_comes_back_empty() {
    let Some(net) = Redis::world() else { return };
    let mut redis = Redis::start(&net, "redis");
    let mut day = Day::begin(net, format!("--redis-addr {}", redis.address()));
    day.reach(FRAMES / 6);
    redis.kill();
    day.notices();
    redis.restart();
    day.recovers();
    day.all_arrived();
    day.logged(&["connection lost", "breaker opened", "connected again", "breaker closed"]);
}

#[test]
fn redis_stands_still_and_goes_on() {
    let Some(net) = Redis::world() else { return };
    let redis = Redis::start(&net, "redis");
    let mut day = Day::begin(net, format!("--redis-addr {}", redis.address()));
    day.reach(FRAMES / 6);
    redis.signal("STOP");
    day.notices();
    redis.signal("CONT");
    day.recovers();
    day.all_arrived();
    day.logged(&["breaker opened", "breaker closed"]);
}

#[test]
fn redis_answers_after_two_hundred_milliseconds() {
    let Some(net) = Redis::world() else { return };
    let redis = Redis::start(&net, "redis");
    let relay = Relay::before(&redis);
    let mut day = Day::begin(net, format!("--redis-addr {}", relay.address()));
    day.reach(FRAMES / 6);
    relay.mischief.delay(Duration::from_millis(200));
    day.notices();
    relay.mischief.delay(Duration::ZERO);
    day.recovers();
    day.all_arrived();
    day.logged(&["breaker opened", "breaker closed"]);
}

#[test]
fn redis_is_out_of_memory() {
    let Some(net) = Redis::world() else { return };
    let redis = Redis::with(net.host("redis"), "--maxmemory-policy noeviction");
    let mut day = Day::begin(net, format!("--redis-addr {}", redis.address()));
    day.reach(FRAMES / 6);
    assert_eq!(redis.ask("CONFIG SET maxmemory 1"), "OK");
    day.notices();
    assert_eq!(redis.ask("CONFIG SET maxmemory 0"), "OK");
    day.recovers();
    day.all_arrived();
    assert!(day.sum("oncecast_store_errors_total{kind=\"refused\"") > 0);
    day.logged(&["breaker opened", "breaker closed"]);
}

#[test]
fn redis_becomes_a_read_only_replica() {
    let Some(net) = Redis::world() else { return };
    let redis = Redis::start(&net, "redis");
    let mut day = Day::begin(net, format!("--redis-addr {}", redis.address()));
    day.reach(FRAMES / 6);
    assert_eq!(redis.ask("REPLICAOF 127.0.0.1 1"), "OK");
    day.notices();
    assert_eq!(redis.ask("REPLICAOF NO ONE"), "OK");
    day.recovers();
    day.all_arrived();
    day.logged(&["breaker opened", "breaker closed"]);
}

#[test]
fn a_sentinel_promotes_the_replica_of_a_dead_master() {
    let Some(net) = Redis::world() else { return };
    let mut sentinels = Sentinels::start(&net);
    let mut day = Day::begin(net, sentinels.options());
    day.reach(FRAMES / 6);
    sentinels.fail_over();
    day.recovers();
    day.all_arrived();
    day.logged(&["connection lost", "connected again"]);
}

#[test]
fn connections_are_cut_in_the_middle_of_answers() {
    let Some(net) = Redis::world() else { return };
    let redis = Redis::start(&net, "redis");
    let relay = Relay::before(&redis);
    let mut day = Day::begin(net, format!("--redis-addr {}", relay.address()));
    for cut in 1..=5 {
        day.reach(FRAMES * cut / 8);
        relay.mischief.cut_next();
        assert!(eventually(|| relay.mischief.done() == cut), "cut {cut}");
    }
    day.recovers();
    day.all_arrived();
    let cut: usize =
        day.fleet.proxies.iter().map(|proxy| proxy.process.stderr().matches("connection lost").count()).sum();
    assert_eq!(cut, 5, "one line for each");
    day.logged(&[]);
}

#[test]
fn answers_are_garbled() {
    let Some(net) = Redis::world() else { return };
    let redis = Redis::start(&net, "redis");
    let relay = Relay::before(&redis);
    let mut day = Day::begin(net, format!("--redis-addr {}", relay.address()));
    for garbled in 1..=5 {
        day.reach(FRAMES * garbled / 8);
        relay.mischief.garble_next();
        assert!(eventually(|| relay.mischief.done() == garbled), "garbled {garbled}");
    }
    day.recovers();
    day.all_arrived();
    day.logged(&[]);
}

#[test]
fn a_stop_without_time_for_the_store_sends_what_waits_for_it() {
    const COUNT: u64 = 200;
    let Some(net) = Redis::world() else { return };
    let redis = Redis::start(&net, "redis");
    let relay = Relay::before(&redis);
    let proxy = format!(
        "--redis-addr {} --cache-op-timeout 5s --claim-lease 25s --drain-timeout 0s",
        relay.address()
    );
    let receive = format!("--count {COUNT} --linger 0.5 --timeout 60 --json");
    let mut fleet = Fleet::on(net, &Setup { proxy, receive, ..Setup::default() });
    relay.mischief.withhold(true);
    let to = format!("udp://[{}]:8725", fleet.proxies[0].host.v6());
    let send = format!("send {} --to {to} --count {COUNT}", block_file().display());
    let (sent, _, error) = run(&fleet.sender, &send, 20.0);
    assert!(sent, "{error}");
    assert!(
        eventually(|| whole(fleet.proxies[0].metric("bsp_slab_frames")) == COUNT),
        "all wait for answers"
    );
    fleet.proxies[0].process.signal("TERM");
    fleet.proxies[0].process.succeed(20.0);
    let report = fleet.consumer.succeed(90.0);
    assert!(report.contains(&format!("\"unique\":{COUNT}")), "{report}");
}

#[test]
fn a_pair_of_listeners_delivers_everything_while_its_store_is_gone() {
    let Some(net) = Redis::world() else { return };
    let mut redis = Redis::start(&net, "redis");
    let listener = format!("--redis-addr {} --deployment-id pair", redis.address());
    let mut day = Day::of(net, Setup { listener, listeners: 2, ..Setup::default() });
    let bodies = |day: &Day| -> Vec<String> {
        day.fleet.listeners.iter().map(|listener| readyz(&listener.host, LISTENER_ADMIN)).collect()
    };
    let all = |day: &Day, part: &str| eventually(|| bodies(day).iter().all(|body| body.contains(part)));
    let of = |day: &Day, name: &str| -> u64 {
        day.fleet.listeners.iter().map(|listener| whole(listener.metric(name))).sum()
    };
    day.reach(FRAMES / 6);
    redis.kill();
    assert!(all(&day, "\"degraded\":[\""), "{:?}", bodies(&day));
    assert!(all(&day, "\"ready\":true"), "{:?}", bodies(&day));
    redis.restart();
    assert!(all(&day, "\"degraded\":[]"), "{:?}", bodies(&day));
    let (sent, report) = day.ends();
    let twice = report["duplicates"].as_u64().expect("a count");
    let open = of(&day, "bsl_egress_claim_open_total");
    eprintln!("{report}, {open} delivered undecided");
    assert_eq!(report["unique"], sent, "{report}");
    assert!(twice <= open, "every second delivery is explained: {twice}, {open} undecided");
    assert_eq!(of(&day, "bsl_egress_claim_overdue_total"), 0, "nobody waited longer than one deadline");
    assert!(day.fleet.all_run());
}

#[test]
fn a_store_that_cannot_be_used_is_named_at_once() {
    let Some(net) = Redis::world() else { return };
    let redis = Redis::with(net.host("redis"), "--requirepass right");
    let node = net.host("node");
    let secret = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(secret.path(), "wrong\n").expect("written");
    let file = format!("--redis-password-file {}", secret.path().display());
    let (there, host) = (redis.address(), format!("10.10.0.{}", redis.host.number));
    let nobody = format!("{host}:6380");
    let cases = [
        (format!("--redis-addr {}", there), there.as_str(), "password"),
        (format!("--redis-addr {} {file}", there), there.as_str(), "password"),
        (format!("--redis-addr {nobody}"), nobody.as_str(), "refused"),
        (format!("--aerospike-hosts {nobody}"), host.as_str(), "aerospike"),
    ];
    for role in ["proxy --iface eth0", "listener --iface eth0", "retry --iface eth0"] {
        for (options, named, word) in &cases {
            let mut process = Process::start(&node, &format!("{role} {options} --metrics-addr off"));
            let status = process.wait(10.0);
            let log = process.stderr();
            let last = log.lines().last().unwrap_or_default();
            assert_eq!(status.code(), Some(1), "{role} {options}\n{log}");
            assert!(last.contains(named) && last.contains(word), "{role} {options}\n{log}");
            assert!(!log.contains("wrong"), "no secret in\n{log}");
        }
    }
}

#[test]
fn a_degraded_start_forwards_and_finds_the_store_when_it_comes() {
    let Some(net) = Redis::world() else { return };
    let store = net.host("redis");
    let address = format!("10.10.0.{}:6379", store.number);
    let mut day = Day::begin(net, format!("--redis-addr {address} --backend-boot=degraded"));
    day.reach(FRAMES / 6);
    day.notices();
    assert!(day.decided("breaker_open") > 0 && day.decided("in_doubt") == 0, "{}", day.summary());
    let redis = Redis::with(store, "");
    day.recovers();
    day.all_arrived();
    assert!(redis.ask("DBSIZE").parse::<u64>().is_ok_and(|keys| keys > 100));
    day.logged(&["started without the backend"]);
}

/// What a Go node would see and do, done with `redis-cli`: it claims with a plain 1 and looks with EXISTS.
#[test]
fn a_go_node_and_a_proxy_suppress_each_other() {
    const COUNT: usize = 40;
    let Some(net) = Redis::world() else { return };
    let redis = Redis::start(&net, "redis");
    let bytes = std::fs::read(block_file()).expect("the block");
    let block = frame::block::Block::decode(&bytes).expect("a block");
    let id = |tx| frame::tx::canonical_txid(tx).expect("a transaction").0;
    let keys: Vec<String> = block
        .transactions()
        .take(COUNT)
        .map(|tx| format!("bsp:tx:{}", hex::encode(id(tx.expect("a transaction")))))
        .collect();
    for key in &keys[..COUNT / 2] {
        assert_eq!(redis.ask_words(&["SET", key, "1", "NX", "EX", "600"]), "OK");
    }
    let proxy = net.host("proxy");
    let _role = role(&proxy, 9150, &format!("{PROXY} --redis-addr {}", redis.address()));
    let send = format!("send {} --to udp://[{}]:8725 --count {COUNT}", block_file().display(), proxy.v6());
    let (sent, _, error) = run(&proxy, &send, 20.0);
    assert!(sent, "{error}");
    let count = |name: &str| metric(&proxy, 9150, name);
    assert!(
        eventually(|| count("bsp_txid_claim_lost_total") >= 20.0),
        "{}",
        count("bsp_txid_claim_lost_total")
    );
    assert!(eventually(|| count("bsp_txid_claim_won_total") >= 20.0));
    assert_eq!(count("bsp_packets_forwarded_total"), 20.0);
    assert_eq!(count(&format!("{DECISIONS}{{why=\"exists\"}}")), 20.0);
    for key in &keys[COUNT / 2..] {
        assert_eq!(redis.ask_words(&["EXISTS", key]), "1", "{key}");
        assert!(redis.ask_words(&["TTL", key]).parse::<i64>().is_ok_and(|ttl| (1..=600).contains(&ttl)));
        assert_eq!(redis.ask_words(&["SET", key, "1", "NX", "EX", "600"]), "", "the Go node loses the race");
    }
}

#[test]
fn compact_keys_take_less_room_and_work_the_same() {
    let Some(net) = Redis::world() else { return };
    let redis = Redis::start(&net, "redis");
    let mut day = Day::begin(net, format!("--redis-addr {} --claim-keys=compact", redis.address()));
    day.all_arrived();
    assert!(day.sum("bsp_txid_claim_lost_total") > FRAMES / 2, "{}", day.summary());
    assert_eq!(redis.ask_words(&["EVAL", "return #redis.call('KEYS', 'bsp:tx:*')", "0"]), "0");
}

#[test]
fn a_retry_endpoint_keeps_frames_in_redis_and_goes_on_without_it() {
    let Some(net) = Redis::world() else { return };
    let mut redis = Redis::start(&net, "redis");
    let [proxy, first, second] = ["proxy", "retry1", "retry2"].map(|name| net.host(name));
    let retry =
        format!("retry --mc-iface eth0 --egress-iface eth0 --workers 1 --redis-addr {}", redis.address());
    let _proxy = role(&proxy, 9150, PROXY);
    let keeper = role(&first, 9400, &retry);
    let emit = |count: u32| {
        let to = format!("udp://[{}]:8725", proxy.v6());
        let send = format!("send {} --to {to} --count {count}", block_file().display());
        let (sent, _, error) = run(&proxy, &send, 20.0);
        assert!(sent, "{error}");
    };
    let stored = |at_least: f64| eventually(|| metric(&first, 9400, "bre_shared_stored_total") >= at_least);
    let cached = |at_least: f64| eventually(|| metric(&first, 9400, "bre_frames_cached_total") >= at_least);
    let degraded = |wanted: bool| {
        let page = || run(&first, "status 127.0.0.1:9400 --page readyz", 10.0).1;
        let body = || page().split_whitespace().collect::<String>();
        eventually(|| body().contains("\"ready\":true") && body().contains("\"degraded\":[]") != wanted)
    };
    let ask = |endpoint: &Host, key: &str| {
        let (flow, seq) = key.split_at(16);
        let seq = u64::from_str_radix(seq, 16).expect("a number");
        let to = format!("[{}]:9300", endpoint.v6());
        run(&proxy, &format!("nack --to {to} --hash-key {flow} --seq {seq} --iface eth0 --json"), 20.0)
    };

    emit(20);
    assert!(stored(20.0));
    let hex = "local keys = redis.call('KEYS', 'bre:frame:*') for i, key in ipairs(keys) do keys[i] = \
               string.gsub(string.sub(key, 11), '.', function(c) return string.format('%02x', string.byte(c)) end) \
               end return keys";
    let keys = redis.ask_words(&["EVAL", hex, "0"]);
    let key = keys.lines().next().expect("a key");
    let _reader = role(&second, 9400, &retry);
    let (found, reply, error) = ask(&second, key);
    assert!(found, "an endpoint that never saw the frame finds it in Redis: {reply}{error}");

    redis.kill();
    assert!(degraded(true));
    emit(40);
    assert!(cached(40.0), "frames are kept without Redis");
    let (found, reply, error) = ask(&first, key);
    assert!(found, "and served: {reply}{error}");

    redis.restart();
    assert!(degraded(false));
    let before = metric(&first, 9400, "bre_shared_stored_total");
    let mut count = 40;
    let again = eventually(|| {
        count += 20;
        emit(count);
        metric(&first, 9400, "bre_shared_stored_total") > before
    });
    assert!(again, "and written to Redis again");
    assert!(keeper.stderr().lines().count() <= LINES, "{}", keeper.stderr());
}
