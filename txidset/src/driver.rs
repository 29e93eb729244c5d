//! Runs `Claims` against a real backend: executes requests on the worker's session, immediate ones inline.

use crate::claims::{Answer, Ask, Claims, Request, RequestId, Trust};
use cache_backend::{Backend, Immediate, OpErrorKind, OpenError, Session};
use futures_util::future::{BoxFuture, FutureExt, pending};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// `--cache-op-timeout` of claims, unless `with_op_timeout` says otherwise.
const OP_TIMEOUT: Duration = Duration::from_millis(50);
/// A session keeps its own deadlines; one that does not is cut off this much later.
const GRACE: Duration = Duration::from_millis(50);

/// So many turns of the runtime after a timer has fired, what the kernel had for its connections then is read: one looks at
/// the sockets, the next lets their tasks read.
const TURNS_TO_READ: u8 = 2;

/// Time between two lines about an epoch that is not settled.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Session and requests in flight of one worker.
pub struct Driver {
    store: Store,
    op_timeout: Duration,
    /// Since when the worker reads what has come, before it gives up what has not; turns of the runtime since then.
    reading: Option<(Instant, u8)>,
    /// When a line said that an epoch is not settled.
    warned_at: Option<Instant>,
    /// `None`: cut off.
    running: FuturesUnordered<BoxFuture<'static, (RequestId, Option<Answer>)>>,
}

enum Store {
    Absent,
    Immediate(Arc<dyn Immediate>),
    Remote(Box<dyn Session>),
}

/// What woke the driver.
enum Woken {
    Answer(RequestId, Option<Answer>),
    Timeout,
}

impl Driver {
    /// `None`: no tier 2. Must be called on the worker's runtime.
    pub async fn open(backend: Option<Arc<dyn Backend>>) -> Result<Driver, OpenError> {
        let store = match backend {
            None => Store::Absent,
            Some(backend) => match backend.immediate() {
                Some(store) => Store::Immediate(store),
                None => Store::Remote(backend.session().await?),
            },
        };
        let running = FuturesUnordered::new();
        Ok(Driver { store, op_timeout: OP_TIMEOUT, reading: None, warned_at: None, running })
    }

    /// Longest time that one call may take.
    pub fn with_op_timeout(mut self, op_timeout: Duration) -> Driver {
        self.op_timeout = op_timeout;
        self
    }

    /// Executes what `claims` asks for: inline where the backend answers at once, otherwise started and left running.
    pub fn pump(&mut self, claims: &mut Claims, now: Instant) {
        claims.on_timeout(now);
        while let Some(request) = claims.poll_request(now) {
            match &self.store {
                Store::Absent => claims.on_failure(now, request.id, OpErrorKind::BreakerOpen),
                Store::Immediate(store) => answer_at_once(&**store, claims, now, request),
                Store::Remote(session) => {
                    // Record traffic has to fit twice into what a lease leaves; claims may take their whole time.
                    let timeout = match request.ask {
                        Ask::Claim { .. } => self.op_timeout,
                        _ => self.op_timeout.min(claims.config().longest_deadline()),
                    };
                    let deadline = request.until.map_or(now + timeout, |until| until.min(now + timeout));
                    self.running.push(start(session.as_ref(), request, deadline));
                }
            }
        }
        self.warn_of_unsettled(claims, now);
    }

    /// Says that an epoch does not settle, when it is found late and then once a minute.
    fn warn_of_unsettled(&mut self, claims: &Claims, now: Instant) {
        let Some(late) = claims.unsettled(now).filter(|unsettled| unsettled.is_late()) else {
            return self.warned_at = None;
        };
        if self.warned_at.is_none_or(|at| now.saturating_duration_since(at) >= WARN_EVERY) {
            self.warned_at = Some(now);
            tracing::warn!(
                owner = format_args!("{:016x}", late.owner),
                epoch = late.epoch,
                claims = late.claims,
                "claims of this worker are not settled after {:.1} s: siblings that wait for them send the same frames. Frames \
                 wait to be handed over (a slow link or consumer), or claims to be released (a store that does not answer)",
                late.age.as_secs_f64(),
            );
        }
    }

