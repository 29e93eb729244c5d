//! Fragments (wire 5) back into frames.
//!
//! Each original has one buffer: the header of the frame to be, then the payload. Each fragment is written at its place. The
//! grid (equal lengths, the last may be shorter) follows from any one fragment, and every other must fit it. The key holds
//! all that the fragments of one original share: a poisoned copy with other lengths opens an assembly of its own and does
//! not spoil the real one. The rebuilt frame carries flow key and number of fragment 0, whatever came first.
//!
//! A lost fragment is a gap like any other, and is requested. So an assembly lives as long as its gaps are repaired.
//! Originals that were finished are remembered for a while: late copies do not reopen them. One that fails its hash gives
//! its numbers back to the tracker, once.
//!
//! Two originals of one id may share all of the key and differ in bytes that the id does not prove. A proxy numbers the
//! fragments of an original in the order of their places, and one original behind the other. A fragment whose number does not
//! fit that order belongs to another original of the key, its next [`TURNS`].
//!
//! Limits: bytes over all assemblies (`budget`; the one without progress for the longest makes room), assemblies, the
//! longest original. Everything is checked before memory is taken.

use super::counts::{Counts, DropReason, Loss};
use frame::fragment::opens_slot;
use frame::{Fragment, HashKey, Id, Kind, SeqNum};
use hashbrown::HashMap;
use lru::LruCache;
use service::ledger;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

/// Bounds of reassembly.
#[derive(Clone, Copy, Debug)]
pub struct ReassemblyLimits {
    /// Bytes over all assemblies.
    pub budget: usize,
    /// Originals at once.
    pub slots: usize,
    /// Longest payload.
    pub longest: u32,
    /// Originals remembered after they were finished.
    pub memory: usize,
    /// Life of an assembly whose fragments carry no number and cannot be repaired.
    pub unnumbered_ttl: Duration,
}

impl Default for ReassemblyLimits {
    fn default() -> ReassemblyLimits {
        ReassemblyLimits {
            budget: 256 << 20,
            slots: 4096,
            longest: 64 << 20,
            memory: 16_384,
            unnumbered_ttl: Duration::from_secs(10),
        }
    }
}

/// Originals of one key that are told apart.
const TURNS: u8 = 16;
/// Places on each side of a fragment that are looked at for its order.
const NEIGHBOURS: usize = 64;

/// What all fragments of one original share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    id: Id,
    second_id: Id,
    hash_key: HashKey,
    original_len: u32,
    total: u16,
    /// Which of the originals that share all the rest.
    turn: u8,
}

struct Assembly {
    /// Header of the frame to be, then its payload.
    buffer: Vec<u8>,
    /// Bytes of every fragment but the last.
    grid: usize,
    /// Number of each fragment; meaningful where `present`.
    numbers: Vec<SeqNum>,
    present: Vec<bool>,
    missing: u16,
    kind: Kind,
    msg_type: u8,
    expires: Instant,
    progress: Instant,
}

/// How the last attempt at an original ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Finished {
        /// Its lowest number and its highest.
        numbers: (SeqNum, SeqNum),
    },
    /// Its hash was wrong: its numbers were given back once.
    Failed,
}

/// A frame whose fragments are complete.
pub struct Rebuilt {
    /// Header and payload.
    pub frame: Vec<u8>,
    /// What it was made of.
    pub parts: Parts,
}

/// The fragments of a rebuilt frame.
pub struct Parts {
    /// Their numbers.
    pub numbers: Vec<SeqNum>,
    /// Their flow.
    pub hash_key: HashKey,
    key: Key,
}

impl Parts {
    fn finished(&self) -> Ended {
        let numbers = || self.numbers.iter().copied();
        Ended::Finished {
            numbers: (numbers().min().unwrap_or_default(), numbers().max().unwrap_or_default()),
        }
    }
}

/// See the module text.
pub struct Reassembler {
    limits: ReassemblyLimits,
    assemblies: HashMap<Key, Assembly>,
    bytes: usize,
    ended: LruCache<Key, Ended>,
}

/// What one original costs besides its payload.
fn cost(original_len: u32, total: u16) -> usize {
    frame::data::HEADER + original_len as usize + usize::from(total) * (size_of::<SeqNum>() + 1)
}

