//! Calls to the store: those of each worker that are under way, and what goes wrong between a process and the store.

use crate::MS;
use crate::fault::{Fault, Kind};
use crate::random::Random;
use crate::store::claimed_ids;
use cache_backend::{Claimed, OpError};
use txidset::{Answer, Ask, RequestId};

/// Deadline of every call; of every call but claims where frames wait for [`ANSWER_TIMEOUT`].
pub(crate) const DEADLINE: u64 = 37 * MS;
/// So long a frame waits for the store (`--cache-op-timeout`).
pub(crate) const ANSWER_TIMEOUT: u64 = 50 * MS;

/// What is wrong between a process and the store.
#[derive(Clone, Copy, Default)]
pub(crate) struct StoreLink {
    partitioned_until: u64,
    requests_land: bool,
    /// Until when, and by how much.
    late_replies: (u64, u64),
    late_landing: (u64, u64),
    breaker_until: u64,
}

/// What becomes of a request.
pub(crate) enum RequestFate {
    /// The breaker is open.
    Refused,
    Lost,
    /// The store carries it out after so long.
    Lands(u64),
}

impl StoreLink {
    pub(crate) fn inject(&mut self, fault: &Fault) {
        match fault.kind {
            Kind::Partition { requests_land } => {
                (self.partitioned_until, self.requests_land) = (fault.end, requests_land);
            }
            Kind::LateReplies { by } => self.late_replies = (fault.end, by),
            Kind::LateLanding { by } => self.late_landing = (fault.end, by),
            Kind::Breaker => self.breaker_until = fault.end,
            _ => {}
        }
    }

    pub(crate) fn request(&self, now: u64, random: &mut Random) -> RequestFate {
        if self.breaker_until > now {
            return RequestFate::Refused;
        }
        if self.partitioned_until > now && !self.requests_land {
            return RequestFate::Lost;
        }
        let late = if self.late_landing.0 > now { self.late_landing.1 } else { 0 };
        RequestFate::Lands(latency(random) + late)
    }

    /// How long the answer takes; `None`: it is lost.
    pub(crate) fn reply(&self, now: u64, random: &mut Random) -> Option<u64> {
        let late = if self.late_replies.0 > now { self.late_replies.1 } else { 0 };
        (self.partitioned_until <= now).then(|| latency(random) + late)
    }
}

fn latency(random: &mut Random) -> u64 {
    if random.percent(3) { random.between(100, 15 * MS) } else { random.between(50, 400) }
}

/// The calls of one worker, and the connection that they go over.
#[derive(Default)]
pub(crate) struct Calls {
    calls: Vec<Call>,
    next: u64,
    /// Counts connections: what belongs to an older one is void.
    pub(crate) connection: u32,
    /// From now on each answer is that of the question before.
    pub(crate) slipping: bool,
    last_reply: Option<OneReply>,
}

/// A request that waits for its answer.
struct Call {
    number: u64,
    request: RequestId,
    /// First bytes of the ids that it claims.
    ids: Vec<[u8; 8]>,
    built: u64,
    open: bool,
}

impl Calls {
    /// Notes a request; its number.
    pub(crate) fn begin(&mut self, now: u64, request: RequestId, ask: &Ask) -> u64 {
        // Answered calls are kept for a while, to know when an id was claimed.
        if self.calls.len() > 200 {
            self.calls.retain(|call| call.built + 2_000 * MS > now);
        }
        let number = self.next;
        self.next += 1;
        self.calls.push(Call { number, request, ids: claimed_ids(ask), built: now, open: true });
        number
    }

    /// The request of a call; it stays known for the checks.
    pub(crate) fn find(&self, number: u64) -> Option<RequestId> {
        self.calls.iter().find(|call| call.number == number).map(|call| call.request)
    }

    /// The request of a call that was not answered, and is now.
    pub(crate) fn take_open(&mut self, number: u64) -> Option<RequestId> {
        let call = self.calls.iter_mut().rev().find(|call| call.number == number && call.open)?;
        call.open = false;
        Some(call.request)
    }

    /// When the latest claim of an id was built.
    pub(crate) fn claimed_at(&self, id: [u8; 8]) -> Option<u64> {
        self.calls.iter().filter(|call| call.ids.contains(&id)).map(|call| call.built).max()
    }

    /// What the connection makes of an answer; `None` where the kinds of question and answer differ.
    pub(crate) fn slip(&mut self, answer: Answer) -> Option<Answer> {
        let mut replies = flatten(answer);
        let last = replies.last().cloned();
        if self.slipping
            && let Some(before) = self.last_reply.take()
        {
            replies.rotate_right(1);
            replies[0] = before;
        }
        self.last_reply = last;
        gather(replies)
    }

    /// The connection is dropped: the requests that fail with it. Those that were answered already are unknown to the
    /// worker and change nothing.
    pub(crate) fn drop_connection(&mut self) -> Vec<RequestId> {
        self.connection += 1;
        self.slipping = false;
        self.last_reply = None;
        self.calls.iter().filter(|call| call.open).map(|call| call.request).collect()
    }
}

#[derive(Clone)]
enum OneReply {
    Claimed(Claimed),
    Read(Option<bytes::Bytes>),
    Written,
    Released(bool),
}

fn flatten(answer: Answer) -> Vec<OneReply> {
    match answer {
        Answer::Claimed(answers) => answers.into_iter().flatten().map(OneReply::Claimed).collect(),
        Answer::Read(answers) => answers.into_iter().flatten().map(OneReply::Read).collect(),
        Answer::Written(answers) => answers.into_iter().flatten().map(|()| OneReply::Written).collect(),
        Answer::Released(answers) => answers.into_iter().flatten().map(OneReply::Released).collect(),
    }
}

/// `None` where the first reply is of another kind than the others, which a client notices.
fn gather(replies: Vec<OneReply>) -> Option<Answer> {
    fn all<T>(
        replies: Vec<OneReply>,
        one: impl Fn(OneReply) -> Option<T>,
    ) -> Option<Vec<Result<T, OpError>>> {
        replies.into_iter().map(|reply| one(reply).map(Ok)).collect()
    }
    match replies.last()? {
        OneReply::Claimed(_) => all(replies, |reply| match reply {
            OneReply::Claimed(claimed) => Some(claimed),
            // On the wire both are a value or nil.
            OneReply::Read(found) => Some(found.map_or(Claimed::Created, Claimed::Exists)),
            _ => None,
        })
        .map(Answer::Claimed),
        OneReply::Read(_) => all(replies, |reply| match reply {
            OneReply::Read(found) => Some(found),
            OneReply::Claimed(Claimed::Created) => Some(None),
            OneReply::Claimed(Claimed::Exists(value)) => Some(Some(value)),
            _ => None,
        })
        .map(Answer::Read),
        OneReply::Written => {
            all(replies, |reply| matches!(reply, OneReply::Written).then_some(())).map(Answer::Written)
        }
        OneReply::Released(_) => all(replies, |reply| match reply {
            OneReply::Released(was_there) => Some(was_there),
            _ => None,
        })
        .map(Answer::Released),
    }
}

/// A request, for the trace.
pub(crate) fn show(ask: &Ask) -> String {
    match ask {
        Ask::Claim { batch, .. } => format!("to claim {} ids", batch.len()),
        Ask::Read { keys } => format!("to read {} records", keys.len()),
        Ask::Write { .. } => "to write its record".to_owned(),
        Ask::Release { keys } => format!("to release {} claims", keys.len()),
    }
}