    /// Completes when an answer arrived and was given to `claims`, or its timeout fired. Pends forever while there is
    /// nothing to wait for. Cancel safe. Afterwards: `pump`, then drain `claims.next_decision()`.
    pub async fn progress(&mut self, claims: &mut Claims) {
        match self.wait(claims.next_timeout()).await {
            Woken::Timeout => {
                let since = self.read_what_has_come().await;
                self.give_the_rest(claims);
                claims.give_up(since);
                claims.on_timeout(Instant::now());
            }
            Woken::Answer(id, answer) => {
                self.give(claims, id, answer);
                // What else has arrived meanwhile is worth no second turn of the caller's loop.
                self.give_the_rest(claims);
            }
        }
    }

    /// A worker that was busy elsewhere finds its timer due and the answers not read yet. A call that is dropped in here is
    /// gone on with by the next. Returns the moment up to which everything was read.
    async fn read_what_has_come(&mut self) -> Instant {
        loop {
            let (since, turns) = self.reading.get_or_insert_with(|| (Instant::now(), 0));
            if *turns >= TURNS_TO_READ {
                let since = *since;
                self.reading = None;
                return since;
            }
            *turns += 1;
            tokio::task::yield_now().await;
        }
    }

    fn give_the_rest(&mut self, claims: &mut Claims) {
        while let Some(Some((id, answer))) = self.running.next().now_or_never() {
            self.give(claims, id, answer);
        }
    }

