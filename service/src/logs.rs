//! Logs: `tracing` on stderr, text or JSON, level changeable while running.
//!
//! Promise: a log line never stalls a worker. Lines go through a bounded queue to a thread of their own. When a reader of
//! stderr (a pipe, the journal) stands still, new lines are dropped and counted (`oncecast_log_dropped_total`).
//!
//! Limit: [`QUEUE_LINES`] lines of at most [`LINE_BYTES`] bytes.

use crate::config::{LogFormat, LogLevel, Unacceptable};
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Registry, reload};

/// Lines that wait for the writer; more are dropped.
pub const QUEUE_LINES: usize = 1024;

/// Longer lines are cut.
pub const LINE_BYTES: usize = 8 * 1024;

/// The running log: its level can be read and changed. Clones share it.
#[derive(Clone, Debug)]
pub struct Logs {
    filter: reload::Handle<Targets, Registry>,
    level: Arc<Mutex<Level>>,
}

#[derive(Debug)]
struct Level {
    current: String,
    configured: String,
}

impl Logs {
    /// Starts the log of the process.
    ///
    /// # Errors
    /// A log was started before.
    pub fn start(format: LogFormat, level: &LogLevel) -> Result<Logs, io::Error> {
        let (layer, filter) = reload::Layer::new(targets(level));
        let queue = Queue::start()?;
        let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let lines = tracing_subscriber::fmt::layer().with_writer(queue).with_ansi(colours);
        let registry = tracing_subscriber::registry().with(layer);
        let set = match format {
            LogFormat::Text => tracing::subscriber::set_global_default(registry.with(lines)),
            LogFormat::Json => {
                let lines = lines.json().flatten_event(true).with_ansi(false);
                tracing::subscriber::set_global_default(registry.with(lines))
            }
        };
        set.map_err(io::Error::other)?;
        let text = level.as_str().to_owned();
        let level = Level { current: text.clone(), configured: text };
        Ok(Logs { filter, level: Arc::new(Mutex::new(level)) })
    }

    /// The level in force.
    pub fn level(&self) -> String {
        self.level.lock().unwrap_or_else(PoisonError::into_inner).current.clone()
    }

    /// Changes the level.
    ///
    /// # Errors
    /// The text is no level; says what is.
    pub fn set(&self, text: &str) -> Result<(), Unacceptable> {
        let level: LogLevel = text.parse()?;
        // The subscriber lives as long as the process; a failed reload leaves the old level in force.
        if self.filter.reload(targets(&level)).is_ok() {
            level.as_str().clone_into(&mut self.level.lock().unwrap_or_else(PoisonError::into_inner).current);
        }
        Ok(())
    }

    /// To `debug`, or back to the configured level (SIGHUP). Answers with the new level.
    pub fn toggle_debug(&self) -> String {
        let next = {
            let level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
            if level.current == "debug" && level.configured != "debug" {
                level.configured.clone()
            } else {
                "debug".to_owned()
            }
        };
        let _ = self.set(&next);
        next
    }
}

/// The directives as a filter. [`LogLevel`] accepts only what parses here.
fn targets(level: &LogLevel) -> Targets {
    level.as_str().parse().unwrap_or_else(|_| Targets::new().with_default(tracing::Level::INFO))
}

/// The queue between whoever logs and stderr.
#[derive(Clone, Debug)]
struct Queue {
    lines: SyncSender<Vec<u8>>,
    progress: Arc<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    queued: AtomicU64,
    written: AtomicU64,
}

static PROGRESS: OnceLock<Arc<Progress>> = OnceLock::new();

impl Queue {
    fn start() -> io::Result<Queue> {
        let (lines, waiting) = sync_channel(QUEUE_LINES);
        let progress = PROGRESS.get_or_init(Arc::default).clone();
        let done = progress.clone();
        std::thread::Builder::new().name("log".to_owned()).spawn(move || write_lines(&waiting, &done))?;
        Ok(Queue { lines, progress })
    }
}

fn write_lines(waiting: &Receiver<Vec<u8>>, progress: &Progress) {
    while let Ok(line) = waiting.recv() {
        // Nobody is left to tell when stderr itself fails.
        let _ = io::stderr().write_all(&line);
        progress.written.fetch_add(1, Ordering::Release);
    }
}

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut queued = line.get(..LINE_BYTES).unwrap_or(line).to_vec();
        if queued.len() < line.len() {
            queued.extend_from_slice(b" (cut)\n");
        }
        self.progress.queued.fetch_add(1, Ordering::Relaxed);
        if self.lines.try_send(queued).is_err() {
            self.progress.queued.fetch_sub(1, Ordering::Relaxed);
            ::metrics::counter!("oncecast_log_dropped_total").increment(1);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Queue {
    type Writer = Queue;

    fn make_writer(&self) -> Queue {
        self.clone()
    }
}

/// Waits until what was logged so far is written, at most a second. For the end of the process.
pub fn flush() {
    let Some(progress) = PROGRESS.get() else { return };
    let target = progress.queued.load(Ordering::Relaxed);
    let give_up = Instant::now() + Duration::from_secs(1);
    while progress.written.load(Ordering::Acquire) < target && Instant::now() < give_up {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_accepted_level_is_a_filter() {
        for text in ["off", "error", "warn", "info", "debug", "trace", "info,proxy_ingress=debug,a::b=off"] {
            let level: LogLevel = text.parse().unwrap();
            assert!(level.as_str().parse::<Targets>().is_ok(), "{text}");
        }
    }

    #[test]
    fn a_stuck_reader_costs_lines_and_never_blocks() {
        let (lines, waiting) = sync_channel(2);
        let mut queue = Queue { lines, progress: Arc::default() };
        for _ in 0..5 {
            assert_eq!(queue.write(b"line\n").unwrap(), 5);
        }
        assert_eq!(queue.progress.queued.load(Ordering::Relaxed), 2);
        let long = vec![b'x'; LINE_BYTES + 1];
        assert_eq!(waiting.recv().unwrap(), b"line\n");
        assert_eq!(queue.write(&long).unwrap(), long.len());
        assert_eq!(waiting.recv().unwrap(), b"line\n");
        assert!(waiting.recv().unwrap().ends_with(b"x (cut)\n"));
    }
}
