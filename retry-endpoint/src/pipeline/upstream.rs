//! Request collapsing: what is missing here is fetched once, for all who ask.
//!
//! The requester got its MISS at once and goes on. The fetched frame is stored and replayed to its group. A fetch ends when
//! its frame comes, when every upstream said MISS, or when the time of the last upstream is over. The next request for the
//! frame then starts a new fetch.
//!
//! Limits: a fixed number of fetches; one more is refused and counted. Cost: one map lookup a number.

use frame::{HashKey, SeqNum};
use hashbrown::HashMap;
use std::time::{Duration, Instant};

/// Names a frame: what is being fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameKey {
    /// Its flow.
    pub hash_key: HashKey,
    /// Its number.
    pub seq: SeqNum,
}

/// A request to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamRequest {
    /// What.
    pub wanted: FrameKey,
    /// Index of the upstream.
    pub endpoint: usize,
}

/// What became of the wish for a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchStart {
    /// Ask this upstream now.
    Ask(UpstreamRequest),
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
    pending: HashMap<FrameKey, Fetch>,
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
    pub fn start(&mut self, wanted: FrameKey, now: Instant) -> FetchStart {
        if self.pending.contains_key(&wanted) {
            return FetchStart::Collapsed;
        }
        if self.pending.len() >= self.most || self.endpoints == 0 {
            return FetchStart::Full;
        }
        self.pending.insert(wanted, Fetch { endpoint: 0, deadline: now + self.timeout });
        FetchStart::Ask(UpstreamRequest { wanted, endpoint: 0 })
    }

    /// The frame came, from wherever: true if it was wanted.
    pub fn arrived(&mut self, wanted: FrameKey) -> bool {
        self.pending.remove(&wanted).is_some()
    }

    /// An upstream does not have it: the next one, or the end of the fetch.
    pub fn missed(&mut self, wanted: FrameKey, endpoint: usize, now: Instant) -> Option<UpstreamRequest> {
        let fetch = self.pending.get_mut(&wanted).filter(|fetch| fetch.endpoint == endpoint)?;
        let next = endpoint + 1;
        if next >= self.endpoints {
            self.pending.remove(&wanted);
            return None;
        }
        *fetch = Fetch { endpoint: next, deadline: now + self.timeout };
        Some(UpstreamRequest { wanted, endpoint: next })
    }

    /// Moves everything that is overdue to its next upstream; `requests` gets the requests, the result says how many ended
    /// without a frame.
    pub fn overdue(&mut self, now: Instant, requests: &mut Vec<UpstreamRequest>) -> usize {
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
            requests.push(UpstreamRequest { wanted, endpoint: fetch.endpoint });
            true
        });
        before - self.pending.len()
    }

    /// Fetches under way.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }
}
