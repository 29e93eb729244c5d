//! Options of the egress role, on top of the groups that all roles share: the names of the Go stack where it has one, our
//! own where it does not.
//!
//! Defaults that differ on purpose: verification is on; TCP delivery is always framed; `nack-max-forward-jump` is larger,
//! because ranges make a long repair cheap; `nack-gap-ttl` is what endpoints hold (60 s for transactions), not ten
//! minutes of asking in vain; `--workers` may be any number, since workers share no group.
// Long because it is the one table of the role's options.

use crate::pipeline::{
    FilterRules, Prefix, ReassemblyLimits, Settings as PipelineSettings, TrackLimits, VerifyRules,
};
use crate::resolve::{Unresolved, resolve};
use clap::ArgAction::Set;
use clap::{Args, ValueEnum};
use frame::flow::Origin;
use frame::{Fabric, ShardBits, SourceMode};
use service::config::{
    Alias, BackendArgs, BackendKind, ByteSize, CommonArgs, FabricArgs, GroupRanges, HexIds, HostArgs,
    HostPort, HostPorts, Invalid, Names, Percent, Purpose, Role, ScopeArg, SourceModeArg, demand, duration,
    fabric_name, redis_addrs, whole,
};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use txidset::{ClaimsConfig, FabricLabel, KeyStyle, Mode};

/// `--catch-up` of a listener with a shared store: several leases of 1,000 frames/s in one flow, for flows of which no
/// position was kept.
const CATCH_UP: u64 = 8192;

/// What the option loader must know: the names of the Go stack, and defaults of shared options.
pub const ROLE: Role = Role {
    name: "listener",
    aliases: &[
        Alias::new("cache-backend", "egress-dedup-backend", "EGRESS_DEDUP_BACKEND"),
        Alias::new("redis-addr", "egress-dedup-redis-addr", "EGRESS_DEDUP_REDIS_ADDR"),
        Alias::new("aerospike-hosts", "egress-dedup-aerospike-hosts", "EGRESS_DEDUP_AEROSPIKE_HOSTS"),
        Alias::new(
            "aerospike-namespace",
            "egress-dedup-aerospike-namespace",
            "EGRESS_DEDUP_AEROSPIKE_NAMESPACE",
        ),
        Alias::new("aerospike-set", "egress-dedup-aerospike-set", "EGRESS_DEDUP_AEROSPIKE_SET"),
        Alias::new("ingress-set-redis-addr", "txid-dedup-addr", "TXID_DEDUP_ADDR"),
        Alias::new("ingress-set-prefix", "txid-dedup-prefix", "TXID_DEDUP_PREFIX"),
        Alias::new("ingress-set-ttl", "txid-dedup-ttl", "TXID_DEDUP_TTL"),
    ],
    defaults: &[("metrics-addr", ":9200")],
};

