//! From a tar to files. Another thread flushes what is written meanwhile, so that little is left to be flushed when all
//! of it is there.

use std::{
    fs::{self, File, Permissions},
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Component, Path},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

use tar::EntryType;

/// Read and written at once: so many bytes cost little memory and few system calls.
const PART: usize = 1 << 20;
/// A file is flushed each time so much of it is new. Smaller ones are left to the end: they are many, and together little.
const FLUSH_EVERY: usize = 32 << 20;
/// Flushes that wait. A disk that does not keep up holds the writing back.
const FLUSHES: usize = 2;

/// Writes a stream into a file.
pub(super) fn plain(mut reader: impl Read, path: &Path) -> io::Result<()> {
    io::copy(&mut reader, &mut File::create(path)?).map(drop)
}

/// Only files and folders, only inside `into`.
pub(super) fn untar(reader: impl Read, into: &Path) -> io::Result<()> {
    thread::scope(|scope| {
        let (flushes, waiting) = sync_channel(FLUSHES);
        let flushing = scope.spawn(move || flush(&waiting));
        let written = write_all(reader, into, &flushes);
        drop(flushes);
        // The kernel tells of a failed write once, and the flush at the end would not hear of it any more.
        flushing.join().map_err(|_| io::Error::other("flushing was given up"))??;
        written
    })
}

fn flush(waiting: &Receiver<File>) -> io::Result<()> {
    waiting.iter().try_for_each(|file| file.sync_data())
}

fn write_all(reader: impl Read, into: &Path, flushes: &SyncSender<File>) -> io::Result<()> {
    let mut buffer = vec![0; PART];
    for entry in tar::Archive::new(reader).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let refused = |why: &str| io::Error::other(format!("{} {why}", path.display()));
        if !path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(refused("lies outside"));
        }
        let (target, mode) = (into.join(&path), entry.header().mode()?);
        match entry.header().entry_type() {
            EntryType::Directory => fs::create_dir_all(&target)?,
            EntryType::Regular | EntryType::Continuous => {
                write(&mut entry, &target, &mut buffer, flushes)?;
            }
            _ => return Err(refused("is neither file nor folder")),
        }
        fs::set_permissions(&target, Permissions::from_mode(mode))?;
    }
    fs::set_permissions(into, Permissions::from_mode(0o700))
}

fn write(
    reader: &mut impl Read,
    path: &Path,
    buffer: &mut [u8],
    flushes: &SyncSender<File>,
) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    let mut file = File::create(path)?;
    let mut new = 0;
    loop {
        let read = reader.read(buffer)?;
        if read == 0 {
            return Ok(());
        }
        file.write_all(&buffer[..read])?;
        new += read;
        if new >= FLUSH_EVERY {
            new = 0;
            // Nobody takes it: flushing has failed and says why.
            flushes.send(file.try_clone()?).map_err(io::Error::other)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_back_with_their_modes_and_all_of_their_bytes() {
        let bytes: Vec<u8> = (0..=250).cycle().take(FLUSH_EVERY + PART + 7).collect();
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o640);
        let mut tar = tar::Builder::new(Vec::new());
        tar.append_data(&mut header, "base/1/16384", &bytes[..]).unwrap();
        let tar = tar.into_inner().unwrap();
        let directory = tempfile::tempdir().unwrap();
        untar(&tar[..], directory.path()).unwrap();
        let file = directory.path().join("base/1/16384");
        assert!(fs::read(&file).unwrap() == bytes, "other bytes");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(untar(&tar[..tar.len() / 2], directory.path()).is_err(), "cut off");
    }

    fn tar_with(kind: EntryType, name: &str) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_mode(0o600);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        let mut tar = tar::Builder::new(Vec::new());
        tar.append(&header, io::empty()).unwrap();
        tar.into_inner().unwrap()
    }

    #[test]
    fn nothing_leaves_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let into = directory.path().join("into");
        fs::create_dir(&into).unwrap();
        untar(&tar_with(EntryType::Regular, "base/1/2")[..], &into).unwrap();
        assert!(into.join("base/1/2").is_file());
        for (kind, name) in [(EntryType::Regular, "../evil"), (EntryType::Symlink, "pg_wal")] {
            assert!(untar(&tar_with(kind, name)[..], &into).is_err(), "{name}");
        }
        assert!(!directory.path().join("evil").exists());
    }
}
