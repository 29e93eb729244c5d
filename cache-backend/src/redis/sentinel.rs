//! Who the master is, by the word of most Sentinels.
//!
//! Why not the crate's client: it believes the first Sentinel that answers. A Sentinel that was cut off together with an old
//! master does not know that there is another, and that old master takes writes.

use super::address::Endpoint;
use super::connection::{Connection, DialError, Greeting, within};
use super::stream::Tls;
use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::Value;
use std::collections::HashMap;
use std::future::pending;
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, sleep};

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
        let ask = |endpoint| self.ask(endpoint, tls, limit);
        let mut asked: FuturesUnordered<_> = self.endpoints.iter().map(ask).collect();
        let mut dials = FuturesUnordered::new();
        let mut votes = HashMap::<Endpoint, usize>::new();
        let (mut works, mut silent, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        let mut patience = pin!(sleep(Duration::MAX));
        loop {
            works.sort_by_key(|(master, _)| votes.get(master));
            let most = works.last().and_then(|(master, _)| votes.get(master)).copied().unwrap_or(0);
            let is_over = patience.is_elapsed() || (asked.is_empty() && dials.is_empty());
            if most > self.endpoints.len() / 2 || is_over {
                let failures = if refused.is_empty() { silent } else { refused };
                return works.pop().map(|(_, dialled)| dialled).ok_or_else(|| DialError::of_all(failures));
            }
            tokio::select! {
                Some(answer) = asked.next() => match answer {
                    Ok(master) => {
                        if !votes.contains_key(&master) {
                            let dial = dial(master.clone());
                            let master = master.clone();
                            dials.push(async move { (dial.await, master) });
                        }
                        *votes.entry(master).or_default() += 1;
                    }
                    Err(error) => silent.push(error),
                },
                Some((dialled, master)) = dials.next() => match dialled {
                    Ok(dialled) => {
                        if works.is_empty() {
                            patience.as_mut().reset(Instant::now() + limit / DISAGREEMENT);
                        }
                        works.push((master, dialled));
                    }
                    Err(error) => refused.push(error),
                },
                () = &mut patience => {}
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
        let watch = |endpoint| async move {
            loop {
                if let Ok(master) = self.hear(endpoint, tls, limit).await {
                    return master;
                }
                sleep(WATCH_PAUSE.mul_f64(rand::random_range(0.75..1.25))).await;
            }
        };
        let mut watches: FuturesUnordered<_> = self.endpoints.iter().map(watch).collect();
        match watches.next().await {
            Some(master) => master,
            None => pending().await,
        }
    }

    /// Subscribed to one Sentinel until it says `name old-host old-port new-host new-port`.
    async fn hear(&self, endpoint: &Endpoint, tls: &Tls, limit: Duration) -> Result<Endpoint, DialError> {
        let mut news = within(limit, endpoint, async {
            let mut news = Connection::dial(endpoint, tls, &self.greeting).await?;
            match news.ask(&[b"SUBSCRIBE", b"+switch-master"]).await? {
                Value::ServerError(error) => Err(DialError::refused("SUBSCRIBE", &error)),
                _ => Ok(news),
            }
        })
        .await?;
        loop {
            let Ok((_, _, text)) = redis::from_redis_value::<(String, String, String)>(news.next().await?)
            else {
                continue;
            };
            if let [name, _, _, host, port] = text.split(' ').collect::<Vec<_>>()[..]
                && name == self.master
                && let Ok(port) = port.parse()
            {
                return Ok(self.data_server(host.to_owned(), port));
            }
        }
    }
}
