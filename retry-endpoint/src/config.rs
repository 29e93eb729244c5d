//! Options of the retry role, on top of the groups that all roles share: the names of the Go stack where it has one, our
//! own where it does not.
//!
//! Defaults that differ on purpose: the rate limits (the Go stack's 100 requests a second let one listener repair a
//! thousandth of a busy fabric; ours count bytes and let it repair all of it), `repair-dedup-window` (a round trip; the Go
//! stack's `dedup-window` of a minute suppresses repairs that are still needed, so that name is not taken over), and
//! `cache-bytes` instead of an unlimited number of keys.

use crate::pipeline::answer::{Policy, RepairPaths};
use crate::pipeline::limit::{Network, Rate, RepairRates, RequestRates};
use crate::pipeline::numbers::MAX_RANGE;
use crate::pipeline::store::{Lifetimes, StoreLimits};
use cache_backend::Settings;
use clap::ArgAction::Set;
use clap::{Args, ValueEnum};
use frame::{Fabric, ShardBits, SourceMode};
use multicast_io::Loss;
use service::config::{
    Alias, BackendArgs, BackendKind, ByteSize, CommonArgs, FabricArgs, Family, HostArgs, HostPort, HostPorts,
    Invalid, Names, Percent, Purpose, Role, ScopeArg, SourceModeArg, demand, duration, whole,
};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What the option loader must know: the names of the Go stack, and defaults of shared options.
pub const ROLE: Role = Role {
    name: "retry",
    aliases: &[
        Alias::new("iface", "mc-iface", "MC_IFACE"),
        Alias::new("egress-loop", "egress-multicast-loop", "EGRESS_MULTICAST_LOOP"),
        Alias::new("upstream", "upstream-retry-endpoints", "UPSTREAM_RETRY_ENDPOINTS"),
        Alias::new("rl-chain-rate", "rl-sender-rate", "RL_SENDER_RATE"),
        Alias::new("rl-chain-window", "rl-sender-window", "RL_SENDER_WINDOW"),
        Alias::new("ssm-sources", "ssm-static-sources", "SSM_STATIC_SOURCES"),
    ],
    defaults: &[("metrics-addr", ":9400")],
};

/// Longest `--repair-dedup-window`: below the longest pause of a listener that asks again (2 s).
const MOST_DEDUP: Duration = Duration::from_secs(1);

/// Options of one retry endpoint, a group for each stage.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Where the fabric is; its interfaces are those to receive on.
    #[command(flatten)]
    pub fabric: FabricArgs,
    /// A second tier that endpoints share; memory (the default) is the log of this process alone.
    #[command(flatten)]
    pub backend: BackendArgs,
    /// What is received and kept.
    #[command(flatten)]
    pub store: StoreArgs,
    /// How requests are taken.
    #[command(flatten)]
    pub requests: RequestArgs,
    /// How repairs leave.
    #[command(flatten)]
    pub repairs: RepairArgs,
    /// Where frames are fetched that are missing here.
    #[command(flatten)]
    pub upstreams: UpstreamArgs,
    /// What an address may ask for.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// What the endpoint says of itself.
    #[command(flatten)]
    pub beacon: BeaconArgs,
    /// Loss made on purpose.
    #[command(flatten)]
    pub inject: InjectArgs,
    /// Options of this start.
    #[command(flatten)]
    pub host: HostArgs,
    /// Options of the service itself. The CRC-32C of the instance's name is the InstanceID of ADVERTs.
    #[command(flatten)]
    pub common: CommonArgs,
}

impl Default for Config {
    /// The defaults of the command line; the environment is not looked at.
    fn default() -> Config {
        service::config::defaults()
    }
}

