//! Which process made a claim, and whether it has ended.
//!
//! Why: a copy whose owner died waits for the whole lease, and whoever parks it may die in that time too. A process that is
//! started where the dead one ran knows at once that it is dead, and tells the siblings.
//!
//! How: a process takes a *place* before its first claim. A place is an abstract Unix socket: the kernel gives it to one
//! process of a network namespace, and takes it back when that process ends, however it ends. Its name is the boot of the
//! kernel, the namespace and the socket. Under that name the process lists its owner ids in the store. Whoever takes the
//! place next finds the list, and knows that those owners have no process any more. It writes an end notice for each of them
//! (`Names::end_notice`), and siblings that wait for one of them take over at their next read (`claims/parking.rs`).
//!
//! Promise: an owner is called ended only when the process that listed it cannot send any more. No clock and no timeout is
//! involved. Where no place can be taken (no such sockets, all taken, a container that gets a new namespace), or the store
//! does not answer, the lease decides as before.
//!
//! Limits: `PLACES` processes of one gate in one namespace; `MAX_OWNERS` owners a process. A worker may go on under a new
//! owner id after a doubtful release; that id is not listed, and its claims wait for their lease.

use crate::name::Names;
use crate::value::{VERSION, encode_end_notice};
use bytes::Bytes;
use cache_backend::{Backend, KeyValues, OpenError, Session};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

const PLACES: u8 = 64;
const MAX_OWNERS: usize = 256;
/// Longest wait for one answer of the store; its session may allow less.
const CALL: Duration = Duration::from_secs(1);
/// Pauses after tries in vain: together half a second, by which a start is late when the store is gone.
pub(crate) const PAUSES: [Duration; 4] = [
    Duration::from_millis(20),
    Duration::from_millis(80),
    Duration::from_millis(200),
    Duration::from_millis(200),
];

/// A place that this process has for as long as it lives.
#[derive(Debug)]
pub struct ProcessPlace {
    name: Vec<u8>,
    _held: UnixDatagram,
}

impl ProcessPlace {
    /// Takes a free place among the processes that use the gate of `names`.
    pub fn take(names: &Names) -> Option<ProcessPlace> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let namespace = std::fs::metadata("/proc/self/ns/net").ok()?.ino();
        let mut gate = Vec::new();
        names.node(&[], &mut gate);
        let gate = fnv(&gate);
        (0..PLACES).find_map(|number| {
            let address = SocketAddr::from_abstract_name(format!("oncecast/{gate:016x}/{number}")).ok()?;
            let held = UnixDatagram::bind_addr(&address).ok()?;
            let boot = boot.trim().bytes().filter(|byte| *byte != b'-');
            let name = boot.chain(namespace.to_be_bytes()).chain([number]).collect();
            Some(ProcessPlace { name, _held: held })
        })
    }

    /// Key of the list of this place.
    fn key(&self, names: &Names) -> Vec<u8> {
        let mut key = Vec::new();
        names.node(&self.name, &mut key);
        key
    }
}

/// The processes that ran at the place of this one, and what this one does with the store before its first claim.
pub struct Predecessors {
    names: Names,
    session: Box<dyn Session>,
    ttl: Duration,
    place: Option<ProcessPlace>,
    ended: Vec<u64>,
}

impl Predecessors {
    /// Takes a place, finds out whose it was, and tells the siblings that those have ended. `ttl`: how long claims of the
    /// gate live at most; zero for ever. Must be called on a runtime that lives on until `list` has completed.
    ///
    /// # Errors
    /// The backend gives no session.
    pub async fn begin(
        backend: &dyn Backend,
        names: Names,
        ttl: Duration,
    ) -> Result<Predecessors, OpenError> {
        let session = backend.session().await?;
        let place = ProcessPlace::take(&names);
        let mut predecessors = Predecessors { names, session, ttl, place, ended: Vec::new() };
        if let Some(key) = predecessors.place.as_ref().map(|place| place.key(&predecessors.names)) {
            let list = predecessors.read(&[key]).await.and_then(|mut values| values.pop().flatten());
            predecessors.ended = owners(&list.unwrap_or_default());
            predecessors.tell_ended().await;
        }
        Ok(predecessors)
    }

