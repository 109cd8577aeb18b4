//! Disks as files that hold XFS: made, mounted by a loop device, grown and copied.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::process::Command;

use crate::lab::{command, mounts};

/// Making a file system writes some MB; far more time only passes on a machine that is itself stuck.
const FORMAT_LIMIT: Duration = Duration::from_secs(30);
/// A mount may replay the log after a crash: up to 64 MB on a busy machine.
const MOUNT_LIMIT: Duration = Duration::from_secs(30);
/// Writing back what is dirty, which an unmount does too: on a shared disk perhaps a GB.
const WRITE_BACK_LIMIT: Duration = Duration::from_mins(1);
/// Growing changes a few blocks, but waits for a frozen disk.
const GROW_LIMIT: Duration = Duration::from_secs(30);
/// Copies a whole disk; shorter than the two minutes that the sidecars wait for an answer.
const COPY_LIMIT: Duration = Duration::from_secs(100);

/// What went wrong with a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A tool failed.
    #[error("working on the disk {disk} failed")]
    Tool {
        /// The file or where it is mounted.
        disk: PathBuf,
        /// The tool's failure.
        #[source]
        source: anyhow::Error,
    },
    /// The mount table or the list of loop devices could not be read.
    #[error("reading the mounts of {disk} failed")]
    Mounts {
        /// The file or where it is mounted.
        disk: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Something else is mounted there.
    #[error("{point} shows {found} and not {disk}: unmount it first")]
    Occupied {
        /// Where it should be mounted.
        point: PathBuf,
        /// What is mounted.
        found: String,
        /// What should be.
        disk: PathBuf,
    },
    /// It is not mounted where it should be.
    #[error("{disk} is not mounted on {point}")]
    NotMounted {
        /// Where it should be mounted.
        point: PathBuf,
        /// The disk file.
        disk: PathBuf,
    },
}

/// Makes an empty file system in the file `disk`.
pub async fn format(disk: &Path) -> Result<(), DiskError> {
    run(disk, "mkfs.xfs", &["-q".as_ref(), "-f".as_ref(), disk], FORMAT_LIMIT).await
}

/// Mounts `disk` on the folder `point`, as large as its file is. Harmless if it is mounted there already.
pub async fn mount(disk: &Path, point: &Path) -> Result<(), DiskError> {
    if !is_mounted(disk, point)? {
        // nouuid: a restored snapshot has the same UUID as its source, and XFS would refuse the second mount.
        // The loop option frees the device with the last unmount, so that a crash leaves none behind.
        let args: [&Path; 6] =
            ["-t".as_ref(), "xfs".as_ref(), "-o".as_ref(), "loop,nouuid".as_ref(), disk, point];
        run(disk, "mount", &args, MOUNT_LIMIT).await?;
    }
    // A volume restored into a larger one, or expanded while no pod used it.
    grow(disk, point).await
}

/// Shows the folder `from`, where `disk` is mounted, on the folder `to` as well. Harmless if it is there already.
pub async fn bind(disk: &Path, from: &Path, to: &Path, readonly: bool) -> Result<(), DiskError> {
    if !is_mounted(disk, from)? {
        return Err(DiskError::NotMounted { point: from.to_owned(), disk: disk.to_owned() });
    }
    if !is_mounted(disk, to)? {
        run(disk, "mount", &["--bind".as_ref(), from, to], MOUNT_LIMIT).await?;
    }
    if readonly {
        run(disk, "mount", &["-o".as_ref(), "remount,bind,ro".as_ref(), to], MOUNT_LIMIT).await?;
    }
    Ok(())
}

/// Unmounts whatever is mounted on `point`, all layers of it.
pub async fn unmount(point: &Path) -> Result<(), DiskError> {
    while mounts::at(point).map_err(|source| DiskError::Mounts { disk: point.to_owned(), source })?.is_some()
    {
        run(point, "umount", &[point], WRITE_BACK_LIMIT).await?;
    }
    Ok(())
}

/// Makes the device and the file system of `disk`, mounted on `point`, as large as its file.
pub async fn grow(disk: &Path, point: &Path) -> Result<(), DiskError> {
    let device = device_at(disk, point)?
        .ok_or_else(|| DiskError::NotMounted { point: point.to_owned(), disk: disk.to_owned() })?;
    run(disk, "losetup", &["-c".as_ref(), Path::new(&device)], GROW_LIMIT).await?;
    run(disk, "xfs_growfs", &[point], GROW_LIMIT).await
}

/// Writes back what is dirty on the disk mounted on `point`, as a freeze does, but with all writers going on.
pub async fn write_back(point: &Path) -> Result<(), DiskError> {
    run(point, "sync", &["--file-system".as_ref(), point], WRITE_BACK_LIMIT).await
}

/// Copies a disk file: at once where the file system can share blocks, else only what is not a hole.
pub async fn copy(from: &Path, to: &Path) -> Result<(), DiskError> {
    let args: [&Path; 4] = ["--reflink=auto".as_ref(), "--sparse=always".as_ref(), from, to];
    run(from, "cp", &args, COPY_LIMIT).await
}

/// Whether `disk` is mounted on `point`; an error if something else is.
fn is_mounted(disk: &Path, point: &Path) -> Result<bool, DiskError> {
    Ok(device_at(disk, point)?.is_some())
}

fn device_at(disk: &Path, point: &Path) -> Result<Option<String>, DiskError> {
    let unreadable = |source| DiskError::Mounts { disk: disk.to_owned(), source };
    let Some(found) = mounts::at(point).map_err(unreadable)? else { return Ok(None) };
    let ours = mounts::of_disk(disk).map_err(unreadable)?.contains(&found);
    if ours {
        return Ok(Some(found.source));
    }
    Err(DiskError::Occupied { point: point.to_owned(), found: found.source, disk: disk.to_owned() })
}

async fn run(disk: &Path, tool: &str, args: &[&Path], limit: Duration) -> Result<(), DiskError> {
    let mut command = Command::new(tool);
    command.args(args);
    match command::output(command, limit).await {
        Ok(_) => Ok(()),
        Err(source) => Err(DiskError::Tool { disk: disk.to_owned(), source }),
    }
}
