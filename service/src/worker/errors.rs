//! The one policy for socket errors, on every thread of every role.
//!
//! * What passes by itself never gets here: a queue that is empty or full, an interrupted call, an error about an earlier
//!   datagram (ICMP; `multicast-io` counts it).
//! * Any other error is logged, at most once a second, and the socket is tried again after a pause.
//! * A socket that fails at every try for [`SocketErrors::LIMIT`] ends the process with code 70. So does, at once, a
//!   descriptor that is no socket any more. A process that lives on with a mute thread looks ready and loses frames;
//!   siblings take over from a dead one, and the service manager starts it again.
//!
//! Cost: nothing while the socket works.

use super::thread::end_process;
use std::io;
use std::time::{Duration, Instant};

/// Pause after the first error, doubled up to [`LONGEST_PAUSE`] while it lasts.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// What a socket of one thread went through lately.
#[derive(Debug)]
pub struct SocketErrors {
    /// What an operator calls it: "--nack-port", "the beacon group".
    socket: &'static str,
    failing: Option<Failing>,
}

/// A socket that failed at its last try.
#[derive(Clone, Copy, Debug)]
struct Failing {
    since: Instant,
    pause: Duration,
    try_at: Instant,
}

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Try again then.
    Again(Instant),
    /// The socket will never work again.
    Over,
}

impl SocketErrors {
    /// How long a socket may fail at every try before the process ends.
    pub const LIMIT: Duration = Duration::from_secs(2);

    /// `socket`: what an operator calls it.
    pub fn of(socket: &'static str) -> SocketErrors {
        SocketErrors { socket, failing: None }
    }

    /// The socket worked, or had nothing to say.
    pub fn worked(&mut self) {
        if self.failing.is_some() {
            self.failing = None;
            tracing::info!("{}: works again", self.socket);
        }
    }

    /// The socket failed: logs it and says when to try again. Ends the process where the policy says so.
    pub fn failed(&mut self, now: Instant, error: &io::Error) -> Instant {
        match self.judge(now, error) {
            Verdict::Again(at) => {
                crate::limited!(error, 1, "{}: {error}; tried again", self.socket);
                at
            }
            Verdict::Over => end_process(self.socket, &format!("its socket does not work any more: {error}")),
        }
    }

    /// Before then the socket is left alone.
    pub fn try_at(&self) -> Option<Instant> {
        self.failing.map(|failing| failing.try_at)
    }

    fn judge(&mut self, now: Instant, error: &io::Error) -> Verdict {
        let pause = self.failing.map_or(FIRST_PAUSE, |failing| (failing.pause * 2).min(LONGEST_PAUSE));
        let since = self.failing.map_or(now, |failing| failing.since);
        if is_no_socket(error) || now.saturating_duration_since(since) >= SocketErrors::LIMIT {
            return Verdict::Over;
        }
        let try_at = now + pause;
        self.failing = Some(Failing { since, pause, try_at });
        Verdict::Again(try_at)
    }
}

/// `EBADF` and `ENOTSOCK` of Linux: somebody closed the descriptor under us.
fn is_no_socket(error: &io::Error) -> bool {
    const EBADF: i32 = 9;
    const ENOTSOCK: i32 = 88;
    matches!(error.raw_os_error(), Some(EBADF | ENOTSOCK))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EIO: i32 = 5;
    const ENOTSOCK: i32 = 88;

    fn error(code: i32) -> io::Error {
        io::Error::from_raw_os_error(code)
    }

    #[test]
    fn an_error_that_passes_is_tried_again_with_a_growing_pause() {
        let (mut errors, start) = (SocketErrors::of("a socket"), Instant::now());
        let Verdict::Again(first) = errors.judge(start, &error(EIO)) else { panic!("passes") };
        let Verdict::Again(second) = errors.judge(first, &error(EIO)) else { panic!("passes") };
        assert!(second - first > first - start);
        assert_eq!(errors.try_at(), Some(second));
        errors.worked();
        assert_eq!(errors.try_at(), None);
        let later = start + 2 * SocketErrors::LIMIT;
        assert!(matches!(errors.judge(later, &error(EIO)), Verdict::Again(_)), "it worked in between");
    }

    #[test]
    fn a_socket_that_fails_at_every_try_is_over_after_the_limit() {
        let (mut errors, start) = (SocketErrors::of("a socket"), Instant::now());
        let mut now = start;
        while let Verdict::Again(at) = errors.judge(now, &error(EIO)) {
            assert!(at > now && at - start < SocketErrors::LIMIT + LONGEST_PAUSE);
            now = at;
        }
        assert!(now - start >= SocketErrors::LIMIT);
    }

    #[test]
    fn a_descriptor_that_is_no_socket_is_over_at_once() {
        let mut errors = SocketErrors::of("a socket");
        assert_eq!(errors.judge(Instant::now(), &error(ENOTSOCK)), Verdict::Over);
    }
}