/// Options of one listener, a group for each stage.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Where the fabric is.
    #[command(flatten)]
    pub fabric: FabricArgs,
    /// Where listeners of one deployment share the gate; none by default.
    #[command(flatten)]
    pub backend: BackendArgs,
    /// Where frames come from.
    #[command(flatten)]
    pub receiving: ReceiveArgs,
    /// Which frames the consumer wants.
    #[command(flatten)]
    pub filters: FilterArgs,
    /// Which frames are taken.
    #[command(flatten)]
    pub verification: VerifyArgs,
    /// How gaps are closed.
    #[command(flatten)]
    pub repair: RepairArgs,
    /// How copies are found.
    #[command(flatten)]
    pub gate: GateArgs,
    /// What proxies are told.
    #[command(flatten)]
    pub marks: MarkArgs,
    /// Where frames go.
    #[command(flatten)]
    pub delivery: DeliverArgs,
    /// Loss made on purpose.
    #[command(flatten)]
    pub inject: InjectArgs,
    /// Options of this start.
    #[command(flatten)]
    pub host: HostArgs,
    /// Options of the service itself.
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
    /// What a role inside a bigger process starts from: one worker, TCP delivery of payloads, small buffers. The caller
    /// sets fabric, interfaces, ports, the consumer's address and the name of the deployment.
    pub fn for_embedding() -> Config {
        let mut config = Config::default();
        config.receiving.workers = 1;
        config.delivery.egress_proto = Proto::Tcp;
        config.common.drain_timeout = Duration::from_secs(1);
        config
    }

    /// Combinations that cannot work.
    ///
    /// # Errors
    /// The option to change, its value, and what is accepted.
    pub fn check(&self) -> Result<(), Invalid> {
        self.data_fabric()?;
        self.backend_settings()?;
        let bits = self.shard_bits()?;
        demand(!self.fabric.iface.0.is_empty(), "iface", "want at least one interface")?;
        self.filters.check(bits)?;
        demand(
            self.fabric.source_mode == SourceModeArg::Asm || !self.receiving.ssm_publishers_static.is_empty(),
            "ssm-publishers-static",
            "required by --source-mode=ssm; want the addresses of the emitters",
        )?;
        self.repair.check()?;
        self.delivery.check()?;
        self.claims(true).check().map_err(|problem| Invalid::new("claim-lease", problem))?;
        self.mark_plan().map(drop)
    }

    /// Settings of the store of the gate; none unless one is named.
    ///
    /// # Errors
    /// What the options cannot mean together.
    pub(crate) fn backend_settings(&self) -> Result<cache_backend::Settings, Invalid> {
        let kind = self.backend.kind_or(BackendKind::None)?;
        let (own, marks) = (self.backend.clone(), self.marks.store(&self.backend)?);
        // Certificates are said once for both stores; here that of the marks may need them.
        let for_marks = marks.is_some_and(|(_, marks)| marks.speaks_tls()) && !own.speaks_tls();
        let own = if for_marks { own.without_certificates() } else { own };
        Ok(own.settings(kind, Purpose::Claims)?)
    }

    /// Where courtesy marks go; `None`: none are written.
    ///
    /// # Errors
    /// A store without its address, and what would make marks untrue or harmful.
    pub(crate) fn mark_plan(&self) -> Result<Option<MarkPlan>, Invalid> {
        let Some((kind, store)) = self.marks.store(&self.backend)? else { return Ok(None) };
        let prefix = self.marks.prefix();
        let ttl = self.marks.ingress_set_ttl.unwrap_or(Duration::from_secs(600));
        demand(
            self.verification.verify_payload_hash,
            "verify-payload-hash",
            "false, and --ingress-set-… asks for marks: whoever can send one datagram could suppress any transaction; want true, \
             or no store for marks",
        )?;
        demand(
            self.gate.egress_dedup_local_cap > 0,
            "egress-dedup-local-cap",
            "0, and --ingress-set-… asks for marks: only ids that are new at the gate are marked; want a number of ids",
        )?;
        demand(!prefix.is_empty(), "ingress-set-prefix", "empty; want that of the proxies")?;
        let delivered = &self.gate.egress_dedup_prefix;
        let of_a_gate = !delivered.is_empty() && prefix.starts_with(delivered)
            || self.claims(true).prefix == prefix.as_bytes();
        demand(
            !of_a_gate,
            "ingress-set-prefix",
            "begins as --egress-dedup-prefix does, under which listeners claim what they deliver: want the prefix of the \
             proxies' claims, such as bsp:tx:",
        )?;
        demand(!ttl.is_zero(), "ingress-set-ttl", "0, so for ever; want a duration such as 10m")?;
        let names = txidset::Names::new(prefix.as_bytes(), self.gate.claim_keys);
        let words = self.fabric.named(self.marks.fabric_name.as_deref(), self.receiving.listen_port);
        Ok(Some(MarkPlan {
            settings: store.settings(kind, Purpose::Marks)?,
            word: FabricLabel::new(&names, &words, ttl),
            names,
            prefix,
            ttl,
            answer_timeout: self.backend.op_timeout(Purpose::Marks),
            fabric: self.data_fabric()?,
            check: self.marks.fabric_check == FabricCheckArg::Refuse,
        }))
    }

    /// The data fabric.
    ///
    /// # Errors
    /// Scope and mode that do not go together.
    pub fn data_fabric(&self) -> Result<Fabric, Invalid> {
        self.fabric_at(self.fabric.scope, "source-mode")
    }

    /// The fabric of a control group that has its own scope.
    ///
    /// # Errors
    /// Scope and mode that do not go together.
    pub(crate) fn fabric_at(&self, at: ScopeArg, option: &'static str) -> Result<Fabric, Invalid> {
        self.fabric.plan_at(at, option)
    }

    pub(crate) fn source_mode(&self) -> SourceMode {
        self.fabric.source_mode.into()
    }

    /// Shard bits.
    ///
    /// # Errors
    /// More than 15.
    pub fn shard_bits(&self) -> Result<ShardBits, Invalid> {
        self.fabric.bits()
    }

    /// The claim protocol of the gate, with or without a shared store behind tier 1.
    pub(crate) fn claims(&self, tier2: bool) -> ClaimsConfig {
        let deployment = self.gate.deployment_id.clone().unwrap_or_else(|| self.common.instance());
        self.gate.protocol(&deployment, tier2, self.backend.op_timeout(Purpose::Claims))
    }

    /// Settings of the pipeline of one of `workers` workers.
    ///
    /// # Errors
    /// As `check`, and a name that does not resolve.
    pub(crate) fn pipeline(
        &self,
        workers: usize,
        tier2: bool,
        header_origin: Option<Origin>,
    ) -> anyhow::Result<PipelineSettings> {
        let share = Share(workers.max(1));
        let parked = share.of(self.gate.claim_park_bytes.as_usize());
        Ok(PipelineSettings {
            shard_bits: self.shard_bits()?,
            subtree_data: self.receiving.subtree_data_enabled,
            filter: self.filters.rules(),
            verify: self.verification.rules(),
            track: self.repair.track(share, tier2),
            reassembly: self.verification.reassembly(share),
            claims: ClaimsConfig { park_bytes: parked, ..self.claims(tier2) },
            variants: self.gate.egress_variants,
            waiting_bytes: parked,
            endpoints: self.repair.endpoints()?,
            single_rate: self.repair.single_rate(share),
            header_origin,
            positions: None,
            marks: self.mark_plan()?.map(|plan| plan.fabric),
        })
    }
}

