//! What is known of each flow: its numbers for `/status`, the index page it used last, and since when it is silent.

use super::silent_flows::{Activity, SilentFlows};
use crate::pipeline::admit::{Admitted, label_of};
use crate::pipeline::seeded::seeded;
use frame::{GroupIndex, HashKey, Id, SeqNum};
use hashbrown::HashTable;

fn hexadecimal<S: serde::Serializer>(key: &u64, out: S) -> Result<S::Ok, S::Error> {
    out.collect_str(&format_args!("{key:016x}"))
}

/// What a store holds of one flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Coverage {
    /// The flow; shown in the 16 hexadecimal digits that `oncecast nack --hash-key` takes (a JSON number would lose digits).
    #[serde(serialize_with = "hexadecimal")]
    pub hash_key: u64,
    /// Group of its last frame.
    pub group: u16,
    /// Lowest number seen.
    pub lowest: u64,
    /// Highest number seen.
    pub highest: u64,
    /// Frames taken, those that left since included.
    pub frames: u64,
    /// Bytes taken, those that left since included.
    pub bytes: u64,
}

/// What is known of one flow.
struct Flow {
    hash_key: u64,
    group: GroupIndex,
    lowest: u64,
    highest: u64,
    frames: u64,
    bytes: u64,
    last: u64,
    page: u32,
    /// Offset 56 of its first frame.
    label: Id,
    activity: Activity,
}

/// A flow that fell silent, as far as its frames were heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Silent {
    pub(super) hash_key: HashKey,
    pub(super) highest: SeqNum,
    pub(super) group: GroupIndex,
    pub(super) label: Id,
}

impl Flow {
    fn coverage(&self) -> Coverage {
        Coverage {
            hash_key: self.hash_key,
            group: self.group.0,
            lowest: self.lowest,
            highest: self.highest,
            frames: self.frames,
            bytes: self.bytes,
        }
    }
}

/// Flows for `/status`, for the directory and for announcements. Full: of eight flows at the hand the one silent for
/// longest is forgotten, counted.
pub(super) struct Flows {
    table: HashTable<u32>,
    flows: Vec<Flow>,
    most: usize,
    hand: usize,
    /// The flow of the last frame: frames of one train share their flow.
    recent: u32,
    seed: u64,
    silent: SilentFlows,
    forgotten: u64,
}

impl Flows {
    pub(super) fn new(most: usize, seed: u64) -> Flows {
        let most = most.min(u32::MAX as usize);
        Flows {
            table: HashTable::new(),
            flows: Vec::new(),
            most,
            hand: 0,
            recent: 0,
            seed: seed.rotate_left(17),
            silent: SilentFlows::default(),
            forgotten: 0,
        }
    }

    /// The flow, and whether it is new here.
    pub(super) fn find_or_add(&mut self, frame: &Admitted<'_>) -> (u32, bool) {
        let known = self.find(frame.hash_key.0);
        self.recent = known.unwrap_or_else(|| self.add(frame.hash_key.0, label_of(frame.bytes)));
        (self.recent, known.is_none())
    }

    /// Flows known.
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    /// Flows with their numbers; stops at `most`.
    pub(super) fn coverage(&self, most: usize) -> Vec<Coverage> {
        self.flows.iter().take(most).map(Flow::coverage).collect()
    }

    /// Page that the flow used last.
    pub(super) fn page(&self, flow: u32) -> u32 {
        self.flows[flow as usize].page
    }

    /// Counts a stored frame.
    pub(super) fn stored(
        &mut self,
        index: u32,
        frame: &Admitted<'_>,
        group: GroupIndex,
        now: u64,
        page: u32,
    ) {
        let flow = &mut self.flows[index as usize];
        flow.group = group;
        flow.lowest = flow.lowest.min(frame.seq.0);
        flow.highest = flow.highest.max(frame.seq.0);
        self.silent.activity(now, index, &mut flow.activity);
        flow.frames += 1;
        flow.bytes += frame.bytes.len() as u64;
        flow.last = now;
        flow.page = page;
    }

    /// A sender's digest says that numbers up to `highest` left.
    pub(super) fn on_digest(&mut self, hash_key: HashKey, highest: SeqNum, now: u64) {
        if let Some(index) = self.find(hash_key.0)
            && let Some(flow) = self.flows.get_mut(index as usize)
            && highest.0 >= flow.highest
        {
            flow.activity.on_digest(now);
        }
    }

    /// A flow that is to be announced now.
    pub(super) fn next_silent(&mut self, now: u64) -> Option<Silent> {
        let index = self.silent.next(now, &mut self.flows, |flow| &mut flow.activity)?;
        let flow = self.flows.get(index as usize)?;
        Some(Silent {
            hash_key: HashKey(flow.hash_key),
            highest: SeqNum(flow.highest),
            group: flow.group,
            label: flow.label,
        })
    }

    /// When `next_silent` may have something.
    pub(super) fn next_check(&self) -> Option<u64> {
        self.silent.next_check()
    }

    /// Flows that were forgotten for others.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    fn find(&self, hash_key: u64) -> Option<u32> {
        if self.flows.get(self.recent as usize).is_some_and(|flow| flow.hash_key == hash_key) {
            return Some(self.recent);
        }
        self.table
            .find(seeded(self.seed, hash_key, 0), |&flow| self.flows[flow as usize].hash_key == hash_key)
            .copied()
    }

    fn add(&mut self, hash_key: u64, label: Id) -> u32 {
        let mut fresh = Flow {
            hash_key,
            group: GroupIndex(0),
            lowest: u64::MAX,
            highest: 0,
            frames: 0,
            bytes: 0,
            last: 0,
            page: u32::MAX,
            label,
            activity: Activity::default(),
        };
        let index = if self.flows.len() < self.most {
            self.flows.push(fresh);
            self.flows.len() - 1
        } else {
            let index = self.forget();
            fresh.activity = self.flows[index].activity.of_successor();
            self.flows[index] = fresh;
            index
        };
        #[allow(clippy::cast_possible_truncation, reason = "`most` fits a u32")]
        let index = index as u32;
        let (flows, seed) = (&self.flows, self.seed);
        self.table.insert_unique(seeded(seed, hash_key, 0), index, |&flow| {
            seeded(seed, flows[flow as usize].hash_key, 0)
        });
        index
    }

    fn forget(&mut self) -> usize {
        let len = self.flows.len();
        let candidates = (0..8).map(|step| (self.hand + step) % len);
        let victim = candidates.min_by_key(|&index| self.flows[index].last).unwrap_or(0);
        self.hand = (self.hand + 8) % len;
        self.forgotten += 1;
        let hash = seeded(self.seed, self.flows[victim].hash_key, 0);
        if let Ok(entry) = self.table.find_entry(hash, |&flow| flow as usize == victim) {
            entry.remove();
        }
        victim
    }
}
