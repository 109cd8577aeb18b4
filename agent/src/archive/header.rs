//! The first page of a WAL segment says whose it is.

use proto::postgres::{SystemIdentifier, Timeline};

use super::names::{Segment, SegmentSize};

/// The long header of a segment's first page, in every version that there is: magic, flags, timeline, address,
/// length of a record's rest, padding, system identifier, segment size, page size.
const LENGTH: usize = 40;
/// `XLP_LONG_HEADER`.
const LONG_HEADER: u16 = 0x0002;
/// The upper byte of `XLOG_PAGE_MAGIC` of every version since 9.3.
const MAGIC: u16 = 0xD100;

/// Why a file is not the segment that its name says.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    /// Too short.
    #[error("it is shorter than a page header")]
    Short,
    /// No long header with a known magic.
    #[error("it does not begin with the header of a WAL segment")]
    NoHeader,
    /// The name says another timeline, or another position.
    #[error("its header says timeline {timeline}, position {address:X}, which is another segment")]
    Elsewhere {
        /// In the header.
        timeline: u32,
        /// In the header.
        address: u64,
    },
    /// The file's length is not the segment size.
    #[error("it has {length} bytes and its header says segments of {size}")]
    Length {
        /// Of the file.
        length: u64,
        /// In the header.
        size: u64,
    },
}

/// What a segment's header tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Of whose WAL it is a part.
    pub(crate) system_identifier: SystemIdentifier,
    /// Size of all segments.
    pub(crate) size: SegmentSize,
}

impl Header {
    /// Reads the header of `segment` from its first bytes, and checks that it is that segment.
    pub(crate) fn check(segment: Segment, first: &[u8], length: u64) -> Result<Self, HeaderError> {
        let header: &[u8; LENGTH] = first.first_chunk().ok_or(HeaderError::Short)?;
        let (magic, flags) = (u16_at(header, 0), u16_at(header, 2));
        if magic & 0xFF00 != MAGIC || flags & LONG_HEADER == 0 {
            return Err(HeaderError::NoHeader);
        }
        let (timeline, address) = (u32_at(header, 4), u64_at(header, 8));
        let size = u64::from(u32_at(header, 32));
        if !size.is_power_of_two() || !(1 << 20..=1 << 30).contains(&size) {
            return Err(HeaderError::NoHeader);
        }
        if length != size {
            return Err(HeaderError::Length { length, size });
        }
        let size = SegmentSize(size);
        // Recovery may begin a timeline in the middle of a segment whose first page was written on the one before.
        let own = Timeline::new(timeline).is_some_and(|timeline| timeline <= segment.timeline);
        if !own || address != segment.start(size).0 {
            return Err(HeaderError::Elsewhere { timeline, address });
        }
        Ok(Self { system_identifier: SystemIdentifier(u64_at(header, 24)), size })
    }
}

fn u16_at(bytes: &[u8; LENGTH], at: usize) -> u16 {
    bytes[at..].first_chunk().map_or(0, |part| u16::from_le_bytes(*part))
}

fn u32_at(bytes: &[u8; LENGTH], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |part| u32::from_le_bytes(*part))
}

fn u64_at(bytes: &[u8; LENGTH], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |part| u64::from_le_bytes(*part))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A segment of 1 MiB with a header as PostgreSQL 17 writes it.
    pub(crate) fn segment(segment: Segment, system: u64) -> Vec<u8> {
        let size = SegmentSize(1 << 20);
        let mut bytes = vec![0; 1 << 20];
        bytes[0..2].copy_from_slice(&0xD116_u16.to_le_bytes());
        bytes[2..4].copy_from_slice(&LONG_HEADER.to_le_bytes());
        bytes[4..8].copy_from_slice(&segment.timeline.0.get().to_le_bytes());
        bytes[8..16].copy_from_slice(&segment.start(size).0.to_le_bytes());
        bytes[24..32].copy_from_slice(&system.to_le_bytes());
        bytes[32..36].copy_from_slice(&(1_u32 << 20).to_le_bytes());
        bytes[36..40].copy_from_slice(&8192_u32.to_le_bytes());
        bytes
    }

    #[test]
    fn a_segment_is_known_by_its_header() {
        let name: Segment = "00000002000000000000000A".parse().unwrap();
        let bytes = segment(name, 77);
        let header = Header::check(name, &bytes, bytes.len() as u64).unwrap();
        assert_eq!((header.system_identifier, header.size), (SystemIdentifier(77), SegmentSize(1 << 20)));
    }

    #[test]
    fn what_is_not_that_segment_is_refused() {
        let name: Segment = "00000002000000000000000A".parse().unwrap();
        let bytes = segment(name, 77);
        let check = |name: &str, bytes: &[u8], length| Header::check(name.parse().unwrap(), bytes, length);
        assert_eq!(
            check("00000002000000000000000A", &bytes, 5),
            Err(HeaderError::Length { length: 5, size: 1 << 20 })
        );
        for other in ["00000001000000000000000A", "00000002000000000000000B"] {
            assert!(matches!(check(other, &bytes, 1 << 20), Err(HeaderError::Elsewhere { .. })), "{other}");
        }
        assert_eq!(check("00000002000000000000000A", &bytes[..39], 1 << 20), Err(HeaderError::Short));
        assert_eq!(check("00000002000000000000000A", &[0; 64], 1 << 20), Err(HeaderError::NoHeader));
    }
}