/// A worker has one part of so many.
#[derive(Clone, Copy)]
struct Share(usize);

impl Share {
    fn of(self, total: usize) -> usize {
        (total / self.0).max(1)
    }
}

/// Where frames come from.
#[derive(Args, Clone, Debug)]
pub struct ReceiveArgs {
    /// UDP port of the data groups
    #[arg(long, value_name = "PORT", default_value_t = 9001, value_parser = whole::<u16>, help_heading = "Receiving")]
    pub listen_port: u16,
    /// Worker threads; each owns a share of the groups. 0 is one for each core, never more than groups
    #[arg(long, env = "NUM_WORKERS", value_name = "N", default_value_t = 0, value_parser = whole::<usize>, help_heading = "Receiving")]
    pub workers: usize,
    /// Receive buffer wanted for each data socket
    #[arg(long, value_name = "SIZE", default_value = "64MiB", help_heading = "Receiving")]
    pub recv_buf_bytes: ByteSize,
    /// Receive subtree data (group FFFB) as well
    #[arg(long, help_heading = "Receiving")]
    pub subtree_data_enabled: bool,
    /// Sources to join under ssm, comma separated
    #[arg(long, value_name = "ADDRS", value_delimiter = ',', help_heading = "Receiving")]
    pub ssm_publishers_static: Vec<IpAddr>,
    /// Sources of the block group under ssm [default: the publishers]
    #[arg(long, value_name = "ADDRS", value_delimiter = ',', help_heading = "Receiving")]
    pub ssm_bootstrap_manifest: Vec<IpAddr>,
    /// Sources of the subtree groups under ssm [default: the publishers]
    #[arg(long, value_name = "ADDRS", value_delimiter = ',', help_heading = "Receiving")]
    pub ssm_bootstrap_subtree_announce: Vec<IpAddr>,
    /// Sources of the beacon group under ssm [default: the publishers]
    #[arg(long, value_name = "ADDRS", value_delimiter = ',', help_heading = "Receiving")]
    pub ssm_bootstrap_beacon: Vec<IpAddr>,
    /// Own address, never joined as a source
    #[arg(long, value_name = "ADDRESS", help_heading = "Receiving")]
    pub local_source: Option<IpAddr>,
}

