//! Model of the shared store: a map with expiry, eviction, and a failover that forgets the latest writes.

use crate::random::Random;
use bytes::Bytes;
use cache_backend::{Claimed, KeyValues};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use txidset::value::{Found, Record, encode_end_notice};
use txidset::{Answer, Ask, CourtesyMark};

/// Writes older than this are on every replica.
const REPLICATION_LAG: u64 = 60_000;

#[derive(Default)]
pub(crate) struct Store {
    map: BTreeMap<Vec<u8>, Stored>,
    /// What each recent write replaced.
    undo: VecDeque<(u64, Vec<u8>, Option<Stored>)>,
    down_until: u64,
}

#[derive(Clone)]
struct Stored {
    value: Bytes,
    expires: u64,
}

/// What an operation changed, for the checks.
pub(crate) enum Change {
    Claimed { owner: u64, epoch: u32, id: [u8; 8] },
    Recorded(Record),
}

impl Store {
    /// It carries out nothing now.
    pub(crate) fn is_down(&self, now: u64) -> bool {
        self.down_until > now
    }

    /// Carries out a request; tells what it changed.
    pub(crate) fn execute(&mut self, now: u64, ask: &Ask, mut changed: impl FnMut(Change)) -> Answer {
        match ask {
            Ask::Claim { batch, ttl } => {
                let one = |(key, value): (&[u8], &[u8])| {
                    if let Some(found) = self.get(now, key) {
                        return Ok(Claimed::Exists(found));
                    }
                    self.put(now, key, Some(value), *ttl);
                    if let Found::Claim(claim) = Found::parse(value) {
                        let (owner, epoch) = (claim.owner, claim.epoch);
                        changed(Change::Claimed { owner, epoch, id: claim.id });
                    }
                    Ok(Claimed::Created)
                };
                Answer::Claimed(batch.iter().map(one).collect())
            }
            Ask::Read { keys } => Answer::Read(keys.iter().map(|(key, _)| Ok(self.get(now, key))).collect()),
            Ask::Write { batch, ttl } => {
                for (key, value) in batch.iter() {
                    self.put(now, key, Some(value), *ttl);
                    Record::parse(value).into_iter().for_each(|record| changed(Change::Recorded(record)));
                }
                Answer::Written(vec![Ok(()); batch.len()])
            }
            Ask::Release { keys } => Answer::Released(self.delete(now, keys)),
        }
    }

    /// A Go node's claim.
    pub(crate) fn put_plain(&mut self, now: u64, key: &[u8], ttl: Duration) {
        self.put(now, key, Some(b"1"), ttl);
    }

    /// A listener's courtesy mark: create-only.
    pub(crate) fn put_mark(&mut self, now: u64, key: &[u8], mark: &CourtesyMark, ttl: Duration) {
        if self.get(now, key).is_none() {
            self.put(now, key, Some(&mark.encode()), ttl);
        }
    }

    /// The process of an owner has ended, says its successor.
    pub(crate) fn put_ended(&mut self, now: u64, key: &[u8], owner: u64, ttl: Duration) {
        self.put(now, key, Some(&encode_end_notice(owner)), ttl);
    }

    /// Some keys leave for want of memory.
    pub(crate) fn evict(&mut self, random: &mut Random) {
        self.map.retain(|_, _| !random.percent(25));
    }

    /// The replica that takes over at `until` has not seen the latest writes. Returns the keys whose deletion came undone,
    /// with the first bytes of their ids.
    pub(crate) fn fail_over(&mut self, now: u64, until: u64, random: &mut Random) -> Vec<(Vec<u8>, [u8; 8])> {
        self.down_until = until;
        let back_to = now.saturating_sub(random.between(1_000, REPLICATION_LAG));
        let mut unreleased = Vec::new();
        while self.undo.back().is_some_and(|&(at, ..)| at >= back_to) {
            let Some((_, key, before)) = self.undo.pop_back() else { break };
            match before {
                Some(before) => {
                    if !self.map.contains_key(&key)
                        && let Found::Claim(claim) = Found::parse(&before.value)
                    {
                        unreleased.push((key.clone(), claim.id));
                    }
                    self.map.insert(key, before);
                }
                None => drop(self.map.remove(&key)),
            }
        }
        unreleased
    }

    pub(crate) fn get(&self, now: u64, key: &[u8]) -> Option<Bytes> {
        self.map.get(key).filter(|stored| stored.expires > now).map(|stored| stored.value.clone())
    }

    fn delete(&mut self, now: u64, keys: &KeyValues) -> Vec<Result<bool, cache_backend::OpError>> {
        keys.iter()
            .map(|(key, _)| {
                let was_there = self.get(now, key).is_some();
                self.put(now, key, None, Duration::ZERO);
                Ok(was_there)
            })
            .collect()
    }

    fn put(&mut self, now: u64, key: &[u8], value: Option<&[u8]>, ttl: Duration) {
        while self.undo.front().is_some_and(|&(at, ..)| at + REPLICATION_LAG < now) {
            self.undo.pop_front();
        }
        let ttl = u64::try_from(ttl.as_micros()).unwrap_or(u64::MAX / 2);
        let expires = if ttl == 0 { u64::MAX } else { now + ttl };
        let before = match value {
            Some(value) => {
                let value = Bytes::copy_from_slice(value);
                self.map.insert(key.to_vec(), Stored { value, expires })
            }
            None => self.map.remove(key),
        };
        self.undo.push_back((now, key.to_vec(), before));
    }
}

/// First bytes of the ids that a request claims.
pub(crate) fn claimed_ids(ask: &Ask) -> Vec<[u8; 8]> {
    let Ask::Claim { batch, .. } = ask else { return Vec::new() };
    let id = |(_, value): (&[u8], &[u8])| match Found::parse(value) {
        Found::Claim(claim) => Some(claim.id),
        Found::Plain | Found::Marked(_) | Found::Unknown => None,
    };
    batch.iter().filter_map(id).collect()
}
