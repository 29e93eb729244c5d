//! What was loaded becomes an emission: trains are planned, then frames are numbered in the order in which they will leave.

use super::admit::MAX_DATAGRAM;
use super::emit::Emission;
use super::hand_over::FrameOrigin;
use super::loaded::{Loaded, LoadedFrame};
use super::number::{FlowHandle, FlowTable, Stamp};
use super::settings::IngressConfig;
use super::train::{TrainLimits, TrainPlan};
use crate::tally::Tally;
use frame::datagram::stamp;
use frame::{Fabric, SeqNum};
use huge_pages::prefetch;
use multicast_io::{Burst, Train};
use std::net::SocketAddr;
use std::time::Instant;

/// Frames ahead whose headers are loaded before they are numbered, and the byte that is looked for.
const AHEAD: usize = 8;
const STAMPED: usize = 40;

/// See the module text. All lists are used again, round after round.
pub(super) struct Planner {
    fabric: Fabric,
    port: u16,
    limits: TrainLimits,
    plan: TrainPlan,
    emission: Emission,
}

impl Planner {
    pub(super) fn new(config: &IngressConfig) -> Planner {
        Planner {
            fabric: config.fabric,
            port: config.egress_port,
            limits: TrainLimits {
                max_frames: 1,
                max_bytes: MAX_DATAGRAM,
                max_segment: config.max_segment,
                padding_percent: config.padding_percent,
                order: config.train_order,
            },
            plan: TrainPlan::new(),
            emission: Emission::default(),
        }
    }

    /// The emission that was planned last.
    pub(super) fn emission(&self) -> &Emission {
        &self.emission
    }

    /// The emission is over.
    pub(super) fn end(&mut self) {
        self.emission.clear();
    }

    /// Plans and numbers what was loaded, in trains of up to `max_train` frames.
    pub(super) fn plan(
        &mut self,
        now: Instant,
        max_train: usize,
        burst: &mut Burst,
        loaded: &mut Loaded,
        flows: &mut FlowTable,
        tally: &Tally,
    ) {
        self.limits.max_frames = max_train;
        self.plan.make(&self.limits, &loaded.for_trains);
        self.emission.clear();
        let moment = tally.recent.moment(now);
        for at in 0..self.plan.order.len() {
            // The order is that of lengths: headers lie anywhere in the burst.
            if let Some(&ahead) = self.plan.order.get(at + AHEAD)
                && let Some(stamped) = burst.bytes(loaded.frames[ahead as usize].span).get(STAMPED)
            {
                prefetch(stamped);
            }
            let frame = &loaded.frames[self.plan.order[at] as usize];
            let flow = number(flows, burst, frame);
            if let Some((id, key, seq)) = frame::datagram::stamped(burst.bytes(frame.span)) {
                tally.recent.note(moment, id, key.0, seq.0);
            }
            self.emission.frames.push(frame.span);
            self.emission.origins.push(FrameOrigin { flow, hand_over: frame.hand_over });
        }
        self.form_trains(tally);
        loaded.clear();
    }

    fn form_trains(&mut self, tally: &Tally) {
        for planned in &self.plan.trains {
            let members = &self.emission.frames[planned.first as usize..][..planned.count as usize];
            let train_bytes = members.iter().map(|span| u64::from(span.len)).sum::<u64>();
            let group = tally.group(planned.group);
            group.packets.add(u64::from(planned.count));
            group.bytes.add(train_bytes);
            tally.train(planned.count);
            self.emission.trains.push(Train {
                destination: SocketAddr::new(self.fabric.address(planned.group), self.port),
                first: planned.first,
                count: planned.count,
                segment: planned.segment,
            });
        }
        tally.emitted.add(self.emission.frames.len() as u64);
        tally.padding.add(self.plan.padding);
    }
}

/// Stamps one frame; returns the flow under the key it has now.
fn number(flows: &mut FlowTable, burst: &mut Burst, frame: &LoadedFrame) -> Option<FlowHandle> {
    let flow = frame.flow?;
    match frame.stamp {
        Stamp::Number => {
            let numbered = flows.next(flow)?;
            stamp(burst.bytes_mut(frame.span), numbered.hash_key, numbered.seq_num);
            Some(numbered.flow)
        }
        Stamp::KeyOnly => {
            let bytes = burst.bytes_mut(frame.span);
            let preset =
                bytes.get(48..56).and_then(|slice| slice.first_chunk()).map_or(0, |b| u64::from_be_bytes(*b));
            stamp(bytes, flows.key(flow)?, SeqNum(preset));
            None
        }
        Stamp::Keep => None,
    }
}