impl ReceiveArgs {
    /// Sources of a list under ssm: the list itself, or the publishers where it is empty; never our own.
    pub(crate) fn sources<'a>(&'a self, own: &'a [IpAddr]) -> impl Iterator<Item = IpAddr> + 'a {
        let list = if own.is_empty() { &self.ssm_publishers_static } else { own };
        list.iter().copied().filter(|source| Some(*source) != self.local_source)
    }
}

/// Which frames the consumer wants.
#[derive(Args, Clone, Debug)]
pub struct FilterArgs {
    /// Shards to take, such as 0-3,7 [default: all]
    #[arg(long, value_name = "GROUPS", default_value = "", help_heading = "Filters")]
    pub shard_include: GroupRanges,
    /// Subtrees to take, comma separated ids [default: all]
    #[arg(long, value_name = "IDS", default_value = "", help_heading = "Filters")]
    pub subtree_include: HexIds<32>,
    /// Subtrees to refuse, comma separated ids
    #[arg(long, value_name = "IDS", default_value = "", help_heading = "Filters")]
    pub subtree_exclude: HexIds<32>,
    /// BRC-127 groups whose announced subtrees to take, comma separated ids
    #[arg(long, value_name = "IDS", default_value = "", help_heading = "Filters")]
    pub subtree_groups: HexIds<16>,
    /// Lifetime of an announcement that names none
    #[arg(long, value_name = "DURATION", default_value = "900s", value_parser = duration, help_heading = "Filters")]
    pub subtree_group_default_ttl: Duration,
    /// Scope of the announcement group
    #[arg(long, value_name = "SCOPE", default_value = "site", help_heading = "Filters")]
    pub announce_scope: ScopeArg,
    /// Sources to take, comma separated prefixes; known retry endpoints pass for repairs [default: all]
    #[arg(long, value_name = "CIDRS", value_delimiter = ',', help_heading = "Filters")]
    pub sender_include: Vec<Prefix>,
    /// Sources to refuse, looked at first
    #[arg(long, value_name = "CIDRS", value_delimiter = ',', help_heading = "Filters")]
    pub sender_exclude: Vec<Prefix>,
}

impl FilterArgs {
    fn check(&self, bits: ShardBits) -> Result<(), Invalid> {
        let highest = self.shard_include.highest().map_or(0, u32::from);
        demand(
            highest < bits.groups(),
            "shard-include",
            format!("{highest}; with --shard-bits {} want 0 to {}", bits.bits(), bits.groups() - 1),
        )
    }

    fn rules(&self) -> FilterRules {
        FilterRules {
            sender_include: self.sender_include.clone(),
            sender_exclude: self.sender_exclude.clone(),
            shard_include: self.shard_include.0.clone(),
            subtree_include: self.subtree_include.0.clone(),
            subtree_exclude: self.subtree_exclude.0.clone(),
            subtree_groups: self.subtree_groups.0.clone(),
            announce_ttl: self.subtree_group_default_ttl,
        }
    }
}

/// Which frames are taken.
#[derive(Args, Clone, Debug)]
pub struct VerifyArgs {
    /// Take only frames whose payload hashes to their id
    #[arg(long, action = Set, default_value_t = true, help_heading = "Verification")]
    pub verify_payload_hash: bool,
    /// Take only blocks whose header meets its target
    #[arg(long, action = Set, default_value_t = true, help_heading = "Verification")]
    pub require_block_pow: bool,
    /// And whose hash begins with this many zero bits
    #[arg(long, value_name = "BITS", default_value_t = 0, value_parser = whole::<u32>, help_heading = "Verification")]
    pub min_pow_bits: u32,
    /// Memory for objects whose fragments are not complete, split over the workers
    #[arg(long, value_name = "SIZE", default_value = "256MiB", help_heading = "Verification")]
    pub reassembly_bytes: ByteSize,
}

