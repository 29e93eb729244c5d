//! Sockets of the fabric: joins, batch receive with GRO, train send with GSO, kernel-drop counters.
//!
//! Nothing here knows a frame: bytes in, bytes out, with addresses and counts. There is one module for each kernel feature.
//! Linux only. `docs/tuning.md` tells an operator what of this can be tuned.
//!
//! `unsafe` of the workspace lives in two crates: in this one for system calls on sockets, in `huge-pages` for memory.
//!
//! | Path | Modules |
//! |---|---|
//! | opening | [`options`], `error`, [`interface`], `open`, `buffers`, [`joins`], [`membership`], `control` |
//! | receiving | [`burst`], [`receive`], `gro`, `pktinfo`, `rxq_ovfl`, `recverr`, [`loss`] |
//! | sending | [`send`], `gso`, `recverr` |
//! | around them | [`ready`], [`netns`], [`probe`], [`outq`], [`tcp`], [`affinity`], [`cputime`] |
//!
//! # A train from one socket to another
//!
//! ```
//! use multicast_io::probe::wait_readable;
//! use multicast_io::{Burst, Receiver, Sender, SocketOptions, Train};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let options = SocketOptions::new("127.0.0.1:0".parse()?);
//! let mut receiver = Receiver::open(&options)?;
//! let mut sender = Sender::open(&options)?;
//!
//! // Two frames of one length leave as one train, from the memory in which they were made.
//! let mut burst = Burst::new(0, 1024);
//! let frames = [&b"first"[..], b"other"].map(|bytes| burst.push(bytes).expect("the heap has room"));
//! let train = Train { destination: receiver.local_addr()?, first: 0, count: 2, segment: 5 };
//! let progress = sender.send(burst.memory(), &[train], &frames);
//! assert_eq!((progress.frames, progress.error.is_none()), (2, true));
//!
//! // They arrive in the slots of another burst, split again.
//! let mut burst = Burst::new(4, 0);
//! while burst.arrivals().len() < 2 && wait_readable(&receiver, Duration::from_secs(5))? {
//!     receiver.receive(&mut burst, 4)?;
//! }
//! let arrived: Vec<&[u8]> = burst.arrivals().iter().map(|arrival| burst.bytes(arrival.span)).collect();
//! assert_eq!(arrived, [b"first", b"other"]);
//! assert_eq!(receiver.kernel_drops(), 0);
//! # Ok(())
//! # }
//! ```
#![allow(unsafe_code, reason = "one of the two crates that may: it talks to the kernel")]

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
pub mod tcp;

mod address;
mod buffers;
mod cmsg;
mod error;
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
pub use error::SocketError;
pub use interface::Interface;
pub use loss::Loss;
pub use membership::{Joined, Membership, Memberships};
pub use netns::enter_private_network;
pub use options::{PortUse, SocketOptions};
pub use outq::unacknowledged;
pub use probe::multicast_probe;
pub use ready::{Ready, writable};
pub use receive::Receiver;
pub use send::{Progress, Sender, Train};
