//! How many frames and bytes wait, for an answer of the store or parked, and how many may.

/// See the module text.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WaitingLoad {
    pub(super) frames: usize,
    pub(super) bytes: usize,
}

impl WaitingLoad {
    pub(super) fn add(&mut self, bytes: u32) {
        self.frames += 1;
        self.bytes += bytes as usize;
    }

    pub(super) fn remove(&mut self, bytes: u32) {
        self.frames = self.frames.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes as usize);
    }

    /// One more frame of `bytes` would be too much.
    pub(super) fn would_exceed(&self, limit: &WaitingLoad, bytes: u32) -> bool {
        self.frames >= limit.frames || self.bytes + bytes as usize > limit.bytes
    }
}
