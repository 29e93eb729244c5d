//! Types that option values have. Each parses from text and says what it accepts when it refuses.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

/// Why a value was refused: what would be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("want {0}")]
pub struct Unacceptable(pub String);

fn want<T>(accepted: &str) -> Result<T, Unacceptable> {
    Err(Unacceptable(accepted.to_owned()))
}

/// Parts of a comma separated list, without surrounding blanks; an empty text is an empty list.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// Defines `Display` of a list type as its parts joined with commas.
macro_rules! display_joined {
    ($type:ty, $part:expr) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let parts: Vec<String> = self.0.iter().map($part).collect();
                f.write_str(&parts.join(","))
            }
        }
    };
}

/// A number of bytes: `65536`, `64KiB`, `1.5GiB`, `10MB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl ByteSize {
    const ACCEPTED: &str = "a size such as 65536, 64KiB, 512MiB or 2GiB (kB, MB, GB are decimal)";
    const UNITS: [(&str, u64); 9] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("B", 1),
    ];

    /// Bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Bytes for sizing memory; the largest `usize` where it would not fit.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for ByteSize {
    type Err = Unacceptable;

    fn from_str(text: &str) -> Result<ByteSize, Unacceptable> {
        let found =
            ByteSize::UNITS.iter().find_map(|&(unit, factor)| Some((text.strip_suffix(unit)?, factor)));
        let (number, factor) = found.unwrap_or((text, 1));
        let scaled = scaled(number.trim_end(), factor);
        scaled
            .and_then(|bytes| u64::try_from(bytes).ok())
            .map(ByteSize)
            .ok_or_else(|| Unacceptable(ByteSize::ACCEPTED.to_owned()))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = ByteSize::UNITS.iter().take(4).rev();
        for &(unit, factor) in binary {
            if self.0 >= factor && self.0.is_multiple_of(factor) {
                return write!(f, "{}{unit}", self.0 / factor);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// `number` (decimal digits with at most one point) times `factor`, rounded down; `None` if it is no such number or too
/// large.
fn scaled(number: &str, factor: u64) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) || fraction.len() > 18
    {
        return None;
    }
    let parse = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u128>().ok() };
    let factor = u128::from(factor);
    let fraction_digits = u32::try_from(fraction.len()).ok()?;
    let part = parse(fraction)?.checked_mul(factor)? / 10u128.checked_pow(fraction_digits)?;
    parse(whole)?.checked_mul(factor)?.checked_add(part)
}

