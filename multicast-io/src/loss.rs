//! `--inject-loss`: drops a seeded random share of what arrives, before anyone sees it. For tests and the demo.

/// Decides the fate of datagrams.
#[derive(Clone, Debug)]
pub struct Loss {
    _state: u64,
    _threshold: u64,
    dropped: u64,
}

impl Loss {
    /// `percent` 0.0 ..= 100.0.
    pub fn new(_percent: f64, _seed: u64) -> Loss {
        unimplemented!()
    }
    /// True: drop this one (and count it).
    pub fn drop_next(&mut self) -> bool {
        unimplemented!()
    }
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
    /// Applies `drop_next` to arrivals from index `from` on.
    pub fn apply(&mut self, _burst: &mut crate::Burst, _from: usize) {
        unimplemented!()
    }
}
