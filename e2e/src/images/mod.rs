//! The images that pods of the lab run, built and imported without a registry.
//!
//! Everything is built once into a cache outside the checkout and keyed by its content: an unchanged
//! tree costs nothing. Images carry the names under which the world knows them, so that a manifest that
//! works here works elsewhere.

mod base;
mod containerd;
mod dockerfile;
pub mod oci;
pub mod own;
pub mod postgres;
mod process;
pub mod store;
pub mod tools;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result};

use self::oci::Image;
use self::own::Program;
use self::postgres::Release;
use self::store::Store;

/// An image that can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// A program of this project, compiled from the checkout.
    Own(Program),
    /// A PostgreSQL server, named as the official image is.
    Postgres(Release),
    /// A shell and the usual small programs.
    Tools,
}

impl Name {
    /// The whole name that pods use.
    pub fn reference(self) -> String {
        match self {
            Self::Own(program) => program.reference().to_owned(),
            Self::Postgres(release) => release.reference(),
            Self::Tools => tools::REFERENCE.to_owned(),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.reference())
    }
}

impl FromStr for Name {
    type Err = anyhow::Error;

    /// `agent`, `operator`, `tools`, or a PostgreSQL version such as `16.13` or `16`.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "agent" => Ok(Self::Own(Program::Agent)),
            "operator" => Ok(Self::Own(Program::Operator)),
            "tools" => Ok(Self::Tools),
            version => version.parse().map(Self::Postgres),
        }
    }
}

/// Builds what the cache does not hold of `names`, and imports what is missing into every containerd
/// that listens on one of `sockets`.
pub async fn ensure(sockets: &[impl AsRef<Path>], names: &[Name]) -> Result<()> {
    let store = Store::open(&cache()?)?;
    let images = build(&store, names).await?;
    containerd::ensure(&store, sockets, &images).await
}

/// The images in the store, built where they are not there yet.
pub async fn build(store: &Store, names: &[Name]) -> Result<Vec<Image>> {
    let own =
        names.iter().filter_map(|name| if let Name::Own(program) = name { Some(*program) } else { None });
    let mut images = own::images(store, &own.collect::<Vec<_>>()).await?;
    for name in names {
        match name {
            Name::Own(_) => {}
            Name::Postgres(release) => images.push(postgres::image(store, *release).await?),
            Name::Tools => images.push(tools::image(store).await?),
        }
    }
    Ok(images)
}

/// Where images are kept between runs.
pub fn cache() -> Result<PathBuf> {
    let root = match std::env::var_os("MATRIARCH_CACHE") {
        Some(root) => PathBuf::from(root),
        None => std::env::home_dir().context("no HOME: set MATRIARCH_CACHE")?.join(".cache/matriarch"),
    };
    Ok(root.join("images"))
}
