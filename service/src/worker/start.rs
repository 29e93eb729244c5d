//! Starts the threads of a role: one hand-shake for all of them.
//!
//! A thread opens what it needs on its own runtime, says that it is up, and works until the role drains. If one cannot
//! open, the drain begins, so that the others end, and the caller gets its error. A thread whose work ends although the role
//! does not drain ends the process: what it did is not done any more, and nothing else would say so.

use super::thread::{Worker, end_process, spawn_worker};
use crate::Lifecycle;
use anyhow::Context;
use std::time::Duration;
use tokio::sync::oneshot;

/// The threads of one role.
#[derive(Debug)]
pub struct Threads {
    lifecycle: Lifecycle,
    running: Vec<Worker>,
    opening: Vec<oneshot::Receiver<anyhow::Result<()>>>,
}

impl Threads {
    /// None yet. `lifecycle`: whose drain ends them.
    pub fn of(lifecycle: &Lifecycle) -> Threads {
        Threads { lifecycle: lifecycle.clone(), running: Vec::new(), opening: Vec::new() }
    }

    /// Starts a thread. `open` runs on its runtime and answers with the work, or with why there can be none.
    ///
    /// # Errors
    /// The thread could not be started. What `open` says comes out of [`Threads::all_up`].
    pub fn spawn<Open, Opening, Work>(&mut self, name: String, open: Open) -> anyhow::Result<()>
    where
        Open: FnOnce() -> Opening + Send + 'static,
        Opening: Future<Output = anyhow::Result<Work>> + 'static,
        Work: Future<Output = ()> + 'static,
    {
        let (opened, opening) = oneshot::channel();
        let (lifecycle, thread) = (self.lifecycle.clone(), name.clone());
        let main = move || async move {
            match open().await {
                Err(error) => drop(opened.send(Err(error))),
                // Whoever started it has given up: there is nothing to work for.
                Ok(work) if opened.send(Ok(())).is_ok() => {
                    work.await;
                    if !lifecycle.is_draining() {
                        end_process(&thread, "its work ended although the role does not drain");
                    }
                }
                Ok(_) => {}
            }
        };
        let worker =
            spawn_worker(name.clone(), main).with_context(|| format!("starting the thread {name}"))?;
        self.running.push(worker);
        self.opening.push(opening);
        Ok(())
    }

    /// Completes when every thread started so far is up.
    ///
    /// # Errors
    /// The first of them that could not open; the drain has begun then.
    pub async fn all_up(&mut self) -> anyhow::Result<()> {
        for opening in self.opening.drain(..) {
            if let Err(error) = opening.await.context("a thread ended before it was up").flatten() {
                self.lifecycle.begin_drain();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Completes when every thread has ended, some time after the drain began.
    pub async fn ended(mut self) {
        for worker in &mut self.running {
            worker.ended().await;
        }
    }

    /// Completes when every thread has ended, or `limit` after the drain began. Returns how many are left behind.
    pub async fn ended_within(self, limit: Duration) -> usize {
        self.lifecycle.drain_began().await;
        let until = tokio::time::Instant::now() + limit;
        let mut left_behind = 0;
        for worker in self.running {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            left_behind += usize::from(!worker.ended_within(left).await);
        }
        left_behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[tokio::test]
    async fn all_are_up_or_the_first_that_is_not_says_why() {
        let lifecycle = Lifecycle::new("retry");
        let mut threads = Threads::of(&lifecycle);
        let until = lifecycle.clone();
        let works = move || async move { Ok(async move { until.drain_began().await }) };
        threads.spawn("works".to_owned(), works).unwrap();
        threads.all_up().await.unwrap();
        assert!(!lifecycle.is_draining());
        let fails = || async { Err::<std::future::Ready<()>, _>(anyhow::anyhow!("port 1 is taken")) };
        threads.spawn("fails".to_owned(), fails).unwrap();
        let error = threads.all_up().await.unwrap_err();
        assert!(error.to_string().contains("port 1 is taken"));
        assert!(lifecycle.is_draining(), "the others end");
        threads.ended().await;
    }

    #[tokio::test]
    async fn a_thread_that_does_not_stop_is_left_behind() {
        let lifecycle = Lifecycle::new("retry");
        let mut threads = Threads::of(&lifecycle);
        let (stop, stopped) = oneshot::channel::<()>();
        let works = move || async move {
            Ok(async move {
                let _ = stopped.await;
            })
        };
        threads.spawn("stubborn".to_owned(), works).unwrap();
        threads.all_up().await.unwrap();
        lifecycle.begin_drain();
        assert_eq!(threads.ended_within(Duration::from_millis(1)).await, 1);
        drop(stop);
    }

    /// The child half of the next test: does nothing unless asked.
    #[tokio::test]
    async fn work_that_ends_child() {
        if std::env::var_os("SERVICE_TEST_WORK_ENDS").is_some() {
            let mut threads = Threads::of(&Lifecycle::new("retry"));
            threads.spawn("tired".to_owned(), || async { Ok(std::future::ready(())) }).unwrap();
            threads.ended().await;
            // The thread ends the process; this one must not be first.
            std::future::pending::<()>().await;
        }
    }

    #[test]
    fn work_that_ends_before_the_drain_ends_the_process() {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "worker::start::tests::work_that_ends_child", "--nocapture"])
            .env("SERVICE_TEST_WORK_ENDS", "1")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(super::super::thread::EXIT_PANIC), "{output:?}");
    }
}
