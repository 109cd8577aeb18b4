//! Copies of disks at one moment, also of disks in use.
//!
//! The copy of a mounted disk is taken under a freeze, so it holds all that was written before and nothing torn.
//! Where the file system shares blocks the freeze lasts milliseconds, else as long as copying what is used.

use std::{path::Path, time::Duration};

use jiff::Timestamp;
use tonic::Status;

use super::{
    driver::Driver,
    freeze,
    id::{SnapshotId, VolumeId},
    size::Size,
    store::{SnapshotRecord, StoreError, VolumeRecord},
    xfs::{self, DiskError},
};
use crate::lab::mounts;

/// Longer than any copy may take: if the timer of the freeze fires, the copy is not of one moment.
const FREEZE_LIMIT: Duration = Duration::from_secs(110);

/// Takes the snapshot `id` of the volume `volume_id`.
pub async fn take(driver: &Driver, id: &SnapshotId, volume_id: &VolumeId) -> Result<(), Status> {
    let volume = driver.volume(volume_id)?;
    at_one_moment(&volume.disk, async {
        let record = SnapshotRecord { volume: volume_id.clone(), taken: Timestamp::now() };
        driver.store.make_snapshot(id, &volume.disk, &record).await
    })
    .await
    .inspect_err(|_| discard(driver.store.remove_snapshot(id)))
}

/// Makes the volume `id`, as a copy of `content` if given: the disk of a snapshot or of another volume.
pub async fn make_volume(
    driver: &Driver,
    id: &VolumeId,
    size: Size,
    content: Option<&Path>,
    record: &VolumeRecord,
) -> Result<(), Status> {
    let make = driver.store.make_volume(id, size, content, record);
    match content {
        None => Ok(make.await?),
        Some(content) => {
            at_one_moment(content, make).await.inspect_err(|_| discard(driver.store.remove_volume(id)))
        }
    }
}

/// Runs `copy` while nothing writes to `disk`.
async fn at_one_moment(
    disk: &Path,
    copy: impl Future<Output = Result<(), StoreError>>,
) -> Result<(), Status> {
    let unreadable = |source| DiskError::Mounts { disk: disk.to_owned(), source };
    let Some(mount) = mounts::of_disk(disk).map_err(unreadable)?.into_iter().next() else {
        return Ok(copy.await?);
    };
    xfs::write_back(&mount.point).await?;
    freeze::freeze(disk, &mount.point, FREEZE_LIMIT).await?;
    let copied = copy.await;
    freeze::thaw(disk, &mount.point).await?; // an error if the timer was faster: then the copy is torn
    Ok(copied?)
}

/// A copy that failed is deleted; if that fails too, the first failure is the one to report.
fn discard(removed: Result<(), StoreError>) {
    if let Err(error) = removed {
        tracing::warn!(%error, "a failed copy was left behind");
    }
}
