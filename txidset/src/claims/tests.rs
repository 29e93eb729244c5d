//! Two workers, one store, and a clock that the test moves.

mod answer_timeout;
mod variants;

use super::*;
use crate::key::Class;
use crate::name::KeyStyle;
use cache_backend::Memory;
use std::collections::BTreeMap;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

/// A store whose answers the test can withhold.
struct World {
    now: Instant,
    memory: Memory,
    workers: Vec<Claims>,
    sent: BTreeMap<(usize, Token), (Ticket, Why)>,
    suppressed: BTreeMap<(usize, Token), Why>,
}

impl World {
    fn new(workers: usize, change: impl Fn(&mut ClaimsConfig)) -> World {
        let now = Instant::now();
        let make = |i: usize| {
            let mut config = ClaimsConfig { tier2: true, ..ClaimsConfig::default() };
            change(&mut config);
            let local = LocalSet::starting_at(4096, Duration::from_secs(60), i as u64, now);
            Claims::new(config, Arc::new(local), 1000 + i as u64)
        };
        World {
            now,
            memory: Memory::new(1 << 22),
            workers: (0..workers).map(make).collect(),
            sent: BTreeMap::new(),
            suppressed: BTreeMap::new(),
        }
    }

    fn claim(&mut self, worker: usize, n: u8) -> Verdict {
        let mut out = Vec::new();
        self.workers[worker].claim(self.now, &[(key(n), n.into(), 100)], &mut out);
        out[0]
    }

    /// Carries out what a worker asks for.
    fn pump(&mut self, worker: usize) {
        let now = self.now;
        self.workers[worker].on_timeout(now);
        while let Some(request) = self.workers[worker].poll_request(now) {
            let answer = self.carry_out(request.ask);
            assert_eq!(self.workers[worker].on_answer(now, request.id, answer), Trust::Kept);
        }
        self.collect(worker);
    }

    fn carry_out(&self, ask: Ask) -> Answer {
        match ask {
            Ask::Claim { batch, ttl } => {
                let mut answers = Vec::new();
                self.memory.claim(&batch, ttl, self.now, &mut answers);
                Answer::Claimed(answers.into_iter().map(Ok).collect())
            }
            Ask::Read { keys } => {
                Answer::Read(keys.iter().map(|(key, _)| Ok(self.memory.get(key, self.now))).collect())
            }
            Ask::Write { batch, ttl } => {
                self.memory.set(&batch, ttl, self.now);
                Answer::Written(vec![Ok(())])
            }
            Ask::Release { keys } => {
                Answer::Released(keys.iter().map(|(key, _)| Ok(self.memory.del(key))).collect())
            }
        }
    }

    fn collect(&mut self, worker: usize) {
        while let Some(decision) = self.workers[worker].next_decision() {
            match decision {
                Decision::Send { token, ticket, why } => {
                    self.sent.insert((worker, token), (ticket, why));
                }
                Decision::Suppress { token, why } => {
                    self.suppressed.insert((worker, token), why);
                }
            }
        }
    }

    /// Every store request of this worker fails from now on, until its queue is empty.
    fn fail(&mut self, worker: usize, kind: OpErrorKind) {
        let now = self.now;
        while let Some(request) = self.workers[worker].poll_request(now) {
            self.workers[worker].on_failure(now, request.id, kind);
        }
        self.collect(worker);
    }

    /// Time passes in steps of 10 ms in which these workers run.
    fn run(&mut self, workers: &[usize], millis: u32) {
        for _ in 0..millis.div_ceil(10) {
            self.now += 10 * MS;
            for &worker in workers {
                self.pump(worker);
            }
        }
    }

    fn hand_over(&mut self, worker: usize, n: u8) {
        let (ticket, _) = self.sent[&(worker, n.into())];
        self.workers[worker].sent(self.now, ticket);
    }

    fn refuse(&mut self, worker: usize, n: u8) {
        let (ticket, _) = self.sent[&(worker, n.into())];
        self.workers[worker].failed(self.now, ticket);
    }

    fn why_sent(&self, worker: usize, n: u8) -> Option<Why> {
        self.sent.get(&(worker, n.into())).map(|&(_, why)| why)
    }

    fn why_suppressed(&self, worker: usize, n: u8) -> Option<Why> {
        self.suppressed.get(&(worker, n.into())).copied()
    }

