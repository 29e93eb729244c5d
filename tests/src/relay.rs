//! A relay in front of a Redis that misbehaves on purpose.
//!
//! It speaks over unix sockets: those are reached from every namespace, so it runs in the test itself.

use crate::redis::Redis;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What the relay does to answers.
#[derive(Default)]
pub struct Mischief {
    delay_ms: AtomicU64,
    cut: AtomicBool,
    garble: AtomicBool,
    withhold: AtomicBool,
    /// Bytes a second; 0 for any number.
    pace: AtomicU64,
    /// Times that an answer was cut or garbled.
    done: AtomicU64,
}

impl Mischief {
    /// Every answer comes this much later.
    pub fn delay(&self, delay: Duration) {
        self.delay_ms.store(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), SeqCst);
    }
    /// The next answer ends in its middle, and so does its connection.
    pub fn cut_next(&self) {
        self.cut.store(true, SeqCst);
    }
    /// The next answer becomes something else.
    pub fn garble_next(&self) {
        self.garble.store(true, SeqCst);
    }
    /// Answers arrive at so many bytes a second.
    pub fn pace(&self, bytes: u64) {
        self.pace.store(bytes, SeqCst);
    }
    fn wait_for(&self, bytes: u64) {
        if let Some(micros) = (bytes * 1_000_000).checked_div(self.pace.load(SeqCst)) {
            std::thread::sleep(Duration::from_micros(micros));
        }
    }
    /// From now on no answer arrives, or again.
    pub fn withhold(&self, withhold: bool) {
        self.withhold.store(withhold, SeqCst);
    }
    /// Times that an answer was cut or garbled.
    pub fn done(&self) -> u64 {
        self.done.load(SeqCst)
    }
}

/// Passes connections on to a server, with mischief.
pub struct Relay {
    dir: TempDir,
    pub mischief: Arc<Mischief>,
}

impl Relay {
    pub fn before(redis: &Redis) -> Relay {
        let dir = tempfile::tempdir().unwrap_or_else(|error| panic!("temporary directory: {error}"));
        let listener = UnixListener::bind(dir.path().join("relay")).unwrap_or_else(|error| panic!("{error}"));
        let (server, mischief) = (redis.socket(), Arc::<Mischief>::default());
        let shared = mischief.clone();
        // The thread ends with the test process; what it serves is gone before.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = UnixStream::connect(&server) else { continue };
                pass(client, server, &shared);
            }
        });
        Relay { dir, mischief }
    }

    /// For `--redis-addr`.
    pub fn address(&self) -> String {
        format!("unix://{}", self.dir.path().join("relay").display())
    }
}

/// Answers on their way: when each may go on, and its bytes.
#[derive(Default)]
struct Line {
    queue: Mutex<VecDeque<(Instant, Vec<u8>)>>,
    came: Condvar,
}

fn pass(client: UnixStream, server: UnixStream, mischief: &Arc<Mischief>) {
    let copy = |stream: &UnixStream| stream.try_clone().unwrap_or_else(|error| panic!("{error}"));
    let (mut from_client, mut to_server) = (copy(&client), copy(&server));
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Both);
    });
    let line = Arc::new(Line::default());
    let (mut from_server, mut to_client, out) = (server, client, line.clone());
    let delay = mischief.clone();
    std::thread::spawn(move || {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(read) = from_server.read(&mut bytes) {
            let at = Instant::now() + Duration::from_millis(delay.delay_ms.load(SeqCst));
            line.queue.lock().unwrap_or_else(|e| e.into_inner()).push_back((at, bytes[..read].to_vec()));
            line.came.notify_one();
            if read == 0 {
                return;
            }
        }
    });
    let mischief = mischief.clone();
    std::thread::spawn(move || {
        loop {
            let (at, mut bytes) = out.take();
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            if !bytes.is_empty() && mischief.withhold.load(SeqCst) {
                continue;
            }
            let cut = bytes.len() > 1 && mischief.cut.swap(false, SeqCst);
            if cut {
                bytes.truncate(bytes.len() / 2);
            }
            let garbled = !bytes.is_empty() && mischief.garble.swap(false, SeqCst);
            if garbled {
                bytes.iter_mut().for_each(|byte| *byte ^= 0x55);
            }
            mischief.done.fetch_add(u64::from(cut || garbled), SeqCst);
            let written = bytes.chunks(256).try_for_each(|piece| {
                mischief.wait_for(piece.len() as u64);
                to_client.write_all(piece)
            });
            if bytes.is_empty() || written.is_err() || cut {
                let _ = to_client.shutdown(Shutdown::Both);
                return;
            }
        }
    });
}

impl Line {
    fn take(&self) -> (Instant, Vec<u8>) {
        let mut queue = self.queue.lock().unwrap_or_else(|e| e.into_inner());
        loop {
            match queue.pop_front() {
                Some(next) => return next,
                None => queue = self.came.wait(queue).unwrap_or_else(|e| e.into_inner()),
            }
        }
    }
}