impl VerifyArgs {
    fn rules(&self) -> VerifyRules {
        VerifyRules {
            payload_hash: self.verify_payload_hash,
            block_pow: self.require_block_pow,
            min_pow_bits: self.min_pow_bits,
        }
    }

    fn reassembly(&self, share: Share) -> ReassemblyLimits {
        ReassemblyLimits { budget: share.of(self.reassembly_bytes.as_usize()), ..ReassemblyLimits::default() }
    }
}

/// How gaps are closed.
#[derive(Args, Clone, Debug)]
pub struct RepairArgs {
    /// Retry endpoints to ask last, address:port comma separated; others announce themselves
    #[arg(long, value_name = "ADDRS", help_heading = "Repair")]
    pub retry_endpoints: Option<HostPorts>,
    /// A gap is requested after this, or after --reorder-frames later frames
    #[arg(long, value_name = "DURATION", default_value = "3ms", value_parser = duration, help_heading = "Repair")]
    pub reorder_delay: Duration,
    /// Later frames that end the wait for a missing one; 0 is the delay alone
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = whole::<u64>, help_heading = "Repair")]
    pub reorder_frames: u64,
    /// So many frames from before the start are asked for in each flow of which the shared store keeps no position (how
    /// far the listeners of this consumer were); the gate stops what was delivered already [default: 8192 with a shared
    /// store, else 0]
    #[arg(long, value_name = "N", value_parser = whole::<u64>, help_heading = "Repair")]
    pub catch_up: Option<u64>,
    /// How long a gap is repaired [default: as long as endpoints hold its class, 60s for transactions]
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Repair")]
    pub nack_gap_ttl: Option<Duration>,
    /// Flows tracked at once, over all workers
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = whole::<usize>, help_heading = "Repair")]
    pub nack_max_flows: usize,
    /// Ranges of missing numbers at once, over all workers; about 150 bytes each
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = whole::<usize>, help_heading = "Repair")]
    pub nack_max_gaps: usize,
    /// Longest run of numbers that is requested; what lies before it is counted as lost
    #[arg(long, value_name = "N", default_value_t = 262_144, value_parser = whole::<u64>, help_heading = "Repair")]
    pub nack_max_forward_jump: u64,
    /// Requests a second to an endpoint that serves single numbers only, over all workers
    #[arg(long, value_name = "RATE", default_value_t = 90.0, help_heading = "Repair")]
    pub nack_single_rate: f64,
    /// Listen for ADVERTs and flow digests
    #[arg(long, action = Set, default_value_t = true, help_heading = "Repair")]
    pub beacon_enabled: bool,
    /// UDP port of the beacon group
    #[arg(long, value_name = "PORT", default_value_t = 9300, value_parser = whole::<u16>, help_heading = "Repair")]
    pub beacon_port: u16,
    /// Scope of the beacon group
    #[arg(long, value_name = "SCOPE", default_value = "site", help_heading = "Repair")]
    pub beacon_scope: ScopeArg,
}

impl RepairArgs {
    fn check(&self) -> Result<(), Invalid> {
        demand(self.nack_max_flows > 0, "nack-max-flows", "0; want at least 1")?;
        demand(self.nack_max_gaps > 0, "nack-max-gaps", "0; want at least 1")?;
        demand(
            (1..1 << 32).contains(&self.nack_max_forward_jump),
            "nack-max-forward-jump",
            format!("{}; want 1 to 4294967295", self.nack_max_forward_jump),
        )?;
        demand(
            self.nack_single_rate.is_finite() && self.nack_single_rate > 0.0,
            "nack-single-rate",
            format!("{}; want a number above 0", self.nack_single_rate),
        )
    }

