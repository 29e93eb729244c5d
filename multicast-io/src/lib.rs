//! Sockets of the fabric: joins, batch receive with GRO, train send with GSO, kernel-drop counters.
//!
//! All `unsafe` of the workspace lives here, one kernel feature a module. Nothing here knows a frame: bytes in, bytes
//! out, with addresses and counts. Linux only. `docs/tuning.md` tells an operator what of this can be tuned.
//!
//! | Path | Modules |
//! |---|---|
//! | opening | [`options`], [`interface`], `open`, `buffers`, [`joins`], [`membership`], `control` |
//! | receiving | [`burst`], [`receive`], `gro`, `pktinfo`, `rxq_ovfl`, `recverr`, [`loss`] |
//! | sending | [`send`], `gso`, `recverr` |
//! | around them | [`ready`], [`netns`], [`probe`], [`outq`], [`affinity`], [`cputime`] |
#![allow(unsafe_code, reason = "the one crate that talks to the kernel")]

pub mod affinity;
pub mod burst;
mod control;
pub mod cputime;
pub mod interface;
pub mod joins;
pub mod loss;
pub mod membership;
pub mod netns;
pub mod options;
pub mod outq;
pub mod probe;
pub mod ready;
pub mod receive;
pub mod send;

mod address;
mod buffers;
mod cmsg;
mod gro;
mod gso;
mod open;
mod pktinfo;
mod recverr;
mod rtnetlink;
mod rxq_ovfl;
mod sockopt;
mod sysctl;

pub use address::wildcard;
pub use affinity::pin_current_thread;
pub use burst::{Arrival, Burst, Span};
pub use control::control_socket;
pub use cputime::{ThreadTime, host_clock, thread_time};
pub use interface::Interface;
pub use loss::Loss;
pub use membership::{Joined, Membership, Memberships};
pub use netns::enter_private_network;
pub use options::{SocketError, SocketOptions};
pub use outq::unacknowledged;
pub use probe::multicast_probe;
pub use ready::{Ready, writable};
pub use receive::Receiver;
pub use send::{Progress, Sender, Train};