    fn park_behind(&mut self, owner: usize, copy: usize, n: u8) {
        self.claim(owner, n);
        self.pump(owner);
        self.claim(copy, n);
        self.pump(copy);
        assert_eq!(self.why_sent(owner, n), Some(Why::Won));
        assert_eq!(self.workers[copy].stats().parked.value(), 1);
    }
}

fn key(n: u8) -> ClaimKey {
    ClaimKey { class: Class::Tx, id: [n; 32] }
}

#[test]
fn without_a_backend_first_sight_wins() {
    let mut world = World::new(1, |config| config.tier2 = false);
    let Verdict::Won(ticket) = world.claim(0, 1) else { panic!("not won") };
    assert_eq!(world.claim(0, 1), Verdict::Seen);
    world.workers[0].failed(world.now, ticket);
    assert!(matches!(world.claim(0, 1), Verdict::Won(_)), "a failed send leaves tier 1");
    assert!(world.workers[0].next_timeout().is_none());
}

#[test]
fn a_copy_is_let_go_once_its_owner_has_settled() {
    let mut world = World::new(2, |_| ());
    world.park_behind(0, 1, 1);
    world.hand_over(0, 1);
    world.run(&[0, 1], 150);
    assert_eq!(world.why_suppressed(1, 1), Some(Why::Settled));
    assert!(world.workers[0].is_idle() && world.workers[1].is_idle());
    assert_eq!(world.claim(1, 1), Verdict::Seen, "what was let go stays in tier 1");
}

#[test]
fn a_copy_is_sent_when_its_owner_died() {
    let mut world = World::new(2, |_| ());
    world.park_behind(0, 1, 1);
    world.run(&[1], 240);
    assert_eq!(world.why_sent(1, 1), None);
    world.run(&[1], 100);
    assert_eq!(world.why_sent(1, 1), Some(Why::TakenOver));
}

#[test]
fn one_of_two_siblings_takes_over_and_the_next_when_that_one_dies() {
    let mut world = World::new(3, |_| ());
    world.park_behind(0, 1, 1);
    world.claim(2, 1);
    world.pump(2);
    world.run(&[1, 2], 300);
    assert_eq!(world.why_sent(1, 1), Some(Why::TakenOver));
    assert_eq!(world.why_sent(2, 1), None);
    world.run(&[2], 300);
    assert_eq!(world.why_sent(2, 1), Some(Why::TakenOver));
}

#[test]
fn a_copy_is_let_go_when_a_sibling_took_over_and_settled() {
    let mut world = World::new(3, |_| ());
    world.park_behind(0, 1, 1);
    world.claim(2, 1);
    world.pump(2);
    world.run(&[1, 2], 300);
    world.hand_over(1, 1);
    world.run(&[1, 2], 150);
    assert_eq!(world.why_suppressed(2, 1), Some(Why::Settled));
}

#[test]
fn a_refused_frame_goes_out_through_the_sibling() {
    let mut world = World::new(2, |_| ());
    world.park_behind(0, 1, 1);
    world.refuse(0, 1);
    world.run(&[0, 1], 150);
    assert_eq!(world.why_sent(1, 1), Some(Why::Won));
    assert!(matches!(world.claim(0, 1), Verdict::Wait), "the client's resend is new again");
}

#[test]
fn a_release_in_the_same_epoch_does_not_bring_back_what_was_sent() {
    let mut world = World::new(2, |_| ());
    world.claim(0, 2);
    world.park_behind(0, 1, 1);
    world.hand_over(0, 1);
    world.refuse(0, 2);
    world.run(&[0, 1], 150);
    assert_eq!(world.why_suppressed(1, 1), Some(Why::Settled));
}

#[test]
fn an_unacknowledged_release_changes_the_owner_and_never_settles() {
    let mut world = World::new(2, |_| ());
    world.park_behind(0, 1, 1);
    let owner = world.workers[0].owner();
    world.refuse(0, 1);
    world.fail(0, OpErrorKind::Timeout);
    assert_ne!(world.workers[0].owner(), owner);
    world.run(&[0, 1], 240);
    assert_eq!(world.why_sent(1, 1), None);
    world.run(&[0, 1], 100);
    assert_eq!(world.why_sent(1, 1), Some(Why::TakenOver));
}

