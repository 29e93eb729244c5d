use crate::{Unacceptable, scaled};
use std::fmt;
use std::str::FromStr;

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
}
