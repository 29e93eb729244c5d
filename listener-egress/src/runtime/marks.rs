//! Courtesy marks on their way to the store of the proxies (docs/claims.md): one thread for all workers.
//!
//! Off the packet path: after each burst a worker appends what it sighted to one shared list, under one short lock; the
//! thread takes the list whole and writes create-only batches, pipelined. Nobody waits for it.
//!
//! Promise: a mark is tried once. It is sent within half of `--cache-op-timeout` after its frame came and answered within
//! all of it, or given up: late marks are what could outrun a claim that was taken back. While the prefix is another
//! fabric's nothing is written at all.
//!
//! Limits: [`WAITING`] bytes wait for the thread and as many are on their way through it; when they are taken the newest marks
//! are dropped, counted. [`FLIGHTS`] batches of [`BATCH`] marks wait for their answer.
//!
//! Cost: a lock and a copy of 64 bytes a mark for each burst; two lists that change places, no allocation in steady state.
//! Nothing at all unless marks are on.

use crate::config::{Config, MarkPlan};
use crate::pipeline::Sighted;
use anyhow::Context;
use cache_backend::{Answers, Backend, Claimed, KeyValues, OpError, Session, Settings};
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use serde_json::json;
use service::config::{BackendKind, Invalid, Purpose};
use service::{Code, Condition, Counter, Lifecycle, Registry, Sink, Source};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;
use txidset::fabric::Standing;
use txidset::{CourtesyMark, FabricLabel};

/// Bytes of marks that wait for the thread, over all workers.
const WAITING: usize = 2 << 20;
const MOST: usize = WAITING / size_of::<Waiting>();
/// Most marks of one request.
const BATCH: usize = 256;
/// Requests that wait for their answer.
const FLIGHTS: usize = 8;
/// A store that was reached at the start and gives no session is asked again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// While no proxy has said that it claims there, it is looked for this often.
const LOOK_SOON: Duration = Duration::from_secs(2);
/// The store keeps its deadlines; a call that does not is cut off this much later.
const GRACE: Duration = Duration::from_millis(50);

/// A mark, and when its frame came.
#[derive(Clone, Copy)]
struct Waiting {
    came: Instant,
    seen: Sighted,
}

