//! From an address to a connection that was seen to work: dial, TLS, credentials, database, probe.
//!
//! The probe is a real write: it shows that the server is a master that takes writes, that the credential may do all that
//! claims need, that a TTL is kept, and in which form the server can create a key and answer its old value in one step.

use super::address::Endpoint;
use super::resp::{Surprise, Value, decimal, put_command};
use super::stream::{Stream, Tls};
use crate::{Credential, OpenError, RemoteSettings};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::fmt;
use std::future::pending;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

/// A probe key lives no longer than this.
const PROBE_TTL: Duration = Duration::from_secs(10);
/// Between two tries to hear a Sentinel's announcements.
const WATCH_PAUSE: Duration = Duration::from_secs(1);
/// Where no server has the word of most Sentinels, one that works is taken after this part of the dial timeout.
const DISAGREEMENT: u32 = 4;
/// Longest answer of the cold path (the slot table of a large Cluster).
const MAX_ANSWER: usize = 16 << 20;

/// Create-only with the old value, where `SET … NX GET` is not understood.
pub(super) const CLAIM_SCRIPT: &[u8] = b"local v=redis.call('GET',KEYS[1]) if v then return v end \
if ARGV[2]=='0' then redis.call('SET',KEYS[1],ARGV[1]) else redis.call('SET',KEYS[1],ARGV[1],'PX',ARGV[2]) end \
return false";

/// How a server creates a key and answers the old value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClaimForm {
    /// `SET key value NX GET PX ttl` (Redis 7.0 and later).
    SetNxGet,
    /// A script of the same effect.
    Script,
    /// `SET … NX` and then `GET`: where scripts are not allowed either.
    TwoSteps,
}

/// Whom a connection goes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    /// One node of a Cluster.
    Node(Endpoint),
    /// The first configured address that works.
    First,
    /// The master that the Sentinels name.
    Master,
}

impl Target {
    /// Where a node of a Cluster is.
    pub(super) fn node(&self) -> Option<&Endpoint> {
        match self {
            Target::Node(endpoint) => Some(endpoint),
            Target::First | Target::Master => None,
        }
    }
}

/// Why a dial failed.
#[derive(Clone, Debug)]
pub(super) struct DialError {
    pub(super) message: String,
    /// Waiting will not help: a person must change something.
    pub(super) permanent: bool,
}

impl DialError {
    /// Of several ways that all failed.
    fn of_all(failures: Vec<DialError>) -> DialError {
        let permanent = failures.iter().all(|failure| failure.permanent);
        let messages: Vec<String> = failures.into_iter().map(|failure| failure.message).collect();
        match messages.is_empty() {
            true => DialError::permanent("no address is configured".to_owned()),
            false => DialError { message: messages.join("; "), permanent },
        }
    }
    fn passing(message: String) -> DialError {
        DialError { message, permanent: false }
    }
    fn permanent(message: String) -> DialError {
        DialError { message, permanent: true }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl From<DialError> for OpenError {
    fn from(error: DialError) -> OpenError {
        OpenError(format!("redis: {}", error.message))
    }
}

/// The Sentinels of a set.
pub(super) struct Sentinels {
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) master: String,
    pub(super) credential: Option<Credential>,
    pub(super) data_tls: bool,
}

/// Everything a dial needs to know.
pub(super) struct Dialer {
    pub(super) seeds: Vec<Endpoint>,
    pub(super) sentinels: Option<Sentinels>,
    pub(super) credential: Option<Credential>,
    pub(super) db: u32,
    pub(super) tls: Tls,
    pub(super) remote: RemoteSettings,
    /// The form seen last, for servers that cannot be probed at the moment.
    form: AtomicU8,
}

/// A connection that passed its probe.
pub(super) struct Dialled {
    pub(super) stream: Stream,
    pub(super) endpoint: Endpoint,
    pub(super) form: ClaimForm,
    /// It took a write and answered it; otherwise only its greeting was seen.
    pub(super) proven: bool,
}

/// How much a server must show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// At start: the probe key is written, read and removed.
    Whole,
    /// Later: a server that refuses writes for the moment (out of memory) may still answer reads.
    Lenient,
}

impl Dialer {
    pub(super) fn new(
        seeds: Vec<Endpoint>,
        sentinels: Option<Sentinels>,
        credential: Option<Credential>,
        db: u32,
        tls: Tls,
        remote: RemoteSettings,
    ) -> Dialer {
        Dialer { seeds, sentinels, credential, db, tls, remote, form: AtomicU8::new(0) }
    }

