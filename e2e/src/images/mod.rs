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
pub mod pgbackrest;
pub mod postgres;
pub mod store;
pub mod tools;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Result;

use self::oci::Image;
use self::own::Program;
use self::postgres::Release;
use self::store::Store;
use crate::lab::{Lab, Node, cache};

/// An image that can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// A program of this project, compiled from the checkout.
    Own(Program),
    /// A PostgreSQL server, named as the official image is.
    Postgres(Release),
    /// The same with pgBackRest in it.
    PostgresWithPgBackRest(Release),
    /// A shell and the usual small programs.
    Tools,
}

impl Name {
    /// The whole name that pods use.
    pub fn reference(self) -> String {
        match self {
            Self::Own(program) => program.reference().to_owned(),
            Self::Postgres(release) => release.reference(),
            Self::PostgresWithPgBackRest(release) => pgbackrest::reference(release),
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

    /// `agent`, `operator`, `s3`, `tools`, or a PostgreSQL version such as `16.13` or `16`.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "agent" => Ok(Self::Own(Program::Agent)),
            "operator" => Ok(Self::Own(Program::Operator)),
            "s3" => Ok(Self::Own(Program::S3Server)),
            "tools" => Ok(Self::Tools),
            version => version.parse().map(Self::Postgres),
        }
    }
}

/// Makes all nodes of the lab have the images of these `names`: builds what is not in the cache and
/// imports what a node does not have, so it may be called before each test.
pub async fn ensure(lab: &Lab, names: &[Name]) -> Result<()> {
    let store = Store::open(&cache::root()?.join("images"))?;
    let images = build(&store, names).await?;
    containerd::ensure(&store, &sockets(lab), &images).await
}

/// The same with one image under another name, as a later release has one.
pub async fn ensure_as(lab: &Lab, name: Name, reference: &str) -> Result<()> {
    let store = Store::open(&cache::root()?.join("images"))?;
    let mut images = build(&store, &[name]).await?;
    for image in &mut images {
        reference.clone_into(&mut image.reference);
    }
    containerd::ensure(&store, &sockets(lab), &images).await
}

/// The programs of a PostgreSQL image below `folder`, for tests on this machine; returns where they are.
pub async fn unpack_postgres(release: Release, folder: &Path) -> Result<PathBuf> {
    let store = Store::open(&cache::root()?.join("images"))?;
    postgres::unpack(&store, release, folder).await
}

fn sockets(lab: &Lab) -> Vec<PathBuf> {
    lab.nodes().iter().map(Node::containerd_socket).collect()
}

/// The images in the store, built where they are not there yet.
pub async fn build(store: &Store, names: &[Name]) -> Result<Vec<Image>> {
    let mut images = Vec::new();
    for name in names {
        images.push(match name {
            Name::Own(program) => own::image(store, *program).await?,
            Name::Postgres(release) => postgres::image(store, *release).await?,
            Name::PostgresWithPgBackRest(release) => pgbackrest::image(store, *release).await?,
            Name::Tools => tools::image(store).await?,
        });
    }
    Ok(images)
}