/// What workers hand over.
struct Queue {
    waiting: Mutex<Vec<Waiting>>,
    news: Notify,
    /// Workers that may still hand over.
    open: AtomicUsize,
    cells: MarkCells,
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker's end. When the last one is gone the thread finishes.
pub(super) struct Marker {
    queue: Arc<Queue>,
}

impl Marker {
    /// Hands over what a burst brought.
    pub(super) fn post(&self, came: Instant, seen: impl ExactSizeIterator<Item = Sighted>) {
        let count = seen.len();
        if count == 0 {
            return;
        }
        let taken = {
            let mut waiting = self.queue.waiting();
            let room = MOST.saturating_sub(waiting.len());
            waiting.extend(seen.take(room).map(|seen| Waiting { came, seen }));
            count.min(room)
        };
        self.queue.cells.full.fetch_add(count - taken, Ordering::Relaxed);
        self.queue.news.notify_one();
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        self.queue.open.fetch_sub(1, Ordering::Release);
        self.queue.news.notify_one();
    }
}

service::counters! {
    /// What became of marks. `full` has many writers, the others one.
    #[derive(Default)]
    pub(super) struct MarkCells {
        set: Counter => counter("bsl_ingress_mark_set_total", [], "Courtesy marks written: their ids were not claimed in the proxies' store");
        existed: Counter => counter("bsl_ingress_mark_existed_total", [], "Courtesy marks that changed nothing: the id was claimed or marked");
        errors: Counter => counter("bsl_ingress_mark_errors_total", [], "Courtesy marks without an answer from the store; never tried again");
        late: Counter = "late", paused: Counter = "paused", full: AtomicUsize = "full"
            => counter("bsl_ingress_mark_dropped_total", ["reason"], "Courtesy marks that were not sent: full (the queue was), late (their time was over), paused (the prefix is another fabric's)");
    }
}

impl MarkCells {
    fn full(&self) -> u64 {
        self.full.load(Ordering::Relaxed) as u64
    }
}

impl Source for Queue {
    fn collect(&self, sink: &mut Sink<'_>) {
        self.cells.collect(sink);
    }
}

/// Marks that are on.
pub(super) struct Marks {
    queue: Arc<Queue>,
    plan: MarkPlan,
    backend: Arc<dyn Backend>,
    standing: Watched,
}

/// What is known of the prefix.
struct Watched {
    condition: Condition,
    /// Another fabric's: nothing is written.
    paused: bool,
    /// A proxy of this fabric claims there, or nobody looks.
    found: bool,
    /// Said in the log.
    told: Option<String>,
}

impl Marks {
    /// Opens the store and looks whose the prefix is; `None` where no marks are asked for.
    ///
    /// # Errors
    /// The store cannot be reached, or another fabric's proxies claim there.
    pub(super) async fn open(
        config: &Config,
        lifecycle: &Lifecycle,
        registry: &Registry,
    ) -> anyhow::Result<Option<Marks>> {
        if config.marks.ingress_set_backend == Some(BackendKind::Memory) {
            tracing::warn!(
                "--ingress-set-backend=memory: no proxy sees the memory of this process, no marks are written"
            );
        }
        let Some(plan) = config.mark_plan()? else { return Ok(None) };
        let backend = cache_backend::open(plan.settings.clone()).await.context("--ingress-set-backend")?;
        let Some(backend) = backend else { return Ok(None) };
        service::store::watch(Purpose::Marks, &backend, lifecycle, registry);
        let condition = lifecycle.condition("marks");
        let standing = Watched { condition, paused: false, found: !plan.check, told: None };
        let queue = Arc::new(Queue {
            waiting: Mutex::new(Vec::with_capacity(MOST)),
            news: Notify::new(),
            open: AtomicUsize::new(0),
            cells: MarkCells::default(),
        });
        let mut marks = Marks { queue, plan, backend, standing };
        marks.first_look().await?;
        marks.show(registry);
        Ok(Some(marks))
    }

    async fn first_look(&mut self) -> anyhow::Result<()> {
        let place = place(&self.plan);
        tracing::info!(
            backend = self.backend.name(),
            %place,
            ttl = ?self.plan.ttl,
            "courtesy marks are on: proxies that claim there no longer send a transaction that this listener saw on the \
             fabric first, for as long as a mark stands; see docs/migrating.md"
        );
        if !self.plan.check {
            self.standing.condition.met("written; whose the prefix is is not looked at (--fabric-check=off)");
            return Ok(());
        }
        let session = self.backend.session().await.context("--ingress-set-backend")?;
        let found = self.plan.word.read(session.as_ref()).await;
        if let Ok(Some(Standing::Theirs(theirs))) = &found {
            return Err(Invalid::new("ingress-set-prefix", refusal(&self.plan, theirs)).into());
        }
        match found {
            Ok(found) => self.standing.tell(&self.plan, found),
            Err(error) => {
                let detail = format!("{place}: not asked yet: {error}");
                self.standing.condition.fails(Code::MarksUnseen, &detail);
            }
        }
        Ok(())
    }

    fn show(&self, registry: &Registry) {
        registry.add(self.queue.clone());
        let queue = self.queue.clone();
        let (backend, ttl) = (self.backend.name(), self.plan.ttl.as_secs_f64());
        let place = place(&self.plan);
        registry.add_detail("marks", move || {
            let cells = &queue.cells;
            json!({
                "backend": backend,
                "place": place,
                "ttl_seconds": ttl,
                "set": cells.set.get(),
                "existed": cells.existed.get(),
                "errors": cells.errors.get(),
                "dropped": { "full": cells.full(), "late": cells.late.get(), "paused": cells.paused.get() },
            })
        });
    }

    /// The end of one more worker.
    pub(super) fn marker(&self) -> Marker {
        self.queue.open.fetch_add(1, Ordering::Relaxed);
        Marker { queue: self.queue.clone() }
    }

