//! What the set promises, against a clock that the test moves.

use super::*;
use proptest::prelude::*;
use std::collections::{HashMap, VecDeque};

const HORIZON: Duration = Duration::from_secs(60);

struct World {
    set: LocalSet,
    start: Instant,
}

impl World {
    fn new(capacity: usize) -> World {
        let start = Instant::now();
        World { set: LocalSet::starting_at(capacity, HORIZON, 7, start), start }
    }
    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }
    fn insert(&self, seconds: u64, keys: &[ClaimKey]) -> Vec<bool> {
        let mut new = Vec::new();
        self.set.insert_batch(keys, self.at(seconds), &mut new);
        new
    }
}

fn id(n: u64) -> [u8; 32] {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&n.to_le_bytes());
    id
}

fn tx(n: u64) -> ClaimKey {
    ClaimKey { class: Class::Tx, id: id(n) }
}

#[test]
fn a_repeat_is_seen_until_the_horizon_of_its_first_sight() {
    let world = World::new(1000);
    assert_eq!(world.insert(0, &[tx(1), tx(2), tx(1)]), [true, true, false]);
    assert_eq!(world.insert(30, &[tx(1)]), [false]);
    assert_eq!(world.insert(59, &[tx(1)]), [false]);
    assert_eq!(world.insert(60, &[tx(1)]), [true], "a repeat must not push the expiry forward");
    assert_eq!(world.insert(61, &[tx(1)]), [false]);
}

#[test]
fn classes_and_kinds_are_different_keys() {
    let world = World::new(1000);
    let classes =
        [Class::Tx, Class::Anchor, Class::Block(1), Class::Block(2), Class::Subtree(1), Class::Object(0)];
    let keys = classes.map(|class| ClaimKey { class, id: id(9) });
    assert_eq!(world.insert(0, &keys), [true; 6]);
    assert_eq!(world.insert(0, &keys), [false; 6]);
}

#[test]
fn what_was_removed_is_new_again() {
    let world = World::new(1000);
    world.insert(0, &[tx(1), tx(2)]);
    world.set.remove(&tx(1));
    assert!(!world.set.contains(&tx(1), world.at(1)));
    assert_eq!(world.insert(1, &[tx(1), tx(2)]), [true, false]);
    // The first place of tx 1 leaves the ring without taking the new entry with it.
    assert_eq!(world.insert(60, &[tx(2), tx(1)]), [true, false]);
}

#[test]
fn the_oldest_leaves_when_room_is_needed() {
    let world = World::new(200_000);
    let budget = world.set.occupancy()[0].capacity;
    let keys: Vec<_> = (0..2 * budget as u64).map(tx).collect();
    for (second, part) in keys.chunks(keys.len() / 20 + 1).enumerate() {
        world.insert(second as u64, part);
    }
    let now = world.at(20);
    let newest = &keys[keys.len() - budget * 97 / 100..];
    let lost = newest.iter().filter(|key| !world.set.contains(key, now)).count();
    assert_eq!(lost, 0, "newest entries were evicted");
    assert!(world.set.evicted_early() >= budget as u64 * 9 / 10);
    let held = world.set.effective_horizon(now).as_secs();
    assert!((8..=11).contains(&held), "{held} s");
}

#[test]
fn a_set_that_is_not_full_evicts_nothing() {
    let world = World::new(200_000);
    let keys: Vec<_> = (0..world.set.occupancy()[0].capacity as u64).map(tx).collect();
    assert!(world.insert(0, &keys).iter().all(|&new| new));
    assert!(world.insert(59, &keys).iter().all(|&new| !new));
    assert_eq!(world.set.evicted_early(), 0);
    assert_eq!(world.set.effective_horizon(world.at(59)), HORIZON);
}

#[test]
fn a_flood_in_one_class_evicts_nothing_of_another() {
    let world = World::new(10_000);
    world.insert(0, &[tx(1)]);
    let flood: Vec<_> = (0..50_000).map(|n| ClaimKey { class: Class::Object(1), id: id(n) }).collect();
    world.insert(1, &flood);
    assert_eq!(world.insert(2, &[tx(1)]), [false]);
}