impl Reassembler {
    /// An empty reassembler.
    pub fn new(limits: ReassemblyLimits) -> Reassembler {
        let memory = NonZeroUsize::new(limits.memory.max(1)).unwrap_or(NonZeroUsize::MIN);
        Reassembler { assemblies: HashMap::new(), bytes: 0, ended: LruCache::new(memory), limits }
    }

    /// Takes one fragment; the frame, when it was the last that was missing. `horizon`: how long lost fragments of its
    /// flow are repaired.
    pub fn take(
        &mut self,
        now: Instant,
        fragment: &Fragment<'_>,
        horizon: Duration,
        counts: &mut Counts,
    ) -> Result<Option<Rebuilt>, DropReason> {
        let key = Key {
            id: *fragment.id,
            second_id: *fragment.second_id,
            hash_key: fragment.hash_key,
            original_len: fragment.original_len,
            total: fragment.total,
            turn: 0,
        };
        let key = self.original_of(key, fragment)?;
        if !self.assemblies.contains_key(&key) {
            self.open(now, key, fragment, horizon, counts)?;
        }
        let Some(assembly) = self.assemblies.get_mut(&key) else { return Err(DropReason::FragmentGrid) };
        assembly.write(now, fragment)?;
        if assembly.missing > 0 {
            return Ok(None);
        }
        Ok(self.finish(key))
    }

    /// The original that a fragment belongs to: one that is being put together, or none yet.
    fn original_of(&self, key: Key, fragment: &Fragment<'_>) -> Result<Key, DropReason> {
        for turn in 0..TURNS {
            let key = Key { turn, ..key };
            if let Some(assembly) = self.assemblies.get(&key) {
                if assembly.may_hold(fragment) {
                    return Ok(key);
                }
                continue;
            }
            let Some(Ended::Finished { numbers: (lowest, highest) }) = self.ended.peek(&key) else {
                return Ok(key);
            };
            if fragment.seq_num.0 == 0 || (*lowest..=*highest).contains(&fragment.seq_num) {
                return Err(DropReason::LateFragment);
            }
        }
        Err(DropReason::LateFragment)
    }

    /// The rebuilt frame was verified.
    pub fn verified(&mut self, parts: &Parts, counts: &mut Counts) {
        counts.reassembly_completed += 1;
        self.ended.put(parts.key, parts.finished());
    }

    /// The rebuilt frame found no room at the consumer: its fragments will come again.
    pub fn forget(&mut self, parts: &Parts) {
        self.ended.pop(&parts.key);
    }

    /// The rebuilt frame failed its hash. `true`: its numbers should be requested again; `false`: that was the second
    /// time, the original is given up.
    pub fn failed(&mut self, parts: &Parts, counts: &mut Counts) -> bool {
        counts.reassembly_hash_mismatch += 1;
        let again = self.ended.peek(&parts.key) != Some(&Ended::Failed);
        self.ended.put(parts.key, if again { Ended::Failed } else { parts.finished() });
        again
    }

