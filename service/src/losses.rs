//! What was lost, as it is counted and as it is shown. [`crate::ledger`] keeps it.

use std::fmt;

/// What was lost at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Frames, or numbers of them.
    pub frames: u64,
    /// Their bytes, where they are known.
    pub bytes: u64,
    /// HashKey of their flow; 0 where they have none, or it is not known.
    pub flow: u64,
    /// First number; 0 where they have none, or it is not known.
    pub first: u64,
    /// Last number.
    pub last: u64,
}

impl Loss {
    /// Frames of which nothing else is known.
    pub fn frames(frames: u64) -> Loss {
        Loss { frames, ..Loss::default() }
    }

    /// Numbers `first..=last` of a flow.
    pub fn numbers(flow: u64, first: u64, last: u64) -> Loss {
        Loss { frames: last.saturating_sub(first).saturating_add(1), bytes: 0, flow, first, last }
    }

    /// The same, with the bytes.
    pub fn with_bytes(self, bytes: u64) -> Loss {
        Loss { bytes, ..self }
    }
}

impl fmt::Display for LossRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Loss { frames, bytes, flow, first, last } = self.lost;
        write!(f, "{}: {frames} frames", self.reason)?;
        if bytes > 0 {
            write!(f, ", {bytes} bytes")?;
        }
        if flow != 0 {
            write!(f, "; the last of flow {flow:016x}")?;
        }
        if first != 0 {
            write!(f, ", numbers {first} to {last}")?;
        }
        Ok(())
    }
}

/// A row as it is shown: a reason, what was lost by it, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LossRow {
    /// Label of the reason.
    pub reason: &'static str,
    /// All that was lost by it: frames and bytes. Flow and numbers are those of the last loss.
    pub lost: Loss,
    /// Time of the first loss, in ms since 1970.
    pub first_unix_ms: u64,
    /// Time of the last loss.
    pub last_unix_ms: u64,
}

/// Somebody who has losses to show.
pub trait LossSource: Send + Sync {
    /// Adds a row for each reason by which something was lost.
    fn losses(&self, rows: &mut Vec<LossRow>);
}
