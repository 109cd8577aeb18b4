//! Faults of the disk under a volume: it hangs, or it is full. Other volumes are not affected, and nothing here asks the
//! API server, which another fault may have cut off.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};

use crate::csi::{
    freeze::{self, FreezeError},
    store::{Claim, Store},
};
use crate::lab::{mounts, storage};

/// The file that takes up the space of a disk filled by [`Disk::fill`].
const FILLER: &str = ".lab-fill";
/// Less cannot be taken: the size of a block of XFS.
const BLOCK: u64 = 4096;

/// The mounted disk of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    file: PathBuf,
    mount: PathBuf,
}

impl Disk {
    /// The disk of the claim `name` in `namespace`, which a pod must be using.
    pub fn of_claim(namespace: &str, name: &str) -> Result<Self> {
        let claim = Claim { namespace: namespace.to_owned(), name: name.to_owned() };
        let volumes = Store::new(storage::folder()).all_volumes()?;
        let volume = volumes.into_iter().find(|v| v.record.claim.as_ref() == Some(&claim));
        let file = volume
            .with_context(|| format!("no volume belongs to the claim {namespace}/{name}: is it bound?"))?
            .disk;
        let mounts = mounts::of_disk(&file).context("reading the mounts failed")?;
        let staged = mounts.into_iter().next();
        let mount = staged
            .with_context(|| format!("the volume of {namespace}/{name} is not mounted: no pod uses it"))?
            .point;
        Ok(Self { file, mount })
    }

    /// Where the host sees what is on it.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Makes it hang: every write waits, and whoever waits cannot even be killed. It thaws by itself after `limit`.
    pub async fn freeze(&self, limit: Duration) -> Result<()> {
        Ok(freeze::freeze(&self.file, &self.mount, limit).await?)
    }

    /// Lets it go on. It is no error if it does not hang.
    pub async fn thaw(&self) -> Result<()> {
        match freeze::thaw(&self.file, &self.mount).await {
            Ok(()) | Err(FreezeError::NotFrozen(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes up all space that is free now, so that the next write finds none; says how many bytes.
    pub fn fill(&self) -> Result<u64> {
        if freeze::is_frozen(&self.file)? {
            bail!("{} is frozen: thaw it before filling it", self.mount.display());
        }
        let path = self.mount.join(FILLER);
        let file = File::options().create(true).append(true).open(&path);
        let file = file.with_context(|| format!("making {} failed", path.display()))?;
        take_all(&file, &self.mount).with_context(|| format!("filling {} failed", self.mount.display()))
    }

    /// Gives back what [`Self::fill`] took. It is no error if that was nothing.
    pub fn unfill(&self) -> Result<()> {
        let path = self.mount.join(FILLER);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {} failed", path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Allocates in ever smaller pieces, since free space is in pieces too and some of it is for the file system itself.
fn take_all(file: &File, on: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(on)?;
    let mut piece = (stat.f_bavail * stat.f_frsize).max(BLOCK);
    let mut taken = file.metadata()?.len();
    while piece >= BLOCK {
        match fallocate(file, FallocateFlags::empty(), taken, piece) {
            Ok(()) => taken += piece,
            Err(Errno::NOSPC) => piece /= 2,
            Err(other) => return Err(other.into()),
        }
    }
    Ok(taken)
}
