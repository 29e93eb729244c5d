//! What the store was told about each owner: a record that says *settled* must not lie.

use std::collections::BTreeMap;
use txidset::value::Record;

/// See the module text.
#[derive(Default)]
pub(crate) struct Owners {
    claims: BTreeMap<u64, Vec<(u32, usize)>>,
    records: BTreeMap<u64, Record>,
}

impl Owners {
    /// A claim landed: ids that the owner's record already covers must have been emitted. Returns one that was not.
    pub(crate) fn claimed(
        &mut self,
        owner: u64,
        epoch: u32,
        id: usize,
        emitted: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        self.claims.entry(owner).or_default().push((epoch, id));
        let record = self.records.get(&owner)?;
        (record.released < epoch && epoch <= record.settled && !emitted(id)).then_some(id)
    }

    /// A record landed: what it covers must have been emitted. Returns an id that was not.
    pub(crate) fn recorded(&mut self, record: Record, emitted: impl Fn(usize) -> bool) -> Option<usize> {
        let before = self.records.insert(record.owner, record).map_or(0, |before| before.settled);
        let claims = self.claims.get(&record.owner)?;
        claims
            .iter()
            .filter(|(epoch, _)| before.max(record.released) < *epoch && *epoch <= record.settled)
            .map(|&(_, id)| id)
            .find(|&id| !emitted(id))
    }
}
