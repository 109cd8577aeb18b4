//! The lowest layer of the PostgreSQL images: a small Debian with the libraries that the server needs.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::Command;

use super::store::{Blob, Owner, Store};
use crate::lab::command::output;
use crate::lab::packages::{self, Package};

/// Part of the cache key: raise it when what this file does changes.
const RECIPE: u32 = 2;
pub(super) const SUITE: &str = "bookworm";
/// What the PostgreSQL programs are linked to beyond Debian's minimum.
const LIBRARIES: &str = "libssl3,libgssapi-krb5-2,libxml2,libreadline8,libicu72";
/// What builds it.
pub(super) const PACKAGES: &[Package] = &[Package { name: "debootstrap", provides: "debootstrap" }];
/// debootstrap takes half a minute; the rest is room for a slow mirror.
pub(super) const DEBOOTSTRAP_LIMIT: Duration = Duration::from_mins(10);
/// The user of the official image.
const POSTGRES: u32 = 999;
/// Not needed to run programs; the last three would also copy this machine's name and resolver.
const REMOVED: &[&str] = &[
    "boot",
    "dev",
    "usr/share/doc",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
    "var/cache",
    "var/lib/apt",
    "var/log",
    "etc/hostname",
    "etc/machine-id",
    "etc/resolv.conf",
];

/// The base layer, from the cache or from Debian's mirror.
pub(super) async fn layer(store: &Store) -> Result<Blob> {
    let key = format!("base {RECIPE} {SUITE} {LIBRARIES}");
    store.layer(&key, Owner::Kept, fill).await.context("cannot build the base layer of the PostgreSQL images")
}

async fn fill(files: &Path) -> Result<()> {
    packages::ensure(PACKAGES).await?;
    let mut command = Command::new("debootstrap");
    command.args(["--variant=minbase", &format!("--include={LIBRARIES}"), SUITE]).arg(files);
    output(command, DEBOOTSTRAP_LIMIT).await?;
    for name in REMOVED {
        remove(&files.join(name))?;
    }
    add_user(files)?;
    for (name, mode) in [("dev", 0o755), ("var/cache", 0o755), ("var/log", 0o755)] {
        directory(&files.join(name), mode, 0)?;
    }
    // As in the official image: usable by whichever user a pod runs as. `var/run` is an absolute link to `/run`, which
    // would be this machine's here.
    for (name, mode) in [("var/lib/postgresql", 0o1777), ("run/postgresql", 0o3777)] {
        directory(&files.join(name), mode, POSTGRES)?;
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    }
    .with_context(|| format!("cannot remove {}", path.display()))
}

fn add_user(files: &Path) -> Result<()> {
    let passwd = format!("postgres:x:{POSTGRES}:{POSTGRES}::/var/lib/postgresql:/bin/bash\n");
    for (name, line) in [("etc/passwd", passwd), ("etc/group", format!("postgres:x:{POSTGRES}:\n"))] {
        let path = files.join(name);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        fs::write(&path, text + &line).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn directory(path: &Path, mode: u32, owner: u32) -> Result<()> {
    fs::create_dir_all(path)
        .and_then(|()| chown(path, Some(owner), Some(owner)))
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .with_context(|| format!("cannot make {}: the lab runs as root", path.display()))
}
