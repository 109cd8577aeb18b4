//! The mounts and loop devices of the lab: those whose path or file is in its folder.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{command, paths};

/// Makes the lab's folder a mount of its own that passes mounts on, as kubelet and CSI drivers need it, so
/// that the host's own file systems can stay as they are.
pub(super) async fn share_root() -> Result<()> {
    if !under(Path::new(paths::ROOT))?.iter().any(|mount| mount == Path::new(paths::ROOT)) {
        command::run("mount", &["--bind", paths::ROOT, paths::ROOT]).await?;
    }
    command::run("mount", &["--make-rshared", paths::ROOT]).await.map(drop)
}

/// Unmounts everything in `folder`, the last mounted first.
pub(crate) async fn unmount_all(folder: &Path) -> Result<()> {
    for mount in under(folder)?.into_iter().rev() {
        let path = mount.to_string_lossy();
        // A file system that a fault has frozen would neither unmount nor let its writers end.
        let _ = command::run("fsfreeze", &["--unfreeze", &path]).await;
        if command::run("umount", &[&path]).await.is_err() && under(folder)?.contains(&mount) {
            command::run("umount", &["--lazy", &path]).await?;
        }
    }
    Ok(())
}

/// Lets every frozen file system in `folder` go on: their writers cannot even be killed before.
pub(crate) async fn unfreeze_all(folder: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    for (mount, kind) in parse(&mounts).into_iter().filter(|(mount, _)| mount.starts_with(folder)) {
        if kind == "xfs" || kind == "ext4" {
            let _ = command::run("fsfreeze", &["--unfreeze", &mount.to_string_lossy()]).await;
        }
    }
    Ok(())
}

/// Detaches every loop device whose file is in `folder`.
pub(super) async fn detach_loops(folder: &Path) -> Result<()> {
    for entry in fs::read_dir("/sys/block").context("cannot list block devices")?.flatten() {
        let backing = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        if Path::new(backing.trim()).starts_with(folder) {
            let device = Path::new("/dev").join(entry.file_name());
            command::run("losetup", &["--detach", &device.to_string_lossy()]).await?;
        }
    }
    Ok(())
}

/// The mounts at or below `folder`, in the order in which they were made.
pub(super) fn under(folder: &Path) -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    Ok(parse(&mounts).into_iter().map(|(mount, _)| mount).filter(|mount| mount.starts_with(folder)).collect())
}

/// The path and the kind of each mount.
fn parse(mountinfo: &str) -> Vec<(PathBuf, String)> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let path = before.split(' ').nth(4)?.replace("\\040", " ");
            Some((PathBuf::from(path), after.split(' ').next()?.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_and_kind_are_found_behind_optional_fields() {
        let line = "36 35 98:0 /mnt1 /mnt/a\\040b rw,noatime shared:1 master:2 - xfs /dev/loop0 rw\n";
        assert_eq!(parse(line), [(PathBuf::from("/mnt/a b"), "xfs".to_owned())]);
    }
}
