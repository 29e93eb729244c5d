//! What a pipeline is told at its start.

use super::filter::FilterRules;
use super::reassemble::ReassemblyLimits;
use super::verify::VerifyRules;
use frame::flow::Origin;
use frame::{Fabric, ShardBits};
use gap_track::TrackLimits;
use std::net::SocketAddr;
use txidset::ClaimsConfig;

/// See the module text.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Shard bits of the fabric.
    pub shard_bits: ShardBits,
    /// Subtree data (0xFFFB) is received.
    pub subtree_data: bool,
    /// Filters.
    pub filter: FilterRules,
    /// Verification.
    pub verify: VerifyRules,
    /// Flows and gaps.
    pub track: TrackLimits,
    /// Fragments.
    pub reassembly: ReassemblyLimits,
    /// The gate's protocol.
    pub claims: ClaimsConfig,
    /// Bytes that an id does not prove are claimed too.
    pub variants: bool,
    /// Bytes of frames that wait for a claim.
    pub waiting_bytes: usize,
    /// Given endpoints.
    pub endpoints: Vec<SocketAddr>,
    /// Requests per second to an endpoint that serves single numbers only.
    pub single_rate: f64,
    /// Emitter of V7 headers; `None` = none are emitted.
    pub header_origin: Option<Origin>,
    /// Index of this worker among those whose positions are kept in the shared store; `None` = none are.
    pub positions: Option<u16>,
    /// Where the groups are, if courtesy marks are wanted; `None` = none are.
    pub marks: Option<Fabric>,
}