    /// What `target` is called in messages and metrics.
    pub(super) fn name(&self, target: &Target) -> String {
        match (target, &self.sentinels) {
            (Target::Node(endpoint), _) => endpoint.to_string(),
            (Target::Master, Some(sentinels)) => format!("sentinel:{}", sentinels.master),
            _ => self.seeds.iter().map(Endpoint::to_string).collect::<Vec<_>>().join(","),
        }
    }

    /// A working connection. `probe_key`: `None` where no key of the server is known (a Cluster node without slots).
    pub(super) async fn dial(
        &self,
        target: &Target,
        probe_key: Option<Vec<u8>>,
        proof: Proof,
    ) -> Result<Dialled, DialError> {
        match target {
            Target::Node(endpoint) => self.dial_endpoint(endpoint, probe_key, proof).await,
            Target::Master => self.dial_master(probe_key, proof).await,
            Target::First => {
                let mut failures = Vec::new();
                for endpoint in &self.seeds {
                    match self.dial_endpoint(endpoint, probe_key.clone(), proof).await {
                        Ok(dialled) => return Ok(dialled),
                        Err(error) => failures.push(error),
                    }
                }
                Err(DialError::of_all(failures))
            }
        }
    }

    /// Asks all Sentinels at once and dials each server that one of them names, as their news may be of different age. The
    /// first that is a master and has the word of most Sentinels is taken. A Sentinel that was cut off together with an old
    /// master does not know that there is another, and that old master takes writes: so where none has the word of most, the
    /// others get a moment.
    async fn dial_master(&self, probe_key: Option<Vec<u8>>, proof: Proof) -> Result<Dialled, DialError> {
        let Some(sentinels) = &self.sentinels else {
            return Err(DialError::permanent("no Sentinel is configured".to_owned()));
        };
        let ask = |endpoint| self.ask_sentinel(sentinels, endpoint);
        let mut asked: FuturesUnordered<_> = sentinels.endpoints.iter().map(ask).collect();
        let mut dials = FuturesUnordered::new();
        let mut election = Election::of(sentinels.endpoints.len());
        let (mut silent, mut refused) = (Vec::new(), Vec::new());
        loop {
            if election.is_decided() || (asked.is_empty() && dials.is_empty()) {
                let failures = if refused.is_empty() { silent } else { refused };
                return election.winner().ok_or_else(|| DialError::of_all(failures));
            }
            let until = election.first_dialled.map(|at| at + self.remote.dial_timeout / DISAGREEMENT);
            tokio::select! {
                Some(answer) = asked.next() => match answer {
                    Ok(master) => if election.vote(&master) {
                        let probe_key = probe_key.clone();
                        dials.push(async move { self.dial_endpoint(&master, probe_key, proof).await });
                    },
                    Err(error) => silent.push(error),
                },
                Some(dialled) = dials.next() => match dialled {
                    Ok(dialled) => election.dialled(dialled),
                    Err(error) => refused.push(error),
                },
                () = sleep_until(until), if until.is_some() => return match election.winner() {
                    Some(winner) => Ok(winner),
                    None => Err(DialError::of_all(refused)),
                },
            }
        }
    }

    async fn dial_endpoint(
        &self,
        endpoint: &Endpoint,
        probe_key: Option<Vec<u8>>,
        proof: Proof,
    ) -> Result<Dialled, DialError> {
        self.within(&endpoint.to_string(), async {
            let mut conversation = self.converse(endpoint).await?;
            let form = match probe_key {
                Some(key) => conversation.probe(&key, proof, &self.remote.probe_prefix).await?,
                None => None,
            };
            if let Some(form) = form {
                self.form.store(form as u8, Relaxed);
            }
            let proven = form.is_some();
            let form = form.unwrap_or(match self.form.load(Relaxed) {
                0 => ClaimForm::SetNxGet,
                1 => ClaimForm::Script,
                _ => ClaimForm::TwoSteps,
            });
            Ok(Dialled { stream: conversation.stream, endpoint: endpoint.clone(), form, proven })
        })
        .await
    }