    /// Writes marks until the last worker has ended.
    pub(super) async fn run(self) {
        let mut sessions = None;
        while sessions.is_none() {
            sessions = match self.backend.session().await {
                Ok(session) => Some(session),
                Err(error) => {
                    service::limited!(warn, 1, "--ingress-set-backend: {error}; trying on");
                    if self.queue.open.load(Ordering::Acquire) == 0 {
                        return;
                    }
                    tokio::time::sleep(AGAIN).await;
                    None
                }
            };
        }
        let Some(session) = sessions else { return };
        let Marks { queue, plan, standing, .. } = self;
        let keys = Keys { plan: &plan, name: Vec::new() };
        let mut writer = Writer {
            queue: &queue,
            session: session.as_ref(),
            keys,
            taken: Vec::with_capacity(MOST),
            at: 0,
            flights: FuturesUnordered::new(),
            standing,
        };
        writer.run().await;
    }
}

/// Prefix, and where that is part of it the namespace and set, for people.
fn place(plan: &MarkPlan) -> String {
    match &plan.settings {
        Settings::Aerospike(settings) => {
            format!("prefix {:?} namespace {:?} set {:?}", plan.prefix, settings.namespace, settings.set)
        }
        _ => format!("prefix {:?}", plan.prefix),
    }
}

fn refusal(plan: &MarkPlan, theirs: &str) -> String {
    format!(
        "{:?}: in this store it belongs to another fabric: \"{theirs}\", this one is \"{}\", and marks would suppress \
         transactions there that nobody there has. Want the store and prefix of this fabric's proxies \
         (--txid-dedup-prefix, --fabric-name there)",
        plan.prefix,
        plan.word.text()
    )
}

impl Watched {
    /// What stands under the prefix now; each change is one line in the log.
    fn tell(&mut self, plan: &MarkPlan, standing: Option<Standing>) {
        let place = place(plan);
        self.paused = matches!(standing, Some(Standing::Theirs(_)));
        self.found = standing.is_some();
        let problem = match standing {
            Some(Standing::Ours | Standing::Replaced(_)) => None,
            Some(Standing::Theirs(theirs)) => {
                Some(format!("{place}: another fabric's now ({theirs}): nothing is written"))
            }
            Some(Standing::Unreadable) => {
                Some(format!("{place}: a proxy of another version claims there, whose fabric cannot be read"))
            }
            None => Some(format!(
                "{place}: no proxy has said that it claims there, so marks may be seen by nobody; the proxies of this site need the \
                 same store, prefix, --claim-keys and set (Go proxies say nothing: --fabric-check=off)"
            )),
        };
        match &problem {
            None => self.condition.met(&format!("written, {place}")),
            Some(problem) => self.condition.fails(Code::MarksUnseen, problem),
        }
        if problem != self.told {
            match &problem {
                None => tracing::info!(%place, "courtesy marks: the proxies of this fabric claim there"),
                Some(problem) => tracing::warn!("courtesy marks: {problem}"),
            }
            self.told = problem;
        }
    }
}

/// Builds keys and values.
struct Keys<'a> {
    plan: &'a MarkPlan,
    name: Vec<u8>,
}

impl Keys<'_> {
    fn push(&mut self, seen: &Sighted, seconds: u32, batch: &mut KeyValues) {
        self.name.clear();
        self.plan.names.claim(&seen.key, &[], &mut self.name);
        let id = *seen.key.id.first_chunk().unwrap_or(&[0; 8]);
        let mark = CourtesyMark { flow: seen.flow, seconds, number: seen.number, id };
        batch.push(&self.name, &mark.encode());
    }
}

/// How many marks were asked for, and their answers if they came.
type Flight = BoxFuture<'static, (usize, Option<Answers<Claimed>>)>;

/// What the thread has in hand.
struct Writer<'a> {
    queue: &'a Queue,
    session: &'a dyn Session,
    keys: Keys<'a>,
    /// Taken from the queue, from `at` on not sent yet.
    taken: Vec<Waiting>,
    at: usize,
    flights: FuturesUnordered<Flight>,
    standing: Watched,
}

/// What woke the thread.
enum Woken {
    Answered(usize, Option<Answers<Claimed>>),
    News,
    Look,
}

