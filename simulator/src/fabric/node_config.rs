//! What all nodes of a world are told: drawn once, the same for all of them.

use crate::MS;
use crate::random::Random;
use frame::{Fabric, ShardBits};
use std::time::Duration;

/// Address plan of all worlds.
pub(super) const FABRIC: Fabric = Fabric::V4 { net: 9 };
/// Shards of all worlds.
pub(super) const SHARD_BITS: ShardBits = match ShardBits::new(1) {
    Some(bits) => bits,
    None => panic!("within 15 bits"),
};
/// How long claims are remembered: longer than any world lasts.
pub(super) const TTL: Duration = Duration::from_secs(120);

/// See the module text. Times in microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct NodeConfig {
    pub(super) proxy: ProxyConfig,
    pub(super) listener: ListenerConfig,
    pub(super) endpoints: EndpointsConfig,
    /// Bytes of parked copies, at each worker.
    pub(super) park_bytes: usize,
    pub(super) max_batch: usize,
}

/// What the proxies are told.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProxyConfig {
    /// Lease of their claims.
    pub(super) lease: u64,
    /// Bytes of frames that wait for the store.
    pub(super) slab_bytes: usize,
    /// Frames that wait for the store.
    pub(super) slab_entries: usize,
    /// Bytes that wait for the kernel.
    pub(super) backlog_bytes: usize,
    pub(super) send_deadline: u64,
    /// Longest train of a socket, in frames.
    pub(super) train: usize,
    /// Bytes of a large frame that are cut in one round: all of it, or one fragment.
    pub(super) chunk: usize,
    /// A full socket is waited for so long.
    pub(super) full_timeout: u64,
    /// How long tier 1 remembers.
    pub(super) horizon: Duration,
}

/// What the listeners are told.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListenerConfig {
    /// Lease of their claims.
    pub(super) lease: u64,
    /// Bytes of frames that wait for the store.
    pub(super) waiting_bytes: usize,
    /// Bytes that wait for the consumer.
    pub(super) queue_bytes: usize,
    /// Numbers from before its start that a listener asks for on its own (`TrackLimits`): if they are few, the positions
    /// that its predecessor left must say the rest.
    pub(super) catch_up: u64,
    pub(super) small_head: u64,
}

/// The retry endpoints, and what they are told.
#[derive(Clone, Copy, Debug)]
pub(super) struct EndpointsConfig {
    pub(super) count: usize,
    /// They announce flows that fell silent; those of the Go stack, and old ones of ours, do not.
    pub(super) announces: bool,
    /// Percent of send calls that find the kernel of an endpoint nearly full.
    pub(super) refusing: u64,
}

impl NodeConfig {
    pub(super) fn draw(random: &mut Random) -> NodeConfig {
        NodeConfig {
            proxy: ProxyConfig {
                lease: 250 * MS,
                slab_bytes: tight(random, 20, 2_048, 1 << 16),
                slab_entries: tight(random, 20, 4, 256),
                backlog_bytes: tight(random, 30, 1_000, 1 << 16),
                send_deadline: tight(random, 50, 60 * MS, 300 * MS),
                train: tight(random, 40, 2, 16),
                chunk: tight(random, 50, 400, 1 << 16),
                full_timeout: tight(random, 30, 0, 5 * MS),
                horizon: tight(random, 20, Duration::from_millis(300), Duration::from_secs(120)),
            },
            listener: ListenerConfig {
                lease: tight(random, 80, 500 * MS, 2_000 * MS),
                waiting_bytes: tight(random, 15, 1_000, 1 << 16),
                queue_bytes: tight(random, 30, 2_000, 1 << 16),
                catch_up: tight(random, 50, 2, 8_192),
                small_head: tight(random, 50, 8, 64),
            },
            endpoints: EndpointsConfig {
                count: tight(random, 35, 2, 1),
                announces: !random.percent(25),
                refusing: tight(random, 20, 30, 0),
            },
            park_bytes: tight(random, 20, 1_000, 1 << 16),
            max_batch: tight(random, 20, 3, 64),
        }
    }
}

/// In so many percent of worlds the tight value.
fn tight<T>(random: &mut Random, percent: u64, value: T, otherwise: T) -> T {
    if random.percent(percent) { value } else { otherwise }
}
