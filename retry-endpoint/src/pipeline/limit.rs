//! Who may ask for how much: token buckets in tables of fixed size.
//!
//! Why: one listener that lost a fifth of a busy fabric must get all of it back. A thousand forged addresses must neither fill
//! memory nor turn the endpoint into an amplifier.
//!
//! A table never grows. A new key takes the place of the key in its set whose bucket is fullest: a full bucket is worth the same
//! as none, so nothing needs to be swept. Under a flood of keys, buckets in use are displaced: limits get looser, memory does
//! not grow.
//!
//! Cost: one seeded hash and four compares a check. Nothing allocates after `new`.

use super::seeded::seeded;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// `burst` at once, `rate` a second on average.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Tokens a second.
    pub rate: f64,
    /// Size of the bucket.
    pub burst: f64,
}

impl Rate {
    /// `most` in any `window`, as the sliding windows of the Go stack are given.
    pub fn per_window(most: u64, window: Duration) -> Rate {
        #[allow(clippy::cast_precision_loss, reason = "limits are far below 2^52")]
        let burst = most as f64;
        Rate { rate: burst / window.as_secs_f64().max(1e-3), burst }
    }
}

/// One bucket with its owner.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    key: (u128, u64),
    tokens: f64,
    /// Nanoseconds since the table's epoch; 0 = never used.
    filled: u64,
}

/// A table of token buckets by (address or 0, number); see the module text.
pub struct Buckets {
    rate: Rate,
    buckets: Vec<Bucket>,
    mask: usize,
    seed: u64,
    epoch: Instant,
}

impl Buckets {
    /// RepairPaths a set.
    const WAYS: usize = 4;

    /// Room for `entries` keys (rounded up to a power of two).
    pub fn new(rate: Rate, entries: usize, seed: u64, now: Instant) -> Buckets {
        let entries = entries.max(Buckets::WAYS).next_power_of_two();
        let empty = Bucket { key: (0, 0), tokens: rate.burst, filled: 0 };
        Buckets { rate, buckets: vec![empty; entries], mask: entries / Buckets::WAYS - 1, seed, epoch: now }
    }

    /// Takes `cost` tokens of `key`; false (and nothing taken) if they are not there. A cost above the burst can never
    /// be paid.
    pub fn take(&mut self, key: (u128, u64), cost: f64, now: Instant) -> bool {
        let bucket = self.bucket(key, now);
        if bucket.tokens < cost {
            return false;
        }
        bucket.tokens -= cost;
        true
    }

    /// Takes `cost` tokens even if that leaves a debt: for what could not be known before it was done.
    pub fn charge(&mut self, key: (u128, u64), cost: f64, now: Instant) {
        self.bucket(key, now).tokens -= cost;
    }

    /// Tokens that `key` has now.
    pub fn tokens(&mut self, key: (u128, u64), now: Instant) -> f64 {
        self.bucket(key, now).tokens
    }

    /// Number of buckets; constant.
    pub fn len(&self) -> usize {
        self.buckets.len()
    }

    /// Never: a table has at least one set.
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    fn bucket(&mut self, key: (u128, u64), now: Instant) -> &mut Bucket {
        let now =
            u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX).max(1);
        #[allow(clippy::cast_possible_truncation, reason = "a hash, folded on purpose")]
        let set = seeded(self.seed, (key.0 >> 64) as u64 ^ (key.0 as u64).rotate_left(29), key.1) as usize
            & self.mask;
        let rate = self.rate;
        let ways = &mut self.buckets[set * Buckets::WAYS..][..Buckets::WAYS];
        let at = ways.iter().position(|way| way.filled != 0 && way.key == key).unwrap_or_else(|| {
            let fullest = (0..Buckets::WAYS).max_by(|&a, &b| {
                let (a, b) = (level(&ways[a], rate, now), level(&ways[b], rate, now));
                a.total_cmp(&b)
            });
            let victim = fullest.unwrap_or(0);
            ways[victim] = Bucket { key, tokens: rate.burst, filled: now };
            victim
        });
        let bucket = &mut ways[at];
        bucket.tokens = level(bucket, rate, now);
        bucket.filled = now;
        bucket
    }
}

/// Tokens of a bucket at `now`.
fn level(bucket: &Bucket, rate: Rate, now: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "nanoseconds of an uptime; precision is not the point")]
    let seconds = now.saturating_sub(bucket.filled) as f64 / 1e9;
    (bucket.tokens + seconds * rate.rate).min(rate.burst)
}

/// The address as a key; IPv4 and its mapped form are one.
pub fn source_key(address: IpAddr) -> u128 {
    let v6 = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    u128::from_be_bytes(v6.octets())
}

/// Addresses that have proved themselves by configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trusted(Vec<Network>);

/// An address prefix in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: u128,
    mask: u128,
}

/// A text that is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a network: expected an address or address/prefix, such as 192.0.2.0/24 or 2001:db8::/32"
)]
pub struct NotANetwork(String);

impl std::str::FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Network, NotANetwork> {
        let wrong = || NotANetwork(text.to_owned());
        let (address, prefix) =
            text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.trim().parse().map_err(|_| wrong())?;
        let (width, base) = if address.is_ipv4() { (32, 96) } else { (128, 0) };
        let prefix = match prefix {
            Some(prefix) => {
                prefix.trim().parse::<u32>().ok().filter(|&bits| bits <= width).ok_or_else(wrong)?
            }
            None => width,
        };
        let mask = u128::MAX.checked_shl(128 - (base + prefix)).unwrap_or(0);
        Ok(Network { address: source_key(address) & mask, mask })
    }
}

