//! Zstandard frames as the repository holds them: each decodes alone, in any order, with `zstd -d`.

use std::io;

/// Compresses about as fast as the network takes it; higher levels save little of WAL and data pages.
const LEVEL: i32 = 1;
/// The largest thing that is one frame: a WAL segment as `initdb` allows it.
const MAX_PLAIN: usize = 1 << 30;

/// One frame, with a checksum of its contents.
pub(crate) fn compress(plain: &[u8]) -> io::Result<Vec<u8>> {
    let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
    compressor.include_checksum(true)?;
    compressor.include_contentsize(true)?;
    compressor.compress(plain)
}

/// What a frame says; an error if a byte of it is wrong.
pub(crate) fn decompress(frame: &[u8]) -> io::Result<Vec<u8>> {
    let size = zstd::zstd_safe::get_frame_content_size(frame).ok().flatten();
    let size = size.and_then(|size| usize::try_from(size).ok()).filter(|size| *size <= MAX_PLAIN);
    let size = size.ok_or_else(|| io::Error::other("not a frame that tells its size"))?;
    zstd::bulk::decompress(frame, size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_decode_and_damage_is_noticed() {
        let plain: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut frame = compress(&plain).unwrap();
        assert_eq!(decompress(&frame).unwrap(), plain);
        let middle = frame.len() / 2;
        frame[middle] ^= 1;
        assert!(decompress(&frame).is_err());
        frame.truncate(middle);
        assert!(decompress(&frame).is_err());
        assert!(decompress(b"").is_err());
    }
}
