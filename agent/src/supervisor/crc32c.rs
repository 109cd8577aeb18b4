//! CRC-32C (Castagnoli), with which PostgreSQL protects every WAL record.

/// A checksum under way.
#[derive(Clone, Copy)]
pub(crate) struct Crc32c(u32);

impl Crc32c {
    /// Of no bytes yet.
    pub(crate) const fn new() -> Self {
        Self(u32::MAX)
    }

    /// Goes on with `bytes`.
    #[must_use]
    pub(crate) fn over(self, bytes: &[u8]) -> Self {
        let step = |crc: u32, byte: &u8| crc >> 8 ^ TABLE[usize::from(crc.to_le_bytes()[0] ^ byte)];
        Self(bytes.iter().fold(self.0, step))
    }

    /// The checksum.
    pub(crate) const fn finish(self) -> u32 {
        !self.0
    }
}

/// The polynomial, bit-reversed.
const POLYNOMIAL: u32 = 0x82F6_3B78;

static TABLE: [u32; 256] = table();

#[allow(clippy::cast_possible_truncation)] // an index below 256
const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < table.len() {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_published_check_value() {
        assert_eq!(Crc32c::new().over(b"1234").over(b"56789").finish(), 0xE306_9283);
    }
}
