//! What can happen in a world, and to whom: an event comes with the number of a worker (those of proxies, then the
//! listeners), of a node, of an endpoint or of a listener, as its text says.

use cache_backend::OpErrorKind;
use frame::{Advert, GroupIndex, Nack};
use listener_egress::pipeline::Door;
use std::net::SocketAddr;
use std::rc::Rc;
use txidset::{Answer, Ask};

pub(super) enum Event {
    // To a worker.
    /// A wallet's frame comes to a proxy.
    Arrive(usize),
    /// A datagram comes to a listener.
    Datagram(Arrived),
    Digest {
        from: SocketAddr,
        bytes: Rc<[u8]>,
    },
    Advert(Advert),
    /// A worker looks at what it has.
    Round,
    /// A round that had to wait goes on.
    Resume,
    Timer {
        at: u64,
    },
    Execute {
        connection: u32,
        number: u64,
        ask: Box<Ask>,
    },
    Reply {
        connection: u32,
        number: u64,
        answer: Box<Answer>,
    },
    Deadline {
        number: u64,
        kind: OpErrorKind,
    },

    // To an endpoint.
    /// It hears a frame.
    EndpointFrame {
        group: GroupIndex,
        bytes: Rc<[u8]>,
    },
    /// It hears a digest.
    EndpointDigest(Rc<[u8]>),
    /// It has something to do: what came, what the kernel did not take yet, or silent flows.
    EndpointRound {
        at: u64,
    },
    /// It says where it is.
    Advertise {
        at: u64,
    },
    EndpointDies {
        restart: Option<u64>,
    },
    EndpointReturns,

    /// A listener's request comes.
    Request {
        from: SocketAddr,
        nack: Box<[u8; Nack::LEN]>,
    },

    // To a listener's number.
    /// Bytes come to its consumer.
    Consume,
    /// Its kernel learns what the consumer has.
    Acknowledged {
        number: u32,
        read: u64,
    },

    // To a node.
    Fault(usize),
    Restart,
    /// A draining process decides what still waits.
    Decide,
    Exit,

    /// Somebody looks whether all is done.
    DueCheck,
}

/// A datagram that a listener's socket holds.
pub(super) struct Arrived {
    pub(super) door: Door,
    pub(super) from: SocketAddr,
    pub(super) bytes: Rc<[u8]>,
    /// Nobody of ours sent it.
    pub(super) forged: bool,
}
