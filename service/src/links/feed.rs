//! One follower of the kernel's news for a role.
//!
//! It runs on the control runtime, so that no worker waits for it. A socket of the kernel's that fails is opened anew; meanwhile
//! the links are as they were.

use crate::Lifecycle;
use anyhow::Context;
use link_watch::{Links, Watch};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Pause before a socket that failed is opened anew.
const PAUSE: Duration = Duration::from_millis(500);

/// The links as a thread sees them. Clones see the same.
#[derive(Clone, Debug)]
pub struct Feed {
    links: watch::Receiver<Arc<Links>>,
    /// Sockets that could not join again what they had joined.
    unjoined: Arc<watch::Sender<usize>>,
}

impl Feed {
    /// A feed of these links, and the way to change them.
    pub fn of(links: Links) -> (watch::Sender<Arc<Links>>, Feed) {
        let (sender, links) = watch::channel(Arc::new(links));
        (sender, Feed { links, unjoined: Arc::new(watch::Sender::new(0)) })
    }

    /// One more socket, or one less, lacks what it should have joined.
    pub(crate) fn set_unjoined(&self, before: bool, now: bool) {
        if before != now {
            self.unjoined.send_modify(|count| {
                *count = if now { *count + 1 } else { count.saturating_sub(1) };
            });
        }
    }

    /// How many sockets lack what they should have joined, and when that changes.
    pub(crate) fn unjoined(&self) -> watch::Receiver<usize> {
        self.unjoined.subscribe()
    }

    /// The links now.
    pub fn now(&self) -> Arc<Links> {
        Arc::clone(&self.links.borrow())
    }

    /// The links now; [`Feed::changed`] completes for what comes after them.
    pub fn seen(&mut self) -> Arc<Links> {
        Arc::clone(&self.links.borrow_and_update())
    }

    /// Completes when they changed since they were last [`seen`](Feed::seen). Pends for ever once the role drains. Cancel safe.
    pub async fn changed(&mut self) {
        if self.links.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Number of the interface that has this name now.
    pub fn index(&self, name: &str) -> Option<u32> {
        self.links.borrow().by_name(name).map(|link| link.index)
    }
}

/// Begins to follow, until the role drains. Must be called on the control runtime.
///
/// # Errors
/// The kernel does not tell: a filter on `AF_NETLINK`.
pub fn follow(lifecycle: &Lifecycle) -> anyhow::Result<Feed> {
    let watch = Watch::open()
        .context("following interfaces and addresses (rtnetlink; a sandbox must allow AF_NETLINK)")?;
    let (sender, feed) = Feed::of(watch.links().clone());
    let lifecycle = lifecycle.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = lifecycle.drain_began() => {}
            () = tell(watch, &sender) => {}
        }
    });
    Ok(feed)
}

async fn tell(mut watch: Watch, to: &watch::Sender<Arc<Links>>) {
    loop {
        match watch.changed().await {
            Ok(()) => {
                let news = watch.links();
                to.send_if_modified(|links| {
                    let differs = **links != *news;
                    if differs {
                        *links = Arc::new(news.clone());
                    }
                    differs
                });
            }
            Err(error) => watch = open_again(&error).await,
        }
    }
}

async fn open_again(error: &io::Error) -> Watch {
    let mut why = error.to_string();
    loop {
        crate::limited!(error, 1, "interfaces and addresses cannot be followed: {why}; tried again");
        tokio::time::sleep(PAUSE).await;
        match Watch::open() {
            Ok(watch) => return watch,
            Err(error) => why = error.to_string(),
        }
    }
}
