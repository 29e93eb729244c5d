//! Frames with bytes that their id does not prove: two keys in one request.

use super::*;
use crate::name::Names;
use proptest::prelude::*;

/// A frame of id `id` with the outside bytes `form`; form 0 is the raw frame, which has none.
struct Formed {
    key: ClaimKey,
    variant: Option<ClaimKey>,
}

fn formed(id: u8, form: u8) -> Formed {
    let mut variant = [id; 32];
    variant[0] = 0xF0 + form;
    let variant = ClaimKey { class: Class::Tx.variant(), id: variant };
    Formed { key: key(id), variant: (form > 0).then_some(variant) }
}

impl Claimant for Formed {
    fn key(&self) -> &ClaimKey {
        &self.key
    }
    fn variant(&self) -> Option<&ClaimKey> {
        self.variant.as_ref()
    }
    fn bytes(&self) -> u32 {
        100
    }
}

/// The name of a frame in the tests: its id and form.
fn name(id: u8, form: u8) -> u8 {
    id * 8 + form
}

impl World {
    fn claim_form(&mut self, worker: usize, id: u8, form: u8) -> Verdict {
        let mut out = Vec::new();
        let token = name(id, form).into();
        let frame = [formed(id, form)];
        self.workers[worker].claim_each(self.now, &frame, |_| Some(token), |_, verdict| out.push(verdict));
        out[0]
    }

    /// Claims, asks the store and hands over what is decided at once. Why it was sent.
    fn offer(&mut self, worker: usize, id: u8, form: u8) -> Option<Why> {
        self.claim_form(worker, id, form);
        self.pump(worker);
        let why = self.why_sent(worker, name(id, form));
        if why.is_some() {
            self.hand_over(worker, name(id, form));
        }
        why
    }

    fn stored(&self, of: &ClaimKey) -> bool {
        let mut name = Vec::new();
        Names::new(b"bsp:tx:", KeyStyle::Hex).claim(of, &[], &mut name);
        self.memory.get(&name, self.now).is_some()
    }
}

#[test]
fn other_bytes_are_sent_and_the_same_bytes_are_not() {
    let mut world = World::new(2, |_| ());
    assert_eq!(world.offer(0, 1, 1), Some(Why::Won));
    assert_eq!(world.claim_form(0, 1, 1), Verdict::Seen);
    assert_eq!(world.offer(0, 1, 2), Some(Why::Variant));
    assert_eq!((world.offer(1, 1, 2), world.offer(1, 1, 1)), (None, None));
    world.run(&[0, 1], 200);
    assert_eq!(world.why_suppressed(1, name(1, 1)), Some(Why::Settled));
    assert_eq!(world.why_suppressed(1, name(1, 2)), Some(Why::Settled));
    assert_eq!(world.offer(1, 1, 3), Some(Why::Variant), "a third form, new at this node");
}

#[test]
fn a_raw_copy_behind_an_extended_one_is_let_go_and_an_extended_one_behind_a_raw_one_is_sent() {
    let mut world = World::new(2, |_| ());
    assert_eq!(world.offer(0, 1, 1), Some(Why::Won));
    assert_eq!(world.claim_form(0, 1, 0), Verdict::Seen);
    assert_eq!(world.offer(1, 1, 0), None);
    assert_eq!(world.offer(0, 2, 0), Some(Why::Won));
    assert_eq!(world.offer(0, 2, 1), Some(Why::Variant));
    assert_eq!(world.offer(1, 2, 0), None);
    world.run(&[0, 1], 200);
    assert_eq!(world.why_suppressed(1, name(1, 0)), Some(Why::Settled));
    assert_eq!(world.why_suppressed(1, name(2, 0)), Some(Why::Settled));
    assert!(world.workers.iter().all(Claims::is_idle));
}

#[test]
fn without_a_backend_tier_1_knows_both_keys() {
    let mut world = World::new(1, |config| config.tier2 = false);
    let Verdict::Won(extended) = world.claim_form(0, 1, 1) else { panic!("not won") };
    assert_eq!(world.claim_form(0, 1, 0), Verdict::Seen);
    assert!(matches!(world.claim_form(0, 1, 2), Verdict::Won(_)));
    let stats = world.workers[0].stats();
    assert_eq!((stats.by(Why::Won).value(), stats.by(Why::Variant).value()), (1, 1));
    world.workers[0].failed(world.now, extended);
    assert!(matches!(world.claim_form(0, 1, 1), Verdict::Won(_)), "a failed send gives back the variant");
    assert_eq!(world.claim_form(0, 1, 0), Verdict::Seen);
    let Verdict::Won(raw) = world.claim_form(0, 2, 1) else { panic!("not won") };
    world.workers[0].failed(world.now, raw);
    assert!(matches!(world.claim_form(0, 2, 0), Verdict::Won(_)), "and the id");
}

#[test]
fn a_frame_that_cannot_be_sent_gives_back_both_keys() {
    let mut world = World::new(2, |_| ());
    world.claim_form(0, 1, 1);
    world.pump(0);
    let Formed { key: id, variant } = formed(1, 1);
    assert!(world.stored(&id) && world.stored(&variant.unwrap()));
    world.claim_form(1, 1, 1);
    world.claim_form(1, 1, 0);
    world.pump(1);
    world.refuse(0, name(1, 1));
    world.run(&[0, 1], 200);
    assert_eq!(world.why_sent(1, name(1, 1)), Some(Why::Won), "the sibling's copy takes both keys");
    assert_eq!(world.workers[0].stats().released.value(), 2);
}

