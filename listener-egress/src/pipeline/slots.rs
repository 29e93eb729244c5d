//! A table whose entries are named by a slot number and a generation, so that a name kept elsewhere (a deadline queue,
//! a claim) can be found to be stale instead of hitting whatever took the place.
//!
//! O(1) each; memory grows to the high-water mark and is reused. The owner bounds the number of entries.

/// Name of an entry; never matches a later entry in the same place (until 2^32 reuses).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot {
    index: u32,
    generation: u32,
}

impl Slot {
    /// The slot as an opaque number.
    pub(crate) fn token(self) -> u64 {
        (u64::from(self.generation) << 32) | u64::from(self.index)
    }
    /// The inverse of `token`.
    #[allow(clippy::cast_possible_truncation, reason = "two halves of 32 bits")]
    pub(crate) fn of_token(token: u64) -> Slot {
        Slot { index: token as u32, generation: (token >> 32) as u32 }
    }
}

struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

/// See the module text.
pub(crate) struct Slots<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
}

impl<T> Slots<T> {
    pub(crate) fn new() -> Slots<T> {
        Slots { entries: Vec::new(), free: Vec::new() }
    }
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }
    /// # Panics
    /// Never: owners bound their tables far below 2^32 entries.
    #[allow(clippy::cast_possible_truncation, reason = "owners bound the table far below 2^32 entries")]
    pub(crate) fn insert(&mut self, value: T) -> Slot {
        if let Some(index) = self.free.pop() {
            let entry = &mut self.entries[index as usize];
            entry.value = Some(value);
            return Slot { index, generation: entry.generation };
        }
        let index = self.entries.len() as u32;
        self.entries.push(Entry { generation: 0, value: Some(value) });
        Slot { index, generation: 0 }
    }
    pub(crate) fn get(&self, slot: Slot) -> Option<&T> {
        let entry = self.entries.get(slot.index as usize)?;
        if entry.generation == slot.generation { entry.value.as_ref() } else { None }
    }
    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        let entry = self.entries.get_mut(slot.index as usize)?;
        if entry.generation == slot.generation { entry.value.as_mut() } else { None }
    }
    pub(crate) fn remove(&mut self, slot: Slot) -> Option<T> {
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
    pub(crate) fn places(&self) -> usize {
        self.entries.len()
    }
    /// The live entry at a place, for sweeps and sampling.
    #[allow(clippy::cast_possible_truncation, reason = "places are below 2^32")]
    pub(crate) fn at(&self, place: usize) -> Option<(Slot, &T)> {
        let entry = self.entries.get(place)?;
        let value = entry.value.as_ref()?;
        Some((Slot { index: place as u32, generation: entry.generation }, value))
    }
}
