//! `--busy-poll`: a worker that looks for the next datagram instead of sleeping, as a user meets it.

use tests::fleet::PROXY_ADMIN;
use tests::process::{metric, role, run};
use tests::{Net, block_file, eventually};

const FRAMES: u32 = 50;

#[test]
fn a_worker_that_looks_for_datagrams_comes_to_rest_wakes_for_the_next_and_ends_when_told() {
    let Some(net) = Net::new() else { return };
    let (sender, host) = (net.host("sender"), net.host("proxy"));
    // However long it may look, a round bounds it: without that no thread of this process would ever sleep.
    let args = "proxy --iface eth0 --workers 1 --cache-backend memory --busy-poll 1h --frag-mtu 0";
    let mut proxy = role(&host, PROXY_ADMIN, args);
    for turn in 1..=3 {
        let (block, to) = (block_file(), host.v6());
        let skip = (turn - 1) * FRAMES;
        let send =
            format!("send {} --to udp://[{to}]:8725 --count {} --rate 2000", block.display(), skip + FRAMES);
        let (sent, _, error) = run(&sender, &send, 60.0);
        assert!(sent, "{error}");
        let taken =
            || metric(&host, PROXY_ADMIN, "bsp_packets_handed_over_total") >= f64::from(skip + FRAMES);
        assert!(eventually(taken), "turn {turn}: the frames leave\n{}", proxy.output());
        assert!(eventually(|| rests(proxy.id())), "turn {turn}: the worker sleeps");
    }
    proxy.signal("TERM");
    proxy.succeed(30.0);
}

/// Whether no thread of the process runs, or could, in any of many looks.
fn rests(id: u32) -> bool {
    (0..20).all(|_| {
        std::thread::sleep(std::time::Duration::from_millis(1));
        let tasks = std::fs::read_dir(format!("/proc/{id}/task")).expect("its threads");
        tasks.flatten().all(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // What follows the name in parentheses is the state.
            stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('S'))
        })
    })
}
