//! One day of a fleet that shares a store: two proxies get all the traffic, one listener delivers it, and every frame is
//! counted at the consumer.
//!
//! On each bad day:
//! * nothing is lost, and nothing is delivered twice;
//! * a counter explains each copy that crossed the fabric twice;
//! * no frame waited for the store longer than it may;
//! * claims are decided in the store again without a restart;
//! * the log says each change of state once.

use crate::fleet::PROXY_ADMIN;
use crate::process::{readyz, run};
use crate::{Fleet, Net, Process, Setup, block_file, eventually};

/// Frames of the shortest day and how many of them a second: about four seconds.
pub const FRAMES: u64 = 4_000;
const RATE: u64 = 1_000;
/// Frames of the longest day, which ends by itself.
const LONGEST: u64 = 120_000;
/// Seconds until a day is given up that does not go on as it should.
const PATIENCE: f64 = 60.0;
/// `--cache-op-timeout` of claims.
const DEADLINE: f64 = 0.05;
/// What timers and schedulers may add to it before the worker counts itself late.
const ALLOWANCE: f64 = 0.005;
/// Lines that one proxy may write from start to end of a bad day.
pub const LINES: usize = 40;

/// Decisions of proxies by reason.
pub const DECISIONS: &str = "bsp_txid_claim_decisions_total";
/// Ways to let a frame through although another node may have sent it.
const EXPLANATIONS: [&str; 6] =
    ["in_doubt", "breaker_open", "bypassed", "parking_full", "draining", "taken_over"];

/// A fleet and its traffic.
pub struct Day {
    /// Who takes part.
    pub fleet: Fleet,
    sending: Process,
}

impl Day {
    /// Two proxies with these options, and all frames on their way to both.
    pub fn begin(net: Net, proxy: String) -> Day {
        Day::of(net, Setup { proxy, ..Setup::default() })
    }

    pub fn of(net: Net, setup: Setup) -> Day {
        let receive = "--linger 0.5 --json".into();
        let fleet = Fleet::on(net, &Setup { receive, ..setup });
        let (block, to) = (block_file().display().to_string(), fleet.udp_targets());
        let send = format!("send {block} --to {to} --duplicates 100 --count {LONGEST} --rate {RATE} --json");
        let sending = Process::start(&fleet.sender, &send);
        Day { fleet, sending }
    }

    pub fn sum(&self, name: &str) -> u64 {
        self.fleet.proxies.iter().map(|proxy| whole(proxy.metric(name))).sum()
    }

    pub fn decided(&self, why: &str) -> u64 {
        self.sum(&format!("{DECISIONS}{{why=\"{why}\"}}"))
    }

    /// Copies that the listener's gate removed.
    pub fn removed(&self) -> u64 {
        whole(self.fleet.listeners[0].metric("bsl_frames_tx_deduped_total"))
    }

    /// Waits until the proxies have let through that many frames.
    pub fn reach(&self, frames: u64) {
        let there = || self.sum("bsp_packets_forwarded_total") >= frames;
        assert!(eventually(there), "{} forwarded", self.sum("bsp_packets_forwarded_total"));
    }

    /// Waits until both proxies notice, in `/readyz`, that the store does not help; they stay ready.
    pub fn notices(&self) {
        assert!(eventually(|| self.readiness().iter().all(|body| body.contains("\"degraded\":[\""))));
        assert!(
            self.readiness().iter().all(|body| body.contains("\"ready\":true")),
            "{:?}",
            self.readiness()
        );
    }

    /// Waits until claims are decided in the store again.
    pub fn recovers(&self) {
        assert!(eventually(|| self.readiness().iter().all(|body| body.contains("\"degraded\":[]"))));
        let before = self.decided("won") + self.decided("settled");
        let again = || self.decided("won") + self.decided("settled") > before + 100;
        assert!(eventually(again), "no claim is decided: {}", self.summary());
    }

    pub fn readiness(&self) -> Vec<String> {
        self.fleet.proxies.iter().map(|proxy| readyz(&proxy.host, PROXY_ADMIN)).collect()
    }

    pub fn status(&self) -> String {
        run(&self.fleet.proxies[0].host, &format!("status 127.0.0.1:{PROXY_ADMIN}"), 10.0).1
    }

    pub fn summary(&self) -> String {
        let reasons = ["won", "settled", "exists"].into_iter().chain(EXPLANATIONS);
        let decided = reasons.map(|why| (why, self.decided(why))).filter(|(_, count)| *count > 0);
        format!("{:?}, {}", decided.collect::<Vec<_>>(), self.waits())
    }

