//! Novel ids come faster than the store answers. What waits stays bounded. TCP is read no faster than the store decides.
//! UDP sends what finds no room, undecided, and says so. Nothing is lost.

use tests::process::Process;
use tests::redis::Redis;
use tests::relay::Relay;
use tests::{Fleet, Setup, block_file, eventually};

/// Bytes of an answer to a claim.
const ANSWER: u64 = 5;
/// `--slab-bytes` of the proxies.
const SLAB: f64 = 1_048_576.0;
/// What the process may take besides: buffers of sockets and of the runtime, pages of tables that were not touched before.
const MEMORY: f64 = 48e6;

/// What one sender sends, and how fast its proxy's store is.
struct Load {
    frames: u64,
    /// Frames a second; 0 for as fast as they are taken.
    rate: u64,
    /// Claims that the store answers in a second.
    store: u64,
}

/// A fleet whose store is slow.
fn world(load: &Load) -> Option<(Fleet, Relay, Redis)> {
    let net = Redis::world()?;
    let redis = Redis::start(&net, "redis");
    let relay = Relay::before(&redis);
    // The store answers everything in the end: its slowness is to be taken neither for a failure nor for a late owner.
    let proxy = format!(
        "--redis-addr {} --slab-bytes 1MiB --claim-park-bytes 1MiB --cache-op-timeout 5s --claim-lease 25s",
        relay.address()
    );
    let receive = format!("--count {} --linger 0.5 --timeout 60 --json", load.frames);
    let fleet = Fleet::on(net, &Setup { proxy, receive, ..Setup::default() });
    relay.mischief.pace(load.store * ANSWER);
    Some((fleet, relay, redis))
}

/// Sends all to the first proxy and watches it meanwhile. Returns how many were decided when the sender was done.
fn send(fleet: &mut Fleet, target: &str, load: &Load) -> f64 {
    let memory = fleet.proxies[0].metric("process_resident_memory_bytes");
    let block = block_file();
    let send = format!("send {} --to {target} --count {} --rate {}", block.display(), load.frames, load.rate);
    let mut sending = Process::start(&fleet.sender, &send);
    let (mut most_waiting, mut most_memory) = (0.0_f64, 0.0_f64);
    let ended = eventually(|| {
        let proxy = &fleet.proxies[0];
        most_waiting = most_waiting.max(proxy.metric("bsp_slab_bytes"));
        most_memory = most_memory.max(proxy.metric("process_resident_memory_bytes"));
        !sending.is_running()
    });
    assert!(ended, "{}", sending.output());
    let done = decided(fleet, "won");
    sending.succeed(5.0);
    eprintln!("{done} decided, {most_waiting} bytes waited, {} bytes of memory more", most_memory - memory);
    assert!(most_waiting > 0.0 && most_waiting <= SLAB, "{most_waiting} bytes waited");
    assert!(most_memory - memory < MEMORY, "{memory} bytes grew to {most_memory}");
    done
}

/// Everything arrived once.
fn all_arrived(fleet: &mut Fleet, load: &Load) {
    fleet.consumer.wait(90.0);
    let report: serde_json::Value = serde_json::from_str(&fleet.consumer.stdout()).expect("JSON");
    assert_eq!((&report["unique"], &report["duplicates"]), (&load.frames.into(), &0.into()), "{report}");
    assert!(fleet.all_run());
}

fn decided(fleet: &Fleet, why: &str) -> f64 {
    fleet.proxies[0].metric(&format!("bsp_txid_claim_decisions_total{{why=\"{why}\"}}"))
}

#[test]
fn udp_that_outruns_the_store_is_sent_undecided_and_nothing_waits_without_bound() {
    let load = Load { frames: 5_000, rate: 2_000, store: 500 };
    let Some((mut fleet, _relay, _redis)) = world(&load) else { return };
    let target = fleet.udp_targets().split(',').next().map(str::to_owned).expect("a target");
    send(&mut fleet, &target, &load);
    all_arrived(&mut fleet, &load);
    let (won, bypassed) = (decided(&fleet, "won"), decided(&fleet, "bypassed"));
    assert!(won > 0.0 && bypassed > 0.0, "{won} decided, {bypassed} bypassed");
    assert_eq!(won + bypassed, load.frames as f64, "each has its reason");
    assert_eq!(fleet.proxies[0].metric("bsp_txid_claim_overdue_total"), 0.0);
}

#[test]
fn tcp_is_read_no_faster_than_the_store_decides_and_the_sender_is_held_back() {
    /// Frames that may lie between sender and store: half a slab and one round, the queue of messages, the kernel.
    const BETWEEN: u64 = 10_000;
    let load = Load { frames: 16_000, rate: 0, store: 4_000 };
    let Some((mut fleet, _relay, _redis)) = world(&load) else { return };
    // Small buffers in the kernel.
    for (host, knob) in [(&fleet.proxies[0].host, "tcp_rmem"), (&fleet.sender, "tcp_wmem")] {
        let small = format!("echo 4096 16384 65536 > /proc/sys/net/ipv4/{knob}");
        assert!(host.command("sh").args(["-c", &small]).status().is_ok_and(|status| status.success()));
    }
    let target = format!("tcp://[{}]:8726", fleet.proxies[0].host.v6());
    let done = send(&mut fleet, &target, &load);
    assert!(done >= (load.frames - BETWEEN) as f64, "the sender was done when {done} were decided");
    all_arrived(&mut fleet, &load);
    assert_eq!(decided(&fleet, "won"), load.frames as f64, "every frame waited for its answer");
}