#[test]
fn a_claim_without_an_end_shows_and_is_counted_once() {
    let mut world = World::new(1, |_| {});
    for n in 1..=2 {
        world.claim(0, n);
        world.pump(0);
        world.run(&[0], 60);
    }
    world.hand_over(0, 2);
    let stats = world.workers[0].stats();
    world.run(&[0], 1_800);
    let unsettled = world.workers[0].unsettled(world.now).unwrap();
    assert_eq!((unsettled.epoch, unsettled.claims, unsettled.is_late()), (1, 1, false));
    assert_eq!(stats.unsettled_late.value(), 0);
    world.run(&[0], 8_000);
    assert!(world.workers[0].unsettled(world.now).unwrap().is_late());
    assert!(stats.unsettled_age.value() > 9_000_000);
    assert_eq!(stats.unsettled_late.value(), 1);
    world.hand_over(0, 1);
    world.run(&[0], 100);
    assert_eq!(world.workers[0].unsettled(world.now), None);
    assert_eq!((stats.unsettled_age.value(), stats.unsettled_late.value()), (0, 1));
}

#[test]
fn what_a_former_owner_left_open_is_not_late() {
    let mut world = World::new(1, |_| {});
    world.claim(0, 1);
    world.pump(0);
    world.refuse(0, 1);
    world.fail(0, OpErrorKind::Timeout);
    assert_eq!(world.workers[0].stats().renewed.value(), 1);
    world.run(&[0], 3_000);
    assert_eq!(world.workers[0].unsettled(world.now), None);
    assert_eq!(world.workers[0].stats().unsettled_late.value(), 0);
}

#[test]
fn a_lost_reply_forwards_the_frame() {
    let mut world = World::new(1, |_| ());
    world.claim(0, 1);
    world.fail(0, OpErrorKind::Timeout);
    assert_eq!(world.why_sent(0, 1), Some(Why::InDoubt));
}

#[test]
fn a_claim_in_doubt_settles_when_its_frame_was_sent() {
    let mut world = World::new(2, |_| ());
    world.claim(0, 1);
    let now = world.now;
    let request = world.workers[0].poll_request(now).unwrap();
    world.carry_out(request.ask);
    world.workers[0].on_failure(now, request.id, OpErrorKind::Timeout);
    world.collect(0);
    world.claim(1, 1);
    world.pump(1);
    world.hand_over(0, 1);
    world.run(&[0, 1], 150);
    assert_eq!(world.why_suppressed(1, 1), Some(Why::Settled));
}

#[test]
fn an_owner_that_wakes_late_asks_before_it_sends() {
    let mut world = World::new(2, |_| ());
    world.park_behind(0, 1, 1);
    world.run(&[1], 300);
    assert_eq!(world.why_sent(1, 1), Some(Why::TakenOver));
    let (ticket, _) = world.sent[&(0, 1)];
    let now = world.now;
    assert!(!world.workers[0].may_send(now, ticket, || 1));
    world.sent.remove(&(0, 1));
    world.hand_over(1, 1);
    world.run(&[0, 1], 150);
    assert_eq!(world.why_suppressed(0, 1), Some(Why::Settled));
    assert!(world.workers[0].is_idle());
}

#[test]
fn an_owner_that_wakes_late_but_first_sends() {
    let mut world = World::new(2, |_| ());
    world.park_behind(0, 1, 1);
    let (ticket, _) = world.sent[&(0, 1)];
    world.now += 200 * MS;
    let now = world.now;
    assert!(!world.workers[0].may_send(now, ticket, || 1));
    world.sent.clear();
    world.pump(0);
    assert_eq!(world.why_sent(0, 1), Some(Why::Won));
    world.run(&[1], 150);
    assert_eq!(world.why_sent(1, 1), None, "the sibling's takeover meets the owner's");
}

#[test]
fn an_answer_to_another_question_is_not_believed() {
    let mut world = World::new(1, |_| ());
    world.claim(0, 1);
    let now = world.now;
    let request = world.workers[0].poll_request(now).unwrap();
    let other = ClaimValue { owner: 9, epoch: 1, nonce: 9, id: [2; 8] };
    let answer = Answer::Claimed(vec![Ok(Claimed::Exists(other.encode().to_vec().into()))]);
    assert_eq!(world.workers[0].on_answer(now, request.id, answer), Trust::Lost);
    world.collect(0);
    assert_eq!(world.why_sent(0, 1), Some(Why::InDoubt));
}