    fn track(&self, share: Share, tier2: bool) -> TrackLimits {
        TrackLimits {
            max_flows: share.of(self.nack_max_flows),
            max_gaps: share.of(self.nack_max_gaps),
            max_jump: self.nack_max_forward_jump,
            reorder_delay: self.reorder_delay,
            reorder_frames: self.reorder_frames,
            catch_up: self.catch_up.unwrap_or(if tier2 { CATCH_UP } else { 0 }),
            gap_ttl: self.nack_gap_ttl,
            ..TrackLimits::default()
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "a count of workers")]
    fn single_rate(&self, share: Share) -> f64 {
        self.nack_single_rate / share.0 as f64
    }

    /// Given endpoints. Names are resolved now, once.
    ///
    /// # Errors
    /// A name that does not resolve.
    pub(crate) fn endpoints(&self) -> Result<Vec<SocketAddr>, Unresolved> {
        let hosts = self.retry_endpoints.as_ref().map_or(&[][..], |list| &list.0);
        hosts.iter().map(|host| resolve(host, 9300, "retry-endpoints")).collect()
    }
}

/// How copies are found.
#[derive(Args, Clone, Debug)]
pub struct GateArgs {
    /// Name of the consumer in claims: the same on the listeners that share one [default: the instance's name]
    #[arg(long, value_name = "NAME", help_heading = "Gate")]
    pub deployment_id: Option<String>,
    /// First part of the gate's keys in the shared store
    #[arg(long, value_name = "PREFIX", default_value = "bsl:egr:", help_heading = "Gate")]
    pub egress_dedup_prefix: String,
    /// How long a delivered id is remembered; at least the longest repair
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration, help_heading = "Gate")]
    pub egress_dedup_ttl_redis: Duration,
    /// Ids remembered in the process; 0 is no gate
    #[arg(long, value_name = "N", default_value_t = 1_048_576, value_parser = whole::<usize>, help_heading = "Gate")]
    pub egress_dedup_local_cap: usize,
    /// How claims of listeners that share a consumer work; simple is the Go stack's way
    #[arg(long, value_name = "MODE", default_value = "settled", help_heading = "Gate")]
    pub claim_mode: Mode,
    /// Keys in the shared store: as the Go stack writes them, or compact in half the memory; the same on the whole
    /// deployment
    #[arg(long, value_name = "STYLE", default_value = "go", help_heading = "Gate")]
    pub claim_keys: KeyStyle,
    /// Deliver what has other bytes outside its id than the copy before: another Extended Format of a transaction, another
    /// body of a block announcement. false: an id is delivered once, with the bytes that came first. The same on the
    /// whole deployment
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, help_heading = "Gate")]
    pub egress_variants: bool,
    /// How often claims are closed into an epoch
    #[arg(long, value_name = "DURATION", default_value = "50ms", value_parser = duration, help_heading = "Gate")]
    pub claim_epoch: Duration,
    /// How long a copy waits for the listener that claimed it first
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration, help_heading = "Gate")]
    pub claim_lease: Duration,
    /// Memory for frames that wait for a claim, split over the workers; when full, frames pass unclaimed
    #[arg(long, value_name = "SIZE", default_value = "64MiB", help_heading = "Gate")]
    pub claim_park_bytes: ByteSize,
}

impl GateArgs {
    /// Whether there is a gate.
    pub(crate) fn enabled(&self) -> bool {
        self.egress_dedup_local_cap > 0
    }

    fn protocol(&self, deployment: &str, tier2: bool, answer_timeout: Duration) -> ClaimsConfig {
        ClaimsConfig {
            mode: self.claim_mode,
            keys: self.claim_keys,
            epoch: self.claim_epoch,
            lease: self.claim_lease,
            ttl: self.egress_dedup_ttl_redis,
            park_bytes: self.claim_park_bytes.as_usize(),
            prefix: format!("{}{deployment}:", self.egress_dedup_prefix).into_bytes(),
            tier2,
            marks: false,
            answer_timeout,
            ..ClaimsConfig::default()
        }
    }
}