impl Config {
    /// What a role inside a bigger process starts from: ports taken as they come, nothing that names this host, loop on
    /// (its listeners are on the same machine), a small store. The caller sets fabric, interfaces and ports.
    pub fn for_embedding() -> Config {
        let mut config = Config::default();
        config.fabric.egress_loop = true;
        config.requests.nack_port = 0;
        config.store.cache_bytes = ByteSize(256 << 20);
        config.store.workers = 1;
        config.common.drain_timeout = Duration::ZERO;
        config
    }

    /// Combinations that cannot work.
    ///
    /// # Errors
    /// The option to change, its value, and what is accepted.
    pub fn check(&self) -> Result<(), Invalid> {
        self.data_fabric()?;
        self.shard_bits()?;
        self.shared_tier()?;
        demand(!self.fabric.iface.0.is_empty(), "iface", "want at least one interface")?;
        demand(
            self.fabric.source_mode == SourceModeArg::Asm || !self.store.ssm_sources.is_empty(),
            "ssm-sources",
            "required by --source-mode=ssm; want the addresses of the emitters",
        )?;
        self.store.check()?;
        self.requests.check()?;
        self.repairs.check()?;
        self.upstreams.check()?;
        self.limits.check()?;
        self.beacon.check()
    }

    /// The data fabric.
    ///
    /// # Errors
    /// Scope and mode that do not go together.
    pub fn data_fabric(&self) -> Result<Fabric, Invalid> {
        self.fabric.plan()
    }

    pub(crate) fn source_mode(&self) -> SourceMode {
        self.fabric.source_mode.into()
    }

    /// Fabrics that carry the beacon group: one a scope.
    pub(crate) fn beacon_fabrics(&self) -> Vec<Fabric> {
        let scopes = match self.fabric.fabric {
            Family::Ipv4 => vec![self.fabric.scope],
            Family::Ipv6 => self.beacon.beacon_scope.scopes(),
        };
        scopes.into_iter().filter_map(|scope| self.fabric.plan_at(scope, "beacon-scope").ok()).collect()
    }

    /// Shard bits.
    ///
    /// # Errors
    /// More than 15.
    pub fn shard_bits(&self) -> Result<ShardBits, Invalid> {
        self.fabric.bits()
    }

    /// Interfaces that repairs leave by.
    pub(crate) fn egress_interfaces(&self) -> &[String] {
        self.repairs.egress_iface.as_ref().map_or(&self.fabric.iface.0, |names| &names.0)
    }

    /// Longest wait for the shared tier.
    pub(crate) fn op_timeout(&self) -> Duration {
        self.backend.op_timeout(Purpose::Frames)
    }

    /// The shared tier, `Settings::None` without one.
    ///
    /// # Errors
    /// `none` (a frame store keeps frames), or a kind without its address.
    pub fn shared_tier(&self) -> Result<Settings, Invalid> {
        match self.backend.kind_or(BackendKind::Memory)? {
            BackendKind::Memory => Ok(Settings::None),
            BackendKind::None => Err(Invalid::new(
                "cache-backend",
                "none; a frame store keeps frames: want memory, redis or aerospike",
            )),
            kind => Ok(self.backend.settings(kind, Purpose::Frames)?),
        }
    }

    pub(crate) fn policy(&self) -> Policy {
        Policy { paths: self.beacon.repair_paths(), dedup_window: self.repairs.repair_dedup_window }
    }
}

