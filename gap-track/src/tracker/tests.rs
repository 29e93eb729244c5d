use super::*;
use crate::digests::FlowDigest;
use proptest::prelude::*;
use std::collections::BTreeSet;

const FLOW: HashKey = HashKey(7);
const SOURCE: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// A tracker whose owner notes with each gap whether it was asked for, and its clock.
struct World {
    tracker: Tracker<bool>,
    now: Instant,
}

impl World {
    /// Up for so long that flows which begin now are new.
    fn with(limits: TrackLimits) -> World {
        let now = Instant::now();
        World { tracker: Tracker::new(limits, 3, now), now: now + Duration::from_secs(3) }
    }

    fn new() -> World {
        World::with(TrackLimits::default())
    }

    fn see(&mut self, number: u64) -> Seen<bool> {
        self.see_in(FLOW, number)
    }

    fn see_in(&mut self, key: HashKey, number: u64) -> Seen<bool> {
        let s = Sighting {
            key,
            seq: SeqNum(number),
            group: GroupIndex(1),
            subtree: &NO_ID,
            class: FlowClass::Tx,
            source: SOURCE,
            wanted: true,
            trusted: true,
        };
        self.tracker.observe(self.now, &s)
    }

    fn digest(&mut self, highest: u64) {
        let (key, group, highest) = (FLOW, GroupIndex(1), SeqNum(highest));
        let digest = FlowDigest { key, highest, group, subtree: &NO_ID, source: SOURCE, wanted: true };
        self.tracker.digest(self.now, &digest);
    }

    /// What is missing of the flow, from the lowest number on.
    fn missing(&self) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        let mut at = 0;
        while let Some(gap) = self.tracker.next_gap(FLOW, at, u64::MAX).and_then(|id| self.tracker.gap(id)) {
            found.push((gap.first, gap.last));
            at = gap.last + 1;
        }
        found
    }

    fn events(&mut self) -> Vec<GapEvent<bool>> {
        std::iter::from_fn(|| self.tracker.next_event()).collect()
    }
}

#[test]
fn a_gap_is_named_once_and_closes_when_its_frames_arrive() {
    let mut world = World::new();
    world.see(1);
    world.see(5);
    assert_eq!(world.missing(), [(2, 4)]);
    let [GapEvent::Due(id)] = world.events()[..] else { panic!("one gap is new") };
    world.tracker.set_requested(id);
    *world.tracker.repair_mut(id).unwrap() = true;
    let Seen::Filled(filled) = world.see(3) else { panic!("it was missing") };
    assert!(filled.requested && filled.repair);
    let [GapEvent::CutOff(rest)] = world.events()[..] else { panic!("the gap was cut in two") };
    assert_eq!(filled.rest, [Some(id), Some(rest)]);
    assert!(world.tracker.gap(rest).unwrap().repair, "in the state of the other part");
    world.see(2);
    world.see(4);
    assert_eq!((world.missing(), world.tracker.counts().recovered), (vec![], 3));
    assert!(matches!(world.see(4), Seen::Known));
}

#[test]
fn three_later_frames_make_a_gap_due_at_once() {
    let mut world = World::new();
    world.see(1);
    world.see(3);
    let [GapEvent::Due(id)] = world.events()[..] else { panic!("one gap is new") };
    assert!(world.tracker.gap(id).unwrap().due > world.now);
    world.see(4);
    assert_eq!(world.events(), []);
    world.see(5);
    assert_eq!(world.events(), [GapEvent::Due(id)]);
    assert_eq!(world.tracker.gap(id).unwrap().due, world.now);
}

#[test]
fn numbers_that_find_no_room_become_one_deferred_gap() {
    let mut world = World::new();
    for number in 1..=5 {
        world.see(number);
    }
    for number in 2..=4 {
        world.tracker.defer(world.now, FLOW, SeqNum(number), |asked| !asked);
    }
    assert_eq!(world.missing(), [(2, 4)]);
    let id = world.tracker.next_gap(FLOW, 2, 2).unwrap();
    assert!(world.tracker.gap(id).unwrap().deferred);
    *world.tracker.repair_mut(id).unwrap() = true;
    world.tracker.defer(world.now, FLOW, SeqNum(5), |asked| !asked);
    assert_eq!(world.missing(), [(2, 4), (5, 5)], "what is asked for does not grow");
}

#[test]
fn a_horizon_that_passes_closes_the_gap_with_its_repair_and_a_reason() {
    let mut world = World::new();
    world.see(1);
    world.see(4);
    let id = world.tracker.next_gap(FLOW, 2, 3).unwrap();
    *world.tracker.repair_mut(id).unwrap() = true;
    world.events();
    world.tracker.give_up(id);
    assert_eq!(world.events(), [GapEvent::GivenUp(true, 2)]);
    let mut losses = Vec::new();
    world.tracker.take_losses(&mut losses);
    assert_eq!(losses, [Lost { key: FLOW, first: 2, last: 3, why: Loss::Horizon }]);
    assert_eq!(world.tracker.counts().lost_total(), 2);
}

