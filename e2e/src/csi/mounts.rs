//! What is mounted where, and which loop device shows which file: read from the kernel each time, since a
//! crashed driver's memory of it would be worth nothing.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// One line of the kernel's mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub point: PathBuf,
    /// What is mounted: a device for a disk.
    pub source: String,
}

/// All mounts that this process sees, oldest first.
pub fn all() -> io::Result<Vec<Mount>> {
    Ok(parse(&fs::read_to_string("/proc/self/mountinfo")?))
}

/// The mount whose point is exactly `point`: the topmost, if several lie on each other.
pub fn at(point: &Path) -> io::Result<Option<Mount>> {
    Ok(all()?.into_iter().rev().find(|m| m.point == point))
}

/// The mounts of the disk file `disk`, oldest first: the first is where it is staged.
pub fn of_disk(disk: &Path) -> io::Result<Vec<Mount>> {
    let devices: Vec<String> =
        loop_devices()?.into_iter().filter(|d| d.file == disk).map(|d| d.device).collect();
    Ok(all()?.into_iter().filter(|m| devices.contains(&m.source)).collect())
}

/// A loop device in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoopDevice {
    /// Such as `/dev/loop3`.
    pub device: String,
    /// The file that it shows.
    pub file: PathBuf,
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

fn parse(table: &str) -> Vec<Mount> {
    table.lines().filter_map(parse_line).collect()
}

/// `36 35 98:0 /root /point options optional... - type source options`
fn parse_line(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let point = left.split(' ').nth(4)?;
    let source = right.split(' ').nth(1)?;
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
    fn the_mount_table_is_read() {
        let table = "29 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
                     42 29 7:0 / /a\\040b/m rw shared:7 master:1 - xfs /dev/loop0 rw,nouuid\n\
                     nonsense\n";
        let mounts = parse(table);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[1], Mount { point: "/a b/m".into(), source: "/dev/loop0".into() });
    }
}
