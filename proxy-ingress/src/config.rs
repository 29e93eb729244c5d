//! Options of the proxy: the names, environment variables and defaults of the Go stack, and ours.

use crate::pipeline::Policy;
use crate::pipeline::emit::OutletLimits;
use crate::pipeline::number::{FlowLimits, MIN_FLOWS};
use crate::pipeline::train::Order;
use crate::variants::{PER_ID, Variants};
use clap::{Args, ValueEnum};
use frame::{Fabric, GroupIndex, ShardBits, SourceMode};
use service::config::{
    Alias, BackendArgs, BackendKind, ByteSize, CommonArgs, FabricArgs, Family, HostArgs, Invalid, Purpose,
    Role, duration, fabric_name, whole,
};
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use txidset::{ClaimsConfig, KeyStyle, Mode};

/// Largest frame taken from a stream: payload and header.
pub const MAX_STREAM_FRAME: u64 = (64 << 20) + 92;
/// Bytes that each connection may hold besides one large frame.
pub const STREAM_BUFFER: usize = 64 << 10;

/// What the loader must know about this role.
pub const ROLE: Role = Role {
    name: "proxy",
    aliases: &[
        Alias::new("cache-backend", "txid-dedup-backend", "TXID_DEDUP_BACKEND"),
        Alias::new("redis-addr", "txid-dedup-redis-addr", "TXID_DEDUP_REDIS_ADDR"),
        Alias::new("aerospike-hosts", "txid-dedup-aerospike-hosts", "TXID_DEDUP_AEROSPIKE_HOSTS"),
        Alias::new("aerospike-namespace", "txid-dedup-aerospike-namespace", "TXID_DEDUP_AEROSPIKE_NAMESPACE"),
        Alias::new("aerospike-set", "txid-dedup-aerospike-set", "TXID_DEDUP_AEROSPIKE_SET"),
    ],
    defaults: &[("metrics-addr", ":9100")],
};

/// Options of the proxy, a group for each stage.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Options of the service itself.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Options of this start.
    #[command(flatten)]
    pub host: HostArgs,
    /// Where the fabric is.
    #[command(flatten)]
    pub fabric: FabricArgs,
    /// Shared store of claims.
    #[command(flatten)]
    pub backend: BackendArgs,
    /// Where frames come from.
    #[command(flatten)]
    pub receiving: ReceiveArgs,
    /// How frames leave.
    #[command(flatten)]
    pub sending: SendArgs,
    /// Which frames are taken.
    #[command(flatten)]
    pub verification: VerifyArgs,
    /// How copies are found.
    #[command(flatten)]
    pub claims: ClaimArgs,
    /// How frames are numbered.
    #[command(flatten)]
    pub flows: FlowArgs,
    /// Bounds of TCP connections.
    #[command(flatten)]
    pub streams: StreamArgs,
}

impl Default for Config {
    /// The defaults of the command line; the environment is not looked at.
    fn default() -> Config {
        service::config::defaults()
    }
}

impl Config {
    /// A proxy inside another process: loopback, ports chosen by the kernel, one worker, IPv4 groups on `lo`. Change what
    /// you need.
    pub fn for_embedding() -> Config {
        let mut config = Config::default();
        config.receiving.listen = IpAddr::from([127, 0, 0, 1]);
        config.receiving.udp_listen_port = 0;
        config.receiving.tcp_listen_port = TcpPort::Auto;
        config.receiving.workers = 1;
        config.fabric.iface.0 = vec!["lo".to_owned()];
        config.fabric.fabric = Family::Ipv4;
        config.fabric.egress_loop = true;
        config
    }

    /// Combinations that cannot work.
    ///
    /// # Errors
    /// The option to change, its value, and what is accepted.
    pub fn check(&self) -> Result<(), Invalid> {
        let fabric = self.fabric()?;
        self.shard_bits()?;
        self.check_source(&fabric)?;
        self.sending.check()?;
        self.receiving.check()?;
        self.claims.check()?;
        self.flows.check()?;
        if self.receiving.tcp_listen_port != TcpPort::Off {
            self.streams.check()?;
        }
        self.backend_settings()?;
        let claims = self.claims_config(self.backend_kind()? != BackendKind::None);
        claims.check().map_err(|problem| Invalid::new("claim-lease", problem))?;
        if self.fabric.iface.0.is_empty() {
            return Err(Invalid::new(
                "iface",
                "no interface given; want one or more names, such as eth0,eth1",
            ));
        }
        Ok(())
    }