#[test]
fn a_go_value_suppresses_and_an_unknown_one_does_not() {
    for (value, sent) in [(&b"1"[..], None), (b"\x02whatever", Some(Why::InDoubt))] {
        let mut world = World::new(1, |_| ());
        let mut name = Vec::new();
        Names::new(b"bsp:tx:", KeyStyle::Hex).claim(&key(1), &[], &mut name);
        world.memory.set(&crate::value::one(&name, value), Duration::ZERO, world.now);
        world.claim(0, 1);
        world.pump(0);
        assert_eq!(world.why_sent(0, 1), sent);
    }
}

/// One worker whose store is given up: tier 1 alone decides.
fn given_up() -> World {
    let mut world = World::new(1, |_| ());
    for n in 0..20 {
        world.claim(0, n);
    }
    world.fail(0, OpErrorKind::BreakerOpen);
    assert_eq!(world.workers[0].stats().bypass.value(), 1);
    world
}

/// How many of these new frames wait for the store.
fn waits(world: &mut World, new: std::ops::Range<u8>) -> usize {
    new.filter(|&n| world.claim(0, n) == Verdict::Wait).count()
}

#[test]
fn an_open_breaker_leaves_new_ids_to_tier_1() {
    let mut world = given_up();
    assert!(matches!(world.claim(0, 100), Verdict::Won(_)));
    assert_eq!(world.claim(0, 100), Verdict::Seen);
}

#[test]
fn behind_an_open_breaker_a_few_frames_ask_and_all_others_go_past_them() {
    let mut world = given_up();
    world.now += 100 * MS;
    assert_eq!(waits(&mut world, 30..130), 32);
    assert_eq!(world.workers[0].waiting(), 32, "one request, that may be the breaker's probe");
    assert_eq!(waits(&mut world, 130..140), 0, "while it is under way");
    world.fail(0, OpErrorKind::Timeout);
    assert_eq!(world.why_sent(0, 30), Some(Why::InDoubt));
    assert_eq!(waits(&mut world, 140..150), 0, "it was not answered");
    world.now += 100 * MS;
    assert_eq!(waits(&mut world, 150..160), 10);
    world.fail(0, OpErrorKind::BreakerOpen);
    assert_eq!(waits(&mut world, 160..170), 0, "the breaker is still open: nobody else asks");
}

#[test]
fn an_answered_probe_brings_the_store_back() {
    let mut world = given_up();
    world.now += 100 * MS;
    assert_eq!(waits(&mut world, 30..31), 1);
    world.pump(0);
    assert_eq!(world.why_sent(0, 30), Some(Why::Won));
    assert_eq!(waits(&mut world, 40..140), 100);
    assert_eq!(world.workers[0].stats().bypass.value(), 0);
}

#[test]
fn the_answer_to_an_older_claim_does_not_bring_the_store_back() {
    let mut world = World::new(1, |_| ());
    world.claim(0, 1);
    let older = world.workers[0].poll_request(world.now).expect("a claim");
    world.now += MS;
    for n in 2..12 {
        world.claim(0, n);
    }
    world.fail(0, OpErrorKind::BreakerOpen);
    let answer = world.carry_out(older.ask);
    assert_eq!(world.workers[0].on_answer(world.now, older.id, answer), Trust::Kept);
    assert!(matches!(world.claim(0, 20), Verdict::Won(_)));
}

#[test]
fn when_parking_is_full_the_oldest_copy_is_sent() {
    let mut world = World::new(2, |config| config.park_bytes = 250);
    for n in 1..=3 {
        world.claim(0, n);
        world.pump(0);
        world.claim(1, n);
        world.pump(1);
    }
    assert_eq!(world.why_sent(1, 1), Some(Why::ParkingFull));
    assert_eq!((world.why_sent(1, 2), world.why_sent(1, 3)), (None, None));
    assert_eq!(world.workers[1].stats().parked_bytes.value(), 200);
}

#[test]
fn when_too_many_wait_the_oldest_unclaimed_is_sent() {
    let mut world = World::new(1, |_| ());
    world.workers = world.workers.into_iter().map(|claims| claims.limit_waiting(2, 1 << 20)).collect();
    for n in 1..=3 {
        assert_eq!(world.claim(0, n), Verdict::Wait);
    }
    world.collect(0);
    assert_eq!(world.why_sent(0, 1), Some(Why::Bypassed));
    let now = world.now;
    let _under_way = world.workers[0].poll_request(now);
    assert!(matches!(world.claim(0, 4), Verdict::Won(_)), "nothing is left to bypass");
}