/// Parses a duration as Go writes it: `250ms`, `1m30s`, `1.5h`, `0`. For `value_parser`.
///
/// # Errors
/// No unit, an unknown unit, negative, or more than 584 years.
pub fn duration(text: &str) -> Result<Duration, Unacceptable> {
    const ACCEPTED: &str =
        "a duration with its unit, such as 250ms, 30s, 1m30s, 10m or 2h (units ns, us, ms, s, m, h), or 0";
    const UNITS: [(&str, u64); 8] = [
        ("ns", 1),
        ("us", 1_000),
        ("µs", 1_000),
        ("μs", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut rest, mut nanos) = (text, Some(0u128));
    while !rest.is_empty() {
        let number_len = rest.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(number_len);
        let unit_len = tail.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let Some(&(_, factor)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return want(ACCEPTED);
        };
        nanos = nanos.zip(scaled(number, factor)).and_then(|(sum, more)| sum.checked_add(more));
        rest = tail;
    }
    match nanos.map(u64::try_from) {
        Some(Ok(nanos)) if !text.is_empty() => Ok(Duration::from_nanos(nanos)),
        _ => want(ACCEPTED),
    }
}

/// Parses a multicast group id: decimal, or hexadecimal with `0x`. For `value_parser`.
///
/// # Errors
/// Not a number, or above 0xFFFF.
pub fn group_id(text: &str) -> Result<u16, Unacceptable> {
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let parsed = match hex {
        Some(digits) if !digits.starts_with('+') => u16::from_str_radix(digits, 16),
        _ => text.parse(),
    };
    parsed.or_else(|_| want("a number from 0 to 65535, or 0x0000 to 0xFFFF"))
}

/// Parses the name of a fabric. For `value_parser`.
///
/// # Errors
/// Empty, too long, or with blanks.
pub fn fabric_name(text: &str) -> Result<String, Unacceptable> {
    let fits = (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if fits { Ok(text.to_owned()) } else { want("1 to 64 printable ASCII characters without blanks") }
}

/// A share in percent, 0 to 100, with or without the sign: `15`, `0.5`, `15%`.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Percent(f64);

impl Percent {
    /// `None` outside 0 to 100.
    pub fn new(percent: f64) -> Option<Percent> {
        (0.0..=100.0).contains(&percent).then_some(Percent(percent))
    }

    /// 0 to 100.
    pub fn percent(self) -> f64 {
        self.0
    }

    /// 0 to 1.
    pub fn fraction(self) -> f64 {
        self.0 / 100.0
    }
}

impl FromStr for Percent {
    type Err = Unacceptable;

    fn from_str(text: &str) -> Result<Percent, Unacceptable> {
        let number = text.strip_suffix('%').unwrap_or(text).trim_end();
        let parsed = number.parse().ok().and_then(Percent::new);
        parsed.map_or_else(|| want("a percentage from 0 to 100"), Ok)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A host (name or address) and, where given, a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Name or address, without brackets.
    pub host: String,
    /// Port; `None` where the text gave none.
    pub port: Option<u16>,
}

impl HostPort {
    const ACCEPTED: &str = "host:port, such as 10.0.0.1:6379, [fd00::1]:6379 or cache-1:6379";

    /// The port, or `default` where none was given.
    pub fn port_or(&self, default: u16) -> u16 {
        self.port.unwrap_or(default)
    }

    /// The address where the host is a literal; names are left to the resolver.
    pub fn literal(&self, default_port: u16) -> Option<SocketAddr> {
        let ip = self.host.parse::<IpAddr>().ok()?;
        Some(SocketAddr::new(ip, self.port_or(default_port)))
    }
}

impl FromStr for HostPort {
    type Err = Unacceptable;

    fn from_str(text: &str) -> Result<HostPort, Unacceptable> {
        let bare_v6 = text.parse::<Ipv6Addr>().is_ok();
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) if host.parse::<Ipv6Addr>().is_ok() => (host, None),
            Some((host, port)) if host.parse::<Ipv6Addr>().is_ok() => match port.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None => return want(HostPort::ACCEPTED),
            },
            Some(_) => return want(HostPort::ACCEPTED),
            None if bare_v6 => (text, None),
            None => text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let name_ok = |host: &str| host.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        let port = match port.map(str::parse::<u16>) {
            Some(Err(_)) | Some(Ok(0)) => return want(HostPort::ACCEPTED),
            Some(Ok(port)) => Some(port),
            None => None,
        };
        if host.is_empty() || (!name_ok(host) && host.parse::<Ipv6Addr>().is_err()) {
            return want(HostPort::ACCEPTED);
        }
        Ok(HostPort { host: host.to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.host.contains(':'), self.port) {
            (true, Some(port)) => write!(f, "[{}]:{port}", self.host),
            (true, None) => write!(f, "[{}]", self.host),
            (false, Some(port)) => write!(f, "{}:{port}", self.host),
            (false, None) => f.write_str(&self.host),
        }
    }
}

/// A comma separated list of [`HostPort`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostPorts(pub Vec<HostPort>);

impl FromStr for HostPorts {
    type Err = Unacceptable;

    fn from_str(text: &str) -> Result<HostPorts, Unacceptable> {
        let hosts: Result<Vec<HostPort>, _> = parts(text).map(str::parse).collect();
        hosts
            .map(HostPorts)
            .map_err(|Unacceptable(one)| Unacceptable(format!("a comma separated list of {one}")))
    }
}

display_joined!(HostPorts, HostPort::to_string);

/// A comma separated list of names (interfaces, addresses). User and password of a URL among them are not in its `Debug`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Names(pub Vec<String>);

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Names").field(&super::secret::masked("redis-addr", &self.to_string()).0).finish()
    }
}

impl FromStr for Names {
    type Err = Unacceptable;

    fn from_str(text: &str) -> Result<Names, Unacceptable> {
        Ok(Names(parts(text).map(str::to_owned).collect()))
    }
}

