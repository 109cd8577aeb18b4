//! Kubernetes quantities as bytes, and bytes as people read them.

use std::{fmt, str::FromStr};

/// A number of bytes, parsed from a quantity such as `50Gi`, `1.5Ti` or `500M`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

/// The text is not a quantity of at least one byte.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an amount of bytes: write a quantity such as 50Gi")]
pub struct InvalidBytes(String);

/// Factors of the suffixes that make sense for bytes; `m` (thousandths) and exponents do not.
const SUFFIXES: [(&str, u64); 13] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("Ei", 1 << 60),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000),
    ("", 1),
];

impl FromStr for Bytes {
    type Err = InvalidBytes;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (number, factor) =
                SUFFIXES.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, factor)))?;
            scale(number, *factor).filter(|bytes| *bytes > 0)
        };
        parse().map(Self).ok_or_else(|| InvalidBytes(text.to_owned()))
    }
}

/// `number` (decimal, at most 9 digits after the point) times `factor`, rounded up as Kubernetes does.
fn scale(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 9 || whole.len() + fraction.len() == 0 {
        return None;
    }
    let unit = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let number = format!("{whole}{fraction}").parse::<u128>().ok()?;
    u64::try_from(number.checked_mul(u128::from(factor))?.div_ceil(unit)).ok()
}

impl fmt::Display for Bytes {
    /// With the largest binary unit that keeps at least one, such as `1.5 GiB`.
    #[allow(clippy::cast_precision_loss)] // shown with one decimal
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("TiB", 1_u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match units.iter().find(|(_, factor)| self.0 >= *factor) {
            Some((unit, factor)) => {
                let number = format!("{:.1}", self.0 as f64 / *factor as f64);
                write!(f, "{} {unit}", number.strip_suffix(".0").unwrap_or(&number))
            }
            None => write!(f, "{} B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_become_bytes() {
        for (text, bytes) in [
            ("50Gi", 50 << 30),
            ("1.5Ti", 3 << 39),
            ("500M", 500_000_000),
            ("1073741824", 1 << 30),
            ("0.3Ki", 308),
            ("2k", 2_000),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in
            ["", "Gi", "-1Gi", "50GB", "50 Gi", "1e9", "100m", "0", "0Gi", ".", "99999999Ei", "1.2.3Gi"]
        {
            assert!(text.parse::<Bytes>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn people_read_units() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (16 << 20, "16 MiB"), (5 << 40, "5 TiB")]
        {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }
}
