//! What every worker thread of every role is built from.
//!
//! A role's `runtime/` keeps only what is its own; the rest is here, once:
//!
//! | Module | What it is |
//! |---|---|
//! | [`start`] | starts the threads of a role; says when all are up, or why one is not |
//! | [`thread`] | one thread with its own runtime; its death ends the process |
//! | [`layout`] | which worker owns which group; the sockets that take them |
//! | [`intake`] | the receive loop over a worker's sockets |
//! | `joins` | whether a socket still has its joins |
//! | [`mailbox`](mod@mailbox) | hands messages to the worker that owns a flow, bounded in messages and bytes |
//! | [`errors`] | the one policy for socket errors |
//! | [`drain`] | the phases of an orderly stop |

pub mod drain;
pub mod errors;
pub mod intake;
mod joins;
pub mod layout;
pub mod mailbox;
pub mod start;
pub mod thread;

pub use drain::{Drain, DrainRules, DrainStep, InHand, quiet_after_drain};
pub use errors::SocketErrors;
pub use intake::{Gathered, Inlet, Intake, IntakeRules, Queue, SocketCounts};
pub use layout::{Layout, owner};
pub use mailbox::{Mailbox, MailboxSender, Mailboxes, Weighed, mailbox};
pub use start::Threads;
pub use thread::{Worker, end_process, spawn_worker, worker_count};
