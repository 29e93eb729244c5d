//! A role and the host it runs on: late interfaces, no DNS, ports that are handed over, memory that is not free.

use std::net::Ipv4Addr;
use std::process::Command;
use tests::fleet::{LISTENER_ADMIN, PROXY_ADMIN};
use tests::process::{metric, readyz, role, run};
use tests::{Host, Net, Process, eventually, oncecast};

/// A setting of a unit in `deploy/`, as a command line without the program.
fn line_of(role: &str, setting: &str) -> String {
    let path = format!("{}/../deploy/systemd/oncecast-{role}@.service", env!("CARGO_MANIFEST_DIR"));
    let unit = std::fs::read_to_string(path).expect("the unit");
    let line = unit.lines().find_map(|line| line.strip_prefix(setting)?.strip_prefix('=')).expect(setting);
    line.strip_prefix("/usr/bin/oncecast ").expect("our program").to_owned()
}

/// Runs a line of a unit as the service manager would, with the environment of its files.
fn spawn(host: &Host, line: &str, environment: &[(&str, &str)]) -> Process {
    let mut command = host.command(oncecast());
    command.args(line.split_whitespace()).envs(environment.iter().copied());
    Process::spawn(line, command)
}

fn ip(host: &Host, args: &str) {
    let mut command = Command::new("ip");
    command.args(["-n", &host.namespace]).args(args.split_whitespace());
    assert!(command.status().is_ok_and(|status| status.success()), "ip {args}");
}

#[test]
fn each_unit_waits_for_its_interface_and_starts_without_dns() {
    let Some(net) = Net::new() else { return };
    for (role, admin) in [("proxy", 9100), ("listener", 9200), ("retry", 9400)] {
        let host = net.apart(role).expect("a host");
        // A namespace without a way out has no DNS.
        let environment = [
            ("MULTICAST_IF", "late0"),
            ("MC_IFACE", "late0"),
            ("EGRESS_ADDR", "127.0.0.1:9700"),
            ("RETRY_ENDPOINTS", ""),
            ("REDIS_ADDR", "cache.example:6379"),
            ("BACKEND_BOOT", "degraded"),
        ];
        let (before, start) = (line_of(role, "ExecStartPre"), line_of(role, "ExecStart"));
        let mut check = spawn(&host, &before, &environment);
        let code = check.wait(60.0).code();
        assert_eq!(code, Some(1), "{role}: to be tried again, not given up\n{}", check.output());
        assert!(check.stderr().contains("late0: no such interface"), "{}", check.output());

        ip(&host, "link add late0 type veth peer name far0");
        ip(&host, "addr add fd20::1/64 dev late0 nodad");
        ip(&host, "link set late0 up");
        ip(&host, "link set far0 up");
        let mut check = spawn(&host, &before, &environment);
        check.succeed(60.0);
        assert!(check.stderr().contains("cache.example: "), "said, and no obstacle: {}", check.output());
        let running = spawn(&host, &start, &environment);
        let started = || running.stderr().contains("service::run: started");
        assert!(eventually(started), "{role}: {}", running.output());
        // The check of the next start finds its own ports in order.
        spawn(&host, &before, &environment).succeed(60.0);
        assert_ne!(readyz(&host, admin), "");
    }
}

#[test]
fn a_name_that_does_not_resolve_is_tried_again_and_not_given_up() {
    let Some(net) = Net::new() else { return };
    let host = net.host("listener");
    let environment = [("MULTICAST_IF", "eth0"), ("EGRESS_ADDR", "consumer.example:9700")];
    let mut check = spawn(&host, &line_of("listener", "ExecStartPre"), &environment);
    check.succeed(60.0);
    assert!(check.stderr().contains("--egress-addr consumer.example"), "{}", check.output());
    // Units stay down after exit code 2 alone.
    let mut listener = spawn(&host, &line_of("listener", "ExecStart"), &environment);
    let may = |code| code != Some(2);
    let mut ended = None;
    assert!(eventually(|| {
        if !listener.is_running() {
            ended = Some(listener.wait(1.0).code());
        }
        ended.is_some() || listener.stderr().contains("service::run: started")
    }));
    assert!(ended.is_none_or(may), "{}", listener.output());
}

#[test]
fn a_link_whose_packets_are_too_small_is_named() {
    let Some(net) = Net::new() else { return };
    let host = net.host("proxy");
    let mut check = Process::start(&host, "proxy --iface eth0 --frag-mtu 9000 --check");
    assert_eq!(check.wait(60.0).code(), Some(1));
    let text = check.stderr();
    assert!(text.contains("--frag-mtu 9000: interface eth0 carries packets of at most 1500 bytes"), "{text}");
    Process::start(&host, "proxy --iface eth0 --frag-mtu 1500 --check").succeed(60.0);
}

/// A transaction of its own for each `value`.
fn transaction(value: u8) -> String {
    format!("0100000001{}ffffffff00ffffffff01{value:02x}000000000000000000000000", "00".repeat(32))
}

