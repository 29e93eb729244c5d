//! A kernel's sending side: takes trains and cuts them into datagrams, padded as the segmentation offload pads them, or
//! refuses in the middle of one, or all of one group.

use super::node_config::FABRIC;
use frame::GroupIndex;
use multicast_io::{Progress, Span, Train};
use proxy_ingress::pipeline::Transmit;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

const ENOBUFS: i32 = 105;
const EINVAL: i32 = 22;

/// How it refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A queue behind the socket is full.
    NoBuffers,
    /// The socket's own queue is full.
    WouldBlock,
    /// It has no way to this group, and to all others.
    Group(GroupIndex),
}

impl Refusal {
    /// Those of a queue.
    pub(super) const FULL: [Refusal; 2] = [Refusal::NoBuffers, Refusal::WouldBlock];
    /// Those that strike a proxy.
    pub(super) const ALL: [Refusal; 4] = [
        Refusal::NoBuffers,
        Refusal::WouldBlock,
        Refusal::Group(GroupIndex(0)),
        Refusal::Group(GroupIndex(1)),
    ];
}

#[derive(Default)]
pub(super) struct Kernel {
    /// What was taken since somebody looked.
    pub(super) taken: Vec<(SocketAddr, Rc<[u8]>)>,
    /// It refused something since somebody looked.
    pub(super) refused: bool,
    /// Frames taken before it refuses; `None`: all.
    pub(super) room: Option<(usize, Refusal)>,
}

impl Refusal {
    fn error(self) -> io::Error {
        match self {
            Refusal::NoBuffers => io::Error::from_raw_os_error(ENOBUFS),
            Refusal::WouldBlock => io::ErrorKind::WouldBlock.into(),
            Refusal::Group(_) => io::Error::from_raw_os_error(EINVAL),
        }
    }
}

impl Transmit for Kernel {
    fn transmit(&mut self, memory: &[u8], trains: &[Train], frames: &[Span]) -> Progress {
        let mut count = 0;
        for train in trains {
            let members = &frames[train.first as usize..][..train.count as usize];
            for (at, span) in members.iter().enumerate() {
                let bytes = &memory[span.range()];
                match &mut self.room {
                    Some((_, Refusal::Group(group)))
                        if FABRIC.index_of(train.destination.ip()) != Some(*group) => {}
                    Some((0, refusal) | (_, refusal @ Refusal::Group(_))) => {
                        self.refused = true;
                        return Progress { frames: count, error: Some(refusal.error()) };
                    }
                    Some((room, _)) => *room -= 1,
                    None => {}
                }
                let last = at + 1 == members.len();
                let segment = if last { bytes.len() } else { usize::from(train.segment).max(bytes.len()) };
                let mut datagram = bytes.to_vec();
                datagram.resize(segment, 0);
                self.taken.push((train.destination, datagram.into()));
                count += 1;
            }
        }
        Progress { frames: count, error: None }
    }
}
