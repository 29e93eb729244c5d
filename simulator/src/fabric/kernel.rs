//! A kernel's sending side: takes trains and cuts them into datagrams, padded as the segmentation offload pads them, or
//! refuses in the middle of one.

use multicast_io::{Progress, Span, Train};
use proxy_ingress::pipeline::Transmit;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

const ENOBUFS: i32 = 105;

/// How it refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A queue behind the socket is full.
    NoBuffers,
    /// The socket's own queue is full.
    WouldBlock,
}

impl Refusal {
    pub(super) const BOTH: [Refusal; 2] = [Refusal::NoBuffers, Refusal::WouldBlock];
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

impl Transmit for Kernel {
    fn transmit(&mut self, memory: &[u8], trains: &[Train], frames: &[Span]) -> Progress {
        let mut count = 0;
        for train in trains {
            let members = &frames[train.first as usize..][..train.count as usize];
            for (at, span) in members.iter().enumerate() {
                let bytes = &memory[span.range()];
                match &mut self.room {
                    Some((0, refusal)) => {
                        let error = match refusal {
                            Refusal::NoBuffers => io::Error::from_raw_os_error(ENOBUFS),
                            Refusal::WouldBlock => io::ErrorKind::WouldBlock.into(),
                        };
                        self.refused = true;
                        return Progress { frames: count, error: Some(error) };
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
