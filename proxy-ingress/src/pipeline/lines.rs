//! The emit interfaces as the links say: which of them can emit.
//!
//! The runtime looks at the links *behind* what was handed over ([`RoundIo::look`](super::round::RoundIo::look)), and writes here
//! what it found. What the kernel took before an interface lost its carrier may not have left: so no claim is `sent` before
//! that look. Cost: nothing while nothing changes.

/// One emit interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    usable: bool,
    /// It was cut, if only for a moment, since the last hand-over was confirmed.
    cut: bool,
}

/// All emit interfaces, in the order of the sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lines {
    lines: Vec<Line>,
}

impl Lines {
    /// So many, all usable.
    pub fn new(lines: usize) -> Lines {
        Lines { lines: vec![Line { usable: true, cut: false }; lines.max(1)] }
    }

    /// What a look found: whether the interface can emit now, and whether it was cut since the look before.
    pub fn set(&mut self, at: usize, usable: bool, cut: bool) {
        if let Some(line) = self.lines.get_mut(at) {
            *line = Line { usable, cut: line.cut || cut };
        }
    }

    /// The interface can emit.
    pub fn usable(&self, at: usize) -> bool {
        self.lines.get(at).is_none_or(|line| line.usable)
    }

    /// One of them can.
    pub fn any_usable(&self) -> bool {
        self.lines.iter().any(|line| line.usable)
    }

    /// None kept its carrier since the last hand-over was confirmed: what was handed over since may not have left.
    pub(super) fn all_cut(&self) -> bool {
        self.lines.iter().all(|line| line.cut || !line.usable)
    }

    /// What was handed over so far is confirmed, or given up.
    pub(super) fn confirmed(&mut self) {
        self.lines.iter_mut().for_each(|line| line.cut = false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_carrier_that_came_back_was_cut_all_the_same() {
        let mut lines = Lines::new(2);
        assert!(!lines.all_cut());
        lines.set(0, false, true);
        assert!(lines.any_usable() && !lines.usable(0) && !lines.all_cut(), "the other one went on");
        lines.set(0, true, false);
        lines.set(1, true, true);
        assert!(lines.all_cut(), "each was cut once");
        lines.confirmed();
        assert!(!lines.all_cut());
    }
}