impl Writer<'_> {
    async fn run(&mut self) {
        let plan = self.keys.plan;
        let mut look_at = Instant::now() + self.pause();
        loop {
            self.send();
            let idle = self.flights.is_empty() && self.at == self.taken.len();
            if idle && self.queue.open.load(Ordering::Acquire) == 0 && self.queue.waiting().is_empty() {
                return;
            }
            let woken = tokio::select! {
                biased;
                Some((asked, answers)) = self.flights.next() => Woken::Answered(asked, answers),
                () = self.queue.news.notified(), if self.flights.len() < FLIGHTS => Woken::News,
                () = tokio::time::sleep_until(look_at.into()), if plan.check => Woken::Look,
            };
            match woken {
                Woken::Answered(asked, answers) => self.count(asked, answers),
                Woken::News => {}
                Woken::Look => {
                    self.look(&plan.word).await;
                    look_at = Instant::now() + self.pause();
                }
            }
        }
    }

    /// Starts as many requests as may be under way.
    fn send(&mut self) {
        while self.flights.len() < FLIGHTS {
            if self.at == self.taken.len() {
                self.taken.clear();
                self.at = 0;
                std::mem::swap(&mut *self.queue.waiting(), &mut self.taken);
                if self.taken.is_empty() {
                    return;
                }
            }
            self.send_batch();
        }
    }

    fn send_batch(&mut self) {
        let (now, answer_timeout) = (Instant::now(), self.keys.plan.answer_timeout);
        let cells = &self.queue.cells;
        let some = self.taken.get(self.at..).unwrap_or(&[]);
        let some = &some[..some.len().min(BATCH)];
        self.at += some.len();
        if self.standing.paused {
            return cells.paused.add(some.len() as u64);
        }
        let (mut batch, mut first) = (KeyValues::new(), None);
        let seconds = unix_seconds();
        for waiting in some.iter().filter(|waiting| now < waiting.came + answer_timeout / 2) {
            first = Some(first.map_or(waiting.came, |first: Instant| first.min(waiting.came)));
            self.keys.push(&waiting.seen, seconds, &mut batch);
        }
        cells.late.add((some.len() - batch.len()) as u64);
        let Some(first) = first else { return };
        let (asked, deadline) = (batch.len(), first + answer_timeout);
        let answers = self.session.claim(batch, self.keys.plan.ttl, deadline);
        let cut_off = (deadline + GRACE).into();
        self.flights
            .push(Box::pin(async move { (asked, tokio::time::timeout_at(cut_off, answers).await.ok()) }));
    }

    fn count(&self, asked: usize, answers: Option<Answers<Claimed>>) {
        let cells = &self.queue.cells;
        let answers = answers.unwrap_or_default();
        let of = |wanted: fn(&Result<Claimed, OpError>) -> bool| {
            answers.iter().filter(|answer| wanted(answer)).count()
        };
        let set = of(|answer| matches!(answer, Ok(Claimed::Created)));
        let existed = of(|answer| matches!(answer, Ok(Claimed::Exists(_))));
        cells.set.add(set as u64);
        cells.existed.add(existed as u64);
        cells.errors.add(asked.saturating_sub(set + existed) as u64);
    }

    /// Looks whose the prefix is. What the store does not answer is asked at the next look; its own condition says so.
    async fn look(&mut self, word: &FabricLabel) {
        if let Ok(standing) = word.read(self.session).await {
            self.standing.tell(self.keys.plan, standing);
        }
    }

    fn pause(&self) -> Duration {
        let pause = self.keys.plan.word.pause();
        if self.standing.found && !self.standing.paused { pause } else { pause.min(LOOK_SOON) }
    }
}