    fn check_source(&self, fabric: &Fabric) -> Result<(), Invalid> {
        match (fabric, self.fabric.bind_source) {
            (Fabric::V6 { mode: SourceMode::Ssm, .. }, None) => Err(Invalid::new(
                "bind-source",
                "required by --source-mode=ssm; want an address of the interface",
            )),
            (Fabric::V6 { .. }, Some(IpAddr::V4(address))) => Err(Invalid::new(
                "bind-source",
                format!("{address} is IPv4 and --fabric=ipv6; want an IPv6 address"),
            )),
            (Fabric::V4 { .. }, Some(IpAddr::V6(address))) => Err(Invalid::new(
                "bind-source",
                format!("{address} is IPv6 and --fabric=ipv4; want an IPv4 address"),
            )),
            _ => Ok(()),
        }
    }

    /// Kind of the shared store; none unless one is named.
    ///
    /// # Errors
    /// A kind without its address.
    pub fn backend_kind(&self) -> Result<BackendKind, Invalid> {
        Ok(self.backend.kind_or(BackendKind::None)?)
    }

    /// Settings of the store that the options name.
    ///
    /// # Errors
    /// As [`Config::backend_kind`].
    pub fn backend_settings(&self) -> Result<cache_backend::Settings, Invalid> {
        Ok(self.backend.settings(self.backend_kind()?, Purpose::Claims)?)
    }

    /// The claim protocol, with or without a shared store behind tier 1.
    pub fn claims_config(&self, tier2: bool) -> ClaimsConfig {
        self.claims.protocol(tier2, self.backend.op_timeout(Purpose::Claims))
    }

    /// Address plan of the groups.
    ///
    /// # Errors
    /// A scope that does not exist in the mode.
    pub fn fabric(&self) -> Result<Fabric, Invalid> {
        self.fabric.plan()
    }

    /// Shards.
    ///
    /// # Errors
    /// More than 15 bits.
    pub fn shard_bits(&self) -> Result<ShardBits, Invalid> {
        self.fabric.bits()
    }

    /// Address of the beacon group.
    ///
    /// # Errors
    /// As [`Config::fabric`].
    pub fn beacon_group(&self) -> Result<IpAddr, Invalid> {
        Ok(self.fabric()?.address(GroupIndex::BEACON))
    }
}

/// Where frames come from.
#[derive(Args, Clone, Debug)]
pub struct ReceiveArgs {
    /// Address to take frames on.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "LISTEN_ADDR",
        default_value = "[::]",
        value_parser = listen_address,
        help = "Address to take frames on, UDP and TCP; [::] is every address, IPv4 included",
        help_heading = "Receiving"
    )]
    pub listen: IpAddr,
    /// UDP port to take frames on; 0 lets the kernel choose
    #[arg(long, value_name = "PORT", default_value_t = 8725, value_parser = whole::<u16>, help_heading = "Receiving")]
    pub udp_listen_port: u16,
    /// TCP port to take frames on; 0 is off, auto lets the kernel choose
    #[arg(long, value_name = "PORT", default_value = "0", help_heading = "Receiving")]
    pub tcp_listen_port: TcpPort,
    /// Worker threads; 0 is one for each core
    #[arg(long, value_name = "N", env = "NUM_WORKERS", default_value_t = 0, value_parser = whole::<usize>, help_heading = "Receiving")]
    pub workers: usize,
    /// Receive buffer of each UDP socket; 0 is 4 MiB
    #[arg(
        long,
        value_name = "SIZE",
        env = "BSP_RECV_BUF_BYTES",
        default_value = "0",
        help_heading = "Receiving"
    )]
    pub recv_buf_bytes: ByteSize,
    /// Datagrams (or trains) taken by one receive call
    #[arg(long, value_name = "N", env = "BSP_RECV_BATCH", default_value_t = 32, value_parser = whole::<usize>, help_heading = "Receiving")]
    pub recv_batch: usize,
    /// Take trains from the kernel whole (UDP_GRO)
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, help_heading = "Receiving")]
    pub gro: bool,
    /// How long a worker looks for the next datagram before it sleeps, at most as long as its last round took: saves the
    /// time of waking up, at the price of up to twice the CPU time while there is little to do
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration, help_heading = "Receiving")]
    pub busy_poll: Duration,
}

