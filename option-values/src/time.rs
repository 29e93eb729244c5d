use crate::{Unacceptable, scaled, want};
use std::time::Duration;

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
