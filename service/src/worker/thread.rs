//! A worker: one thread with its own single-threaded tokio runtime.
//!
//! Promise: a panic on a worker's thread ends the process with [`EXIT_PANIC`]. Siblings take over from a dead process; a
//! process that lives on with a dead worker loses frames.

use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tokio::sync::watch;

/// Exit code after the death of a worker (BSD's "internal software error").
pub const EXIT_PANIC: i32 = 70;

/// Workers to start for the option `--workers`: 0 is one for each core.
pub fn worker_count(option: usize) -> usize {
    match option {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    }
}

/// Spawns a worker thread with its own single-threaded tokio runtime; `main` runs on it, and `tokio::task::spawn_local`
/// works in it. A panic in it ends the process (siblings take over; a process that lives on with a dead worker loses
/// frames).
///
/// # Errors
/// The thread could not be started. Failing to build the runtime on the new thread counts as a panic.
pub fn spawn_worker<F>(name: String, main: impl FnOnce() -> F + Send + 'static) -> std::io::Result<Worker>
where
    F: Future<Output = ()> + 'static,
{
    let (ended, watch_end) = watch::channel(());
    let (report, outcome) = std::sync::mpsc::sync_channel::<()>(0);
    let thread_name = name.clone();
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        // Dropped last, also on unwinding: that is the signal of the end.
        let _signals = (ended, report);
        let run = AssertUnwindSafe(|| -> std::io::Result<()> {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default())?;
            runtime.block_on(main());
            // A look-up of a name that hangs in a helper thread must not hold the worker.
            runtime.shutdown_background();
            Ok(())
        });
        match std::panic::catch_unwind(run) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => end_process(&thread_name, &format!("its runtime could not be built: {error}")),
            Err(panic) => end_process(&thread_name, panic_text(panic.as_ref())),
        }
    })?;
    Ok(Worker { thread, outcome, watch_end })
}

/// Ends the process with [`EXIT_PANIC`]: `worker`, a thread or what it serves, cannot do its work any more.
pub fn end_process(worker: &str, why: &str) -> ! {
    tracing::error!(worker, "worker died, ending the process: {why}");
    crate::logs::flush();
    std::process::exit(EXIT_PANIC);
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&'static str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("panic without a text")
}

/// A running worker thread.
#[derive(Debug)]
pub struct Worker {
    thread: std::thread::JoinHandle<()>,
    outcome: std::sync::mpsc::Receiver<()>,
    watch_end: watch::Receiver<()>,
}

impl Worker {
    /// Waits for the end of the worker; `false` if it did not end in time. Blocks the calling thread.
    pub fn join_within(self, limit: Duration) -> bool {
        use std::sync::mpsc::RecvTimeoutError;
        match self.outcome.recv_timeout(limit) {
            Err(RecvTimeoutError::Timeout) => false,
            Ok(()) | Err(RecvTimeoutError::Disconnected) => self.thread.join().is_ok(),
        }
    }

    /// Completes when the worker has ended.
    pub async fn ended(&mut self) {
        while self.watch_end.changed().await.is_ok() {}
    }

    /// Like [`Worker::join_within`], without blocking the runtime.
    pub async fn ended_within(mut self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.ended()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_runs_local_tasks_and_is_joined() {
        let (tell, told) = std::sync::mpsc::channel();
        let worker = spawn_worker("w".to_owned(), move || async move {
            let shared = std::rc::Rc::new(7);
            let task = tokio::task::spawn_local(async move { *shared });
            tell.send(task.await.unwrap()).unwrap();
        })
        .unwrap();
        assert_eq!(told.recv().unwrap(), 7);
        assert!(worker.join_within(Duration::from_secs(30)));
    }

    #[tokio::test]
    async fn a_worker_that_goes_on_is_reported_as_not_ended() {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let mut worker = spawn_worker("w".to_owned(), move || async move {
            let _ = stopped.await;
        })
        .unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(1), worker.ended()).await.is_err());
        stop.send(()).unwrap();
        assert!(worker.ended_within(Duration::from_secs(30)).await);
    }

    /// The child half of the next test: does nothing unless asked.
    #[test]
    fn worker_panic_child() {
        if std::env::var_os("SERVICE_TEST_WORKER_PANIC").is_some() {
            let worker = spawn_worker("doomed".to_owned(), || async { panic!("broken invariant") }).unwrap();
            worker.join_within(Duration::from_secs(30));
        }
    }

    #[test]
    fn a_panic_in_a_worker_ends_the_process_with_code_70() {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "worker::thread::tests::worker_panic_child", "--nocapture"])
            .env("SERVICE_TEST_WORKER_PANIC", "1")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(EXIT_PANIC), "{output:?}");
    }
}
