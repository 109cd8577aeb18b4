//! Writes and fsyncs a little on the volumes of PGDATA and `pg_wal`, to see a disk that hangs.
//!
//! Has a thread of its own, since it hangs with the disk. It writes in place, so that a full disk does not
//! look like a hung one.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use proto::clock::BootTime;

use super::layout::Layout;
use crate::boot_clock;

/// How often. Fine enough for an `ioTimeout` of a few seconds, and one small write a second costs nothing.
const INTERVAL: Duration = Duration::from_secs(1);
/// A sector, so that the write reaches the device.
const SIZE: usize = 512;

/// When the disks last worked.
#[derive(Default)]
pub(crate) struct Probe {
    /// Boot time in microseconds, or 0.
    ok_at: AtomicU64,
}

impl Probe {
    /// When all writes last succeeded.
    pub(crate) fn ok_at(&self) -> Option<BootTime> {
        Some(self.ok_at.load(Ordering::Relaxed)).filter(|at| *at != 0).map(BootTime)
    }

    /// Probes for ever.
    pub(crate) fn watch(&self, layout: &Layout) -> ! {
        let mut failing = false;
        loop {
            match directories(layout).iter().try_for_each(|directory| write(directory)) {
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
            thread::sleep(INTERVAL);
        }
    }
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
    }
}
