//! The network under the roles changes while they run: a carrier is lost, an interface is made again, an address is not usable
//! yet, goes, or changes. Nothing is lost in silence, and everything works again by itself.
//!
//! One case of each kind runs in `make test`, the rest in `make test-fabric`.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::Write;
use std::time::{Duration, Instant};
use tests::process::{readyz, role, run};
use tests::redis::Redis;
use tests::{Host, Net, Process, within};

/// Longest time that anything here may take.
const LONG: f64 = 20.0;
const PROXY_ADMIN: u16 = 9100;
const LISTENER_ADMIN: u16 = 9200;
const RETRY_ADMIN: u16 = 9400;

/// A transaction that no other number has.
fn transaction(number: u32) -> Vec<u8> {
    let mut bytes = vec![1, 0, 0, 0, 1];
    bytes.extend_from_slice(&[9; 28]);
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(&[0, 0, 0, 0, 1, 0x51, 0xFF, 0xFF, 0xFF, 0xFF, 1]);
    bytes.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 1, 0x51, 0, 0, 0, 0]);
    bytes
}

/// A proxy, a retry endpoint, and a listener with its consumer, each on a host of its own. Frames are given to the proxy on
/// its own host, so that only the fabric is at fault.
struct Line {
    net: Net,
    proxy: (Host, Process),
    retry: (Host, Process),
    listener: (Host, Process),
    consumer: Process,
    sent: u32,
}

impl Line {
    /// `None` where namespaces cannot be made.
    fn start(family: &'static str) -> Option<Line> {
        let net = Net::new()?;
        let (proxy, retry, listener) = (net.host("proxy"), net.host("retry"), net.host("listener"));
        let consumer = Process::start(&listener, "recv --listen tcp://127.0.0.1:9700 --print");
        let started = |host: Host, admin: u16, args: &str| {
            let process = role(&host, admin, &format!("{args} --fabric {family} --iface eth0 --workers 1"));
            (host, process)
        };
        Some(Line {
            retry: started(retry, RETRY_ADMIN, "retry"),
            listener: started(
                listener,
                LISTENER_ADMIN,
                "listener --egress-proto tcp --egress-addr 127.0.0.1:9700",
            ),
            proxy: started(proxy, PROXY_ADMIN, "proxy --tcp-listen-port 8726 --send-deadline 500ms"),
            consumer,
            net,
            sent: 0,
        })
    }

    /// Sends so many new transactions.
    fn send(&mut self, count: u32) {
        let numbers = self.sent..self.sent + count;
        self.sent += count;
        give(&self.proxy.0, numbers);
    }

    /// Everything that was sent so far arrived.
    fn assert_all_arrive(&self, when: &str) {
        let arrived = || delivered(&self.consumer);
        let wanted = self.sent as usize;
        assert!(within(LONG, || arrived() == wanted), "{when}: {} of {wanted} arrived", arrived());
    }

    fn is_ready(&self, host: &Host, admin: u16) -> bool {
        readyz(host, admin).contains("\"ready\":true")
    }
}

/// Gives these transactions to the proxy of a host.
fn give(host: &Host, numbers: std::ops::Range<u32>) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for number in numbers {
        writeln!(file, "{}", hex::encode(transaction(number))).unwrap();
    }
    let line = format!("send {} --rate 2000 --to udp://127.0.0.1:8725", file.path().display());
    let (ok, _, error) = run(host, &line, LONG);
    assert!(ok, "{error}");
}

/// Different transactions that a consumer printed.
fn delivered(consumer: &Process) -> usize {
    let text = consumer.stdout();
    text.lines().collect::<std::collections::HashSet<_>>().len()
}

/// Waits for a line of a role's log; how long that took.
fn wait_for_line(process: &Process, text: &str) -> Duration {
    let began = Instant::now();
    while !process.stderr().contains(text) {
        assert!(began.elapsed().as_secs_f64() < LONG, "no line {text:?}\n{}", process.stderr());
        std::thread::sleep(Duration::from_millis(1));
    }
    began.elapsed()
}

#[derive(Clone, Copy)]
enum Which {
    Proxy,
    Retry,
    Listener,
}