    /// A connection with credentials and database, not probed.
    pub(super) async fn converse(&self, endpoint: &Endpoint) -> Result<Conversation, DialError> {
        let mut conversation = Conversation::connect(endpoint, &self.tls).await?;
        conversation.authenticate(self.credential.as_ref()).await?;
        if self.db != 0 {
            match conversation.ask(&[b"SELECT", &decimal(self.db)]).await? {
                Value::Error(error) => {
                    return Err(
                        conversation.permanent(format!("database {} cannot be selected: {error}", self.db))
                    );
                }
                _ => conversation.fence().await?,
            }
        } else {
            conversation.fence().await?;
        }
        Ok(conversation)
    }

    /// Bounds a dial in time.
    pub(super) async fn within<T>(
        &self,
        who: &str,
        dial: impl Future<Output = Result<T, DialError>>,
    ) -> Result<T, DialError> {
        let limit = self.remote.dial_timeout;
        match tokio::time::timeout(limit, dial).await {
            Ok(result) => result,
            Err(_) => {
                Err(DialError::passing(format!("{who}: no answer within {limit:?} (the dial timeout)")))
            }
        }
    }

    /// A question to one Sentinel and its answer.
    async fn question(
        &self,
        sentinels: &Sentinels,
        endpoint: &Endpoint,
        words: &[&[u8]],
    ) -> Result<(Conversation, Value), DialError> {
        self.within(&endpoint.to_string(), async {
            let mut conversation = Conversation::connect(endpoint, &self.tls).await?;
            conversation.authenticate(sentinels.credential.as_ref()).await?;
            let answer = conversation.ask(words).await?;
            Ok((conversation, answer))
        })
        .await
    }

    /// Completes with the new master when a Sentinel announces one; never where there are no Sentinels.
    pub(super) async fn master_moved(&self) -> Endpoint {
        let Some(sentinels) = &self.sentinels else { return pending().await };
        let watch = |endpoint| self.watch_sentinel(sentinels, endpoint);
        let mut watches: FuturesUnordered<_> = sentinels.endpoints.iter().map(watch).collect();
        match watches.next().await {
            Some(master) => master,
            None => pending().await,
        }
    }

    async fn watch_sentinel(&self, sentinels: &Sentinels, endpoint: &Endpoint) -> Endpoint {
        loop {
            if let Ok(master) = self.hear_sentinel(sentinels, endpoint).await {
                return master;
            }
            tokio::time::sleep(WATCH_PAUSE.mul_f64(rand::random_range(0.75..1.25))).await;
        }
    }

    /// Subscribed to one Sentinel until it says `name old-host old-port new-host new-port`.
    async fn hear_sentinel(&self, sentinels: &Sentinels, endpoint: &Endpoint) -> Result<Endpoint, DialError> {
        let subscribe: [&[u8]; 2] = [b"SUBSCRIBE", b"+switch-master"];
        let (mut conversation, answer) = self.question(sentinels, endpoint, &subscribe).await?;
        if let Value::Error(error) = answer {
            return Err(conversation.refused("SUBSCRIBE", &error));
        }
        loop {
            let message = conversation.next().await?;
            let text = message.items().last().and_then(Value::text).unwrap_or_default();
            if let [name, _, _, host, port] = text.split(' ').collect::<Vec<_>>()[..]
                && name == sentinels.master
                && let Ok(port) = port.parse()
            {
                return Ok(Endpoint::Tcp { host: host.to_owned(), port, tls: sentinels.data_tls });
            }
        }
    }

