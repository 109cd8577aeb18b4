//! The `lag` parameter of `GET /replica`: bytes, or a number with a unit as PostgreSQL writes sizes.

use std::str::FromStr;

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MaxLag(pub(crate) u64);

/// The text is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a size: expected a number of bytes, or one with kB, MB, GB or TB such as 16MB")]
pub(crate) struct InvalidLag(String);

impl FromStr for MaxLag {
    type Err = InvalidLag;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidLag(text.to_owned());
        let trimmed = text.trim();
        let digits = trimmed.len() - trimmed.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = trimmed.split_at(digits);
        let number: u64 = number.parse().map_err(|_| invalid())?;
        let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" => 10,
            "m" | "mb" => 20,
            "g" | "gb" => 30,
            "t" | "tb" => 40,
            _ => return Err(invalid()),
        };
        number.checked_mul(1 << shift).map(Self).ok_or_else(invalid)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("16MB", 16 << 20),
            ("1GB", 1 << 30),
            ("100 kB", 100 << 10),
            ("7", 7),
            ("2tb", 2 << 40),
        ] {
            assert_eq!(text.parse(), Ok(MaxLag(bytes)), "{text}");
        }
    }

    #[test]
    fn nonsense() {
        for text in ["", "MB", "-1", "1.5MB", "1XB", "99999999999TB", "1 2", "0x10"] {
            assert!(text.parse::<MaxLag>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_number_with_any_unit(number in 0_u64..1 << 20, unit in 0_usize..5, space in any::<bool>()) {
            let text = format!("{number}{}{}", if space { " " } else { "" }, ["", "kB", "MB", "GB", "TB"][unit]);
            prop_assert_eq!(text.parse(), Ok(MaxLag(number << (10 * unit))));
        }

        #[test]
        fn never_panics(text in ".{0,20}") {
            let _ = text.parse::<MaxLag>();
        }
    }
}
