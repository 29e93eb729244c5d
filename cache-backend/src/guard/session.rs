//! What a batch passes on its way to a server and back.

use super::breaker::{Breaker, Does, Leave, Outcome};
use super::heard::Heard;
use super::stats::{BreakerState, GuardStats};
use crate::{Answers, Claimed, KeyValues, OpError, OpErrorKind, RemoteSettings, Session};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A session behind a breaker, a deadline and bounds.
pub struct Guarded<S> {
    session: S,
    breaker: Arc<Breaker>,
    max_batches: usize,
    max_bytes: usize,
    waiting: Arc<Waiting>,
    heard: Arc<Heard>,
}

#[derive(Debug, Default)]
struct Waiting {
    batches: AtomicUsize,
    bytes: AtomicUsize,
}

impl<S: Session> Guarded<S> {
    /// Guards `session`; its server is judged by `breaker`, which must have been made with the same `settings`.
    pub fn new(session: S, breaker: Arc<Breaker>, settings: &RemoteSettings) -> Guarded<S> {
        Guarded {
            heard: session.heard().unwrap_or_default(),
            session,
            breaker,
            max_batches: settings.max_batches.max(1),
            max_bytes: settings.max_bytes,
            waiting: Arc::default(),
        }
    }

    fn run<T: Send + 'static>(
        &self,
        batch: KeyValues,
        deadline: Instant,
        does: Does,
        start: impl FnOnce(&S, KeyValues, Instant) -> BoxFuture<'static, Answers<T>>,
    ) -> BoxFuture<'static, Answers<T>> {
        let keys = batch.len();
        if keys == 0 {
            return ready(Vec::new()).boxed();
        }
        let now = Instant::now();
        if self.session.is_down() {
            let closed = self.breaker.stats().state() == BreakerState::Closed;
            return self
                .refuse(keys, if closed { OpErrorKind::Disconnected } else { OpErrorKind::BreakerOpen });
        }
        let Some(place) = self.take_place(batch.bytes()) else {
            return self.refuse(keys, OpErrorKind::Overloaded);
        };
        let Some(leave) = self.breaker.admit(now, does) else {
            return self.refuse(keys, OpErrorKind::BreakerOpen);
        };
        // A session that answers in parts gives what it has at its deadline.
        let longest = if self.session.answers_in_parts() { leave.deadline } else { self.breaker.longest() };
        let end = deadline.min(now + longest);
        let mut flight = Flight {
            breaker: self.breaker.clone(),
            heard: self.heard.clone(),
            leave,
            _place: place,
            judged: false,
        };
        let answers = start(&self.session, batch, end);
        async move {
            let answers = match flight.wait(answers, now, end).await {
                Ok(mut answers) => {
                    flight.judge(judge_answers(&answers, now.elapsed()));
                    if leave.probe {
                        tell_of_the_breaker(&mut answers);
                    }
                    answers
                }
                Err(waited) => {
                    flight.judge(Outcome::TimedOut(waited));
                    let backend = flight.breaker.stats().backend();
                    let error = OpError {
                        backend,
                        kind: OpErrorKind::Timeout,
                        in_doubt: does != Does::Read,
                        detail: String::new(),
                    };
                    vec_of_errors(keys, &error)
                }
            };
            flight.breaker.stats().count(&answers);
            answers
        }
        .boxed()
    }

    fn refuse<T: Send + 'static>(&self, keys: usize, kind: OpErrorKind) -> BoxFuture<'static, Answers<T>> {
        let stats = self.breaker.stats();
        stats.refused(keys, kind);
        ready(vec_of_errors(keys, &OpError::not_done(stats.backend(), kind, String::new()))).boxed()
    }

    /// One batch always fits, however long, when nothing else waits.
    fn take_place(&self, bytes: usize) -> Option<Place> {
        let batches = self.waiting.batches.load(Relaxed);
        let waiting = self.waiting.bytes.load(Relaxed);
        if batches > 0 && (batches >= self.max_batches || waiting.saturating_add(bytes) > self.max_bytes) {
            return None;
        }
        Some(Place::take(self.waiting.clone(), self.breaker.stats().clone(), bytes))
    }
}

/// A probe that could not even be sent: what its keys met is the open breaker.
fn tell_of_the_breaker<T>(answers: &mut Answers<T>) {
    let errors = answers.iter_mut().filter_map(|answer| answer.as_mut().err());
    for error in errors.filter(|error| error.kind == OpErrorKind::Disconnected && !error.in_doubt) {
        error.kind = OpErrorKind::BreakerOpen;
    }
}