    async fn wait(&mut self, timeout: Option<Instant>) -> Woken {
        let timer = async {
            match timeout {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            Some((id, answer)) = self.running.next() => Woken::Answer(id, answer),
            () = timer => Woken::Timeout,
        }
    }

    fn give(&self, claims: &mut Claims, id: RequestId, answer: Option<Answer>) {
        let now = Instant::now();
        let Some(answer) = answer else { return claims.on_failure(now, id, OpErrorKind::Timeout) };
        if claims.on_answer(now, id, answer) == Trust::Lost
            && let Store::Remote(session) = &self.store
        {
            tracing::warn!(
                "an answer of the backend belonged to another question: its connection is dropped"
            );
            session.distrust();
        }
    }
}

fn answer_at_once(store: &dyn Immediate, claims: &mut Claims, now: Instant, request: Request) {
    let (answer, buffer) = match request.ask {
        Ask::Claim { batch, ttl } => (Answer::Claimed(store.claim(&batch, ttl, now)), batch),
        Ask::Read { keys } => (Answer::Read(store.get(&keys, now)), keys),
        Ask::Write { batch, ttl } => (Answer::Written(store.set(&batch, ttl, now)), batch),
        Ask::Release { keys } => (Answer::Released(store.del(&keys, now)), keys),
    };
    // What is in this process cannot slip.
    let _ = claims.on_answer(now, request.id, answer);
    claims.recycle(buffer);
}

fn start(
    session: &dyn Session,
    request: Request,
    deadline: Instant,
) -> BoxFuture<'static, (RequestId, Option<Answer>)> {
    let id = request.id;
    let answer: BoxFuture<'static, Answer> = match request.ask {
        Ask::Claim { batch, ttl } => session.claim(batch, ttl, deadline).map(Answer::Claimed).boxed(),
        Ask::Read { keys } => session.get(keys, deadline).map(Answer::Read).boxed(),
        Ask::Write { batch, ttl } => session.set(batch, ttl, deadline).map(Answer::Written).boxed(),
        Ask::Release { keys } => session.del(keys, deadline).map(Answer::Released).boxed(),
    };
    async move { (id, tokio::time::timeout_at((deadline + GRACE).into(), answer).await.ok()) }.boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClaimKey, ClaimsConfig, Class, Decision, LocalSet, Verdict, Why};
    use cache_backend::{Answers, Claimed, KeyValues, Memory, OpError};
    use std::sync::Mutex;

    /// A remote store: `memory` behind a delay, or behind a network that answers nothing.
    struct Remote {
        memory: Memory,
        silent: bool,
        distrusted: Arc<Mutex<u32>>,
    }

    struct RemoteSession {
        memory: Memory,
        silent: bool,
        distrusted: Arc<Mutex<u32>>,
    }

    impl Backend for Remote {
        fn name(&self) -> &'static str {
            "remote"
        }
        fn session(&self) -> BoxFuture<'_, Result<Box<dyn Session>, OpenError>> {
            let (memory, silent, distrusted) = (self.memory.clone(), self.silent, self.distrusted.clone());
            async move { Ok(Box::new(RemoteSession { memory, silent, distrusted }) as Box<dyn Session>) }
                .boxed()
        }
        fn healthy(&self) -> BoxFuture<'_, Result<(), OpError>> {
            async { Ok(()) }.boxed()
        }
        fn close(&self) -> BoxFuture<'_, ()> {
            async {}.boxed()
        }
    }

    impl RemoteSession {
        fn reply<T: Send + 'static>(
            &self,
            answer: impl FnOnce(Memory) -> T + Send + 'static,
        ) -> BoxFuture<'static, T> {
            let (memory, silent) = (self.memory.clone(), self.silent);
            async move {
                tokio::task::yield_now().await;
                if silent {
                    pending::<()>().await;
                }
                answer(memory)
            }
            .boxed()
        }
    }

    impl Session for RemoteSession {
        fn claim(&self, batch: KeyValues, ttl: Duration, _: Instant) -> BoxFuture<'static, Answers<Claimed>> {
            self.reply(move |memory| {
                let mut answers = Vec::new();
                memory.claim(&batch, ttl, Instant::now(), &mut answers);
                answers.into_iter().map(Ok).collect()
            })
        }
        fn set(&self, batch: KeyValues, ttl: Duration, _: Instant) -> BoxFuture<'static, Answers<()>> {
            self.reply(move |memory| {
                memory.set(&batch, ttl, Instant::now());
                vec![Ok(())]
            })
        }
        fn get(&self, keys: KeyValues, _: Instant) -> BoxFuture<'static, Answers<Option<bytes::Bytes>>> {
            self.reply(move |memory| Immediate::get(&memory, &keys, Instant::now()))
        }
        fn del(&self, keys: KeyValues, _: Instant) -> BoxFuture<'static, Answers<bool>> {
            self.reply(move |memory| Immediate::del(&memory, &keys, Instant::now()))
        }
        fn distrust(&self) {
            *self.distrusted.lock().unwrap() += 1;
        }
    }

    fn remote(silent: bool) -> Remote {
        Remote { memory: Memory::new(1 << 20), silent, distrusted: Arc::default() }
    }

    fn claims(seed: u64) -> Claims {
        let config = ClaimsConfig { tier2: true, ..ClaimsConfig::default() };
        Claims::new(config, Arc::new(LocalSet::new(4096, Duration::from_secs(60), seed)), seed)
    }

    fn claim(claims: &mut Claims, n: u8) {
        let mut out = Vec::new();
        claims.claim(
            Instant::now(),
            &[(ClaimKey { class: Class::Tx, id: [n; 32] }, n.into(), 100)],
            &mut out,
        );
        assert_eq!(out, [Verdict::Wait]);
    }

    async fn decided(driver: &mut Driver, claims: &mut Claims) -> Decision {
        loop {
            driver.pump(claims, Instant::now());
            if let Some(decision) = claims.next_decision() {
                return decision;
            }
            driver.progress(claims).await;
        }
    }

    fn why(decision: Decision) -> Why {
        match decision {
            Decision::Send { why, .. } | Decision::Suppress { why, .. } => why,
        }
    }

    #[tokio::test]
    async fn memory_decides_within_one_pump() {
        struct Local(Memory);
        impl Backend for Local {
            fn name(&self) -> &'static str {
                "memory"
            }
            fn session(&self) -> BoxFuture<'_, Result<Box<dyn Session>, OpenError>> {
                async { Err(OpenError("not needed".into())) }.boxed()
            }
            fn immediate(&self) -> Option<Arc<dyn Immediate>> {
                Some(Arc::new(self.0.clone()))
            }
            fn healthy(&self) -> BoxFuture<'_, Result<(), OpError>> {
                async { Ok(()) }.boxed()
            }
            fn close(&self) -> BoxFuture<'_, ()> {
                async {}.boxed()
            }
        }
        let mut driver = Driver::open(Some(Arc::new(Local(Memory::new(1 << 20))))).await.unwrap();
        let mut claims = claims(1);
        claim(&mut claims, 1);
        driver.pump(&mut claims, Instant::now());
        assert_eq!(claims.next_decision().map(why), Some(Why::Won));
    }

    #[tokio::test]
    async fn a_copy_waits_for_its_owner_over_a_remote_store() {
        let backend: Arc<dyn Backend> = Arc::new(remote(false));
        let (mut owner, mut copy) = (claims(1), claims(2));
        let mut owners = Driver::open(Some(backend.clone())).await.unwrap();
        let mut copies = Driver::open(Some(backend)).await.unwrap();
        claim(&mut owner, 1);
        let Decision::Send { ticket, why: Why::Won, .. } = decided(&mut owners, &mut owner).await else {
            panic!("the first claim is won");
        };
        claim(&mut copy, 1);
        owner.sent(Instant::now(), ticket);
        let decision = loop {
            tokio::select! {
                decision = decided(&mut copies, &mut copy) => break decision,
                () = owners.progress(&mut owner) => owners.pump(&mut owner, Instant::now()),
            }
        };
        assert_eq!(why(decision), Why::Settled);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_never_answers_is_cut_off() {
        let mut driver = Driver::open(Some(Arc::new(remote(true)))).await.unwrap();
        let mut claims = claims(1);
        claim(&mut claims, 1);
        assert_eq!(why(decided(&mut driver, &mut claims).await), Why::InDoubt);
    }

    #[tokio::test]
    async fn an_answer_that_is_there_counts_although_the_worker_comes_late() {
        let mut driver = Driver::open(Some(Arc::new(remote(false)))).await.unwrap();
        let config = ClaimsConfig {
            tier2: true,
            answer_timeout: Duration::from_millis(20),
            ..ClaimsConfig::default()
        };
        let local = Arc::new(LocalSet::new(4096, Duration::from_secs(60), 1));
        let mut claims = Claims::new(config, local, 1);
        claim(&mut claims, 1);
        driver.pump(&mut claims, Instant::now());
        // The worker is busy with something else until after the deadline.
        std::thread::sleep(Duration::from_millis(40));
        driver.pump(&mut claims, Instant::now());
        assert_eq!(claims.next_decision(), None, "what was asked about waits for its answer to be read");
        assert_eq!(why(decided(&mut driver, &mut claims).await), Why::Won);
        assert_eq!(claims.stats().overdue.value(), 0);
    }

    #[tokio::test]
    async fn a_slipped_answer_drops_the_connection() {
        let backend = remote(false);
        let distrusted = backend.distrusted.clone();
        let mut name = Vec::new();
        crate::Names::new(b"bsp:tx:", crate::KeyStyle::Hex).claim(
            &ClaimKey { class: Class::Tx, id: [1; 32] },
            &[],
            &mut name,
        );
        let foreign = crate::value::ClaimValue { owner: 1, epoch: 1, nonce: 1, id: [9; 8] };
        backend.memory.set(&crate::value::one(&name, &foreign.encode()), Duration::ZERO, Instant::now());
        let mut driver = Driver::open(Some(Arc::new(backend))).await.unwrap();
        let mut claims = claims(1);
        claim(&mut claims, 1);
        assert_eq!(why(decided(&mut driver, &mut claims).await), Why::InDoubt);
        assert_eq!(*distrusted.lock().unwrap(), 1);
    }
}
