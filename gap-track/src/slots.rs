//! A table whose entries have names: a place and a generation.
//!
//! Why: a name may be kept elsewhere, in a deadline queue or in a claim. When its entry is gone, the name finds nothing; it
//! never finds the entry that took the place.
//!
//! Limits: the owner bounds the number of entries. Memory grows to the highest number so far and is used again.
//! Cost: O(1) each.

/// Name of an entry; never matches a later entry in the same place (until 2^32 reuses).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    index: u32,
    generation: u32,
}

impl Slot {
    /// The slot as an opaque number.
    pub fn token(self) -> u64 {
        (u64::from(self.generation) << 32) | u64::from(self.index)
    }
    /// The inverse of `token`.
    #[allow(clippy::cast_possible_truncation, reason = "two halves of 32 bits")]
    pub fn of_token(token: u64) -> Slot {
        Slot { index: token as u32, generation: (token >> 32) as u32 }
    }
}

struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

/// See the module text.
pub struct Slots<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Slots<T> {
        Slots::new()
    }
}

impl<T> Slots<T> {
    /// An empty table.
    pub fn new() -> Slots<T> {
        Slots { entries: Vec::new(), free: Vec::new() }
    }
    /// Entries now.
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }
    /// No entry is there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Takes in an entry and names it.
    ///
    /// # Panics
    /// Never: owners bound their tables far below 2^32 entries.
    #[allow(clippy::cast_possible_truncation, reason = "owners bound the table far below 2^32 entries")]
    pub fn insert(&mut self, value: T) -> Slot {
        if let Some(index) = self.free.pop() {
            let entry = &mut self.entries[index as usize];
            entry.value = Some(value);
            return Slot { index, generation: entry.generation };
        }
        let index = self.entries.len() as u32;
        self.entries.push(Entry { generation: 0, value: Some(value) });
        Slot { index, generation: 0 }
    }
    /// The entry of this name.
    pub fn get(&self, slot: Slot) -> Option<&T> {
        let entry = self.entries.get(slot.index as usize)?;
        if entry.generation == slot.generation { entry.value.as_ref() } else { None }
    }
    /// The entry of this name, to change it.
    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        let entry = self.entries.get_mut(slot.index as usize)?;
        if entry.generation == slot.generation { entry.value.as_mut() } else { None }
    }
    /// Takes the entry of this name out.
    pub fn remove(&mut self, slot: Slot) -> Option<T> {
        let entry = self.entries.get_mut(slot.index as usize)?;
        if entry.generation != slot.generation {
            return None;
        }
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(slot.index);
        Some(value)
    }
    /// Places ever used: the range for `at`.
    pub fn places(&self) -> usize {
        self.entries.len()
    }
    /// The live entry at a place, for sweeps and sampling.
    #[allow(clippy::cast_possible_truncation, reason = "places are below 2^32")]
    pub fn at(&self, place: usize) -> Option<(Slot, &T)> {
        let entry = self.entries.get(place)?;
        let value = entry.value.as_ref()?;
        Some((Slot { index: place as u32, generation: entry.generation }, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_finds_its_own_entry_and_no_later_one() {
        let mut slots = Slots::new();
        let first = slots.insert('a');
        assert_eq!(slots.remove(first), Some('a'));
        let second = slots.insert('b');
        assert_eq!((slots.get(first), slots.get(second), slots.len()), (None, Some(&'b'), 1));
        assert_eq!(slots.remove(first), None);
        assert_eq!(Slot::of_token(second.token()), second);
        assert_eq!(slots.at(0), Some((second, &'b')));
    }
}