/// An interface is deleted and made again under a role that runs.
fn an_interface_is_made_again(which: Which, family: &'static str) {
    let Some(mut line) = Line::start(family) else { return };
    line.send(50);
    line.assert_all_arrive("before");
    let (host, process, admin) = match which {
        Which::Proxy => (&line.proxy.0, &line.proxy.1, PROXY_ADMIN),
        Which::Retry => (&line.retry.0, &line.retry.1, RETRY_ADMIN),
        Which::Listener => (&line.listener.0, &line.listener.1, LISTENER_ADMIN),
    };
    line.net.make_again(host);
    wait_for_line(process, "was made again");
    let usable =
        || process.stderr().rsplit_once("eth0 is usable").is_some_and(|(_, after)| !after.contains("eth0 "));
    assert!(within(LONG, || line.is_ready(host, admin) && usable()), "{}", process.stderr());
    // Losses are repaired: the endpoint hears, answers, and is known again.
    if matches!(which, Which::Retry) {
        let adverts =
            || tests::process::metric(&line.listener.0, LISTENER_ADMIN, "bsl_beacon_adverts_received_total");
        let before = adverts();
        assert!(within(LONG, || adverts() >= before + 2.0), "no ADVERT");
        line.listener.0.lose(20);
    }
    line.send(100);
    line.listener_loses_nothing();
    line.send(20);
    line.assert_all_arrive("after");
}

impl Line {
    fn listener_loses_nothing(&self) {
        // The last frames of a flow are announced; with them the tail is asked for.
        let _ = within(1.0, || delivered(&self.consumer) == self.sent as usize);
        self.listener.0.lose_nothing();
    }
}

#[test]
fn a_listener_hears_again_after_its_interface_was_made_again() {
    an_interface_is_made_again(Which::Listener, "ipv6");
}

#[test]
fn a_proxy_sends_again_after_its_interface_was_made_again_ipv4() {
    an_interface_is_made_again(Which::Proxy, "ipv4");
}

#[test]
#[ignore = "whole matrix: make test-fabric"]
fn every_role_and_family_outlives_its_interface() {
    an_interface_is_made_again(Which::Listener, "ipv4");
    an_interface_is_made_again(Which::Proxy, "ipv6");
    for family in ["ipv6", "ipv4"] {
        an_interface_is_made_again(Which::Retry, family);
    }
}

/// Of two proxies one loses its carrier: it does not claim, so the other one sends.
fn a_carrier_is_lost_in_a_pair(family: &'static str) {
    let Some(mut line) = (if Redis::world().is_some() { Line::start(family) } else { None }) else { return };
    let redis = Redis::start(&line.net, "redis");
    let store = format!("--redis-addr unix://{}", redis.socket().display());
    let args = format!("proxy --fabric {family} --iface eth0 --workers 1 --send-deadline 500ms {store}");
    line.proxy.1.signal("TERM");
    line.proxy.1.wait(20.0);
    line.proxy.1 = role(&line.proxy.0, PROXY_ADMIN + 1, &args);
    let host = line.net.host("sibling");
    let sibling = role(&host, PROXY_ADMIN, &args);
    let both = |numbers: std::ops::Range<u32>| {
        give(&line.proxy.0, numbers.clone());
        give(&host, numbers);
    };
    both(0..100);
    line.net.carrier(&line.proxy.0, false);
    let news = wait_for_line(&line.proxy.1, "eth0 has no carrier");
    eprintln!("{family}: the kernel told of the lost carrier within {news:?}");
    both(100..600);
    let arrived = || delivered(&line.consumer);
    assert!(within(LONG, || arrived() == 600), "{} of 600 arrived", arrived());
    let not_ready = || readyz(&line.proxy.0, PROXY_ADMIN + 1).contains("\"code\":\"link.carrier\"");
    assert!(within(LONG, not_ready), "{}", readyz(&line.proxy.0, PROXY_ADMIN + 1));
    assert!(readyz(&line.proxy.0, PROXY_ADMIN + 1).contains("\"ready\":false"));
    line.net.carrier(&line.proxy.0, true);
    let ready = || readyz(&line.proxy.0, PROXY_ADMIN + 1).contains("\"ready\":true");
    assert!(within(LONG, ready), "{}", line.proxy.1.stderr());
    both(600..700);
    assert!(within(LONG, || arrived() == 700), "{} of 700 arrived", arrived());
    drop(sibling);
}

#[test]
fn a_proxy_without_a_carrier_lets_its_sibling_win() {
    a_carrier_is_lost_in_a_pair("ipv6");
}