    /// Owners whose process has ended.
    pub fn ended(&self) -> &[u64] {
        &self.ended
    }

    /// Lists the owners of this process under its place, which it has from now on for as long as the value lives.
    pub async fn list(self, owners: &[u64]) -> Option<ProcessPlace> {
        let place = self.place.as_ref()?;
        let mut batch = KeyValues::new();
        batch.push(&place.key(&self.names), &encode(owners));
        self.write(batch).await;
        self.place
    }

    /// Values of keys; `None`: the store did not answer, after several tries.
    pub async fn read(&self, keys: &[Vec<u8>]) -> Option<Vec<Option<Bytes>>> {
        let mut batch = KeyValues::new();
        keys.iter().for_each(|key| batch.push(key, b""));
        for pause in PAUSES {
            let answers = self.session.get(batch.clone(), Instant::now() + CALL).await;
            if answers.iter().all(Result::is_ok) {
                return Some(answers.into_iter().filter_map(Result::ok).collect());
            }
            tokio::time::sleep(pause).await;
        }
        tracing::warn!("the store does not say what the process before this one left there");
        None
    }

    async fn tell_ended(&self) {
        let mut batch = KeyValues::new();
        let mut key = Vec::new();
        for &owner in &self.ended {
            key.clear();
            self.names.end_notice(owner, &mut key);
            batch.push(&key, &encode_end_notice(owner));
        }
        if !batch.is_empty() {
            self.write(batch).await;
        }
    }

    async fn write(&self, batch: KeyValues) {
        for pause in PAUSES {
            let answers = self.session.set(batch.clone(), self.ttl, Instant::now() + CALL).await;
            if answers.iter().all(Result::is_ok) {
                return;
            }
            tokio::time::sleep(pause).await;
        }
        tracing::warn!(
            "the store does not take which process this is: after its end siblings wait for its lease"
        );
    }
}

/// The list of a place: version, then 8 bytes an owner.
fn encode(owners: &[u64]) -> Vec<u8> {
    let owners = owners.iter().take(MAX_OWNERS).flat_map(|owner| owner.to_be_bytes());
    [VERSION].into_iter().chain(owners).collect()
}

/// Owners in the list of a place; none where it is not what this version writes.
pub fn owners(list: &[u8]) -> Vec<u64> {
    let Some((&VERSION, owners)) = list.split_first() else { return Vec::new() };
    let (owners, rest) = owners.as_chunks::<8>();
    if !rest.is_empty() || owners.len() > MAX_OWNERS {
        return Vec::new();
    }
    owners.iter().map(|bytes| u64::from_be_bytes(*bytes)).collect()
}

/// FNV-1a: a short name for a prefix of any length.
fn fnv(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyStyle;
    use crate::value::parse_end_notice;

    /// Of a gate that no other process has.
    fn names(gate: &str) -> Names {
        Names::new(format!("test:{}:{gate}:", std::process::id()).as_bytes(), KeyStyle::Hex)
    }

    #[test]
    fn a_place_belongs_to_one_process_and_is_free_when_it_has_ended() {
        let names = names("places");
        let first = ProcessPlace::take(&names).unwrap();
        let second = ProcessPlace::take(&names).unwrap();
        assert_ne!(first.key(&names), second.key(&names));
        let key = first.key(&names);
        drop(first);
        assert_eq!(ProcessPlace::take(&names).unwrap().key(&names), key);
    }

    #[test]
    fn gates_of_other_consumers_have_places_of_their_own() {
        let (one, other) = (names("one"), names("other"));
        let (a, b) = (ProcessPlace::take(&one).unwrap(), ProcessPlace::take(&other).unwrap());
        assert_eq!(a.name, b.name);
        assert_ne!(a.key(&one), b.key(&other));
    }

    #[test]
    fn a_list_that_is_cut_or_of_another_version_names_nobody() {
        let list = encode(&[1, u64::MAX]);
        assert_eq!(owners(&list), [1, u64::MAX]);
        assert_eq!(owners(&list[..list.len() - 1]), []);
        assert_eq!(owners(&[2, 0, 0, 0, 0, 0, 0, 0, 1]), []);
        assert_eq!(owners(&[]), []);
        assert_eq!(parse_end_notice(&encode_end_notice(7)), Some(7));
    }
}