impl Trusted {
    /// The given networks; loopback is always among them.
    pub fn new(networks: Vec<Network>) -> Trusted {
        Trusted(networks)
    }

    /// True if requests from `address` come from there: an outsider cannot send from these.
    pub fn contains(&self, address: IpAddr) -> bool {
        let key = source_key(address);
        let loopback = match address {
            IpAddr::V4(v4) => v4.is_loopback(),
            IpAddr::V6(v6) => {
                v6 == Ipv6Addr::LOCALHOST || v6.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback())
            }
        };
        loopback || self.0.iter().any(|network| key & network.mask == network.address)
    }
}

/// Limits of requests, checked before a request costs a lookup.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RequestRates {
    /// Requests of one address.
    pub ip: Rate,
    /// Requests for one (flow, first number), from anybody.
    pub sequence: Rate,
    /// Requests of one address for one flow.
    pub chain: Rate,
}

service::reasons! {
    /// Which limit said no: its name is the label of `bre_rate_limit_drops_total` (the first four are those of the Go stack),
    /// and it decides the hold of a THROTTLED reply.
    pub enum Level {
        /// Requests of an address.
        keeps Ip = "ip",
        /// Requests for one number of a flow.
        keeps Sequence = "sequence",
        /// Requests of an address for a flow.
        keeps Chain = "chain",
        /// Repairs an address caused in a group.
        keeps Group = "group",
        /// Repair bytes an address caused.
        keeps Bytes = "bytes",
    }
}

impl Level {
    /// Hold = 125 ms << bucket (wire 1.13). Addresses refill within a moment; the rest are the buckets of the Go stack.
    pub fn bucket(self) -> u8 {
        match self {
            Level::Ip | Level::Bytes => 0,
            Level::Sequence => 2,
            Level::Chain => 3,
            Level::Group => 4,
        }
    }
}

/// Checks requests before they cost a look-up.
pub struct RequestLimits {
    ip: Buckets,
    sequence: Buckets,
    chain: Buckets,
}

impl RequestLimits {
    /// Tables of 16 Ki (address), 64 Ki (number) and 16 Ki (address, flow) buckets: 6 MiB, taken once.
    pub fn new(rates: RequestRates, seed: u64, now: Instant) -> RequestLimits {
        RequestLimits {
            ip: Buckets::new(rates.ip, 1 << 14, seed, now),
            sequence: Buckets::new(rates.sequence, 1 << 16, seed.rotate_left(7), now),
            chain: Buckets::new(rates.chain, 1 << 14, seed.rotate_left(13), now),
        }
    }

    /// One request; a range counts once.
    ///
    /// # Errors
    /// The limit that is exhausted.
    pub fn check(&mut self, source: IpAddr, nack: &frame::Nack, now: Instant) -> Result<(), Level> {
        let source = source_key(source);
        let flow = nack.hash_key.0;
        if !self.ip.take((source, 0), 1.0, now) {
            return Err(Level::Ip);
        }
        if !self.sequence.take((u128::from(nack.start.0), flow), 1.0, now) {
            return Err(Level::Sequence);
        }
        if flow != 0 && !self.chain.take((source, flow), 1.0, now) {
            return Err(Level::Chain);
        }
        Ok(())
    }
}

/// Limits of what is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RepairRates {
    /// Frames that one address may cause in one group.
    pub group: Rate,
    /// Bytes that one address may cause.
    pub bytes: Rate,
}

/// Checks repairs after the lookup.
pub struct RepairLimits {
    group: Buckets,
    bytes: Buckets,
    trusted: Trusted,
}

impl RepairLimits {
    /// What an unproven address may get by unicast for each byte that came from it.
    pub const AMPLIFICATION: usize = 3;

    /// Two tables of 16 Ki buckets: 2 MiB, taken once.
    pub fn new(rates: RepairRates, trusted: Trusted, seed: u64, now: Instant) -> RepairLimits {
        RepairLimits {
            group: Buckets::new(rates.group, 1 << 14, seed.rotate_left(19), now),
            bytes: Buckets::new(rates.bytes, 1 << 14, seed.rotate_left(23), now),
            trusted,
        }
    }

    /// True if `source` cannot be forged from outside.
    pub fn is_trusted(&self, source: IpAddr) -> bool {
        self.trusted.contains(source)
    }

    /// Takes one repair of `len` bytes into `group`.
    ///
    /// # Errors
    /// The limit that is exhausted.
    pub fn repair(&mut self, source: IpAddr, group: u16, len: usize, now: Instant) -> Result<(), Level> {
        let source = source_key(source);
        #[allow(clippy::cast_precision_loss, reason = "a datagram")]
        let len = len as f64;
        if !self.bytes.take((source, 0), len, now) {
            return Err(Level::Bytes);
        }
        if !self.group.take((source, u64::from(group)), 1.0, now) {
            return Err(Level::Group);
        }
        Ok(())
    }

    /// Unicast bytes that the answer to a request of `received` bytes may have, the reply included. What is left of it
    /// is not kept: each answer stands on its own request, so no table can be talked into more.
    pub fn unicast_budget(&self, source: IpAddr, received: usize) -> usize {
        if self.is_trusted(source) {
            usize::MAX
        } else {
            received.saturating_mul(RepairLimits::AMPLIFICATION)
        }
    }
}