#[test]
fn a_frame_that_nobody_verified_closes_nothing() {
    let mut world = World::new();
    world.see(1);
    world.see(3);
    let s = Sighting {
        key: FLOW,
        seq: SeqNum(2),
        group: GroupIndex(1),
        subtree: &NO_ID,
        class: FlowClass::Tx,
        source: SOURCE,
        wanted: false,
        trusted: false,
    };
    assert!(matches!(world.tracker.observe(world.now, &s), Seen::Known));
    assert_eq!(world.missing(), [(2, 2)]);
}

#[test]
fn a_digest_opens_what_no_frame_shows_and_a_far_one_is_held() {
    let mut world = World::new();
    world.digest(3);
    assert_eq!(world.missing(), [(1, 3)]);
    world.digest(1 << 40);
    assert_eq!((world.missing(), world.tracker.counts().jumps_held), (vec![(1, 3)], 1));
}

#[test]
fn a_flow_goes_on_where_an_earlier_process_left_it() {
    let mut world = World::new();
    world.tracker.resume([Position { key: FLOW, next: 5, group: GroupIndex(1) }]);
    assert_eq!((world.tracker.unheard(), world.tracker.knows(FLOW)), (1, true));
    world.see(8);
    assert_eq!(world.missing(), [(5, 7)]);
    let mut positions = Vec::new();
    assert_eq!(world.tracker.positions(9, &mut positions), 0);
    assert_eq!(positions, [Position { key: FLOW, next: 5, group: GroupIndex(1) }]);
}

#[test]
fn a_question_whose_answer_names_numbers_makes_them_owed() {
    let mut world = World::new();
    world.tracker.resume([Position { key: FLOW, next: 5, group: GroupIndex(1) }]);
    let mut questions = Vec::new();
    world.tracker.sweep(world.now, 8, |question| {
        questions.push(*question);
        Asked::Range(1)
    });
    let [Question { first: 5, width, resumed: true, .. }] = questions[..] else { panic!("{questions:?}") };
    assert!(world.tracker.is_missing(FLOW, SeqNum(5)), "an answer may bring it");
    let mut reply =
        Extended { hash_key: FLOW, start: SeqNum(5), end: SeqNum(4 + u64::from(width)), not_found: [0; 32] };
    (7..5 + u64::from(width)).for_each(|number| reply.set_missing(SeqNum(number)));
    world.tracker.probed(world.now, &reply, 1);
    assert_eq!(world.missing(), [(5, 6)]);
}

proptest! {
    /// Whatever comes in whatever order: each number up to the highest came, is missing, or was counted as lost; none is
    /// two of these, and what was found missing is what came of it, is missing, or is lost.
    #[test]
    fn every_number_is_accounted_for(
        numbers in proptest::collection::vec(1_u64..400, 1..120),
        max_jump in 20_u64..200,
        max_gaps in 1_usize..20,
        given_up in proptest::collection::vec(1_u64..400, 0..10),
    ) {
        let mut world = World::with(TrackLimits { max_jump, max_gaps, ..TrackLimits::default() });
        let mut came = BTreeSet::new();
        let mut filled = 0;
        world.see(1);
        came.insert(1);
        for number in numbers {
            let seen = world.see(number);
            filled += u64::from(matches!(seen, Seen::Filled(_)));
            // A jump that is held may be forgotten for another; its frame is asked for again.
            if !matches!(seen, Seen::Held) {
                came.insert(number);
            }
        }
        for number in given_up {
            if let Some(id) = world.tracker.next_gap(FLOW, number, number) {
                world.tracker.give_up(id);
            }
        }
        let missing: Vec<u64> = world.missing().into_iter().flat_map(|(first, last)| first..=last).collect();
        prop_assert!(missing.iter().all(|number| !came.contains(number)), "{missing:?} came");
        prop_assert_eq!(missing.len() as u64, world.tracker.missing());
        let counts = world.tracker.counts().clone();
        // A number whose jump was held had come before it was found missing.
        let ended = filled + world.tracker.missing() + counts.lost_total();
        prop_assert!((ended..=ended + counts.jumps_held).contains(&counts.gaps_detected), "{counts:?}, {ended} ended");
        world.tracker.stop();
        prop_assert_eq!(world.tracker.missing(), 0);
        let given_up: u64 = world.events().iter().map(|event| if let GapEvent::GivenUp(_, n) = event { *n } else { 0 }).sum();
        prop_assert!(given_up <= world.tracker.counts().lost_total());
    }

    /// Bounds hold whatever senders do.
    #[test]
    fn tables_stay_within_their_bounds(seen in proptest::collection::vec((0_u64..40, 1_u64..1_000_000), 0..300)) {
        let limits = TrackLimits { max_flows: 8, max_gaps: 16, max_jump: 1 << 10, ..TrackLimits::default() };
        let mut world = World::with(limits);
        for (key, number) in seen {
            world.see_in(HashKey(key), number);
            world.now += Duration::from_secs(1);
            prop_assert!(world.tracker.flows() <= 8);
            prop_assert!(world.tracker.missing() <= 16 << 10);
        }
    }
}
