//! A consumer that does not read, and one that is gone without a word, with real processes.

use tests::fleet::{LISTENER_ADMIN, PROXY_ADMIN};
use tests::process::{metric, readyz, role, run};
use tests::{Host, Net, Process, block_file, eventually, within};

const FRAMES: u64 = 2_000;

/// A proxy, a listener and its consumer, which is a connected process.
struct World {
    listener: Process,
    consumer: Process,
    consumer_host: Host,
    listener_host: Host,
    proxy_host: Host,
    proxy: Process,
    _net: Net,
}

impl World {
    fn new() -> Option<World> {
        let net = Net::new()?;
        let (consumer_host, listener_host, proxy_host) =
            (net.host("consumer"), net.host("listener"), net.host("proxy"));
        // Its kernel takes little for it.
        let small = "echo 4096 16384 65536 > /proc/sys/net/ipv4/tcp_rmem";
        assert!(
            consumer_host.command("sh").args(["-c", small]).status().is_ok_and(|status| status.success())
        );
        let address = consumer_host.v6();
        let consumer = Process::start(&consumer_host, &format!("recv --listen tcp://[{address}]:9100"));
        let listen = format!(
            "listener --iface eth0 --workers 1 --egress-proto tcp --egress-addr [{address}]:9100 --drain-timeout 2s"
        );
        let listener = role(&listener_host, LISTENER_ADMIN, &listen);
        let proxy = role(&proxy_host, PROXY_ADMIN, "proxy --iface eth0 --udp-listen-port 8725 --workers 1");
        Some(World { listener, consumer, consumer_host, listener_host, proxy_host, proxy, _net: net })
    }

    fn readiness(&self) -> String {
        readyz(&self.listener_host, LISTENER_ADMIN)
    }
}

#[test]
fn a_consumer_that_does_not_read_is_a_reason_and_a_drain_that_drops_says_so() {
    let Some(mut world) = World::new() else { return };
    world.consumer.signal("STOP");
    let block = block_file();
    let send = format!("send {} --to udp://[::1]:8725 --count {FRAMES} --rate 4000", block.display());
    assert!(run(&world.proxy_host, &send, 60.0).0, "{}", world.proxy.output());
    let stalled = || world.readiness().contains("\"code\":\"consumer.stalled\"");
    assert!(eventually(stalled), "{}", world.readiness());
    assert!(world.readiness().contains("\"ready\":false"), "{}", world.readiness());
    // It is busy, not gone: nobody cuts it off.
    assert_eq!(metric(&world.listener_host, LISTENER_ADMIN, "bsl_egress_reconnects_total"), 0.0);
    world.listener.signal("TERM");
    let status = world.listener.wait(30.0);
    let log = world.listener.stderr();
    assert_eq!(status.code(), Some(1), "{log}");
    let said = log.lines().find(|line| line.contains("the drain dropped ")).unwrap_or_default();
    assert!(said.contains(" frames, ") && said.contains(" bytes of ") && said.contains(" flows"), "{log}");
    assert!(log.contains("consumer_gone: ") && log.contains("the sum holds"), "{log}");
}

#[test]
fn a_consumer_whose_host_lost_its_power_is_noticed_although_nothing_is_sent() {
    let Some(world) = World::new() else { return };
    let rules = "table inet off { chain in { type filter hook input priority 0; policy drop; }; \
                 chain out { type filter hook output priority 0; policy drop; }; }";
    assert!(world.consumer_host.command("nft").arg(rules).status().is_ok_and(|status| status.success()));
    // Eight seconds without a sign of life, two until a state is a reason, and a busy machine.
    let noticed = within(20.0, || world.readiness().contains("\"code\":\"consumer.refused\""));
    assert!(noticed, "{}\n{}", world.readiness(), world.listener.output());
    let lines = world.listener.stderr().lines().filter(|line| line.contains("--egress-addr")).count();
    assert!((1..=3).contains(&lines), "{lines} lines\n{}", world.listener.output());
}
