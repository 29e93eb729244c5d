//! Crashes of real processes: what dies costs nothing that a sibling also received.
//!
//! `make test` runs the short form of one case for proxies and one for listeners, `make test-fabric` of all; `ONCECAST_SOAK=1`
//! makes them long (60 s, 200,000 frames). `ONCECAST_SEED` repeats the choice of
//! victims; `ONCECAST_PACE_MS` strikes more often than every second, `ONCECAST_FRAMES` sends more in the same time.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use std::time::{Duration, Instant};
use tests::process::run;
use tests::redis::{Redis, Sentinels};
use tests::{Fleet, Net, Process, Setup, block_file, eventually, within};

/// Frames of a run and how long they take to pass.
struct Load {
    frames: u64,
    seconds: u64,
}

impl Load {
    fn of_this_run() -> Load {
        let (frames, seconds) =
            if std::env::var_os("ONCECAST_SOAK").is_some() { (200_000, 60) } else { (30_000, 10) };
        Load { frames: setting("ONCECAST_FRAMES").unwrap_or(frames), seconds }
    }

    fn receive(&self) -> String {
        let (frames, timeout) = (self.frames, self.seconds + 60);
        format!("--expect {} --count {frames} --json --timeout {timeout} --linger 3", block_file().display())
    }

    /// Starts sending every frame to both proxies.
    fn send(&self, fleet: &Fleet, targets: &str) -> Process {
        let rate = self.frames / self.seconds;
        let block = block_file();
        let args = format!(
            "send {} --to {targets} --count {} --rate {rate} --duplicates 100 --keep-going --json",
            block.display(),
            self.frames
        );
        Process::start(&fleet.sender, &args)
    }
}

