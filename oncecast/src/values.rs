//! Values of the tools' options: refused with what is accepted, before anything is opened.

use std::net::{SocketAddr, ToSocketAddrs};

/// A share, 0 to 100.
pub fn percent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=100.0).contains(&value) => Ok(value),
        _ => Err("want a number from 0 to 100".into()),
    }
}

/// A time in seconds.
pub fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err("want seconds, such as 2 or 0.5".into()),
    }
}

/// How many, at least one.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(value) if value > 0 => Ok(value),
        _ => Err("want a whole number from 1".into()),
    }
}

/// HOST:PORT, looked up.
pub fn host_port(text: &str) -> Result<SocketAddr, String> {
    const WANT: &str = "want HOST:PORT, such as 127.0.0.1:9300 or [::1]:9300";
    let mut addresses = text.to_socket_addrs().map_err(|error| format!("{error}; {WANT}"))?;
    addresses.next().ok_or_else(|| format!("{text} has no address; {WANT}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_clock_and_no_counter_can_hold_is_refused() {
        for text in ["-1", "nan", "inf", "x", ""] {
            assert!(seconds(text).is_err(), "{text:?}");
        }
        assert!(at_least_one("0").is_err() && at_least_one("-1").is_err());
        assert!(percent("100.1").is_err() && percent("nan").is_err());
        assert!(host_port("127.0.0.1:70000").is_err() && host_port("nowhere").is_err());
        assert_eq!(host_port("[::1]:9300").unwrap().port(), 9300);
    }
}