impl ReceiveArgs {
    fn check(&self) -> Result<(), Invalid> {
        if self.recv_batch == 0 {
            return Err(Invalid::new("recv-batch", "0; want 1 or more"));
        }
        Ok(())
    }
}

/// How frames leave.
#[derive(Args, Clone, Debug)]
pub struct SendArgs {
    /// UDP port of the multicast groups
    #[arg(long, value_name = "PORT", default_value_t = 9001, value_parser = whole::<u16>, help_heading = "Sending")]
    pub egress_port: u16,
    /// UDP port of the beacon group, for flow digests
    #[arg(long, value_name = "PORT", default_value_t = 9300, value_parser = whole::<u16>, help_heading = "Sending")]
    pub beacon_port: u16,
    /// Send buffer of each multicast socket
    #[arg(long, value_name = "SIZE", default_value = "8MiB", help_heading = "Sending")]
    pub send_buf_bytes: ByteSize,
    /// Largest IP packet; larger frames leave as fragments (V3); 0 never fragments
    #[arg(long, value_name = "BYTES", default_value_t = 1500, value_parser = whole::<u16>, help_heading = "Sending")]
    pub frag_mtu: u16,
    /// How much a frame may be padded, in percent of its length, to share a train; 0 is equal lengths only
    #[arg(long, value_name = "PERCENT", default_value_t = 15, value_parser = whole::<u32>, help_heading = "Sending")]
    pub train_padding: u32,
    /// length sorts a batch for the longest trains; arrival keeps the order within a flow
    #[arg(long, value_name = "ORDER", default_value = "length", help_heading = "Sending")]
    pub train_order: TrainOrderArg,
    /// Hand trains to the kernel whole (UDP_SEGMENT); off sends one datagram at a time
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, help_heading = "Sending")]
    pub gso: bool,
    /// How long a batch may grow after the receive queue is empty, for longer trains
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration, help_heading = "Sending")]
    pub emit_delay: Duration,
    /// How long a train that the kernel refuses is tried again
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration, help_heading = "Sending")]
    pub send_deadline: Duration,
    /// Frames that the kernel refused, bytes for each interface and worker; before it is full reading stops
    #[arg(long, value_name = "SIZE", default_value = "16MiB", help_heading = "Sending")]
    pub send_backlog_bytes: ByteSize,
}

impl SendArgs {
    fn check(&self) -> Result<(), Invalid> {
        if self.frag_mtu != 0 && self.frag_mtu < 576 {
            let problem = format!("{}; want 0 (never fragment) or 576 to 65535", self.frag_mtu);
            return Err(Invalid::new("frag-mtu", problem));
        }
        if self.train_padding > 100 {
            let problem = format!("{}; want 0 to 100 percent", self.train_padding);
            return Err(Invalid::new("train-padding", problem));
        }
        Ok(())
    }

    /// Bounds of what the kernel refuses.
    pub(crate) fn outlet_limits(&self) -> OutletLimits {
        OutletLimits { bytes: self.send_backlog_bytes.as_usize(), deadline: self.send_deadline }
    }
}

/// Which frames are taken.
#[derive(Args, Clone, Debug)]
pub struct VerifyArgs {
    /// Drop frames whose payload is not what their id says
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, help_heading = "Verification")]
    pub verify_payload_hash: bool,
    /// Drop subtree data whose nodes do not hash to the SubtreeID
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, help_heading = "Verification")]
    pub verify_subtree_root: bool,
    /// Drop block announcements whose header does not meet its target
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, help_heading = "Verification")]
    pub require_block_pow: bool,
    /// Easiest target that --require-block-pow accepts, compact form (0x1d00ffff); 0 is any
    #[arg(long, value_name = "NBITS", default_value = "0", value_parser = compact_bits, help_heading = "Verification")]
    pub min_pow_bits: u32,
    /// Take transactions in Extended Format only
    #[arg(long, help_heading = "Verification")]
    pub require_ef: bool,
    /// Take frames that already carry a SeqNum, and keep it
    #[arg(long, help_heading = "Verification")]
    pub allow_stamped_ingress: bool,
}

