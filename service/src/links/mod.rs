//! The network under a role: interfaces, carriers and addresses, followed while it runs.
//!
//! | Module | What it is |
//! |---|---|
//! | [`feed`] | one follower of the kernel's news for a role, and a [`Feed`] for each of its threads |
//! | [`demand`] | what the role needs of which interfaces; it tells the log and `/readyz` what is there and what is waited for |
//! | [`emit`] | a sending socket that is opened again where its interface or its source changed |
//! | [`rp_filter`] | the kernel's filter that drops an IPv4 fabric in silence |
//!
//! Sockets that joined groups are opened again by [`crate::worker::Intake`], which gets a feed.
//!
//! Why: the kernel keeps a socket of an interface that is gone, and says of its joins that they are there. Without this a
//! role whose interface was made again (a tunnel, a container's network) is deaf or mute for ever.

pub mod demand;
pub mod emit;
pub mod feed;
pub mod rp_filter;

pub use demand::{Demand, Demands};
pub use emit::EmitSocket;
pub use feed::{Feed, follow};