#[test]
fn draining_sends_what_waits() {
    let mut world = World::new(2, |_| ());
    world.park_behind(0, 1, 1);
    world.claim(1, 2);
    let now = world.now;
    world.workers[1].drain(now);
    world.collect(1);
    assert_eq!(world.why_sent(1, 1), Some(Why::Draining));
    assert_eq!(world.why_sent(1, 2), Some(Why::Draining));
    assert_eq!(world.workers[1].waiting(), 0);
}

#[test]
fn simple_mode_suppresses_whatever_exists() {
    let mut world = World::new(2, |config| config.mode = Mode::Simple);
    world.claim(0, 1);
    world.pump(0);
    world.claim(1, 1);
    world.pump(1);
    assert_eq!(world.why_sent(0, 1), Some(Why::Won));
    assert_eq!(world.why_suppressed(1, 1), Some(Why::Exists));
    world.refuse(0, 1);
    world.pump(0);
    assert!(world.workers[0].is_idle());
    assert_eq!(world.claim(0, 1), Verdict::Wait);
    world.pump(0);
    assert_eq!(world.why_sent(0, 1), Some(Why::Won), "a refused frame releases its claim");
}

#[test]
fn a_ticket_counts_once() {
    let mut world = World::new(1, |_| ());
    world.claim(0, 1);
    world.pump(0);
    world.hand_over(0, 1);
    world.hand_over(0, 1);
    world.refuse(0, 1);
    assert_eq!(world.workers[0].stats().failed.value(), 0);
}

/// What a successor writes about the owner of `worker`.
fn say_ended(world: &World, worker: usize) {
    let owner = world.workers[worker].owner();
    let config = ClaimsConfig::default();
    let mut name = Vec::new();
    Names::new(&config.prefix, config.keys).end_notice(owner, &mut name);
    let word = crate::value::one(&name, &crate::value::encode_end_notice(owner));
    world.memory.set(&word, Duration::ZERO, world.now);
}

#[test]
fn an_owner_whose_process_has_ended_gets_no_lease() {
    let mut world = World::new(2, |config| config.lease = 10_000 * MS);
    world.park_behind(0, 1, 1);
    world.run(&[1], 300);
    assert_eq!(world.why_sent(1, 1), None);
    say_ended(&world, 0);
    world.run(&[1], 100);
    assert_eq!(world.why_sent(1, 1), Some(Why::TakenOver));
}

#[test]
fn what_an_owner_settled_before_its_end_is_not_sent_again() {
    let mut world = World::new(2, |config| config.lease = 10_000 * MS);
    world.park_behind(0, 1, 1);
    world.hand_over(0, 1);
    world.run(&[0], 100);
    say_ended(&world, 0);
    let (now, owner) = (world.now, world.workers[0].owner());
    world.workers[1].has_ended(now, owner);
    world.run(&[1], 300);
    assert_eq!(world.why_suppressed(1, 1), Some(Why::Settled));
}

#[test]
fn a_watermark_is_passed_when_all_before_it_has_its_end_and_the_store_knows() {
    let mut world = World::new(2, |_| ());
    world.park_behind(0, 1, 1);
    let (mut owners, mut copies) = (world.workers[0].watermark(), world.workers[1].watermark());
    world.claim(0, 2);
    world.run(&[0, 1], 100);
    assert!(!world.workers[0].is_passed(&mut owners), "its frame is on its way");
    assert!(!world.workers[1].is_passed(&mut copies), "its copy is parked");
    world.hand_over(0, 1);
    assert!(!world.workers[0].is_passed(&mut owners), "the store does not know yet");
    world.hand_over(0, 2);
    world.run(&[0, 1], 100);
    assert!(world.workers[0].is_passed(&mut owners) && world.workers[1].is_passed(&mut copies));
}

#[test]
fn a_watermark_is_passed_although_a_doubtful_release_keeps_an_epoch_open_for_ever() {
    let mut world = World::new(1, |_| ());
    world.claim(0, 1);
    world.fail(0, OpErrorKind::Timeout);
    let mut watermark = world.workers[0].watermark();
    world.refuse(0, 1);
    world.run(&[0], 200);
    assert!(world.workers[0].is_passed(&mut watermark));
}

