//! What the parts share: where the groups are, when a part that receives ends, and its CPU time.

use anyhow::Context;
use frame::{Fabric, GroupIndex, Scope, ShardBits, SourceMode};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Where the multicast side is: the defaults of the roles.
#[derive(clap::Args, Debug)]
pub struct Groups {
    /// Interface of the multicast side
    #[arg(long, value_name = "NAME", default_value = "lo")]
    pub iface: String,
    /// Leading bits of the id that choose the group
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub shard_bits: u8,
    /// UDP port of the groups
    #[arg(long, value_name = "PORT", default_value_t = 9001)]
    pub port: u16,
}

impl Groups {
    /// The bits, if they are accepted.
    pub fn bits(&self) -> anyhow::Result<ShardBits> {
        ShardBits::new(self.shard_bits).context("--shard-bits: accepted are 0 to 15")
    }

    /// Where the datagrams of a group go.
    pub fn destination(&self, group: GroupIndex) -> SocketAddr {
        let fabric =
            Fabric::V6 { mode: SourceMode::Asm, scope: Scope::Site, group_id: Fabric::DEFAULT_GROUP_ID };
        SocketAddr::new(fabric.address(group), self.port)
    }

    /// Every group.
    pub fn all(&self) -> anyhow::Result<impl Iterator<Item = GroupIndex>> {
        Ok((0..self.bits()?.groups()).filter_map(|index| u16::try_from(index).ok()).map(GroupIndex))
    }
}

/// When a part that receives ends.
#[derive(clap::Args, Debug)]
pub struct Ending {
    /// End this long after the last datagram
    #[arg(long, value_name = "MS", default_value_t = 300)]
    idle_ms: u64,
    /// End after this long, whatever comes
    #[arg(long, value_name = "S", default_value_t = 20.0)]
    seconds: f64,
}

/// Follows an [`Ending`].
pub struct End {
    last: Option<Instant>,
    idle: Duration,
    at: Instant,
}

impl End {
    /// From now on.
    pub fn new(ending: &Ending) -> End {
        let idle = Duration::from_millis(ending.idle_ms);
        End {
            last: None,
            idle,
            at: Instant::now() + Duration::from_secs_f64(ending.seconds.clamp(0.0, 3600.0)),
        }
    }

    /// Something came.
    pub fn moved(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// How long to wait for more; `None`: it is over.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        let until = self.last.map_or(self.at, |last| self.at.min(last + self.idle));
        Some(until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }
}

/// CPU time of this thread since `since`, as the reports name it.
pub fn cpu(since: multicast_io::ThreadTime) -> anyhow::Result<serde_json::Value> {
    let now = multicast_io::thread_time()?;
    Ok(serde_json::json!({
        "user": now.user.saturating_sub(since.user).as_secs_f64(),
        "system": now.system.saturating_sub(since.system).as_secs_f64(),
    }))
}