/// One error for every key.
pub(crate) fn vec_of_errors<T>(keys: usize, error: &OpError) -> Answers<T> {
    (0..keys).map(|_| Err(error.clone())).collect()
}

fn judge_answers<T>(answers: &Answers<T>, latency: Duration) -> Outcome {
    let blamed = answers.iter().filter_map(|answer| answer.as_ref().err().filter(|e| e.blames_server()));
    let last = blamed.clone().last().filter(|_| blamed.count() * 2 > answers.len());
    match last {
        Some(OpError { kind: OpErrorKind::Timeout, .. }) => Outcome::TimedOut(latency),
        Some(error) => Outcome::Failed(error.kind, error.detail.clone()),
        _ if answers.iter().all(|answer| matches!(answer, Err(e) if e.kind == OpErrorKind::Overloaded)) => {
            Outcome::Abandoned
        }
        _ => Outcome::Answered(latency),
    }
}

/// The deadline that takes the place of `until`, where the session got an answer meanwhile; `None`: it is over.
fn extended(until: Instant, answered: Option<Instant>, patience: Duration, end: Instant) -> Option<Instant> {
    let later = end.min(answered? + patience);
    (later > until).then_some(later)
}

/// A batch that was admitted; dropping it unjudged gives a probe back.
struct Flight {
    breaker: Arc<Breaker>,
    heard: Arc<Heard>,
    leave: Leave,
    _place: Place,
    judged: bool,
}

impl Flight {
    /// Waits for the answers until the deadline, and as long again from each answer that the session gets meanwhile; not
    /// beyond `end`. The error is how long that was.
    async fn wait<T>(
        &self,
        mut answers: BoxFuture<'static, Answers<T>>,
        began: Instant,
        end: Instant,
    ) -> Result<Answers<T>, Duration> {
        let mut until = end.min(began + self.leave.deadline);
        loop {
            if let Ok(answers) = tokio::time::timeout_at(until.into(), &mut answers).await {
                return Ok(answers);
            }
            // Where this thread was busy elsewhere, the answer may be there and not have been read.
            tokio::task::yield_now().await;
            if let Some(answers) = (&mut answers).now_or_never() {
                return Ok(answers);
            }
            match extended(until, self.heard.last(), self.leave.deadline, end) {
                Some(later) => until = later,
                None => return Err(until.saturating_duration_since(began)),
            }
        }
    }

    fn judge(&mut self, outcome: Outcome) {
        self.judged = true;
        let now = Instant::now();
        if matches!(outcome, Outcome::Answered(_)) {
            self.heard.note(now);
        }
        self.breaker.record(now, self.leave, outcome);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.judged {
            self.judge(Outcome::Abandoned);
        }
    }
}

/// Batches and bytes of one batch in flight, given back on drop.
struct Place {
    waiting: Arc<Waiting>,
    stats: Arc<GuardStats>,
    bytes: usize,
}

impl Place {
    fn take(waiting: Arc<Waiting>, stats: Arc<GuardStats>, bytes: usize) -> Place {
        waiting.batches.fetch_add(1, Relaxed);
        waiting.bytes.fetch_add(bytes, Relaxed);
        stats.began(bytes);
        Place { waiting, stats, bytes }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiting.batches.fetch_sub(1, Relaxed);
        self.waiting.bytes.fetch_sub(self.bytes, Relaxed);
        self.stats.ended(self.bytes);
    }
}

