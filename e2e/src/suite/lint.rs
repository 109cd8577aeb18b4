//! What can be said of the code without running it.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use tokio::process::Command;

use super::{Run, step};
use crate::cargo::{cargo, workspace};
use crate::lab::cache;

/// Reads every file once.
const QUICK: Duration = Duration::from_mins(3);
/// Checks every dependency on a clean machine.
const COMPILES: Duration = Duration::from_mins(20);
/// The version is pinned: a new one may refuse what the last one let pass.
const DENY: &str = "0.20.2";
/// What cargo-deny says where the database of advisories cannot be had.
const UNREACHABLE: &[&str] =
    &["failed to fetch advisory database", "failed to clone", "failed to open advisory"];

impl Run {
    pub(super) async fn lint(&mut self) -> Result<()> {
        let mut format = cargo();
        format.args(["fmt", "--all", "--check"]);
        self.check("formatting", format, QUICK).await?;

        let mut lints = cargo();
        lints.args(["clippy", "--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"]);
        self.check("lints", lints, COMPILES).await?;

        self.dependencies().await?;

        let mut generated = cargo();
        generated.args([
            "run",
            "--quiet",
            "--locked",
            "--package=proto",
            "--example=crdgen",
            "--",
            "--check",
        ]);
        self.check("generated files are current", generated, COMPILES).await?;

        let mut documentation = cargo();
        documentation
            .args(["doc", "--workspace", "--no-deps", "--locked"])
            .env("RUSTDOCFLAGS", "--deny warnings");
        self.check("documentation", documentation, COMPILES).await.map(drop)
    }

    async fn dependencies(&mut self) -> Result<()> {
        let program = cache::root()?.join(format!("cargo-deny-{DENY}"));
        if !program.join("bin/cargo-deny").exists() {
            let mut install = cargo();
            install.args(["install", "cargo-deny", "--locked", "--version", DENY, "--root"]).arg(&program);
            if !step::run("cargo-deny is installed", install, COMPILES, |_| {}).await?.is_success() {
                self.failed("cargo-deny cannot be installed");
                return Ok(());
            }
        }
        let deny = deny(&program, &["bans", "licenses", "sources"]);
        self.check("dependencies", deny, QUICK).await?;
        self.advisories(&program).await
    }

    /// The database is a git repository, which not every machine may reach.
    async fn advisories(&mut self, program: &Path) -> Result<()> {
        let mut unreachable = false;
        let end = step::run("advisories", deny(program, &["advisories"]), QUICK, |line| {
            unreachable |= UNREACHABLE.iter().any(|text| line.contains(text));
        });
        let end = end.await?;
        match (end.is_success(), unreachable) {
            (true, _) => self.tally.passed += 1,
            (false, true) => {
                self.skipped("advisories: their database cannot be reached from here".to_owned());
            }
            (false, false) => self.failed(&format!("advisories: {end}")),
        }
        Ok(())
    }
}

fn deny(program: &Path, checks: &[&str]) -> Command {
    let mut command = Command::new(program.join("bin/cargo-deny"));
    command.args(["--locked", "check"]).args(checks).current_dir(workspace());
    command
}
