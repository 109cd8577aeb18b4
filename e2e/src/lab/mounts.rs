//! What is mounted where and which loop device shows which file: read from the kernel each time, since what a crashed
//! process remembered of it would be worth nothing. The lab's are those whose path or file is in its folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{command, paths};
use crate::csi::freeze::{self, FreezeError};

/// How long a loop device may stay after its last mount: the kernel frees it a moment later.
const DETACH_LIMIT: Duration = Duration::from_secs(10);
const DETACH_POLL: Duration = Duration::from_millis(50);

/// One line of the kernel's mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub point: PathBuf,
    /// What is mounted: a device for a disk.
    pub source: String,
}

/// A loop device in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoopDevice {
    /// Such as `/dev/loop3`.
    pub device: String,
    /// The file that it shows.
    pub file: PathBuf,
}

/// All mounts that this process sees, oldest first.
pub fn all() -> io::Result<Vec<Mount>> {
    Ok(parse(&fs::read_to_string("/proc/self/mountinfo")?))
}

/// The mount whose point is exactly `point`: the topmost, if several lie on each other.
pub fn at(point: &Path) -> io::Result<Option<Mount>> {
    Ok(all()?.into_iter().rev().find(|mount| mount.point == point))
}

/// The mounts of the disk file `disk`, oldest first.
pub fn of_disk(disk: &Path) -> io::Result<Vec<Mount>> {
    let devices: Vec<String> =
        loop_devices()?.into_iter().filter(|l| l.file == disk).map(|l| l.device).collect();
    Ok(all()?.into_iter().filter(|mount| devices.contains(&mount.source)).collect())
}

/// All loop devices that show a file.
pub fn loop_devices() -> io::Result<Vec<LoopDevice>> {
    let mut devices = Vec::new();
    for entry in fs::read_dir("/sys/block")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        // A free device has no such file, and one may be freed while we look.
        if let Ok(file) = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")) {
            let file = file.trim_end_matches('\n').trim_end_matches(" (deleted)");
            devices.push(LoopDevice { device: format!("/dev/{name}"), file: file.into() });
        }
    }
    Ok(devices)
}

/// Makes the lab's folder a mount of its own that passes mounts on, as kubelet and CSI drivers need it, so
/// that the host's own file systems can stay as they are.
pub(super) async fn share_root() -> Result<()> {
    if !under(Path::new(paths::ROOT))?.iter().any(|mount| mount.point == Path::new(paths::ROOT)) {
        command::run("mount", &["--bind", paths::ROOT, paths::ROOT]).await?;
    }
    command::run("mount", &["--make-rshared", paths::ROOT]).await.map(drop)
}

/// Unmounts everything in `folder`, the last mounted first.
pub async fn unmount_all(folder: &Path) -> Result<()> {
    for Mount { point, .. } in under(folder)?.into_iter().rev() {
        let path = point.to_string_lossy();
        if command::run("umount", &[&path]).await.is_err() && under(folder)?.iter().any(|m| m.point == point)
        {
            command::run("umount", &["--lazy", &path]).await?;
        }
    }
    Ok(())
}

/// Lets every frozen disk that is mounted in `folder` go on: its writers cannot even be killed before.
pub async fn unfreeze_all(folder: &Path) -> Result<()> {
    let devices = loop_devices().context("cannot list loop devices")?;
    for mount in under(folder)? {
        let Some(disk) = devices.iter().find(|l| l.device == mount.source) else { continue };
        match freeze::thaw(&disk.file, &mount.point).await {
            Ok(()) | Err(FreezeError::NotFrozen(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Detaches every loop device whose file is in `folder`, and waits until it is free.
pub async fn detach_loops(folder: &Path) -> Result<()> {
    let ours = || -> Result<Vec<LoopDevice>> {
        let devices = loop_devices().context("cannot list loop devices")?;
        Ok(devices.into_iter().filter(|l| l.file.starts_with(folder)).collect())
    };
    for LoopDevice { device, .. } in ours()? {
        // Most go by themselves with their last mount, perhaps at this very moment.
        let _ = command::run("losetup", &["--detach", &device]).await;
    }
    let mut waited = Duration::ZERO;
    while let Some(LoopDevice { device, file }) = ours()?.into_iter().next() {
        if waited >= DETACH_LIMIT {
            bail!("{device} ({}) stays in use: end the processes that have files open on it", file.display());
        }
        tokio::time::sleep(DETACH_POLL).await;
        waited += DETACH_POLL;
    }
    Ok(())
}

/// The mounts at or below `folder`, in the order in which they were made.
pub fn under(folder: &Path) -> Result<Vec<Mount>> {
    let mounts = all().context("cannot read the mounts")?;
    Ok(mounts.into_iter().filter(|mount| mount.point.starts_with(folder)).collect())
}

fn parse(mountinfo: &str) -> Vec<Mount> {
    mountinfo.lines().filter_map(parse_line).collect()
}

/// `36 35 98:0 /root /point options optional... - kind source options`
fn parse_line(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let point = before.split(' ').nth(4)?;
    let source = after.split(' ').nth(1)?;
    Some(Mount { point: unescape(point).into(), source: unescape(source) })
}

/// The kernel writes blanks and backslashes as three octal digits.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, letter)| text.replace(code, letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn point_and_source_are_found_behind_optional_fields() {
        let table = "29 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
                     36 35 98:0 /mnt1 /mnt/a\\040b rw,noatime shared:1 master:2 - xfs /dev/loop0 rw\n\
                     nonsense\n";
        let mounts = parse(table);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[1], Mount { point: "/mnt/a b".into(), source: "/dev/loop0".into() });
    }
}
