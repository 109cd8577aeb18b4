//! A small image with a shell and the usual programs, for tests of storage, network and faults.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::Command;

use super::oci::{Image, Start};
use super::store::{Owner, Store};
use crate::lab::command::output;

/// The name that pods use.
pub const REFERENCE: &str = "docker.io/matriarch/tools:dev";

/// Part of the cache key: raise it when what this file does changes.
const RECIPE: u32 = 1;
/// A package of 1 MB.
const DOWNLOAD_LIMIT: Duration = Duration::from_mins(3);

/// busybox, statically linked, with all its programs in `/bin`.
pub async fn image(store: &Store) -> Result<Image> {
    let layer = store
        .layer(&format!("tools {RECIPE}"), Owner::Root, fill)
        .await
        .context("cannot build the image of test tools")?;
    let start = Start {
        env: vec!["PATH=/bin".to_owned()],
        command: vec!["sleep".to_owned(), "2147483647".to_owned()],
        ..Start::default()
    };
    Image::assemble(store, REFERENCE, vec![layer], &start)
}

async fn fill(files: &Path) -> Result<()> {
    let scratch = files.with_file_name("package");
    fs::create_dir(&scratch)?;
    let mut download = Command::new("apt-get");
    // Debian's sandbox user cannot write to a directory of root's.
    download
        .args(["--option", "APT::Sandbox::User=root", "download", "busybox-static"])
        .current_dir(&scratch);
    output(download, DOWNLOAD_LIMIT).await?;
    let package = fs::read_dir(&scratch)?.next().context("apt-get downloaded nothing")??.path();
    let unpacked = files.with_file_name("unpacked");
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("--extract").arg(package).arg(&unpacked);
    output(unpack, DOWNLOAD_LIMIT).await?;
    for folder in ["bin", "etc", "tmp"] {
        fs::create_dir(files.join(folder))?;
    }
    fs::set_permissions(files.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::write(files.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")?;
    let busybox = files.join("bin/busybox");
    fs::copy(unpacked.join("bin/busybox"), &busybox).context("the package has no bin/busybox")?;
    let mut list = Command::new(&busybox);
    list.arg("--list");
    for name in output(list, DOWNLOAD_LIMIT).await?.lines() {
        if name != "busybox" {
            symlink("busybox", files.join("bin").join(name))?;
        }
    }
    Ok(())
}