    async fn ask_sentinel(&self, sentinels: &Sentinels, endpoint: &Endpoint) -> Result<Endpoint, DialError> {
        let words: [&[u8]; 3] = [b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", sentinels.master.as_bytes()];
        let (conversation, answer) = self.question(sentinels, endpoint, &words).await?;
        let name = &sentinels.master;
        match (&answer, answer.items()) {
            (_, [host, port]) => {
                let port = port.text().and_then(|port| port.parse().ok());
                let (Some(host), Some(port)) = (host.text(), port) else {
                    return Err(conversation.passing("the Sentinel's answer cannot be read".to_owned()));
                };
                Ok(Endpoint::Tcp { host, port, tls: sentinels.data_tls })
            }
            (Value::Error(error), _) => Err(conversation.refused("SENTINEL", error)),
            _ => Err(conversation.passing(format!("this Sentinel watches no master named \"{name}\""))),
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => pending().await,
    }
}

/// Which server the Sentinels name, and which of those work.
struct Election {
    most: usize,
    votes: Vec<(Endpoint, usize)>,
    works: Vec<Dialled>,
    first_dialled: Option<Instant>,
}

impl Election {
    fn of(sentinels: usize) -> Election {
        Election { most: sentinels / 2 + 1, votes: Vec::new(), works: Vec::new(), first_dialled: None }
    }

    /// A Sentinel names `master`; true where it is the first to do so.
    fn vote(&mut self, master: &Endpoint) -> bool {
        if let Some((_, votes)) = self.votes.iter_mut().find(|(known, _)| known == master) {
            *votes += 1;
            return false;
        }
        self.votes.push((master.clone(), 1));
        true
    }

    fn dialled(&mut self, dialled: Dialled) {
        self.works.push(dialled);
        self.first_dialled.get_or_insert_with(Instant::now);
    }

    fn votes(&self, dialled: &Dialled) -> usize {
        self.votes.iter().find(|(known, _)| *known == dialled.endpoint).map_or(0, |(_, votes)| *votes)
    }

    /// One that works has the word of most.
    fn is_decided(&self) -> bool {
        self.works.iter().any(|dialled| self.votes(dialled) >= self.most)
    }

    /// Of those that work the one that the most Sentinels name.
    fn winner(mut self) -> Option<Dialled> {
        let best = (0..self.works.len()).max_by_key(|&at| self.votes(&self.works[at]))?;
        Some(self.works.swap_remove(best))
    }
}

/// One question, one answer: for the cold path.
pub(super) struct Conversation {
    stream: Stream,
    pub(super) endpoint: Endpoint,
    input: Vec<u8>,
}

impl Conversation {
    async fn connect(endpoint: &Endpoint, tls: &Tls) -> Result<Conversation, DialError> {
        match Stream::connect(endpoint, tls).await {
            Ok(stream) => Ok(Conversation { stream, endpoint: endpoint.clone(), input: Vec::new() }),
            Err(error) => {
                // A certificate that is not trusted arrives as invalid data.
                let permanent = error.kind() == std::io::ErrorKind::InvalidData;
                let hint = if permanent { " (TLS: check the CA file and the server name)" } else { "" };
                Err(DialError { message: format!("{endpoint}: cannot connect: {error}{hint}"), permanent })
            }
        }
    }

    fn passing(&self, why: String) -> DialError {
        DialError::passing(format!("{}: {why}", self.endpoint))
    }
    fn permanent(&self, why: String) -> DialError {
        DialError::permanent(format!("{}: {why}", self.endpoint))
    }

    /// An error reply to `command`, in words that say what to change.
    fn refused(&self, command: &str, error: &str) -> DialError {
        let code = error.split(' ').next().unwrap_or_default();
        match code {
            "NOAUTH" => {
                self.permanent(format!("the server asks for a password and none is configured ({error})"))
            }
            "WRONGPASS" => {
                self.permanent(format!("the credential was refused: check user and password ({error})"))
            }
            "NOPERM" => self.permanent(format!("the ACL of the user does not allow {command}: {error}")),
            "READONLY" => self.passing(format!("this server is a read-only replica, not a master ({error})")),
            "OOM" => self.passing(format!(
                "the server is out of memory and refuses writes: raise maxmemory ({error})"
            )),
            "MISCONF" | "NOREPLICAS" => self.passing(format!("the server refuses writes ({error})")),
            "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "BUSY" => {
                self.passing(format!("the server is not ready ({error})"))
            }
            _ => self.passing(format!("{command} was refused: {error}")),
        }
    }

    pub(super) async fn ask(&mut self, words: &[&[u8]]) -> Result<Value, DialError> {
        let mut command = Vec::new();
        put_command(&mut command, words);
        if let Err(error) = self.exchange(&command).await {
            return Err(self.passing(format!("the connection broke during the handshake: {error}")));
        }
        self.next().await
    }

    /// The next answer.
    async fn next(&mut self) -> Result<Value, DialError> {
        loop {
            match Value::parse(&self.input) {
                Ok(Some((value, length))) => {
                    self.input.drain(..length);
                    return Ok(value);
                }
                Ok(None) if self.input.len() < MAX_ANSWER => {}
                Ok(None) => return Err(self.surprise(Surprise::Length)),
                Err(surprise) => return Err(self.surprise(surprise)),
            }
            match self.stream.read_buf(&mut self.input).await {
                Ok(0) => {
                    return Err(
                        self.passing("the server closed the connection during the handshake".to_owned())
                    );
                }
                Ok(_) => {}
                Err(error) => {
                    return Err(self.passing(format!("the connection broke during the handshake: {error}")));
                }
            }
        }
    }

    async fn exchange(&mut self, command: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(command).await?;
        self.stream.flush().await
    }

    fn surprise(&self, surprise: Surprise) -> DialError {
        self.passing(format!(
            "this does not speak the Redis protocol: {surprise} (is it a TLS port? use rediss://)"
        ))
    }

    async fn authenticate(&mut self, credential: Option<&Credential>) -> Result<(), DialError> {
        let Some(credential) = credential else { return Ok(()) };
        let password = credential.password.read().map_err(|why| self.permanent(why))?;
        let mut words: Vec<&[u8]> = vec![b"AUTH"];
        words.extend(credential.user.as_ref().map(|user| user.as_bytes()));
        words.push(password.as_bytes());
        match self.ask(&words).await? {
            Value::Simple(ok) if ok == "OK" => Ok(()),
            Value::Error(error) => {
                let user = credential.user.as_deref().unwrap_or("default");
                let why = self.refused("AUTH", &error);
                let permanent = why.permanent || error.starts_with("ERR");
                Err(DialError { message: format!("{} (user \"{user}\")", why.message), permanent })
            }
            _ => Err(self.surprise(Surprise::Unfit)),
        }
    }

    /// The fence that ends every batch must be allowed.
    async fn fence(&mut self) -> Result<(), DialError> {
        match self.ask(&[b"PING", b"fence"]).await? {
            Value::Bulk(echo) if echo == b"fence" => Ok(()),
            Value::Error(error) => Err(self.refused("PING", &error)),
            _ => Err(self.surprise(Surprise::Fence)),
        }
    }

    /// `None` where a lenient probe could not find out.
    async fn probe(
        &mut self,
        key: &[u8],
        proof: Proof,
        prefix: &str,
    ) -> Result<Option<ClaimForm>, DialError> {
        let value = format!("{:016x}", rand::random::<u64>()).into_bytes();
        let form = match self.probe_write(key, &value).await? {
            Ok(form) => form,
            Err(error) => {
                let code = error.split(' ').next().unwrap_or_default();
                let passing = ["OOM", "MISCONF", "NOREPLICAS", "MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN"];
                if proof == Proof::Lenient && passing.contains(&code) {
                    return Ok(None);
                }
                let mut why = self.refused("SET", &error);
                if code == "NOPERM" {
                    why.message.push_str(&format!(" (the probe key begins with \"{prefix}\")"));
                }
                return Err(why);
            }
        };
        match self.ask(&[b"GET", key]).await? {
            Value::Bulk(read) if read == value => {}
            Value::Error(error) => return Err(self.refused("GET", &error)),
            _ => {
                return Err(
                    self.passing("a probe key was written and another value was read back".to_owned())
                );
            }
        }
        match self.ask(&[b"PTTL", key]).await? {
            Value::Integer(ttl) if ttl <= 0 => {
                return Err(self.permanent("a probe key was written with a TTL and has none".to_owned()));
            }
            // A user that may not ask is no reason to stop.
            _ => {}
        }
        match self.ask(&[b"DEL", key]).await? {
            Value::Error(error) => Err(self.refused("DEL", &error)),
            _ => Ok(Some(form)),
        }
    }

    /// Writes the probe key in the best form that the server understands; the inner error is the server's.
    async fn probe_write(
        &mut self,
        key: &[u8],
        value: &[u8],
    ) -> Result<Result<ClaimForm, String>, DialError> {
        let ttl = decimal(PROBE_TTL.as_millis());
        match self.ask(&[b"SET", key, value, b"NX", b"GET", b"PX", &ttl]).await? {
            Value::Nil => return Ok(Ok(ClaimForm::SetNxGet)),
            Value::Error(error) if !error.starts_with("ERR") => return Ok(Err(error)),
            Value::Error(_) => {}
            _ => return Err(self.surprise(Surprise::Unfit)),
        }
        if self.ask(&[b"EVAL", CLAIM_SCRIPT, b"1", key, value, &ttl]).await? == Value::Nil {
            return Ok(Ok(ClaimForm::Script));
        }
        match self.ask(&[b"SET", key, value, b"NX", b"PX", &ttl]).await? {
            Value::Simple(_) => Ok(Ok(ClaimForm::TwoSteps)),
            Value::Error(error) => Ok(Err(error)),
            _ => Err(self.surprise(Surprise::Unfit)),
        }
    }
}
