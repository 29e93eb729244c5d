//! Request collapsing: what is missing here is fetched once, for all who ask.
//!
//! The requester got its MISS at once and goes on; the fetched frame is stored and replayed to its group. A fetch is
//! released when its frame comes, when every upstream said MISS, or when the time of the last one is over; the next
//! request then starts a new one. Nothing is claimed beyond that (a failed fetch must not block the next).
//!
//! Limits: a fixed number of fetches; one more is refused and counted. Cost: one map lookup a number.

use frame::{HashKey, SeqNum};
use hashbrown::HashMap;
use std::time::{Duration, Instant};

/// What is being fetched.
pub type Wanted = (HashKey, SeqNum);

/// A request to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// What.
    pub wanted: Wanted,
    /// Index of the upstream.
    pub endpoint: usize,
}

/// What became of a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Ask this upstream now.
    Ask(Ask),
    /// Somebody asked already.
    Collapsed,
    /// Too much is being fetched.
    Full,
}

#[derive(Clone, Copy, Debug)]
struct Fetch {
    endpoint: usize,
    deadline: Instant,
}

/// See the module text.
#[derive(Debug)]
pub struct Fetches {
    pending: HashMap<Wanted, Fetch>,
    most: usize,
    endpoints: usize,
    timeout: Duration,
}

impl Fetches {
    /// `most` fetches at a time over `endpoints` upstreams, each given `timeout`.
    pub fn new(most: usize, endpoints: usize, timeout: Duration) -> Fetches {
        Fetches { pending: HashMap::with_capacity(most), most, endpoints, timeout }
    }

    /// Somebody here misses this frame.
    pub fn wish(&mut self, wanted: Wanted, now: Instant) -> Wish {
        if self.pending.contains_key(&wanted) {
            return Wish::Collapsed;
        }
        if self.pending.len() >= self.most || self.endpoints == 0 {
            return Wish::Full;
        }
        self.pending.insert(wanted, Fetch { endpoint: 0, deadline: now + self.timeout });
        Wish::Ask(Ask { wanted, endpoint: 0 })
    }

    /// The frame came, from wherever: true if it was wanted.
    pub fn arrived(&mut self, wanted: Wanted) -> bool {
        self.pending.remove(&wanted).is_some()
    }

    /// An upstream does not have it: the next one, or the end of the fetch.
    pub fn missed(&mut self, wanted: Wanted, endpoint: usize, now: Instant) -> Option<Ask> {
        let fetch = self.pending.get_mut(&wanted).filter(|fetch| fetch.endpoint == endpoint)?;
        let next = endpoint + 1;
        if next >= self.endpoints {
            self.pending.remove(&wanted);
            return None;
        }
        *fetch = Fetch { endpoint: next, deadline: now + self.timeout };
        Some(Ask { wanted, endpoint: next })
    }

    /// Moves everything that is overdue to its next upstream; `asks` gets the requests, the result says how many ended
    /// without a frame.
    pub fn overdue(&mut self, now: Instant, asks: &mut Vec<Ask>) -> usize {
        let before = self.pending.len();
        let (endpoints, timeout) = (self.endpoints, self.timeout);
        self.pending.retain(|&wanted, fetch| {
            if now < fetch.deadline {
                return true;
            }
            fetch.endpoint += 1;
            if fetch.endpoint >= endpoints {
                return false;
            }
            fetch.deadline = now + timeout;
            asks.push(Ask { wanted, endpoint: fetch.endpoint });
            true
        });
        before - self.pending.len()
    }

    /// Fetches under way.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }
}