impl VerifyArgs {
    /// The rules of admission; larger frames than `frag_mtu` are cut.
    pub(crate) fn policy(&self, frag_mtu: u16, variants: bool) -> Policy {
        Policy {
            verify_payload_hash: self.verify_payload_hash,
            verify_subtree_root: self.verify_subtree_root,
            require_block_pow: self.require_block_pow,
            min_pow_bits: self.min_pow_bits,
            require_ef: self.require_ef,
            allow_stamped_ingress: self.allow_stamped_ingress,
            frag_mtu,
            variants,
        }
    }
}

/// How copies are found.
#[derive(Args, Clone, Debug)]
pub struct ClaimArgs {
    /// Suppress ids that were forwarded before
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, help_heading = "Claims")]
    pub ingress_dedup: bool,
    /// Prefix of claims in the shared store; names the fabric
    #[arg(long, value_name = "PREFIX", default_value = "bsp:tx:", help_heading = "Claims")]
    pub txid_dedup_prefix: String,
    /// Name of the fabric in the shared store, the same on all its proxies; two fabrics may not share a prefix
    /// [default: groups, port and shard bits]
    #[arg(long, value_name = "NAME", value_parser = fabric_name, help_heading = "Claims")]
    pub fabric_name: Option<String>,
    /// What to do at the start where the prefix is another fabric's: refuse it, replace the other (the fabric itself was
    /// changed), or off
    #[arg(long, value_name = "MODE", default_value = "refuse", help_heading = "Claims")]
    pub fabric_check: FabricCheckArg,
    /// How long an id is remembered
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration, help_heading = "Claims")]
    pub txid_dedup_ttl: Duration,
    /// Ids remembered in this process; 0 turns suppression off
    #[arg(long, value_name = "N", default_value_t = 1 << 20, value_parser = whole::<usize>, help_heading = "Claims")]
    pub txid_dedup_local_cap: usize,
    /// Memory for ids remembered in this process, instead of --txid-dedup-local-cap
    #[arg(long, value_name = "SIZE", help_heading = "Claims")]
    pub dedup_memory: Option<ByteSize>,
    /// settled: no claim outlives a crash between claim and send; simple: as the Go stack
    #[arg(long, value_name = "MODE", default_value = "settled", help_heading = "Claims")]
    pub claim_mode: Mode,
    /// Keys in the shared store. go: as the Go stack writes them, so that both race; compact: half the memory, for
    /// fleets without Go nodes. The same on all nodes that share a store
    #[arg(long, value_name = "STYLE", default_value = "go", help_heading = "Claims")]
    pub claim_keys: KeyStyle,
    /// How often a worker with new claims closes an epoch
    #[arg(long, value_name = "DURATION", default_value = "50ms", value_parser = duration, help_heading = "Claims")]
    pub claim_epoch: Duration,
    /// How long the copy of a frame waits for another proxy to settle its claim
    #[arg(long, value_name = "DURATION", default_value = "250ms", value_parser = duration, help_heading = "Claims")]
    pub claim_lease: Duration,
    /// Variants of one id that are let in from one source prefix (/64, or /24 of IPv4), at most 16; of one id from all sources
    /// always 16. A variant has bytes that the id does not prove: an Extended Format, a SubtreeID, the body of a block
    /// announcement. Beyond it a transaction leaves once in its standard form. 0: the first copy of an id wins, whatever
    /// those bytes are
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = whole::<usize>, help_heading = "Claims")]
    pub variants: usize,
    /// Copies that wait for other proxies, bytes a worker; when full the oldest is sent
    #[arg(long, value_name = "SIZE", default_value = "16MiB", help_heading = "Claims")]
    pub claim_park_bytes: ByteSize,
    /// Frames that wait for the shared store, bytes a worker. At half of it TCP is not read; when full, the oldest that
    /// was not asked about is sent undecided
    #[arg(long, value_name = "SIZE", default_value = "32MiB", help_heading = "Claims")]
    pub slab_bytes: ByteSize,
}

