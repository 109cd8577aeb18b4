//! The cache of image layers: content-addressed blobs, and which key made which layer.
//!
//! Layers are uncompressed tar files with fixed times, sorted names and numeric owners, so that the same
//! files always give the same digest. A layer appears under its key only when it is whole; a build that
//! dies half-way leaves nothing but a directory under `partial/`, which the next build removes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::process::Command;

use crate::lab::{command::output, progress};

/// Packing a layer reads at most a few hundred MB from the page cache.
const TAR_LIMIT: Duration = Duration::from_mins(3);
/// Another process may be building the same layer: the longest takes about a minute.
const LOCK_LIMIT: Duration = Duration::from_mins(15);

/// A file in the store, as OCI descriptors name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// Bytes.
    pub size: u64,
}

/// Who owns the files of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The owners that the files have on disk.
    Kept,
    /// Root, whoever built them.
    Root,
}

/// The layers and configurations of all images, under one directory.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// The store under `root`, which is created when it is missing.
    pub fn open(root: &Path) -> Result<Self> {
        for folder in ["blobs/sha256", "layers", "partial"] {
            let path = root.join(folder);
            fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        }
        Ok(Self { root: root.to_path_buf() })
    }

    /// The layer that `key` names; made by `fill`, which is given an empty directory, when there is none yet.
    pub async fn layer(
        &self,
        key: &str,
        owner: Owner,
        fill: impl AsyncFnOnce(&Path) -> Result<()>,
    ) -> Result<Blob> {
        let record = self.root.join("layers").join(hex(&Sha256::digest(key)));
        if let Some(blob) = self.recorded(&record) {
            return Ok(blob);
        }
        let _lock = self.lock().await?;
        if let Some(blob) = self.recorded(&record) {
            return Ok(blob);
        }
        let work = self.empty_work_directory()?;
        let files = work.join("files");
        fs::create_dir(&files)?;
        progress::of(&format!("building an image layer: {key}"), fill(&files)).await?;
        let blob = self.pack(&files, &work.join("layer.tar"), owner).await?;
        fs::write(work.join("record"), serde_json::to_vec(&blob)?)?;
        fs::rename(work.join("record"), &record)?;
        fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
        Ok(blob)
    }

    /// Stores `bytes` as a blob.
    pub fn put(&self, bytes: &[u8]) -> Result<Blob> {
        let blob = Blob { digest: digest_of(&mut io::Cursor::new(bytes))?, size: bytes.len() as u64 };
        let path = self.path(&blob);
        if !path.exists() {
            let partial = self.root.join("partial").join(format!("{}-{}", std::process::id(), blob.hex()));
            fs::write(&partial, bytes).with_context(|| format!("cannot write {}", partial.display()))?;
            fs::rename(&partial, &path)?;
        }
        Ok(blob)
    }

    /// Where the store keeps its `blobs/`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A place for files on their way; on the same file system as the blobs.
    pub fn partial(&self) -> PathBuf {
        self.root.join("partial")
    }

    fn path(&self, blob: &Blob) -> PathBuf {
        self.root.join("blobs/sha256").join(blob.hex())
    }

    fn recorded(&self, record: &Path) -> Option<Blob> {
        let blob: Blob = serde_json::from_slice(&fs::read(record).ok()?).ok()?;
        let whole = fs::metadata(self.path(&blob)).is_ok_and(|file| file.len() == blob.size);
        whole.then_some(blob)
    }

    async fn lock(&self) -> Result<fs::File> {
        let path = self.root.join("lock");
        let file = fs::File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let locked = async {
            while let Err(fs::TryLockError::WouldBlock) = file.try_lock() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        tokio::time::timeout(LOCK_LIMIT, locked)
            .await
            .with_context(|| format!("another process holds {}: wait for it or end it", path.display()))?;
        Ok(file)
    }

    /// Called under the lock, so whatever is there was left by a build that died.
    fn empty_work_directory(&self) -> Result<PathBuf> {
        let work = self.root.join("partial/layer");
        if work.exists() {
            fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
        }
        fs::create_dir(&work).with_context(|| format!("cannot create {}", work.display()))?;
        Ok(work)
    }

    async fn pack(&self, files: &Path, tar: &Path, owner: Owner) -> Result<Blob> {
        let mut command = Command::new("tar");
        command.args(["--create", "--format=gnu", "--sort=name", "--mtime=@0", "--numeric-owner"]);
        if owner == Owner::Root {
            command.args(["--owner=0", "--group=0"]);
        }
        command.arg("--file").arg(tar).arg("--directory").arg(files).arg(".");
        output(command, TAR_LIMIT).await?;
        let mut file = fs::File::open(tar)?;
        let blob = Blob { digest: digest_of(&mut file)?, size: file.metadata()?.len() };
        fs::rename(tar, self.path(&blob))?;
        Ok(blob)
    }
}

impl Blob {
    fn hex(&self) -> &str {
        self.digest.trim_start_matches("sha256:")
    }

    /// Where a layout keeps the blob.
    pub fn layout_path(&self) -> String {
        format!("blobs/sha256/{}", self.hex())
    }
}

/// The digest of everything that `reader` gives, as OCI writes it.
pub fn digest_of(reader: &mut impl io::Read) -> Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = reader.read(&mut buffer).context("cannot read what is to be hashed")?;
        if count == 0 {
            return Ok(format!("sha256:{}", hex(&hash.finalize())));
        }
        hash.update(&buffer[..count]);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn layer_of(store: &Store, key: &str, content: &str) -> Blob {
        let fill = async |files: &Path| Ok(fs::write(files.join("file"), content)?);
        store.layer(key, Owner::Root, fill).await.unwrap()
    }

    #[tokio::test]
    async fn the_same_files_give_the_same_digest_at_any_time_and_place() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = layer_of(&Store::open(one.path()).unwrap(), "key", "content").await;
        tokio::time::sleep(Duration::from_millis(1100)).await; // past the second that tar would have stored
        let again = layer_of(&Store::open(two.path()).unwrap(), "another key", "content").await;
        assert_eq!(first, again);
    }

    #[tokio::test]
    async fn a_known_key_is_not_built_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let first = layer_of(&store, "key", "content").await;
        let fill = async |_: &Path| anyhow::bail!("must not be called");
        assert_eq!(store.layer("key", Owner::Root, fill).await.unwrap(), first);
    }

    #[tokio::test]
    async fn a_lost_or_cut_blob_is_built_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let first = layer_of(&store, "key", "content").await;
        fs::write(store.path(&first), "cut").unwrap();
        assert_eq!(layer_of(&store, "key", "content").await, first);
        assert_eq!(fs::metadata(store.path(&first)).unwrap().len(), first.size);
    }

    #[tokio::test]
    async fn a_build_that_died_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let die = async |files: &Path| {
            fs::write(files.join("half"), "")?;
            anyhow::bail!("died")
        };
        assert!(store.layer("key", Owner::Root, die).await.is_err());
        layer_of(&store, "key", "content").await;
        assert_eq!(fs::read_dir(folder.path().join("partial")).unwrap().count(), 0);
    }
}
