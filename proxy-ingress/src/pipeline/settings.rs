//! What the pipeline of one worker needs to know; the runtime makes it from the options of the role.

use super::admit::Policy;
use super::emit::OutletLimits;
use super::number::{FlowLimits, Identity};
use super::train::Order;
use crate::variants::Variants;
use frame::{Fabric, ShardBits};
use std::sync::Arc;
use std::time::Duration;

/// See the module text.
#[derive(Clone, Debug)]
pub struct IngressConfig {
    /// What is admitted.
    pub policy: Policy,
    /// Address plan.
    pub fabric: Fabric,
    /// Shards.
    pub shard_bits: ShardBits,
    /// Port of the data groups.
    pub egress_port: u16,
    /// Port of flow digests.
    pub beacon_port: u16,
    /// Who numbers.
    pub identity: Identity,
    /// `--stamp-source`.
    pub stamp_source: bool,
    /// Bounds of the flow table.
    pub flows: FlowLimits,
    /// Whether flow digests are sent.
    pub digests: bool,
    /// Longest frame that may share a train (link MTU less IP and UDP headers).
    pub max_segment: u16,
    /// `--train-padding`.
    pub padding_percent: u32,
    /// `--train-order`.
    pub train_order: Order,
    /// Emit interfaces.
    pub outlets: usize,
    /// Bounds of each interface's backlog.
    pub outlet: OutletLimits,
    /// Bytes of large frames that are cut into fragments in one round.
    pub chunk: usize,
    /// How long a round waits for a full socket before what is left of it goes to the backlog; zero never waits.
    pub full_timeout: Duration,
    /// Whether ids are claimed at all.
    pub claims: bool,
    /// How many variants of an id are let in; `None`: any number. Shared by the workers.
    pub variants: Option<Arc<Variants>>,
    /// Bytes of frames that wait for the store; parked copies have room of their own.
    pub slab_bytes: usize,
    /// Frames that wait for the store.
    pub slab_entries: usize,
}

impl IngressConfig {
    /// The default of [`IngressConfig::full_timeout`].
    pub const FULL_TIMEOUT: Duration = Duration::from_millis(5);

    /// The default of [`IngressConfig::chunk`].
    pub const CHUNK: usize = 256 << 10;

    /// What the options of the role are by default, for one interface of an Ethernet.
    pub fn new(fabric: Fabric, shard_bits: ShardBits, identity: Identity) -> IngressConfig {
        IngressConfig {
            policy: Policy::default(),
            fabric,
            shard_bits,
            egress_port: 9_001,
            beacon_port: 9_300,
            identity,
            stamp_source: true,
            flows: FlowLimits { flows: 65_536, idle: Duration::from_secs(300) },
            digests: true,
            max_segment: 1_452,
            padding_percent: 15,
            train_order: Order::Length,
            outlets: 1,
            outlet: OutletLimits { bytes: 16 << 20, deadline: Duration::from_secs(1) },
            chunk: IngressConfig::CHUNK,
            full_timeout: IngressConfig::FULL_TIMEOUT,
            claims: true,
            variants: None,
            slab_bytes: 32 << 20,
            slab_entries: 1 << 17,
        }
    }
}
