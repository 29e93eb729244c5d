//! What a caller gives to the protocol and what it hears back: frames in, verdicts and decisions out.

use crate::key::ClaimKey;

/// The caller's name for a frame that waits: opaque here.
pub type Token = u64;

/// A claim that was won (or failed open) and must be answered with `sent` or `failed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// A frame that asks: what it claims, and what it costs to keep it while it waits (parking is bounded in bytes).
pub trait Claimant {
    /// The claim on its id.
    fn key(&self) -> &ClaimKey;
    /// The claim on its variant, of a frame with bytes that the id does not prove. Such a frame is sent if it wins either.
    fn variant(&self) -> Option<&ClaimKey> {
        None
    }
    /// Its bytes.
    fn bytes(&self) -> u32;
}

/// What tier 1 says at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Seen before: suppress.
    Seen,
    /// Ours without asking (no tier 2, or it is bypassed): send.
    Won(Ticket),
    /// Tier 2 is being asked: keep the frame under its token until a `Decision` names it.
    Wait,
}

/// Why a frame is let through or held back; labels of the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// The claim is ours.
    Won,
    /// The id is another's, or was seen, but not with these bytes: the variant is ours.
    Variant,
    /// Another owner had it and did not settle it within its lease.
    TakenOver,
    /// No answer in time, error, or an answer that cannot be believed.
    InDoubt,
    /// The backend's breaker is open: tier 1 alone decides.
    BreakerOpen,
    /// Too many frames wait for an answer.
    Bypassed,
    /// Too many bytes are parked: the oldest copy is sent.
    ParkingFull,
    /// The worker is stopping: what waits is sent.
    Draining,
    /// Suppressed: another owner has it and it is settled.
    Settled,
    /// Suppressed: a plain value (Go node, or simple mode).
    Exists,
    /// Suppressed: a listener saw the frame on the fabric.
    Marked,
}

impl Why {
    /// All reasons, by `index`.
    pub const ALL: [Why; 11] = [
        Why::Won,
        Why::Variant,
        Why::TakenOver,
        Why::InDoubt,
        Why::BreakerOpen,
        Why::Bypassed,
        Why::ParkingFull,
        Why::Draining,
        Why::Settled,
        Why::Exists,
        Why::Marked,
    ];
    /// Position in tables by reason.
    pub fn index(self) -> usize {
        self as usize
    }
    /// Label of the counters.
    pub fn label(self) -> &'static str {
        const LABELS: [&str; Why::ALL.len()] = [
            "won",
            "variant",
            "taken_over",
            "in_doubt",
            "breaker_open",
            "bypassed",
            "parking_full",
            "draining",
            "settled",
            "exists",
            "marked",
        ];
        LABELS[self.index()]
    }
    /// Whether the claim was granted.
    pub fn grants(self) -> bool {
        matches!(self, Why::Won | Why::Variant | Why::TakenOver)
    }
    /// Whether the frame is let through.
    pub fn sends(self) -> bool {
        !matches!(self, Why::Settled | Why::Exists | Why::Marked)
    }
}

/// Fate of a frame that waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Send it, then answer the ticket.
    Send {
        /// The frame.
        token: Token,
        /// To be answered with `sent` or `failed`.
        ticket: Ticket,
        /// Label of the counter.
        why: Why,
    },
    /// Another node has sent it.
    Suppress {
        /// The frame.
        token: Token,
        /// Label of the counter.
        why: Why,
    },
}

impl Claimant for (ClaimKey, Token, u32) {
    fn key(&self) -> &ClaimKey {
        &self.0
    }
    fn bytes(&self) -> u32 {
        self.2
    }
}
