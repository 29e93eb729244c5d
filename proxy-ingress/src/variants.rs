//! How many variants of one id are let in: the bound on what others may write around an id.
//!
//! A frame with bytes that its id does not prove is claimed with its variant too, so that forged bytes suppress nobody's. Then
//! whoever forges could have one id carried as often as he likes. So a proxy lets in at most `--variants` of one id from one
//! source prefix (/64 of IPv6, /24 of IPv4), and [`PER_ID`] in all. A variant counts once, for the prefix that it came from
//! first; its repeats are copies.
//!
//! What lies beyond is not lost: a transaction leaves once in its standard form, whose bytes the id proves. Other frames are
//! claimed by their id alone.
//!
//! Limits: [`ENTRIES`] variants, 2 MiB, taken at start; shared by the workers. They lie in buckets of `BUCKET`, which a secret
//! seed chooses, and the oldest of a bucket makes room. An id whose variants have left is counted from none again: that costs
//! whoever wants it as many frames as the table has room for, and gains him [`PER_ID`].
//!
//! Cost: nothing for frames whose id proves all their bytes. For others one lock, and a look through one bucket.

use frame::Id;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use txidset::ClaimKey;

/// Variants that are remembered.
pub const ENTRIES: usize = 1 << 16;
/// Variants of one id, from whatever sources.
pub const PER_ID: usize = 16;
/// Entries that an id shares with a few others.
const BUCKET: usize = 32;
/// Buckets under one lock.
const TOGETHER: usize = 32;
const SHARDS: usize = ENTRIES / BUCKET / TOGETHER;

service::reasons! {
    /// What became of a frame with more variants of its id than are let in.
    pub enum Limited {
        /// A transaction, more than `--variants` from its source prefix: in standard form.
        keeps CutSource = "cut_source",
        /// A transaction, more than 16 of its id: in standard form.
        keeps CutId = "cut_id",
        /// Another frame, more than `--variants` from its source prefix: claimed by its id alone.
        keeps RefusedSource = "refused_source",
        /// Another frame, more than 16 of its id: claimed by its id alone.
        keeps RefusedId = "refused_id",
    }
}

impl Limited {
    /// `by_source`: rather than by its id. `cut`: it has a standard form, in which it leaves.
    pub(crate) fn of(by_source: bool, cut: bool) -> Limited {
        match (by_source, cut) {
            (true, true) => Limited::CutSource,
            (false, true) => Limited::CutId,
            (true, false) => Limited::RefusedSource,
            (false, false) => Limited::RefusedId,
        }
    }

    /// What `oncecast where` says of such a frame, by [`Limited::index`].
    pub const DID: [&str; Limited::ALL.len()] = [
        "cut to its standard form (its source brought --variants of this id before)",
        "cut to its standard form (16 variants of this id came before)",
        "claimed by its id alone (its source brought --variants of this id before)",
        "claimed by its id alone (16 variants of this id came before)",
    ];
}

/// Whether a variant is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// It is, or was before.
    Granted,
    /// Its source prefix has brought as many of this id as it may.
    SourceFull,
    /// The id has as many as it may.
    IdFull,
}

/// See the module text.
#[derive(Debug)]
pub struct Variants {
    per_source: usize,
    horizon: Duration,
    began: Instant,
    seed: u64,
    shards: Box<[Mutex<Box<[Entry]>>]>,
}

/// A variant; `seconds` is zero where there is none.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    id: u64,
    variant: u64,
    source: u64,
    /// Since one second before the start.
    seconds: u32,
}

impl Variants {
    /// `per_source`: of one id from one source prefix. They are forgotten with the claims, after `horizon`. `seed` must be
    /// unpredictable to senders.
    pub fn new(per_source: usize, horizon: Duration, seed: u64, now: Instant) -> Variants {
        let shard = || Mutex::new(vec![Entry::default(); BUCKET * TOGETHER].into_boxed_slice());
        Variants { per_source, horizon, began: now, seed, shards: (0..SHARDS).map(|_| shard()).collect() }
    }

    /// A frame of `key` from `source` has the bytes that `variant` names.
    pub fn admit(&self, now: Instant, key: &ClaimKey, variant: &Id, source: IpAddr) -> Room {
        let seconds = self.seconds(now);
        let id = self.mix(first(&key.id) ^ key.class.index() as u64);
        let entry = Entry { id, variant: first(variant), source: prefix(source), seconds };
        #[allow(clippy::cast_possible_truncation, reason = "the top bits, fewer than there are buckets")]
        let bucket = (id >> 32) as usize % (SHARDS * TOGETHER);
        let mut shard = self.shards[bucket / TOGETHER].lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = &mut shard[bucket % TOGETHER * BUCKET..][..BUCKET];
        let oldest = seconds.saturating_sub(u32::try_from(self.horizon.as_secs()).unwrap_or(u32::MAX));
        self.judge(bucket, entry, oldest)
    }

