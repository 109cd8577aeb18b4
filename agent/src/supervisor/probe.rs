//! Writes and fsyncs a little on the volumes of PGDATA and `pg_wal`, to see a disk that hangs.
//!
//! Has a thread of its own, since it hangs with the disk. It writes in place, so that a full disk does not
//! look like a hung one.

use std::{
    fs::{self, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use proto::{clock::BootTime, wire::supervisor::Space};

use super::layout::Layout;
use crate::boot_clock;

/// How often. Fine enough for an `ioTimeout` of a few seconds, and one small write a second costs nothing.
const INTERVAL: Duration = Duration::from_secs(1);
/// A sector, so that the write reaches the device.
const SIZE: usize = 512;

/// When the disks last answered, and what is left on them.
#[derive(Default)]
pub(crate) struct Probe {
    /// Boot time in microseconds, or 0.
    ok_at: AtomicU64,
    space: Mutex<Option<Space>>,
}

impl Probe {
    /// When all writes were last answered.
    pub(crate) fn ok_at(&self) -> Option<BootTime> {
        Some(self.ok_at.load(Ordering::Relaxed)).filter(|at| *at != 0).map(BootTime)
    }

    /// What is left on the fullest of the volumes.
    pub(crate) fn space(&self) -> Option<Space> {
        *self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Probes for ever.
    pub(crate) fn watch(&self, layout: &Layout) -> ! {
        let mut failing = false;
        loop {
            let directories = directories(layout);
            match directories.iter().try_for_each(|directory| answers(write(directory))) {
                Ok(()) => {
                    failing = false;
                    self.ok_at.store(boot_clock::now().0, Ordering::Relaxed);
                }
                Err(error) => {
                    if !failing {
                        tracing::warn!(%error, "the data volume cannot be written");
                    }
                    failing = true;
                }
            }
            let spaces = directories.iter().filter_map(|directory| space(directory).ok());
            let fullest = spaces.min_by_key(|space| space.available_bytes);
            *self.space.lock().unwrap_or_else(PoisonError::into_inner) = fullest;
            thread::sleep(INTERVAL);
        }
    }
}

/// A full disk answers; only the very first write needs space.
fn answers(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => Ok(()),
        written => written,
    }
}

/// Space on the file system of `directory`.
fn space(directory: &Path) -> io::Result<Space> {
    let found = rustix::fs::statvfs(directory)?;
    Ok(Space {
        total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
        available_bytes: found.f_bavail.saturating_mul(found.f_frsize),
    })
}

/// The data volume, and the one that `pg_wal` links to.
fn directories(layout: &Layout) -> Vec<PathBuf> {
    let wal_volume =
        fs::read_link(layout.pg_wal()).ok().and_then(|target| target.parent().map(Path::to_owned));
    [Some(layout.data_dir.clone()), wal_volume].into_iter().flatten().collect()
}

fn write(directory: &Path) -> io::Result<()> {
    let path = directory.join("io-probe");
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    let mut sector = [0; SIZE];
    sector[..8].copy_from_slice(&boot_clock::now().0.to_le_bytes());
    file.write_all_at(&sector, 0)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_the_volume_that_pg_wal_links_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let layout = Layout {
            data_dir: path.to_owned(),
            run_dir: path.to_owned(),
            tls_dir: path.to_owned(),
            port: 1,
            bin_dir: None,
        };
        fs::create_dir_all(layout.pgdata()).unwrap();
        assert_eq!(directories(&layout), [path]);
        std::os::unix::fs::symlink(path.join("wal/pg_wal"), layout.pg_wal()).unwrap();
        assert_eq!(directories(&layout), [path.to_owned(), path.join("wal")]);
        write(path).unwrap();
        assert_eq!(fs::metadata(path.join("io-probe")).unwrap().len(), 512);
        assert!(write(&path.join("wal")).is_err());
        let space = space(path).unwrap();
        assert!(space.available_bytes > 0 && space.available_bytes <= space.total_bytes, "{space:?}");
    }

    #[test]
    fn a_full_disk_answers_and_a_broken_one_does_not() {
        assert!(answers(Err(ErrorKind::StorageFull.into())).is_ok());
        assert!(answers(Err(ErrorKind::QuotaExceeded.into())).is_ok());
        assert!(answers(Err(ErrorKind::ReadOnlyFilesystem.into())).is_err());
    }
}