display_joined!(Names, String::clone);

/// A comma separated list of ids of `N` bytes in hexadecimal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HexIds<const N: usize>(pub Vec<[u8; N]>);

impl<const N: usize> FromStr for HexIds<N> {
    type Err = Unacceptable;

    fn from_str(text: &str) -> Result<HexIds<N>, Unacceptable> {
        let ids: Option<Vec<[u8; N]>> = parts(text).map(hex_id).collect();
        let refused =
            || Unacceptable(format!("a comma separated list of ids of {} hexadecimal digits", 2 * N));
        ids.map(HexIds).ok_or_else(refused)
    }
}

fn hex_id<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut id = [0; N];
    for (byte, digits) in id.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(id)
}

impl<const N: usize> fmt::Display for HexIds<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, id) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            for byte in id {
                write!(f, "{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Group indices as single numbers and ranges: `0-3,7`. Empty means all where the option says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupRanges(pub Vec<RangeInclusive<u16>>);

impl GroupRanges {
    /// Whether nothing was listed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `group` is in one of the ranges.
    pub fn contains(&self, group: u16) -> bool {
        self.0.iter().any(|range| range.contains(&group))
    }

    /// The largest index listed.
    pub fn highest(&self) -> Option<u16> {
        self.0.iter().map(|range| *range.end()).max()
    }
}

impl FromStr for GroupRanges {
    type Err = Unacceptable;

    fn from_str(text: &str) -> Result<GroupRanges, Unacceptable> {
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let range = first.trim().parse::<u16>().ok()?..=last.trim().parse::<u16>().ok()?;
            (range.start() <= range.end()).then_some(range)
        };
        let ranges: Option<Vec<_>> = parts(text).map(range).collect();
        ranges.map_or_else(
            || want("group indices and ranges such as 0-3,7 (0 to 65535)"),
            |r| Ok(GroupRanges(r)),
        )
    }
}

display_joined!(GroupRanges, |range| match range.start() == range.end() {
    true => range.start().to_string(),
    false => format!("{}-{}", range.start(), range.end()),
});

/// Where a server listens: `:9100` (all addresses, IPv4 and IPv6), `127.0.0.1:9100`, `[::1]:0`, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddr(pub Option<SocketAddr>);

impl FromStr for ListenAddr {
    type Err = Unacceptable;

    fn from_str(text: &str) -> Result<ListenAddr, Unacceptable> {
        if text == "off" {
            return Ok(ListenAddr(None));
        }
        let all = text.strip_prefix(':').and_then(|port| port.parse().ok());
        let all = all.map(|port| SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port));
        let parsed = all.or_else(|| text.parse().ok());
        let parsed = parsed.or_else(|| format!("127.0.0.1{}", text.strip_prefix("localhost")?).parse().ok());
        match parsed {
            Some(addr) => Ok(ListenAddr(Some(addr))),
            None => {
                want("an address and port such as :9100, 127.0.0.1:9100 or [::1]:9100 (port 0 = any), or off")
            }
        }
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(addr) => addr.fmt(f),
            None => f.write_str("off"),
        }
    }
}

/// What to log: a level (`error`, `warn`, `info`, `debug`, `trace`, `off`) or directives such as `info,proxy_ingress=debug`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLevel(String);

impl LogLevel {
    /// The text as given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LogLevel {
    type Err = Unacceptable;

