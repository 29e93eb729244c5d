//! How long frames wait for an answer, and under which cause a longer wait is counted.

use super::*;
use crate::key::Class;

const TIMEOUT: Duration = Duration::from_millis(50);

fn claims(now: Instant, max_batch: usize) -> Claims {
    let config = ClaimsConfig { tier2: true, answer_timeout: TIMEOUT, max_batch, ..ClaimsConfig::default() };
    Claims::new(config, Arc::new(LocalSet::starting_at(4096, Duration::from_secs(60), 1, now)), 1)
}

fn claim(claims: &mut Claims, now: Instant, ids: std::ops::Range<u8>) {
    let batch: Vec<_> = ids.map(|n| (ClaimKey { class: Class::Tx, id: [n; 32] }, n.into(), 100)).collect();
    let mut verdicts = Vec::new();
    claims.claim(now, &batch, &mut verdicts);
    assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Wait));
}

fn requests(claims: &mut Claims, now: Instant) -> Vec<Request> {
    claims.give_up(now);
    claims.on_timeout(now);
    std::iter::from_fn(|| claims.poll_request(now)).collect()
}

fn one_request(claims: &mut Claims, now: Instant, n: u8) -> Vec<Request> {
    claim(claims, now, n..n + 1);
    requests(claims, now)
}

fn decided(claims: &mut Claims) -> Vec<(u64, Why)> {
    let decisions = std::iter::from_fn(|| claims.next_decision());
    let decided = decisions.map(|decision| match decision {
        Decision::Send { token, why, .. } | Decision::Suppress { token, why } => (token, why),
    });
    decided.collect()
}

#[test]
fn no_frame_waits_longer_than_it_may_behind_requests_that_nobody_answers() {
    let now = Instant::now();
    let mut claims = claims(now, 8);
    let asked: Vec<Request> = (0..4).flat_map(|n| one_request(&mut claims, now, n)).collect();
    assert!(asked.iter().all(|request| request.until == Some(now + TIMEOUT)));
    claim(&mut claims, now + 10 * MS, 4..6);
    assert!(requests(&mut claims, now + 10 * MS).is_empty(), "four requests are under way");
    assert!(claims.next_timeout().is_some_and(|at| at <= now + 35 * MS));
    assert!(requests(&mut claims, now + 35 * MS).is_empty());
    assert_eq!(decided(&mut claims), [(4, Why::Bypassed), (5, Why::Bypassed)], "no time left for an answer");
    claim(&mut claims, now + 45 * MS, 6..7);
    assert!(requests(&mut claims, now + TIMEOUT).is_empty(), "their places are taken until they end");
    let mut four = decided(&mut claims);
    four.sort_unstable_by_key(|(token, _)| *token);
    assert_eq!(four, [0, 1, 2, 3].map(|token| (token, Why::InDoubt)));
    for request in asked {
        claims.on_failure(now + TIMEOUT, request.id, OpErrorKind::Timeout);
    }
    let next = requests(&mut claims, now + TIMEOUT);
    assert_eq!(next[0].until, Some(now + 45 * MS + TIMEOUT));
    let stats = claims.stats();
    assert_eq!((stats.overdue.value(), stats.late.value()), (0, 0));
    assert_eq!(stats.longest_wait.value(), 50_000);
}

#[test]
fn a_worker_that_comes_late_is_counted_as_that_and_not_as_a_fault() {
    let now = Instant::now();
    let mut claims = claims(now, 8);
    claim(&mut claims, now, 0..3);
    let asked = requests(&mut claims, now);
    let answer = Answer::Claimed(vec![Ok(cache_backend::Claimed::Created); 3]);
    assert_eq!(claims.on_answer(now + 70 * MS, asked[0].id, answer), Trust::Kept);
    let stats = claims.stats();
    assert_eq!((stats.overdue.value(), stats.late.value()), (0, 3), "no turn since their time was up");
    assert_eq!(stats.by(Why::Won).value(), 3, "an answer that is there counts");
}

#[test]
fn a_queue_that_grows_old_asks_its_sources_to_pause() {
    let now = Instant::now();
    let mut claims = claims(now, 8);
    (0..4).for_each(|n| drop(one_request(&mut claims, now, n)));
    claim(&mut claims, now, 4..6);
    requests(&mut claims, now + 12 * MS);
    assert!(!claims.is_behind());
    requests(&mut claims, now + 13 * MS);
    assert!(claims.is_behind());
    requests(&mut claims, now + 25 * MS);
    assert!(!claims.is_behind(), "they were let go");
}