/// What is received and kept.
#[derive(Args, Clone, Debug)]
pub struct StoreArgs {
    /// UDP port of the data groups
    #[arg(long, value_name = "PORT", default_value_t = 9001, value_parser = whole::<u16>, help_heading = "Store")]
    pub listen_port: u16,
    /// Sources to join under ssm, comma separated
    #[arg(long, value_name = "ADDRS", value_delimiter = ',', help_heading = "Store")]
    pub ssm_sources: Vec<IpAddr>,
    /// Keep subtree data (group FFFB) as well
    #[arg(long, help_heading = "Store")]
    pub subtree_data_enabled: bool,
    /// Worker threads; each owns a share of the groups. 0 is one for each core, never more than groups
    #[arg(long, env = "NUM_WORKERS", value_name = "N", default_value_t = 0, value_parser = whole::<usize>, help_heading = "Store")]
    pub workers: usize,
    /// Receive buffer wanted for each data socket
    #[arg(long, value_name = "SIZE", default_value = "64MiB", help_heading = "Store")]
    pub recv_buf_bytes: ByteSize,
    /// Memory for frames and their index, split over the workers; taken as it is needed
    #[arg(long, value_name = "SIZE", default_value = "1GiB", help_heading = "Store")]
    pub cache_bytes: ByteSize,
    /// Flows that are known, split over the workers: shown in /status, and announced when their sender falls silent
    #[arg(long, value_name = "N", default_value_t = 65_536, value_parser = whole::<usize>, help_heading = "Store")]
    pub cache_flows: usize,
    /// How long frames are served, for every kind without a time of its own
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Store")]
    pub cache_ttl: Option<Duration>,
    /// How long transactions are served [default: 60s]
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Store")]
    pub cache_ttl_tx: Option<Duration>,
    /// How long blocks are served [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Store")]
    pub cache_ttl_block: Option<Duration>,
    /// How long subtree data is served [default: 5m]
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Store")]
    pub cache_ttl_subtree: Option<Duration>,
    /// How long anchors are served [default: 2m]
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Store")]
    pub cache_ttl_anchor: Option<Duration>,
    /// Serve only frames whose payload hashes to their id (fragments exempt)
    #[arg(long, action = Set, default_value_t = true, help_heading = "Store")]
    pub verify_payload_hash: bool,
}

impl StoreArgs {
    fn check(&self) -> Result<(), Invalid> {
        self.lifetimes().map(drop)
    }

    /// Lifetimes: those of a kind, else `cache-ttl`, else the defaults.
    ///
    /// # Errors
    /// A lifetime of 0.
    pub fn lifetimes(&self) -> Result<Lifetimes, Invalid> {
        let standard = Lifetimes::default();
        let of = |own: Option<Duration>, otherwise: Duration, option: &'static str| {
            let ttl = own.or(self.cache_ttl).unwrap_or(otherwise);
            demand(!ttl.is_zero(), option, "0; want more than 0").map(|()| ttl)
        };
        Ok(Lifetimes {
            tx: of(self.cache_ttl_tx, standard.tx, "cache-ttl-tx")?,
            block: of(self.cache_ttl_block, standard.block, "cache-ttl-block")?,
            subtree: of(self.cache_ttl_subtree, standard.subtree, "cache-ttl-subtree")?,
            anchor: of(self.cache_ttl_anchor, standard.anchor, "cache-ttl-anchor")?,
        })
    }

    /// The store of one of `workers` workers.
    pub(crate) fn share(&self, workers: usize) -> StoreLimits {
        StoreLimits { bytes: self.cache_bytes.as_usize() / workers, flows: self.cache_flows / workers }
    }
}

/// How requests are taken.
#[derive(Args, Clone, Debug)]
pub struct RequestArgs {
    /// UDP port of requests; 0 takes any
    #[arg(long, value_name = "PORT", default_value_t = 9300, value_parser = whole::<u16>, help_heading = "Requests")]
    pub nack_port: u16,
    /// Address of requests, as advertised; auto is the first of the first egress interface
    #[arg(long, value_name = "ADDRESS", default_value = "auto", help_heading = "Requests")]
    pub nack_addr: String,
    /// Longest range a request may name, 1 to 256
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = whole::<u16>, help_heading = "Requests")]
    pub nack_max_range: u16,
    /// Send no ACK
    #[arg(long, help_heading = "Requests")]
    pub suppress_ack: bool,
    /// Send no MISS
    #[arg(long, help_heading = "Requests")]
    pub suppress_miss: bool,
    /// Networks whose addresses cannot be forged: unicast without the factor of three, and THROTTLED. Loopback is one
    #[arg(long, value_name = "NETWORKS", value_delimiter = ',', help_heading = "Requests")]
    pub trusted_listeners: Vec<Network>,
}

