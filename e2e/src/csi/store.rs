//! The volumes and snapshots as folders, each with its disk file and a record of what the file cannot tell.
//!
//! A folder is made under another name and renamed when complete, so what exists is whole: a crash leaves at
//! most a folder `.new-*`, which the next attempt replaces.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    id::{SnapshotId, VolumeId},
    size::Size,
    xfs::{self, DiskError},
};

/// The file that is the disk.
const DISK: &str = "disk";
/// The file with the record.
const RECORD: &str = "record.json";
/// How names of unfinished folders begin: no volume or snapshot can have such a name.
const UNFINISHED: &str = ".new-";

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or folder could not be read or changed.
    #[error("{action} {path} failed")]
    File {
        /// Such as "writing".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A record is not what this driver writes.
    #[error("the record {path} is damaged: delete its folder")]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The disk could not be made or copied.
    #[error("making a disk failed")]
    Disk(#[from] DiskError),
}

/// The claim that a volume was made for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What a volume began as, if not empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// A copy of this snapshot.
    Snapshot(SnapshotId),
    /// A copy of this volume.
    Volume(VolumeId),
}

/// What is recorded of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeRecord {
    /// The node on which it can be mounted.
    pub node: String,
    /// The claim it was made for, where the provisioner says so.
    pub claim: Option<Claim>,
    /// What it began as.
    pub source: Option<Source>,
}

/// What is recorded of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotRecord {
    /// Of which volume.
    pub volume: VolumeId,
    /// When it was taken.
    pub taken: Timestamp,
}

/// A volume or snapshot that exists.
#[derive(Clone, Debug)]
pub struct Stored<R> {
    /// Its disk file.
    pub disk: PathBuf,
    /// The size of that file.
    pub size: Size,
    /// What is recorded of it.
    pub record: R,
}

/// The folder of all volumes and snapshots.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// The store under the folder `root`, which need not exist.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder that holds everything.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The volume `id`, if it exists.
    pub fn volume(&self, id: &VolumeId) -> Result<Option<Stored<VolumeRecord>>, StoreError> {
        read(&self.volumes().join(id.as_str()))
    }

    /// The snapshot `id`, if it exists.
    pub fn snapshot(&self, id: &SnapshotId) -> Result<Option<Stored<SnapshotRecord>>, StoreError> {
        read(&self.snapshots().join(id.as_str()))
    }

    /// All volumes.
    pub fn all_volumes(&self) -> Result<Vec<Stored<VolumeRecord>>, StoreError> {
        let folder = self.volumes();
        let entries = match fs::read_dir(&folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(file("listing", &folder))?,
        };
        let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
        let ids = names.filter_map(|name| VolumeId::try_from(name).ok());
        ids.filter_map(|id| self.volume(&id).transpose()).collect()
    }

    /// Makes the volume `id`: a copy of the disk `content`, or an empty file system.
    pub async fn make_volume(
        &self,
        id: &VolumeId,
        size: Size,
        content: Option<&Path>,
        record: &VolumeRecord,
    ) -> Result<(), StoreError> {
        let unfinished = begin(&self.volumes(), id.as_str())?;
        let disk = unfinished.join(DISK);
        if let Some(content) = content {
            xfs::copy(content, &disk).await?;
        }
        resize(&disk, size)?;
        if content.is_none() {
            xfs::format(&disk).await?;
        }
        finish(&unfinished, &self.volumes().join(id.as_str()), record)
    }

    /// Makes the snapshot `id` of the disk `content` as it is now.
    pub async fn make_snapshot(
        &self,
        id: &SnapshotId,
        content: &Path,
        record: &SnapshotRecord,
    ) -> Result<(), StoreError> {
        let unfinished = begin(&self.snapshots(), id.as_str())?;
        xfs::copy(content, &unfinished.join(DISK)).await?;
        finish(&unfinished, &self.snapshots().join(id.as_str()), record)
    }

    /// Deletes the volume `id`; harmless if there is none.
    pub fn remove_volume(&self, id: &VolumeId) -> Result<(), StoreError> {
        remove(&self.volumes().join(id.as_str()))
    }

    /// Deletes the snapshot `id`; harmless if there is none.
    pub fn remove_snapshot(&self, id: &SnapshotId) -> Result<(), StoreError> {
        remove(&self.snapshots().join(id.as_str()))
    }

    fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }
}

