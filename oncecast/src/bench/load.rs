//! Precomputed traffic: frames with the sizes of a real block and valid ids, already planned into trains.
//!
//! Everything that costs more than a send happens here, before a clock runs: derived transactions (another lock time,
//! another id), headers, the order of sending.

use crate::traffic;
use anyhow::Context;
use frame::data::{HEADER, HeaderFields};
use frame::{GroupIndex, HashKey, Id, Kind, SeqNum, ShardBits, tx};
use multicast_io::{Span, Train};
use proxy_ingress::pipeline::train::{Order, TrainFrame, TrainLimits, TrainPlan};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use std::net::SocketAddr;

/// Longest transaction whose frame fits one datagram on a link of 1,500 bytes.
const LONGEST: usize = 1_348;
/// Frames that are planned together.
const BATCH: usize = 512;
/// Longest datagram on a link of 1,500 bytes.
pub const MAX_SEGMENT: u16 = 1_452;

/// Frames in one area and the trains that cover them, in the order of sending.
pub struct Load {
    /// All frames, headers included.
    pub memory: Vec<u8>,
    /// Frames in the order of sending.
    pub frames: Vec<Span>,
    /// Trains over `frames`.
    pub trains: Vec<Train>,
}

/// What to make.
pub struct Recipe<'a> {
    /// Raw block whose transactions are the base.
    pub block: &'a str,
    /// Frames to make.
    pub count: usize,
    /// Number of the first: runs that must not share an id begin elsewhere.
    pub first: usize,
    /// Longest train.
    pub train: usize,
}

impl Load {
    /// Unnumbered frames to one address.
    pub fn to_address(recipe: &Recipe<'_>, to: SocketAddr) -> anyhow::Result<Load> {
        let (memory, spans) = make(recipe)?;
        Ok(couple(memory, &spans, recipe.train, |_| GroupIndex(0), |_| to))
    }

    /// Numbered frames to their groups, as a proxy would send them: one flow a group.
    pub fn to_groups(
        recipe: &Recipe<'_>,
        bits: ShardBits,
        to: impl Fn(GroupIndex) -> SocketAddr,
    ) -> anyhow::Result<Load> {
        let (memory, spans) = make(recipe)?;
        let group_of = |frame: &[u8]| bits.group_of(frame[8..40].first_chunk().unwrap_or(&[0; 32]));
        let mut load = couple(memory, &spans, recipe.train, group_of, to);
        let key: u64 = rand::random();
        let mut last = vec![0; bits.groups() as usize];
        for span in &load.frames {
            let bytes = &mut load.memory[span.range()];
            let group = group_of(bytes).0;
            let number = &mut last[usize::from(group)];
            *number += 1;
            frame::datagram::stamp(bytes, HashKey(key ^ u64::from(group)), SeqNum(*number));
        }
        Ok(load)
    }

    /// Lets trains go to a second address in turn with the first, and this share of them to both, one right after the other.
    pub fn share(&mut self, second: SocketAddr, percent: usize) {
        let trains = std::mem::take(&mut self.trains);
        for (at, train) in trains.into_iter().enumerate() {
            // An odd factor spreads those that go to both over all of them.
            let both = at * 37 % 100 < percent;
            if both || at % 2 == 0 {
                self.trains.push(train);
            }
            if both || at % 2 == 1 {
                self.trains.push(Train { destination: second, ..train });
            }
        }
    }

    /// Writes `stamp` into the lock time of a frame and its new id into the header.
    pub fn restamp(&mut self, frame: usize, stamp: u32) {
        let bytes = &mut self.memory[self.frames[frame].range()];
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&stamp.to_le_bytes());
        let id: Id = tx::sha256d(&bytes[HEADER..]);
        bytes[8..40].copy_from_slice(&id);
    }
}

/// Stamp of a frame, as [`Load::restamp`] wrote it; `None` if the datagram is no such frame. Padding is skipped.
pub fn stamp_of(datagram: &[u8]) -> Option<u32> {
    let length = u32::from_be_bytes(*datagram.get(88..92)?.first_chunk()?);
    let end = HEADER.checked_add(usize::try_from(length).ok()?)?;
    Some(u32::from_le_bytes(*datagram.get(end.checked_sub(4)?..end)?.first_chunk()?))
}