/// What proxies are told.
#[derive(Args, Clone, Debug)]
pub struct MarkArgs {
    /// Store where the proxies of this site claim: marks the transactions seen on the fabric there, so that these proxies
    /// suppress copies. Read docs/migrating.md first [default: redis or aerospike if their address is given here, else none]
    #[arg(long, value_name = "KIND", help_heading = "Courtesy marks")]
    pub ingress_set_backend: Option<BackendKind>,
    /// That store, as in --redis-addr; turns marks on. The other Redis options are those of the shared store
    #[arg(long, value_name = "ADDRS", value_parser = redis_addrs, help_heading = "Courtesy marks")]
    pub ingress_set_redis_addr: Option<Names>,
    /// That store, as in --aerospike-hosts; turns marks on
    #[arg(long, value_name = "HOSTS", help_heading = "Courtesy marks")]
    pub ingress_set_aerospike_hosts: Option<HostPorts>,
    /// Namespace of the proxies' claims
    #[arg(long, value_name = "NAME", default_value = "cache", help_heading = "Courtesy marks")]
    pub ingress_set_aerospike_namespace: String,
    /// Set of the proxies' claims (--aerospike-set there) [default: bsp, as theirs]
    #[arg(long, value_name = "NAME", help_heading = "Courtesy marks")]
    pub ingress_set_aerospike_set: Option<String>,
    /// Prefix of the proxies' claims (--txid-dedup-prefix there) [default: bsp:tx:, as theirs]
    #[arg(long, value_name = "PREFIX", help_heading = "Courtesy marks")]
    pub ingress_set_prefix: Option<String>,
    /// How long a mark stands; a wrong one suppresses for as long [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Courtesy marks")]
    pub ingress_set_ttl: Option<Duration>,
    /// Name of the fabric in that store (--fabric-name of the proxies) [default: groups, port and shard bits]
    #[arg(long, value_name = "NAME", value_parser = fabric_name, help_heading = "Courtesy marks")]
    pub fabric_name: Option<String>,
    /// Whether to look if the proxies of this fabric claim there: refuse does not start, and stops marking, where another
    /// fabric does
    #[arg(long, value_name = "MODE", default_value = "refuse", help_heading = "Courtesy marks")]
    pub fabric_check: FabricCheckArg,
}

impl MarkArgs {
    /// That of the proxies' claims.
    fn prefix(&self) -> String {
        self.ingress_set_prefix.clone().unwrap_or_else(|| "bsp:tx:".to_owned())
    }

    /// The store that is asked for: what is not said about it is as for the listener's `own`.
    fn store(&self, own: &BackendArgs) -> Result<Option<(BackendKind, BackendArgs)>, Invalid> {
        let mut store = own.clone();
        store.redis_addr = self.ingress_set_redis_addr.clone().filter(|names| !names.0.is_empty());
        store.aerospike_hosts = self.ingress_set_aerospike_hosts.clone().filter(|hosts| !hosts.0.is_empty());
        store.aerospike_namespace = self.ingress_set_aerospike_namespace.clone();
        store.aerospike_set = self.ingress_set_aerospike_set.clone();
        let (redis, aerospike) = (store.redis_addr.is_some(), store.aerospike_hosts.is_some());
        let missing = |option: &'static str, problem: &str| Err(Invalid::new(option, problem));
        let kind = match self.ingress_set_backend {
            Some(kind) if redis && !matches!(kind, BackendKind::Redis | BackendKind::None) => {
                return missing(
                    "ingress-set-backend",
                    "not redis, and --ingress-set-redis-addr is given; want one of them",
                );
            }
            Some(kind) if aerospike && !matches!(kind, BackendKind::Aerospike | BackendKind::None) => {
                return missing(
                    "ingress-set-backend",
                    "not aerospike, and --ingress-set-aerospike-hosts is given; want one of them",
                );
            }
            Some(kind) => kind,
            None if redis && aerospike => {
                return missing(
                    "ingress-set-backend",
                    "--ingress-set-redis-addr and --ingress-set-aerospike-hosts are both given; want one of them",
                );
            }
            None if redis => BackendKind::Redis,
            None if aerospike => BackendKind::Aerospike,
            None => BackendKind::None,
        };
        match kind {
            // What is in the memory of this process no proxy sees.
            BackendKind::None | BackendKind::Memory => return Ok(None),
            BackendKind::Redis => store.redis_addr = store.redis_addr.or(own.redis_addr.clone()),
            BackendKind::Aerospike => {
                store.aerospike_hosts = store.aerospike_hosts.or(own.aerospike_hosts.clone());
            }
        }
        match kind {
            BackendKind::Redis if store.redis_addr.is_none() => missing(
                "ingress-set-redis-addr",
                "required by --ingress-set-backend=redis where --redis-addr is not given either; want host:port",
            ),
            BackendKind::Aerospike if store.aerospike_hosts.is_none() => missing(
                "ingress-set-aerospike-hosts",
                "required by --ingress-set-backend=aerospike where --aerospike-hosts is not given either; want host:port",
            ),
            // Certificates are said once for both stores; here the listener's own may need them.
            kind if own.speaks_tls() && !store.speaks_tls() => Ok(Some((kind, store.without_certificates()))),
            kind => Ok(Some((kind, store))),
        }
    }
}