    /// Gives up assemblies whose time is over. Call about once a second.
    pub fn purge(&mut self, now: Instant, counts: &mut Counts) {
        let expired: Vec<Key> =
            self.assemblies.iter().filter(|(_, s)| now >= s.expires).map(|(k, _)| *k).collect();
        for key in expired {
            self.abandon(key, counts);
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Flow and lowest number of every original that is not complete.
    pub fn incomplete(&self) -> impl Iterator<Item = (HashKey, SeqNum)> {
        let lowest = |assembly: &Assembly| {
            let numbers = assembly.numbers.iter().zip(&assembly.present);
            numbers.filter(|(seq, present)| **present && seq.0 > 0).map(|(seq, _)| *seq).min()
        };
        self.assemblies.iter().filter_map(move |(key, assembly)| Some((key.hash_key, lowest(assembly)?)))
    }

    fn open(
        &mut self,
        now: Instant,
        key: Key,
        fragment: &Fragment<'_>,
        horizon: Duration,
        counts: &mut Counts,
    ) -> Result<(), DropReason> {
        let kind = match fragment.original_kind() {
            kind @ (Kind::Tx | Kind::Block | Kind::Subtree) => kind,
            Kind::Object => return Err(DropReason::Object),
            _ => return Err(DropReason::FragmentVersion),
        };
        if key.original_len > self.limits.longest {
            return Err(DropReason::FragmentTooLong);
        }
        if !opens_slot(fragment.index, key.total, key.original_len, self.limits.longest) {
            return Err(DropReason::FragmentGrid);
        }
        let grid = grid(fragment).ok_or(DropReason::FragmentGrid)?;
        let need = cost(key.original_len, key.total);
        while self.assemblies.len() >= self.limits.slots || self.bytes + need > self.limits.budget {
            let Some(victim) = self.assemblies.iter().min_by_key(|(_, s)| s.progress).map(|(k, _)| *k) else {
                return Err(DropReason::FragmentTooLong);
            };
            self.abandon(victim, counts);
        }
        let life = if fragment.seq_num.0 == 0 { self.limits.unnumbered_ttl } else { horizon };
        self.bytes += need;
        counts.reassembly_started += 1;
        let parts = usize::from(key.total);
        self.assemblies.insert(
            key,
            Assembly {
                buffer: vec![0; frame::data::HEADER + key.original_len as usize],
                grid,
                numbers: vec![SeqNum(0); parts],
                present: vec![false; parts],
                missing: key.total,
                kind,
                msg_type: fragment.msg_type,
                expires: now + life,
                progress: now,
            },
        );
        Ok(())
    }

    fn finish(&mut self, key: Key) -> Option<Rebuilt> {
        let mut assembly = self.assemblies.remove(&key)?;
        self.bytes -= cost(key.original_len, key.total);
        let fields = frame::data::HeaderFields {
            kind: assembly.kind,
            msg_type: assembly.msg_type,
            id: &key.id,
            hash_key: key.hash_key,
            seq_num: *assembly.numbers.first()?,
            second_id: &key.second_id,
            payload_len: key.original_len,
        };
        frame::data::encode_header(&fields, &mut assembly.buffer)?;
        let parts = Parts { numbers: assembly.numbers, hash_key: key.hash_key, key };
        Some(Rebuilt { frame: assembly.buffer, parts })
    }

    fn abandon(&mut self, key: Key, counts: &mut Counts) {
        if self.assemblies.remove(&key).is_some() {
            self.bytes -= cost(key.original_len, key.total);
            counts.reassembly_abandoned += 1;
            counts.lost.lose(Loss::Reassembly, ledger::Loss::numbers(key.hash_key.0, 0, 0));
        }
    }
}

/// Length of every fragment but the last, from any one of them; `None` if no grid has this fragment.
fn grid(fragment: &Fragment<'_>) -> Option<usize> {
    let (len, total) = (fragment.original_len as usize, usize::from(fragment.total));
    let data = fragment.data.len();
    if total == 1 {
        return (data == len).then_some(len);
    }
    let others = total - 1;
    let grid = if usize::from(fragment.index) < others {
        data
    } else {
        let rest = len.checked_sub(data)?;
        (rest % others == 0).then_some(rest / others)?
    };
    let last = len.checked_sub(grid.checked_mul(others)?)?;
    (grid > 0 && last >= 1 && last <= grid).then_some(grid)
}

impl Assembly {
    /// Whether the fragment's number fits the order of those that are here; one without a number always does.
    fn may_hold(&self, fragment: &Fragment<'_>) -> bool {
        let (index, number) = (usize::from(fragment.index), fragment.seq_num);
        if number.0 == 0 || index >= self.present.len() {
            return true;
        }
        if self.present[index] {
            return self.numbers[index] == number;
        }
        let first = index.saturating_sub(NEIGHBOURS);
        let last = self.present.len().min(index + 1 + NEIGHBOURS);
        let before = (first..index).rev().find(|&at| self.present[at]);
        let after = (index + 1..last).find(|&at| self.present[at]);
        before.is_none_or(|at| self.numbers[at] < number) && after.is_none_or(|at| number < self.numbers[at])
    }

    fn write(&mut self, now: Instant, fragment: &Fragment<'_>) -> Result<(), DropReason> {
        let index = usize::from(fragment.index);
        if grid(fragment) != Some(self.grid) {
            return Err(DropReason::FragmentGrid);
        }
        let present = self.present.get_mut(index).ok_or(DropReason::FragmentGrid)?;
        if *present {
            return Err(DropReason::DuplicateFragment);
        }
        let at = frame::data::HEADER + index * self.grid;
        let place = self.buffer.get_mut(at..at + fragment.data.len()).ok_or(DropReason::FragmentGrid)?;
        place.copy_from_slice(fragment.data);
        *present = true;
        if let Some(number) = self.numbers.get_mut(index) {
            *number = fragment.seq_num;
        }
        self.missing -= 1;
        self.progress = now;
        Ok(())
    }
}
