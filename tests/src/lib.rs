//! The world of an end-to-end test: hosts in network namespaces joined by a bridge, and processes on them.
//!
//! Everything a test made goes away when it ends, also when it fails: namespaces are deleted and processes killed by
//! id on drop. What a killed test run left behind is swept by the next one (names carry the id of their owner).

pub mod aerospike;
pub mod day;
pub mod fleet;
pub mod net;
pub mod process;
pub mod redis;
pub mod relay;
mod skip;
pub mod stand_in;

pub use fleet::{Fleet, Setup};
pub use net::{Host, Net};
pub use process::{Process, oncecast};
pub use skip::skipped;

use std::path::PathBuf;

/// The real block that travels with the project.
pub fn block_file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data/block413567.raw")
}

/// True once `condition` holds; false if it does not within a minute, which no machine is too busy for. Polled every 20 ms.
pub fn eventually(condition: impl FnMut() -> bool) -> bool {
    within(60.0, condition)
}

/// True if `condition` became true within `seconds`; polled every 20 ms.
pub fn within(seconds: f64, mut condition: impl FnMut() -> bool) -> bool {
    let end = std::time::Instant::now() + std::time::Duration::from_secs_f64(seconds);
    loop {
        if condition() {
            return true;
        }
        if std::time::Instant::now() >= end {
            return false;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
