//! Missing numbers as ranges: for each flow a set of ranges that share no number, each with a name and a value.
//!
//! A pure data structure: it knows no time, no request and no reason.
//!
//! Promise: a number is in one range at most. A name is valid until its range is gone; the part behind a cut has a name of
//! its own.
//!
//! Limits: the owner bounds the number of ranges. Cost: O(log ranges of the flow) for each call, whatever their length.

use crate::slots::{Slot, Slots};
use std::collections::BTreeMap;

/// Name of a range. It never matches a later range.
pub type GapId = Slot;

/// The ranges of one flow. Their contents are in a [`Gaps`].
#[derive(Debug, Default)]
pub struct Ranges {
    by_first: BTreeMap<u64, GapId>,
}

impl Ranges {
    /// The lowest number that is missing.
    pub fn first(&self) -> Option<u64> {
        self.by_first.keys().next().copied()
    }
    /// Nothing is missing.
    pub fn is_empty(&self) -> bool {
        self.by_first.is_empty()
    }
}

/// One range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range<V> {
    /// First number.
    pub first: u64,
    /// Last number, inclusive.
    pub last: u64,
    /// What the owner keeps with it.
    pub value: V,
}

impl<V> Range<V> {
    /// How many numbers.
    pub fn numbers(&self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }
}

/// What became of a range when one of its numbers was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken<V> {
    /// Its value, as it was.
    pub value: V,
    /// What is left of it below the number, under the old name.
    pub below: Option<GapId>,
    /// What is left of it above the number: under the old name where nothing is left below.
    pub above: Option<GapId>,
}

impl<V> Taken<V> {
    /// The part that got a name of its own.
    pub fn cut_off(&self) -> Option<GapId> {
        self.above.filter(|_| self.below.is_some())
    }
}

/// The ranges of all flows.
pub struct Gaps<V> {
    ranges: Slots<Range<V>>,
    numbers: u64,
}

impl<V> Default for Gaps<V> {
    fn default() -> Gaps<V> {
        Gaps { ranges: Slots::new(), numbers: 0 }
    }
}

impl<V: Copy> Gaps<V> {
    /// Ranges, over all flows.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Nothing is missing.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Missing numbers, over all flows.
    pub fn numbers(&self) -> u64 {
        self.numbers
    }

    /// Adds a range. None of its numbers may be in the set.
    pub fn insert(&mut self, flow: &mut Ranges, range: Range<V>) -> GapId {
        debug_assert!(range.first <= range.last && self.find_within(flow, range.first, range.last).is_none());
        self.numbers = self.numbers.saturating_add(range.numbers());
        let first = range.first;
        let id = self.ranges.insert(range);
        flow.by_first.insert(first, id);
        id
    }

    /// The range that holds a number.
    pub fn find(&self, flow: &Ranges, number: u64) -> Option<GapId> {
        let (_, &id) = flow.by_first.range(..=number).next_back()?;
        (self.ranges.get(id)?.last >= number).then_some(id)
    }

    /// The range that holds the first missing number of `first..=last`.
    pub fn find_within(&self, flow: &Ranges, first: u64, last: u64) -> Option<GapId> {
        if let Some(id) = self.find(flow, first) {
            return Some(id);
        }
        let (&start, &id) = flow.by_first.range(first..).next()?;
        (start <= last).then_some(id)
    }

    /// The range of this name.
    pub fn get(&self, id: GapId) -> Option<&Range<V>> {
        self.ranges.get(id)
    }

    /// Its value, to change it.
    pub fn value_mut(&mut self, id: GapId) -> Option<&mut V> {
        self.ranges.get_mut(id).map(|range| &mut range.value)
    }

    /// Takes one number out: its range shrinks, is cut in two, or goes. `None`: the number is not missing.
    pub fn take(&mut self, flow: &mut Ranges, number: u64) -> Option<Taken<V>> {
        let id = self.find(flow, number)?;
        let range = self.ranges.get_mut(id)?;
        let value = range.value;
        self.numbers -= 1;
        let (below, above) = match (range.first == number, range.last == number) {
            (true, true) => {
                flow.by_first.remove(&number);
                self.ranges.remove(id);
                (None, None)
            }
            (true, false) => {
                range.first += 1;
                flow.by_first.remove(&number);
                flow.by_first.insert(number + 1, id);
                (None, Some(id))
            }
            (false, true) => {
                range.last -= 1;
                (Some(id), None)
            }
            (false, false) => {
                let rest = Range { first: number + 1, ..*range };
                range.last = number - 1;
                let rest = self.ranges.insert(rest);
                flow.by_first.insert(number + 1, rest);
                (Some(id), Some(rest))
            }
        };
        Some(Taken { value, below, above })
    }