#[test]
fn a_frame_let_through_undecided_settles_only_when_it_was_sent() {
    for asked in [false, true] {
        let mut world = World::new(1, |_| {});
        assert_eq!(world.claim(0, 1), Verdict::Wait);
        let request = if asked { world.workers[0].poll_request(world.now) } else { None };
        let ticket = world.workers[0].let_through(1).unwrap();
        assert_eq!(world.workers[0].let_through(1), None, "once");
        if let Some(request) = request {
            let answer = world.carry_out(request.ask);
            assert_eq!(world.workers[0].on_answer(world.now, request.id, answer), Trust::Kept);
        }
        world.pump(0);
        assert!(world.sent.is_empty() && world.suppressed.is_empty(), "no decision follows");
        world.now += 100 * MS;
        world.pump(0);
        assert_eq!(world.workers[0].is_idle(), !asked, "its claim stays open");
        world.workers[0].failed(world.now, ticket);
        assert_eq!(world.claim(0, 1), Verdict::Wait, "the next copy is new again");
    }
}

/// A listener saw the frame of this id and marks it, create-only.
fn mark_seen(world: &World, n: u8) -> Claimed {
    let config = ClaimsConfig::default();
    let mut name = Vec::new();
    Names::new(&config.prefix, config.keys).claim(&key(n), &[], &mut name);
    let mark = crate::CourtesyMark { flow: 1, seconds: 2, number: 3, id: [n; 8] };
    let mut answers = Vec::new();
    let batch = crate::value::one(&name, &mark.encode());
    world.memory.claim(&batch, Duration::from_secs(600), world.now, &mut answers);
    answers.remove(0)
}

#[test]
fn what_a_listener_marked_is_not_sent() {
    let mut world = World::new(1, |_| ());
    assert_eq!(mark_seen(&world, 1), Claimed::Created);
    world.claim(0, 1);
    world.pump(0);
    assert_eq!(world.why_suppressed(0, 1), Some(Why::Marked));
    world.run(&[0], 100);
    assert!(world.workers[0].is_idle());
    world.now += Duration::from_secs(600);
    assert_eq!(world.claim(0, 1), Verdict::Wait, "tier 1 keeps nothing of it");
    world.pump(0);
    assert_eq!(world.why_sent(0, 1), Some(Why::Won), "no longer than the mark stands");
}

#[test]
fn a_mark_changes_nothing_about_an_id_that_is_claimed() {
    let mut world = World::new(2, |_| ());
    world.park_behind(0, 1, 1);
    assert!(matches!(mark_seen(&world, 1), Claimed::Exists(_)));
    world.run(&[1], 400);
    assert_eq!(world.why_sent(1, 1), Some(Why::TakenOver), "an owner that died is taken over as ever");
}

#[test]
fn a_mark_that_outruns_a_release_does_not_stop_the_copy_that_waited() {
    let mut world = World::new(2, |_| ());
    world.park_behind(0, 1, 1);
    world.refuse(0, 1);
    world.pump(0);
    assert_eq!(mark_seen(&world, 1), Claimed::Created, "the claim is gone, the frame left by one interface");
    world.run(&[0, 1], 150);
    assert_eq!(world.why_sent(1, 1), Some(Why::InDoubt));
    world.hand_over(1, 1);
    world.run(&[0, 1], 150);
    assert!(world.workers.iter().all(Claims::is_idle));
}

/// What remains, and why marks must be asked for: to another proxy the resend of a client is a new frame, and nothing
/// tells its mark from a true one.
#[test]
fn a_mark_that_outruns_a_release_stops_the_clients_resend_elsewhere_alone() {
    let mut world = World::new(2, |_| ());
    world.claim(0, 1);
    world.pump(0);
    world.refuse(0, 1);
    world.pump(0);
    assert_eq!(mark_seen(&world, 1), Claimed::Created);
    world.sent.clear();
    for worker in [0, 1] {
        assert_eq!(world.claim(worker, 1), Verdict::Wait, "it left tier 1");
        world.pump(worker);
    }
    assert_eq!(world.why_sent(0, 1), Some(Why::InDoubt), "who took it back knows better");
    assert_eq!(world.why_suppressed(1, 1), Some(Why::Marked));
}

#[test]
fn the_gate_of_a_consumer_believes_no_mark() {
    let mut world = World::new(1, |config| config.marks = false);
    assert_eq!(mark_seen(&world, 1), Claimed::Created);
    world.claim(0, 1);
    world.pump(0);
    assert_eq!(world.why_sent(0, 1), Some(Why::InDoubt));
}