impl<S: Session> Session for Guarded<S> {
    fn claim(
        &self,
        batch: KeyValues,
        ttl: Duration,
        deadline: Instant,
    ) -> BoxFuture<'static, Answers<Claimed>> {
        self.run(batch, deadline, Does::Write, |session, batch, deadline| session.claim(batch, ttl, deadline))
    }
    fn set(&self, batch: KeyValues, ttl: Duration, deadline: Instant) -> BoxFuture<'static, Answers<()>> {
        self.run(batch, deadline, Does::Write, |session, batch, deadline| session.set(batch, ttl, deadline))
    }
    fn get(&self, keys: KeyValues, deadline: Instant) -> BoxFuture<'static, Answers<Option<Bytes>>> {
        self.run(keys, deadline, Does::Read, |session, keys, deadline| session.get(keys, deadline))
    }
    fn del(&self, keys: KeyValues, deadline: Instant) -> BoxFuture<'static, Answers<bool>> {
        self.run(keys, deadline, Does::Delete, |session, keys, deadline| session.del(keys, deadline))
    }
    fn distrust(&self) {
        self.session.distrust();
    }
    fn is_down(&self) -> bool {
        self.session.is_down()
    }
    fn heard(&self) -> Option<Arc<Heard>> {
        Some(self.heard.clone())
    }
    fn answers_in_parts(&self) -> bool {
        self.session.answers_in_parts()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::pending;

    const MS: Duration = Duration::from_millis(1);

    fn settings() -> RemoteSettings {
        RemoteSettings { max_batches: 2, max_bytes: 100, ..RemoteSettings::for_claims() }
    }

    fn breaker() -> Arc<Breaker> {
        Breaker::new("test", "server", &settings())
    }

    /// Never answers.
    struct Stopped;
    impl Session for Stopped {
        fn claim(&self, _: KeyValues, _: Duration, _: Instant) -> BoxFuture<'static, Answers<Claimed>> {
            pending().boxed()
        }
        fn set(&self, _: KeyValues, _: Duration, _: Instant) -> BoxFuture<'static, Answers<()>> {
            pending().boxed()
        }
        fn get(&self, _: KeyValues, _: Instant) -> BoxFuture<'static, Answers<Option<Bytes>>> {
            pending().boxed()
        }
        fn del(&self, _: KeyValues, _: Instant) -> BoxFuture<'static, Answers<bool>> {
            pending().boxed()
        }
    }

    fn keys(count: usize) -> KeyValues {
        let mut keys = KeyValues::new();
        (0..count).for_each(|i| keys.push(format!("key-{i:06}").as_bytes(), b""));
        keys
    }

    fn kinds<T>(answers: &Answers<T>) -> Vec<(OpErrorKind, bool)> {
        answers.iter().filter_map(|answer| answer.as_ref().err().map(|e| (e.kind, e.in_doubt))).collect()
    }

    #[tokio::test]
    async fn a_stopped_server_costs_a_few_deadlines_and_then_nothing() {
        let breaker = breaker();
        let session = Guarded::new(Stopped, breaker.clone(), &settings());
        let far = Instant::now() + Duration::from_secs(3600);
        for _ in 0..3 {
            let answers = session.claim(keys(2), Duration::ZERO, far).await;
            assert_eq!(kinds(&answers), [(OpErrorKind::Timeout, true); 2]);
        }
        let answers = session.get(keys(2), far).now_or_never().expect("answered at once");
        assert_eq!(kinds(&answers), [(OpErrorKind::BreakerOpen, false); 2]);
        assert_eq!(breaker.stats().errors(OpErrorKind::Timeout), 6);
        assert_eq!(breaker.stats().batches_in_flight(), 0);
    }

    #[test]
    fn a_batch_behind_others_is_late_only_if_they_are() {
        let (began, patience) = (Instant::now(), 5 * MS);
        let end = began + 50 * MS;
        let mut until = began + patience;
        // One answer every three milliseconds: a burst after a calm.
        for answer in 1..20 {
            let answered = began + answer * 3 * MS;
            if answered < until {
                until = extended(until, Some(answered), patience, end).unwrap_or(until);
            }
        }
        assert_eq!(until, end, "the operation timeout is the end of all patience");
        assert_eq!(extended(until, Some(until), patience, end), None);
        assert_eq!(extended(began + patience, None, patience, end), None, "nothing was answered");
        assert_eq!(extended(began + patience, Some(began), patience, end), None, "or not lately");
    }

    #[tokio::test]
    async fn what_waits_is_bounded_in_batches_and_bytes() {
        let breaker = breaker();
        let session = Guarded::new(Stopped, breaker.clone(), &settings());
        let far = Instant::now() + Duration::from_secs(3600);
        let first = session.claim(keys(20), Duration::ZERO, far);
        assert_eq!(breaker.stats().bytes_in_flight(), 200, "one batch always fits");
        let refused = session.claim(keys(1), Duration::ZERO, far).now_or_never().unwrap();
        assert_eq!(kinds(&refused), [(OpErrorKind::Overloaded, false)]);
        drop(first);
        let _first = session.claim(keys(1), Duration::ZERO, far);
        let _second = session.claim(keys(1), Duration::ZERO, far);
        let refused = session.claim(keys(1), Duration::ZERO, far).now_or_never().unwrap();
        assert_eq!(kinds(&refused), [(OpErrorKind::Overloaded, false)]);
        assert_eq!(breaker.stats().state(), BreakerState::Closed);
    }
}