#[test]
fn a_planned_hand_over_loses_nothing() {
    const SENDERS: u8 = 16;
    const EACH: u32 = 500;
    let Some(net) = Net::new() else { return };
    let (sender, host) = (net.host("sender"), net.host("proxy"));
    let line = "proxy --iface eth0 --workers 2 --frag-mtu 0 --drain-timeout 5s";
    let mut old = role(&host, PROXY_ADMIN, line);
    // The kernel drops what comes for a neighbour that it does not know yet.
    let (warm, _, error) =
        run(&sender, &format!("send {} --to udp://[{}]:8725", transaction(0), host.v6()), 60.0);
    assert!(warm, "{error}");
    assert!(eventually(|| metric(&host, PROXY_ADMIN, "bsp_packets_handed_over_total") >= 1.0));
    let mut senders: Vec<Process> = (1..=SENDERS)
        .map(|value| {
            let (tx, to) = (transaction(value), host.v6());
            Process::start(&sender, &format!("send {tx} --count {EACH} --rate 150 --to udp://[{to}]:8725"))
        })
        .collect();
    let some = || metric(&host, PROXY_ADMIN, "bsp_packets_handed_over_total") > 100.0;
    assert!(eventually(some), "the old process takes frames");
    let new = role(&host, PROXY_ADMIN + 1, &format!("{line} --take-over"));
    old.signal("TERM");
    old.succeed(60.0);
    senders.iter_mut().for_each(|process| drop(process.succeed(120.0)));
    let emitted = old
        .stderr()
        .split("emitted=")
        .nth(1)
        .and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<f64>().ok());
    let emitted = emitted.expect("what the old process sent");
    let all = f64::from(SENDERS) * f64::from(EACH) + 1.0;
    let of_new = || metric(&host, PROXY_ADMIN + 1, "bsp_packets_handed_over_total");
    assert!(
        tests::within(20.0, || emitted + of_new() >= all),
        "{emitted} + {} of {all}\n{}",
        of_new(),
        new.output()
    );
    assert!(emitted < all, "the new process takes its share");
}

/// Kilobytes in a line of `/proc/meminfo`.
fn meminfo(label: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(label)).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[test]
fn sizes_that_do_not_fit_now_are_a_warning_and_a_degraded_role() {
    let Some(net) = Net::new() else { return };
    let host = net.host("proxy");
    let (total, available) = (meminfo("MemTotal:"), meminfo("MemAvailable:"));
    // A bound of connections, of which nothing is taken before they come.
    let wanted = total - (total - available) / 8;
    let room = 512 << 10;
    if wanted < available + room {
        return tests::skipped("a host with memory in use");
    }
    let line = format!(
        "proxy --iface eth0 --workers 1 --frag-mtu 0 --tcp-listen-port 8726 --dedup-memory 1MiB --tcp-buffer-bytes {}KiB",
        wanted - room
    );
    let mut check = Process::start(&host, &format!("{line} --check"));
    let text = match check.wait(60.0).code() {
        Some(0) => check.stderr(),
        // A limit below the machine's memory.
        _ if check.stderr().contains("of its cgroup") => {
            return tests::skipped("a process without a limit of memory");
        }
        _ => panic!("{}", check.output()),
    };
    assert!(text.contains("(mem.fit)") && text.contains("warning: the sizes of this role"), "{text}");
    let proxy = role(&host, PROXY_ADMIN, &line);
    assert!(eventually(|| readyz(&host, PROXY_ADMIN).contains("mem.fit")), "{}", readyz(&host, PROXY_ADMIN));
    assert!(readyz(&host, PROXY_ADMIN).contains("\"ready\":true"), "it stays in service");
    assert!(proxy.stderr().contains("mem.fit"), "{}", proxy.output());
}

#[test]
fn looking_at_the_log_does_not_loop_multicast_back() {
    let Some(net) = Net::new() else { return };
    let host = net.host("both");
    let _listener =
        role(&host, LISTENER_ADMIN, "listener --iface eth0 --workers 1 --egress-addr 127.0.0.1:9");
    for (options, heard) in [("--debug", 0.0), ("--debug --egress-loop", 1.0)] {
        let mut proxy = role(
            &host,
            PROXY_ADMIN,
            &format!("proxy --iface eth0 --workers 1 --frag-mtu 0 --cache-backend memory {options}"),
        );
        let to = Ipv4Addr::LOCALHOST;
        let (sent, _, error) = run(&host, &format!("send {} --to udp://{to}:8725", transaction(1)), 60.0);
        assert!(sent, "{error}");
        assert!(eventually(|| metric(&host, PROXY_ADMIN, "bsp_packets_handed_over_total") >= 1.0));
        proxy.signal("TERM");
        proxy.succeed(30.0);
        let received = || metric(&host, LISTENER_ADMIN, "bsl_frames_received_total");
        // The frame is on the loop before the proxy has ended, if it is looped at all.
        assert!(eventually(|| received() >= heard), "{options}");
        assert_eq!(received(), heard, "{options}");
    }
}