impl ClaimArgs {
    fn check(&self) -> Result<(), Invalid> {
        if self.txid_dedup_prefix.is_empty() {
            return Err(Invalid::new("txid-dedup-prefix", "empty; want a prefix such as bsp:tx:"));
        }
        if self.txid_dedup_ttl.is_zero() {
            return Err(Invalid::new("txid-dedup-ttl", "0; want a duration such as 10m"));
        }
        if self.variants > PER_ID {
            let problem =
                format!("{}; want 0 (off) to {PER_ID}, as many as one id has in all", self.variants);
            return Err(Invalid::new("variants", problem));
        }
        Ok(())
    }

    /// Whether ids are claimed at all.
    pub fn enabled(&self) -> bool {
        self.ingress_dedup && (self.txid_dedup_local_cap > 0 || self.dedup_memory.is_some())
    }

    /// The bound on variants of an id; `None` where they are not told apart.
    pub(crate) fn variants(&self) -> Option<Arc<Variants>> {
        let table = || Variants::new(self.variants, self.txid_dedup_ttl, rand::random(), Instant::now());
        (self.variants > 0 && self.enabled()).then(|| Arc::new(table()))
    }

    fn protocol(&self, tier2: bool, answer_timeout: Duration) -> ClaimsConfig {
        ClaimsConfig {
            mode: self.claim_mode,
            epoch: self.claim_epoch,
            lease: self.claim_lease,
            ttl: self.txid_dedup_ttl,
            park_bytes: self.claim_park_bytes.as_usize(),
            max_batch: 256,
            prefix: self.txid_dedup_prefix.clone().into_bytes(),
            keys: self.claim_keys,
            tier2,
            marks: true,
            answer_timeout,
        }
    }
}

/// How frames are numbered.
#[derive(Args, Clone, Debug)]
pub struct FlowArgs {
    /// instance: a new flow for each worker and start; standard: the sender's address, as the Go stack
    #[arg(long, value_name = "IDENTITY", default_value = "instance", help_heading = "Flows")]
    pub flow_identity: FlowIdentityArg,
    /// In standard identity, set the flow key of frames that carry both key and number
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, help_heading = "Flows")]
    pub stamp_source: bool,
    /// Flows held, for each worker
    #[arg(long, value_name = "N", default_value_t = 65_536, value_parser = whole::<usize>, help_heading = "Flows")]
    pub flow_capacity: usize,
    /// A flow without frames for this long is forgotten [default: 5m, in standard identity 10m]
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Flows")]
    pub flow_idle: Option<Duration>,
    /// Announce the highest number of each active flow, so that receivers find the loss of its last frames
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, help_heading = "Flows")]
    pub flow_digests: bool,
    /// Where standard identity keeps its counters over an orderly stop
    #[arg(long, value_name = "DIR", help_heading = "Flows")]
    pub state_dir: Option<PathBuf>,
}

impl FlowArgs {
    fn check(&self) -> Result<(), Invalid> {
        if self.flow_capacity < MIN_FLOWS {
            let problem = format!("{}; want {MIN_FLOWS} or more", self.flow_capacity);
            return Err(Invalid::new("flow-capacity", problem));
        }
        Ok(())
    }

    /// Bounds of the flow table.
    pub(crate) fn limits(&self) -> FlowLimits {
        FlowLimits { flows: self.flow_capacity, idle: self.idle() }
    }

    /// How long a flow may be idle.
    pub fn idle(&self) -> Duration {
        self.flow_idle.unwrap_or(match self.flow_identity {
            FlowIdentityArg::Instance => Duration::from_secs(300),
            FlowIdentityArg::Standard => Duration::from_secs(600),
        })
    }
}

/// Bounds of TCP connections.
#[derive(Args, Clone, Debug)]
pub struct StreamArgs {
    /// TCP connections at once
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = whole::<usize>, help_heading = "Streams")]
    pub tcp_max_connections: usize,
    /// Bytes of all connections in this process that have not been forwarded yet
    #[arg(long, value_name = "SIZE", default_value = "256MiB", help_heading = "Streams")]
    pub tcp_buffer_bytes: ByteSize,
    /// A frame that has begun must end within this time
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration, help_heading = "Streams")]
    pub tcp_read_timeout: Duration,
    /// A connection without a frame for this long is closed
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration, help_heading = "Streams")]
    pub tcp_idle_timeout: Duration,
}