    fn judge(&self, bucket: &mut [Entry], new: Entry, oldest: u32) -> Room {
        let (mut of_id, mut of_source) = (0, 0);
        for entry in bucket.iter().filter(|entry| entry.id == new.id && entry.seconds > oldest) {
            if entry.variant == new.variant {
                return Room::Granted;
            }
            of_id += 1;
            of_source += usize::from(entry.source == new.source);
        }
        if of_source >= self.per_source {
            return Room::SourceFull;
        }
        if of_id >= PER_ID {
            return Room::IdFull;
        }
        if let Some(place) = bucket.iter_mut().min_by_key(|entry| entry.seconds) {
            *place = new;
        }
        Room::Granted
    }

    fn seconds(&self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(self.began).as_secs();
        u32::try_from(since).unwrap_or(u32::MAX - 1) + 1
    }

    /// Spreads chosen ids; nobody outside knows where to.
    fn mix(&self, id: u64) -> u64 {
        let mut hash = (id ^ self.seed).wrapping_mul(0x9FB2_1C65_1E98_DF25);
        hash = (hash ^ hash >> 32 ^ self.seed.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        hash ^ hash >> 29
    }
}

fn first(id: &Id) -> u64 {
    id.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// The network that a source belongs to: /64, or /24 with a first byte that no source of IPv6 has.
fn prefix(source: IpAddr) -> u64 {
    match source.to_canonical() {
        IpAddr::V6(address) => address.octets().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)),
        IpAddr::V4(address) => 0xFF00_0000_0000_0000 | u64::from(address.to_bits() >> 8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use txidset::Class;

    fn table(per_source: usize, now: Instant) -> Variants {
        Variants::new(per_source, Duration::from_secs(600), 7, now)
    }

    fn key(n: u8) -> ClaimKey {
        ClaimKey { class: Class::Tx, id: [n; 32] }
    }

    fn source(n: u8) -> IpAddr {
        IpAddr::from([0x2001, 0xDB8, 0, n.into(), 0, 0, 0, 1])
    }

    #[test]
    fn one_source_fills_its_own_share_and_nobody_elses() {
        let now = Instant::now();
        let table = table(4, now);
        for n in 0..16 {
            let expected = if n < 4 { Room::Granted } else { Room::SourceFull };
            assert_eq!(table.admit(now, &key(1), &[n; 32], source(0)), expected);
        }
        let neighbour = IpAddr::from([0x2001, 0xDB8, 0, 0, 9, 9, 9, 9]);
        assert_eq!(table.admit(now, &key(1), &[99; 32], neighbour), Room::SourceFull, "the same /64");
        assert_eq!(table.admit(now, &key(1), &[99; 32], source(1)), Room::Granted);
        assert_eq!(table.admit(now, &key(1), &[99; 32], source(0)), Room::Granted, "a copy of what is known");
    }

    #[test]
    fn one_id_has_sixteen_and_others_have_theirs() {
        let now = Instant::now();
        let table = table(4, now);
        for n in 0..100 {
            let expected = if n < 16 { Room::Granted } else { Room::IdFull };
            assert_eq!(table.admit(now, &key(1), &[n; 32], source(n)), expected);
        }
        assert_eq!(table.admit(now, &key(2), &[0; 32], source(0)), Room::Granted);
        let anchor = ClaimKey { class: Class::Anchor, ..key(1) };
        assert_eq!(table.admit(now, &anchor, &[200; 32], source(0)), Room::Granted);
        let later = now + Duration::from_secs(601);
        assert_eq!(table.admit(later, &key(1), &[200; 32], source(200)), Room::Granted);
    }

    #[test]
    fn addresses_of_ipv4_count_by_their_first_three_bytes() {
        let of = |text: &str| prefix(text.parse().unwrap());
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.200"));
        assert_ne!(of("192.0.2.1"), of("192.0.3.1"));
        assert_ne!(of("0.0.0.1"), of("::1"));
    }

    #[test]
    fn a_flood_of_other_ids_takes_no_more_memory() {
        let now = Instant::now();
        let table = table(4, now);
        for n in 0..200_000_u64 {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_be_bytes());
            let key = ClaimKey { class: Class::Tx, id };
            assert_eq!(table.admit(now, &key, &[1; 32], source(0)), Room::Granted);
        }
        assert_eq!(table.shards.iter().map(|shard| shard.lock().unwrap().len()).sum::<usize>(), ENTRIES);
        assert!(size_of::<Entry>() * ENTRIES == 2 << 20);
    }
}