#[test]
fn entries_that_lay_idle_for_weeks_are_expired() {
    let world = World::new(1000);
    world.insert(0, &[tx(1)]);
    // 2^32 ms later the clock of the entry shows the same time.
    assert_eq!(world.insert((1 << 32) / 1000, &[tx(1)]), [true]);
}

#[test]
fn an_entry_costs_at_most_48_bytes() {
    for capacity in [1 << 16, 1 << 20, (1 << 20) + 77] {
        let set = LocalSet::new(capacity, HORIZON, 1);
        assert!(set.memory() <= capacity * BYTES_PER_ENTRY, "{} for {capacity}", set.memory());
    }
}

#[test]
fn workers_that_race_for_an_id_get_one_winner() {
    let world = World::new(100_000);
    let keys: Vec<_> = (0..20_000).map(tx).collect();
    let wins: usize = std::thread::scope(|scope| {
        let race = || keys.chunks(32).flat_map(|batch| world.insert(0, batch)).filter(|&new| new).count();
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(race)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert_eq!(wins, keys.len());
}

#[test]
fn a_start_that_does_not_fit_its_horizon_says_so() {
    let warning = LocalSet::sizing_warning(1 << 20, Duration::from_secs(600), 100_000).unwrap();
    assert!(warning.contains("9.1 s at 100000/s"), "{warning}");
    assert!(warning.contains("--dedup-memory"), "{warning}");
    assert_eq!(LocalSet::sizing_warning(1 << 20, Duration::from_secs(600), 1500), None);
}

#[test]
fn a_set_that_forgets_ids_before_their_time_says_what_would_hold_them() {
    let world = World::new(200_000);
    let budget = world.set.occupancy()[0].capacity as u64;
    for second in 0..30 {
        let keys: Vec<_> = (0..budget / 10).map(|n| tx(second * budget + n)).collect();
        world.insert(second, &keys);
    }
    let warning = world.set.shortfall(world.at(30)).unwrap();
    assert!(warning.contains("but the horizon is 60 s"), "{warning}");
    assert!(warning.contains("--txid-dedup-local-cap=1"), "six times as much: {warning}");
    let later = World::new(200_000);
    later.insert(0, &[tx(1)]);
    assert_eq!(later.set.shortfall(later.at(1)), None);
}

proptest! {
    /// Against a plain map: whatever the order of insertions, removals and pauses.
    #[test]
    fn it_agrees_with_a_map(steps in proptest::collection::vec((0u64..60, 0u8..10, 0u64..8), 1..400)) {
        let world = World::new(4000);
        let mut model: HashMap<u64, u64> = HashMap::new();
        let mut now = 0;
        for (n, what, pause) in steps {
            now += if pause == 0 { 9 } else { 0 };
            if what == 0 {
                world.set.remove(&tx(n));
                model.remove(&n);
                continue;
            }
            let fresh = model.get(&n).is_none_or(|&first| now - first >= 60);
            if fresh {
                model.insert(n, now);
            }
            prop_assert_eq!(world.insert(now, &[tx(n)]), [fresh]);
        }
    }

    /// A set that is always full is a queue: what leaves is the oldest, and what was forgotten makes room at the tail.
    #[test]
    fn a_full_set_agrees_with_a_queue(steps in proptest::collection::vec((1u64..100, 0u8..8), 1..2000)) {
        let world = World::new(1);
        let room = world.set.occupancy()[0].capacity;
        let mut queue: VecDeque<Option<u64>> = VecDeque::new();
        for (n, what) in steps {
            let at = queue.iter().position(|&held| held == Some(n));
            if what == 0 {
                world.set.remove(&tx(n));
                at.into_iter().for_each(|at| queue[at] = None);
                continue;
            }
            prop_assert_eq!(world.insert(0, &[tx(n)]), [at.is_none()]);
            // Each insertion first clears up to two forgotten positions from the tail.
            for _ in 0..2 {
                if queue.front() == Some(&None) {
                    queue.pop_front();
                }
            }
            if at.is_none() {
                queue.push_back(Some(n));
                if queue.len() > room {
                    queue.pop_front();
                }
            }
            prop_assert_eq!(world.set.len(), queue.iter().flatten().count());
        }
    }
}
