//! Trains: which frames of a round leave together.
//!
//! Why: one datagram per send costs the kernel microseconds; in a train of sixteen a frame costs a tenth of that. A train
//! needs one destination and equal lengths, and transactions come in many lengths. Every decoder ignores bytes behind the
//! declared length (docs/wire.md 1), so frames of nearly equal length share a train when the shorter ones are padded.
//!
//! Promises: every frame is in exactly one train. A train has one group, at most [`TrainLimits::max_frames`] frames and at
//! most [`TrainLimits::max_bytes`] bytes. Only the last frame of a train may be shorter than its segment by more than the
//! padding allows. A frame that is longer than [`TrainLimits::max_segment`] travels alone. Fragments of one original keep
//! their order.
//!
//! Cost: one `sort_unstable` over packed 64-bit keys and one pass; no allocation once the vectors have grown.

use frame::GroupIndex;

/// What a train may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainLimits {
    /// Frames a train; 1 turns trains (and padding) off.
    pub max_frames: usize,
    /// Bytes a train, padding included.
    pub max_bytes: usize,
    /// Longest frame that may share a train: the MTU less IP and UDP headers.
    pub max_segment: u16,
    /// How many percent of its own length a frame may grow by padding; 0 = equal lengths only.
    pub padding_percent: u32,
    /// Whether a group's frames may be reordered by length.
    pub order: Order,
}

/// `--train-order`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Sorted by length: the longest trains.
    Length,
    /// Order of arrival within a group (and so within a flow): shorter trains.
    Arrival,
}

/// A frame as the planner sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainFrame {
    /// Destination.
    pub group: GroupIndex,
    /// Bytes of the datagram.
    pub len: u16,
    /// Length to sort by: `len`, except for the short last fragment of an object, which sorts with its siblings.
    pub sort_len: u16,
}

impl TrainFrame {
    /// A frame of its own.
    pub const fn whole(group: GroupIndex, len: u16) -> TrainFrame {
        TrainFrame { group, len, sort_len: len }
    }

    const fn is_runt(&self) -> bool {
        self.len < self.sort_len
    }
}

/// Frames `first .. first + count` of [`TrainPlan::order`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedTrain {
    /// Destination.
    pub group: GroupIndex,
    /// Position of the first frame in the send order.
    pub first: u32,
    /// Number of frames.
    pub count: u32,
    /// Bytes a segment.
    pub segment: u16,
}

/// A planned batch. Reused from batch to batch.
#[derive(Debug, Default)]
pub struct TrainPlan {
    /// Send order: indices into the batch.
    pub order: Vec<u32>,
    /// Trains in send order; together they cover `order`.
    pub trains: Vec<PlannedTrain>,
    /// Bytes of padding in all trains.
    pub padding: u64,
    keys: Vec<u64>,
}

impl TrainPlan {
    /// An empty plan.
    pub fn new() -> TrainPlan {
        TrainPlan::default()
    }

    /// Plans `frames`; what was planned before is forgotten. Batches hold fewer than 2^32 frames.
    pub fn make(&mut self, limits: &TrainLimits, frames: &[TrainFrame]) {
        self.order.clear();
        self.trains.clear();
        self.keys.clear();
        self.padding = 0;
        if limits.max_frames <= 1 {
            return self.one_by_one(frames);
        }
        self.sort(limits.order, frames);
        let mut from = 0;
        while from < self.keys.len() {
            from = self.form(limits, frames, from);
        }
    }

    fn one_by_one(&mut self, frames: &[TrainFrame]) {
        for (position, frame) in (0_u32..).zip(frames) {
            self.order.push(position);
            self.trains.push(PlannedTrain {
                group: frame.group,
                first: position,
                count: 1,
                segment: frame.len,
            });
        }
    }

    /// Key = group, length (or nothing), position.
    fn sort(&mut self, order: Order, frames: &[TrainFrame]) {
        let by_length = u64::from(order == Order::Length);
        self.keys.extend((0_u64..).zip(frames).map(|(position, frame)| {
            u64::from(frame.group.0) << 48 | (by_length * u64::from(frame.sort_len)) << 32 | position
        }));
        self.keys.sort_unstable();
    }

    #[allow(clippy::cast_possible_truncation, reason = "the low 32 bits of a key are the position")]
    fn position(&self, sorted: usize) -> u32 {
        self.keys[sorted] as u32
    }

