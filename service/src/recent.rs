//! What a worker did lately, frame by frame, for `/where`.
//!
//! A ring per worker: first eight bytes of the id, flow, number, time. The worker overwrites the oldest entry; whoever
//! asks looks at all of them. An entry that is overwritten while it is read is left out.
//!
//! Limits: [`ENTRIES`] frames of a worker, 4 MiB; eight bytes of an id are enough to find it, not to prove it. Cost on
//! the packet path: five plain stores into one cache line; no lock, no allocation.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Frames that a worker remembers.
pub const ENTRIES: usize = 1 << 17;
/// Where a moment says what was done, and which of its bits are microseconds: 2,000 years of them.
const WHICH: u32 = 56;
const MICROS: u64 = (1 << WHICH) - 1;

/// See the module text. One writer, any number of readers.
#[derive(Debug)]
pub struct Recent {
    /// What the worker did with the frames: sent, delivered.
    verb: &'static str,
    /// What else may become of them.
    others: &'static [&'static str],
    entries: Box<[Entry]>,
    written: AtomicU64,
    owner: AtomicU64,
    began: Instant,
    began_wall: SystemTime,
}

/// Frames of one flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// HashKey.
    pub flow: u64,
    /// Lowest number.
    pub first: u64,
    /// Highest number.
    pub last: u64,
    /// How many.
    pub frames: u64,
}

/// A time, as the ring keeps it.
#[derive(Clone, Copy, Debug)]
pub struct Moment(u64);

/// One line of cache holds two. `id` is zero while the rest changes.
#[derive(Debug, Default)]
#[repr(align(32))]
struct Entry {
    id: AtomicU64,
    flow: AtomicU64,
    seq: AtomicU64,
    micros: AtomicU64,
}

impl Recent {
    /// An empty ring; `verb` says what is done to the frames that are noted.
    pub fn new(verb: &'static str) -> Recent {
        Recent {
            verb,
            others: &[],
            entries: (0..ENTRIES).map(|_| Entry::default()).collect(),
            written: AtomicU64::new(0),
            owner: AtomicU64::new(0),
            began: Instant::now(),
            began_wall: SystemTime::now(),
        }
    }