    fn from_str(text: &str) -> Result<LogLevel, Unacceptable> {
        const ACCEPTED: &str =
            "off, error, warn, info, debug or trace, or directives such as info,proxy_ingress=debug";
        let level = |word: &str| tracing::level_filters::LevelFilter::from_str(word).is_ok();
        let target = |name: &str| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_:-".contains(c))
        };
        // A bare word is a level, never the name of a module: a mistyped level must not switch the log off.
        let directive = |part: &str| match part.split_once('=') {
            Some((name, word)) => target(name) && level(word),
            None => level(part) && part.parse::<u8>().is_err(),
        };
        match !text.trim().is_empty() && text.split(',').map(str::trim).all(directive) {
            true => Ok(LogLevel(text.to_ascii_lowercase())),
            false => want(ACCEPTED),
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T: FromStr<Err = Unacceptable> + fmt::Debug>(texts: &[&str]) {
        for text in texts {
            assert!(text.parse::<T>().is_err(), "{text:?} was accepted: {:?}", text.parse::<T>());
        }
    }

    #[test]
    fn byte_sizes() {
        let bytes = |text: &str| text.parse::<ByteSize>().unwrap().bytes();
        assert_eq!(bytes("0"), 0);
        assert_eq!(bytes("65536"), 65536);
        assert_eq!(bytes("64MiB"), 64 << 20);
        assert_eq!(bytes("64 MiB"), 64 << 20);
        assert_eq!(bytes("1.5GiB"), 3 << 29);
        assert_eq!(bytes("10MB"), 10_000_000);
        assert_eq!(ByteSize(64 << 20).to_string(), "64MiB");
        assert_eq!(ByteSize(1500).to_string(), "1500");
        refused::<ByteSize>(&[
            "",
            "MiB",
            "-1",
            "1K",
            "64mb",
            "1..5GiB",
            "1e3",
            "18446744073709551616",
            "99999999TiB",
            "+1",
        ]);
    }

    #[test]
    fn durations_as_go_writes_them() {
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("1.5h"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("10µs"), Ok(Duration::from_micros(10)));
        for text in ["", "10", "-1s", "s", "1d", "1s5", "1h m", "999999999h", "1.s.5", "."] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn hosts_and_ports() {
        let host = |text: &str| text.parse::<HostPort>().unwrap();
        assert_eq!(host("[fd00::1]:6379"), HostPort { host: "fd00::1".to_owned(), port: Some(6379) });
        assert_eq!(host("fd00::1"), HostPort { host: "fd00::1".to_owned(), port: None });
        assert_eq!(host("cache-1").port_or(3000), 3000);
        assert_eq!(host("10.0.0.1:80").literal(0), Some("10.0.0.1:80".parse().unwrap()));
        let list: HostPorts = "a:1, [::1]:2,c".parse().unwrap();
        assert_eq!(list.to_string(), "a:1,[::1]:2,c");
        refused::<HostPort>(&["", ":1", "a:0", "a:65536", "a:b", "a b:1", "[x]:1", "[::1]x"]);
        assert!("".parse::<HostPorts>().unwrap().0.is_empty());
    }

    #[test]
    fn ids_and_groups() {
        let ids: HexIds<2> = "00ff,ABCD".parse().unwrap();
        assert_eq!(ids.0, [[0, 255], [0xab, 0xcd]]);
        assert_eq!(ids.to_string(), "00ff,abcd");
        refused::<HexIds<2>>(&["00f", "00fg", "00ff00"]);
        let groups: GroupRanges = "0-3,7".parse().unwrap();
        assert!(groups.contains(2) && groups.contains(7) && !groups.contains(5));
        assert_eq!((groups.highest(), groups.to_string().as_str()), (Some(7), "0-3,7"));
        refused::<GroupRanges>(&["3-0", "a", "0-", "-1", "70000"]);
        assert_eq!(group_id("0x000B"), Ok(11));
        assert_eq!(group_id("11"), Ok(11));
        assert!(group_id("0x10000").is_err() && group_id("0x+1").is_err());
    }

    #[test]
    fn addresses_to_listen_on() {
        let addr = |text: &str| text.parse::<ListenAddr>().unwrap().to_string();
        assert_eq!(addr(":9100"), "[::]:9100");
        assert_eq!(addr("localhost:0"), "127.0.0.1:0");
        assert_eq!(addr("off"), "off");
        refused::<ListenAddr>(&["9100", "host:9100", ":x", ""]);
    }

    #[test]
    fn percentages_and_levels() {
        assert_eq!("15%".parse::<Percent>().unwrap().fraction(), 0.15);
        refused::<Percent>(&["101", "-1", "NaN", "x", ""]);
        for level in ["info", "WARN", "info,proxy_ingress=debug", "off"] {
            assert!(level.parse::<LogLevel>().is_ok(), "{level}");
        }
        refused::<LogLevel>(&["", "verbose", "3", "info,x", "info,=debug", "a=b"]);
    }
}
