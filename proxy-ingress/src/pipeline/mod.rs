//! The path of a frame, as pure decisions: no socket, no clock, no task; `now` is an argument.
//!
//! [`round`] is the worker: it runs all stages, in the one order that is right. In the order in which a frame passes them:
//!
//! | Stage | Question |
//! |---|---|
//! | `admission`, [`admit`](mod@admit), `hashes` | Is it a frame, and is its id its own? |
//! | `claim` | Was it seen before? `slab` holds those that wait for the answer, `hold` those that wait for an interface. |
//! | `load`, `large`, [`group`], `fragment` | Where does it go, and in how many pieces? |
//! | `planner`, [`train`], [`number`] | With whom does it leave, and under which number? |
//! | `lines` | Which interfaces can emit? |
//! | [`emit`], `outlets`, `outlet`, `backlog` | Did the kernel take it? |
//! | `hand_over`, `outcome` | What became of its claim? |
//! | `announcer`, `digest` | Which flows are announced? |

pub mod admit;
pub mod emit;
pub mod group;
pub mod number;
pub mod round;
pub mod train;

mod admission;
mod announcer;
mod backlog;
mod claim;
mod digest;
mod fragment;
mod hand_over;
mod hashes;
mod hold;
mod large;
mod lines;
mod load;
mod loaded;
mod outcome;
mod outlet;
mod outlets;
mod planner;
mod settings;
mod slab;

pub use crate::drops::DropReason;
pub use admission::Message;
pub use admit::{Admitted, Judged, Policy, Via, admit, judge};
pub use emit::Transmit;
pub use hold::Cut;
pub use lines::Lines;
pub use round::{Ingress, Next, RoundIo};
pub use settings::IngressConfig;
