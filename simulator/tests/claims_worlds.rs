//! The claim protocol keeps its promises under faults, and the simulator would notice if it did not.

use simulator::claims::{Mutation, Options, run};
use simulator::hunt::hunt;

#[test]
fn worlds_with_three_faults_lose_nothing() {
    for seed in 0..3_000 {
        if let Err(violation) = run(seed, &Options::default()) {
            panic!("{violation}");
        }
    }
}

#[test]
fn worlds_with_many_faults_lose_nothing() {
    let options = Options { faults: 8, ..Options::default() };
    for seed in 0..1_000 {
        if let Err(violation) = run(seed, &options) {
            panic!("{violation}");
        }
    }
}

#[test]
fn worlds_without_faults_send_every_id_once() {
    let options = Options { faults: 0, ..Options::default() };
    for seed in 0..300 {
        match run(seed, &options) {
            // Bounds may still be reached.
            Ok(summary) => assert!(summary.emitted > 0),
            Err(violation) => panic!("{violation}"),
        }
    }
}

#[test]
fn a_seed_replays_the_same_world() {
    let once = |seed| run(seed, &Options::default()).map(|summary| summary.events).ok();
    assert!((0..50).all(|seed| once(seed) == once(seed)));
}

#[test]
fn every_planted_fault_is_found() {
    for mutation in Mutation::ALL {
        let options = Options { mutation: Some(mutation), ..Options::default() };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let found = hunt(0..10_000, threads, |seed| run(seed, &options)).violation;
        assert!(found.is_some(), "{mutation:?} was not found in 10,000 seeds");
    }
}

#[test]
fn a_violation_names_the_command_that_replays_it() {
    let options = Options { mutation: Some(Mutation::SettledTooEarly), ..Options::default() };
    let violation = (0..100).find_map(|seed| run(seed, &options).err()).unwrap();
    let text = violation.to_string();
    assert!(text.contains(&format!("--seed {} ", violation.seed)), "{text}");
    assert!(text.contains("--mutant SettledTooEarly"), "{text}");
}