fn unix_seconds() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use cache_backend::{Memory, OpErrorKind};
    use futures_util::FutureExt;
    use txidset::Found;
    use txidset::{ClaimKey, Class};

    /// Older marks are not sent.
    const AGE: Duration = Duration::from_secs(10);

    /// A store that answers from memory, or not at all.
    struct Store {
        memory: Memory,
        refuses: bool,
    }

    impl Session for Store {
        fn claim(&self, batch: KeyValues, ttl: Duration, _: Instant) -> BoxFuture<'static, Answers<Claimed>> {
            if self.refuses {
                let error = OpError::not_done("redis", OpErrorKind::BreakerOpen, "");
                let answers = vec![Err(error); batch.len()];
                return async { answers }.boxed();
            }
            let mut answers = Vec::new();
            self.memory.claim(&batch, ttl, Instant::now(), &mut answers);
            async { answers.into_iter().map(Ok).collect() }.boxed()
        }
        fn set(&self, _: KeyValues, _: Duration, _: Instant) -> BoxFuture<'static, Answers<()>> {
            unreachable!("marks are never written over anything")
        }
        fn get(&self, _: KeyValues, _: Instant) -> BoxFuture<'static, Answers<Option<Bytes>>> {
            unreachable!("not looked at here")
        }
        fn del(&self, _: KeyValues, _: Instant) -> BoxFuture<'static, Answers<bool>> {
            unreachable!("marks are never taken back")
        }
    }

    struct World {
        marks: Marks,
        store: Store,
    }

    impl World {
        fn new() -> World {
            let mut config = Config::for_embedding();
            config.marks.ingress_set_redis_addr = "127.0.0.1:1".parse().ok();
            config.marks.fabric_check = crate::config::FabricCheckArg::Off;
            // Nobody's time is over because this machine is busy.
            let plan = MarkPlan { answer_timeout: 2 * AGE, ..config.mark_plan().unwrap().unwrap() };
            let condition = Lifecycle::new("listener").condition("marks");
            let standing = Watched { condition, paused: false, found: true, told: None };
            let queue = Queue {
                waiting: Mutex::default(),
                news: Notify::new(),
                open: AtomicUsize::new(0),
                cells: MarkCells::default(),
            };
            let backend: Arc<dyn Backend> = Arc::new(Memory::new(1 << 20));
            let marks = Marks { queue: Arc::new(queue), plan, backend, standing };
            World { marks, store: Store { memory: Memory::new(1 << 24), refuses: false } }
        }

        /// One worker hands over these ids, as new as `came`, and ends; the thread runs to its end.
        async fn mark(self, came: Instant, ids: impl ExactSizeIterator<Item = u32>) -> (Arc<Queue>, Store) {
            let seen = |n: u32| Sighted {
                key: ClaimKey { class: Class::Tx, id: id(n) },
                flow: 0xF,
                number: n.into(),
            };
            let World { marks: Marks { queue, plan, standing, .. }, store } = self;
            queue.open.fetch_add(1, Ordering::Relaxed);
            Marker { queue: queue.clone() }.post(came, ids.map(seen));
            let keys = Keys { plan: &plan, name: Vec::new() };
            let flights = FuturesUnordered::new();
            let mut writer =
                Writer { queue: &queue, session: &store, keys, taken: Vec::new(), at: 0, flights, standing };
            writer.run().await;
            (queue, store)
        }
    }

    fn id(n: u32) -> frame::Id {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&n.to_be_bytes());
        id
    }

    fn key(n: u32) -> Vec<u8> {
        format!("bsp:tx:{}", hex::encode(id(n))).into_bytes()
    }

    #[tokio::test]
    async fn marks_stand_where_claims_would_and_replace_none() {
        let world = World::new();
        let mut claim = KeyValues::new();
        claim.push(&key(3), b"1");
        world.store.memory.set(&claim, Duration::ZERO, Instant::now());
        let (queue, store) = world.mark(Instant::now(), 0..1000).await;
        assert_eq!((queue.cells.set.get(), queue.cells.existed.get()), (999, 1));
        assert_eq!(store.memory.get(&key(3), Instant::now()).unwrap(), "1");
        let mark = store.memory.get(&key(999), Instant::now()).unwrap();
        let Found::Marked(mark) = Found::parse(&mark) else { panic!("{mark:?}") };
        assert_eq!((mark.flow, mark.number, mark.id[..4].to_vec()), (0xF, 999, id(999)[..4].to_vec()));
    }

    #[tokio::test]
    async fn what_finds_no_room_is_dropped_and_counted() {
        let count = u32::try_from(MOST).unwrap() + 7;
        let (queue, _) = World::new().mark(Instant::now(), (0..count).collect::<Vec<_>>().into_iter()).await;
        assert_eq!(queue.cells.full(), 7);
    }

    #[tokio::test]
    async fn a_mark_whose_time_is_over_is_never_sent() {
        let long_ago = Instant::now().checked_sub(AGE).unwrap();
        let (queue, store) = World::new().mark(long_ago, 0..5).await;
        assert_eq!((queue.cells.late.get(), queue.cells.set.get()), (5, 0));
        assert_eq!(store.memory.get(&key(1), Instant::now()), None);
    }

    #[tokio::test]
    async fn nothing_is_written_under_the_prefix_of_another_fabric() {
        let mut world = World::new();
        world.marks.standing.tell(&world.marks.plan, Some(Standing::Theirs("fabric-name=other".into())));
        let (queue, store) = world.mark(Instant::now(), 0..5).await;
        assert_eq!((queue.cells.paused.get(), queue.cells.set.get()), (5, 0));
        assert_eq!(store.memory.get(&key(1), Instant::now()), None);
    }

    #[tokio::test]
    async fn what_the_store_does_not_answer_is_counted_and_not_tried_again() {
        let mut world = World::new();
        world.store.refuses = true;
        let (queue, _) = world.mark(Instant::now(), 0..300).await;
        assert_eq!((queue.cells.errors.get(), queue.cells.set.get()), (300, 0));
    }

    #[test]
    fn marks_are_refused_where_they_would_be_untrue_or_harmful() {
        let refused = |change: fn(&mut Config)| {
            let mut config = Config::for_embedding();
            config.marks.ingress_set_redis_addr = "h:1".parse().ok();
            change(&mut config);
            config.check().map_err(|invalid| invalid.to_string())
        };
        refused(|_| ()).unwrap();
        for (change, words) in [
            (
                (|c| c.verification.verify_payload_hash = false) as fn(&mut Config),
                "--verify-payload-hash: false, and --ingress-set",
            ),
            (|c| c.gate.egress_dedup_local_cap = 0, "--egress-dedup-local-cap: 0"),
            (|c| c.marks.ingress_set_prefix = Some("bsl:egr:x:".into()), "--ingress-set-prefix: begins as"),
            (|c| c.marks.ingress_set_ttl = Some(Duration::ZERO), "--ingress-set-ttl: 0"),
            (
                |c| c.marks.ingress_set_aerospike_hosts = "h:2".parse().ok(),
                "--ingress-set-backend: --ingress",
            ),
        ] {
            let error = refused(change).unwrap_err();
            assert!(error.starts_with(words), "{error}");
        }
    }

    #[test]
    fn a_store_is_asked_for_by_its_address_or_by_its_kind() {
        let plan = |change: fn(&mut Config)| {
            let mut config = Config::for_embedding();
            change(&mut config);
            config.mark_plan().map(|plan| plan.map(|plan| plan.settings)).map_err(|error| error.to_string())
        };
        let address = |settings: Option<Settings>| match settings {
            Some(Settings::Redis(settings)) => settings.addresses.join(","),
            other => format!("{other:?}"),
        };
        assert_eq!(plan(|c| c.backend.redis_addr = "h:1".parse().ok()), Ok(None), "not by that of the gate");
        assert_eq!(plan(|c| c.marks.ingress_set_backend = Some(BackendKind::Memory)), Ok(None));
        let own = plan(|c| {
            c.backend.redis_addr = "h:1".parse().ok();
            c.marks.ingress_set_redis_addr = "h:2".parse().ok();
        });
        assert_eq!(address(own.unwrap()), "h:2");
        let same = plan(|c| {
            c.backend.redis_addr = "h:1".parse().ok();
            c.marks.ingress_set_backend = Some(BackendKind::Redis);
        });
        assert_eq!(address(same.unwrap()), "h:1");
        let nowhere = plan(|c| c.marks.ingress_set_backend = Some(BackendKind::Redis)).unwrap_err();
        assert!(nowhere.starts_with("--ingress-set-redis-addr: required"), "{nowhere}");
        let aerospike = plan(|c| c.marks.ingress_set_aerospike_hosts = "h:2".parse().ok());
        let Ok(Some(Settings::Aerospike(aerospike))) = aerospike else { panic!("{aerospike:?}") };
        assert_eq!((aerospike.namespace.as_str(), aerospike.set.as_str()), ("cache", "bsp"));
    }
}