    fn frame<'a>(&self, frames: &'a [TrainFrame], sorted: usize) -> &'a TrainFrame {
        &frames[self.position(sorted) as usize]
    }

    /// Appends the train that begins with the frame at `from` of the sorted keys; returns where the next one begins.
    ///
    /// The last frame of a train is not padded, so the shortest goes there and does not bound the others.
    fn form(&mut self, limits: &TrainLimits, frames: &[TrainFrame], from: usize) -> usize {
        let head = *self.frame(frames, from);
        let mut reach = Reach::new(limits, &head);
        let second = (from + 1 < self.keys.len()).then(|| *self.frame(frames, from + 1));
        let sorted = limits.order == Order::Length;
        let head_goes_last = sorted && second.is_some_and(|next| head.len < next.len) && !head.is_runt();
        if head_goes_last {
            reach.widen(second.map_or(head.len, |next| next.sort_len));
        }
        let mut end = from + 1;
        if !head.is_runt() {
            while end < self.keys.len() {
                let next = *self.frame(frames, end);
                let count = end - from + 1;
                let closes = next.is_runt() || (!sorted && reach.ends_with(&head, &next, count));
                if !closes && !reach.admits(&head, &next, count) {
                    break;
                }
                if closes && (head_goes_last || !reach.ends_with(&head, &next, count)) {
                    break;
                }
                end += 1;
                if closes {
                    break;
                }
            }
        }
        self.seal(frames, from, end, head_goes_last);
        end
    }

    fn seal(&mut self, frames: &[TrainFrame], from: usize, end: usize, head_goes_last: bool) {
        let first = u32::try_from(self.order.len()).unwrap_or(u32::MAX);
        let count = u32::try_from(end - from).unwrap_or(u32::MAX);
        let rotate = usize::from(head_goes_last && end - from > 1);
        for sorted in (from + rotate..end).chain(from..from + rotate) {
            let position = self.position(sorted);
            self.order.push(position);
        }
        let members = &self.order[first as usize..];
        let segment = members.iter().map(|&p| frames[p as usize].len).max().unwrap_or(0);
        let padded = members.len().saturating_sub(1);
        self.padding +=
            members[..padded].iter().map(|&p| u64::from(segment - frames[p as usize].len)).sum::<u64>();
        let group = frames[self.position(from) as usize].group;
        self.trains.push(PlannedTrain { group, first, count, segment });
    }
}

/// How far a train may go: lengths between what was seen so far and what padding allows.
struct Reach<'a> {
    limits: &'a TrainLimits,
    shortest: u32,
    longest: u32,
}

