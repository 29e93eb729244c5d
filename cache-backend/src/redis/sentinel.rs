//! Who the master is, by the word of most Sentinels.
//!
//! Why not the crate's client: it believes the first Sentinel that answers. A Sentinel that was cut off together with an old
//! master does not know that there is another, and that old master takes writes.

use super::address::Endpoint;
use super::connection::{Connection, DialError, Greeting, subscribe, within};
use super::stream::Tls;
use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::Value;
use std::future::pending;
use std::time::Duration;
use tokio::time::Instant;

/// Between two tries to hear a Sentinel's announcements.
const WATCH_PAUSE: Duration = Duration::from_secs(1);
/// Where no server has the word of most Sentinels, one that works is taken after this part of the dial timeout.
const DISAGREEMENT: u32 = 4;

/// The Sentinels of a set.
pub(super) struct Sentinels {
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) master: String,
    pub(super) greeting: Greeting,
    pub(super) data_tls: bool,
}

impl Sentinels {
    /// Asks all Sentinels at once and dials each server that one of them names, as their news may be of different age. The
    /// first that works and has the word of most Sentinels is taken. Where none has the word of most, the others get a
    /// moment.
    pub(super) async fn elect<T, D>(
        &self,
        tls: &Tls,
        limit: Duration,
        dial: impl Fn(Endpoint) -> D,
    ) -> Result<T, DialError>
    where
        D: Future<Output = Result<T, DialError>>,
    {
        let mut asked: FuturesUnordered<_> =
            self.endpoints.iter().map(|endpoint| self.ask(endpoint, tls, limit)).collect();
        let mut dials = FuturesUnordered::new();
        let mut election = Election::of(self.endpoints.len());
        let (mut silent, mut refused) = (Vec::new(), Vec::new());
        loop {
            if election.is_decided() || (asked.is_empty() && dials.is_empty()) {
                let failures = if refused.is_empty() { silent } else { refused };
                return election.winner().ok_or_else(|| DialError::of_all(failures));
            }
            let until = election.first_dialled.map(|at| at + limit / DISAGREEMENT);
            tokio::select! {
                Some(answer) = asked.next() => match answer {
                    Ok(master) => if election.vote(&master) {
                        let dial = dial(master.clone());
                        dials.push(async move { (dial.await, master) });
                    },
                    Err(error) => silent.push(error),
                },
                Some((dialled, master)) = dials.next() => match dialled {
                    Ok(dialled) => election.dialled(master, dialled),
                    Err(error) => refused.push(error),
                },
                () = sleep_until(until), if until.is_some() => {
                    return election.winner().ok_or_else(|| DialError::of_all(refused));
                }
            }
        }
    }

    async fn ask(&self, endpoint: &Endpoint, tls: &Tls, limit: Duration) -> Result<Endpoint, DialError> {
        within(limit, endpoint, async {
            let mut connection = Connection::dial(endpoint, tls, &self.greeting).await?;
            let name = &self.master;
            match connection.ask(&[b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", name.as_bytes()]).await? {
                Value::ServerError(error) => Err(DialError::refused("SENTINEL", &error)),
                Value::Nil => {
                    Err(DialError::passing(format!("this Sentinel watches no master named \"{name}\"")))
                }
                answer => redis::from_redis_value(answer)
                    .map(|(host, port)| self.data_server(host, port))
                    .map_err(|_| DialError::passing("the Sentinel's answer cannot be read")),
            }
        })
        .await
    }

    fn data_server(&self, host: String, port: u16) -> Endpoint {
        Endpoint::Tcp { host, port, tls: self.data_tls }
    }

    /// Completes with the new master when a Sentinel announces one.
    pub(super) async fn master_moved(&self, tls: &Tls, limit: Duration) -> Endpoint {
        let watch = |endpoint| self.watch(endpoint, tls, limit);
        let mut watches: FuturesUnordered<_> = self.endpoints.iter().map(watch).collect();
        match watches.next().await {
            Some(master) => master,
            None => pending().await,
        }
    }

    async fn watch(&self, endpoint: &Endpoint, tls: &Tls, limit: Duration) -> Endpoint {
        loop {
            if let Ok(master) = self.hear(endpoint, tls, limit).await {
                return master;
            }
            tokio::time::sleep(WATCH_PAUSE.mul_f64(rand::random_range(0.75..1.25))).await;
        }
    }

    /// Subscribed to one Sentinel until it says `name old-host old-port new-host new-port`.
    async fn hear(&self, endpoint: &Endpoint, tls: &Tls, limit: Duration) -> Result<Endpoint, DialError> {
        let news = subscribe(endpoint, tls, &self.greeting, "+switch-master");
        let mut news = within(limit, endpoint, news).await?.into_on_message();
        while let Some(message) = news.next().await {
            let text = String::from_utf8_lossy(message.get_payload_bytes());
            if let [name, _, _, host, port] = text.split(' ').collect::<Vec<_>>()[..]
                && name == self.master
                && let Ok(port) = port.parse()
            {
                return Ok(self.data_server(host.to_owned(), port));
            }
        }
        Err(DialError::passing("the connection was closed"))
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => pending().await,
    }
}

/// Which server the Sentinels name, and which of those work.
struct Election<T> {
    most: usize,
    votes: Vec<(Endpoint, usize)>,
    works: Vec<(Endpoint, T)>,
    first_dialled: Option<Instant>,
}

impl<T> Election<T> {
    fn of(sentinels: usize) -> Election<T> {
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

    fn dialled(&mut self, master: Endpoint, dialled: T) {
        self.works.push((master, dialled));
        self.first_dialled.get_or_insert_with(Instant::now);
    }

    fn votes(&self, master: &Endpoint) -> usize {
        self.votes.iter().find(|(known, _)| known == master).map_or(0, |(_, votes)| *votes)
    }

    /// One that works has the word of most.
    fn is_decided(&self) -> bool {
        self.works.iter().any(|(master, _)| self.votes(master) >= self.most)
    }

    /// Of those that work the one that the most Sentinels name.
    fn winner(mut self) -> Option<T> {
        let best = (0..self.works.len()).max_by_key(|&at| self.votes(&self.works[at].0))?;
        Some(self.works.swap_remove(best).1)
    }
}
