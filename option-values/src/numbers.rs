use crate::Unacceptable;
use std::fmt::Display;
use std::num::IntErrorKind;
use std::ops::RangeInclusive;

/// A type of whole numbers.
pub trait Whole: TryFrom<i128> + Copy + PartialOrd + Display + Send + Sync + 'static {
    /// All of them.
    const ALL: RangeInclusive<Self>;
}

macro_rules! whole {
    ($($type:ty)*) => { $(impl Whole for $type { const ALL: RangeInclusive<$type> = <$type>::MIN..=<$type>::MAX; })* };
}
whole! { u8 u16 u32 u64 usize }

/// Parses any whole number of a type. For `value_parser`.
///
/// # Errors
/// No number, or one that the type does not hold.
pub fn whole<T: Whole>(text: &str) -> Result<T, Unacceptable> {
    in_range(text, &T::ALL)
}

/// A parser of whole numbers of a range. For `value_parser`.
pub fn within<T: Whole>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, Unacceptable> + Clone + Send + Sync + 'static {
    move |text| in_range(text, &range)
}

fn in_range<T: Whole>(text: &str, range: &RangeInclusive<T>) -> Result<T, Unacceptable> {
    let number = match text.parse::<i128>() {
        Ok(number) => T::try_from(number).ok(),
        Err(error) if matches!(error.kind(), IntErrorKind::PosOverflow | IntErrorKind::NegOverflow) => None,
        Err(_) => return Err(Unacceptable("a whole number".to_owned())),
    };
    number
        .filter(|number| range.contains(number))
        .ok_or_else(|| Unacceptable(format!("{} to {}", range.start(), range.end())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_outside_its_range_is_told_the_range() {
        let of = |text| within(1..=15u8)(text).map_err(|want| want.0);
        assert_eq!(of("15"), Ok(15));
        for outside in ["0", "16", "-1", "300", "99999999999999999999999999999999999999999"] {
            assert_eq!(of(outside), Err("1 to 15".to_owned()), "{outside}");
        }
        for none in ["", "eight", "1.5", "0x1"] {
            assert_eq!(of(none), Err("a whole number".to_owned()), "{none}");
        }
        assert_eq!(whole::<u64>("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(whole::<u16>("65536"), Err(Unacceptable("0 to 65535".to_owned())));
    }
}
