//! Zstandard frames as the repository holds them: each decodes alone, in any order, with `zstd -d`.

use std::io;

/// Threads that compress a WAL segment, for which the server waits.
const WORKERS: u32 = 2;
/// Compresses about as fast as the network takes it; higher levels save little of WAL and data pages.
const LEVEL: i32 = 1;
/// The largest thing that is one frame: a WAL segment as `initdb` allows it.
const MAX_PLAIN: usize = 1 << 30;

/// One frame, with a checksum of its contents.
pub(crate) fn compress(plain: &[u8]) -> io::Result<Vec<u8>> {
    compress_by(0, plain)
}

/// The same by several threads: sooner, for a little more work and a few bytes more.
pub(crate) fn compress_at_once(plain: &[u8]) -> io::Result<Vec<u8>> {
    compress_by(WORKERS, plain)
}

/// By the calling thread, or by so many others.
fn compress_by(workers: u32, plain: &[u8]) -> io::Result<Vec<u8>> {
    let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
    compressor.set_parameter(zstd::zstd_safe::CParameter::NbWorkers(workers))?;
    compressor.include_checksum(true)?;
    compressor.include_contentsize(true)?;
    compressor.compress(plain)
}

/// What a frame says; an error if a byte of it is wrong.
pub(crate) fn decompress(frame: &[u8]) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    decompress_into(frame, &mut plain)?;
    Ok(plain)
}

/// The same into a buffer that is empty.
pub(crate) fn decompress_into(frame: &[u8], plain: &mut Vec<u8>) -> io::Result<()> {
    let size = zstd::zstd_safe::get_frame_content_size(frame).ok().flatten();
    let size = size.and_then(|size| usize::try_from(size).ok()).filter(|size| *size <= MAX_PLAIN);
    let size = size.ok_or_else(|| io::Error::other("not a frame that tells its size"))?;
    plain.reserve_exact(size);
    zstd::bulk::Decompressor::new()?.decompress_to_buffer(frame, plain).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_decode_and_damage_is_noticed() {
        let plain: Vec<u8> = (0..2_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut frame = compress(&plain).unwrap();
        assert_eq!(decompress(&frame).unwrap(), plain);
        assert_eq!(decompress(&compress_at_once(&plain).unwrap()).unwrap(), plain);
        let middle = frame.len() / 2;
        frame[middle] ^= 1;
        assert!(decompress(&frame).is_err());
        frame.truncate(middle);
        assert!(decompress(&frame).is_err());
        assert!(decompress(b"").is_err());
    }
}
