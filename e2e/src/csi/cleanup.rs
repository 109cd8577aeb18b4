//! Takes away every disk under a folder, whatever state a crash left it in: thawed, unmounted, its loop device freed.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    freeze::{self, FreezeError},
    mounts::{self, LoopDevice},
    xfs::{self, DiskError},
};

/// How long a loop device may stay busy after its last unmount: the kernel frees it a moment later.
const DETACH_LIMIT: Duration = Duration::from_secs(10);
const DETACH_POLL: Duration = Duration::from_millis(50);

/// Why a disk was not taken away.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// The mount table or the list of loop devices could not be read.
    #[error("reading the mounts and loop devices failed")]
    Mounts(#[source] io::Error),
    /// It could not be thawed.
    #[error("thawing a disk failed")]
    Thaw(#[from] FreezeError),
    /// It could not be unmounted.
    #[error("unmounting a disk failed")]
    Unmount(#[from] DiskError),
    /// Something still uses it.
    #[error("{device} ({file}) stays in use: end the processes that have files open on it")]
    Busy {
        /// The loop device.
        device: String,
        /// The disk file.
        file: PathBuf,
    },
}

/// Takes away all disks under `folder`; the files stay. Harmless if there are none.
pub async fn release_disks(folder: &Path) -> Result<(), CleanupError> {
    for LoopDevice { device, file } in disks_under(folder)? {
        let mounts = mounts::of_disk(&file).map_err(CleanupError::Mounts)?;
        for mount in mounts.iter().rev() {
            match freeze::thaw(&file, &mount.point).await {
                Ok(()) | Err(FreezeError::NotFrozen(_)) => {}
                Err(stuck) => return Err(stuck.into()),
            }
            xfs::unmount(&mount.point).await?;
        }
        // Mounting armed the device to go with its last mount; one whose mount never came about is detached here.
        if disks_under(folder)?.iter().any(|left| left.device == device) {
            xfs::detach(&device).await?;
        }
    }
    all_gone(folder).await
}

async fn all_gone(folder: &Path) -> Result<(), CleanupError> {
    let mut waited = Duration::ZERO;
    while let Some(LoopDevice { device, file }) = disks_under(folder)?.into_iter().next() {
        if waited >= DETACH_LIMIT {
            return Err(CleanupError::Busy { device, file });
        }
        tokio::time::sleep(DETACH_POLL).await;
        waited += DETACH_POLL;
    }
    Ok(())
}

fn disks_under(folder: &Path) -> Result<Vec<LoopDevice>, CleanupError> {
    let devices = mounts::loop_devices().map_err(CleanupError::Mounts)?;
    Ok(devices.into_iter().filter(|d| d.file.starts_with(folder)).collect())
}
