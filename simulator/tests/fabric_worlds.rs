//! Whole nodes keep their promises under faults, and the simulator would notice if they did not.

use simulator::fabric::{Mutation, Options, Summary, run};
use simulator::hunt::{Totals, hunt};

/// Worlds of the short form.
const SHORT: u64 = 300;
/// Worlds of the long form.
const LONG: u64 = 100_000;
/// A planted fault must be found in so many.
const MUTANT: u64 = 10_000;

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn worlds(seeds: std::ops::Range<u64>, options: Options) -> Summary {
    let hunt = hunt(seeds, threads(), |seed| run(seed, &options));
    if let Some(violation) = hunt.violation {
        panic!("{violation}");
    }
    hunt.summary
}

#[test]
fn worlds_with_three_faults_lose_nothing_and_send_twice_only_what_a_fault_explains() {
    let summary = worlds(0..SHORT, Options::default());
    assert!(summary.delivered > 0 && summary.repaired > 0);
    assert!(summary.counted() >= SHORT * 9 / 10);
}

#[test]
fn worlds_with_many_faults_keep_the_same_promises() {
    worlds(0..SHORT / 3, Options { faults: 8, ..Options::default() });
}

#[test]
fn worlds_without_faults_send_and_deliver_every_id() {
    let summary = worlds(0..SHORT / 3, Options { faults: 0, ..Options::default() });
    assert_eq!((summary.unserved, summary.unheard, summary.counted()), (0, 0, 0));
    assert!(summary.delivered >= summary.sent);
}

#[test]
fn a_seed_replays_the_same_world() {
    let once = |seed| run(seed, &Options::default()).map(|summary| summary.events).ok();
    assert!((0..30).all(|seed| once(seed) == once(seed)));
}

/// The number of the first world that shows a planted fault.
fn found(mutation: Mutation, most: u64) -> Option<u64> {
    let options = Options { mutation: Some(mutation), ..Options::default() };
    hunt(0..most, threads(), |seed| run(seed, &options)).violation.map(|violation| violation.seed)
}

#[test]
fn most_planted_faults_are_found_at_once() {
    let found = Mutation::all().into_iter().filter(|&mutation| found(mutation, 150).is_some()).count();
    assert!(found >= 12, "{found}");
}

#[test]
#[ignore = "long: make soak"]
fn every_planted_fault_is_found() {
    for mutation in Mutation::all() {
        assert!(found(mutation, MUTANT).is_some(), "{mutation} was not found in {MUTANT} worlds");
    }
}

#[test]
#[ignore = "long: make soak"]
fn many_worlds_lose_nothing() {
    worlds(0..LONG, Options::default());
}

#[test]
fn a_violation_names_the_command_that_replays_it() {
    let mutation = Mutation::Egress(listener_egress::mutation::Mutation::SettledBeforeAcknowledged);
    let options = Options { mutation: Some(mutation), ..Options::default() };
    let violation = (0..100).find_map(|seed| run(seed, &options).err()).unwrap();
    let text = violation.to_string();
    assert!(text.contains(&format!("--example fabric -- --seed {} ", violation.seed)), "{text}");
    assert!(text.contains(&format!("--mutant {mutation}")), "{text}");
}