/// A number from the environment.
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn random() -> StdRng {
    let seed = setting("ONCECAST_SEED").unwrap_or(4);
    eprintln!("ONCECAST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// Harm done to one of a pair, named by its index, that is over when the closure returns.
type Harm<'a> = &'a mut dyn FnMut(&mut Fleet, usize);

/// While the sender runs: harm once a second to one of the two, chosen at random. Returns how often.
fn every_second(fleet: &mut Fleet, sender: &mut Process, harm: Harm<'_>) -> u32 {
    let mut random = random();
    let pace = Duration::from_millis(setting("ONCECAST_PACE_MS").unwrap_or(1000));
    let mut times = 0;
    loop {
        let next = Instant::now() + pace;
        if within(1.0, || !sender.is_running() || Instant::now() >= next) && !sender.is_running() {
            return times;
        }
        harm(fleet, random.random_range(0..2));
        times += 1;
    }
}

/// The same for proxies: the next victim may be the sibling, so that this one has to take frames again first.
fn to_proxies_every_second(fleet: &mut Fleet, sender: &mut Process, harm: Harm<'_>) -> u32 {
    let mut watch = sender.watch();
    every_second(fleet, sender, &mut |fleet, victim| {
        harm(fleet, victim);
        let taken = |fleet: &Fleet| {
            let proxy = &fleet.proxies[victim];
            proxy.metric("bsp_packets_received_total") + proxy.metric("bsp_tcp_messages_total")
        };
        let before = taken(fleet);
        assert!(eventually(|| taken(fleet) > before || !watch()), "proxy {victim} takes no frames");
    })
}

fn report(fleet: &mut Fleet) -> Value {
    fleet.consumer.wait(240.0);
    serde_json::from_str(&fleet.consumer.stdout()).expect("JSON")
}

/// Every frame once at the consumer, every role alive.
fn assert_each_once(fleet: &mut Fleet, load: &Load, what: &str) {
    let report = report(fleet);
    eprintln!("{what}: {report}");
    assert_eq!((&report["unique"], &report["duplicates"]), (&load.frames.into(), &0.into()), "{report}");
    assert!(fleet.all_run());
}

/// Two proxies on one Redis, everything sent to both.
fn two_proxies(load: &Load) -> Option<(Fleet, Redis)> {
    let net = Net::new()?;
    let redis = Redis::start(&net, "redis");
    let proxy = format!("--redis-addr {}", redis.address());
    let setup = Setup { receive: load.receive(), proxy, ..Setup::default() };
    Some((Fleet::on(net, &setup), redis))
}

#[test]
fn a_proxy_killed_every_second_costs_no_frame() {
    let load = Load::of_this_run();
    let Some((mut fleet, _redis)) = two_proxies(&load) else { return };
    let mut sender = load.send(&fleet, &fleet.targets());
    let kill = &mut |fleet: &mut Fleet, victim: usize| fleet.proxies[victim].kill_and_restart();
    let kills = to_proxies_every_second(&mut fleet, &mut sender, kill);
    let sent = sender.succeed(120.0);
    assert_each_once(&mut fleet, &load, &format!("{kills} kills, {}", sent.trim()));
}

#[test]
#[ignore = "whole matrix: make test-fabric"]
fn a_proxy_stopped_for_two_seconds_again_and_again_costs_no_frame() {
    let load = Load::of_this_run();
    let Some((mut fleet, _redis)) = two_proxies(&load) else { return };
    let mut sender = load.send(&fleet, &fleet.udp_targets());
    let stops = to_proxies_every_second(&mut fleet, &mut sender, &mut |fleet, victim| {
        fleet.proxies[victim].process.signal("STOP");
        std::thread::sleep(Duration::from_secs(2));
        fleet.proxies[victim].process.signal("CONT");
    });
    let sent = sender.succeed(120.0);
    assert_each_once(&mut fleet, &load, &format!("{stops} stops, {}", sent.trim()));
}

#[test]
#[ignore = "whole matrix: make test-fabric"]
fn redis_failing_over_between_kills_costs_no_frame() {
    let load = Load::of_this_run();
    let Some(net) = Net::new() else { return };
    let mut sentinels = Sentinels::start(&net);
    let setup = Setup { receive: load.receive(), proxy: sentinels.options(), ..Setup::default() };
    let mut fleet = Fleet::on(net, &setup);
    let mut sender = load.send(&fleet, &fleet.targets());
    let mut times = 0;
    let kills = to_proxies_every_second(&mut fleet, &mut sender, &mut |fleet, victim| {
        times += 1;
        if times == 3 {
            sentinels.fail_over();
        }
        fleet.proxies[victim].kill_and_restart();
    });
    assert!(times >= 3, "the failover came: {times}");
    let sent = sender.succeed(120.0);
    assert_each_once(&mut fleet, &load, &format!("{kills} kills, one failover, {}", sent.trim()));
}

/// What all listeners decided over all their lives, for the figures of a run.
fn tell_of_all_lives(fleet: &Fleet) {
    let sum = |name: &str| fleet.listeners.iter().map(|role| role.metric_of_all_lives(name)).sum::<f64>();
    for why in ["won", "taken_over", "in_doubt", "breaker_open", "bypassed", "parking_full", "settled"] {
        eprintln!("  {why}: {}", sum(&format!("bsl_egress_claim_decisions_total{{why=\"{why}\"}}")));
    }
    for name in ["bsl_nack_numbers_total", "bsl_gaps_recovered_total", "bsl_gaps_unrecovered_total"] {
        eprintln!("  {name}: {}", sum(name));
    }
}

/// What nodes and store know of the missing transactions, and the last words of every listener; kept where
/// `ONCECAST_KEEP` says.
fn fates(fleet: &Fleet, redis: &Redis, report: &Value) -> String {
    let mut told = String::new();
    for id in report["missing_ids"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let args = format!("where {id} --redis-addr {} --deployment-id pair", redis.address());
        let (_, found, error) = run(&fleet.sender, &args, 10.0);
        told += &format!("{id}\n{found}{error}\n");
    }
    if let Some(directory) = std::env::var_os("ONCECAST_KEEP").map(std::path::PathBuf::from) {
        for (index, role) in fleet.listeners.iter().enumerate() {
            for (life, words) in role.lives.iter().enumerate() {
                let _ = std::fs::write(directory.join(format!("listener{index}-life{life}")), words);
            }
        }
    }
    told
}

/// Listeners in front of one consumer and on one Redis.
fn listeners(load: &Load, listeners: usize) -> Option<(Fleet, Redis)> {
    let net = Net::new()?;
    let redis = Redis::start(&net, "redis");
    let listener = format!("--redis-addr {} --deployment-id pair", redis.address());
    let setup = Setup { receive: load.receive(), listener, listeners, ..Setup::default() };
    Some((Fleet::on(net, &setup), redis))
}

/// Kills listeners every second; nothing may be missing, and at most what those that were killed handed over within
/// their lease may come twice.
fn killed_listeners_cost_no_frame(of: usize, kill: Harm<'_>) {
    let load = Load::of_this_run();
    let Some((mut fleet, redis)) = listeners(&load, of) else { return };
    let mut sender = load.send(&fleet, &fleet.targets());
    let kills = every_second(&mut fleet, &mut sender, kill);
    let sent = sender.succeed(120.0);
    let report = report(&mut fleet);
    eprintln!("{kills} kills, {}: {report}", sent.trim());
    tell_of_all_lives(&fleet);
    assert_eq!(report["unique"], load.frames, "{report}\n{}", fates(&fleet, &redis, &report));
    let bound = u64::from(kills) * 2 * load.frames / load.seconds;
    assert!(report["duplicates"].as_u64().is_some_and(|twice| twice <= bound), "at most {bound}: {report}");
    let lost: f64 =
        fleet.listeners.iter().map(|role| role.metric_of_all_lives("bsl_gaps_unrecovered_total")).sum();
    assert_eq!(lost, 0.0, "numbers given up although nothing is missing");
}

#[test]
fn a_listener_killed_every_second_costs_its_consumer_no_frame() {
    killed_listeners_cost_no_frame(2, &mut |fleet, victim| fleet.listeners[victim].kill_and_restart());
}

#[test]
#[ignore = "whole matrix: make test-fabric"]
fn both_listeners_of_a_pair_killed_at_once_cost_their_consumer_no_frame() {
    killed_listeners_cost_no_frame(2, &mut |fleet, first| {
        fleet.listeners[first].process.signal("KILL");
        fleet.listeners[1 - first].kill_and_restart();
        fleet.listeners[first].process.wait(10.0);
        fleet.listeners[first].restart();
    });
}

#[test]
#[ignore = "whole matrix: make test-fabric"]
fn a_lone_listener_with_a_store_killed_every_second_costs_its_consumer_no_frame() {
    killed_listeners_cost_no_frame(1, &mut |fleet, _| fleet.listeners[0].kill_and_restart());
}

#[test]
#[ignore = "whole matrix: make test-fabric"]
fn a_proxy_restarted_under_loss_never_lends_its_numbers_to_other_frames() {
    let load = Load::of_this_run();
    let Some(net) = Net::new() else { return };
    let redis = Redis::start(&net, "redis");
    let proxy = format!("--redis-addr {}", redis.address());
    let setup = Setup { loss: 10, receive: load.receive(), proxy, ..Setup::default() };
    let mut fleet = Fleet::on(net, &setup);
    let mut sender = load.send(&fleet, &fleet.udp_targets());
    let restarts = to_proxies_every_second(&mut fleet, &mut sender, &mut |fleet, victim| {
        fleet.proxies[victim].process.signal("TERM");
        fleet.proxies[victim].process.succeed(10.0);
        fleet.proxies[victim].restart();
    });
    let sent = sender.succeed(120.0);
    assert_each_once(&mut fleet, &load, &format!("{restarts} restarts, {}", sent.trim()));
    let listener = &fleet.listeners[0];
    assert!(listener.metric("bsl_gaps_recovered_total") > 0.0, "10 % loss leaves gaps");
    assert_eq!(listener.metric("bsl_gaps_unrecovered_total"), 0.0);
    for name in
        ["bsl_frames_invalid_payload_total", "bsl_flow_mismatch_total", "bsl_sequence_collisions_total"]
    {
        assert_eq!(listener.metric(name), 0.0, "{name}");
    }
}

#[test]
fn an_orderly_stop_under_load_loses_nothing_that_the_kernel_delivered() {
    let Some(net) = Net::new() else { return };
    let redis = Redis::start(&net, "redis");
    // Without receive offload the kernel's count of datagrams is the number of frames.
    let proxy = format!("--redis-addr {} --gro=false", redis.address());
    let receive = "--json --timeout 30".into();
    let mut fleet = Fleet::on(net, &Setup { receive, proxy, ..Setup::default() });
    let target = fleet.udp_targets().split(',').next().map(str::to_owned).unwrap_or_default();
    let args =
        format!("send {} --to {target} --count 50000 --rate 5000 --keep-going", block_file().display());
    let mut sender = Process::start(&fleet.sender, &args);
    let proxy = &mut fleet.proxies[0];
    assert!(eventually(|| proxy.metric("bsp_packets_received_total") > 5000.0));
    proxy.process.signal("TERM");
    let began = Instant::now();
    proxy.process.succeed(10.0);
    eprintln!("stopped in {:?}", began.elapsed());
    assert!(sender.is_running(), "the stop was under load");
    let delivered = delivered_datagrams(&proxy.host);
    assert!(eventually(|| fleet.listeners[0].metric("bsl_frames_forwarded_total") >= delivered));
    fleet.consumer.signal("INT");
    let report = report(&mut fleet);
    assert_eq!(report["unique"].as_f64(), Some(delivered), "{report}");
    assert_eq!(report["duplicates"], 0, "{report}");
}

/// Datagrams that the kernel gave to sockets of a host.
fn delivered_datagrams(host: &tests::Host) -> f64 {
    let output = host.command("cat").arg("/proc/net/snmp6").output().expect("snmp6");
    let page = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = page.lines().find(|line| line.starts_with("Udp6InDatagrams")).expect("a counter");
    line.split_whitespace().nth(1).and_then(|count| count.parse().ok()).expect("a number")
}

#[test]
fn a_draining_proxy_says_so_and_a_second_signal_ends_it_at_once() {
    let Some(net) = Net::new() else { return };
    let redis = Redis::start(&net, "redis");
    let proxy = format!("--redis-addr {} --cache-op-timeout 20s --drain-timeout 30s", redis.address());
    let mut fleet = Fleet::on(net, &Setup { proxy, ..Setup::default() });
    // A store that hangs keeps frames undecided: the drain waits for it.
    redis.signal("STOP");
    let args = format!("send {} --to {} --count 100", block_file().display(), fleet.udp_targets());
    Process::start(&fleet.sender, &args).succeed(20.0);
    let proxy = &mut fleet.proxies[0];
    assert!(eventually(|| proxy.metric("bsp_slab_frames") > 0.0));
    proxy.process.signal("TERM");
    let page = || run(&proxy.host, &format!("status 127.0.0.1:{} --page readyz", proxy.admin), 10.0);
    assert!(eventually(|| page().1.contains("draining")), "{:?}", page());
    assert!(proxy.process.is_running());
    proxy.process.signal("TERM");
    let status = proxy.process.wait(5.0);
    redis.signal("CONT");
    assert_eq!(status.code(), Some(143), "{status}");
}
