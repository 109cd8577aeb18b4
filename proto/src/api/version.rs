//! PostgreSQL versions as people write them: `16.3`, or `16` for the newest minor of 16 that this build knows.

use std::{fmt, str::FromStr};

/// Newest minor release per supported major. A major leaves the table when the PostgreSQL project stops
/// mending it.
const NEWEST_MINOR: [(u8, u8); 5] = [(14, 23), (15, 19), (16, 15), (17, 11), (18, 6)];

/// A complete version of a supported major.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    major: u8,
    minor: u8,
}

/// Why a text is not a version that can be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidVersion {
    /// Neither `16` nor `16.3`.
    #[error("{0:?} is not a PostgreSQL version: write a major such as \"16\" or a release such as \"16.3\"")]
    Malformed(String),
    /// A major outside of the table.
    #[error("PostgreSQL {0} is not supported: use one of 14, 15, 16, 17, 18")]
    Unsupported(u8),
}

impl Version {
    /// Major version, which decides about the format of the data directory.
    pub const fn major(self) -> u8 {
        self.major
    }

    /// Minor version.
    pub const fn minor(self) -> u8 {
        self.minor
    }

    /// The stock image of this version.
    pub fn image(self) -> String {
        format!("docker.io/library/postgres:{self}")
    }
}

impl FromStr for Version {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || InvalidVersion::Malformed(text.to_owned());
        let (major, minor) = match text.split_once('.') {
            Some((major, minor)) => (number(major), Some(number(minor).ok_or_else(malformed)?)),
            None => (number(text), None),
        };
        let major = major.ok_or_else(malformed)?;
        let newest = NEWEST_MINOR.iter().find(|(known, _)| *known == major).map(|(_, newest)| *newest);
        let newest = newest.ok_or(InvalidVersion::Unsupported(major))?;
        Ok(Self { major, minor: minor.unwrap_or(newest) })
    }
}

/// One to two digits without a leading zero, as [`super::rules::version_is_supported`] accepts them.
fn number(text: &str) -> Option<u8> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && text.len() <= 2;
    (plain && (text == "0" || !text.starts_with('0'))).then(|| text.parse().ok()).flatten()
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_major_alone_means_its_newest_minor() {
        assert_eq!("16".parse::<Version>().unwrap().to_string(), "16.15");
        assert_eq!("16.3".parse::<Version>().unwrap().to_string(), "16.3");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "16.", ".3", "16.3.1", "v16", "16.03", "016", "16 ", "+16", "latest", "16.100"] {
            assert!(matches!(text.parse::<Version>(), Err(InvalidVersion::Malformed(_))), "{text:?}");
        }
        for text in ["13", "13.4", "19", "9.6", "0"] {
            assert!(matches!(text.parse::<Version>(), Err(InvalidVersion::Unsupported(_))), "{text:?}");
        }
    }
}