impl StreamArgs {
    fn check(&self) -> Result<(), Invalid> {
        let (given, connections) = (self.tcp_buffer_bytes.bytes(), self.tcp_max_connections);
        let least = MAX_STREAM_FRAME + connections as u64 * STREAM_BUFFER as u64;
        if given < least {
            let problem = format!(
                "{given} bytes; want {least} or more: one frame of 64 MiB and 64 KiB for each of {connections} connections"
            );
            return Err(Invalid::new("tcp-buffer-bytes", problem));
        }
        Ok(())
    }
}

/// `--tcp-listen-port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpPort {
    /// No TCP.
    Off,
    /// Any free port.
    Auto,
    /// This one.
    Fixed(u16),
}

impl FromStr for TcpPort {
    type Err = String;

    fn from_str(text: &str) -> Result<TcpPort, String> {
        match (text, text.parse()) {
            ("off", _) | (_, Ok(0)) => Ok(TcpPort::Off),
            ("auto", _) => Ok(TcpPort::Auto),
            (_, Ok(port)) => Ok(TcpPort::Fixed(port)),
            _ => Err("want a port, 0 or off, or auto".to_owned()),
        }
    }
}

/// `--fabric-check`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FabricCheckArg {
    /// An error.
    Refuse,
    /// This fabric takes the prefix.
    Replace,
    /// Not looked at.
    Off,
}

/// `--train-order`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TrainOrderArg {
    /// Sorted.
    Length,
    /// As they came.
    Arrival,
}

impl From<TrainOrderArg> for Order {
    fn from(order: TrainOrderArg) -> Order {
        match order {
            TrainOrderArg::Length => Order::Length,
            TrainOrderArg::Arrival => Order::Arrival,
        }
    }
}

/// `--flow-identity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FlowIdentityArg {
    /// Random for each worker and start.
    Instance,
    /// The sender's address.
    Standard,
}

fn listen_address(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|_| "want an IP address, such as [::] or 127.0.0.1".to_owned())
}

fn compact_bits(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| "want compact target bits, such as 0x1d00ffff, or 0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use service::config::{ScopeArg, SourceModeArg};

    #[test]
    fn the_defaults_are_those_of_the_go_stack_and_work() {
        let config = Config::default();
        config.check().unwrap();
        assert_eq!(
            (config.receiving.udp_listen_port, config.receiving.tcp_listen_port),
            (8725, TcpPort::Off)
        );
        assert_eq!((config.sending.egress_port, config.sending.frag_mtu), (9001, 1500));
        assert!(
            config.verification.verify_payload_hash
                && config.verification.require_block_pow
                && !config.verification.allow_stamped_ingress
        );
        assert_eq!(config.backend_kind().unwrap(), BackendKind::None);
    }

    #[test]
    fn a_proxy_in_another_process_needs_no_options() {
        let config = Config::for_embedding();
        config.check().unwrap();
        assert_eq!((config.receiving.udp_listen_port, config.receiving.tcp_listen_port), (0, TcpPort::Auto));
    }

    #[test]
    fn what_cannot_work_names_the_option_and_the_value() {
        let refused = |change: fn(&mut Config)| {
            let mut config = Config::for_embedding();
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        assert!(refused(|c| c.sending.frag_mtu = 100).starts_with("--frag-mtu: 100; want 0"));
        assert!(refused(|c| c.sending.train_padding = 101).starts_with("--train-padding: 101;"));
        assert!(
            refused(|c| c.streams.tcp_buffer_bytes = ByteSize(1 << 20))
                .starts_with("--tcp-buffer-bytes: 1048576 bytes")
        );
        assert!(
            refused(|c| c.fabric.bind_source = "::1".parse().ok()).starts_with("--bind-source: ::1 is IPv6")
        );
        let ssm = |c: &mut Config| {
            c.fabric.fabric = Family::Ipv6;
            c.fabric.source_mode = SourceModeArg::Ssm;
        };
        let mut config = Config::for_embedding();
        ssm(&mut config);
        assert!(config.check().unwrap_err().to_string().starts_with("--bind-source: required"));
        config.fabric.scope = ScopeArg::Link;
        assert!(config.check().unwrap_err().to_string().starts_with("--scope: Link"));
    }
}
