//! The host that a role runs on: what the role needs of it, and whether that is there.
//!
//! A role declares its [`needs`]. `--check` looks at all of them without a start and without a trace ([`look`]); the start
//! itself finds the same things wrong where it meets them. Each finding has the code of its trouble.
//!
//! What this host's own running instance holds is in order: the role is checked while it runs, before a restart.

pub mod memory;
pub mod needs;
pub mod ports;

pub use needs::{Link, Needs};

use cache_backend::{BootPolicy, Settings};
use memory::{Fit, Room};
use multicast_io::Interface;
use ports::{Holder, Owner, Port};
use std::fmt;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

/// Longest wait for a name.
const RESOLVE: Duration = Duration::from_secs(1);

/// Descriptors that a role has besides its connections: sockets, timers, files, and 64 connections to its admin port.
const OTHER_DESCRIPTORS: usize = 256;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Code of the trouble.
    pub code: &'static str,
    /// The option, what is wrong, and what helps.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.code)
    }
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// The role could not start.
    pub failures: Vec<Finding>,
    /// It could, and would be worse off.
    pub warnings: Vec<Finding>,
}

impl Findings {
    fn fails(&mut self, code: &'static str, text: impl Into<String>) {
        self.failures.push(Finding { code, text: text.into() });
    }

    fn warns(&mut self, code: &'static str, text: impl Into<String>) {
        self.warnings.push(Finding { code, text: text.into() });
    }
}

/// Looks whether this host has what a role needs. `owner`: who would run. `take_over`: ports may be shared with an old
/// process.
pub fn look(needs: &Needs, owner: &Owner, take_over: bool) -> Findings {
    let mut findings = Findings::default();
    let interfaces = Interface::all().unwrap_or_default();
    needs.links.iter().for_each(|link| look_at_link(link, &interfaces, &mut findings));
    for (option, address) in &needs.addresses {
        if !is_here(*address, &interfaces) {
            findings.fails("addr.none", format!("{option} {address}: no interface here has this address"));
        }
    }
    let mut running = None;
    for port in &needs.ports {
        look_at_port(port, owner, take_over, &mut running, &mut findings);
    }
    for (option, path) in &needs.files {
        if let Err(error) = std::fs::File::open(path) {
            findings.fails("file.unreadable", format!("{option} {path}: {error}"));
        }
    }
    look_at_memory(needs, running, &mut findings);
    look_at_names(&needs.names, &mut findings);
    look_at_descriptors(needs.connections, &mut findings);
    findings
}

/// Asks the shared stores, as a strict start would. Call on a runtime.
pub async fn ask_stores(needs: &Needs) -> Vec<Finding> {
    let mut failures = Vec::new();
    for (option, settings) in &needs.stores {
        let mut settings = settings.clone();
        match &mut settings {
            Settings::Redis(redis) => redis.remote.boot = BootPolicy::Strict,
            Settings::Aerospike(aerospike) => aerospike.remote.boot = BootPolicy::Strict,
            _ => {}
        }
        match cache_backend::open(settings).await {
            Ok(Some(store)) => store.close().await,
            Ok(None) => {}
            Err(error) => {
                failures.push(Finding { code: "store.unreachable", text: format!("{option}: {error}") });
            }
        }
    }
    failures
}

fn look_at_link(link: &Link, interfaces: &[Interface], findings: &mut Findings) {
    let Link { option, name, least_mtu, v4 } = link;
    let Some(found) = interfaces.iter().find(|interface| interface.name == name.trim()) else {
        let names: Vec<&str> = interfaces.iter().map(|interface| interface.name.as_str()).collect();
        let names = names.join(", ");
        return findings
            .fails("link.missing", format!("{option} {name}: no such interface (there are: {names})"));
    };
    if let Some((sized_by, least)) = least_mtu
        && found.mtu < *least
    {
        let most = found.mtu;
        let text = format!("{sized_by} {least}: interface {name} carries packets of at most {most} bytes");
        findings.fails("link.mtu", text);
    }
    let (family, has) = if *v4 { ("IPv4", !found.v4.is_empty()) } else { ("IPv6", !found.v6.is_empty()) };
    if !has {
        findings.fails("addr.none", format!("{option} {name}: the interface has no {family} address"));
    }
}