    /// Cuts a range so that it ends before `at`. The rest becomes a range of its own with the same value; `None` where
    /// `at` is not inside the range.
    pub fn split(&mut self, flow: &mut Ranges, id: GapId, at: u64) -> Option<GapId> {
        let range = self.ranges.get_mut(id)?;
        if at <= range.first || at > range.last {
            return None;
        }
        let rest = Range { first: at, ..*range };
        range.last = at - 1;
        let rest = self.ranges.insert(rest);
        flow.by_first.insert(at, rest);
        Some(rest)
    }

    /// Lets a range end one number later. That number may not be in the set.
    pub fn grow(&mut self, id: GapId) {
        if let Some(range) = self.ranges.get_mut(id) {
            range.last = range.last.saturating_add(1);
            self.numbers += 1;
        }
    }

    /// Takes a range out.
    pub fn remove(&mut self, flow: &mut Ranges, id: GapId) -> Option<Range<V>> {
        let range = self.ranges.remove(id)?;
        flow.by_first.remove(&range.first);
        self.numbers = self.numbers.saturating_sub(range.numbers());
        Some(range)
    }

    /// Takes the lowest range of a flow out.
    pub fn remove_first(&mut self, flow: &mut Ranges) -> Option<Range<V>> {
        let (_, id) = flow.by_first.pop_first()?;
        let range = self.ranges.remove(id)?;
        self.numbers = self.numbers.saturating_sub(range.numbers());
        Some(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn range(first: u64, last: u64) -> Range<char> {
        Range { first, last, value: 'v' }
    }

    /// What the ranges of a flow hold, in order.
    fn held(gaps: &Gaps<char>, flow: &Ranges) -> Vec<(u64, u64)> {
        let range = |id: &GapId| gaps.get(*id).map(|range| (range.first, range.last));
        flow.by_first.values().filter_map(range).collect()
    }

    #[test]
    fn a_number_in_the_middle_cuts_its_range_in_two() {
        let (mut gaps, mut flow) = (Gaps::default(), Ranges::default());
        let id = gaps.insert(&mut flow, range(5, 9));
        let taken = gaps.take(&mut flow, 7).unwrap();
        assert_eq!(held(&gaps, &flow), [(5, 6), (8, 9)]);
        assert_eq!((taken.value, taken.below, taken.cut_off()), ('v', Some(id), taken.above));
        assert_eq!(gaps.find(&flow, 8), taken.above);
        assert_eq!((gaps.numbers(), gaps.len()), (4, 2));
        assert_eq!(gaps.take(&mut flow, 7), None, "it is not missing any more");
    }

    #[test]
    fn the_ends_of_a_range_keep_its_name_and_the_last_number_ends_it() {
        let (mut gaps, mut flow) = (Gaps::default(), Ranges::default());
        let id = gaps.insert(&mut flow, range(5, 7));
        let first = gaps.take(&mut flow, 5).unwrap();
        assert_eq!((first.below, first.above, first.cut_off()), (None, Some(id), None));
        let last = gaps.take(&mut flow, 7).unwrap();
        assert_eq!((last.below, last.above), (Some(id), None));
        let only = gaps.take(&mut flow, 6).unwrap();
        assert_eq!((only.below, only.above), (None, None));
        assert!(gaps.is_empty() && flow.is_empty() && gaps.get(id).is_none());
    }

    #[test]
    fn a_cut_leaves_both_parts_their_value_and_the_rest_a_new_name() {
        let (mut gaps, mut flow) = (Gaps::default(), Ranges::default());
        let id = gaps.insert(&mut flow, range(1, 10));
        for outside in [0, 1, 11] {
            assert_eq!(gaps.split(&mut flow, id, outside), None);
        }
        let rest = gaps.split(&mut flow, id, 4).unwrap();
        *gaps.value_mut(rest).unwrap() = 'r';
        assert_eq!(held(&gaps, &flow), [(1, 3), (4, 10)]);
        assert_eq!((gaps.get(id).unwrap().value, gaps.get(rest).unwrap().value), ('v', 'r'));
        assert_eq!(gaps.numbers(), 10);
        assert_eq!(gaps.find_within(&flow, 0, 4), Some(id));
        assert_eq!(gaps.find_within(&flow, 0, 0), None);
    }

    #[test]
    fn the_end_of_all_numbers_is_a_number_like_any_other() {
        let (mut gaps, mut flow) = (Gaps::default(), Ranges::default());
        gaps.insert(&mut flow, range(u64::MAX - 1, u64::MAX));
        assert_eq!(gaps.take(&mut flow, u64::MAX).map(|taken| taken.above), Some(None));
        assert_eq!(held(&gaps, &flow), [(u64::MAX - 1, u64::MAX - 1)]);
    }

    /// What may be done to the set.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Insert { flow: usize, first: u64, len: u64 },
        Take { flow: usize, number: u64 },
        Split { flow: usize, inside: u64, at: u64 },
        Grow { flow: usize, inside: u64 },
        Remove { flow: usize, inside: u64 },
        RemoveFirst { flow: usize },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let (flow, number) = (0_usize..3, 1_u64..60);
        let step = prop_oneof![
            (flow.clone(), number.clone(), 0_u64..12).prop_map(|(flow, first, len)| Step::Insert {
                flow,
                first,
                len
            }),
            (flow.clone(), number.clone()).prop_map(|(flow, number)| Step::Take { flow, number }),
            (flow.clone(), number.clone(), number.clone()).prop_map(|(flow, inside, at)| Step::Split {
                flow,
                inside,
                at
            }),
            (flow.clone(), number.clone()).prop_map(|(flow, inside)| Step::Grow { flow, inside }),
            (flow.clone(), number).prop_map(|(flow, inside)| Step::Remove { flow, inside }),
            flow.prop_map(|flow| Step::RemoveFirst { flow }),
        ];
        proptest::collection::vec(step, 0..80)
    }

    proptest! {
        /// Whatever is done, the ranges hold the numbers that a plain set holds, share none, and name each once.
        #[test]
        fn ranges_hold_what_a_plain_set_of_numbers_holds(steps in steps()) {
            let mut gaps: Gaps<char> = Gaps::default();
            let mut flows: [Ranges; 3] = Default::default();
            let mut plain: [BTreeSet<u64>; 3] = Default::default();
            for step in steps {
                match step {
                    Step::Insert { flow, first, len } => {
                        let free = (first..=first + len).all(|number| !plain[flow].contains(&number));
                        if free {
                            gaps.insert(&mut flows[flow], range(first, first + len));
                            plain[flow].extend(first..=first + len);
                        }
                    }
                    Step::Take { flow, number } => {
                        let taken = gaps.take(&mut flows[flow], number);
                        prop_assert_eq!(taken.is_some(), plain[flow].remove(&number));
                    }
                    Step::Split { flow, inside, at } => {
                        if let Some(id) = gaps.find(&flows[flow], inside) {
                            let rest = gaps.split(&mut flows[flow], id, at);
                            prop_assert_eq!(rest, rest.and(gaps.find(&flows[flow], at)));
                        }
                    }
                    Step::Grow { flow, inside } => {
                        let grows = gaps.find(&flows[flow], inside).and_then(|id| Some((id, gaps.get(id)?.last + 1)));
                        if let Some((id, next)) = grows && !plain[flow].contains(&next) {
                            gaps.grow(id);
                            plain[flow].insert(next);
                        }
                    }
                    Step::Remove { flow, inside } => {
                        if let Some(id) = gaps.find(&flows[flow], inside) {
                            let gone = gaps.remove(&mut flows[flow], id).unwrap();
                            (gone.first..=gone.last).for_each(|number| assert!(plain[flow].remove(&number)));
                        }
                    }
                    Step::RemoveFirst { flow } => {
                        let gone = gaps.remove_first(&mut flows[flow]);
                        prop_assert_eq!(gone.map(|gone| gone.first), plain[flow].first().copied());
                        gone.into_iter().flat_map(|gone| gone.first..=gone.last).for_each(|number| {
                            plain[flow].remove(&number);
                        });
                    }
                }
                for (ranges, numbers) in flows.iter().zip(&plain) {
                    let all: Vec<u64> = held(&gaps, ranges).into_iter().flat_map(|(first, last)| first..=last).collect();
                    prop_assert!(all.iter().eq(numbers), "{all:?} is not {numbers:?}");
                    prop_assert_eq!(ranges.first(), numbers.first().copied());
                    for number in 0..75 {
                        let found = gaps.find(ranges, number).and_then(|id| gaps.get(id));
                        prop_assert_eq!(found.is_some(), numbers.contains(&number));
                        prop_assert!(found.is_none_or(|range| range.first <= number && number <= range.last));
                    }
                }
                prop_assert_eq!(gaps.numbers(), plain.iter().map(|numbers| numbers.len() as u64).sum::<u64>());
                prop_assert_eq!(gaps.len(), flows.iter().map(|ranges| ranges.by_first.len()).sum::<usize>());
            }
        }
    }
}
