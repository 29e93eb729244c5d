//! Whether a socket still has its joins, and when to look.
//!
//! A join that says "already" is never believed: the socket remembers an interface that may be gone. What counts is the number
//! that the interface has now, and the kernel's own tables.

use crate::links::Feed;
use link_watch::joined::JoinTable;
use multicast_io::{Interface, Memberships, Receiver};
use std::time::{Duration, Instant};

/// Pause before joins that failed are tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Where the joins of a socket stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// All are there.
    Joined,
    /// The interface does not exist now.
    NoInterface,
    /// The interface is another one, or the kernel forgot a group.
    Lapsed,
}

pub(super) fn standing(
    memberships: &Memberships,
    receiver: &Receiver,
    table: Option<&JoinTable>,
) -> Standing {
    let was = memberships.interface();
    let Ok(now) = Interface::by_name(&was.name) else { return Standing::NoInterface };
    let joined = || match table {
        Some(table) => memberships.joins().iter().all(|join| table.has(now.index, join.group, join.source)),
        // No tables here: a join that is lost is made again, the rest says "already".
        None => memberships.assert(receiver).is_ok(),
    };
    if now.index == was.index && joined() { Standing::Joined } else { Standing::Lapsed }
}

/// When to look at the joins of the sockets of one thread.
#[derive(Debug, Default)]
pub(super) struct Rejoins {
    links: Option<Feed>,
    /// Some could not be made.
    again_at: Option<Instant>,
}

impl Rejoins {
    pub(super) fn follow(&mut self, links: Feed) {
        self.links = Some(links);
    }

    /// Completes when the links changed, or when joins that failed are to be tried again. Cancel safe.
    pub(super) async fn due(&mut self) {
        let Some(links) = &mut self.links else { return std::future::pending().await };
        match self.again_at {
            None => links.changed().await,
            Some(at) => tokio::select! {
                () = links.changed() => {}
                () = tokio::time::sleep_until(at.into()) => {}
            },
        }
        links.seen();
    }

    /// They were looked at. `lacks`: some are not there.
    pub(super) fn done(&mut self, lacks: bool, now: Instant) {
        if let Some(links) = &self.links {
            links.set_unjoined(self.again_at.is_some(), lacks);
        }
        self.again_at = lacks.then(|| now + PAUSE);
    }
}

impl Drop for Rejoins {
    fn drop(&mut self) {
        self.done(false, Instant::now());
    }
}
