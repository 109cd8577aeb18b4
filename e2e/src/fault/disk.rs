//! A volume that hangs, or that is full.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::Api;

use crate::csi::freeze;
use crate::lab::{Lab, command};

/// What `fill` leaves in the volume, for `unfill` to remove.
const BALLAST: &str = ".lab-ballast";

/// In one piece as far as it goes, then in ever smaller ones: what is free is never in one place.
const FILL: &str = r#"
for size in 1073741824 134217728 16777216 1048576 65536 4096; do
    while fallocate --offset "$(stat -c %s "$1" 2>/dev/null || echo 0)" --length $size "$1" 2>/dev/null; do :; done
done"#;

/// A volume that is mounted for a pod.
#[derive(Clone, Debug)]
pub struct Disk {
    mount: PathBuf,
}

impl Disk {
    /// The volume of this claim, which a running pod must use.
    pub async fn find(lab: &Lab, namespace: &str, claim: &str) -> Result<Self> {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(lab.client().await?, namespace);
        let found =
            claims.get(claim).await.with_context(|| format!("cannot read the claim {namespace}/{claim}"))?;
        let volume = found.spec.and_then(|spec| spec.volume_name);
        let volume = volume.with_context(|| format!("the claim {namespace}/{claim} has no volume yet"))?;
        let mount = lab.nodes().iter().find_map(|node| mount_of(&node.kubelet_dir(), &volume));
        let mount = mount.with_context(|| format!("no pod uses the claim {namespace}/{claim}"))?;
        Ok(Self { mount })
    }

    /// Where it is mounted on this machine.
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// Lets every write to it wait, for `limit` at most. Who waits cannot even be killed.
    pub async fn freeze(&self, limit: Duration) -> Result<()> {
        freeze::freeze(&self.file()?, &self.mount, limit).await.map_err(Into::into)
    }

    /// Lets the writes go on.
    pub async fn thaw(&self) -> Result<()> {
        freeze::thaw(&self.file()?, &self.mount).await.map_err(Into::into)
    }

    /// Leaves no room in it.
    pub async fn fill(&self) -> Result<()> {
        let ballast = self.mount.join(BALLAST);
        command::run("sh", &["-c", FILL, "fill", &ballast.to_string_lossy()]).await?;
        let space = rustix::fs::statvfs(&self.mount).context("cannot ask for the space left")?;
        if space.f_bavail > 0 && space.f_bavail * space.f_frsize > 1 << 20 {
            bail!("{} still has {} bytes free", self.mount.display(), space.f_bavail * space.f_frsize);
        }
        Ok(())
    }

    /// Gives the room back.
    pub async fn unfill(&self) -> Result<()> {
        command::run("rm", &["-f", &self.mount.join(BALLAST).to_string_lossy()]).await.map(drop)
    }

    /// The file that is the disk: what the loop device under the mount reads and writes.
    fn file(&self) -> Result<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the mounts")?;
        let device = device_of(&mounts, &self.mount)
            .with_context(|| format!("{} is not mounted", self.mount.display()))?;
        let backing = format!("/sys/block/{device}/loop/backing_file");
        let file = fs::read_to_string(&backing).with_context(|| format!("cannot read {backing}"))?;
        Ok(PathBuf::from(file.trim()))
    }
}

fn mount_of(kubelet: &Path, volume: &str) -> Option<PathBuf> {
    let pods = fs::read_dir(kubelet.join("pods")).ok()?.flatten();
    pods.map(|pod| pod.path().join("volumes/kubernetes.io~csi").join(volume).join("mount"))
        .find(|mount| mount.is_dir())
}

fn device_of(mounts: &str, mount: &Path) -> Option<String> {
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (device, path) = (words.next()?, words.next()?);
        (Path::new(path) == mount).then(|| device.trim_start_matches("/dev/").to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_is_that_of_the_mount_itself() {
        let mounts = "/dev/loop1 /a/b xfs rw 0 0\n/dev/loop2 /a xfs rw 0 0\n";
        assert_eq!(device_of(mounts, Path::new("/a")).unwrap(), "loop2");
        assert_eq!(device_of(mounts, Path::new("/a/c")), None);
    }
}