#[test]
#[ignore = "whole matrix: make test-fabric"]
fn a_proxy_without_a_carrier_lets_its_sibling_win_ipv4() {
    a_carrier_is_lost_in_a_pair("ipv4");
}

/// A proxy that is alone counts what it cannot send, refuses streams, and lets the resend through.
fn a_lone_proxy_loses_its_carrier(family: &'static str) {
    let Some(mut line) = Line::start(family) else { return };
    line.send(50);
    line.assert_all_arrive("before");
    line.net.carrier(&line.proxy.0, false);
    wait_for_line(&line.proxy.1, "eth0 has no carrier");
    give(&line.proxy.0, 50..150);
    let dropped = || {
        tests::process::metric(&line.proxy.0, PROXY_ADMIN, "bsp_packets_dropped_total{reason=\"no_carrier\"}")
    };
    assert!(within(LONG, || dropped() == 100.0), "{} dropped", dropped());
    let closed =
        || tests::process::metric(&line.proxy.0, PROXY_ADMIN, "bsp_tcp_closed_total{reason=\"no_carrier\"}");
    let knock = || {
        let mut command = line.proxy.0.command("bash");
        command.args(["-c", "exec 3<>/dev/tcp/127.0.0.1/8726; timeout 5 cat <&3"]);
        command.status().unwrap();
        closed() > 0.0
    };
    assert!(within(LONG, knock), "streams are not refused");
    line.net.carrier(&line.proxy.0, true);
    assert!(within(LONG, || line.is_ready(&line.proxy.0, PROXY_ADMIN)), "{}", line.proxy.1.stderr());
    line.send(100);
    line.assert_all_arrive("the resend");
}

#[test]
fn a_lone_proxy_without_a_carrier_counts_and_refuses_and_lets_the_resend_through() {
    a_lone_proxy_loses_its_carrier("ipv4");
}

#[test]
#[ignore = "whole matrix: make test-fabric"]
fn a_lone_proxy_without_a_carrier_ipv6() {
    a_lone_proxy_loses_its_carrier("ipv6");
}

/// One of two lines loses its carrier: the other goes on, and the role says which.
#[test]
#[ignore = "whole matrix: make test-fabric"]
fn one_line_of_two_goes_on_and_is_named() {
    let Some(mut line) = Line::start("ipv6") else { return };
    let end = line.net.apart("end").unwrap();
    line.net.cable((&line.proxy.0, "eth1", "fd11::1/64"), (&end, "eth0", "fd11::2/64")).unwrap();
    let args = "proxy --iface eth0,eth1 --workers 1";
    line.proxy.1.signal("TERM");
    line.proxy.1.wait(20.0);
    line.proxy.1 = role(&line.proxy.0, PROXY_ADMIN + 1, args);
    end.ip("link set eth0 down");
    wait_for_line(&line.proxy.1, "eth1 has no carrier");
    line.send(100);
    line.assert_all_arrive("by the other line");
    let page = || readyz(&line.proxy.0, PROXY_ADMIN + 1);
    assert!(within(LONG, || page().contains("\"code\":\"link.partial\"")), "{}", page());
    assert!(page().contains("\"ready\":true") && page().contains("eth1hasnocarrier"), "{}", page());
    let left_out = tests::process::metric(&line.proxy.0, PROXY_ADMIN + 1, "bsp_packets_left_out_total");
    assert_eq!(left_out, 100.0);
}

/// A role is switched off its link and on again, as an administrator does.
#[test]
#[ignore = "whole matrix: make test-fabric"]
fn a_proxy_whose_interface_is_switched_off_and_on_says_so_and_goes_on() {
    for family in ["ipv6", "ipv4"] {
        let Some(mut line) = Line::start(family) else { return };
        line.send(50);
        line.proxy.0.ip("link set eth0 down");
        wait_for_line(&line.proxy.1, "eth0 is down");
        line.proxy.0.ip("link set eth0 up");
        line.proxy.0.ip(&format!("addr replace {}/64 dev eth0 nodad", line.proxy.0.v6()));
        assert!(within(LONG, || line.is_ready(&line.proxy.0, PROXY_ADMIN)), "{}", line.proxy.1.stderr());
        line.send(100);
        line.assert_all_arrive("after");
    }
}

/// Whether the kernel is done with the address of a host's `eth0`.
fn is_tentative(host: &Host) -> bool {
    let mut command = host.command("ip");
    let output = command.args(["-6", "addr", "show", "dev", "eth0", "tentative"]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).contains("fd10::99")
}

