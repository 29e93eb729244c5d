//! The path of a frame, as pure decisions: no socket, no clock, no task; `now` is an argument.
//!
//! In the order in which a frame passes: [`hashes`] and [`admit`] (is it a frame, is its id its own), [`claim`] (was it seen before),
//! with [`slab`] for those that wait for the answer, [`group`] (where it goes), [`fragment`] (in how many pieces),
//! [`train`] (with whom), [`number`] (under which number), [`emit`] (what became of it), [`digest`] (what to announce).
//! [`ingress`] is the worker that runs them all; [`drops`] is the list of ways out.

pub mod admit;
pub mod claim;
pub mod digest;
pub mod drops;
pub mod emit;
pub mod fragment;
pub mod group;
pub mod hashes;
pub mod ingress;
pub mod number;
pub mod slab;
pub mod train;

pub use admit::{Admitted, Policy, Via, admit};
pub use drops::DropReason;
pub use emit::Transmit;
pub use ingress::{Ingress, IngressConfig};
