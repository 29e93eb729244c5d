//! Types that option values have, beyond those of `option-values`. Each parses from text and says what it accepts when it
//! refuses.

pub use option_values::{ByteSize, HostPort, HostPorts, Names, Unacceptable, duration};
use option_values::{display_joined, parts, want};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

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
