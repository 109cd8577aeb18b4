//! A short, stable fingerprint of text (FNV-1a, 64 bits): it tells versions of our own objects apart and
//! protects nothing, so it needs no cryptography, but it must not change with the compiler as the standard
//! library's hashes may.

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

/// Sixteen hexadecimal digits.
pub(crate) fn digest(text: &str) -> String {
    let hash = text.bytes().fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_published_test_vectors() {
        assert_eq!(digest(""), "cbf29ce484222325");
        assert_eq!(digest("a"), "af63dc4c8601ec8c");
        assert_eq!(digest("foobar"), "85944171f73967e8");
    }
}
