//! Sockets of the fabric: joins, batch receive with GRO, train send with GSO, kernel-drop counters.
//!
//! All `unsafe` of the workspace lives here, one kernel feature a module. Nothing here knows a frame: bytes in, bytes
//! out, with addresses and counts.
#![allow(unsafe_code)]

pub mod burst;
pub mod interface;
pub mod loss;
pub mod options;
pub mod ready;
pub mod receive;
pub mod send;

pub use burst::{Arrival, Burst, Span};
pub use interface::Interface;
pub use options::{SocketError, SocketOptions};
pub use ready::Ready;
pub use receive::Receiver;
pub use send::{Progress, Sender, Train};