/// The frames one after the other, in the order of the block.
fn make(recipe: &Recipe<'_>) -> anyhow::Result<(Vec<u8>, Vec<Span>)> {
    let mut base = traffic::read_input(recipe.block)?;
    base.retain(|tx| tx.len() <= LONGEST && tx.len() >= 10 && !tx::is_extended(tx));
    anyhow::ensure!(!base.is_empty(), "no transaction of at most {LONGEST} bytes in {}", recipe.block);
    let (mut spans, mut end) = (Vec::with_capacity(recipe.count), 0_usize);
    for index in 0..recipe.count {
        let len = HEADER + base[(recipe.first + index) % base.len()].len();
        let start = u32::try_from(end).context("more than 4 GiB of frames; ask for fewer")?;
        spans.push(Span { start, len: u32::try_from(len)? });
        end += len;
    }
    let mut memory = vec![0; end];
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let each = spans.len().div_ceil(threads).max(1);
    let (mut rest, mut first) = (memory.as_mut_slice(), recipe.first);
    std::thread::scope(|scope| {
        for spans in spans.chunks(each) {
            let bytes: usize = spans.iter().map(|span| span.len as usize).sum();
            let (mine, others) = std::mem::take(&mut rest).split_at_mut(bytes);
            let (base, begin) = (&base, first);
            (rest, first) = (others, first + spans.len());
            scope.spawn(move || write_frames(base, begin, spans, mine));
        }
    });
    Ok((memory, spans))
}

fn write_frames(base: &[Vec<u8>], first: usize, spans: &[Span], memory: &mut [u8]) {
    let mut at = 0;
    for (index, span) in spans.iter().enumerate() {
        let (round, which) = ((first + index) / base.len(), (first + index) % base.len());
        let bytes = &mut memory[at..at + span.len as usize];
        at += bytes.len();
        let (header, payload) = bytes.split_at_mut(HEADER);
        payload.copy_from_slice(&base[which]);
        traffic::add_to_lock_time(payload, round);
        let fields = HeaderFields {
            kind: Kind::Tx,
            msg_type: 0,
            id: &tx::sha256d(payload),
            hash_key: HashKey(0),
            seq_num: SeqNum(0),
            second_id: &[0; 32],
            payload_len: u32::try_from(payload.len()).unwrap_or(0),
        };
        // The header has its exact length: nothing can be refused.
        let _ = frame::data::encode_header(&fields, header);
    }
}

/// Plans batch by batch; the trains of a batch leave in random order, so that a receiver sees lengths mixed.
fn couple(
    memory: Vec<u8>,
    spans: &[Span],
    train: usize,
    group_of: impl Fn(&[u8]) -> GroupIndex,
    to: impl Fn(GroupIndex) -> SocketAddr,
) -> Load {
    let limits = TrainLimits {
        max_frames: train,
        max_bytes: 65_487,
        max_segment: MAX_SEGMENT,
        padding_percent: 15,
        order: Order::Length,
    };
    let mut load = Load { memory, frames: Vec::with_capacity(spans.len()), trains: Vec::new() };
    let (mut plan, mut random) = (TrainPlan::new(), StdRng::seed_from_u64(1));
    for batch in spans.chunks(BATCH) {
        let car = |span: &Span| {
            let group = group_of(&load.memory[span.range()]);
            TrainFrame::whole(group, u16::try_from(span.len).unwrap_or(u16::MAX))
        };
        let cars: Vec<TrainFrame> = batch.iter().map(car).collect();
        plan.make(&limits, &cars);
        plan.trains.shuffle(&mut random);
        for cars in &plan.trains {
            let first = u32::try_from(load.frames.len()).unwrap_or(u32::MAX);
            let members = &plan.order[cars.first as usize..][..cars.count as usize];
            load.frames.extend(members.iter().map(|&member| batch[member as usize]));
            load.trains.push(Train {
                destination: to(cars.group),
                first,
                count: cars.count,
                segment: cars.segment,
            });
        }
    }
    load
}

/// A number that tells the runs of a benchmark apart.
pub fn anywhere() -> usize {
    rand::rng().random_range(0..1 << 30)
}
