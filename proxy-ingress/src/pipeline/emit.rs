//! Last stage: trains are handed to the kernel.
//!
//! *Handed over* means: the kernel took the frame on every emit interface. Only then is a claim `sent`.
//!
//! A train that the kernel refuses keeps its numbers and waits in the backlog of its interface (`outlet`, `backlog`). A train
//! that no interface can ever take is given up here.
//!
//! Cost: one pass over the frames of a round.

use super::hand_over::{FrameOrigin, HandOvers};
use crate::drops::DropReason;
use multicast_io::{Progress, Span, Train};
use std::io;
use std::time::Duration;

/// What takes trains: a socket, or a model of one.
pub trait Transmit {
    /// As [`multicast_io::Sender::send`].
    fn transmit(&mut self, memory: &[u8], trains: &[Train], frames: &[Span]) -> Progress;
}

impl Transmit for multicast_io::Sender {
    fn transmit(&mut self, memory: &[u8], trains: &[Train], frames: &[Span]) -> Progress {
        self.send(memory, trains, frames)
    }
}

/// Bounds of the backlog of one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutletLimits {
    /// `--send-backlog-bytes`.
    pub bytes: usize,
    /// `--send-deadline`.
    pub deadline: Duration,
}

impl Transmit for service::links::EmitSocket {
    fn transmit(&mut self, memory: &[u8], trains: &[Train], frames: &[Span]) -> Progress {
        self.send(memory, trains, frames)
    }
}

/// A planned batch in send order: `frames` and `origins` run in parallel, `trains` cover them.
#[derive(Debug, Default)]
pub(super) struct Emission {
    /// Where the frames are.
    pub(super) frames: Vec<Span>,
    /// What leaves together.
    pub(super) trains: Vec<Train>,
    /// Who waits for each frame.
    pub(super) origins: Vec<FrameOrigin>,
}

impl Emission {
    /// Forgets the batch.
    pub(super) fn clear(&mut self) {
        self.frames.clear();
        self.trains.clear();
        self.origins.clear();
    }

    /// No frames.
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// What is left when `taken` frames are gone: the rest of a train that was cut, and the trains after it.
    pub(super) fn rest(&self, taken: usize) -> (Option<Train>, &[Train]) {
        let taken = u32::try_from(taken).unwrap_or(u32::MAX);
        let at = self.trains.partition_point(|train| train.first + train.count <= taken);
        let rest = &self.trains[at..];
        match rest.split_first() {
            Some((train, after)) if train.first < taken => {
                let count = train.first + train.count - taken;
                (Some(Train { first: taken, count, ..*train }), after)
            }
            _ => (None, rest),
        }
    }

    /// The next train, or what is left of it, when `taken` frames are gone.
    pub(super) fn next(&self, taken: usize) -> Option<Train> {
        let (cut, after) = self.rest(taken);
        cut.or_else(|| after.first().copied())
    }
}

/// What stopped a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Nothing: all was taken.
    Done,
    /// The socket's own queue is full.
    Full,
    /// A queue behind it, or the path to this destination, refuses.
    Refused,
}

/// Sends frames `taken` to `upto` of a batch, as far as the kernel takes them. `upto` is the end of a train. Frames that can
/// never leave are given up.
pub(super) fn push(
    batch: &Emission,
    memory: &[u8],
    (taken, upto): (&mut usize, usize),
    socket: &mut impl Transmit,
    hand_overs: &mut HandOvers,
) -> Stop {
    while *taken < upto {
        let (cut, after) = batch.rest(*taken);
        let trains = match &cut {
            Some(train) => std::slice::from_ref(train),
            None => &after[..after.partition_point(|train| (train.first as usize) < upto)],
        };
        let progress = socket.transmit(memory, trains, &batch.frames);
        let reached = (*taken + progress.frames).min(upto);
        hand_overs.hand_over(&batch.origins[*taken..reached]);
        hand_overs.handed_over_bytes +=
            batch.frames[*taken..reached].iter().map(|span| u64::from(span.len)).sum::<u64>();
        *taken = reached;
        match progress.error {
            None if progress.frames > 0 => {}
            None => return Stop::Refused,
            Some(error) if error.kind() == io::ErrorKind::WouldBlock => return Stop::Full,
            Some(error) if is_too_large(&error) => give_up_train(batch, taken, hand_overs),
            Some(_) => return Stop::Refused,
        }
    }
    Stop::Done
}

fn give_up_train(batch: &Emission, taken: &mut usize, hand_overs: &mut HandOvers) {
    let count = batch.next(*taken).map_or(1, |train| train.count as usize);
    let upto = (*taken + count).min(batch.origins.len());
    hand_overs.lose(&batch.origins[*taken..upto], DropReason::WriteError);
    *taken = upto;
}

/// EMSGSIZE: trying again cannot help.
fn is_too_large(error: &io::Error) -> bool {
    const EMSGSIZE: i32 = 90;
    error.raw_os_error() == Some(EMSGSIZE)
}