impl RequestArgs {
    fn check(&self) -> Result<(), Invalid> {
        let range = u64::from(self.nack_max_range);
        demand((1..=MAX_RANGE).contains(&range), "nack-max-range", format!("{range}; want 1 to {MAX_RANGE}"))
    }
}

/// How repairs leave.
#[derive(Args, Clone, Debug)]
pub struct RepairArgs {
    /// Interfaces that repairs and ADVERTs leave by, comma separated [default: those of --iface]
    #[arg(long, value_name = "NAMES", help_heading = "Repairs")]
    pub egress_iface: Option<Names>,
    /// UDP port that multicast repairs go to
    #[arg(long, value_name = "PORT", default_value_t = 9001, value_parser = whole::<u16>, help_heading = "Repairs")]
    pub egress_port: u16,
    /// Percent of bytes that padding may add to a train of repairs; 0 is equal lengths only
    #[arg(long, value_name = "PERCENT", default_value_t = 15, value_parser = whole::<u32>, help_heading = "Repairs")]
    pub train_padding: u32,
    /// A multicast repair is not repeated within this time; about a round trip
    #[arg(long, value_name = "DURATION", default_value = "10ms", value_parser = duration, help_heading = "Repairs")]
    pub repair_dedup_window: Duration,
}

impl RepairArgs {
    fn check(&self) -> Result<(), Invalid> {
        demand(
            self.repair_dedup_window <= MOST_DEDUP,
            "repair-dedup-window",
            format!(
                "{:?}; want at most {MOST_DEDUP:?}: a repair that was lost can be had again only after it",
                self.repair_dedup_window
            ),
        )
    }
}

/// Where frames are fetched that are missing here.
#[derive(Args, Clone, Debug)]
pub struct UpstreamArgs {
    /// Fetch what is missing here from the upstreams
    #[arg(long, help_heading = "Upstream")]
    pub proxy_enabled: bool,
    /// Upstream endpoints, address:port, nearest first; giving one implies --proxy-enabled
    #[arg(long, value_name = "ADDRS", help_heading = "Upstream")]
    pub upstream: Option<HostPorts>,
    /// Wait for each upstream
    #[arg(long, value_name = "DURATION", default_value = "300ms", value_parser = duration, help_heading = "Upstream")]
    pub proxy_timeout: Duration,
    /// Upstreams asked for one frame; 0 is all
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole::<usize>, help_heading = "Upstream")]
    pub proxy_max_endpoints: usize,
    /// Frames being fetched at a time
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = whole::<usize>, help_heading = "Upstream")]
    pub proxy_queue: usize,
}

impl UpstreamArgs {
    fn check(&self) -> Result<(), Invalid> {
        self.addresses()?;
        demand(
            !self.proxy_enabled || self.upstream.as_ref().is_some_and(|list| !list.0.is_empty()),
            "upstream",
            "required by --proxy-enabled; want address:port",
        )
    }

    /// Upstreams in their order.
    ///
    /// # Errors
    /// A name instead of an address, or no port.
    pub fn addresses(&self) -> Result<Vec<SocketAddr>, Invalid> {
        let hosts = self.upstream.as_ref().map_or(&[][..], |list| &list.0);
        let most = if self.proxy_max_endpoints == 0 { usize::MAX } else { self.proxy_max_endpoints };
        let literal = |host: &HostPort| {
            host.literal(9300)
                .ok_or_else(|| Invalid::new("upstream", format!("{host}; want an address with a port")))
        };
        hosts.iter().take(most).map(literal).collect()
    }

    /// Frames being fetched at a time.
    pub(crate) fn most(&self) -> usize {
        self.proxy_queue.max(1)
    }
}

