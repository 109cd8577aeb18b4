//! Which size a volume gets for the range that was asked for.

use super::message::CapacityRange;

const MIB: u64 = 1024 * 1024;

/// The smallest volume: `mkfs.xfs` refuses to make a file system under 300 MB.
const SMALLEST: u64 = 300 * MIB;

/// Why no size fits.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// A size below zero was asked for.
    #[error("a capacity of {0} bytes is negative: ask for a positive one")]
    Negative(i64),
    /// The smallest possible volume is larger than the limit.
    #[error("the volume would be {size} bytes, over the limit of {limit}: raise the limit")]
    OverLimit {
        /// The size that the driver would have to give.
        size: u64,
        /// The most that was allowed.
        limit: u64,
    },
}

/// The size of a volume in bytes: a multiple of 1 MiB, and large enough for XFS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

impl Size {
    /// The least size that holds `bytes`.
    pub fn holding(bytes: u64) -> Self {
        Self(bytes.max(SMALLEST).next_multiple_of(MIB))
    }

    /// The least size in `range` that also holds `content` bytes (of a snapshot to restore; 0 for none).
    pub fn choose(range: Option<&CapacityRange>, content: u64) -> Result<Self, SizeError> {
        let required = range.map_or(Ok(0), |r| bytes(r.required_bytes))?;
        let limit = range.map_or(Ok(0), |r| bytes(r.limit_bytes))?;
        let size = Self::holding(required.max(content));
        match limit {
            0 => Ok(size), // the protocol's "no limit"
            limit if size.0 > limit => Err(SizeError::OverLimit { size: size.0, limit }),
            _ => Ok(size),
        }
    }

    /// Whether a volume of this size is what a request for `range` wants, without any change.
    pub fn fits(self, range: Option<&CapacityRange>) -> bool {
        Self::choose(range, self.0) == Ok(self)
    }

    /// In bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// In bytes, as the protocol has them.
    pub fn signed_bytes(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }
}

fn bytes(value: i64) -> Result<u64, SizeError> {
    u64::try_from(value).map_err(|_| SizeError::Negative(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(required: u64, limit: u64) -> CapacityRange {
        CapacityRange {
            required_bytes: i64::try_from(required).unwrap(),
            limit_bytes: i64::try_from(limit).unwrap(),
        }
    }

    #[test]
    fn a_size_is_rounded_up_to_what_xfs_can_use() {
        assert_eq!(Size::choose(None, 0), Ok(Size(300 * MIB)));
        assert_eq!(Size::choose(Some(&range(1, 0)), 0), Ok(Size(300 * MIB)));
        assert_eq!(Size::choose(Some(&range(1024 * MIB, 0)), 0), Ok(Size(1024 * MIB)));
        assert_eq!(Size::choose(Some(&range(1024 * MIB + 1, 0)), 0), Ok(Size(1025 * MIB)));
    }

    #[test]
    fn a_restored_volume_holds_its_snapshot() {
        assert_eq!(Size::choose(Some(&range(300 * MIB, 0)), 512 * MIB), Ok(Size(512 * MIB)));
    }

    #[test]
    fn a_limit_that_cannot_be_kept_is_refused() {
        let over = Err(SizeError::OverLimit { size: 300 * MIB, limit: 100 * MIB });
        assert_eq!(Size::choose(Some(&range(0, 100 * MIB)), 0), over);
        assert_eq!(Size::choose(Some(&range(300 * MIB, 300 * MIB)), 0), Ok(Size(300 * MIB)));
        assert!(Size::choose(Some(&range(300 * MIB, 400 * MIB)), 500 * MIB).is_err());
        assert_eq!(
            Size::choose(Some(&CapacityRange { required_bytes: -1, limit_bytes: 0 }), 0),
            Err(SizeError::Negative(-1))
        );
    }

    #[test]
    fn a_volume_fits_a_repeated_request_and_no_larger_one() {
        let size = Size::choose(Some(&range(300 * MIB + 1, 0)), 0).unwrap();
        assert!(size.fits(Some(&range(300 * MIB + 1, 0))));
        assert!(!size.fits(Some(&range(400 * MIB, 0))));
        assert!(!size.fits(Some(&range(0, 300 * MIB))));
    }
}