fn is_here(address: IpAddr, interfaces: &[Interface]) -> bool {
    let has = |interface: &Interface| match address {
        // All of 127/8 is of the loopback.
        IpAddr::V4(v4) => interface.v4.contains(&v4) || (v4.is_loopback() && interface.is_loopback),
        IpAddr::V6(v6) => interface.v6.contains(&v6),
    };
    address.is_unspecified() || interfaces.iter().any(has)
}

/// `running`: the process of this instance, where one is found.
fn look_at_port(
    port: &Port,
    owner: &Owner,
    take_over: bool,
    running: &mut Option<u32>,
    findings: &mut Findings,
) {
    match port.holder() {
        Some(Holder::Role { owner: holder, pid }) if holder == *owner => *running = Some(pid),
        Some(Holder::Role { owner: holder, .. }) if take_over && holder.role == owner.role => {}
        Some(Holder::Hidden { .. }) => findings.warns(
            "port.taken",
            format!(
                "{}; this is in order if it is this instance, of an older release",
                port.taken(take_over)
            ),
        ),
        Some(_) => findings.fails("port.taken", port.taken(take_over).to_string()),
        None => match port.probe() {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                findings.fails("port.taken", port.taken(take_over).to_string());
            }
            // A host without IPv6 is served on all addresses of IPv4.
            Err(_) if port.address.ip().is_unspecified() && port.address.is_ipv6() => {
                let address = SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, port.address.port()));
                if let Err(error) = (Port { address, ..*port }).probe() {
                    findings.fails("port.refused", port.refused(error, take_over).to_string());
                }
            }
            Err(error) => {
                findings.fails("port.refused", format!("{:#}", port.refused(error, take_over)));
            }
        },
    }
}

fn look_at_memory(needs: &Needs, running: Option<u32>, findings: &mut Findings) {
    let held = running.and_then(|pid| memory::resident(&pid.to_string())).unwrap_or(0);
    match Room::of_this_host().judge(&memory::granted(&needs.sizes), held) {
        Fit::Fits => {}
        Fit::Tight(why) => findings.warns(memory::CODE, why),
        Fit::Beyond(why) => findings.fails(memory::CODE, why),
    }
}

/// All at once: a resolver that does not answer costs one wait.
fn look_at_names(names: &[(&'static str, String)], findings: &mut Findings) {
    let (tell, told) = std::sync::mpsc::channel();
    for (option, name) in names.iter().cloned() {
        let tell = tell.clone();
        // A lookup cannot be cut short; one that hangs ends with this process.
        std::thread::spawn(move || {
            let found = (name.as_str(), 1).to_socket_addrs().map(|mut addresses| addresses.next());
            let _ = tell.send((option, name, found));
        });
    }
    drop(tell);
    let mut open = names.to_vec();
    let end = std::time::Instant::now() + RESOLVE;
    let mut answers = Vec::new();
    while let Ok(answer) = told.recv_timeout(end.saturating_duration_since(std::time::Instant::now())) {
        answers.push(answer);
    }
    for (option, name, found) in answers {
        open.retain(|asked| *asked != (option, name.clone()));
        match found {
            Ok(Some(_)) => {}
            Ok(None) => findings.warns("name.unresolved", format!("{option} {name}: it has no address")),
            Err(error) => findings.warns("name.unresolved", format!("{option} {name}: {error}")),
        }
    }
    for (option, name) in open {
        findings.warns("name.unresolved", format!("{option} {name}: no answer within {RESOLVE:?}"));
    }
}

fn look_at_descriptors(connections: usize, findings: &mut Findings) {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    let wanted = connections.saturating_add(OTHER_DESCRIPTORS);
    if let Some(soft) = soft.filter(|soft| connections > 0 && *soft < wanted) {
        findings.warns(
            "fd.limit",
            format!(
                "--tcp-max-connections {connections}: the process may open {soft} files (ulimit -n, LimitNOFILE=); \
                 want {wanted}"
            ),
        );
    }
}