/// Where frames go.
#[derive(Args, Clone, Debug)]
pub struct DeliverArgs {
    /// Where frames are delivered
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9100", help_heading = "Delivery")]
    pub egress_addr: HostPort,
    /// udp: a datagram each; tcp: u32 big-endian length, then the bytes, one connection for each worker
    #[arg(long, value_name = "PROTO", default_value = "udp", help_heading = "Delivery")]
    pub egress_proto: Proto,
    /// Deliver payloads without the frame's header
    #[arg(long, action = Set, default_value_t = true, help_heading = "Delivery")]
    pub strip_header: bool,
    /// Bytes that may wait for the consumer, split over the workers; when full, the newest frame is dropped and counted
    #[arg(long, value_name = "SIZE", default_value = "64MiB", help_heading = "Delivery")]
    pub egress_queue_bytes: ByteSize,
    /// Emit each new block header as a datagram of 172 bytes
    #[arg(long, help_heading = "Delivery")]
    pub header_egress_enabled: bool,
    /// Where block headers go
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9101", help_heading = "Delivery")]
    pub header_egress_addr: HostPort,
}

impl DeliverArgs {
    fn check(&self) -> Result<(), Invalid> {
        demand(
            self.egress_queue_bytes.bytes() >= 1 << 20,
            "egress-queue-bytes",
            format!("{}; want at least 1MiB", self.egress_queue_bytes),
        )
    }
}

/// Loss made on purpose.
#[derive(Args, Clone, Debug)]
pub struct InjectArgs {
    /// Drop this percentage of all that arrives, repairs and control included, for tests
    #[arg(long, value_name = "PERCENT", default_value = "0", help_heading = "Tests")]
    pub inject_loss: Percent,
    /// Seed of that loss
    #[arg(long, value_name = "SEED", default_value_t = 1, value_parser = whole::<u64>, help_heading = "Tests")]
    pub inject_loss_seed: u64,
}

/// `--fabric-check` of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FabricCheckArg {
    /// Another fabric's prefix is an error.
    Refuse,
    /// Not looked at.
    Off,
}

/// `--egress-proto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Proto {
    /// Datagrams.
    Udp,
    /// A stream of records.
    Tcp,
}

/// Where courtesy marks go, and what they must agree with there.
pub(crate) struct MarkPlan {
    pub(crate) settings: cache_backend::Settings,
    pub(crate) names: txidset::Names,
    /// What the proxies of this fabric say under their prefix.
    pub(crate) word: FabricLabel,
    pub(crate) prefix: String,
    pub(crate) ttl: Duration,
    /// How long after its frame came a mark may be on its way.
    pub(crate) answer_timeout: Duration,
    /// Where the groups are, by whose addresses multicast is told.
    pub(crate) fabric: Fabric,
    /// Whether to look at the word.
    pub(crate) check: bool,
}
