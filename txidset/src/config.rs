//! Settings of the protocol.

use crate::name::KeyStyle;
use std::time::Duration;

/// `--claim-mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Mode {
    /// A node that is killed between claim and send loses no frame that a sibling also received.
    Settled,
    /// The Go behaviour: one create-only write, not released by a crash.
    Simple,
}

/// Settings of the protocol.
#[derive(Clone, Debug)]
pub struct ClaimsConfig {
    /// `--claim-mode`.
    pub mode: Mode,
    /// `--claim-epoch`: how often claims are closed into an epoch.
    pub epoch: Duration,
    /// `--claim-lease`: how long a copy waits for another owner to settle.
    pub lease: Duration,
    /// How long a claim is remembered in tier 2; zero for ever.
    pub ttl: Duration,
    /// `--claim-park-bytes`: most bytes of parked copies.
    pub park_bytes: usize,
    /// Most keys of one request; one more where the last frame claims two.
    pub max_batch: usize,
    /// Prefix of the keys (`Names`).
    pub prefix: Vec<u8>,
    /// `--claim-keys`: how ids appear in them.
    pub keys: KeyStyle,
    /// Whether there is a tier 2.
    pub tier2: bool,
    /// Whether a listener's courtesy mark suppresses: it speaks about the fabric, so at the ingress gate alone.
    pub marks: bool,
    /// `--cache-op-timeout`: how long a frame waits for an answer about its claim. The wait for room in a request is part of
    /// it. The wait of a parked copy for its owner is not.
    pub answer_timeout: Duration,
}

impl Default for ClaimsConfig {
    fn default() -> ClaimsConfig {
        ClaimsConfig {
            mode: Mode::Settled,
            epoch: Duration::from_millis(50),
            lease: Duration::from_millis(250),
            ttl: Duration::from_secs(600),
            park_bytes: 16 << 20,
            max_batch: 256,
            prefix: b"bsp:tx:".to_vec(),
            keys: KeyStyle::Hex,
            tier2: false,
            marks: true,
            answer_timeout: Duration::MAX,
        }
    }
}

impl ClaimsConfig {
    /// Longest deadline of a call under which siblings never take over from a healthy owner. One lease then holds an epoch,
    /// a send after half a lease, and two calls: the record that is being written and the one that covers the claim.
    pub fn longest_deadline(&self) -> Duration {
        (self.lease / 2).saturating_sub(self.epoch) / 2
    }

    /// What is wrong with the settings, for a person.
    pub fn check(&self) -> Result<(), String> {
        let millis = |duration: Duration| duration.as_millis();
        if self.mode == Mode::Settled && self.tier2 && self.longest_deadline() < Duration::from_millis(5) {
            return Err(format!(
                "--claim-lease {} ms with --claim-epoch {} ms: half a lease must hold an epoch and two backend calls of \
                 5 ms; use a lease of at least {} ms",
                millis(self.lease),
                millis(self.epoch),
                2 * millis(self.epoch) + 20,
            ));
        }
        if self.epoch.is_zero() {
            return Err("--claim-epoch 0: must be at least 1 ms".into());
        }
        Ok(())
    }

    /// Time between two reads of records. Often enough that a copy is let go within two epochs of its owner's record.
    pub(crate) fn read_interval(&self) -> Duration {
        (self.epoch / 2).max(Duration::from_millis(1))
    }

    /// A record outlives every claim that it covers, also one that a sibling looks at in the last moment.
    pub(crate) fn record_ttl(&self) -> Duration {
        if self.ttl.is_zero() { Duration::ZERO } else { self.ttl + 2 * self.lease }
    }
}