/// What an address may ask for.
#[derive(Args, Clone, Debug)]
pub struct LimitArgs {
    /// Requests a second of one address; a range counts once
    #[arg(long, value_name = "RATE", default_value_t = 100_000.0, help_heading = "Limits")]
    pub rl_ip_rate: f64,
    /// Requests of one address at once
    #[arg(long, value_name = "N", default_value_t = 100_000.0, help_heading = "Limits")]
    pub rl_ip_burst: f64,
    /// Requests for one number of a flow in a window
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = whole::<u64>, help_heading = "Limits")]
    pub rl_sequence_max: u64,
    /// That window
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = duration, help_heading = "Limits")]
    pub rl_sequence_window: Duration,
    /// Requests of one address for one flow in a window
    #[arg(long, value_name = "N", default_value_t = 6_000_000, value_parser = whole::<u64>, help_heading = "Limits")]
    pub rl_chain_rate: u64,
    /// That window
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = duration, help_heading = "Limits")]
    pub rl_chain_window: Duration,
    /// Frames a second that one address may cause in one group
    #[arg(long, value_name = "RATE", default_value_t = 200_000.0, help_heading = "Limits")]
    pub rl_group_rate: f64,
    /// Such frames at once
    #[arg(long, value_name = "N", default_value_t = 200_000.0, help_heading = "Limits")]
    pub rl_group_burst: f64,
    /// Repair bytes a second that one address may cause at each worker; a second's worth may come at once
    #[arg(long, value_name = "SIZE", default_value = "128MiB", help_heading = "Limits")]
    pub rl_bytes_rate: ByteSize,
    /// Say THROTTLED to trusted addresses when a limit refuses them
    #[arg(long, action = Set, default_value_t = true, help_heading = "Limits")]
    pub rl_throttle_response: bool,
}

impl LimitArgs {
    fn check(&self) -> Result<(), Invalid> {
        let rates = [
            ("rl-ip-rate", self.rl_ip_rate),
            ("rl-ip-burst", self.rl_ip_burst),
            ("rl-group-rate", self.rl_group_rate),
            ("rl-group-burst", self.rl_group_burst),
        ];
        for (option, value) in rates {
            demand(value.is_finite() && value > 0.0, option, format!("{value}; want a number above 0"))?;
        }
        Ok(())
    }

    /// Of requests, at the NACK server.
    pub(crate) fn request_rates(&self) -> RequestRates {
        RequestRates {
            ip: Rate { rate: self.rl_ip_rate, burst: self.rl_ip_burst },
            sequence: Rate::per_window(self.rl_sequence_max, self.rl_sequence_window),
            chain: Rate::per_window(self.rl_chain_rate, self.rl_chain_window),
        }
    }

    /// Of repairs, at each worker.
    pub(crate) fn repair_rates(&self) -> RepairRates {
        RepairRates {
            group: Rate { rate: self.rl_group_rate, burst: self.rl_group_burst },
            bytes: Rate::per_window(self.rl_bytes_rate.bytes().max(1), Duration::from_secs(1)),
        }
    }
}