impl Reach<'_> {
    fn new<'a>(limits: &'a TrainLimits, head: &TrainFrame) -> Reach<'a> {
        Reach { limits, shortest: u32::from(head.sort_len), longest: u32::from(head.sort_len) }
    }

    /// The head goes last, unpadded: the bounds start at the second frame.
    fn widen(&mut self, second: u16) {
        self.shortest = u32::from(second);
        self.longest = u32::from(second);
    }

    /// Whether `next` may be frame number `count` of the train that `head` began, padded if need be.
    fn admits(&mut self, head: &TrainFrame, next: &TrainFrame, count: usize) -> bool {
        let length = u32::from(next.sort_len);
        let (shortest, longest) = (self.shortest.min(length), self.longest.max(length));
        let padding = u64::from(self.limits.padding_percent);
        let fits = self.holds(head, next, count, longest)
            && u64::from(longest) * 100 <= u64::from(shortest) * (100 + padding);
        if fits {
            (self.shortest, self.longest) = (shortest, longest);
        }
        fits
    }

    /// Whether `next` may be the last frame, shorter than the segment and not padded, of the train that `head` began.
    fn ends_with(&self, head: &TrainFrame, next: &TrainFrame, count: usize) -> bool {
        u32::from(next.len) < self.longest && self.holds(head, next, count, self.longest)
    }

    fn holds(&self, head: &TrainFrame, next: &TrainFrame, count: usize, longest: u32) -> bool {
        next.group == head.group
            && count <= self.limits.max_frames
            && head.len <= self.limits.max_segment
            && next.sort_len <= self.limits.max_segment
            && longest as usize * count <= self.limits.max_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: TrainLimits = TrainLimits {
        max_frames: 64,
        max_bytes: 65_487,
        max_segment: 1_452,
        padding_percent: 15,
        order: Order::Length,
    };

    fn whole(group: u16, len: u16) -> TrainFrame {
        TrainFrame::whole(GroupIndex(group), len)
    }

    fn planned(limits: &TrainLimits, frames: &[TrainFrame]) -> TrainPlan {
        let mut plan = TrainPlan::new();
        plan.make(limits, frames);
        plan
    }

    fn lengths(plan: &TrainPlan, frames: &[TrainFrame], train: &PlannedTrain) -> Vec<u16> {
        let range = train.first as usize..(train.first + train.count) as usize;
        plan.order[range].iter().map(|&p| frames[p as usize].len).collect()
    }

    #[test]
    fn frames_of_nearly_equal_length_share_a_train_and_the_shortest_goes_last() {
        let frames = [whole(1, 230), whole(1, 100), whole(1, 226), whole(1, 200)];
        let plan = planned(&LIMITS, &frames);
        assert_eq!(plan.trains.len(), 1);
        assert_eq!(lengths(&plan, &frames, &plan.trains[0]), [200, 226, 230, 100]);
        assert_eq!(plan.trains[0].segment, 230);
        assert_eq!(plan.padding, 30 + 4);
    }

    #[test]
    fn groups_never_share_a_train() {
        let frames: Vec<TrainFrame> = (0..10).map(|i| whole(i % 2, 300)).collect();
        let plan = planned(&LIMITS, &frames);
        assert_eq!(plan.trains.iter().map(|t| (t.group.0, t.count)).collect::<Vec<_>>(), [(0, 5), (1, 5)]);
    }

    #[test]
    fn a_frame_above_the_mtu_travels_alone() {
        let frames = [whole(1, 1_453), whole(1, 1_453), whole(1, 1_452), whole(1, 1_452)];
        let plan = planned(&LIMITS, &frames);
        assert_eq!(plan.trains.iter().map(|t| t.count).collect::<Vec<_>>(), [2, 1, 1]);
    }

    #[test]
    fn fragments_keep_their_order_and_the_short_last_one_ends_the_train() {
        let fragment = |len| TrainFrame { group: GroupIndex(3), len, sort_len: 1_452 };
        let frames = [fragment(1_452), fragment(1_452), fragment(200), fragment(1_452), fragment(90)];
        let plan = planned(&LIMITS, &frames);
        assert_eq!(plan.order, [0, 1, 2, 3, 4]);
        assert_eq!(plan.trains.iter().map(|t| t.count).collect::<Vec<_>>(), [3, 2]);
        assert_eq!(plan.padding, 0);
    }

    #[test]
    fn without_trains_frames_leave_one_by_one_as_they_came() {
        let frames = [whole(2, 300), whole(1, 200), whole(2, 100)];
        let plan = planned(&TrainLimits { max_frames: 1, ..LIMITS }, &frames);
        assert_eq!(plan.order, [0, 1, 2]);
        assert_eq!((plan.trains.len(), plan.padding), (3, 0));
    }

    #[test]
    fn arrival_order_holds_within_a_group() {
        let limits = TrainLimits { order: Order::Arrival, ..LIMITS };
        let frames: Vec<TrainFrame> = [300, 310, 90, 305, 1000, 301].map(|len| whole(1, len)).to_vec();
        let plan = planned(&limits, &frames);
        assert_eq!(plan.order, [0, 1, 2, 3, 4, 5]);
        assert_eq!(plan.trains.iter().map(|t| t.count).collect::<Vec<_>>(), [3, 1, 2]);
    }

    fn frames() -> impl Strategy<Value = Vec<TrainFrame>> {
        let frame = (0_u16..5, 44_u16..3_000, prop::bool::weighted(0.1)).prop_map(|(group, len, runt)| {
            TrainFrame { group: GroupIndex(group), len, sort_len: if runt { len.max(1_452) } else { len } }
        });
        prop::collection::vec(frame, 0..400)
    }

    fn limits() -> impl Strategy<Value = TrainLimits> {
        (1_usize..70, 0_u32..30, prop::bool::ANY).prop_map(|(max_frames, padding_percent, arrival)| {
            TrainLimits {
                max_frames,
                padding_percent,
                order: if arrival { Order::Arrival } else { Order::Length },
                ..LIMITS
            }
        })
    }

    proptest! {
        #[test]
        fn every_plan_keeps_its_promises(limits in limits(), frames in frames()) {
            let plan = planned(&limits, &frames);
            let mut seen = plan.order.clone();
            seen.sort_unstable();
            prop_assert!(seen.iter().copied().eq(0..u32::try_from(frames.len()).unwrap()));
            let (mut next, mut padding) = (0, 0);
            for train in &plan.trains {
                prop_assert_eq!(train.first, next);
                prop_assert!(train.count >= 1 && train.count as usize <= limits.max_frames);
                next += train.count;
                let lengths = lengths(&plan, &frames, train);
                let (last, padded) = lengths.split_last().unwrap();
                prop_assert!(lengths.iter().max() == Some(&train.segment) && *last <= train.segment);
                let members = &plan.order[train.first as usize..][..train.count as usize];
                prop_assert!(members.iter().all(|&p| frames[p as usize].group == train.group));
                if train.count > 1 {
                    prop_assert!(train.segment <= limits.max_segment);
                    prop_assert!(usize::from(train.segment) * train.count as usize <= limits.max_bytes);
                }
                for len in padded {
                    let most = u64::from(*len) * u64::from(100 + limits.padding_percent);
                    prop_assert!(u64::from(train.segment) * 100 <= most);
                    padding += u64::from(train.segment - len);
                }
            }
            prop_assert_eq!(next as usize, frames.len());
            prop_assert_eq!(plan.padding, padding);
        }

        #[test]
        fn arrival_order_is_never_broken_within_a_group(frames in frames()) {
            let plan = planned(&TrainLimits { order: Order::Arrival, ..LIMITS }, &frames);
            for group in 0..5 {
                let of_group: Vec<u32> =
                    plan.order.iter().copied().filter(|&p| frames[p as usize].group.0 == group).collect();
                prop_assert!(of_group.is_sorted());
            }
        }
    }
}