    /// What else becomes of frames, for [`Recent::note_other`]: at most 255.
    #[must_use]
    pub fn and(mut self, others: &'static [&'static str]) -> Recent {
        self.others = others;
        self
    }

    /// When the next frames are noted: once a burst.
    pub fn moment(&self, now: Instant) -> Moment {
        let micros = now.saturating_duration_since(self.began).as_micros();
        Moment(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    /// Notes a frame. For the worker alone.
    pub fn note(&self, Moment(micros): Moment, id: u64, flow: u64, seq: u64) {
        let at = self.written.load(Ordering::Relaxed);
        self.written.store(at.wrapping_add(1), Ordering::Relaxed);
        #[allow(clippy::cast_possible_truncation, reason = "the low bits choose the place")]
        let entry = &self.entries[at as usize % ENTRIES];
        entry.id.store(0, Ordering::Release);
        entry.flow.store(flow, Ordering::Release);
        entry.seq.store(seq, Ordering::Release);
        entry.micros.store(micros, Ordering::Release);
        entry.id.store(id, Ordering::Release);
    }

    /// Notes that something else became of a frame: the `other`th of [`Recent::and`]. It has no flow and number here.
    pub fn note_other(&self, Moment(micros): Moment, other: usize, id: u64) {
        let which = u64::try_from(other).unwrap_or(0) + 1;
        self.note(Moment(micros & MICROS | which << WHICH), id, 0, 0);
    }

    /// The owner id under which the worker claims now.
    pub fn set_owner(&self, owner: u64) {
        self.owner.store(owner, Ordering::Relaxed);
    }

    /// What `worker` remembers of the id that begins with `id`, oldest first.
    pub fn find(&self, worker: &str, id: u64) -> Value {
        let mut found: Vec<(u64, u64, u64)> =
            self.entries.iter().filter_map(|entry| entry.read(id)).collect();
        found.sort_unstable_by_key(|&(moment, flow, seq)| (moment & MICROS, flow, seq));
        let frames = found.into_iter().map(|(moment, flow, seq)| {
            let unix_ms = self.unix_ms(moment & MICROS);
            #[allow(clippy::cast_possible_truncation, reason = "eight bits")]
            match ((moment >> WHICH) as usize).checked_sub(1).and_then(|other| self.others.get(other)) {
                Some(other) => json!({ "did": other, "unix_ms": unix_ms }),
                None => json!({
                    "did": self.verb,
                    "flow": format!("{flow:016x}"),
                    "seq": seq,
                    "unix_ms": unix_ms,
                }),
            }
        });
        json!({
            "worker": worker,
            "owner": format!("{:016x}", self.owner.load(Ordering::Relaxed)),
            "remembers": self.written.load(Ordering::Relaxed).min(ENTRIES as u64),
            "frames": frames.collect::<Vec<_>>(),
        })
    }

    /// Runs of frames noted within `span` before now, by flow.
    pub fn lately(&self, span: Duration) -> Vec<Run> {
        let Moment(from) = self.moment(Instant::now().checked_sub(span).unwrap_or(self.began));
        let mut runs: BTreeMap<u64, Run> = BTreeMap::new();
        for entry in &self.entries {
            let id = entry.id.load(Ordering::Acquire);
            let Some((_, flow, seq)) = entry.read(id).filter(|(micros, ..)| *micros >= from) else {
                continue;
            };
            let run = runs.entry(flow).or_insert(Run { flow, first: seq, last: seq, frames: 0 });
            (run.first, run.last, run.frames) = (run.first.min(seq), run.last.max(seq), run.frames + 1);
        }
        runs.into_values().collect()
    }

    fn unix_ms(&self, micros: u64) -> u64 {
        let at = self.began_wall + Duration::from_micros(micros);
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Entry {
    fn read(&self, id: u64) -> Option<(u64, u64, u64)> {
        if id == 0 || self.id.load(Ordering::Acquire) != id {
            return None;
        }
        let (flow, seq) = (self.flow.load(Ordering::Acquire), self.seq.load(Ordering::Acquire));
        let micros = self.micros.load(Ordering::Acquire);
        (self.id.load(Ordering::Acquire) == id).then_some((micros, flow, seq))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_found_until_it_is_overwritten() {
        let recent = Recent::new("sent");
        let now = Instant::now();
        recent.note(recent.moment(now), 7, 0xAB, 1);
        recent.note(recent.moment(now + Duration::from_secs(1)), 7, 0xAB, 2);
        let seqs = |recent: &Recent| {
            let found = recent.find("0", 7);
            let frames = found["frames"].as_array().unwrap().clone();
            frames.iter().map(|frame| frame["seq"].as_u64().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(seqs(&recent), [1, 2]);
        assert_eq!(recent.find("0", 7)["frames"][0]["flow"], "00000000000000ab");
        assert!(recent.find("0", 8)["frames"].as_array().unwrap().is_empty());
        let recent = recent.and(&["cut"]);
        recent.note_other(recent.moment(now), 0, 5);
        assert_eq!(recent.find("0", 5)["frames"][0]["did"], "cut");
        for seq in 0..ENTRIES as u64 - 2 {
            recent.note(recent.moment(now), 9, 1, seq);
        }
        assert_eq!(seqs(&recent), [2]);
    }

    #[test]
    fn what_was_noted_lately_is_summed_up_by_flow() {
        let recent = Recent::new("sent");
        let now = Instant::now();
        for (flow, seq) in [(1, 7), (2, 1), (1, 9)] {
            recent.note(recent.moment(now + Duration::from_secs(9)), seq, flow, seq);
        }
        let expected =
            [Run { flow: 1, first: 7, last: 9, frames: 2 }, Run { flow: 2, first: 1, last: 1, frames: 1 }];
        assert_eq!(recent.lately(Duration::from_secs(1)), expected);
    }
}
