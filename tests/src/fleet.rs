//! A fabric of real processes: proxies, one retry endpoint, listeners and their consumer, each role on a host of its own.

use crate::process::role;
use crate::{Host, Net, Process};

/// Admin port of every proxy, on its own host.
pub const PROXY_ADMIN: u16 = 9150;
/// Admin port of every listener.
pub const LISTENER_ADMIN: u16 = 9200;
/// Admin port of the retry endpoint.
pub const RETRY_ADMIN: u16 = 9400;

const PROXY: &str = "proxy --iface eth0 --udp-listen-port 8725 --tcp-listen-port 8726 --workers 1";
const RETRY: &str = "retry --mc-iface eth0 --egress-iface eth0 --workers 1";
const LISTENER: &str = "listener --iface eth0 --workers 2 --egress-proto tcp";

/// What a test wants beyond two proxies, one listener and nothing lost.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Share of UDP that listeners lose, percent.
    pub loss: u32,
    /// Options of `oncecast recv`.
    pub receive: String,
    /// Options of the proxies.
    pub proxy: String,
    /// Options of the listeners.
    pub listener: String,
    /// Listeners in front of the one consumer (0: one).
    pub listeners: usize,
}

/// A role on its host, that can be ended and started again.
pub struct Role {
    /// Where it runs.
    pub host: Host,
    /// Its admin port.
    pub admin: u16,
    /// How it was started.
    pub args: String,
    /// The running process.
    pub process: Process,
    /// What the processes before it knew when they were killed: their metrics, then their log.
    pub lives: Vec<String>,
}

impl Role {
    fn start(host: Host, admin: u16, args: String) -> Role {
        let process = role(&host, admin, &args);
        Role { host, admin, args, process, lives: Vec::new() }
    }

    /// `kill -9`, and the same again at once; returns when the new one is ready.
    pub fn kill_and_restart(&mut self) {
        let metrics = self.page("metrics");
        self.process.signal("KILL");
        self.process.wait(10.0);
        self.lives.push(format!("{metrics}\n{}", self.process.stderr()));
        self.restart();
    }

    /// A page of its admin address.
    pub fn page(&self, page: &str) -> String {
        crate::process::run(&self.host, &format!("status 127.0.0.1:{} --page {page}", self.admin), 10.0).1
    }

    /// Sum of a metric over all lives, this one included.
    pub fn metric_of_all_lives(&self, name: &str) -> f64 {
        let now = self.page("metrics");
        self.lives.iter().chain([&now]).map(|page| crate::process::sum_of(page, name)).sum()
    }

    /// Starts it again after its end.
    pub fn restart(&mut self) {
        self.process = role(&self.host, self.admin, &self.args);
    }

    /// A metric of it; see [`crate::process::metric`].
    pub fn metric(&self, name: &str) -> f64 {
        crate::process::metric(&self.host, self.admin, name)
    }
}

/// See the module text.
pub struct Fleet {
    /// Two.
    pub proxies: Vec<Role>,
    /// One or two.
    pub listeners: Vec<Role>,
    /// One.
    pub retry: Role,
    /// `oncecast recv`, on a host of its own.
    pub consumer: Process,
    /// Host of whoever sends.
    pub sender: Host,
    _consumer_host: Host,
    _net: Net,
}

impl Fleet {
    /// `None` where namespaces cannot be made.
    pub fn start(setup: &Setup) -> Option<Fleet> {
        Some(Fleet::on(Net::new()?, setup))
    }

    /// On a network that may have other hosts already. The consumer starts first: a listener is ready only with it.
    pub fn on(net: Net, setup: &Setup) -> Fleet {
        let consumer_host = net.host("consumer");
        let receive = format!("recv --listen tcp://[{}]:9100 {}", consumer_host.v6(), setup.receive);
        let consumer = Process::start(&consumer_host, &receive);
        let retry = Role::start(net.host("retry"), RETRY_ADMIN, RETRY.into());
        let listen = format!("{LISTENER} --egress-addr [{}]:9100 {}", consumer_host.v6(), setup.listener);
        let listeners = (1..=setup.listeners.max(1)).map(|number| {
            let host = net.host(&format!("listener{number}"));
            if setup.loss > 0 {
                host.lose(setup.loss);
            }
            Role::start(host, LISTENER_ADMIN, listen.clone())
        });
        let listeners = listeners.collect();
        let proxy = |number| {
            Role::start(net.host(&format!("proxy{number}")), PROXY_ADMIN, format!("{PROXY} {}", setup.proxy))
        };
        let proxies = (1..=2).map(proxy).collect();
        let sender = net.host("sender");
        Fleet { proxies, listeners, retry, consumer, sender, _consumer_host: consumer_host, _net: net }
    }

    fn roles(&mut self) -> impl Iterator<Item = &mut Role> {
        self.proxies.iter_mut().chain(&mut self.listeners).chain([&mut self.retry])
    }

    /// Targets for `oncecast send --to`: the first proxy by UDP, the second by TCP.
    pub fn targets(&self) -> String {
        format!("{},tcp://[{}]:8726", self.udp_target(0), self.proxies[1].host.v6())
    }

    /// Targets: both proxies by UDP.
    pub fn udp_targets(&self) -> String {
        format!("{},{}", self.udp_target(0), self.udp_target(1))
    }

    fn udp_target(&self, proxy: usize) -> String {
        format!("udp://[{}]:8725", self.proxies[proxy].host.v6())
    }

    /// True while every role runs.
    pub fn all_run(&mut self) -> bool {
        self.roles().all(|role| role.process.is_running())
    }
}

/// All roles stop at once; each is waited for, and its books are looked at, when it is dropped.
impl Drop for Fleet {
    fn drop(&mut self) {
        self.roles().for_each(|role| role.process.begin_stop());
    }
}