    fn waits(&self) -> String {
        let of = |name: &str| self.fleet.proxies.iter().map(|proxy| proxy.metric(name)).fold(0.0, f64::max);
        let (longest, late) = (of("bsp_txid_claim_longest_wait_seconds"), of("bsp_txid_claim_late_total"));
        format!("longest wait {longest} s, {late} late because the worker was")
    }

    /// No frame waited for the store longer than one deadline. Where the machine gave a proxy its turn too late, the
    /// proxy itself says so and counts the frames.
    fn nobody_waited_too_long(&self) {
        for proxy in &self.fleet.proxies {
            assert_eq!(proxy.metric("bsp_txid_claim_overdue_total"), 0.0, "{}", self.waits());
            let (longest, late) = (
                proxy.metric("bsp_txid_claim_longest_wait_seconds"),
                proxy.metric("bsp_txid_claim_late_total"),
            );
            assert!(longest > 0.0 && (longest <= DEADLINE + ALLOWANCE || late > 0.0), "{}", self.waits());
        }
    }

    /// Whatever was dropped or lost anywhere, from the pages of all roles.
    pub fn losses(&self) -> String {
        let Fleet { proxies, listeners, retry, .. } = &self.fleet;
        let mut found = String::new();
        for role in proxies.iter().chain(listeners).chain([retry]) {
            let page = run(&role.host, &format!("status 127.0.0.1:{} --page metrics", role.admin), 10.0).1;
            let lines = page.lines().filter(|line| !line.starts_with('#') && !line.ends_with(" 0"));
            let telling =
                ["drop", "lost", "gap", "forwarded_total", "received", "reassembl", "accepted", "deduped"];
            let lines = lines.filter(|line| telling.iter().any(|word| line.contains(word)));
            found.extend(lines.map(|line| format!("{}: {line}\n", role.host.namespace)));
        }
        found
    }

    /// Lets the day end, when it has been long enough. Returns how many frames were sent, and the consumer's report once
    /// it has them all.
    pub fn ends(&mut self) -> (u64, serde_json::Value) {
        self.reach(FRAMES);
        self.sending.signal("INT");
        self.sending.wait(PATIENCE);
        let sent = json(&self.sending.stdout());
        let sent = sent["transactions"].as_u64().unwrap_or_default();
        assert!((1..LONGEST).contains(&sent), "{sent} sent\n{}", self.sending.output());
        let delivered = || -> u64 {
            let listeners = self.fleet.listeners.iter();
            listeners.map(|listener| whole(listener.metric("bsl_frames_forwarded_total"))).sum()
        };
        if !eventually(|| delivered() >= sent) {
            eprintln!("{} of {sent} delivered: {}\n{}", delivered(), self.summary(), self.losses());
        }
        self.fleet.consumer.signal("INT");
        self.fleet.consumer.wait(PATIENCE);
        (sent, json(&self.fleet.consumer.stdout()))
    }

    /// Everything was sent and delivered once, and what crossed the fabric twice is explained. Returns the copies.
    pub fn all_arrived(&mut self) -> u64 {
        let (sent, report) = self.ends();
        assert_eq!((&report["unique"], &report["duplicates"]), (&sent.into(), &0.into()), "{report}");
        // Counters follow a little after the frames, and copies that parked are let go, or leave, after the first ones.
        let explained = || {
            let won = self.decided("won");
            let undecided: u64 = EXPLANATIONS.iter().map(|why| self.decided(why)).sum();
            let copies = (won + undecided).checked_sub(sent)?;
            (won <= sent && self.removed() == copies).then_some(copies)
        };
        assert!(
            eventually(|| explained().is_some()),
            "an id is won once, and the listener's gate removes and counts what was let through twice: {sent} sent, {} \
             removed, {}",
            self.removed(),
            self.summary()
        );
        let copies = explained().unwrap_or_default();
        self.nobody_waited_too_long();
        assert!(self.fleet.all_run());
        eprintln!("{sent} frames, copies {copies}; {}", self.summary());
        copies
    }

    /// The logs of the proxies: bounded, and with a line for each of `wanted`.
    pub fn logged(&self, wanted: &[&str]) {
        for log in self.fleet.proxies.iter().map(|proxy| proxy.process.stderr()) {
            assert!(log.lines().count() <= LINES, "{} lines:\n{log}", log.lines().count());
            for line in wanted {
                assert!(log.contains(line), "no {line:?} in\n{log}");
            }
        }
    }
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

/// A count, as metrics give it.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
pub fn whole(count: f64) -> u64 {
    count as u64
}
