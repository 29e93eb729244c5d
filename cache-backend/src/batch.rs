//! Many keys (and values) in one allocation.

/// A list of (key, value) pairs packed into one buffer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValues {
    bytes: Vec<u8>,
    /// (end of key, end of value) of each pair.
    ends: Vec<(u32, u32)>,
}

impl KeyValues {
    /// An empty batch.
    pub fn new() -> KeyValues {
        KeyValues::default()
    }
    /// Keys to read or delete.
    pub fn of_keys<K: AsRef<[u8]>>(keys: impl IntoIterator<Item = K>) -> KeyValues {
        keys.into_iter().map(|key| (key, [])).collect()
    }
    /// Pairs in the batch.
    pub fn len(&self) -> usize {
        self.ends.len()
    }
    /// No pair at all.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }
    /// Adds a pair; a batch stays under 4 GiB, which callers bound.
    #[allow(clippy::cast_possible_truncation, reason = "callers bound a batch far below 4 GiB")]
    pub fn push(&mut self, key: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(key);
        let key_end = self.bytes.len() as u32;
        self.bytes.extend_from_slice(value);
        self.ends.push((key_end, self.bytes.len() as u32));
    }
    /// The pair at `index`.
    pub fn pair(&self, index: usize) -> Option<(&[u8], &[u8])> {
        let &(key_end, value_end) = self.ends.get(index)?;
        let start = index.checked_sub(1).map_or(0, |i| self.ends[i].1);
        let (start, key_end, value_end) = (start as usize, key_end as usize, value_end as usize);
        Some((&self.bytes[start..key_end], &self.bytes[key_end..value_end]))
    }
    /// All pairs in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        (0..self.len()).map(|i| self.pair(i).unwrap_or_default())
    }
    /// Forgets the pairs and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

impl<K: AsRef<[u8]>, V: AsRef<[u8]>> FromIterator<(K, V)> for KeyValues {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> KeyValues {
        let mut batch = KeyValues::new();
        pairs.into_iter().for_each(|(key, value)| batch.push(key.as_ref(), value.as_ref()));
        batch
    }
}
