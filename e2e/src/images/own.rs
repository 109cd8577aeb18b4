//! The images of the project's own programs: static binaries, as their Dockerfiles say.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::process::Command;

use super::dockerfile;
use super::oci::{Image, Start};
use super::store::{Owner, Store, digest_of};
use crate::cargo::{cargo, workspace};
use crate::lab::command::{LIMIT, output};
use crate::lab::packages::{self, Package};
use crate::lab::progress;

/// The name that pods give the agent's image.
pub const AGENT: &str = "docker.io/matriarch/agent:dev";
/// The name that pods give the operator's image.
pub const OPERATOR: &str = "docker.io/matriarch/operator:dev";

/// The name that pods give the image of the tests' S3 server.
pub const S3_SERVER: &str = "docker.io/matriarch/s3-server:dev";

const TARGET: &str = "x86_64-unknown-linux-musl";
/// The C compiler for ring, which is part assembly and part C.
const PACKAGES: &[Package] = &[Package { name: "musl-tools", provides: "musl-gcc" }];
/// 350 crates, optimised and linked as one, on two cores that may be busy: about ten minutes.
const BUILD_LIMIT: Duration = Duration::from_mins(45);

/// The standard library for [`TARGET`] is some 30 MB, from a server that may be slow.
const TARGET_LIMIT: Duration = Duration::from_mins(10);

/// A program of the project that has an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// Runs in every database pod.
    Agent,
    /// Runs once for the cluster.
    Operator,
    /// Where the tests put backups.
    S3Server,
}

impl Program {
    /// The whole name of its image.
    pub fn reference(self) -> &'static str {
        match self {
            Self::Agent => AGENT,
            Self::Operator => OPERATOR,
            Self::S3Server => S3_SERVER,
        }
    }

    fn package(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Operator => "operator",
            Self::S3Server => "s3-server",
        }
    }

    fn dockerfile(self) -> PathBuf {
        match self {
            Self::Agent => workspace().join("Dockerfile.agent"),
            Self::Operator => workspace().join("Dockerfile.operator"),
            Self::S3Server => workspace().join("e2e/s3-server/Dockerfile"),
        }
    }
}

/// Compiles `program`, which costs nothing where nothing has changed, and makes its image.
pub async fn image(store: &Store, program: Program) -> Result<Image> {
    assemble(store, program, &compile(program).await?).await
}

/// Each package by itself: compiled together, one would get the features that another asks for, and its
/// program would depend on what else is built.
async fn compile(program: Program) -> Result<PathBuf> {
    packages::ensure(PACKAGES).await?;
    ensure_target().await?;
    let package = program.package();
    let mut command = cargo();
    command.args(["build", "--locked", "--profile=dist", "--target", TARGET, "--package", package]);
    command.arg("--message-format=json-render-diagnostics");
    // Without the paths of this machine, the same sources give the same program on another one.
    command.env("RUSTFLAGS", format!("--remap-path-prefix={}=/cargo", cargo_home()?.display()));
    let what = format!("compiling {package} as it ships");
    let messages = progress::of(&what, output(command, BUILD_LIMIT)).await?;
    let program = messages.lines().find_map(|line| executable(line, package));
    program.with_context(|| format!("cargo built no program {package}"))
}

/// `rust-toolchain.toml` asks for it, but rustup installs what that names only where it may do so by itself.
async fn ensure_target() -> Result<()> {
    let mut ask = Command::new("rustc");
    ask.args(["--print", "target-libdir", "--target", TARGET]).current_dir(workspace());
    if Path::new(output(ask, LIMIT).await?.trim()).exists() {
        return Ok(());
    }
    let mut add = Command::new("rustup");
    add.args(["target", "add", TARGET]).current_dir(workspace());
    let label = format!("installing Rust's library for {TARGET}");
    let added = progress::of(&label, output(add, TARGET_LIMIT)).await;
    added.map(drop).with_context(|| format!("Rust has no library for {TARGET}: install it"))
}

fn cargo_home() -> Result<PathBuf> {
    match std::env::var_os("CARGO_HOME") {
        Some(home) => Ok(home.into()),
        None => Ok(std::env::home_dir().context("no HOME: set CARGO_HOME")?.join(".cargo")),
    }
}

/// The path of the program out of one of cargo's messages.
fn executable(message: &str, name: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let path = PathBuf::from(message["executable"].as_str()?);
    (message["target"]["name"] == name).then_some(path)
}

async fn assemble(store: &Store, program: Program, binary: &Path) -> Result<Image> {
    let source = program.dockerfile();
    let text = fs::read_to_string(&source).with_context(|| format!("cannot read {}", source.display()))?;
    let said = dockerfile::parse(&text).with_context(|| format!("cannot use {}", source.display()))?;
    let folder = binary.parent().context("a program has no folder")?;
    let mut key = vec!["program".to_owned()];
    for (from, to) in &said.copies {
        key.push(format!("{to} {}", digest_of(&mut fs::File::open(folder.join(from))?)?));
    }
    let fill = async |files: &Path| copy(&said.copies, folder, files);
    let layer = store.layer(&key.join(" "), Owner::Root, fill).await?;
    let start = Start { user: said.user.clone(), entrypoint: said.entrypoint.clone(), ..Start::default() };
    Image::assemble(store, program.reference(), vec![layer], &start)
}

fn copy(copies: &[(String, String)], folder: &Path, files: &Path) -> Result<()> {
    fs::set_permissions(files, fs::Permissions::from_mode(0o755))?;
    for (from, to) in copies {
        let to = files.join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap_or(files))?;
        fs::copy(folder.join(from), &to).with_context(|| format!("cannot copy {from} into the image"))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dockerfiles_are_understood() {
        for program in [Program::Agent, Program::Operator, Program::S3Server] {
            let text = fs::read_to_string(program.dockerfile()).unwrap();
            let file = dockerfile::parse(&text).unwrap();
            assert_eq!(file.copies[0].0, program.package());
            assert_eq!(file.user, "65532:65532", "{}", program.dockerfile().display());
        }
    }

    #[test]
    fn programs_are_found_in_what_cargo_says() {
        let line = r#"{"reason":"compiler-artifact","target":{"name":"agent"},"executable":"/t/agent"}"#;
        assert_eq!(executable(line, "agent"), Some(PathBuf::from("/t/agent")));
        assert_eq!(executable(line, "operator"), None);
        let library = r#"{"reason":"compiler-artifact","target":{"name":"proto"},"executable":null}"#;
        assert_eq!(executable(library, "proto"), None);
    }
}
