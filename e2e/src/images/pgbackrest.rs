//! A PostgreSQL image with pgBackRest and the program zstd in it, for comparisons.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::Command;

use super::base::{DEBOOTSTRAP_LIMIT, PACKAGES, SUITE};
use super::oci::Image;
use super::postgres::{self, Release};
use super::store::{Owner, Store};
use crate::lab::command::output;
use crate::lab::packages;

/// Part of the cache key: raise it when what this file does changes.
const RECIPE: u32 = 1;
/// Packages, each with its program. Their libraries are in the base layer already: `apt` and PostgreSQL need the same.
const PROGRAMS: &[(&str, &str)] = &[("pgbackrest", "usr/bin/pgbackrest"), ("zstd", "usr/bin/zstd")];
/// Unpacking a package of 1 MB.
const UNPACK_LIMIT: Duration = Duration::from_mins(1);

/// The name that pods use.
pub fn reference(release: Release) -> String {
    format!("docker.io/matriarch/postgres-pgbackrest:{release}")
}

/// The image, from the cache or built.
pub async fn image(store: &Store, release: Release) -> Result<Image> {
    let layer = store.layer(&format!("pgbackrest {RECIPE} {SUITE}"), Owner::Root, fill).await;
    let layer = layer.context("cannot build the layer of pgBackRest")?;
    postgres::image_with(store, release, &reference(release), Some(layer)).await
}

/// debootstrap, and not this machine's apt, since the packages must be those of the base layer's release.
async fn fill(files: &Path) -> Result<()> {
    packages::ensure(PACKAGES).await?;
    let scratch = files.with_file_name("packages");
    let names: Vec<&str> = PROGRAMS.iter().map(|(package, _)| *package).collect();
    let mut download = Command::new("debootstrap");
    download.args(["--download-only", "--variant=minbase", &format!("--include={}", names.join(","))]);
    download.arg(SUITE).arg(&scratch);
    output(download, DEBOOTSTRAP_LIMIT).await?;
    let bin = files.join("usr/bin");
    fs::create_dir_all(&bin)?;
    for folder in [files.to_path_buf(), files.join("usr"), bin] {
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
    }
    for (package, program) in PROGRAMS {
        let unpacked = files.with_file_name(format!("{package}-unpacked"));
        let mut unpack = Command::new("dpkg-deb");
        unpack.arg("--extract").arg(archive(&scratch, package)?).arg(&unpacked);
        output(unpack, UNPACK_LIMIT).await?;
        fs::copy(unpacked.join(program), files.join(program))
            .with_context(|| format!("the package {package} has no {program}"))?;
    }
    Ok(())
}

fn archive(scratch: &Path, package: &str) -> Result<PathBuf> {
    let folder = scratch.join("var/cache/apt/archives");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let start = format!("{package}_");
    let found =
        paths.find(|path| path.file_name().and_then(OsStr::to_str).is_some_and(|n| n.starts_with(&start)));
    found.with_context(|| format!("debootstrap downloaded no package {package}"))
}
