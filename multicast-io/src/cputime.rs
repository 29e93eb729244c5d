//! CPU time of one thread, for benchmarks: what a frame costs does not depend on who else uses the machine.

use std::io;
use std::time::Duration;

/// CPU time that the calling thread used since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadTime {
    /// In the program.
    pub user: Duration,
    /// In the kernel on its behalf.
    pub system: Duration,
}

impl ThreadTime {
    /// Both together.
    pub fn total(self) -> Duration {
        self.user + self.system
    }
}

/// Reads the calling thread's CPU time (`getrusage`, RUSAGE_THREAD).
pub fn thread_time() -> io::Result<ThreadTime> {
    // SAFETY: integers only; all zeros is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` lives through the call.
    if unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let duration = |time: libc::timeval| {
        Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0))
            + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
    };
    Ok(ThreadTime { user: duration(usage.ru_utime), system: duration(usage.ru_stime) })
}

/// The clock that all processes of this host share (CLOCK_MONOTONIC), since an arbitrary moment: for times that one
/// process writes and another reads.
pub fn host_clock() -> io::Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` lives through the call.
    if unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0))
        + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0)))
}
