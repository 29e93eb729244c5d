//! The links under the emit interfaces of one worker: its own socket to the kernel's news, so that it can look behind what it
//! handed over.
//!
//! Cost: a look without news is one system call.

use crate::pipeline::Lines;
use link_watch::{Link, Need, Standing, Watch};
use service::links::EmitSocket;
use std::io;

/// See the module text.
pub(super) struct EmitLinks {
    watch: Watch,
    need: Need,
    known: Vec<Known>,
}

/// What was known of an interface at the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Known {
    index: u32,
    losses: u32,
    /// It was there, on, and had a carrier.
    whole: bool,
    usable: bool,
}

impl EmitLinks {
    /// Must be called on the worker's runtime.
    pub(super) fn open(need: Need, sockets: &[EmitSocket]) -> io::Result<EmitLinks> {
        let watch = Watch::open()?;
        let now = |socket: &EmitSocket| known(watch.links().by_name(socket.name()), need);
        let known = sockets.iter().map(now).collect();
        Ok(EmitLinks { watch, need, known })
    }

    /// What there is at the start.
    pub(super) fn lines(&self) -> Lines {
        let mut lines = Lines::new(self.known.len());
        for (at, known) in self.known.iter().enumerate() {
            lines.set(at, known.usable, false);
        }
        lines
    }

    /// Completes when there is news. Cancel safe.
    pub(super) async fn changed(&mut self) {
        if let Err(error) = self.watch.changed().await {
            failed(&error);
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    /// Takes all news, opens sockets again whose interface was made again, and writes what changed.
    pub(super) fn look(&mut self, sockets: &mut [EmitSocket], lines: &mut Lines) {
        // Whatever `changed` took belongs to this look as well: what is compared is what was written last.
        if let Err(error) = self.watch.look() {
            failed(&error);
        }
        for (at, (socket, before)) in sockets.iter_mut().zip(&mut self.known).enumerate() {
            let link = self.watch.links().by_name(socket.name());
            let now = known(link, self.need);
            if now != *before {
                lines.set(at, now.usable, is_cut(before, &now));
                *before = now;
            }
            socket.follow(self.watch.links());
        }
    }
}

fn failed(error: &io::Error) {
    service::limited!(error, 1, "--iface: the links cannot be looked at: {error}");
}

fn known(link: Option<&Link>, need: Need) -> Known {
    let usable = need.standing(link) == Standing::Usable;
    link.map_or_else(Known::default, |link| Known {
        index: link.index,
        losses: link.losses,
        whole: link.up && link.carrier,
        usable,
    })
}

/// What was handed over before may not have left: the interface was without carrier, or another one, in between.
fn is_cut(before: &Known, now: &Known) -> bool {
    before.index != now.index || before.losses != now.losses || before.whole && !now.whole
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Known = Known { index: 2, losses: 1, whole: true, usable: true };

    #[test]
    fn a_cut_is_what_frames_can_be_lost_by() {
        assert!(is_cut(&WHOLE, &Known::default()), "gone");
        assert!(is_cut(&WHOLE, &Known { index: 3, ..WHOLE }), "made again");
        assert!(is_cut(&WHOLE, &Known { losses: 2, ..WHOLE }), "came back before anybody looked");
        assert!(is_cut(&WHOLE, &Known { whole: false, usable: false, ..WHOLE }));
        let no_address = Known { usable: false, ..WHOLE };
        assert!(!is_cut(&WHOLE, &no_address), "the kernel refused what it could not send");
        assert!(!is_cut(&no_address, &WHOLE));
    }
}
