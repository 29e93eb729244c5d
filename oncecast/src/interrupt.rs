//! Ctrl-C for commands that work on their own thread: the first asks them to end with their report, the second ends the
//! process at once.

use anyhow::Context;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Exit status of a command that was interrupted: 128 + SIGINT, as shells have it.
pub const EXIT: u8 = 130;

/// Whether Ctrl-C was pressed.
pub struct Interrupt {
    seen: Arc<AtomicBool>,
    _runtime: tokio::runtime::Runtime,
}

impl Interrupt {
    /// Takes SIGINT from now on.
    pub fn watch() -> anyhow::Result<Interrupt> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_io().build().context("runtime")?;
        let seen = Arc::new(AtomicBool::new(false));
        let mut signals = {
            let _entered = runtime.enter();
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt()).context("SIGINT")?
        };
        let asked = Arc::clone(&seen);
        runtime.spawn(async move {
            while signals.recv().await.is_some() {
                if asked.swap(true, Relaxed) {
                    std::process::exit(EXIT.into());
                }
            }
        });
        Ok(Interrupt { seen, _runtime: runtime })
    }

    /// True once it was pressed.
    pub fn seen(&self) -> bool {
        self.seen.load(Relaxed)
    }
}
