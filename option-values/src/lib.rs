//! Types that option values have. Each parses from text and says what it accepts when it refuses.
//!
//! Sizes, durations as Go writes them, hosts with ports, lists of names, whole numbers of a range. They depend on no parser of
//! command lines: `FromStr`, or a function from text. `service` and the option group of `cache-backend` share them.

mod hosts;
mod names;
mod numbers;
mod size;
mod time;

pub use hosts::{HostPort, HostPorts};
pub use names::{HIDDEN, Names, hide_credentials};
pub use numbers::{Whole, whole, within};
pub use size::ByteSize;
pub use time::duration;

/// Why a value was refused: what would be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("want {0}")]
pub struct Unacceptable(pub String);

/// A refusal that says what is accepted.
///
/// # Errors
/// Always.
pub fn want<T>(accepted: &str) -> Result<T, Unacceptable> {
    Err(Unacceptable(accepted.to_owned()))
}

/// Parts of a comma separated list, without surrounding blanks; an empty text is an empty list.
pub fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// Defines `Display` of a list type as its parts joined with commas.
#[macro_export]
macro_rules! display_joined {
    ($type:ty, $part:expr) => {
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let parts: Vec<String> = self.0.iter().map($part).collect();
                f.write_str(&parts.join(","))
            }
        }
    };
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