/// What the endpoint says of itself.
#[derive(Args, Clone, Debug)]
pub struct BeaconArgs {
    /// Send ADVERTs
    #[arg(long, action = Set, default_value_t = true, help_heading = "Beacon")]
    pub beacon_enabled: bool,
    /// Tier, 0 is nearest
    #[arg(long, value_name = "TIER", default_value_t = 0, value_parser = whole::<u8>, help_heading = "Beacon")]
    pub beacon_tier: u8,
    /// Preference within the tier, higher first
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = whole::<u8>, help_heading = "Beacon")]
    pub beacon_preference: u8,
    /// Interval as advertised; ADVERTs leave more often, each second
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration, help_heading = "Beacon")]
    pub beacon_interval: Duration,
    /// Scope of the beacon group: link, site, org, global or all
    #[arg(long, value_name = "SCOPE", default_value = "site", value_parser = beacon_scope, help_heading = "Beacon")]
    pub beacon_scope: BeaconScope,
    /// UDP port of ADVERTs
    #[arg(long, value_name = "PORT", default_value_t = 9300, value_parser = whole::<u16>, help_heading = "Beacon")]
    pub beacon_port: u16,
    /// Repair by multicast, and say so
    #[arg(long, action = Set, default_value_t = true, help_heading = "Beacon")]
    pub beacon_flags_multicast: bool,
    /// Repair by unicast, and say so
    #[arg(long, help_heading = "Beacon")]
    pub beacon_flags_unicast: bool,
    /// Say Draining from the start (maintenance); at shutdown it is said anyway
    #[arg(long, help_heading = "Beacon")]
    pub beacon_flags_draining: bool,
}

impl BeaconArgs {
    fn check(&self) -> Result<(), Invalid> {
        demand(
            self.beacon_flags_multicast || self.beacon_flags_unicast,
            "beacon-flags-multicast",
            "false needs --beacon-flags-unicast: an endpoint without a way to repair is none",
        )?;
        demand(
            self.beacon_interval >= Duration::from_secs(1),
            "beacon-interval",
            format!("{:?}; want at least 1s", self.beacon_interval),
        )
    }

    fn repair_paths(&self) -> RepairPaths {
        RepairPaths { multicast: self.beacon_flags_multicast, unicast: self.beacon_flags_unicast }
    }
}

/// Loss made on purpose.
#[derive(Args, Clone, Debug)]
pub struct InjectArgs {
    /// Drop this percentage of all that arrives, for tests
    #[arg(long, value_name = "PERCENT", default_value = "0", help_heading = "Tests")]
    pub inject_loss: Percent,
    /// Seed of that loss
    #[arg(long, value_name = "SEED", default_value_t = 1, value_parser = whole::<u64>, help_heading = "Tests")]
    pub inject_seed: u64,
}

impl InjectArgs {
    /// The loss of one thread, `None` where nothing is dropped; `salt` tells threads apart.
    pub(crate) fn loss(&self, salt: impl FnOnce(u64) -> u64) -> Option<Loss> {
        let percent = self.inject_loss.percent();
        (percent > 0.0).then(|| Loss::new(percent, salt(self.inject_seed)))
    }
}

/// Scopes of the beacon group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BeaconScope {
    /// One of them.
    One(ScopeArg),
    /// Site, organisation and global.
    All,
}

impl std::fmt::Display for BeaconScope {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            BeaconScope::One(ScopeArg::Link) => "link",
            BeaconScope::One(ScopeArg::Site) => "site",
            BeaconScope::One(ScopeArg::Org) => "org",
            BeaconScope::One(ScopeArg::Global) => "global",
            BeaconScope::All => "all",
        })
    }
}

impl BeaconScope {
    /// Value of the ADVERT's scope byte (wire 1.14).
    pub fn code(self) -> u8 {
        match self {
            BeaconScope::One(ScopeArg::Link) => 0x02,
            BeaconScope::One(ScopeArg::Site) => 0x05,
            BeaconScope::One(ScopeArg::Org) => 0x08,
            BeaconScope::One(ScopeArg::Global) => 0x0E,
            BeaconScope::All => 0xFF,
        }
    }

    fn scopes(self) -> Vec<ScopeArg> {
        match self {
            BeaconScope::One(scope) => vec![scope],
            BeaconScope::All => vec![ScopeArg::Site, ScopeArg::Org, ScopeArg::Global],
        }
    }
}

fn beacon_scope(text: &str) -> Result<BeaconScope, String> {
    match text {
        "all" | "both" => Ok(BeaconScope::All),
        _ => ScopeArg::from_str(text, true)
            .map(BeaconScope::One)
            .map_err(|_| "link, site, org, global or all".to_owned()),
    }
}