#[test]
fn a_copy_is_sent_when_the_owner_of_its_bytes_died() {
    let mut world = World::new(2, |_| ());
    world.claim_form(0, 1, 1);
    world.pump(0);
    world.claim_form(1, 1, 1);
    world.run(&[1], 350);
    assert_eq!(world.why_sent(1, name(1, 1)), Some(Why::TakenOver));
    world.hand_over(1, name(1, 1));
    world.run(&[1], 150);
    assert!(world.workers[1].is_idle(), "nothing of it stays open");
}

#[test]
fn an_owner_that_wakes_late_asks_for_its_variant_again() {
    let mut world = World::new(2, |_| ());
    world.claim_form(0, 1, 1);
    world.pump(0);
    world.claim_form(1, 1, 1);
    world.run(&[1], 350);
    let (ticket, _) = world.sent[&(0, name(1, 1).into())];
    let now = world.now;
    assert!(!world.workers[0].may_send(now, ticket, || 99), "a sibling has taken over");
    world.hand_over(1, name(1, 1));
    world.run(&[0, 1], 300);
    assert_eq!(world.suppressed.get(&(0, 99)), Some(&Why::Settled));
    assert!(world.workers[0].is_idle());
}

#[test]
fn a_node_that_knows_ids_alone_loses_the_race_for_nothing_but_the_id() {
    let mut world = World::new(1, |_| ());
    let mut go = KeyValues::new();
    let mut its_key = Vec::new();
    Names::new(b"bsp:tx:", KeyStyle::Hex).claim(&key(1), &[], &mut its_key);
    go.push(&its_key, b"1");
    world.memory.set(&go, Duration::from_secs(60), world.now);
    assert_eq!(world.offer(0, 1, 0), None);
    assert_eq!(world.why_suppressed(0, name(1, 0)), Some(Why::Exists));
    assert_eq!(world.offer(0, 1, 1), Some(Why::Variant));
}

/// Each proxy holds one of the two keys, as where two servers of a store answered in another order.
#[test]
fn who_holds_the_id_alone_sends_and_waits_for_nobody() {
    let mut world = World::new(2, |_| ());
    world.claim_form(0, 1, 1);
    world.pump(0);
    let mut its_key = Vec::new();
    Names::new(b"bsp:tx:", KeyStyle::Hex).claim(&key(1), &[], &mut its_key);
    world.memory.del(&its_key);
    assert_eq!(world.offer(1, 1, 1), Some(Why::Won));
    world.run(&[1], 150);
    assert!(world.workers[1].is_idle(), "its epoch is settled although the other's is not");
    assert_eq!(world.offer(1, 1, 2), Some(Why::Variant));
}

#[test]
fn an_answer_about_another_id_beside_the_variant_drops_the_connection() {
    let mut world = World::new(1, |_| ());
    world.claim_form(0, 1, 1);
    let now = world.now;
    let request = world.workers[0].poll_request(now).unwrap();
    let foreign = ClaimValue { owner: 1, epoch: 1, nonce: 1, id: [9; 8] };
    let answers = vec![Ok(Claimed::Exists(Bytes::copy_from_slice(&foreign.encode()))), Ok(Claimed::Created)];
    assert_eq!(world.workers[0].on_answer(now, request.id, Answer::Claimed(answers)), Trust::Lost);
    world.collect(0);
    assert_eq!(world.why_sent(0, name(1, 1)), Some(Why::InDoubt));
}

#[test]
fn a_plain_frame_is_one_key_of_a_request() {
    let mut world = World::new(1, |config| config.max_batch = 4);
    for (id, form) in [(1, 0), (2, 0), (3, 1), (4, 1), (5, 0)] {
        world.claim_form(0, id, form);
    }
    let now = world.now;
    let mut keys = Vec::new();
    while let Some(request) = world.workers[0].poll_request(now) {
        let Ask::Claim { batch, .. } = request.ask else { panic!("not a claim") };
        keys.push(batch.len());
    }
    assert_eq!(keys, [4, 3]);
    assert_eq!(world.workers[0].stats().claims.value(), 7);
}

proptest! {
    /// Every form that a living proxy received is sent by somebody, whichever proxies are refused their first sends.
    #[test]
    fn no_form_is_lost(
        copies in prop::collection::vec((0..3_usize, 1..3_u8, 0..4_u8), 1..24),
        refusing in 0..3_usize,
    ) {
        let mut world = World::new(3, |_| ());
        let mut left = std::collections::BTreeSet::new();
        let mut refused = std::collections::BTreeSet::new();
        let mut handled = std::collections::BTreeSet::new();
        let mut round = |world: &mut World, left: &mut std::collections::BTreeSet<(u8, u8)>| {
            for (&(worker, token), &(ticket, _)) in &world.sent.clone() {
                if !handled.insert((worker, token, ticket.0)) {
                    continue;
                }
                let frame = u8::try_from(token).unwrap();
                if worker == refusing {
                    refused.insert((frame / 8, frame % 8));
                    world.workers[worker].failed(world.now, ticket);
                } else {
                    left.insert((frame / 8, frame % 8));
                    world.workers[worker].sent(world.now, ticket);
                }
            }
        };
        for &(worker, id, form) in &copies {
            if !world.sent.contains_key(&(worker, name(id, form).into())) {
                world.claim_form(worker, id, form);
            }
            world.pump(worker);
            round(&mut world, &mut left);
        }
        for _ in 0..80 {
            world.run(&[0, 1, 2], 20);
            round(&mut world, &mut left);
        }
        for &(worker, id, form) in &copies {
            if worker == refusing {
                continue;
            }
            let id_left = left.iter().any(|&(of, _)| of == id);
            prop_assert!(if form == 0 { id_left } else { left.contains(&(id, form)) }, "{id}/{form} of {worker}");
        }
        prop_assert!(world.workers.iter().all(Claims::is_idle));
    }
}