#[test]
fn a_proxy_is_not_ready_before_its_address_is_usable() {
    let Some(mut line) = Line::start("ipv6") else { return };
    let host = line.net.host("boots");
    host.ip("addr flush dev eth0");
    host.ip("link set eth0 down");
    host.ip("link set eth0 up");
    // The kernel looks for a second or two whether another host has it.
    host.ip("addr add fd10::99/64 dev eth0");
    assert!(is_tentative(&host));
    let proxy = role(&host, PROXY_ADMIN, "proxy --iface eth0 --workers 1");
    assert!(!is_tentative(&host), "ready too early");
    give(&host, 0..50);
    line.sent = 50;
    line.assert_all_arrive("at once");
    assert!(proxy.stderr().contains("the start waits: --iface eth0 waits for fd10::99"));
}

/// An endpoint that chooses its address waits for one, and takes the next one when it goes.
fn an_endpoint_follows_its_address(family: &'static str, flush: &str, first: &str, next: &str) {
    let Some(mut line) = Line::start(family) else { return };
    let host = line.net.host("moves");
    host.ip(flush);
    if family == "ipv6" {
        host.ip("link set eth0 addrgenmode none");
        host.ip("-6 addr flush dev eth0");
    }
    // Nobody else answers.
    line.retry.1.begin_stop();
    line.retry.1.wait(LONG);
    let args =
        format!("retry --fabric {family} --iface eth0 --workers 1 --metrics-addr 127.0.0.1:{RETRY_ADMIN}");
    let mut endpoint = Process::start(&host, &args);
    wait_for_line(&endpoint, "the start waits: --iface eth0 has no address");
    host.ip(&format!("addr add {first} dev eth0"));
    assert!(within(LONG, || line.is_ready(&host, RETRY_ADMIN)), "{}", endpoint.stderr());
    // The address is replaced; of IPv4 the second one would go with the first.
    let mut command = host.command("sh");
    command.args(["-c", "echo 1 > /proc/sys/net/ipv4/conf/eth0/promote_secondaries"]);
    assert!(command.status().unwrap().success());
    let address = |with_length: &str| with_length.split('/').next().unwrap().to_owned();
    host.ip(&format!("addr add {next} dev eth0"));
    host.ip(&format!("addr del {first} dev eth0"));
    let taken = match family {
        "ipv6" => format!("requests are taken on [{}]", address(next.trim_end_matches(" nodad"))),
        _ => format!("requests are taken on {}", address(next)),
    };
    wait_for_line(&endpoint, &taken);
    // Losses are repaired by the new one.
    let misses =
        || tests::process::metric(&line.listener.0, LISTENER_ADMIN, "bsl_beacon_adverts_received_total");
    let before = misses();
    assert!(within(LONG, || misses() >= before + 2.0), "no ADVERT");
    line.listener.0.lose(20);
    line.send(200);
    line.listener_loses_nothing();
    line.send(20);
    line.assert_all_arrive("after");
    endpoint.begin_stop();
    endpoint.wait(LONG);
}

#[test]
fn an_endpoint_that_chooses_its_address_takes_the_next_one() {
    an_endpoint_follows_its_address("ipv4", "addr flush dev eth0", "10.10.0.200/24", "10.10.0.201/24");
}

#[test]
#[ignore = "whole matrix: make test-fabric"]
fn an_endpoint_that_chooses_its_address_takes_the_next_one_ipv6() {
    an_endpoint_follows_its_address(
        "ipv6",
        "addr flush dev eth0",
        "fd10::200/64 nodad",
        "fd10::201/64 nodad",
    );
}

/// A filter that drops an IPv4 fabric in silence is named.
#[test]
#[ignore = "whole matrix: make test-fabric"]
fn a_strict_rp_filter_is_named() {
    let Some(net) = Net::new() else { return };
    let host = net.host("strict");
    let mut command = host.command("sh");
    command.args(["-c", "echo 1 > /proc/sys/net/ipv4/conf/eth0/rp_filter"]);
    assert!(command.status().unwrap().success());
    let _retry = role(&host, RETRY_ADMIN, "retry --fabric ipv4 --iface eth0 --workers 1");
    let page = || readyz(&host, RETRY_ADMIN);
    assert!(within(LONG, || page().contains("\"code\":\"sysctl.rp_filter\"")), "{}", page());
    assert!(page().contains("\"ready\":true"));
}