/// Makes the file `disk` as long as `size`, without giving it blocks.
pub fn resize(disk: &Path, size: Size) -> Result<(), StoreError> {
    let open = fs::OpenOptions::new().write(true).create(true).truncate(false).open(disk);
    open.and_then(|f| f.set_len(size.bytes())).map_err(file("resizing", disk))
}

fn read<R: DeserializeOwned>(folder: &Path) -> Result<Option<Stored<R>>, StoreError> {
    let path = folder.join(RECORD);
    let text = match fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(file("reading", &path))?,
    };
    let record = serde_json::from_slice(&text).map_err(|source| StoreError::Record { path, source })?;
    let disk = folder.join(DISK);
    let length = fs::metadata(&disk).map_err(file("looking at", &disk))?.len();
    Ok(Some(Stored { disk, size: Size::holding(length), record }))
}

/// A fresh folder in which `name` can be prepared.
fn begin(parent: &Path, name: &str) -> Result<PathBuf, StoreError> {
    let folder = parent.join(format!("{UNFINISHED}{name}"));
    remove(&folder)?;
    fs::create_dir_all(&folder).map_err(file("making", &folder))?;
    Ok(folder)
}

/// Writes the record and gives the folder its name.
fn finish(unfinished: &Path, folder: &Path, record: &impl Serialize) -> Result<(), StoreError> {
    let path = unfinished.join(RECORD);
    let text = serde_json::to_vec_pretty(record)
        .map_err(|source| StoreError::Record { path: path.clone(), source })?;
    fs::write(&path, text).map_err(file("writing", &path))?;
    fs::rename(unfinished, folder).map_err(file("naming", folder))
}

/// Renames first, so that a half-deleted folder is never taken for a whole one.
fn remove(folder: &Path) -> Result<(), StoreError> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let doomed = folder.with_file_name(format!(".old-{name}"));
    match fs::rename(folder, &doomed) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        renamed => renamed.map_err(file("deleting", folder))?,
    }
    match fs::remove_dir_all(&doomed) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(file("deleting", &doomed)),
    }
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::File { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str) -> VolumeId {
        VolumeId::try_from(name.to_owned()).unwrap()
    }

    fn record() -> VolumeRecord {
        VolumeRecord { node: "a".into(), claim: None, source: None }
    }

    #[tokio::test]
    async fn a_volume_is_made_whole_and_deleted_whole() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().join("new"));
        assert!(store.all_volumes().unwrap().is_empty());
        let size = Size::choose(None, 0).unwrap();
        store.make_volume(&volume("v"), size, None, &record()).await.unwrap();
        let found = store.volume(&volume("v")).unwrap().unwrap();
        assert_eq!((found.size, &found.record), (size, &record()));
        assert_eq!(store.all_volumes().unwrap().len(), 1);

        store.remove_volume(&volume("v")).unwrap();
        store.remove_volume(&volume("v")).unwrap();
        assert!(store.volume(&volume("v")).unwrap().is_none());
        assert_eq!(fs::read_dir(folder.path().join("new/volumes")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_a_crash_left_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_owned());
        let left = folder.path().join("volumes/.new-v");
        fs::create_dir_all(&left).unwrap();
        fs::write(left.join("junk"), "").unwrap();
        assert!(store.volume(&volume("v")).unwrap().is_none());
        store.make_volume(&volume("v"), Size::choose(None, 0).unwrap(), None, &record()).await.unwrap();
        assert!(!left.exists());
        assert!(!folder.path().join("volumes/v/junk").exists());
    }

    #[test]
    fn a_damaged_record_is_an_error_and_not_an_absence() {
        let folder = tempfile::tempdir().unwrap();
        let damaged = folder.path().join("volumes/v");
        fs::create_dir_all(&damaged).unwrap();
        fs::write(damaged.join(RECORD), "{").unwrap();
        let error = Store::new(folder.path().to_owned()).volume(&volume("v")).unwrap_err();
        assert!(matches!(error, StoreError::Record { .. }));
    }
}
