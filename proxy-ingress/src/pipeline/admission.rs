//! The first stage for everything that came: each datagram and each message of a stream is admitted or dropped by name.
//!
//! Datagrams are taken by the burst, so that their transactions are hashed together. What was taken is remembered: more
//! may arrive behind it before the round goes on.

use super::admit::{Admitted, Judged, Outside, Policy, Via, admit_hashed, judge, outside};
use super::claim::{Candidate, Gate};
use super::hashes::Hashes;
use super::slab::HeldFrame;
use crate::drops::DropReason;
use crate::tally::Tally;
use bytes::Bytes;
use frame::Kind;
use multicast_io::{Burst, Span};
use std::net::IpAddr;
use std::time::Instant;

/// One message of a TCP stream: a frame, or a bare transaction.
#[derive(Debug)]
pub struct Message {
    /// Its bytes.
    pub bytes: Bytes,
    /// The peer.
    pub sender: IpAddr,
    /// What [`judge`] found elsewhere: a message may be too large to be hashed on the worker.
    pub verdict: Option<Result<Judged, DropReason>>,
}

/// See the module text.
pub(super) struct Admission {
    policy: Policy,
    hashes: Hashes,
    /// Arrivals of the burst that were taken.
    taken: usize,
}

impl Admission {
    pub(super) fn new(policy: Policy) -> Admission {
        Admission { policy, hashes: Hashes::default(), taken: 0 }
    }

    /// Takes the arrivals of `burst` that were not taken yet.
    pub(super) fn take_burst(&mut self, now: Instant, burst: &Burst, gate: &mut Gate, tally: &Tally) {
        let arrivals = burst.arrivals().get(self.taken..).unwrap_or_default();
        if arrivals.is_empty() {
            return;
        }
        self.taken += arrivals.len();
        let mut bytes = 0;
        self.hashes.take_batch(&self.policy, burst, arrivals);
        for (at, arrival) in arrivals.iter().enumerate() {
            let span = arrival.span;
            bytes += u64::from(span.len);
            let bytes_of = burst.bytes(span);
            let verdict = admit_hashed(&self.policy, bytes_of, Via::Udp, self.hashes.of(at));
            let outside = verdict.as_ref().ok().and_then(|frame| outside(&self.policy, frame, bytes_of));
            let held = |frame: &Admitted| HeldFrame::InBurst(Span { start: span.start, len: frame.len });
            let from = (now, arrival.source.ip());
            self.take(from, verdict, outside.as_ref(), held, gate, tally);
        }
        tally.packets_received.add(arrivals.len() as u64);
        tally.bytes_received.add(bytes);
    }

    pub(super) fn take_message(&mut self, now: Instant, message: Message, gate: &mut Gate, tally: &Tally) {
        tally.tcp_messages.add(1);
        let Message { bytes, sender, verdict } = message;
        let verdict = verdict.unwrap_or_else(|| judge(&self.policy, &bytes, Via::Tcp));
        let outside = verdict.ok().and_then(|judged| judged.outside);
        let verdict = verdict.map(|judged| judged.frame);
        self.take((now, sender), verdict, outside.as_ref(), |_| HeldFrame::Owned(bytes), gate, tally);
    }

    /// Something of the burst was not taken yet.
    pub(super) fn has_more(&self, burst: &Burst) -> bool {
        burst.arrivals().len() > self.taken
    }

    /// The burst was cleared.
    pub(super) fn forget_burst(&mut self) {
        self.taken = 0;
    }

    fn take(
        &self,
        (now, sender): (Instant, IpAddr),
        verdict: Result<Admitted, DropReason>,
        outside: Option<&Outside>,
        held: impl FnOnce(&Admitted) -> HeldFrame,
        gate: &mut Gate,
        tally: &Tally,
    ) {
        match verdict {
            Err(reason) => tally.ledger.keep(reason, 1),
            Ok(frame) => {
                tally.accepted(frame.kind).add(1);
                if frame.kind == Kind::Subtree && self.policy.verify_subtree_root {
                    tally.subtree_roots_ok.add(1);
                }
                let held = held(&frame);
                gate.offer(Candidate { frame, sender, since: now, variant: None }, held, outside, tally);
            }
        }
    }
}
