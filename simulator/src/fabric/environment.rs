//! What surrounds all processes of a world: time and random numbers, the network, the store, what the nodes are told, and what the
//! checks know. A process gets it as an argument whenever something happens to it.

use super::event::Event;
use super::evidence::Evidence;
use super::mutation::Mutation;
use super::network::Network;
use super::node_config::NodeConfig;
use crate::context::Context;
use crate::store::Store;

/// See the module text.
pub(super) struct Environment {
    pub(super) context: Context<Event>,
    pub(super) network: Network,
    pub(super) store: Store,
    pub(super) config: NodeConfig,
    pub(super) evidence: Evidence,
    /// What is planted into the product, or into the model around it.
    pub(super) mutation: Option<Mutation>,
}
